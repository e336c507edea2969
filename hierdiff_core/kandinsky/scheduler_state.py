"""A diffusers scheduler's memory, as a value that follows the branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..sampling.state import State

_NEVER = object()


class SchedulerMemory:
    """Reads and writes what a diffusers scheduler remembers from step to step: the attributes that its steps change.

    All schedulers keep their memory in attributes, each in its own: earlier model outputs and samples, which hold a row
    for each branch, and counters. Whatever differs from the fresh scheduler is its memory.

    Parameters
    ----------
    scheduler : diffusers scheduler
        Fresh, with its timesteps set. It is used by one run at a time.

    Attributes
    ----------
    first : State
        Of a scheduler that has made no step.
    """

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.fresh = {name: _own(value) for name, value in vars(scheduler).items()}
        self.first = State()

    def write(self, state: State) -> None:
        """Make the scheduler remember a state, and nothing else.

        Parameters
        ----------
        state : State
            `first`, or what `read` gave; it is not changed by the steps that follow.
        """
        attributes = vars(self.scheduler)
        attributes.clear()
        attributes.update((name, _own(value)) for name, value in (self.fresh | dict(state.values)).items())

    def read(self, shape: Sequence[int]) -> State:
        """Take what the scheduler remembers.

        Parameters
        ----------
        shape : sequence of int
            Of the latents that it has made a step with.

        Returns
        -------
        State
            Plain values, to be written to this scheduler or to one like it in another process.
        """
        found = vars(self.scheduler).items()
        return State({n: v for n, v in found if not _same(v, self.fresh.get(n, _NEVER))}, tuple(shape))


def _own(value: Any) -> Any:
    """A list of one's own: some schedulers change theirs in place."""
    return [_own(item) for item in value] if isinstance(value, list) else value


def _same(value: Any, other: Any) -> bool:
    """Whether nothing was put in the place of a value."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    return value is other
