"""The paper's Algorithm 1: branch, pool, denoise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from ..devices import on_device
from ..plan.checks import whole_number
from ..plan.part import Part, below, whole
from .observer import Observer
from .pooling import cluster_means
from .state import State

if TYPE_CHECKING:
    from ..plan.plan import Plan

ORDERS = ("breadth first", "depth first")
# step(rows, k, clusters, means, state) -> rows, state
StepFunction: TypeAlias = Callable[[torch.Tensor, int, np.ndarray, torch.Tensor, State], tuple[torch.Tensor, State]]
Pool: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Finished: TypeAlias = tuple[np.ndarray, torch.Tensor]


def denoise_part(
    part: Part,
    rows: torch.Tensor,
    state: State,
    step: StepFunction,
    embeddings: torch.Tensor,
    *,
    pool: Pool = cluster_means,
    most_rows: int | None = None,
) -> Iterator[Finished]:
    """Denoise one latent per cluster and step, copying latents from parent to child as clusters split.

    Parameters
    ----------
    part : Part
        `whole` of a plan, or what is below some of its branches.
    rows : (C, ...) tensor
        Latents before the part's first step; for a whole plan one, the noise that all prompts start from, or one for
        each seed (`Plan.groups`).
    state : State
        What the step before handed on, with the same rows; what `step` begins with for a whole plan.
    step : callable
        ``step(rows, k, clusters, means, state) -> rows, state``: denoising step k of some branches, whose labels in the
        plan are `clusters`, (C,) int64. `means`, (2, C, D), are their mean embeddings, positive then negative.
    embeddings : (N, 2, D) float tensor
        Of all prompts of the plan, on the device of `rows`.
    pool : callable
        `cluster_means` or `rescaled_means`.
    most_rows : int, optional
        None goes breadth first: each step denoises all of its clusters. With a number, subtrees are finished one after
        the other, depth first: where more than `most_rows` branches are due, they are dealt out to as few parts of
        nearly the same size as hold no more, and each part goes on alone. `step` then sees some of a step's clusters,
        and no more than `most_rows` latents are in work at a time but for those that wait at a split.

    Yields
    ------
    prompts : (M,) int64 array
        Indices of prompts that are done, ascending.
    latents : (M, ...) tensor
        Their latents; prompts with equal embeddings get equal ones.

    Raises
    ------
    ValueError
        If `most_rows` is no whole number of 1 or more.

    Notes
    -----
    Both orders denoise the same rows with the same embeddings (tests/sampling/test_sampling.py). Line numbers are those
    of docs/method.md.

    Source: Decatur et al. 2025, Algorithm 1.
    """
    if most_rows is not None:
        most_rows = whole_number("most_rows", most_rows, 1)
    device, means = rows.device, None
    for i, now in enumerate(part.steps):  # 7: for k = 0 ... K - 1; 8-10: the plan has cut the tree
        if most_rows and len(now.parents) > most_rows:
            for clusters in np.array_split(np.arange(len(now.parents)), -(-len(now.parents) // most_rows)):
                subtree = below(part, i, clusters)
                yield from denoise_part(subtree, rows, state, step, embeddings, pool=pool, most_rows=most_rows)
            return
        splits = means is None or not np.array_equal(now.parents, np.arange(len(rows)))
        if splits:
            parents = on_device(now.parents, device)
            rows, state = rows[parents], state[parents]  # 11: branches are copied from their parents
        if means is None or splits or not part.same_means(i):
            leaves, clusters = part.means_of(i)
            members, counts = (on_device(x, device) for x in (clusters, now.counts))
            means = pool(chosen(embeddings, leaves), members, counts).transpose(0, 1)  # 12: means of members
        rows, state = step(rows, part.start + i, now.clusters, means, state)  # 13-16: guided denoising
    yield part.prompts, rows[on_device(part.steps[-1].labels, device)]  # 17: back to the prompts


def denoise_plan(
    plan: Plan,
    first: torch.Tensor,
    state: State,
    step: StepFunction,
    embeddings: torch.Tensor,
    *,
    pool: Pool = cluster_means,
    most_rows: int | None = None,
    observer: Observer | None = None,
    known: np.ndarray | None = None,
    stop: int | None = None,
) -> torch.Tensor:
    """`denoise_part` of a whole plan, its latents in prompt order.

    Parameters
    ----------
    plan : Plan
        For N prompts and L leaves (`Plan.leaf_keys`): those prompts, and others that belong to a mean.
    first : (1, ...) tensor, or (G, ...)
        The noise that all prompts start from; where they have seeds of their own, a row for each of `Plan.groups`.
    state : State
        What `step` begins with.
    step : callable
        As in `denoise_part`.
    embeddings : (2, L, D) float tensor
        Positive, then negative, on the device of `first`.
    pool, most_rows : callable, int
        As in `denoise_part`.
    observer : Observer, optional
        Hears of the prompts that are done.
    known : (L,) bool array, optional
        See `whole`.
    stop : int, optional
        Steps that are made, 1 ... K; all when None.

    Returns
    -------
    (N, ...) tensor
        In prompt order; prompts with equal embeddings get equal latents.

    Raises
    ------
    ValueError
        If the embeddings are not those of L leaves, or `most_rows` is no whole number of 1 or more.
    """
    count = plan.num_prompts if plan.frozen is None else plan.frozen.tree.num_prompts
    if embeddings.shape[1] != count:
        gone = f" and {count - plan.num_prompts} that are gone" if count > plan.num_prompts else ""
        raise ValueError(
            f"the plan is for {plan.num_prompts} prompts{gone}, but there are {embeddings.shape[1]} embeddings"
        )
    values = embeddings.transpose(0, 1)  # (L, 2, D)
    part = whole(plan, known)
    if stop is not None:
        part = replace(part, steps=part.steps[:stop])
    finished = denoise_part(part, first, state, step, values, pool=pool, most_rows=most_rows)
    return latents_in_prompt_order(finished, plan.num_prompts, observer)


def latents_in_prompt_order(
    finished: Iterable[Finished], num_prompts: int, observer: Observer | None = None
) -> torch.Tensor:
    """Put latents of prompts that are done together.

    Parameters
    ----------
    finished : iterable of (prompts, latents)
        From `denoise_part`.
    num_prompts : int
        All of them, N.
    observer : Observer, optional
        Hears of them as they come.

    Returns
    -------
    (N, ...) tensor
        In prompt order.
    """
    result = None
    for prompts, latents in finished:
        if observer is not None:
            observer.on_finished(prompts, latents)
        if len(prompts) == num_prompts:
            return latents
        if result is None:
            result = latents.new_empty(num_prompts, *latents.shape[1:])
        result[on_device(prompts, result.device)] = latents
    if result is None:
        raise ValueError("no prompt was finished; a plan has at least one")
    return result


def chosen(rows: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """The rows at rising places; without a copy where that is all of them."""
    if len(places) == len(rows) and np.array_equal(places, np.arange(len(rows))):
        return rows
    return rows[on_device(places, rows.device)]
