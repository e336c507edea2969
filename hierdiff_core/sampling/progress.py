"""How far a run has come: the one place that counts its time, steps and rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING

import numpy as np

from .observer import Observer

if TYPE_CHECKING:
    from ..plan.plan import Plan


class RunProgress(Observer):
    """Counts the steps, rows and seconds of a run, for whatever shows them: nodes, the page, the command line.

    Parameters
    ----------
    plan : Plan
        Of the run.
    clock : callable
        ``clock() -> seconds``; time counts from now on.

    Attributes
    ----------
    step : int
        Steps that the branches heard of last have behind them, 0 ... K.
    rows : int
        Rows that the model has evaluated.
    standard_rows : int
        Rows that separate runs of the prompts would have taken by now. Between two steps, where the work goes depth
        first, in proportion to the rows.
    total : int
        Rows of the whole run by the plan, which samplers that evaluate the model several times a step exceed.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> progress = RunProgress(build_plan(np.array([[0, 1, 0.5, 2]]), [1.0, 0.0]))
    >>> progress.on_rows(0, [0])
    >>> (progress.step, progress.rows, progress.standard_rows, progress.total)
    (1, 1, 2, 3)
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic):
        self.plan = plan
        self.clock = clock
        self.began = clock()
        self.step = self.rows = self.standard_rows = 0
        self.total = plan.nfe
        self._until = np.cumsum(plan.clusters_per_step)  # rows of steps 0 ... k

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return self.clock() - self.began

    def on_rows(self, k: int, clusters: Sized, x0: object = None) -> None:
        """Count a step of some branches, each evaluated once."""
        self.step = k + 1
        self.rows += len(clusters)
        if self.rows == self._until[k]:
            self.standard_rows = self.plan.num_distinct * (k + 1)
        else:
            self.standard_rows = self.plan.nfe_standard * self.rows // self.plan.nfe

    def on_call(self, k: int, rows: int) -> None:
        """Count one evaluation of all branches of a step: the samplers of a host make any number of them in each.

        Parameters
        ----------
        k : int
            Denoising step.
        rows : int
            Rows that the model evaluated.
        """
        self.step = k + 1
        self.rows += rows
        self.standard_rows += self.plan.num_distinct

    def refine(self, plan: Plan) -> None:
        """Go on with a finer plan of the same steps.

        Parameters
        ----------
        plan : Plan
            More of its prompts may differ: what separate runs would have taken is counted for these.
        """
        self.standard_rows = self.standard_rows // max(self.plan.num_distinct, 1) * plan.num_distinct
        self.plan, self.total = plan, plan.nfe
        self._until = np.cumsum(plan.clusters_per_step)

    def on_remembered(self, rows: int) -> None:
        """Take back rows of the last evaluation: a cache answered for them.

        Parameters
        ----------
        rows : int
            Rows that the model did not evaluate.
        """
        self.rows -= rows
