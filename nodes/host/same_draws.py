"""Random numbers that other packs draw inside a model: the same in each of several calls that stand for one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import torch


class SameDraws:
    """Lets several calls of a model draw the random numbers that one call for all of their rows would.

    Patches such as Token Merging and HyperTile draw from the global generators, which a sampler's seed has set. With a
    call for each row, every row draws what a run of its own would have drawn.

    Parameters
    ----------
    device : torch.device
        Of the model.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._before = self._states()
        self._after = None

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A context around one of the calls: it begins where the first began."""
        self._restore(self._before)
        yield
        self._after = self._after or self._states()

    @property
    def drawn(self) -> bool:
        """Whether one of the calls drew anything."""
        if self._after is None:
            return False
        python, *tensors = self._after
        before, *others = self._before
        return python != before or not all(map(torch.equal, tensors, others))

    def finish(self) -> None:
        """Go on as after the first of the calls."""
        self._restore(self._after or self._before)

    def undo(self) -> None:
        """Go on as if nothing had been drawn."""
        self._restore(self._before)

    def _states(self):
        devices = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return random.getstate(), torch.get_rng_state(), *devices

    def _restore(self, states):
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[2], self.device)
