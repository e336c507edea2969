"""Calls of the model with one row for each cluster, in batches that fit the memory."""

import comfy.model_management
import torch

from ...hierdiff_core.devices import on_device
from ...hierdiff_core.sampling.microbatch import MicroBatches
from .cond_rows import cond_bytes, moved_cond, reduced_cond, sliced_cond

# Conditioning may take this share of a device's free memory to stay there from call to call.
CONDITIONING_SHARE = 0.05


class ModelCalls:
    """Evaluates the model for the clusters of a step, and hands the results to their rows.

    Parameters
    ----------
    num_prompts : int
    micro_batch : int
        clusters per call; 0 as many as the host's estimate of memory allows

    Notes
    -----
    On a CPU a call holds one cluster: matrix libraries round differently for different batch sizes, and one at a time a
    picture depends on no other row. Elsewhere calls are halved when memory runs out, and stay so until the run ends.
    """

    def __init__(self, num_prompts, micro_batch):
        self.num_prompts = num_prompts
        self.micro_batch = micro_batch
        self.batches = None
        self.moved = {}  # the original on the device of the latents
        self.moves = None  # whether it fits there

    def use(self, clusters):
        """Make these `Clusters` the current ones."""
        self.clusters = clusters
        self.reduced = {}  # their conditioning, by identity of the original
        self.indices = {}  # their first and labels by device

    def on(self, device):
        """first (C,) and labels (N,) of the current clusters, on a device."""
        if device not in self.indices:
            self.indices[device] = on_device(self.clusters.first, device), on_device(self.clusters.labels, device)
        return self.indices[device]

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options, *args, **kwargs):
        """A CALC_COND_BATCH wrapper: one row per cluster goes in, and comes back for every prompt."""
        conds = self.near(conds, x_in.device)
        count = len(self.clusters.first)
        x, t, labels = x_in, timestep, None
        if count < self.num_prompts:
            first, labels = self.on(x_in.device)
            x, t = x_in[first], timestep[first]
            conds = [self.reduce(entries) for entries in conds]

        def evaluate(rows):
            if rows.stop - rows.start == count:
                return torch.stack(executor(model, conds, x, t, model_options, *args, **kwargs), dim=1)
            part = [entries and [sliced_cond(entry, rows, count) for entry in entries] for entries in conds]
            return torch.stack(executor(model, part, x[rows], t[rows], model_options, *args, **kwargs), dim=1)

        if self.batches is None:
            limit = rows_per_call(x_in.device, self.micro_batch) or self.num_prompts
            check = comfy.model_management.throw_exception_if_processing_interrupted
            self.batches = MicroBatches(limit, check)
        outputs = self.batches.map(evaluate, count)  # (clusters, conds, ...)
        return list((outputs if labels is None else outputs[labels]).unbind(dim=1))

    def near(self, conds, device):
        """Conditioning on the device if all of it fits: from elsewhere the host copies it anew for every call."""
        if self.moves is None:
            size = sum(cond_bytes(entry) for entries in conds for entry in entries or ())
            free = comfy.model_management.get_free_memory(device)
            self.moves = device.type != "cpu" and size < CONDITIONING_SHARE * free
        if not self.moves:
            return conds
        for entry in (entry for entries in conds for entry in entries or ()):
            if id(entry) not in self.moved:
                self.moved[id(entry)] = entry, moved_cond(entry, device)
        return [entries and [self.moved[id(entry)][1] for entry in entries] for entries in conds]

    def reduce(self, entries):
        """One side of the conditioning with a row per cluster; None stays None (no negative pass)."""
        if entries is None:
            return None
        for entry in entries:
            if id(entry) not in self.reduced:
                self.reduced[id(entry)] = entry, reduced_cond(entry, self.clusters)
        return [self.reduced[id(entry)][1] for entry in entries]


def rows_per_call(device, micro_batch):
    """Clusters per call of the model; 0 for as many as the host's estimate of memory allows."""
    return 1 if device.type == "cpu" else micro_batch
