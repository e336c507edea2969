"""What the clusters of a plan are: edges of a tree, what each is made of, and what its noise is a function of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .keys import branch_keys
from .linkage import cut
from .rerolls import History, Reroll, groups_by_step, histories, salt_of, salted_key
from .steps import Branch, Step, linked_steps

if TYPE_CHECKING:
    from .plan import Plan


def branches_of(plan: Plan) -> tuple[Branch, ...]:
    """The edges of a plan's tree, parents before children."""
    branches, current = [], []  # current: index into `branches` of each cluster of the step before
    own_keys = range(plan.num_prompts) if plan.prompt_keys is None else plan.prompt_keys
    for k, step in enumerate(plan.steps):
        split = np.bincount(step.parents, minlength=len(current) or 1) > 1
        begin = [c for c, parent in enumerate(step.parents) if k == 0 or split[parent]]
        members = step.members if begin else []
        keys = plan.branch_keys(k) if begin and plan.frozen is not None else None
        above = current
        current = [above[parent] for parent in step.parents] if k else [-1] * step.num_clusters
        for c in begin:
            key = min(own_keys[i] for i in members[c]) if keys is None else keys[c]
            current[c] = len(branches)
            branches.append([k, k, c, above[step.parents[c]] if k else None, members[c], key])
        for c, branch in enumerate(current):
            branches[branch][1:3] = k + 1, c
    return tuple(Branch(*fields) for fields in branches)


def founders_of(plan: Plan, k: int) -> list[np.ndarray]:
    """`Plan.founders`."""
    if plan.frozen is None:
        labels, counted = plan.steps[k].labels, np.zeros(plan.num_prompts, dtype=bool)
        counted[plan.distinct] = True
        rows = np.argsort(labels, kind="stable")
        return np.split(rows[counted[rows]], np.cumsum(np.bincount(labels[counted]))[:-1])
    equal = cut(plan.frozen.tree.Z, 0.0)
    found = oldest(plan, k)
    leaves, clusters = np.concatenate(found), np.repeat(np.arange(len(found)), [len(own) for own in found])
    kept = np.sort(np.unique(clusters * len(equal) + equal[leaves], return_index=True)[1])  # of equal ones the first
    return np.split(leaves[kept], np.cumsum(np.bincount(clusters[kept], minlength=len(found)))[:-1])


def oldest(plan: Plan, k: int) -> list[np.ndarray]:
    """The founders of each cluster of a step, those with equal embeddings too, of a plan with a history."""
    assert plan.frozen is not None
    rerolls = histories(plan.rerolls, plan.num_leaves, k) if plan.rerolls else None
    return plan.frozen.founders(plan.steps[k].labels, plan.thresholds[k], rerolls)


def branch_keys_of(plan: Plan, k: int, prompt_keys: Sequence[int] | None) -> list[int]:
    """`Plan.branch_keys`."""
    if plan.frozen is not None:
        keys = plan.leaf_keys or ()
        return [min(keys[int(leaf)] for leaf in own) for own in oldest(plan, k)]
    known = plan.prompt_keys if prompt_keys is None else prompt_keys
    return branch_keys(plan.steps[k].labels, range(plan.num_prompts) if known is None else known)


def recut(plan: Plan, Z: np.ndarray, thresholds: np.ndarray) -> Plan:
    """A plan cut at other thresholds; rerolls go to the steps at the same shares of the run."""
    count, before = len(thresholds), plan.num_steps
    rerolls = tuple(sorted({replace(own, step=moved_step(own.step, before, count)) for own in plan.rerolls}))
    steps = cut_steps(Z, thresholds, rerolls, plan_leaves(plan), plan.num_leaves)
    return replace(plan, thresholds=thresholds, rerolls=rerolls, steps=steps)


def moved_step(step: int, of: int, num_steps: int) -> int:
    """The step at the same share of a run with another number of steps: the nearest, and one of them."""
    return step if of == num_steps else min((2 * step * num_steps + of) // (2 * of), num_steps - 1)


def cut_steps(
    Z: np.ndarray, thresholds: Iterable[float], rerolls: Sequence[Reroll], leaves: np.ndarray, num_leaves: int
) -> tuple[Step, ...]:
    """The steps of a tree of N prompts, which are some leaves: those of other rerolls are apart from these on."""
    labels, groups, now = [], groups_by_step(rerolls, num_leaves), None
    for k, threshold in enumerate(thresholds):
        own, now = cut(Z, threshold), groups.get(k, now)
        labels.append(own if now is None else crossed(own, now[leaves]))
    return linked_steps(labels)


def plan_leaves(plan: Plan) -> np.ndarray:
    """Row in `Plan.leaf_keys` of each prompt: (N,) int64."""
    return np.arange(plan.num_prompts) if plan.frozen is None else plan.frozen.present


def crossed(labels: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """Labels (N,) int64 that are equal where both the labels and the groups are: 0-based, contiguous."""
    return np.unique(np.stack([labels, groups]), axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def histories_at(plan: Plan, k: int) -> list[History]:
    """The rerolls of each cluster of a step that hold there."""
    found = histories(plan.rerolls, plan.num_leaves, k)
    return [found[leaf] for leaf in plan_leaves(plan)[plan.steps[k].first].tolist()]


def salts_of(plan: Plan, k: int) -> list[int]:
    """`Plan.salts`."""
    return [salt_of(own) for own in histories_at(plan, k)] if plan.rerolls else [0] * plan.steps[k].num_clusters


def fresh_at(plan: Plan, k: int) -> np.ndarray:
    """`Plan.fresh`."""
    if not any(reroll.step == k for reroll in plan.rerolls):
        return np.zeros(plan.steps[k].num_clusters, dtype=bool)
    return np.array([bool(own) and own[-1][0] == k for own in histories_at(plan, k)])


def noise_keys_of(plan: Plan, k: int, prompt_keys: Sequence[int] | None) -> list[int]:
    """`Plan.noise_keys`."""
    keys = plan.branch_keys(k, prompt_keys)
    return keys if not plan.rerolls else list(map(salted_key, keys, plan.salts(k)))
