"""A set in groups that are drawn one after the other: whole subtrees, each as large as is worth a run.

Legend: N prompts of a plan, L leaves (`Plan.leaf_keys`): these prompts, and those that are gone but belong to a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .algebra import only
from .checks import whole_number
from .replanning import leaves_of

if TYPE_CHECKING:
    from .plan import Plan


class PlanPart(NamedTuple):
    """The plan of some prompts of a set.

    plan : Plan           their branches are what they are in the set
    leaves : (L,) int64   where each of its leaves is among those of the set's plan
    """

    plan: Plan
    leaves: np.ndarray


def groups_in_order(plan: Plan, size: int, steps: range | None = None) -> list[np.ndarray]:
    """Groups of prompts to draw one after the other.

    Parameters
    ----------
    plan : Plan
    size : int >= 1
        Pictures that a group should have: a subtree that has more is parted where it splits, and small ones that follow
        each other go together. Pictures that are equal count once.
    steps : range, optional
        The plan's steps that are drawn; all when None.

    Returns
    -------
    groups : list of int64 arrays
        Numbers of prompts, rising; each prompt is in one of them. Larger than `size` only where pictures do not part.

    Raises
    ------
    ValueError
        If `size` is below 1.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.groups import groups_in_order
    >>> plan = build_plan([[0, 2, 0.2, 2], [1, 3, 0.3, 2], [4, 5, 0.9, 4]], [1, 0.6, 0])
    >>> [group.tolist() for group in groups_in_order(plan, 2)]
    [[0, 2], [1, 3]]
    """
    size = whole_number("size", size, 1)
    steps = range(plan.num_steps) if steps is None else steps
    last = plan.steps[steps[-1]].labels
    groups: list[np.ndarray] = []
    for unit in _subtrees(plan, size, steps):
        together = unit if not groups else np.concatenate([groups[-1], unit])
        if groups and len(np.unique(last[together])) <= size:
            groups[-1] = together
        else:
            groups.append(unit)
    return [np.sort(group) for group in groups]


def _subtrees(plan: Plan, size: int, steps: range) -> list[np.ndarray]:
    """The largest subtrees of at most so many pictures, in the order of the tree."""
    last = plan.steps[steps[-1]].labels
    found, todo = [], [(steps.start, np.arange(plan.num_prompts))]
    while todo:
        k, prompts = todo.pop()
        while k < steps.stop and len(np.unique(plan.steps[k].labels[prompts])) == 1:
            k += 1
        if k == steps.stop or len(np.unique(last[prompts])) <= size:
            found.append(prompts)
            continue
        labels = plan.steps[k].labels[prompts]
        children = [prompts[labels == label] for label in dict.fromkeys(labels.tolist())]
        todo += [(k, child) for child in reversed(children)]
    return found


def part_of(plan: Plan, prompts: Sequence[int] | np.ndarray) -> PlanPart:
    """The plan of some prompts of a set; see `algebra.removed`.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    prompts : (M,) int64
        Their numbers, rising.

    Returns
    -------
    part : PlanPart

    Raises
    ------
    ValueError
        If the plan was made by hand, has no keys, or is no cut of its tree.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.groups import part_of
    >>> plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0], prompt_keys=[7, 8, 9])
    >>> part = part_of(plan, [1, 2])
    >>> part.plan.prompt_keys, part.plan.branch_keys(0), part.leaves.tolist()
    ((8, 9), [7], [0, 1, 2])
    """
    rows = np.asarray(prompts, dtype=np.int64)
    leaves, part = leaves_of(plan, rows), only(plan, rows.tolist())
    for step, own in zip(plan.steps, part.steps, strict=True):
        pairs = set(zip(step.labels[rows].tolist(), own.labels.tolist(), strict=True))
        if not len(pairs) == own.num_clusters == len(np.unique(step.labels[rows])):
            raise ValueError("a plan that is no cut of its tree cannot be taken apart")
    return PlanPart(part, leaves)
