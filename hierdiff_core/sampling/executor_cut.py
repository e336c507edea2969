"""How a plan is cut into pieces of work for many workers. Numbers alone: what a piece begins with is handed through.

A piece is a part of the plan, or the head of one: some of its steps, after which what is below begins from the
head's latents. Where branches are few, heads come first, so that no call of a GPU is narrow that need not be. The
longest piece is handed out first. What is left is dealt out finer and finer, each piece at most a quarter of a worker's
share of it (guided self-scheduling: Polychronopoulos and Kuck 1987), so that all workers end at nearly the same time.
GPUs, which need rows for their batches, get half of a share at most. Where workers are not alike, the first piece of
each is half as large; one that turns out to be slow is given less.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..plan.part import Part, PartStep, below_each
from .executor_groups import dealt, first_split, rows_of, splits
from .executor_speeds import Share, Speeds

PER_WORKER = 4  # pieces that what is left makes for each worker, at least, while a part can be split
PER_GPU = 2  # the same where rows in a batch cost less: smaller pieces lose more than they gain at the end
LEAST_LEAVES = 2  # a piece of no more rows than so many whole pictures is not cut for balance
TRIES = 2  # of a piece, before it is cut in two to find what fails in it
LAST_TRIES = 4  # of a piece that cannot be cut


@dataclass(frozen=True, eq=False)
class Piece:
    """What one worker does at a time.

    Attributes
    ----------
    number : int
        Its name; one that is tried again has another.
    part : Part
        Its prompts are numbered as in the whole plan.
    begin : any
        What its first step is copied from: rows of latents and a state.
    stop : int or None
        Steps of the part that it makes, as a head; None: all, so that its prompts are finished.
    tries : int
        How often it has failed.
    size : int
        Rows of the part, what is below a head included.
    """

    number: int
    part: Part
    begin: Any
    stop: int | None = None
    tries: int = 0
    size: int = 0


@dataclass(frozen=True)
class Lost:
    """Prompts that cannot be drawn.

    Attributes
    ----------
    prompts : tuple of int
        Indices in the whole plan, rising.
    reason : str
        What their last worker said.
    """

    prompts: tuple[int, ...]
    reason: str


class Pieces:
    """The pieces of a plan that wait for a worker, or are in work.

    Parameters
    ----------
    part : Part
        What is to be drawn.
    begin : any
        What its first step is copied from.
    workers : int
        How many there are.
    batch : int
        Rows that take a worker hardly longer than one does: 1 on a CPU.
    clock : callable
        Seconds, by which workers' speeds are measured.
    alike : bool
        As of `Speeds`.

    Attributes
    ----------
    left : int
        Rows of all pieces that wait or are in work, what is below heads included.
    lost : list of Lost
        What cannot be drawn.
    finished : (N,) bool array
        Prompts that are done; N is one more than the highest of the part's.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.part import whole
    >>> plan = build_plan([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]], [0.25, 0.25, 0.0])
    >>> pieces = Pieces(whole(plan), "noise", workers=2)
    >>> [(piece.part.prompts.tolist(), piece.stop) for piece in (pieces.take(), pieces.take())]
    [([0, 1], None), ([2, 3], None)]
    """

    def __init__(
        self,
        part: Part,
        begin: Any,
        workers: int,
        batch: int = 1,
        clock: Callable[[], float] = time.monotonic,
        alike: bool = True,
    ):
        self.workers, self.batch = workers, batch
        self.left = 0
        self.speeds = Speeds(workers, clock, alike)
        self.waiting: list[tuple[int, int, Piece]] = []  # a heap, the longest first
        self.running: dict[int, Piece] = {}
        self.lost: list[Lost] = []
        self.finished = np.zeros(int(part.prompts.max(initial=-1)) + 1, dtype=bool)
        self._numbers = 0
        if len(part.prompts):
            self._add(part, begin)

    @property
    def shares(self) -> list[Share]:
        """What each worker has done."""
        return self.speeds.shares

    def take(self, worker: int | None = None) -> Piece | None:
        """The piece that an idle worker should do next.

        Parameters
        ----------
        worker : int, optional
            Its number; None: its speed is nobody's business.

        Returns
        -------
        piece : Piece or None
            None where nothing waits, or nothing that a slow worker should still begin: others are at work then, and are
            done with it sooner.
        """
        while self.waiting:
            piece = self.waiting[0][2]
            most = self._largest(len(piece.part.steps), self.speeds.part(worker))
            if self.running and self.speeds.too_slow(worker, min(piece.size, most), self.left):
                return None
            heapq.heappop(self.waiting)
            if self.workers == 1 or piece.stop is not None or piece.size <= most or not splits(piece.part):
                return self._handed_out(piece, worker)
            stop, groups = self._cut(piece, most)
            if stop:
                return self._handed_out(replace(piece, stop=stop), worker)
            self._deal(piece.part, 0, groups, piece.begin)
            self.left -= piece.size
        return None

    def told_finished(self, number: int, prompts: Iterable[int]) -> None:
        """Note prompts that are done while their piece goes on: they are not drawn again if it fails."""
        self.finished[list(prompts)] = True

    def done(self, number: int, end: Any = None) -> None:
        """Note that a piece is done; `end` is what the pieces below a head begin with."""
        piece = self.running.pop(number)
        self.left -= piece.size
        work = 0 if piece.stop is not None else sum(max(len(step.parents), self.batch) for step in piece.part.steps)
        self.speeds.ended(number, rows_of(piece.part, piece.stop), work)
        if piece.stop is None:
            self.finished[piece.part.prompts] = True
            return
        everyone = np.arange(len(piece.part.steps[piece.stop].parents))
        self._deal(piece.part, piece.stop, [everyone], end)

    def failed(self, number: int, reason: str) -> None:
        """Take back a piece that failed: it is tried again, in the end in halves, until a worker has done it or what
        fails in it is known.

        Parameters
        ----------
        number : int
            Of the piece.
        reason : str
            For `lost`.
        """
        piece = self.running.pop(number)
        self.left -= piece.size
        self.speeds.ended(number)
        part = without(piece.part, self.finished[piece.part.prompts])
        if not len(part.prompts):
            return
        tries, branches = piece.tries + 1, np.arange(len(part.steps[0].parents))
        least = len(branches) == 1 and (not splits(part) or (piece.stop or len(part.steps)) <= first_split(part))
        if tries < (LAST_TRIES if least else TRIES):
            self._add(part, piece.begin, tries, piece.stop)
        elif least:
            self.lost.append(Lost(tuple(part.prompts.tolist()), reason))
        elif len(branches) > 1:
            self._deal(part, 0, np.array_split(branches, 2), piece.begin, TRIES - 1)
        else:
            self._add(part, piece.begin, 0, first_split(part))

    def give_up(self, reason: str) -> None:
        """Note that nobody is left to draw what is not finished."""
        for piece in [*(piece for _, _, piece in self.waiting), *self.running.values()]:
            prompts = piece.part.prompts[~self.finished[piece.part.prompts]]
            if len(prompts):
                self.lost.append(Lost(tuple(prompts.tolist()), reason))
        self.waiting, self.running, self.left = [], {}, 0

    def _largest(self, steps: int, part: float) -> float:
        """Rows that a piece may have now, or a part of them, and no fewer than so many whole pictures have."""
        pieces = self.workers * (PER_WORKER if self.batch == 1 else PER_GPU)
        return max(part * self.left / pieces, self.batch * LEAST_LEAVES * steps)

    def _cut(self, piece: Piece, most: float) -> tuple[int, list[np.ndarray]]:
        """Steps that a piece which is too large makes as a head; where 0, groups of branches in which it is dealt out.

        Few rows take as long as a batch does, so that branches are kept together until each group has a batch of them.
        Those that are fewer are dealt out among workers who would have nothing to do.
        """
        widths = [len(step.parents) for step in piece.part.steps]
        count = max(2, math.ceil(piece.size / most))
        idle = self.workers - len(self.running) - len(self.waiting)
        wide = self.batch * count
        if widths[0] < wide and idle > 1:
            if widths[0] > 1:
                return 0, dealt(piece.part, 0, idle)
            wide = min(wide, self.batch + 1)
        wide = min(wide, widths[-1] // 2 + 1)  # or nearly as wide as it gets
        stop = next(i for i, width in enumerate(widths) if width >= wide)
        return stop, [] if stop else dealt(piece.part, 0, count, most)

    def _deal(self, part: Part, i: int, groups: Sequence[np.ndarray], begin: Any, tries: int = 0) -> None:
        for own in below_each(part, i, groups):
            self._add(*begun_at(own, begin), tries)

    def _add(self, part: Part, begin: Any, tries: int = 0, stop: int | None = None) -> None:
        piece = Piece(self._numbers, part, begin, stop, tries, rows_of(part))
        heapq.heappush(self.waiting, (-piece.size, piece.number, piece))
        self.left += piece.size
        self._numbers += 1

    def _handed_out(self, piece: Piece, worker: int | None) -> Piece:
        self.running[piece.number] = piece
        self.speeds.begun(piece.number, worker)
        return piece


def begun_at(part: Part, begin: Any) -> tuple[Part, Any]:
    """A part with the rows alone that it is copied from.

    Parameters
    ----------
    part : Part
    begin : any
        ``begin[rows]`` is asked for an int64 array of rows where it knows such; else handed on.

    Returns
    -------
    part : Part
        Its first step is copied from these.
    begin : any
    """
    if not hasattr(begin, "rows"):
        return part, begin
    first = part.steps[0]
    rows, parents = np.unique(first.parents, return_inverse=True)
    return replace(part, steps=(replace(first, parents=parents), *part.steps[1:])), begin[rows]


def without(part: Part, gone: np.ndarray) -> Part:
    """A part without some of its prompts; means stay what they are.

    Parameters
    ----------
    part : Part
    gone : (M,) bool array
        For each of its prompts.

    Returns
    -------
    part : Part
        Without the branches that no other prompt needs.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.part import whole
    >>> part = without(whole(build_plan([[0, 1, 0.1, 2]], [0.2, 0.0])), np.array([True, False]))
    >>> part.prompts.tolist(), [part.means_of(i)[0].tolist() for i in (0, 1)]
    ([1], [[0, 1], [1]])
    """
    if not gone.any():
        return part
    steps, before = [], None
    for i, step in enumerate(part.steps):
        leaves, founded = part.means_of(i)
        labels = step.labels[~gone]
        kept = np.zeros(len(step.parents), dtype=bool)
        kept[labels] = True
        number, own = np.cumsum(kept) - 1, kept[founded]
        parents = step.parents[kept] if before is None else before[step.parents[kept]]
        made_of = leaves[own], number[founded[own]]
        steps.append(PartStep(step.clusters[kept], number[labels], step.counts[kept], parents, *made_of))
        before = number
    counting = np.zeros(len(part.prompts), dtype=bool)
    counting[part.distinct] = True
    return replace(part, prompts=part.prompts[~gone], distinct=np.flatnonzero(counting[~gone]), steps=tuple(steps))


def on_its_own(part: Part) -> tuple[Part, np.ndarray]:
    """A part numbered by itself, to be sent away: its prompts are 0 ... M - 1.

    Parameters
    ----------
    part : Part

    Returns
    -------
    part : Part
        Its means are of rows of the embeddings that are to be sent along.
    leaves : (F,) int64 array
        Which embeddings of the whole plan these are, rising.
    """
    means = [part.means_of(i) for i in range(len(part.steps))]
    leaves = np.unique(np.concatenate([own for own, _ in means]))
    steps = tuple(
        replace(step, founders=np.searchsorted(leaves, own), founded=founded)
        for step, (own, founded) in zip(part.steps, means, strict=True)
    )
    return Part(part.start, np.arange(len(part.prompts)), part.distinct, steps), leaves
