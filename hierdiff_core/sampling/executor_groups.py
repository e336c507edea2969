"""The branches of a part by size: rows, where it splits, groups of about equal size."""

from __future__ import annotations

import heapq
import math

import numpy as np

from ..plan.part import Part


def rows_of(part: Part, stop: int | None = None) -> int:
    """Rows that the model evaluates for a part, or for its first steps."""
    return sum(len(step.parents) for step in part.steps[:stop])


def splits(part: Part) -> bool:
    """Whether there are ever several branches in a part."""
    return len(part.steps[-1].parents) > 1


def first_split(part: Part) -> int:
    """The first step of a part that has several branches."""
    return next(i for i, step in enumerate(part.steps) if len(step.parents) > 1)


def rows_below(part: Part, i: int) -> np.ndarray:
    """Rows of each branch of a step and of all that is below it, (C,) int64; the step is number `start + i`."""
    rows = np.ones(len(part.steps[-1].parents))
    for step, above in zip(reversed(part.steps[i + 1 :]), reversed(part.steps[i:-1]), strict=True):
        rows = 1 + np.bincount(step.parents, weights=rows, minlength=len(above.parents))
    return rows.astype(np.int64)


def dealt(part: Part, i: int, count: int, most: float = math.inf) -> list[np.ndarray]:
    """Branches of a step in groups of about equal size.

    Parameters
    ----------
    part : Part
    i : int
        Step `part.start + i`.
    count : int
        Groups, or more where branches are too large for each other; no more than there are branches.
    most : float
        Rows that a group of several branches may have, with all that is below.

    Returns
    -------
    groups : list of (B,) int64 arrays
        Ascending.
    """
    rows: list[int] = rows_below(part, i).tolist()
    groups: list[list[int]] = [[] for _ in range(min(count, len(rows)))]
    taken = [(0, g) for g in range(len(groups))]  # a heap: the group with the fewest rows first
    for branch in sorted(range(len(rows)), key=lambda branch: -rows[branch]):
        size, g = taken[0]
        if size and size + rows[branch] > most:
            g = len(groups)
            groups.append([])
            heapq.heappush(taken, (rows[branch], g))
        else:
            heapq.heapreplace(taken, (size + rows[branch], g))
        groups[g].append(branch)
    return [np.array(sorted(group)) for group in groups]
