"""The flat clusters of one denoising step, and clusters over the steps that they last.

Legend: N prompts, C clusters of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Step:
    """The flat clusters of one denoising step.

    Attributes
    ----------
    labels : (N,) int64
        Cluster of each prompt, 0-based, contiguous.
    first : (C,) int64
        First prompt of each cluster.
    counts : (C,) int64
        Prompts in each cluster.
    parents : (C,) int64
        Row of the previous step's latents that each cluster is copied from.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> step = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.4, 0]).steps[0]
    >>> step.num_clusters
    2
    >>> step.labels.tolist(), [members.tolist() for members in step.members]
    ([0, 0, 1], [[0, 1], [2]])
    """

    labels: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    parents: np.ndarray

    @property
    def num_clusters(self) -> int:
        """Latents that the step denoises, C."""
        return len(self.counts)

    @property
    def members(self) -> list[np.ndarray]:
        """Indices of the prompts of each cluster: C arrays of int64."""
        return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(self.counts)[:-1])


@dataclass(frozen=True, eq=False)
class Branch:
    """A cluster for as long as its members stay the same: one edge of the tree.

    Attributes
    ----------
    start, stop : int
        Steps start ... stop - 1 are denoised with these members.
    cluster : int
        Its label at step stop - 1.
    parent : int or None
        Index of the branch that it split from, None for a root.
    members : (M,) int64
        Indices of its prompts.
    key : int or None
        What it is known by when others come or go, as `Plan.branch_keys` says of its first step: the smallest key of
        the prompts that it was made of.
    """

    start: int
    stop: int
    cluster: int
    parent: int | None
    members: np.ndarray
    key: int | None = None


def linked_steps(labels: Iterable[np.ndarray]) -> tuple[Step, ...]:
    """Steps with these clusters, each linked to the cluster of the step before that its members were in.

    Parameters
    ----------
    labels : iterable of K (N,) int64
        Clusters of each step, 0-based and contiguous; each lies in one cluster of the step before.

    Returns
    -------
    steps : tuple of K Step
        Before the first step, one cluster holds every prompt.
    """
    steps: list[Step] = []
    for own in labels:
        _, first, counts = np.unique(own, return_index=True, return_counts=True)
        parents = steps[-1].labels[first] if steps else np.zeros(len(first), dtype=np.int64)
        steps.append(Step(own, first, counts, parents))
    return tuple(steps)
