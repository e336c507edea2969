"""Shards of a plan: a balanced share of its prompts for each of several machines that know nothing of each other.

Each recomputes the trunk that its prompts share with those of others. Which prompts a shard has follows from the plan
alone, so that all machines with one plan split it alike.

Legend: N prompts of a plan, L its leaves (`Plan.leaf_keys`), K steps, U pictures: prompts that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .algebra import only
from .checks import whole_number
from .in_set import numbers_in_set
from .plan import Plan
from .replanning import leaves_of

MOST_SHARDS = 10_000


def shard_of(plan: Plan, index: int, count: int) -> Plan:
    """The plan of one of several balanced shares of a set's prompts.

    Parameters
    ----------
    plan : Plan
        Of the whole set, made by `plan_for` or `build_plan`, with keys.
    index : int
        Which share, 1 ... `count`.
    count : int
        How many shares there are, at most as many as there are prompts that differ.

    Returns
    -------
    shard : Plan
        Its prompts are in the order of the set. They keep their branches, the keys of these and the prompts that their
        means are made of, so that they are drawn as they are with the whole plan. The plan itself where `count` is 1.
        It remembers what it is a part of (`Plan.part_of`).

    Raises
    ------
    ValueError
        If there is no such share, there are more than prompts that differ, or the plan has no keys or linkage matrix.

    Notes
    -----
    Shares are of neighbours in the tree, prompts with equal embeddings together, and the largest has as few rows as
    such shares can have: fewer than an equal share of the whole plan's rows and the steps of two pictures.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.shards import shard_of
    >>> Z = [[0, 2, 0.1, 2], [1, 3, 0.2, 2], [4, 5, 0.5, 4]]
    >>> plan = build_plan(Z, [0.6, 0.3, 0.15, 0], prompt_keys=[7, 8, 9, 10])
    >>> shards = [shard_of(plan, index, 2) for index in (1, 2)]
    >>> [shard.prompt_keys for shard in shards], [shard.nfe for shard in shards], plan.nfe
    ([(7, 9), (8, 10)], [5, 6], 10)
    """
    index, count = whole_number("index", index), whole_number("count", count)
    if not 1 <= index <= count:
        raise ValueError(f"index must be from 1 to count, which is {count}; got {index}")
    return plan if count == 1 else part_of(plan, shared_out(plan, count)[index - 1])


def part_of(plan: Plan, prompts: np.ndarray | Sequence[int]) -> Plan:
    """The plan of some of a set's prompts that remembers the set; see `shard_of`."""
    rows = list(prompts)
    leaves = leaves_of(plan, rows)
    whole = (plan, leaves) if plan.part_of is None else (plan.part_of[0], plan.part_of[1][leaves])
    return replace(only(plan, rows), part_of=whole)


def shared_out(plan: Plan, count: int) -> list[np.ndarray]:
    """The prompts of each shard.

    Parameters
    ----------
    plan : Plan
        Of the whole set.
    count : int
        How many shards.

    Returns
    -------
    prompts : list of `count` int64 arrays
        Rising; each prompt in one of them.

    Raises
    ------
    ValueError
        If there are more shards than prompts that differ.
    """
    last = plan.steps[-1]
    if count > last.num_clusters:
        one = last.num_clusters == 1
        what = "1 prompt" if one else f"{last.num_clusters} prompts"
        if plan.num_prompts > last.num_clusters:
            what = f"{plan.num_prompts} equal prompts, one picture," if one else f"{what} that differ"
        raise ValueError(
            f"a plan of {what} cannot be split into {count} shards; count must be "
            f"{'1' if one else f'at most {last.num_clusters}'}"
        )
    labels = np.stack([step.labels[last.first] for step in plan.steps])  # (K, U)
    order = np.lexsort(labels[::-1])
    apart = plan.num_steps - (labels[:, order[1:]] == labels[:, order[:-1]]).sum(axis=0)
    stops = balanced(apart, plan.num_steps, count)
    shard_of_picture = np.empty(len(order), dtype=np.int64)
    for number, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True)):
        shard_of_picture[order[start:stop]] = number
    shards = shard_of_picture[last.labels]
    return [np.flatnonzero(shards == number) for number in range(count)]


def rows_of_shards(plan: Plan, count: int) -> list[int]:
    """UNet rows of each shard of a plan; `ValueError` as for `shared_out`."""
    shards = shared_out(plan, count) if count > 1 else [np.arange(plan.num_prompts)]
    return [sum(len(np.unique(step.labels[own])) for step in plan.steps) for own in shards]


def balanced(apart: np.ndarray, steps: int, count: int) -> list[int]:
    """Where to cut a row of pictures so that the largest run of them costs as little as possible.

    Parameters
    ----------
    apart : (U-1,) int64
        Rows that each picture but the first adds to those of the picture before it.
    steps : int
        Rows of a picture that is drawn alone, K.
    count : int
        Runs, at most U.

    Returns
    -------
    stops : list of `count` int
        Behind the last picture of each run, rising; the last is U.
    """
    sums = np.concatenate([[0], np.cumsum(apart)])  # rows of the pictures behind the first, up to each
    low, high = steps, steps + int(sums[-1])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(packed(sums, middle - steps)) <= count else (middle + 1, high)
    stops = packed(sums, low - steps)
    while len(stops) < count:  # runs of one picture are left alone
        starts = [0, *stops[:-1]]
        rows = [
            sums[stop - 1] - sums[start] if stop - start > 1 else -1 for start, stop in zip(starts, stops, strict=True)
        ]
        largest = int(np.argmax(rows))
        start, stop = starts[largest], stops[largest]
        half = int(np.searchsorted(sums[start:stop], sums[start] + rows[largest] / 2))
        stops.insert(largest, start + min(max(half, 1), stop - start - 1))
    return stops


def packed(sums: np.ndarray, most: int) -> list[int]:
    """Ends of runs of pictures that each take as many as `most` rows behind their first picture's allow."""
    stops = [0]
    while stops[-1] < len(sums):
        stops.append(int(np.searchsorted(sums, sums[stops[-1]] + most, side="right")))
    return stops[1:]


def set_of_shard(plan: Plan) -> Plan:
    """The plan that a shard was taken out of; any other is that of its own set."""
    return plan if plan.part_of is None else plan.part_of[0]


def same_part(shard: Plan, whole: Plan) -> Plan:
    """The same prompts as a shard has, out of a changed plan of its set; of what is no shard the changed plan."""
    return whole if shard.part_of is None else part_of(whole, numbers_in_set(shard))
