"""The passes of a run with shared steps: evaluations of one row, conditional or unconditional."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .plan_texts import passes_line, shared_line

if TYPE_CHECKING:
    from .model_calls import ModelCalls
    from .run_guidance import RunGuidance


class RunPasses:
    """Counts what the model evaluates in each call of the sampler.

    Parameters
    ----------
    calls : ModelCalls
        Of the run.

    Attributes
    ----------
    total : int
        Passes of the run so far.
    """

    def __init__(self, calls: ModelCalls):
        self.calls, self.total = calls, 0
        self._now = self._spared = 0  # of the sampler's call: passes; and of the run, when an evaluation began
        self._sides = 1  # the most that a row had

    def begin(self) -> None:
        """A call of the sampler begins."""
        self._now = 0

    def before(self) -> None:
        """The model is about to be evaluated."""
        self._spared = self.calls.shared.spared

    def add(self, sides: int, clusters: int) -> None:
        """Count an evaluation of some clusters with so many sides, but for the rows that they shared."""
        self._now += sides * clusters - (self.calls.shared.spared - self._spared)

    def end(self, clusters: int, rows: int, guidance: RunGuidance | None) -> None:
        """The call is over: of its clusters so many rows were evaluated, as a cache may have answered for some."""
        per_row = self._now / clusters
        self.total, self._sides = self.total + round(per_row * rows), max(self._sides, math.ceil(per_row))
        if guidance is not None:
            guidance.count(per_row, rows)

    def report(self, standard: int, guidance: RunGuidance | None) -> list[str]:
        """What guidance cost, where the plan says something of it or unconditional rows were shared, in lines.

        Parameters
        ----------
        standard : int
            Rows of separate runs.
        guidance : RunGuidance or None
            Where the plan says something of it.
        """
        spared = self.calls.shared.spared
        if guidance is not None:
            lines = guidance.report(standard)
        else:
            lines = [passes_line(self.total, standard * self._sides)] if spared else []
        return [*lines, *shared_line(spared)]
