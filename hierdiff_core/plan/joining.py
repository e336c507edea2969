"""Plans side by side as one, and their trees with their histories.

Trees whose thresholds differ are joined by steps: a merge is as high as it is long together. Legend: K steps, G trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from .branching import cut_steps
from .frozen import FrozenTree
from .plan import Plan
from .replanning import frozen_tree
from .seeds import checked_seeds, seed_groups, side_by_side
from .steps import Step
from .surgery import restricted
from .tree import PromptTree


def join(plans: Iterable[Plan]) -> Plan:
    """Several plans side by side as one: they share nothing but the first noise.

    Parameters
    ----------
    plans : iterable of Plan
        At least one, all of one number of steps. Their prompts follow each other.

    Returns
    -------
    plan : Plan
        Drawing it draws what each of them draws. It has keys and prompts if all of them do, the seeds of those that
        have some, and their guidance. It has no linkage matrix, unless one of them has a history: prompts that were
        attached, removed or rerolled. Then it has one whose heights are the steps at which prompts part.

    Raises
    ------
    ValueError
        If there is no plan, their numbers of steps or their guidance differ, or one of them has a history and another
        no keys, or no linkage matrix.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.algebra import alone
    >>> from hierdiff_core.plan.joining import join
    >>> plan = join([build_plan([[0, 1, 0.5, 2]], [1, 0]), alone(2, 2)])
    >>> [step.labels.tolist() for step in plan.steps]
    [[0, 0, 1, 2], [0, 1, 2, 3]]
    """
    plans = list(plans)
    steps = {plan.num_steps for plan in plans}
    if len(steps) != 1:
        raise ValueError(f"plans to join must be at least one and of equal numbers of steps; got {sorted(steps)}")
    if any(plan.guidance != plans[0].guidance for plan in plans):
        raise ValueError("plans to join must have the same guidance: one run has one course of it")
    if any(plan.frozen is not None for plan in plans):
        return joined_trees(plans)
    counts = [plan.num_prompts for plan in plans]
    prompts = offsets(counts)
    keys = [plan.prompt_keys for plan in plans]
    texts = [plan.prompts for plan in plans]
    return Plan(
        np.zeros(steps.pop()),
        tuple(joined_step(plans, prompts, k) for k in range(plans[0].num_steps)),
        prompt_keys=None if None in keys else tuple(key for part in keys for key in part or ()),
        prompts=None if None in texts else tuple(text for part in texts for text in part or ()),
        differ=np.concatenate([plan.distinct + p for plan, p in zip(plans, prompts, strict=True)]),
        guidance=plans[0].guidance,
        seeds=checked_seeds((seed for plan in plans for seed in plan.seeds or (None,) * plan.num_prompts), sum(counts)),
    )


def joined_step(plans: Sequence[Plan], prompts: np.ndarray, k: int) -> Step:
    """Step k of joined plans, whose first prompts have the numbers `prompts`."""
    parts = [plan.steps[k] for plan in plans]
    clusters = offsets(part.num_clusters for part in parts)
    before = offsets(plan.steps[k - 1].num_clusters for plan in plans) if k else [0] * len(plans)
    return Step(
        np.concatenate([part.labels + c for part, c in zip(parts, clusters, strict=True)]),
        np.concatenate([part.first + p for part, p in zip(parts, prompts, strict=True)]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.parents + b for part, b in zip(parts, before, strict=True)]),
    )


def joined_trees(plans: Sequence[Plan]) -> Plan:
    """`join` of plans of which some have a history."""
    num_steps = plans[0].num_steps
    parts = [frozen_tree(plan) for plan in plans]
    parts = [
        replace(part, tree=replace(part.tree, Z=in_steps(part.tree.Z, plan.thresholds)))
        for part, plan in zip(parts, plans, strict=True)
    ]
    frozen = forest_of(parts, num_steps)
    first = offsets(plan.num_leaves for plan in plans)
    rerolls = tuple(
        replace(own, prompt=own.prompt + int(start))
        for plan, start in zip(plans, first, strict=True)
        for own in plan.rerolls
    )
    tree, thresholds = frozen.of_prompts(), np.arange(num_steps - 1.0, -1.0, -1.0)
    steps = cut_steps(tree.Z, thresholds, rerolls, frozen.present, frozen.tree.num_prompts)
    own = {"prompt_keys": tree.keys, "prompts": tree.prompts, "seeds": tree.seeds, "frozen": frozen}
    return Plan(thresholds, steps, tree.Z, guidance=plans[0].guidance, rerolls=rerolls, **own)


def forest_of(parts: Sequence[FrozenTree], above: float) -> FrozenTree:
    """Trees side by side as one, joined above a height; those of one seed first, so that each seed has one tree."""
    first = offsets(part.tree.num_prompts for part in parts)
    texts = [part.tree.prompts for part in parts]
    seeds = [seed for part in parts for seed in part.seeds]
    groups, own = seed_groups(tuple(seeds), len(seeds))
    trees, members = [], []
    for group in range(len(own)):
        kin = [
            np.flatnonzero(groups[a : a + part.tree.num_prompts] == group) for part, a in zip(parts, first, strict=True)
        ]
        some = [(part, rows, rows + a) for part, rows, a in zip(parts, kin, first, strict=True) if len(rows)]
        everyone = np.sort(np.concatenate([rows for _, _, rows in some]))
        places = [np.searchsorted(everyone, rows) for _, _, rows in some]
        trees.append(side_by_side([restricted(part.tree.Z, rows)[0] for part, rows, _ in some], places, above))
        members.append(everyone)
    metrics = {part.tree.metric for part in parts}
    tree = PromptTree(
        side_by_side(trees, members, above),
        metrics.pop() if len(metrics) == 1 else None,
        None,
        None if None in texts else tuple(text for part in texts for text in part or ()),
        tuple(key for part in parts for key in part.tree.keys or ()),
        tuple(seeds),
    )
    generations = np.concatenate([part.generations for part in parts])
    return FrozenTree(
        tree, generations, np.concatenate([part.present + a for part, a in zip(parts, first, strict=True)])
    )


def in_steps(Z: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """A linkage matrix whose merges hold in the same steps at the thresholds K - 1, ..., 1, 0; their order stays."""
    order = np.unique(Z[:, 2], return_inverse=True)[1].reshape(-1)
    together = np.count_nonzero(Z[:, 2] <= thresholds[:, None], axis=0)
    heights = len(thresholds) - 1 - together + (order + 1) / (len(Z) + 1)
    return np.column_stack([Z[:, :2], np.where(Z[:, 2] > 0, heights, 0.0), Z[:, 3]])


def offsets(counts: Iterable[int]) -> np.ndarray:
    """Where each part begins, of parts with so many entries."""
    return np.cumsum([0, *counts])[:-1]
