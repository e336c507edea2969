"""Which clusters of a plan are current while one of the host's samplers runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ...hierdiff_core.devices import on_device
from ...hierdiff_core.plan.part import has_founders
from ...hierdiff_core.sampling.progress import RunProgress

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan, Step

SAME_SIGMA = 1 - 1e-6  # sigmas are float32
WHOLE_RUN = 0.999  # of the model's largest sigma: a run that begins below it begins part-way


class Clusters(NamedTuple):
    """Flat clusters numbered by first appearance, so that separate prompts keep their order.

    labels : (N,) int64, first : (C,) int64, counts : (C,) int64, as in `plan.Step`
    distinct : (M,) int64   the prompts that count in means: of equal ones the first; None: all
    founders : Founders     the rows that count in means, where these are not the prompts' own; else None
    """

    labels: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    distinct: np.ndarray | None = None
    founders: Founders | None = None

    def counting(self, applies: np.ndarray) -> Clusters:
        """The same clusters, in whose means only some rows count: (N,) bool, or one more for each that is gone."""
        if self.founders is not None:
            return self._replace(founders=self.founders.of_rows(np.flatnonzero(applies)))
        all_of_them = np.arange(len(self.labels)) if self.distinct is None else self.distinct
        return self._replace(distinct=all_of_them[applies[all_of_them]])

    @property
    def counted(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that means are made of, and their clusters: two (F,) int64."""
        if self.founders is not None:
            return self.founders.rows, self.founders.labels
        all_of_them = np.arange(len(self.labels)) if self.distinct is None else np.asarray(self.distinct)
        return all_of_them, self.labels[all_of_them]


class Founders(NamedTuple):
    """The rows that the means of clusters are made of, whoever has joined or left since.

    rows : (F,) int64     rows of the conditioning: below N the plan's prompts, from N on prompts that are gone
    labels : (F,) int64   their clusters
    count : int           rows of the conditioning, with those of prompts that are gone
    """

    rows: np.ndarray
    labels: np.ndarray
    count: int

    def of_rows(self, some: np.ndarray) -> Founders:
        """Those among some rows."""
        kept = np.isin(self.rows, some)
        return self._replace(rows=self.rows[kept], labels=self.labels[kept])


def rows_of_leaves(plan: Plan) -> np.ndarray:
    """(L,) int64: of each leaf of a plan's tree the prompt that it is; -1 for those that are gone."""
    if plan.frozen is None:
        return np.arange(plan.num_prompts)
    rows = np.full(plan.frozen.tree.num_prompts, -1)
    rows[plan.frozen.present] = np.arange(plan.num_prompts)
    return rows


def in_prompt_order(step: Step, distinct: np.ndarray | None = None) -> Clusters:
    """`Clusters` of a plan's step, and the plan's prompts that differ."""
    order = np.argsort(step.first)
    rank = np.argsort(order)
    return Clusters(rank[step.labels], step.first[order], step.counts[order], distinct)


def rows_equal(tensor: torch.Tensor, clusters: Clusters) -> bool:
    """Whether the rows (N, ...) of every cluster are bit-identical."""
    return torch.equal(tensor[clusters.first][clusters.labels], tensor)


