"""The loop: branch, pool, denoise."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..devices import on_device
from .pooling import cluster_means, rescaled_means

ORDERS = ("breadth first", "depth first")


def sample_branches(
    denoise, latents, plan, embeddings, rescale_means=False, *, most_rows=None, fork=None, on_finished=None
):
    """Denoise one latent per cluster and step, copying latents from parent to child as clusters split.

    Parameters
    ----------
    denoise : callable
        ``denoise(latents, k, embeddings) -> latents``, one denoising step of all branches: latents (C, ...), k the
        step, embeddings (2, C, D) the cluster means, positive then negative
    latents : (1, ...) tensor
        the initial noise, shared by all prompts
    plan : Plan
    embeddings : (2, N, D) float tensor
        positive, then negative
    rescale_means : bool
        stretch means to the mean length of their members; the paper does not
    most_rows : int, optional
        None goes breadth first: each step denoises all of its clusters. With a number, subtrees are finished one after
        the other, depth first: branches that have become more than `most_rows` are dealt out to as few pieces of
        nearly the same size as hold no more, and each piece goes on alone. `denoise` then sees a part of a step's
        clusters, and no more than `most_rows` latents are in work at a time but for those that wait at a split.
    fork : callable, optional
        ``fork(denoise, k, clusters, rows) -> denoise`` makes the denoiser of a piece before each step: `clusters` are
        its labels at step k, `rows` the rows they are copied from, None where nothing splits. Without it, `denoise`
        remembers nothing.
    on_finished : callable, optional
        ``on_finished(prompts, latents)`` for each piece that is done: (M,) int64 indices of its prompts, ascending, and
        their (M, ...) latents

    Returns
    -------
    latents : (N, ...) tensor
        in prompt order; prompts with equal embeddings get equal latents

    Notes
    -----
    Both orders denoise the same rows with the same embeddings (tests/test_sampling.py).

    Source: Decatur et al. 2025, Algorithm 1.
    """
    if embeddings.shape[1] != plan.num_prompts:
        raise ValueError(f"the plan is for {plan.num_prompts} prompts, but there are {embeddings.shape[1]} embeddings")
    loop = Loop(plan, embeddings.transpose(0, 1), rescaled_means if rescale_means else cluster_means, most_rows, fork)
    everyone = np.arange(plan.num_prompts)
    result = None
    for prompts, finished in loop.finished(Piece(0, np.zeros(1, dtype=np.int64), everyone, latents, None, denoise)):
        if on_finished is not None:
            on_finished(prompts, finished)
        if len(prompts) == plan.num_prompts:
            return finished
        if result is None:
            result = finished.new_empty(plan.num_prompts, *finished.shape[1:])
        result[on_device(prompts, result.device)] = finished
    return result


@dataclass(frozen=True)
class Piece:
    """Branches that are denoised together; steps 0 … k - 1 are done.

    Attributes
    ----------
    k : int
    clusters : (C,) int64
        their labels at step k - 1, ascending; the root before the first step
    prompts : (M,) int64
        indices of all their members, ascending
    latents : (C, ...) tensor
    means : (2, C, D) tensor or None
    denoise : callable
    """

    k: int
    clusters: np.ndarray
    prompts: np.ndarray
    latents: torch.Tensor
    means: Any
    denoise: Any


@dataclass(frozen=True)
class Loop:
    """What all pieces of a run have in common; `embeddings` are (N, 2, D), the rest as in `sample_branches`."""

    plan: Any
    embeddings: torch.Tensor
    pool: Any
    most_rows: int | None
    fork: Any

    def finished(self, piece):
        """Yield (prompts, latents) of the pieces that `piece` becomes, as they are done."""
        while piece.k < self.plan.num_steps:
            groups = self.groups(piece)
            if len(groups) > 1:
                for clusters in groups:
                    yield from self.finished(self.denoised(self.branched(piece, clusters)))
                return
            piece = self.denoised(self.branched(piece, groups[0]))
        labels = np.searchsorted(piece.clusters, self.plan.steps[-1].labels[piece.prompts])
        yield piece.prompts, piece.latents[on_device(labels, piece.latents.device)]

    def groups(self, piece):
        """list of (C,) int64   the clusters of step `piece.k` that the branches become, dealt out to pieces"""
        children = np.flatnonzero(np.isin(self.plan.steps[piece.k].parents, piece.clusters))
        parts = -(-len(children) // self.most_rows) if self.most_rows else 1
        return np.array_split(children, parts)

    def branched(self, piece, clusters):
        """`piece` with the branches that are `clusters` at its step, before that step."""
        step, device = self.plan.steps[piece.k], piece.latents.device
        rows = np.searchsorted(piece.clusters, step.parents[clusters])
        same_rows = np.array_equal(rows, np.arange(len(piece.clusters)))
        if piece.means is not None and same_rows and step.counts[clusters].sum() == len(piece.prompts):
            # clusters nest: these are the same ones as before, but perhaps with other numbers
            denoise = self.fork(piece.denoise, piece.k, clusters, None) if self.fork else piece.denoise
            return replace(piece, clusters=clusters, denoise=denoise)
        labels = step.labels[piece.prompts]
        inside = np.isin(labels, clusters)
        prompts = piece.prompts[inside]
        counted = np.intersect1d(prompts, self.plan.distinct, assume_unique=True)  # equal prompts count once
        values = self.embeddings
        if len(counted) < self.plan.num_prompts:
            values = values[on_device(counted, device)]
        members = np.searchsorted(clusters, step.labels[counted])
        counts = np.bincount(members, minlength=len(clusters))
        means = self.pool(values, on_device(members, device), on_device(counts, device)).transpose(0, 1)
        index = on_device(rows, device)
        denoise = self.fork(piece.denoise, piece.k, clusters, index) if self.fork else piece.denoise
        return Piece(piece.k, clusters, prompts, piece.latents[index], means, denoise)

    def denoised(self, piece):
        latents = piece.denoise(piece.latents, piece.k, piece.means)
        return replace(piece, k=piece.k + 1, latents=latents)


def gather_history(scheduler, parents, row_shape):
    """Let a scheduler's per-row memory follow the branches.

    Multistep schedulers keep earlier model outputs and samples. Every tensor, alone or in a list, that holds
    rows of shape `row_shape` is replaced by its rows `parents`, in place.

    Parameters
    ----------
    scheduler : any object
        its attributes are searched
    parents : (C,) int64 tensor
        row of the previous step that each branch is copied from
    row_shape : tuple of int
        shape of one latent
    """

    def gather(value):
        if isinstance(value, torch.Tensor) and value.shape[1:] == row_shape:
            return value[parents.to(value.device)]
        if isinstance(value, list):
            return [gather(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, (torch.Tensor, list)):
            setattr(scheduler, name, gather(value))
