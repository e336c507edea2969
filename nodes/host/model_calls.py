"""Calls of the model with one row for each cluster, in batches that fit the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...hierdiff_core.sampling.microbatch import MicroBatches
from .clusters import CurrentClusters
from .cond_rows import cond_bytes, cond_on_device, reduced_cond, sliced_cond
from .device import free_memory_beside

# Conditioning may take this share of a device's free memory to stay there from call to call.
CONDITIONING_SHARE = 0.05


class ModelCalls:
    """Evaluates the model for the clusters of a step, and hands the results to their rows.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    micro_batch : int
        Clusters per call; 0 as many as the host's estimate of memory allows.
    before_call : callable
        Called before every evaluation; may raise to stop.

    Notes
    -----
    On a CPU a call holds one cluster: matrix libraries round differently for different batch sizes, and one at a time a
    picture depends on no other row. Elsewhere calls are halved when memory runs out, and stay so until the run ends.
    """

    def __init__(self, current: CurrentClusters, micro_batch: int, before_call: Callable[[], None]):
        self.current = current
        self.micro_batch = micro_batch
        self.before_call = before_call
        self._batches: MicroBatches | None = None
        self._stays: bool | None = None  # whether the conditioning fits on the device of the latents
        self._on_device = {}  # it, by identity of the original
        self._clusters = None  # those that the next are for
        self._reduced = {}  # conditioning with a row for each cluster, by identity of the original

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options, *args, **kwargs) -> list:
        """A CALC_COND_BATCH wrapper: one row per cluster goes in, and comes back for every prompt.

        Raises
        ------
        ValueError
            If another node has changed the number of rows.
        """
        count, num_prompts = len(self.current.clusters.first), self.current.plan.num_prompts
        if len(x_in) != num_prompts:
            raise ValueError(
                f"the model is called with {len(x_in)} rows, but the plan is for {num_prompts} prompts: a node between "
                "Share Steps and the sampler, such as context windows over the batch, changes the rows; remove it"
            )
        conds = self._kept_on(conds, x_in.device, model)
        x, t = x_in, timestep
        if count < num_prompts:
            first, _ = self.current.indices(x_in.device)
            x, t = x_in[first], timestep[first]
            conds = [self._reduce(entries) for entries in conds]

        def evaluate(rows):
            if rows.stop - rows.start == count:
                return torch.stack(executor(model, conds, x, t, model_options, *args, **kwargs), dim=1)
            part = [entries and [sliced_cond(entry, rows, count) for entry in entries] for entries in conds]
            return torch.stack(executor(model, part, x[rows], t[rows], model_options, *args, **kwargs), dim=1)

        if self._batches is None:
            limit = rows_per_call(x_in.device, self.micro_batch) or num_prompts
            self._batches = MicroBatches(limit, self.before_call)
        outputs = self._batches.map(evaluate, count)  # (clusters, conds, ...)
        return list((self.current.spread(outputs) if count < num_prompts else outputs).unbind(dim=1))

    def _kept_on(self, conds, device, model):
        """Conditioning on the device if all of it fits: from elsewhere the host copies it anew for every call."""
        if self._stays is None:
            size = sum(cond_bytes(entry) for entries in conds for entry in entries or ())
            self._stays = device.type != "cpu" and size < CONDITIONING_SHARE * free_memory_beside(model, device)
        if not self._stays:
            return conds
        for entry in (entry for entries in conds for entry in entries or ()):
            if id(entry) not in self._on_device:
                self._on_device[id(entry)] = entry, cond_on_device(entry, device)
        return [entries and [self._on_device[id(entry)][1] for entry in entries] for entries in conds]

    def _reduce(self, entries):
        """One side of the conditioning with a row per cluster; None stays None (no negative pass)."""
        if entries is None:
            return None
        clusters = self.current.clusters
        if self._clusters is not clusters:
            self._clusters, self._reduced = clusters, {}
        for entry in entries:
            if id(entry) not in self._reduced:
                self._reduced[id(entry)] = entry, reduced_cond(entry, clusters)
        return [self._reduced[id(entry)][1] for entry in entries]


def rows_per_call(device: torch.device, micro_batch: int) -> int:
    """Clusters per call of the model; 0 for as many as the host's estimate of memory allows."""
    return 1 if device.type == "cpu" else micro_batch
