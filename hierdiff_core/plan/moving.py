"""Branches that part earlier or later than the tree says; all others stay what they were.

Prompts that are moved leave their old leaves behind, as prompts do that are gone: these are still what the means of the
branches that they have left are made of. Their new leaves are younger, so that no other branch is changed by them.
No leaf is left out here, so that leaves keep their numbers: `replanning.replanned` does it at last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .frozen import FrozenTree
from .linkage import as_vectors, unit_rows
from .plan import Plan
from .replanning import frozen_tree, replanned
from .seeds import JOINED
from .surgery import parents_of, restricted, with_copies


def split_at(plan: Plan, prompts: Sequence[int], k: int) -> Plan:
    """A plan in which prompts part from the others at a step: earlier than now, or later.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    prompts : sequence of int
        Those of one branch, or of several that part from the others each for itself.
    k : int
        Step from which on they are apart. Where they part later than now, they go along with the branch beside them
        until then, of several that with the most similar prompts.

    Returns
    -------
    plan : Plan
        With the same prompts. Branches of others are what they were.

    Raises
    ------
    ValueError
        If the plan was made by hand or has no keys, or they are apart by a reroll before.
    """
    chosen = np.zeros(plan.num_prompts, dtype=bool)
    chosen[list(prompts)] = True
    for group in together(plan, chosen, k):
        labels = plan.steps[k].labels
        if np.count_nonzero(labels == labels[group[0]]) > len(group):
            plan = beside(plan, group, group[0], plan.thresholds[k], k)
            continue
        parting = parted_at(plan, group)
        if parting == k:
            continue
        other = companion(plan, group, chosen, parting, k)
        if other is not None:
            plan = beside(plan, group, other, plan.thresholds[k - 1], k)
    return plan


def held_until(plan: Plan, prompts: Sequence[int], k: int) -> Plan:
    """A plan in which prompts share their steps before step k; those that did not go along with one branch of them.

    Parameters
    ----------
    plan : Plan
        As in `split_at`.
    prompts : sequence of int
        All of one seed, and none rerolled before step k.
    k : int
        1 ... K - 1.

    Returns
    -------
    plan : Plan
        With the same prompts. The branch that keeps its course is that with the smallest key.

    Raises
    ------
    ValueError
        As `split_at`, and if they have different seeds or rerolls.
    """
    chosen = np.zeros(plan.num_prompts, dtype=bool)
    chosen[list(prompts)] = True
    rows = np.flatnonzero(chosen)
    if len(np.unique(plan.groups()[0][rows])) > 1:
        raise ValueError(f"{in_words(plan, rows)} have different seeds, and cannot be held together")
    groups = together(plan, chosen, k - 1)
    if len({plan.salts(k - 1)[plan.steps[k - 1].labels[group[0]]] for group in groups}) > 1:
        raise ValueError(f"{in_words(plan, rows)} are rerolled before step {k}, and cannot be held together until then")
    keys = plan.branch_keys(k - 1)
    groups.sort(key=lambda group: (keys[plan.steps[k - 1].labels[group[0]]], group[0]))
    for group in groups[1:]:
        plan = beside(plan, group, groups[0][0], plan.thresholds[k - 1], k)
    return plan


def together(plan: Plan, chosen: np.ndarray, k: int) -> list[np.ndarray]:
    """The chosen prompts by the clusters of a step."""
    labels = plan.steps[k].labels
    return [np.flatnonzero(chosen & (labels == c)) for c in np.unique(labels[chosen])]


def parted_at(plan: Plan, group: np.ndarray) -> int:
    """The first step at which nobody else is in the cluster of these prompts."""
    for k, step in enumerate(plan.steps):
        if step.counts[step.labels[group[0]]] == len(group):
            return k
    return plan.num_steps


def companion(plan: Plan, group: np.ndarray, chosen: np.ndarray, parting: int, k: int) -> int | None:
    """A prompt of the branch that these go along with until step k; None where there is no other."""
    seeds, before = plan.groups()[0], plan.steps[max(parting - 1, 0)].labels
    kin = seeds == seeds[group[0]]
    if parting:
        kin &= before == before[group[0]]
    others = np.flatnonzero(kin & ~np.isin(np.arange(plan.num_prompts), group))
    salts = np.array(plan.salts(k - 1), dtype=object)[plan.steps[k - 1].labels]
    able = others[[salts[i] == salts[group[0]] for i in others]]
    if len(others) and not len(able):
        raise ValueError(f"{in_words(plan, group)} parts by a reroll at step {parting}, and cannot part at step {k}")
    able = able[~chosen[able]] if not chosen[able].all() else able
    if not len(able):
        return None
    labels = plan.steps[k - 1].labels
    keys, found = plan.branch_keys(k - 1), np.unique(labels[able])
    gaps = {c: gap(plan, group, np.flatnonzero(labels == c)) for c in found.tolist()}
    nearest = min(gaps, key=lambda c: (gaps[c], keys[c], c))
    return int(able[labels[able] == nearest][0])


def gap(plan: Plan, group: np.ndarray, others: np.ndarray) -> float:
    """Squared distance of the means of two groups of prompts; 0 where no embeddings are known."""
    if plan.vectors is None:
        return 0.0
    unit = unit_rows(as_vectors(plan.vectors[np.concatenate([group, others])]))
    return float(np.square(unit[: len(group)].mean(axis=0) - unit[len(group) :].mean(axis=0)).sum())


def beside(plan: Plan, group: np.ndarray, other: int, threshold: float, k: int) -> Plan:
    """The plan with prompts moved beside the branch that another prompt is in at a threshold, to part at step k."""
    frozen = frozen_tree(plan)
    Z, leaves, count = frozen.tree.Z, frozen.present[group], frozen.tree.num_prompts
    node = node_at(Z, int(frozen.present[other]), threshold)
    above = parents_of(Z)[node]
    floor = max(height_of(Z, node), max_height(Z, leaves))
    thresholds, height = room(Z, plan.thresholds, k, floor, np.inf if above < 0 else height_of(Z, int(above)))
    tree = with_copies(frozen.tree, leaves, node, height)
    ages = frozen.generations
    present = frozen.present.copy()
    present[group] = np.arange(count, count + len(group))
    younger = ages.max() + 1 + ages[leaves] - ages[leaves].min()
    places = {leaf: count + i for i, leaf in enumerate(leaves.tolist())}
    more = [replace(own, prompt=places[own.prompt]) for own in plan.rerolls if own.prompt in places]
    moved = replace(plan, thresholds=thresholds, rerolls=tuple(sorted([*plan.rerolls, *more])))
    frozen = FrozenTree(tree, np.concatenate([ages, younger]), present)
    return replanned(moved, frozen, plan.vectors, everyone=True)


def room(Z: np.ndarray, thresholds: np.ndarray, k: int, floor: float, ceiling: float) -> tuple[np.ndarray, float]:
    """A height that is apart at step k, and together at the step before.

    Parameters
    ----------
    Z : (L-1, 4) float64
        Linkage matrix that the height is for.
    thresholds : (K,) float64
        Of its steps.
    k : int
        0: apart from the start.
    floor, ceiling : float
        The height is neither below nor above.

    Returns
    -------
    thresholds : (K,) float64
        The same, but where both steps have one threshold: then those before step k are a little higher, below the next
        merge, so that they cut the tree as before.
    height : float
        Of the merge.
    """
    low = max(float(thresholds[k]), floor)
    if k == 0:
        return thresholds, between(low, ceiling if np.isfinite(ceiling) else 2 * JOINED * (low or 1.0))
    value, before = float(thresholds[k]), float(thresholds[k - 1])
    if before == value:
        begin = int(np.argmax(thresholds == value))
        higher = [*Z[Z[:, 2] > value, 2].tolist(), *thresholds[begin - 1 : begin].tolist()]
        before = between(value, min(higher, default=2 * JOINED * (value or 1.0)))
        thresholds = np.where((thresholds == value) & (np.arange(len(thresholds)) < k), before, thresholds)
    return thresholds, between(low, min(before, ceiling))


def between(low: float, high: float) -> float:
    """A height above one, and not above another: their mean, unless nothing lies between them."""
    return high if high <= low else max(low + (high - low) / 2, np.nextafter(low, high))


def node_at(Z: np.ndarray, leaf: int, threshold: float) -> int:
    """The node that holds a leaf's cluster at a threshold."""
    parents, node = parents_of(Z), leaf
    while parents[node] >= 0 and height_of(Z, int(parents[node])) <= threshold:
        node = int(parents[node])
    return node


def height_of(Z: np.ndarray, node: int) -> float:
    """Height of a node; 0 for a leaf."""
    return 0.0 if node <= len(Z) else float(Z[node - len(Z) - 1, 2])


def max_height(Z: np.ndarray, leaves: np.ndarray) -> float:
    """Height at which the last of some leaves merge."""
    return float(restricted(Z, leaves)[0][:, 2].max(initial=0.0))


def in_words(plan: Plan, rows: Sequence[int] | np.ndarray) -> str:
    """Some prompts for a message: the first few of them."""
    names = [f'"{plan.prompts[i][:60]}"' if plan.prompts else f"prompt {i}" for i in list(rows)[:3]]
    return ", ".join(names) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
