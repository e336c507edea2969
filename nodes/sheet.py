"""Contact Sheet: all pictures of a set, each with its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from PIL import Image

from ..hierdiff_core.pictures.contact_sheet import contact_sheet
from ..hierdiff_core.previews import to_pictures
from . import types
from .host.lists import batches, runs_of
from .host.search import search_words
from .host.ui import image_tensor, show

if TYPE_CHECKING:
    from PIL import Image


class ContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffContactSheet",
            display_name="Contact Sheet",
            category="HierDiff",
            **search_words("image grid", "grid", "labels"),
            description="One picture of the whole set, with the prompt below each image.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="One image per prompt, in the order of the prompts, as a batch or a list.",
                ),
                types.Prompts.Input("prompts", tooltip="From Prompt Set."),
                io.Int.Input("columns", default=0, min=0, max=1000, tooltip="Images per row. 0: automatic."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The contact sheet, for Save Image.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images: list[Any], prompts: list[tuple[str, ...]], columns: list[int]) -> io.NodeOutput:
        inputs = {"images": batches(images), "prompts": prompts, "columns": columns}
        sheets, lines = [], []
        for run in runs_of(inputs, len, ["images"]):
            pictures = (picture for batch in run["images"] for picture in to_pictures(batch))
            sheets.append(contact_sheet(pictures, run["prompts"], run["columns"]))
            count = len(run["prompts"])
            lines.append(f"{count} image{'s' * (count != 1)}")
        batch = torch.cat([image_tensor(sheet) for sheet in same_size(sheets)])
        return io.NodeOutput(batch, ui=show(cls, "\n".join(lines), batch))


def same_size(sheets: Sequence[Image.Image]) -> Iterator[Image.Image]:
    """Sheets on white as large as the largest, as a batch must be."""
    size = max(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)
    for sheet in sheets:
        whole = Image.new("RGB", size, "white")
        whole.paste(sheet)
        yield whole