class CurrentClusters:
    """The clusters of one run, by the sigma of each call of the model. They are only ever refined.

    Parameters
    ----------
    plan : Plan
        For N prompts and K steps.
    sigmas : (S + 1,) tensor
        Of the sampler's steps.
    first_step : int
        The plan's step that the sampler begins with, where it runs only a part of the plan.
    leaf_rows : (L,) int64, optional
        For a plan that prompts were attached to or removed from: the conditioning's row of each of its leaves, -1 for
        one that is gone and unknown.

    Attributes
    ----------
    clusters : Clusters
        The current ones.
    k : int
        The plan's step whose clusters these are.
    calls : int
        Calls of the model so far.
    progress : RunProgress
        Rows that they evaluated, and time.
    keys : list of C int
        What the current clusters' noise is a function of.
    seeds : list of C (int or None)
        Of the current clusters, whose prompts have a seed of their own; None: that of the run.
    by_call : bool
        Set for a sampler that calls once a step at sigmas of its own.
    raised : float >= 1
        By how much a sampler raises the sigma of a call above that of its step, at most.
    known_sigmas : list of float, or None
        Of all calls, where they are known before the first of them.
    equal_inputs : callable
        Gives (N,) int64, equal for prompts whose inputs are all the same, so that their pictures are too.
    followers : list of callable
        Each is called as ``follow(rows)`` when clusters split, with rows (C,) int64: the row that each of the new
        clusters had among the clusters before.
    parents : (C,) int64 array or None
        Where clusters have split since the call before: the row that each of them had then.
    begins_anew : bool
        Whether a sampler forgets at the present call what it remembers.
    whole : CurrentClusters or None
        Of the run that this one draws a part of.

    Raises
    ------
    ValueError
        If the sigmas rise.
    """

    def __init__(self, plan: Plan, sigmas: torch.Tensor, first_step: int = 0, leaf_rows: np.ndarray | None = None):
        check_falling(sigmas)
        self.plan = plan
        self.leaf_rows = rows_of_leaves(plan) if leaf_rows is None else leaf_rows
        self.sigmas = sigmas.detach().cpu().double()
        self.k = self.first_step = first_step
        self.last_step = first_step + len(sigmas) - 2
        self.calls = 0
        self.progress = RunProgress(plan, steps=range(first_step, self.last_step + 1))
        self.by_call = False
        self.raised = 1.0
        self.known_sigmas: list[float] | None = None
        self.equal_inputs: Callable[[], np.ndarray] = lambda: np.arange(plan.num_prompts)
        self.followers: list[Callable[[np.ndarray], None]] = []
        self.parents: np.ndarray | None = None
        self.begins_anew = False
        self.whole: CurrentClusters | None = None
        self._advanced = 0  # the call that `parents` is of
        self._use(first_step)

    def _split(self, k: int) -> None:
        before = self.clusters
        self._use(k)
        rows = before.labels[self.clusters.first]
        self.parents = rows if self.parents is None else self.parents[rows]
        for follow in self.followers:
            follow(rows)

    def refine(self, plan: Plan) -> None:
        """Go on with a finer plan of the same steps, in mid-call: what rows are given turned out to differ."""
        self.plan = plan
        self.progress.refine(plan)
        before = len(self.clusters.first)
        self._split(self.k)
        self.progress.on_made_anew(self.k, len(self.clusters.first) - before)
        if self.calls <= 1:  # there was no call before
            self.parents = None

    def _use(self, k: int) -> None:
        step = self.plan.steps[k]
        order, seeds = np.argsort(step.first), self.plan.branch_seeds(k)
        self.clusters = in_prompt_order(step, self.plan.distinct)._replace(founders=self._founders(k, order))
        self.keys, self.seeds = self._keys(k), [seeds[c] for c in order]
        self._indices = {}
        self._members = None

    def _keys(self, k):
        """What the noise of the clusters of a step is a function of, in prompt order."""
        keys = self.plan.noise_keys(k)
        return [keys[c] for c in np.argsort(self.plan.steps[k].first)]

    def _founders(self, k, order):
        """Of the clusters of a step in prompt order; None where their members are."""
        if not has_founders(self.plan):
            return None
        members, found = self.plan.steps[k].members, self.plan.founders(k)
        rows = [known[known >= 0] for known in (self.leaf_rows[found[c]] for c in order)]
        rows = [own if len(own) else members[c] for own, c in zip(rows, order, strict=True)]
        labels = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        return Founders(np.concatenate(rows), labels, max(int(self.leaf_rows.max()) + 1, self.plan.num_prompts))

    @property
    def rows(self) -> int:
        """Rows of the conditioning: the plan's prompts, and those that are gone but belong to a mean."""
        return self.plan.num_prompts if self.clusters.founders is None else self.clusters.founders.count

    @property
    def members(self) -> list[list[int]]:
        """The prompts of each of the current clusters."""
        if self._members is None:
            self._members = [[] for _ in self.clusters.first]
            for prompt, cluster in enumerate(self.clusters.labels.tolist()):
                self._members[cluster].append(prompt)
        return self._members

    def know_sigmas(self, sigmas: list[float] | None) -> None:
        """Note the sigmas of all calls, or that they are not known."""
        self.known_sigmas = sigmas
        if sigmas is not None:
            self.progress.expect([min(self.step_of(sigma), self.last_step) for sigma in sigmas])

    def look_up(self, timestep: torch.Tensor) -> None:
        """Make the clusters of a call's sigma current, and count the call."""
        self.advance(timestep)
        self.calls += 1
        self.progress.on_call(self.k, len(self.clusters.first))

    def advance(self, timestep: torch.Tensor) -> None:
        """Make the clusters of the next call's sigma current; never back to coarser ones."""
        k = self.first_step + self.calls if self.by_call else self.step_of(self._sigma(timestep))
        k = min(k, self.last_step)
        if self._advanced != self.calls:  # for a mask the host asks before the call itself
            self._advanced, self.parents = self.calls, None
        self.go_to(k)

    def go_to(self, k: int) -> None:
        """Make the clusters of a step current, if it is a later one."""
        if k > self.k:
            step = self.plan.steps[k]
            finer = step.num_clusters > len(self.clusters.first) or self._has_other_founders(k)
            self.k = k
            if finer:
                self._split(k)
            elif self.plan.rerolls:  # a branch of a single prompt may be rerolled, without a split
                self.keys = self._keys(k)

    def _has_other_founders(self, k):
        """Whether means are of others at a step without a split, since somebody who is gone parts there."""
        now = self._founders(k, np.argsort(self.plan.steps[k].first))
        if self.clusters.founders is None or now is None:
            return False
        return not all(map(np.array_equal, now[:2], self.clusters.founders[:2]))

    def _sigma(self, timestep: torch.Tensor) -> float:
        """The sigma of this call, if need be read from the device."""
        if self.known_sigmas is not None and self.calls < len(self.known_sigmas):
            return self.known_sigmas[self.calls]
        return float(timestep.flatten()[0]) / self.raised

    def step_of(self, sigma: float) -> int:
        """The plan's step that covers a sigma: from sigmas[i] down to above sigmas[i + 1] it is the i-th of the run."""
        return self.first_step + int((self.sigmas[:-1] >= sigma * SAME_SIGMA).sum()) - 1

    def rows_parted(self, x: torch.Tensor) -> torch.Tensor | None:
        """Whether the latents (N, ...) of a cluster differ: a flag on their device. None where nothing is shared."""
        if len(self.clusters.first) == self.plan.num_prompts:
            return None
        return (x != self.of_first(x)).any() & x.isfinite().all()  # NaN is told of elsewhere

    @property
    def is_short_of_last(self) -> bool:
        """Whether clusters that the run's last step has apart are still together."""
        return len(self.clusters.first) < self.plan.steps[self.last_step].num_clusters

    def indices(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """First prompt of each cluster (C,) and cluster of each prompt (N,), on a device."""
        if device not in self._indices:
            self._indices[device] = on_device(self.clusters.first, device), on_device(self.clusters.labels, device)
        return self._indices[device]

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, ...) from one row for each cluster."""
        return rows[self.indices(rows.device)[1]]

    def of_first(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, ...) in which every prompt has the row of its cluster's first."""
        return self.spread(rows[self.indices(rows.device)[0]])

    def all_rows(self, tensor: torch.Tensor, name: str, fix: str) -> torch.Tensor:
        """`tensor` with N rows that are equal within the clusters of the first step.

        Raises
        ------
        ValueError
            Naming the tensor, if it has neither 1 row nor N, or if rows of one cluster differ.
        """
        rows = rows_for_all(tensor, self.plan.num_prompts, name, fix)
        if rows is tensor and not rows_equal(tensor, in_prompt_order(self.plan.steps[self.first_step])):
            raise ValueError(f"{name} differs between prompts that share their first step; {fix}")
        return rows


