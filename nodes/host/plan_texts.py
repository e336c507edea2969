"""What a plan means for the pictures, in words: for the reports of Threshold Schedule and of the samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...hierdiff_core.plan.seeds import seed_groups

if TYPE_CHECKING:
    from ...hierdiff_core.plan.guidance import GuidanceCourse
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.plan.tree import PromptTree

NEXT_TO_NOTHING = 0.05  # of what can be saved at all
MOST_SEEDS = 8  # that a line names
SUITS_ANY_TREE = "mode saving with value 0.5 suits any tree"


def duplicates(plan: Plan) -> list[str]:
    """A line on prompts that equal another, if there are any."""
    equal = plan.num_prompts - plan.num_distinct
    if not equal:
        return []
    return [f"{equal} of {plan.num_prompts} prompts equal{'s' * (equal == 1)} another: sampled once, no saving counted"]


def seeds_in_words(plan: Plan | PromptTree) -> list[str]:
    """A line on prompts that have a seed of their own, if there are any."""
    groups, seeds = seed_groups(plan.seeds, plan.num_prompts)
    if plan.seeds is None:
        return []
    counts = np.bincount(groups).tolist()
    named = [f"{'no seed of their own' if seed is None else seed}: {n}" for seed, n in zip(seeds, counts, strict=True)]
    more = f", and {len(named) - MOST_SEEDS} more" if len(named) > MOST_SEEDS else ""
    what = f"{len(seeds)} seeds, a tree each" if len(seeds) > 1 else "1 seed"
    return [f"{what}; prompts of different seeds share nothing ({', '.join(named[:MOST_SEEDS])}{more})"]


def tau_in_words(plan: Plan) -> str:
    """The value of tau, and what it is of this tree."""
    root = plan.tree.root_height if plan.tree is not None else 0.0
    if not root:
        return f"tau {plan.tau:.5g}"
    if plan.tau <= root:
        return f"tau {plan.tau:.5g} ({plan.tau / root:.1%} of the root height)"
    whole = int(np.count_nonzero(plan.clusters_per_step == 1))
    steps = "the first step" if whole == 1 else f"the first {whole} steps"
    return f"tau {plan.tau:.5g}, above the root ({root:.5g}): one cluster for {steps}"


def alike(plan: Plan) -> list[str]:
    """A warning where prompts part too late for pictures of their own."""
    if not plan.looks_alike:
        return []
    count = plan.num_different
    return [
        f"⚠ expect about {count} different picture{'s' * (count > 1)} from {plan.num_distinct} prompts: most separate "
        "too late to differ. Save less, or use more steps"
    ]


def unsuitable_tau(plan: Plan, greatest: float) -> list[str]:
    """A hint where a tau that was typed in does not fit this tree: it shares nearly everything, or nearly nothing.

    Parameters
    ----------
    plan : Plan
    greatest : float
        Share of the rows that can be saved.
    """
    if plan.looks_alike:
        return [f"⚠ tau {plan.tau:.5g} shares nearly everything in this tree: {SUITS_ANY_TREE}"]
    if plan.tau and greatest and plan.saved < NEXT_TO_NOTHING * greatest:
        heights = plan.tree.heights if plan.tree is not None else np.zeros(1)
        lowest, root = heights[0], heights[-1]
        return [
            f"⚠ tau {plan.tau:.5g} shares next to nothing in this tree (lowest merge {lowest:.4g}, root {root:.4g}): "
            f"{SUITS_ANY_TREE}"
        ]
    return []


def passes_line(passes: int, standard: int) -> str:
    """What guidance and sharing together cost: evaluations of one row, conditional and unconditional."""
    return f"passes: {passes} instead of {standard}, {1 - passes / max(standard, 1):.1%} saved"


def shared_line(spared: int) -> list[str]:
    """A line on unconditional passes that were not made, since children of a cluster took one where they parted."""
    if not spared:
        return []
    return [f"{spared} unconditional pass{'es' * (spared != 1)} fewer: prompts that part in a step share it there"]


def course_lines(course: GuidanceCourse, num_steps: int) -> list[str]:
    """Lines on where a run is guided, and how much more after a split."""
    steps = np.flatnonzero(course.inside(num_steps)) + 1
    lines = []
    if not len(steps):
        lines.append("guidance in no step")
    elif len(steps) < num_steps:
        lines.append(f"guidance in steps {steps[0]} to {steps[-1]} of {num_steps}")
    if course.boosts:
        above = f", above noise level {course.boost_above:g}" if course.boost_above else ""
        lines.append(
            f"guidance × {course.boost:g} for {course.boost_steps} step{'s' * (course.boost_steps > 1)} after each "
            f"split{above}"
        )
    return lines
