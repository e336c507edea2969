"""How a plan is cut into pieces of work for many workers. Numbers alone: what a piece begins with is handed through.

A piece is a part of the plan, or the head of one: its steps up to where it splits, after which what is below begins
from the head's latents. The longest piece is handed out first. What is left is dealt out finer and finer, each piece at
most a quarter of a worker's share of it (guided self-scheduling: Polychronopoulos and Kuck 1987), so that all workers
end at nearly the same time, whatever their speed. GPUs, which need rows for their batches, get half of a share at most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..plan.part import Part, PartStep, below

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

    def __init__(self, part: Part, begin: Any, workers: int, batch: int = 1):
        self.workers, self.batch = workers, batch
        self.left = 0
        self.waiting: list[tuple[int, int, Piece]] = []  # a heap, the longest first
        self.running: dict[int, Piece] = {}
        self.lost: list[Lost] = []
        self.finished = np.zeros(int(part.prompts.max(initial=-1)) + 1, dtype=bool)
        self._numbers = 0
        if len(part.prompts):
            self._add(part, begin)

    def take(self) -> Piece | None:
        """The piece that an idle worker should do next; None where nothing waits."""
        while self.waiting:
            piece = heapq.heappop(self.waiting)[2]
            most = self._largest(len(piece.part.steps))
            if self.workers == 1 or piece.stop is not None or piece.size <= most or not splits(piece.part):
                return self._handed_out(piece)
            stop = self._stop(piece.part, most)
            if stop:
                return self._handed_out(replace(piece, stop=stop))
            self._deal(piece.part, 0, dealt(piece.part, 0, most), piece.begin)
            self.left -= piece.size
        return None

    def told_finished(self, number: int, prompts: Iterable[int]) -> None:
        """Note prompts that are done while their piece goes on: they are not drawn again if it fails."""
        self.finished[list(prompts)] = True

    def done(self, number: int, end: Any = None) -> None:
        """Note that a piece is done; `end` is what the pieces below a head begin with."""
        piece = self.running.pop(number)
        self.left -= piece.size
        if piece.stop is None:
            self.finished[piece.part.prompts] = True
            return
        everyone = np.arange(len(piece.part.steps[piece.stop].parents))
        most = self._largest(len(piece.part.steps), piece.size)
        self._deal(
            piece.part, piece.stop, [everyone] if self.workers == 1 else dealt(piece.part, piece.stop, most), end
        )

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
        part = without(piece.part, self.finished[piece.part.prompts])
        if not len(part.prompts):
            return
        tries, head = piece.tries + 1, piece.stop is not None
        branches = np.arange(len(part.steps[0].parents))
        if tries < (LAST_TRIES if head or not splits(part) else TRIES):
            self._add(part, piece.begin, tries, piece.stop)
        elif head or not splits(part):
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

    def _largest(self, steps: int, more: int = 0) -> float:
        """Rows that a piece may have now, and no fewer than so many whole pictures have."""
        pieces = self.workers * (PER_WORKER if self.batch == 1 else PER_GPU)
        return max((self.left + more) / pieces, self.batch * LEAST_LEAVES * steps)

    def _stop(self, part: Part, most: float) -> int:
        """Steps after which a part that is too large is dealt out: as few rows as a batch takes are best kept together.

        0 where it has more branches already, or such that can be dealt out.
        """
        for i, step in enumerate(part.steps):
            width = len(step.parents)
            if width > self.batch or (width > 1 and rows_below(part, i).max() <= most):
                return i
        return 0

    def _deal(self, part: Part, i: int, groups: Iterable[np.ndarray], begin: Any, tries: int = 0) -> None:
        for group in groups:
            self._add(*some_of(part, i, group, begin), tries)

    def _add(self, part: Part, begin: Any, tries: int = 0, stop: int | None = None) -> None:
        piece = Piece(self._numbers, part, begin, stop, tries, rows_of(part))
        heapq.heappush(self.waiting, (-piece.size, piece.number, piece))
        self.left += piece.size
        self._numbers += 1

    def _handed_out(self, piece: Piece) -> Piece:
        self.running[piece.number] = piece
        return piece


def rows_of(part: Part, stop: int | None = None) -> int:
    """Rows that the model evaluates for a part, or for its first steps."""
    return sum(len(step.parents) for step in part.steps[:stop])


def splits(part: Part) -> bool:
    """Whether there are ever several branches in a part."""
    return len(part.steps[-1].parents) > 1


def first_split(part: Part) -> int:
    """The first step of a part that has several branches."""
    return next(i for i, step in enumerate(part.steps) if len(step.parents) > 1)


def rows_below(part: Part, i: int) -> np.ndarray:
    """Rows of each branch of a step and of all that is below it, (C,) int64; the step is number `start + i`."""
    rows = np.ones(len(part.steps[-1].parents))
    for step, above in zip(reversed(part.steps[i + 1 :]), reversed(part.steps[i:-1]), strict=True):
        rows = 1 + np.bincount(step.parents, weights=rows, minlength=len(above.parents))
    return rows.astype(np.int64)


def dealt(part: Part, i: int, most: float) -> Iterator[np.ndarray]:
    """Branches of a step in groups of at most so many rows, or one branch; large batches suit a GPU.

    Parameters
    ----------
    part : Part
    i : int
        Step `part.start + i`.
    most : float
        Rows that a group may have, with all that is below.

    Yields
    ------
    branches : (B,) int64 array
        Ascending.
    """
    rows = rows_below(part, i)
    groups: list[list[int]] = []
    room: list[int] = []
    for branch in np.argsort(-rows, kind="stable").tolist():
        place = next((g for g, free in enumerate(room) if free >= rows[branch]), None)
        if place is None:
            groups.append([])
            room.append(int(most))
            place = len(groups) - 1
        groups[place].append(branch)
        room[place] -= rows[branch]
    for group in groups:
        yield np.array(sorted(group))


def some_of(part: Part, i: int, branches: np.ndarray, begin: Any) -> tuple[Part, Any]:
    """The part below some branches of a step, and of `begin` the rows alone that they are copied from.

    Parameters
    ----------
    part : Part
    i : int
        Step `part.start + i`.
    branches : (B,) int64 array
        Ascending.
    begin : any
        ``begin[rows]`` is asked for an int64 array of rows where it knows such; else handed on.

    Returns
    -------
    part : Part
    begin : any
    """
    found = below(part, i, branches)
    first = found.steps[0]
    rows, parents = np.unique(first.parents, return_inverse=True)
    taken = begin[rows] if hasattr(begin, "rows") else begin
    if taken is begin:
        return found, begin
    return replace(found, steps=(replace(first, parents=parents), *found.steps[1:])), taken


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
