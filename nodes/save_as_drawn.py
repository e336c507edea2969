"""Save Pictures as They Finish: how a sampler is to save its pictures while it draws others."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ..hierdiff_core.files.names import DEFAULT_CAPTION, DEFAULT_NAME, check_subfolder
from . import types
from .host.search import search_words
from .saving import Saving
from .set_inputs import caption_inputs, folder_inputs, names_hold


class SaveAsDrawn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffSaveAsDrawn",
            display_name="Save Pictures as They Finish",
            category="HierDiff",
            **search_words("save images", "save while sampling", "crash", "resume", "dataset"),
            description="Lets the sampler save each picture as soon as it is finished, while it draws others. Saves "
            "nothing twice, and overwrites nothing.",
            inputs=[
                types.Prompts.Input(
                    "prompts", tooltip="The prompts that the embeddings are made from, in the same order."
                ),
                *folder_inputs(),
                io.String.Input(
                    "name",
                    default=DEFAULT_NAME,
                    tooltip="Name of each file, with the fields of Save Image Set: {index:04d}, {prompt}, {seed}, "
                    "{count}. With {date} or {time} a picture of an earlier run is not found, and saved again.",
                ),
                *caption_inputs(),
            ],
            outputs=[
                types.Saving.Output(
                    display_name="saving", tooltip="For Branching Sampler, Hierarchical KSampler or Share Steps."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str, name: str, caption: str) -> bool | str:
        return names_hold([folder], [name], [caption])

    @classmethod
    def execute(
        cls,
        prompts: Sequence[str],
        folder: str,
        format: str,
        captions: str,
        name: str,
        caption: str = DEFAULT_CAPTION,
        strip_tags: bool = False,
        start: int = 0,
    ) -> io.NodeOutput:
        parts = tuple(check_subfolder(folder))
        return io.NodeOutput(Saving(prompts, parts, format, captions, name, caption, strip_tags, start))