def rows_for_all(tensor: torch.Tensor, num_prompts: int, name: str, fix: str) -> torch.Tensor:
    """`tensor` with N rows: its own, or the only one repeated.

    Raises
    ------
    ValueError
        Naming the tensor, if it has another number of rows or is of several media.
    """
    if tensor.is_nested:
        raise ValueError(f"{name} is a nested latent (several media in one); step sharing takes one medium")
    if tensor.shape[0] == num_prompts:
        return tensor
    if tensor.shape[0] != 1:
        raise ValueError(f"{name} has {tensor.shape[0]} rows, but the plan is for {num_prompts} prompts; {fix}")
    return tensor.expand(num_prompts, *tensor.shape[1:]).clone()


def check_falling(sigmas: torch.Tensor) -> None:
    """Refuse sigmas that rise.

    Raises
    ------
    ValueError
        If they do.
    """
    if (sigmas.diff() > 0).any():
        raise ValueError("sigmas must fall from step to step; step sharing cannot run a sampler backwards")


def part_of_plan(plan: Plan, sigmas: torch.Tensor, sigma_max: float) -> tuple[Plan, int]:
    """The plan for a run of some sigmas, and the plan's step that the run begins with.

    Parameters
    ----------
    plan : Plan
        For K steps.
    sigmas : (S + 1,) tensor
        Of the run.
    sigma_max : float
        The model's largest.

    Returns
    -------
    plan : Plan
        As it is where the run is a part of it: with fewer steps, which begin below `sigma_max` or end above 0, as
        start_at_step and end_at_step of the host's KSampler (Advanced) make them. Else resampled over S steps.
    first_step : int
        0 unless the run is the last part.

    Raises
    ------
    ValueError
        For a part from the middle, of which nobody can tell where it lies, and for sigmas that rise.
    """
    check_falling(sigmas)
    steps = len(sigmas) - 1
    late, early = float(sigmas[0]) < WHOLE_RUN * sigma_max, float(sigmas[-1]) > 0
    if steps >= plan.num_steps or not (late or early):
        return plan.resampled(steps), 0
    if late and early:
        raise ValueError(
            f"a run of {steps} steps that neither begins with the first sigma nor ends at 0 has no certain place in a "
            f"plan of {plan.num_steps} steps; let the sampler run the first or the last steps of the plan"
        )
    return plan, plan.num_steps - steps if late else 0
