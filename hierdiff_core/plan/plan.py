"""The plan: which prompts share which latent at which step. Numbers only, no latents."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .budget import tau_for_saving
from .linkage import check_linkage, flat_clusters
from .profile import falling_shape, thresholds_at
from .sensitivity import Sensitivity

# Without a measurement, prompts need at least this share of the steps apart from the others to become another picture:
# of late models, which split best, the bundled one parts pictures in 2 of 40 steps but not in 1.
LEAST_APART = 0.05


@dataclass(frozen=True, eq=False)
class Step:
    """The flat clusters of one denoising step.

    Attributes
    ----------
    labels : (N,) int64
        cluster of each prompt, 0-based, contiguous
    first : (C,) int64
        first prompt of each cluster
    counts : (C,) int64
        prompts in each cluster
    parents : (C,) int64
        row of the previous step's latents that each cluster is copied from
    """

    labels: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    parents: np.ndarray

    @property
    def num_clusters(self):
        return len(self.counts)

    @property
    def members(self):
        """list of C int64 arrays   indices of the prompts of each cluster"""
        return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(self.counts)[:-1])


@dataclass(frozen=True, eq=False)
class Branch:
    """A cluster for as long as its members stay the same: one edge of the tree.

    Attributes
    ----------
    start, stop : int
        steps start ... stop - 1 are denoised with these members
    cluster : int
        its label at step stop - 1
    parent : int or None
        index of the branch that it split from, None for a root
    members : (M,) int64
        indices of its prompts
    """

    start: int
    stop: int
    cluster: int
    parent: int | None
    members: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """All steps of a run. Made by `build_plan`.

    Attributes
    ----------
    thresholds : (K,) float64
        non-increasing, the last is 0
    steps : tuple of K Step
    Z : (N-1, 4) float64
        the linkage matrix that was cut; None for a plan made by hand
    prompt_keys : tuple of N int, or None
        noise keys of the prompts, see `hierdiff_core.sampling.noise`
    merge_errors : (N-1,) float64, or None
        squared error that each merge adds, see `linkage.merge_errors`
    sensitivity : Sensitivity, or None
        of the model that will draw
    prompts : tuple of N str, or None
        for those who show the plan; nothing is looked up by them
    """

    thresholds: np.ndarray
    steps: tuple[Step, ...]
    Z: np.ndarray | None = None
    prompt_keys: tuple[int, ...] | None = None
    merge_errors: np.ndarray | None = None
    sensitivity: Sensitivity | None = None
    prompts: tuple[str, ...] | None = None

    @property
    def num_steps(self):
        return len(self.steps)

    @property
    def num_prompts(self):
        return len(self.steps[-1].labels)

    @cached_property
    def distinct(self):
        """(M,) int64   the prompts that differ, rising: of those with equal embeddings the first, for the others are
        drawn with it. All prompts of a plan made by hand.
        """
        if self.Z is None:
            return np.arange(self.num_prompts)
        return np.sort(self.steps[-1].first)

    @property
    def num_distinct(self):
        return len(self.distinct)

    @property
    def tau(self):
        return float(self.thresholds[0])

    @property
    def clusters_per_step(self):
        """(K,) int64 number of latents that each step denoises."""
        return np.array([step.num_clusters for step in self.steps])

    @property
    def nfe(self):
        """UNet rows of the whole run (a guidance pair counts as one)."""
        return int(self.clusters_per_step.sum())

    @property
    def nfe_standard(self):
        """UNet rows of a separate run for each prompt that differs."""
        return self.num_distinct * self.num_steps

    @property
    def saved(self):
        """Share of UNet rows saved against separate runs of the prompts that differ, 0 ... 1."""
        return 1 - self.nfe / self.nfe_standard

    @property
    def distortion(self):
        """Expected squared change of a picture's final latent (mean over its elements) against a run that shares
        nothing: sum_k w_k SSE_k / M. None for a plan that knows no merge errors or no sensitivity.
        """
        if self.Z is None or self.merge_errors is None or self.sensitivity is None:
            return None
        shared = self.Z[:, 2] <= self.thresholds[:, None]  # (K, N-1)
        sse = shared @ self.merge_errors
        return float(self.sensitivity.weights(self.num_steps) @ sse / self.num_distinct)

    @property
    def num_different(self):
        """About how many different pictures come out: prompts that are still together after the deciding step end in
        pictures that hardly differ.
        """
        weights = None if self.sensitivity is None else self.sensitivity.weights(self.num_steps)
        return self.steps[deciding_step(self.num_steps, weights)].num_clusters

    @property
    def looks_alike(self):
        """Whether at least half of the pictures are expected to look like another."""
        return self.num_distinct > 1 and self.num_different <= self.num_distinct / 2

    def straight_line(self):
        """The paper's straight line for the same tree, private steps and rows (or fewer rows, where heights tie).

        Raises
        ------
        ValueError
            if the plan does not know its linkage matrix.
        """
        shape = falling_shape(self.num_steps, private_steps=int((self.thresholds == 0).sum()))
        thresholds = thresholds_at(tau_for_saving(self._known_linkage(), shape, self.saved), shape)
        return self._cut_again(thresholds)

    def resampled(self, num_steps):
        """The plan for another number of steps, with thresholds interpolated over the same course.

        Raises
        ------
        ValueError
            if the plan does not know its linkage matrix.
        """
        if num_steps == self.num_steps:
            return self
        self._known_linkage()
        places = np.linspace(0, self.num_steps - 1, num_steps) if num_steps > 1 else [self.num_steps - 1]
        thresholds = np.interp(places, np.arange(self.num_steps), self.thresholds)
        return self._cut_again(thresholds)

    def _cut_again(self, thresholds):
        kept = self.prompt_keys, self.merge_errors, self.sensitivity, self.prompts
        return build_plan(self._known_linkage(), thresholds, *kept)

    def _known_linkage(self):
        if self.Z is None:
            raise ValueError("a plan without Z cannot be cut again; make it with build_plan")
        return self.Z

    @cached_property
    def branches(self):
        """tuple of Branch   parents before children."""
        branches, current = [], []  # current: index into `branches` of each cluster of the step before
        for k, step in enumerate(self.steps):
            split = np.bincount(step.parents, minlength=len(current) or 1) > 1
            previous, current = current, []
            for c, parent in enumerate(step.parents):
                if k == 0 or split[parent]:
                    members = np.flatnonzero(step.labels == c)
                    branches.append([k, k + 1, c, previous[parent] if k else None, members])
                    current.append(len(branches) - 1)
                else:
                    current.append(previous[parent])
                    branches[current[-1]][1:3] = k + 1, c
        return tuple(Branch(*fields) for fields in branches)


def deciding_step(num_steps, weights=None):
    """The step by which a picture of its own must have begun.

    Parameters
    ----------
    num_steps : int
    weights : (K,) float, optional
        w_k, see `hierdiff_core.plan.sensitivity`

    Returns
    -------
    k : int
        sharing steps 0 ... k takes more than half of the difference away that separate runs would make (the squared
        change that sharing all steps would cause); without weights, it leaves less than `LEAST_APART`
    """
    if weights is None:
        return max(num_steps - 1 - math.ceil(LEAST_APART * num_steps), 0)
    lost = np.cumsum(weights)
    return int(np.argmax(lost > lost[-1] / 2))


def build_plan(Z, thresholds, prompt_keys=None, merge_errors=None, sensitivity=None, prompts=None):
    """Cut `Z` at each threshold and link every cluster to its parent.

    Parameters
    ----------
    Z : (N-1, 4) float64
        linkage matrix; (0, 4) for a single prompt
    thresholds : (K,) float >= 0
        non-increasing, ending at 0
    prompt_keys : N ints, optional
        kept in the plan for samplers that know no texts
    prompts : N str, optional
        kept in the plan for those who show it
    merge_errors : (N-1,) float64, optional, and sensitivity : Sensitivity, optional
        for `Plan.distortion`

    Returns
    -------
    plan : Plan

    Raises
    ------
    ValueError
        if `Z` is no linkage matrix or the thresholds rise, are negative, not finite, or do not end at 0.

    Notes
    -----
    Prompts with equal embeddings merge at height 0 and stay one cluster to the end; `plan.steps[-1].labels`
    fans its latent out to each of them.

    Source: Decatur et al. 2025, Algorithm 1, lines 4-10.
    """
    Z = check_linkage(Z)
    thresholds = _check_thresholds(thresholds)
    previous = np.zeros(len(Z) + 1, dtype=np.int64)  # one cluster holds every prompt before the first step
    steps = []
    for t in thresholds:
        labels = flat_clusters(Z, t)
        _, first, counts = np.unique(labels, return_index=True, return_counts=True)
        steps.append(Step(labels, first, counts, parents=previous[first]))
        previous = labels
    keys = tuple(prompt_keys) if prompt_keys is not None else None
    texts = tuple(prompts) if prompts is not None else None
    return Plan(thresholds, tuple(steps), Z, keys, merge_errors, sensitivity, texts)


def _check_thresholds(thresholds):
    thresholds = np.array(thresholds, dtype=np.float64)
    if thresholds.ndim != 1 or len(thresholds) == 0:
        raise ValueError(f"thresholds must have shape (K,) with K >= 1; got {thresholds.shape}")
    if not (np.isfinite(thresholds).all() and (thresholds >= 0).all()):
        raise ValueError("thresholds must be finite heights >= 0")
    rises = np.flatnonzero(np.diff(thresholds) > 0)
    if len(rises):
        k = rises[0] + 1
        raise ValueError(
            f"thresholds must not increase; step {k} rises from {thresholds[k - 1]:.4g} to {thresholds[k]:.4g}"
        )
    if thresholds[-1] != 0:
        raise ValueError(
            f"thresholds must end at 0, where every prompt has a latent of its own; the last is {thresholds[-1]:.4g}"
        )
    return thresholds
