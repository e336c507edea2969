"""Variants: prompts again and again, with other noise from a step on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..hierdiff_core.prompts.rows import as_rows, with_variants
from . import types
from .host.search import search_words
from .host.ui import numbered, show
from .pick import numbers_of

if TYPE_CHECKING:
    from ..hierdiff_core.prompts.rows import PromptRow

MOST_VARIANTS = 100
MOST_PROMPTS = 10_000


class Variants(io.ComfyNode):
    """The node of `prompts.rows.with_variants`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffVariants",
            display_name="Variants",
            category="HierDiff",
            **search_words("variations", "seed variation", "batch", "img2img", "similar images"),
            description="Several pictures of a prompt that share its steps up to a point, and differ after it. The "
            "prompt's own picture stays the same.",
            inputs=[
                types.Prompts.Input("prompts", tooltip="From Prompt Set or Prompt Table."),
                io.String.Input(
                    "which",
                    default="",
                    tooltip="Numbers of the prompts that get variants, such as 0, 3-5; the first is 0. Empty: all.",
                ),
                io.Int.Input(
                    "count", default=4, min=1, max=MOST_VARIANTS, tooltip="Variants of each, besides its own picture."
                ),
                io.Float.Input(
                    "part_at",
                    display_name="part at",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="Share of the steps that they have in common, and do not cost again. 0: other pictures of "
                    "the prompt, as with other seeds. With the bundled scene model variants differ slightly from 0.3 "
                    "on, and hardly at 0.9.",
                ),
            ],
            outputs=[
                types.Prompts.Output(
                    display_name="prompts", tooltip="The prompts, each followed by its variants, for embedding."
                ),
                io.Int.Output(display_name="count", tooltip="Number of prompts and variants."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, which: str | None = None) -> bool | str:
        """What can be said of the numbers before there are prompts."""
        try:
            numbers_of(which or "", None, "which")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, prompts: tuple[str, ...], which: str, count: int, part_at: float) -> io.NodeOutput:
        """The prompts, and the variants of those that are named."""
        chosen = numbers_of(which, len(prompts), "which") if which.strip() else range(len(prompts))
        rows = as_rows(prompts).rows
        own = sorted({i for i in chosen if rows[i].variant is None})
        if len(rows) + len(own) * count > MOST_PROMPTS:
            raise ValueError(
                f"{len(own)} prompts with {count} variants each are more than {MOST_PROMPTS} pictures; lower count, or "
                "name fewer prompts in which"
            )
        found = with_variants(prompts, own, count, part_at)
        said = [f"{len(found)} prompts, {len(found) - len(rows)} of them new variants that part after {part_at:.0%}"]
        said.append(numbered([described(row) for row in found.rows]))
        return io.NodeOutput(found, len(found), ui=show(cls, "\n".join(said), prompts=list(found)))


def described(row: PromptRow) -> str:
    """A prompt of the report, with its number among its variants."""
    return row.text if row.variant is None else f"{row.text} (variant {row.variant[0]}, {row.variant[1]:.0%})"
