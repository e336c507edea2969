"""HierDiff Set: model and prompts -> pictures, with one slider. The host runs it as the graph of web/set_parts.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from . import types
from .guider import MICRO_BATCH_TOOLTIP, cfg_input, keep_inputs
from .host.expansion import expanded
from .host.samplers_by_name import sampler_names, scheduler_names
from .host.search import search_words
from .prompts import PromptSet, wildcards_stamp
from .saving_plan import saved_files, saving_input

PARTS = json.loads((Path(__file__).parents[1] / "web" / "set_parts.json").read_text(encoding="utf-8"))
OUTPUTS = [("decoded", 0), ("prompts", 0), ("plan", 0), ("report", 0)]
KNOWN, FIRST = MEASURE = ["use what is known", "measure first"]


def size_input(name: str) -> Any:
    """Width or height."""
    return io.Int.Input(name, default=512, min=16, max=16384, step=8, tooltip=f"{name.title()} of each image.")


class Set(io.ComfyNode):
    """The common case in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffSet",
            display_name="HierDiff Set",
            category="HierDiff",
            **search_words("batch prompts", "prompt list", "multiple prompts", "one slider", "draw a set"),
            description="Draws a set of prompts with any model. One slider says how much to save.",
            enable_expand=True,
            inputs=[
                io.Model.Input("model", tooltip="Any model that ComfyUI loads, with its LoRAs and patches."),
                io.Clip.Input("clip", tooltip="The text encoder of the model."),
                io.Vae.Input("vae", tooltip="Decodes the images."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,  # the front end must not draw one alternative at random
                    default="",
                    placeholder="a red {apple|pear}, {photo|drawing}\n# one prompt per line; {a|b}: all combinations",
                    tooltip="One prompt per line, as in Prompt Set: alternatives in braces give all combinations.",
                ),
                io.String.Input(
                    "negative", multiline=True, default="", tooltip="What no image is to show; for all prompts."
                ),
                size_input("width"),
                size_input("height"),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Steps of full sampling. The plan may need fewer."
                ),
                cfg_input(),
                io.Combo.Input("sampler_name", options=sampler_names(), tooltip="Any sampler except dpm_adaptive."),
                io.Combo.Input("scheduler", options=scheduler_names(), tooltip="How sigmas fall over the steps."),
                types.seed_input("seed", tooltip="Seed of the noise that all prompts start from."),
                types.Prompts.Input("prompts", optional=True, tooltip="A set from another node, in place of the text."),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="One latent for all prompts, or one per prompt, in place of an empty one: for a second "
                    "pass, or img2img. Its size counts.",
                ),
                io.Combo.Input(
                    "measure",
                    options=MEASURE,
                    default=KNOWN,
                    optional=True,
                    tooltip="measure first: asks What Pays Here? before the first run with a model and its settings. "
                    "That takes as long as about a hundred images; the cost is shown first, the result is kept.",
                ),
                types.rarely_useful(
                    io.Float.Input(
                        "denoise",
                        default=1.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        optional=True,
                        tooltip="Rarely useful: below 1, part of latent_image is kept.",
                    )
                ),
                types.rarely_useful(
                    io.Int.Input(
                        "micro_batch",
                        default=0,
                        min=0,
                        max=4096,
                        optional=True,
                        tooltip=f"Rarely useful: {MICRO_BATCH_TOOLTIP}",
                    )
                ),
                saving_input(),
                *keep_inputs()[:2],
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="One image per prompt, in the order of the prompts."),
                types.Prompts.Output(display_name="prompts", tooltip="For Contact Sheet and Save Image Set."),
                types.Plan.Output(display_name="plan", tooltip="Which prompts shared which steps."),
                io.String.Output(display_name="report", tooltip="What was saved, and what is known of the loss."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, text: str | None) -> bool | str:
        """As Prompt Set does."""
        return PromptSet.validate_inputs(text=[text])

    @classmethod
    def fingerprint_inputs(cls, text: str | None = None, **inputs: Any) -> Any:
        """Other when advice has been saved or removed, or wildcard files have changed: the set may be another then."""
        return [saved_files(), wildcards_stamp([text])]

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        text: str,
        negative: str,
        width: int,
        height: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        prompts: tuple[str, ...] | None = None,
        latent_image: dict[str, Any] | None = None,
        measure: str = KNOWN,
        denoise: float = 1.0,
        micro_batch: int = 0,
        saving: float = 1.0,
        keep: bool = False,
        edits: str = "",
    ) -> io.NodeOutput:
        """Hand the inputs on to the nodes that do the work."""
        given = {name: value for name, value in locals().items() if name != "cls"}
        results, graph = expanded(PARTS, given, OUTPUTS)
        return io.NodeOutput(*results, expand=graph)
