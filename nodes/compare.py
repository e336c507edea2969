"""Unshared Prompt and Compare Pictures: what sharing changed in a picture of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..hierdiff_core.measure.difference import Difference, visible_difference
from ..hierdiff_core.plan.one_prompt import one_unshared
from . import types
from .host.search import search_words
from .host.ui import show

if TYPE_CHECKING:
    from ..hierdiff_core.plan.plan import Plan

PICTURES = "hierdiff_compare"  # in the node's output: what the page needs to show the two
IDENTICAL = "difference: none, the pictures are bit-identical"


class UnsharedPrompt(io.ComfyNode):
    """The node of `one_unshared`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffUnshared",
            display_name="Unshared Prompt",
            category="HierDiff",
            **search_words("compare", "full sampling", "single prompt", "without sharing"),
            description="Takes one prompt out of a plan, to be drawn alone: a sampler with this plan shares nothing "
            "and gives one latent, from the same noise. All its other inputs stay as they are.",
            inputs=[
                types.Plan.Input("plan", tooltip="From Threshold Schedule."),
                io.Int.Input(
                    "prompt",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Which prompt of the set. 0 is the first, as Prompt Set counts them.",
                ),
            ],
            outputs=[
                types.Plan.Output(
                    display_name="plan",
                    tooltip="For a second sampler, beside the one that draws the set. It takes the prompt's rows of "
                    "conditioning, latents and masks.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, plan: Plan, prompt: int) -> io.NodeOutput:
        """The plan of the prompt."""
        alone = one_unshared(plan, prompt)
        text = (alone.prompts or (f"prompt {prompt}",))[0]
        return io.NodeOutput(alone, ui=show(cls, f"{text}\n{alone.num_steps} unshared steps"))


class ComparePictures(io.ComfyNode):
    """The node of `visible_difference`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffCompare",
            display_name="Compare Pictures",
            category="HierDiff",
            **search_words("compare", "difference", "before after", "slider", "A/B"),
            description="Two pictures of one prompt, shared and unshared, below a slider; and how different they look.",
            is_output_node=True,
            inputs=[
                io.Image.Input("shared", tooltip="The picture of the set. Of several, the first is compared."),
                io.Image.Input("unshared", tooltip="The same prompt drawn alone, see Unshared Prompt."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The difference, in words and numbers.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, shared: torch.Tensor, unshared: torch.Tensor) -> io.NodeOutput:
        """Compare the first picture of each."""
        a, b = shared[:1, ..., :3], unshared[:1, ..., :3]
        if a.shape != b.shape:
            raise ValueError(
                f"the two pictures must be of one size; shared is {size(a)}, unshared {size(b)}: decode both in the "
                "same way"
            )
        found = visible_difference(a, b)
        report = IDENTICAL if torch.equal(a, b) else in_words(found)
        told = {"word": found.word, "mean": round(found.mean, 2), "share": round(found.share, 4)}
        ui = show(cls, report, torch.cat([a, b]), **{PICTURES: [told]})
        told["images"] = ui["images"]  # for pages that are loaded later
        return io.NodeOutput(report, ui=ui)


def size(pictures: torch.Tensor) -> str:
    """`512 x 768` of (B, H, W, 3)."""
    return f"{pictures.shape[2]} × {pictures.shape[1]}"


def in_words(found: Difference) -> str:
    """A difference, as a report."""
    return (
        f"difference: {found.word}\n{found.share:.1%} of the pixels visibly differ, by a mean colour difference of "
        f"{found.mean:.1f} (Delta E; below 2.3 nobody sees it, 100 is black and white)"
    )
