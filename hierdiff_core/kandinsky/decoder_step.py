"""One denoising step of a Kandinsky decoder, for Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..devices import on_device
from ..sampling.microbatch import MicroBatches
from ..sampling.noise import BranchNoise
from ..sampling.observer import Observer
from ..sampling.reuse import StoredRows
from ..sampling.state import State
from .fresh_noise import FreshNoise
from .scheduler_noise import step_with_noise, takes_generator
from .scheduler_state import SchedulerMemory
from .schedulers import learns_variance, predicted_original
from .shared import Entries, SharedRows, in_few_calls


class DecoderStep:
    """One denoising step of some branches: the guided UNet in micro-batches, then one step of the scheduler.

    Parameters
    ----------
    network : callable
        ``(latents, t, image_embeds) -> float32 prediction``, see `unet_calls`.
    scheduler : diffusers scheduler
        Fresh, with its timesteps set.
    guidance : K float or (C_k,) float64 arrays
        Of each step, or of each of its clusters in the whole plan; 1 or less: none.
    noise : BranchNoise
        Of the run.
    batches : MicroBatches
        Of the run.
    observer : Observer, optional
        Hears of the rows of each step.
    stored : StoredRows, optional
        Has rows of earlier runs, and gets those of this one.
    stop : int, optional
        Steps after which the clean latents are given that the branches are heading for.
    families : K (C_k,) int64 arrays, optional
        The clusters of each step of the whole plan that take one unconditional row, see `shared_families`; None: each
        has its own.

    Attributes
    ----------
    first : State
        What the first step is given.
    """

    def __init__(
        self,
        network: Any,
        scheduler: Any,
        guidance: Sequence[float] | Sequence[np.ndarray] | np.ndarray,
        noise: BranchNoise,
        batches: MicroBatches,
        observer: Observer | None = None,
        stored: StoredRows | None = None,
        stop: int | None = None,
        families: Sequence[np.ndarray] | None = None,
    ):
        self.network = network
        self.scheduler = scheduler
        self.guidance = [np.asarray(value, dtype=np.float64) for value in guidance]
        self.noise = noise
        self.batches = batches
        self.observer = observer
        self.stored, self.stop = stored, stop
        self.sharing = None if families is None else SharedRows(families)
        self.fresh = FreshNoise(scheduler, noise)
        self.memory = SchedulerMemory(scheduler)
        self.first = self.memory.first
        self.draws = takes_generator(scheduler)
        self.learns_variance = learns_variance(scheduler)
        self.timesteps = scheduler.timesteps.to(network.device)  # once: a copy in each step would wait for the device

    def __call__(
        self, rows: torch.Tensor, k: int, clusters: np.ndarray, means: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        """Make step k; on a GPU nothing in it waits for the UNet to be done.

        Parameters
        ----------
        rows : (C, ...) tensor
            Latents of the branches.
        k : int
            Denoising step.
        clusters : (C,) int64 array
            Their labels in the plan's step.
        means : (2, C, D) tensor
            Their mean embeddings, positive then negative.
        state : State
            What the step before handed on.

        Returns
        -------
        rows : (C, ...) tensor
            Latents after the step.
        state : State
            For the next one.
        """
        rows, state = self.fresh.renewed(rows, k, clusters, state)
        self.memory.write(state)
        t = self.scheduler.timesteps[k]
        scaled = self.scheduler.scale_model_input(rows, t)
        output = self.outputs(scaled, k, clusters, means)
        last = k + 1 == self.stop
        if last:
            moved = rows
        elif self.draws:
            moved = step_with_noise(self.scheduler, output, t, rows, self.noise.generators(k, clusters))
        else:
            moved = self.scheduler.step(output, t, rows).prev_sample
        state = self.memory.read(moved.shape)
        if last or self.observer is not None or self.fresh.wanted(k):
            x0 = predicted_original(self.scheduler, scaled, t, output[:, : rows.shape[1]])
            moved, state = x0 if last else moved, self.fresh.remembered(state, k, x0)
            if self.observer is not None:
                self.observer.on_rows(k, clusters, x0)
        return moved, state

    def outputs(self, scaled: torch.Tensor, k: int, clusters: np.ndarray, means: torch.Tensor) -> torch.Tensor:
        """What the scheduler takes of the UNet's predictions for some clusters of step k, from the store or the UNet.

        Parameters
        ----------
        scaled : (C, ...) tensor
            Latents after `scale_model_input`.
        k : int
            Denoising step.
        clusters : (C,) int64 array
            Labels in the plan's step.
        means : (2, C, D) tensor
            Mean embeddings.

        Returns
        -------
        (C, ...) float32 tensor
        """
        kept, t = None if self.learns_variance else scaled.shape[1], self.timesteps[k]
        if self.sharing is not None:
            self.sharing.ask(k, clusters)

        def evaluate(places: np.ndarray | None) -> torch.Tensor:
            if places is None:
                return self.of_clusters(scaled, t, means, k, clusters)[:, :kept]
            rows = on_device(places, scaled.device)
            return self.of_clusters(scaled[rows], t, means[:, rows], k, clusters[places])[:, :kept]

        return evaluate(None) if self.stored is None else self.stored(k, clusters, scaled.device, evaluate)

    def of_clusters(
        self, latents: torch.Tensor, t: torch.Tensor, embeddings: torch.Tensor, k: int, clusters: np.ndarray
    ) -> torch.Tensor:
        """`predictions` for some clusters of step k, which share unconditional rows where they may."""
        guidance = self.strengths(k, clusters)
        guided = np.broadcast_to(np.asarray(guidance) > 1, len(clusters))
        entries = None if self.sharing is None else self.sharing.entries(k, clusters, guided)
        if entries is None:
            return self.predictions(latents, t, embeddings, guidance)
        return self.shared(latents, k, embeddings, guidance, entries)

    def shared(
        self, latents: torch.Tensor, k: int, embeddings: torch.Tensor, guidance: float | np.ndarray, entries: Entries
    ) -> torch.Tensor:
        """`predict` for rows of which some take one unconditional row: a conditional pass of each, and that one."""
        assert self.sharing is not None
        rows, sides, guided, of = (
            on_device(own, latents.device)
            for own in (entries.rows, entries.sides, entries.guided, entries.unconditional)
        )
        inputs, given = latents[rows].to(self.network.dtype), embeddings[sides, rows].to(self.network.dtype)
        t, (count, channels) = self.timesteps[k], latents.shape[:2]
        made = in_few_calls(self.batches, lambda part: self.network(inputs[part], t, given[part]), len(rows))
        made = self.sharing.with_known(k, entries, made)
        conditional, unconditional = made[guided, :channels], made[of, :channels]
        factor: Any = guidance
        if isinstance(guidance, np.ndarray):
            factor = on_device(guidance[entries.guided].astype(np.float32), latents.device).view(-1, 1, 1, 1)
        noise = unconditional + factor * (conditional - unconditional)
        return torch.cat([made[:count, :channels].index_copy(0, guided, noise), made[:count, channels:]], dim=1)

    def strengths(self, k: int, clusters: np.ndarray) -> float | np.ndarray:
        """Guidance of some of a step's clusters: one number where they have the same, else (C,) float64."""
        known = self.guidance[k]
        own = known[clusters] if known.ndim else known[None]
        return float(own[0]) if (own == own[0]).all() else own

    def predictions(
        self, latents: torch.Tensor, t: torch.Tensor, embeddings: torch.Tensor, guidance: float | np.ndarray
    ) -> torch.Tensor:
        """`predict` in micro-batches; rows that have guidance and rows that have none are not in one.

        A row's prediction is the same whatever rows are beside it: the factor of each is rounded as a single one is.
        """
        if not isinstance(guidance, np.ndarray):
            return self.batches.map(
                lambda part: self.predict(latents[part], t, embeddings[:, part], guidance), len(latents)
            )
        each = on_device(guidance.astype(np.float32), latents.device).view(-1, 1, 1, 1)

        def predict(rows: list[int]) -> torch.Tensor:
            places = on_device(np.array(rows), latents.device)
            own = each[places] if guidance[rows[0]] > 1 else 1.0
            return self.predict(latents[places], t, embeddings[:, places], own)

        groups = [np.flatnonzero(guidance > 1).tolist(), np.flatnonzero(guidance <= 1).tolist()]
        return self.batches.map_groups(predict, [rows for rows in groups if rows])

    def predict(
        self, latents: torch.Tensor, t: torch.Tensor, embeddings: torch.Tensor, guidance: float | torch.Tensor
    ) -> torch.Tensor:
        """Noise (and variance) prediction after guidance: (B, C or 2C, h, w) float32.

        Guidance, one number or (B, 1, 1, 1) numbers above 1, moves the noise alone; the variance is the conditional
        pass's, as in `KandinskyV22Pipeline`.
        """
        positive, negative = embeddings.to(self.network.dtype)
        latents = latents.to(self.network.dtype)
        if isinstance(guidance, float) and guidance <= 1:
            return self.network(latents, t, positive)
        both = self.network(torch.cat([latents, latents]), t, torch.cat([negative, positive]))
        noise, variance = both.split([latents.shape[1], both.shape[1] - latents.shape[1]], dim=1)
        unconditional, conditional = noise.chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        return torch.cat([guided, variance.chunk(2)[1]], dim=1)
