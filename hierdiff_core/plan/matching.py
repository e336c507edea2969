"""Whether a plan belongs to the prompts and conditionings that it is used with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..prompts.rows import own_seeds
from .branching import crossed
from .frozen import FrozenTree
from .joining import forest_of
from .keys import text_key
from .plan import Plan
from .replanning import replanned
from .steps import linked_steps
from .surgery import parents_of, spans

SHORTENED = 60


def check_plan_prompts(plan: Plan, prompts: Sequence[str]) -> None:
    """Refuse a plan that was made from other prompts, or from these in another order.

    Parameters
    ----------
    plan : Plan
        One that knows neither prompts nor their keys passes.
    prompts : N str
        As many as the plan is for.

    Raises
    ------
    ValueError
        It names the first prompt that differs, or whose seed does.
    """
    check_plan_seeds(plan, prompts)
    keys = [text_key(prompt) for prompt in prompts]
    known = [text_key(prompt) for prompt in plan.prompts or ()] if plan.prompt_keys is None else list(plan.prompt_keys)
    if not known or known == keys or list(plan.prompts or ()) == list(prompts):
        return
    i = next(i for i, (theirs, ours) in enumerate(zip(known, keys, strict=True)) if theirs != ours)
    there = f' is "{plan.prompts[i][:SHORTENED]}" in the plan, but' if plan.prompts else " is not the plan's:"
    what = "these prompts in another order" if sorted(known) == sorted(keys) else "other prompts"
    raise ValueError(
        f'the plan was made from {what}: prompt {i}{there} "{prompts[i][:SHORTENED]}" here; make the linkage and the '
        "schedule from the embeddings of these prompts"
    )


def check_plan_seeds(plan: Plan, prompts: Sequence[str]) -> None:
    """`ValueError` for prompts that come with other seeds than the plan was made for; it names the first."""
    own = own_seeds(prompts)
    if own == plan.seeds or not hasattr(prompts, "rows"):
        return
    nothing = (None,) * plan.num_prompts
    pairs = zip(plan.seeds or nothing, own or nothing, strict=True)
    i, (theirs, ours) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    there, here = ("no seed of its own" if seed is None else f"seed {seed}" for seed in (theirs, ours))
    raise ValueError(
        f'the plan was made for other seeds: prompt {i} ("{prompts[i][:SHORTENED]}") has {there} in the plan, but '
        f"{here} here; make the linkage and the schedule from the embeddings of these prompts"
    )


def check_leaves(plan: Plan, embeddings: Any) -> None:
    """Refuse a plan that leads prompts of different embeddings to one picture.

    A plan without a linkage matrix was made by hand, and may do so on purpose.

    Parameters
    ----------
    plan : Plan
        To be drawn.
    embeddings : PromptEmbeddings
        What it is to be drawn with.

    Raises
    ------
    ValueError
        It names two such prompts.
    """
    if plan.Z is None:
        return
    positive, last = embeddings.positive, plan.steps[-1]
    differ = (positive != positive[last.first][last.labels]).any(dim=1).nonzero().flatten().tolist()
    for i in differ[:1]:
        other = last.first[last.labels[i]]
        raise ValueError(
            f'the plan makes one picture of prompt {other} ("{embeddings.prompts[other][:SHORTENED]}") and prompt {i} '
            f'("{embeddings.prompts[i][:SHORTENED]}"), whose embeddings differ; make the linkage and the schedule from '
            "these embeddings"
        )


def separated(plan: Plan, groups: ArrayLike) -> Plan:
    """The plan with prompts of different groups apart where the threshold is 0, whatever their embeddings are.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`; its merges at height 0 are of equal embeddings.
    groups : (N,) int64
        Equal for prompts that may have one picture.

    Returns
    -------
    plan : Plan
        The same object where nothing has to be parted.
    """
    groups = np.asarray(groups)
    last = plan.steps[-1]
    if plan.Z is None or (groups == groups[last.first][last.labels]).all():
        return plan
    labels = []
    for threshold, step in zip(plan.thresholds, plan.steps, strict=True):
        pairs = np.stack([step.labels, groups if threshold == 0 else np.zeros_like(groups)])
        labels.append(crossed(*pairs))
    return replace(plan, steps=linked_steps(labels), advised=None)


def refined(plan: Plan, groups: ArrayLike) -> Plan:
    """The plan with prompts of different groups apart from the first step on.

    Parameters
    ----------
    plan : Plan
        Of the run: whatever cuts the tree again (`Plan.resampled`) comes before.
    groups : (N,) int64
        Equal for prompts that may share; what differs is often no text, so that the tree knows nothing of it.

    Returns
    -------
    plan : Plan
        The same object where no cluster holds prompts of different groups. Else one without a linkage matrix, for no
        cut of the tree gives these clusters; prompts of equal embeddings in different groups count as different. The
        key of a branch is the smallest of its members' still, so that no noise depends on the order of the prompts.
        A plan with a history gets a tree for each group, in which that goes on; a prompt that is gone belongs to the
        group of the prompt that it merges with first.

    Raises
    ------
    ValueError
        If there are not as many groups as prompts, or the plan is a shard, whose means would be others than its set's.
    """
    groups = np.asarray(groups)
    if groups.shape != (plan.num_prompts,):
        raise ValueError(f"groups must have shape ({plan.num_prompts},), one for each prompt; got {groups.shape}")
    if all((groups == groups[step.first][step.labels]).all() for step in plan.steps):
        return plan
    check_no_shard(plan, "data of other nodes")
    if plan.frozen is not None:
        return in_group_trees(plan, plan.frozen, groups)
    steps = linked_steps(crossed(step.labels, groups) for step in plan.steps)
    first = steps[-1].first[~np.isin(np.arange(steps[-1].num_clusters), steps[-1].labels[plan.distinct])]
    differ = np.union1d(plan.distinct, first)
    return replace(plan, steps=steps, Z=None, merge_errors=None, differ=differ, advised=None)


def check_no_shard(plan: Plan, names: str) -> None:
    """`ValueError` for a shard where prompts have more of their own than texts: `names` says what.

    Which prompts of other shards are equal in that is not known: means would be others than in the whole set.
    """
    if plan.part_of is not None:
        raise ValueError(
            f"{names} differ between the prompts of a shard: only texts, seeds and variants may, or pictures would be "
            "others than in the whole set. Sample the whole plan, or give all prompts the same; a second pass over "
            "finished pictures belongs into a workflow of its own"
        )


def in_group_trees(plan: Plan, frozen: FrozenTree, groups: np.ndarray) -> Plan:
    """`refined` of a plan with a history: a tree for each group, side by side."""
    of_leaves = leaf_groups(frozen, groups)
    leaves = [np.flatnonzero(of_leaves == group) for group in np.unique(groups)]
    parts = [
        replace(frozen, present=frozen.present[np.isin(frozen.present, own)]).of_leaves(np.sort(own)) for own in leaves
    ]
    joined, everyone = forest_of(parts, plan.tau), np.concatenate(leaves)
    places = {leaf: place for place, leaf in enumerate(everyone.tolist())}
    joined = replace(joined, present=np.array([places[leaf] for leaf in frozen.present.tolist()]))
    rerolls = tuple(sorted(replace(own, prompt=places[own.prompt]) for own in plan.rerolls))
    return replanned(replace(plan, rerolls=rerolls, differ=None), joined, plan.vectors)


def leaf_groups(frozen: FrozenTree, groups: np.ndarray) -> np.ndarray:
    """Group of each leaf, from those of the prompts that are there: of others that of a prompt of the same branch."""
    found = np.full(frozen.tree.num_prompts, -1, dtype=np.int64)
    numbers = np.unique(groups, return_inverse=True)[1].reshape(-1)
    found[frozen.present] = numbers
    order, start, size = spans(frozen.tree.Z)
    parents = parents_of(frozen.tree.Z)
    for leaf in np.flatnonzero(found < 0).tolist():
        node, there = leaf, np.empty(0, dtype=np.int64)
        while not len(there):
            node = int(parents[node])
            held = np.sort(order[start[node] : start[node] + size[node]])
            there = held[np.isin(held, frozen.present)]
        found[leaf] = found[there[0]]
    return np.unique(groups)[found]
