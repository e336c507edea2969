"""Branches that begin anew with other noise: rerolls and variants, with any scheduler.

A scheduler that draws noise in its steps draws other noise from a reroll on, and needs nothing of this but at the first
step, where the latent that all begin with is other noise too. The others draw none: their branch starts from the clean
latent that its parent was heading for, with a fresh amount of noise, as in img2img.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..devices import on_device
from ..sampling.noise import FIRST_LATENT
from ..sampling.state import State
from .schedulers import draws_noise

if TYPE_CHECKING:
    from ..plan.plan import Plan
    from ..sampling.noise import BranchNoise

HEADING_FOR = "heading for"  # in the state: clean latents, which are no memory of the scheduler's
LAST_SAMPLE = "last_sample"  # UniPC's: the latents before the step before, which it corrects its latents from


class FreshNoise:
    """Other noise for branches of a run that are rerolled.

    Parameters
    ----------
    scheduler : diffusers scheduler
        With its timesteps set.
    noise : BranchNoise
        Of the run.
    """

    def __init__(self, scheduler: Any, noise: BranchNoise):
        self.scheduler, self.noise = scheduler, noise
        self.clusters = fresh_clusters(noise.plan, draws_noise(scheduler))
        self.last = max(self.clusters, default=-1)

    def remembered(self, state: State, k: int, x0: torch.Tensor) -> State:
        """The state after step k, with what later steps need to begin anew.

        Parameters
        ----------
        state : State
            After the step.
        k : int
            Step.
        x0 : (C, ...) tensor
            The clean latents that the branches are heading for.

        Returns
        -------
        state : State
        """
        return replace(state, values={**state.values, HEADING_FOR: x0}) if self.wanted(k) else state

    def wanted(self, k: int) -> bool:
        """Whether clean latents of step k are asked for."""
        return k < self.last

    def renewed(self, rows: torch.Tensor, k: int, clusters: np.ndarray, state: State) -> tuple[torch.Tensor, State]:
        """Latents and state before step k, with those of branches that begin anew there.

        Parameters
        ----------
        rows : (C, ...) tensor
            Latents.
        k : int
            Step.
        clusters : (C,) int64 array
            Their labels in the plan's step.
        state : State
            What the step before handed on.

        Returns
        -------
        rows : (C, ...) tensor
        state : State
            Without what `remembered` put into it.
        """
        values = {name: value for name, value in state.values.items() if name != HEADING_FOR}
        fresh = self.clusters.get(k)
        places = np.empty(0, dtype=np.int64) if fresh is None else np.flatnonzero(fresh[clusters])
        if not len(places):
            return rows, replace(state, values=values)
        at = on_device(places, rows.device)
        if k == 0:
            rows = rows.index_copy(0, at, self.first(rows[at], clusters[places]))
            return rows, replace(state, values=values)
        x0, drawn = state.values[HEADING_FOR][at], self.drawn(rows[at], self.noise.generators(k, clusters[places]))
        rows = rows.index_copy(0, at, self.noised(x0, drawn, k))
        return rows, replace(state, values=self.with_last_sample(values, at, self.noised(x0, drawn, k - 1)))

    def first(self, rows: torch.Tensor, clusters: np.ndarray) -> torch.Tensor:
        """Other first latents of some clusters."""
        sources, keys = dict(self.noise.sources), self.noise.keys(0)
        seeds = self.noise.plan.branch_seeds(0)
        drawn = [
            self.drawn(row[None], sources[seeds[c]](FIRST_LATENT, [keys[c]]))
            for row, c in zip(rows, clusters.tolist(), strict=True)
        ]
        return torch.cat(drawn) * self.scheduler.init_noise_sigma

    def drawn(self, like: torch.Tensor, generators: Any) -> torch.Tensor:
        """Noise of the shape of some latents, on their device."""
        from diffusers.utils.torch_utils import randn_tensor

        noise = randn_tensor(tuple(like.shape), generator=generators, device=torch.device("cpu"), dtype=like.dtype)
        return on_device(noise, like.device)

    def noised(self, x0: torch.Tensor, noise: torch.Tensor, k: int) -> torch.Tensor:
        """Clean latents with as much noise as there is before step k."""
        return self.scheduler.add_noise(x0, noise, self.scheduler.timesteps[k].expand(len(x0)))

    def with_last_sample(self, values: Mapping[str, Any], at: torch.Tensor, sample: torch.Tensor) -> dict[str, Any]:
        """A scheduler's memory in which these rows have come from the same noise."""
        last = values.get(LAST_SAMPLE)
        return dict(values) if last is None else {**values, LAST_SAMPLE: last.index_copy(0, at, sample.to(last.dtype))}


def fresh_clusters(plan: Plan, draws: bool) -> dict[int, np.ndarray]:
    """The clusters, (C,) bool, that begin anew at each step where one does.

    Parameters
    ----------
    plan : Plan
    draws : bool
        Whether the scheduler draws noise in its steps: then only the first latents are other ones.

    Returns
    -------
    clusters : dict of int to array
    """
    steps = range(1 if draws else plan.num_steps) if plan.rerolls else ()
    found = {k: np.asarray(plan.fresh(k), dtype=bool) for k in steps}
    return {k: fresh for k, fresh in found.items() if fresh.any()}
