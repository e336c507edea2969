"""How far a run has come: the one place that counts its time, steps, rows and work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .observer import Observer
from .pace import Pace, about, in_words

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..plan.plan import Plan

SAME_TIME = 1.02  # full sampling that takes less than so many times as long is told as taking as long


class Times(NamedTuple):
    """The seconds of a run, each None where nothing is known yet.

    Attributes
    ----------
    elapsed : float or None
        Since the run began; its duration once it has ended.
    left : float or None
        What it will take yet.
    full : float or None
        What full sampling would take: each prompt by itself, and guided in each step if any step is guided.
    share : float
        Of the run's work that is done, 0 ... 1.
    """

    elapsed: float | None = None
    left: float | None = None
    full: float | None = None
    share: float = 0.0


class RunProgress(Observer):
    """Counts the steps, rows and seconds of a run, for whatever shows them: nodes, the page, the command line.

    Parameters
    ----------
    plan : Plan
        Of the run.
    clock : callable
        ``clock() -> seconds``; time counts from now on.
    passes : (K,) numbers, optional
        Evaluations that a row of each step takes: 2 where it is guided, on average less where some of its rows share
        the unconditional one. One each when None.
    steps : range, optional
        The plan's steps that the run takes; all when None.

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
    reused : int
        Rows that a store had: they are not among `rows`.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> seconds = iter([0.0, 5.0, 9.0, 12.0])
    >>> plan = build_plan(np.array([[0, 1, 0.5, 2]]), [1.0, 1.0, 0.0])
    >>> progress = RunProgress(plan, clock=lambda: next(seconds))
    >>> progress.on_rows(0, [0])
    >>> progress.on_rows(1, [0])
    >>> (progress.step, progress.rows, progress.standard_rows, progress.total)
    (2, 2, 4, 4)
    >>> progress.times()
    Times(elapsed=12.0, left=5.0, full=25.0, share=0.5)
    """

    def __init__(
        self,
        plan: Plan,
        clock: Callable[[], float] = time.monotonic,
        passes: ArrayLike | None = None,
        steps: range | None = None,
    ):
        self.plan = plan
        self.clock = clock
        self.began = self._latest = clock()
        self.ended: float | None = None
        self.step = self.rows = self.standard_rows = self.reused = 0
        self.total = plan.nfe
        self.passes = np.ones(plan.num_steps) if passes is None else np.asarray(passes, dtype=np.float64)
        self.steps = range(plan.num_steps) if steps is None else steps
        self.pace = Pace()
        self._until = np.cumsum(plan.clusters_per_step)  # rows of steps 0 ... k
        self._done = self._pending = self._spared = 0.0  # work; of the evaluation under way; that a store took away
        self._taken = 0  # rows of the next step that a store had
        self._stored = np.zeros(plan.num_steps)  # rows of each step that a store is known to have
        self._calls = np.zeros(plan.num_steps)  # evaluations of each step; 0 where each branch has one
        self._expected: np.ndarray | None = None  # of these, where they are known before

    @property
    def seconds(self) -> float:
        """Time since the run began, until it has ended."""
        return (self.clock() if self.ended is None else self.ended) - self.began

    def on_rows(self, k: int, clusters: Sized, x0: object = None) -> None:
        """Count a step of some branches, each evaluated once."""
        self.step = k + 1
        self.rows += len(clusters)
        self._pending = float(self.passes[k]) * len(clusters)
        self._take(k)
        if self.rows + self.reused == self._until[k]:
            self.standard_rows = self.plan.num_distinct * (k + 1)
        else:
            self.standard_rows = self.plan.nfe_standard * (self.rows + self.reused) // self.plan.nfe
        self.on_evaluated()

    def on_call(self, k: int, rows: int) -> None:
        """Count one evaluation of all branches of a step: the samplers of a host make any number of them in each.

        Parameters
        ----------
        k : int
            Denoising step.
        rows : int
            Rows that the model evaluates.
        """
        self.step = k + 1
        self.rows += rows
        self.standard_rows += self.plan.num_distinct
        self._calls[k] += 1
        self._pending = float(self.passes[k]) * rows
        self._take(k)

    def on_evaluated(self) -> None:
        """Note that the evaluation is done that was counted last, or that the device will be done with it."""
        now = self.clock()
        self.pace.add(self._pending, now - self._latest)
        self._latest = now
        self._done += self._pending
        self._pending = 0.0

    def on_reused(self, rows: int) -> None:
        """Count rows that a store had: of the evaluation that is under way, else of the step that is told next.

        Parameters
        ----------
        rows : int
            Rows that the model does not evaluate.
        """
        self.reused += rows
        self._taken += rows
        if self._pending:
            self._take(self.step - 1)

    def on_stored(self, rows: ArrayLike) -> None:
        """Note how many rows of each step a store has, where that is known before.

        Parameters
        ----------
        rows : (K,) int array
            Of the rows of each step.
        """
        self._stored = np.asarray(rows, dtype=np.float64)

    def on_made_anew(self, k: int, more: int) -> None:
        """Count rows that the evaluation which is under way has in addition, since it is made anew.

        Parameters
        ----------
        k : int
            Its step.
        more : int
            Rows.
        """
        self.rows += more
        self._pending += float(self.passes[k]) * more

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

    def expect(self, steps: Sequence[int]) -> None:
        """Note the steps of all evaluations of the run, where a sampler is known to make these.

        Parameters
        ----------
        steps : sequence of int
            Step of each evaluation.
        """
        self._expected = np.bincount(np.asarray(steps, dtype=np.int64), minlength=self.plan.num_steps).astype(float)

    def end(self) -> None:
        """Let the time stand still: all is done."""
        if self.ended is None:
            self.ended = self.clock()

    @property
    def work(self) -> tuple[float, float]:
        """What is done and what the whole run takes, in passes: evaluations of a single row."""
        return float(self._done), float(self._done) + self._left()

    def times(self) -> Times:
        """The seconds of the run as they are known now.

        Notes
        -----
        What is left takes as long as the latest evaluations took, for each row and pass. Full sampling takes as long as
        the run took beside its evaluations (loading, compiling), and for each row and pass as long as the larger
        evaluations of this run: its own are as large or larger, and large ones take less for a row. A run that reused
        more rows than it evaluated has made too few of them to say.
        """
        elapsed = self.seconds
        done, whole = self.work
        left = 0.0 if self.ended is not None else whole - done
        rate, large, share = self.pace.per_unit, self.pace.per_unit_of_large, done / whole if whole else 1.0
        if rate is None or large is None:
            return Times(elapsed, None if left else 0.0, None, share)
        seconds_left = max(rate * left - (self.began + elapsed - self._latest), 0.0) if left else 0.0
        in_all, beside = elapsed + seconds_left, max(self._latest - self.began - self.pace.measured, 0.0)
        if self.reused > self.rows:
            return Times(elapsed, seconds_left, None, share)
        full = beside + large * self._full() if self._full() > done + left else in_all
        return Times(elapsed, seconds_left, max(full, in_all), share)

    def _take(self, k: int) -> None:
        """Take rows that a store had from an evaluation of step k."""
        self.rows -= self._taken
        spared = float(self.passes[k]) * self._taken
        self._pending, self._spared, self._taken = max(self._pending - spared, 0.0), self._spared + spared, 0

    def _left(self) -> float:
        """Work that is still to be done, with the evaluation that is under way."""
        work = self.plan.clusters_per_step * self.passes
        if not self._calls.any():  # by branches: each step may be at any of them
            calls = np.ones(self.plan.num_steps) if self._expected is None else self._expected
            spared = max(self._spared, float((self._stored * self.passes)[self.steps].sum()))
            return float(max((calls * work)[self.steps].sum() - spared - self._done, 0.0))
        calls, now = self._calls_per_step(), max(self.step - 1, self.steps.start)
        ahead = calls[now + 1 : self.steps.stop] @ work[now + 1 : self.steps.stop]
        return float(max(calls[now] - self._calls[now], 0.0) * work[now] + ahead + self._pending)

    def _calls_per_step(self) -> np.ndarray:
        """(K,) evaluations of each step: as they are known, else as many as the steps before had."""
        if self._expected is not None:
            return self._expected
        begun = max(self.step - self.steps.start, 1)
        return np.full(self.plan.num_steps, max(self._calls.sum() / begun, 1.0))

    def _full(self) -> float:
        """Work of full sampling."""
        known = self._calls.any() or self._expected is not None
        calls = self._calls_per_step() if known else np.ones(self.plan.num_steps)
        return float(self.plan.num_distinct * np.ceil(self.passes.max()) * calls[self.steps].sum())


def times_in_words(times: Times, pictures: int) -> str:
    """What a run took and what full sampling would have taken, as a line.

    Parameters
    ----------
    times : Times
        Of a run that has ended.
    pictures : int
        That it made.

    Returns
    -------
    line : str

    Examples
    --------
    >>> from hierdiff_core.sampling.progress import Times, times_in_words
    >>> times_in_words(Times(41.3, 0.0, 96.2, 1.0), 12)
    '12 pictures in 41 s; full sampling: about 1 min 36 s'
    >>> times_in_words(Times(41.3, 0.0, 41.5, 1.0), 1)
    '1 picture in 41 s; full sampling takes as long'
    """
    line = f"{pictures} picture{'s' * (pictures != 1)} in {in_words(times.elapsed or 0.0)}"
    if times.full is None or times.elapsed is None:
        return line
    if times.full < SAME_TIME * times.elapsed:
        return f"{line}; full sampling takes as long"
    return f"{line}; full sampling: about {in_words(times.full)}"


def left_in_words(times: Times) -> str:
    """What a run has taken and will take yet, for a line that is written again and again.

    Parameters
    ----------
    times : Times

    Returns
    -------
    words : str

    Examples
    --------
    >>> from hierdiff_core.sampling.progress import Times, left_in_words
    >>> left_in_words(Times(12.0, 131.0, 300.0, 0.1)), left_in_words(Times(0.5))
    ('12 s, about 2 min left', '0.5 s')
    """
    words = in_words(times.elapsed or 0.0)
    return f"{words}, {about(times.left)} left" if times.left else words
