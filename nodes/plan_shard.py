"""Plan Shard: a balanced share of a plan's prompts, for one of several servers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from comfy_api.latest import io

from ..hierdiff_core.pictures.dendrogram import draw_dendrogram
from ..hierdiff_core.plan.in_set import numbers_in_set
from ..hierdiff_core.plan.keys import text_key
from ..hierdiff_core.plan.shards import MOST_SHARDS, rows_of_shards, shard_of
from ..hierdiff_core.prompts.rows import PromptRow, PromptRows, as_rows
from . import types
from .host.decoration import Decorations
from .host.search import search_words
from .pick import ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..hierdiff_core.plan.plan import Plan

LONGEST_NUMBERS = 300  # characters of the report's line


class PlanShard(io.ComfyNode):
    """The node of `plan.shards`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffPlanShard",
            display_name="Plan Shard",
            category="HierDiff",
            **search_words("multi gpu", "several servers", "distributed", "split", "cluster", "network"),
            description="One of several balanced shares of a set, so that several ComfyUI servers draw it together. "
            "The pictures are those of the whole set. The command hierdiff shard sets index and count by itself.",
            inputs=[
                types.Plan.Input("plan", tooltip="The plan of the whole set, from Threshold Schedule or the Advisor."),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=MOST_SHARDS,
                    tooltip="Which shard this is: 1 to count. 0: the whole plan.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=MOST_SHARDS,
                    tooltip="Number of shards. Each has about as many UNet rows as the others.",
                ),
                types.Prompts.Input(
                    "prompts",
                    optional=True,
                    tooltip="The prompts of the whole set, if they have captions or negatives of their own for the "
                    "nodes that save pictures.",
                ),
            ],
            outputs=[
                types.Plan.Output(
                    display_name="plan",
                    tooltip="Of the shard's prompts, for a sampler; it finds them in embeddings and conditioning of "
                    "the whole set.",
                ),
                types.Prompts.Output(
                    display_name="prompts",
                    tooltip="The shard's prompts, for the nodes that save pictures: files get the numbers that they "
                    "have in the whole set.",
                ),
                io.String.Output(
                    display_name="numbers", tooltip="Numbers of the prompts in the whole set, such as 0, 3-5."
                ),
                io.String.Output(display_name="report", tooltip="What the shard has, and what splitting costs."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, index: int | None = None, count: int | None = None) -> bool | str:
        """Whether there is such a shard."""
        return check_index(index, count)

    @classmethod
    def execute(cls, plan: Plan, index: int, count: int, prompts: Sequence[str] | None = None) -> io.NodeOutput:
        """The plan and the prompts of the shard."""
        found = check_index(index, count)
        if found is not True:
            raise ValueError(found)
        rows = rows_of_set(plan, prompts)
        shard = plan if index == 0 else shard_of(plan, index, count)
        numbers = numbers_in_set(shard) if shard is not plan else np.arange(plan.num_prompts)
        own = rows if shard is plan else PromptRows(numbered(rows, numbers))
        named = ranges(numbers.tolist())
        report = "\n".join(lines(plan, shard, index, count, named))
        decorations = Decorations()
        picture = decorations.picture("the dendrogram", drawn, shard, own)
        ui = decorations.show(cls, report, picture)
        return io.NodeOutput(shard, own, named, decorations.noted(report), ui=ui)


def check_index(index: int | None, count: int | None) -> bool | str:
    """True, or what is wrong; None for what comes through a link and is not known yet."""
    if index is not None and count is not None and index > count:
        return f"index must be at most count, which is {count}; got {index}"
    return True


def rows_of_set(plan: Plan, prompts: Sequence[str] | None) -> PromptRows:
    """The prompts of the whole set: those that are connected, else what the plan knows of them.

    Raises
    ------
    ValueError
        If those that are connected are not the plan's.
    """
    if prompts is not None:
        if len(prompts) != plan.num_prompts or plan.prompt_keys not in (None, tuple(map(text_key, prompts))):
            raise ValueError(
                f"the plan is of {prompts_in_words(plan.num_prompts)}, and prompts are {len(prompts)}"
                f"{' others' if len(prompts) == plan.num_prompts else ''}: connect those that the plan was made from, "
                "all of them and in the same order"
            )
        return as_rows(prompts)
    texts = plan.prompts or [f"prompt {i}" for i in range(plan.num_prompts)]
    seeds = plan.seeds or (None,) * plan.num_prompts
    return PromptRows(PromptRow(text, seed=seed) for text, seed in zip(texts, seeds, strict=True))


def numbered(rows: PromptRows, numbers: np.ndarray) -> list[PromptRow]:
    """Some prompts, with their numbers in the whole set."""
    return [replace(rows.rows[i], place=(i, len(rows))) for i in numbers.tolist()]


def lines(plan: Plan, shard: Plan, index: int, count: int, named: str) -> list[str]:
    """What the shard has, and what splitting the plan costs."""
    if shard is plan:
        return [f"the whole plan: {prompts_in_words(plan.num_prompts)}, {plan.nfe} UNet rows"]
    rows = rows_of_shards(plan, count)
    shown = named if len(named) <= LONGEST_NUMBERS else named[:LONGEST_NUMBERS] + " …"
    return [
        f"shard {index} of {count}: {shard.num_prompts} of {prompts_in_words(plan.num_prompts)}, {shard.nfe} UNet rows",
        f"numbers: {shown}",
        f"all shards: {sum(rows)} rows instead of {plan.nfe}, {sum(rows) / plan.nfe - 1:.1%} more, since each computes "
        "its trunk",
        f"the largest shard has {max(rows)} rows, {max(rows) * count / sum(rows):.2f} times the mean",
    ]


def prompts_in_words(count: int) -> str:
    """A number of prompts."""
    return f"{count} prompt{'s' * (count != 1)}"


def drawn(shard: Plan, prompts: PromptRows) -> object:
    """The dendrogram of the shard's prompts."""
    return draw_dendrogram(shard.Z, prompts, shard.tau, trees=len(shard.groups()[1]))
