"""A set planned anew but for prompts that are pinned: these keep their branches, beside a tree of the others.

Legend: K steps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from .addresses import addresses, leaf_addresses
from .frozen import FrozenTree
from .joining import forest_of
from .keeping import plan_rows
from .linkage import as_vectors
from .moving import room
from .plan import Plan
from .replanning import frozen_tree, replanned
from .tree import PromptTree


def beside_pinned(plan: Plan, kept: Plan, pinned: Collection[str]) -> Plan:
    """Some of today's prompts on the branches that they have, the others planned anew among themselves.

    Parameters
    ----------
    plan : Plan
        The fresh plan of today's prompts, with their vectors.
    kept : Plan
        Of the earlier run, with as many steps.
    pinned : collection of str
        Addresses of prompts of both.

    Returns
    -------
    plan : Plan
        At the fresh plan's thresholds; heights of the pinned prompts' merges are such that these part where they did.
    """
    today, vectors = addresses(plan), as_vectors(plan.vectors)
    names = leaf_addresses(kept)
    mine = [i for i, name in enumerate(today) if name in pinned]
    others = [i for i, name in enumerate(today) if name not in pinned]
    frozen = frozen_tree(kept)
    left = replace(frozen, present=np.array([names.index(today[i]) for i in mine]))
    leaves = left.needed()
    left, thresholds = left.of_leaves(leaves), plan.thresholds
    fresh = fresh_tree(plan, others, vectors) if others else None
    Z, thresholds = in_same_steps(left.tree.Z, kept.thresholds, thresholds, None if fresh is None else fresh.tree.Z)
    metric = None if plan.tree is None else plan.tree.metric
    left = replace(left, tree=replace(left.tree, Z=Z, metric=metric, errors=None))
    parts = [left] if fresh is None else [left, fresh]
    joined = forest_of(parts, float(thresholds[0]))
    present = np.empty(len(today), dtype=np.int64)
    present[[*mine, *others]] = joined.present
    joined = replace(joined, present=present)
    rows, places = plan_rows(plan), {leaf: place for place, leaf in enumerate(leaves.tolist())}
    gone = {leaf: place for leaf, place in places.items() if leaf not in frozen.present}
    rerolls = [replace(own, prompt=int(present[rows[own.prompt]])) for own in plan.rerolls if own.prompt in rows]
    rerolls += [replace(own, prompt=gone[own.prompt]) for own in kept.rerolls if own.prompt in gone]
    shell = replace(plan, thresholds=thresholds, frozen=joined, rerolls=tuple(sorted(rerolls)), differ=None)
    return replanned(shell, joined, plan.vectors)


def fresh_tree(plan: Plan, rows: list[int], vectors: np.ndarray) -> FrozenTree:
    """The tree of some of a plan's prompts, clustered anew."""
    tree = plan.tree
    assert tree is not None
    assert tree.metric is not None
    assert plan.prompt_keys is not None
    texts = None if plan.prompts is None else [plan.prompts[i] for i in rows]
    seeds = None if plan.seeds is None else [plan.seeds[i] for i in rows]
    made = PromptTree.of(vectors[rows], tree.metric, texts, seeds=seeds)
    made = replace(made, keys=tuple(plan.prompt_keys[i] for i in rows), errors=None, vectors=None)
    return FrozenTree(made, np.zeros(len(rows), dtype=np.int64), np.arange(len(rows)))


def in_same_steps(
    Z: np.ndarray, before: np.ndarray, thresholds: np.ndarray, others: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """A linkage matrix for other thresholds, by which its branches part in the same steps.

    Parameters
    ----------
    Z : (L-1, 4) float64
        Linkage matrix.
    before, thresholds : (K,) float64
        What cut it, and what is to cut it now.
    others : (M-1, 4) float64, or None
        Another linkage matrix, whose cuts must stay.

    Returns
    -------
    Z : (L-1, 4) float64
        With other heights, in the same order.
    thresholds : (K,) float64
        The same, but a little higher in some steps where they would not fall (`moving.room`).
    """
    heights, result = Z[:, 2], Z[:, 2].copy()
    together = np.count_nonzero(heights <= before[:, None], axis=0)
    for k in sorted(set(together[heights > 0].tolist()), reverse=True):
        rows = np.flatnonzero((together == k) & (heights > 0))
        done = np.flatnonzero((together > k) & (heights > 0))
        known = np.concatenate(
            [np.column_stack([Z[done, :2], result[done], Z[done, 3]]), Z[:0] if others is None else others]
        )
        thresholds, top = room(known, thresholds, k, 0.0, np.inf)
        order = np.unique(heights[rows], return_inverse=True)[1].reshape(-1) + 1
        low = float(thresholds[k])
        result[rows] = np.maximum(low + (top - low) * order / order.max(), np.nextafter(low, np.inf))
    return np.column_stack([Z[:, :2], result, Z[:, 3]]), thresholds
