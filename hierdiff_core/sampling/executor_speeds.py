"""How fast the workers of a run are, by the pieces that they have done: a slow one is given less at a time.

The sizes of pieces follow the clock, the pictures do not: whoever draws a piece, it is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SLOW = 0.7  # of the usual speed, below which a worker counts as slow: pieces of equal workers differ by less
FIRST = 0.5  # of the usual size: a worker's first piece, which shows how fast it is, where they are not alike
MOST_SINGLE = 8  # workers that are told of one by one


@dataclass(frozen=True)
class Share:
    """What a worker has done of a run.

    Attributes
    ----------
    rows : int
        Of the pieces that it finished.
    seconds : float
        That these took.
    """

    rows: int = 0
    seconds: float = 0.0


class Speeds:
    """Speeds of workers.

    Parameters
    ----------
    workers : int
        How many there are.
    clock : callable
        Seconds.
    alike : bool
        Whether they are known to be equally fast, until their pieces say otherwise.

    Attributes
    ----------
    shares : list of Share
        One for each worker.

    Examples
    --------
    >>> now = [0.0]
    >>> speeds = Speeds(2, lambda: now[0], alike=False)
    >>> speeds.part(0), speeds.part(1)
    (0.5, 0.5)
    >>> for worker, seconds in ((0, 1.0), (1, 4.0)):
    ...     speeds.begun(worker, worker)
    ...     now[0] += seconds
    ...     speeds.ended(worker, rows=100, work=100)
    >>> speeds.part(0), speeds.part(1)
    (1.0, 0.4)
    """

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic, alike: bool = True):
        self.clock, self.alike = clock, alike
        self.shares = [Share()] * workers
        self._rates: dict[int, float] = {}
        self._running: dict[int, tuple[int, float]] = {}

    def begun(self, number: int, worker: int | None) -> None:
        """Note that a worker begins a piece; None: nobody knows who."""
        if worker is not None:
            self._running[number] = worker, self.clock()

    def ended(self, number: int, rows: int = 0, work: float = 0.0) -> None:
        """Note that a piece has ended.

        Parameters
        ----------
        number : int
            Of the piece.
        rows : int
            That it had; 0 where it failed.
        work : float
            What its worker's speed is measured by: the latest piece counts, since a worker's first may have prepared
            the model. 0: it says nothing of that.
        """
        worker, began = self._running.pop(number, (None, 0.0))
        if worker is None or not rows:
            return
        seconds = max(self.clock() - began, 1e-9)
        done = self.shares[worker]
        self.shares[worker] = Share(done.rows + rows, done.seconds + seconds)
        if work:
            self._rates[worker] = work / seconds

    def part(self, worker: int | None) -> float:
        """What part of the usual size a worker's next piece should have, above 0 and up to 1."""
        if worker is None:
            return 1.0
        if worker not in self._rates:
            return 1.0 if self.alike else FIRST
        speed = self._rates[worker] / self._usual()
        return speed if speed < SLOW else 1.0

    def too_slow(self, worker: int | None, size: float, left: float) -> bool:
        """Whether a slow worker would be at a piece for longer than all workers are at what is left.

        Parameters
        ----------
        worker : int or None
        size, left : float
            Rows of the piece, and of all that is left.

        Returns
        -------
        bool
        """
        if worker not in self._rates or self.part(worker) == 1:
            return False
        return size / self._rates[worker] > left / (self._usual() * len(self.shares))

    def _usual(self) -> float:
        return float(np.median(list(self._rates.values())))


def shares_in_words(shares: Sequence[Share], names: Sequence[str] = ()) -> str:
    """What each worker has done, on one line.

    Parameters
    ----------
    shares : sequence of Share
    names : sequence of str
        Of the workers; they are told where they are not all the same.

    Returns
    -------
    text : str
        "" if nobody has done anything.

    Examples
    --------
    >>> shares_in_words([Share(1200, 40.0), Share(900, 40.0)])
    'UNet rows by worker: 1200 (30 a second), 900 (22.5 a second)'
    >>> shares_in_words([Share(1200, 40.0), Share(300, 40.0)], ["a, H100", "b, T4"])
    'UNet rows by worker: 1200 (30 a second; a, H100), 300 (7.5 a second; b, T4)'
    >>> shares_in_words([Share(1200, 40.0), Share(0, 0.0)] * 50)
    'UNet rows by worker: 0 to 1200 on 100 workers, 30 to 30 a second'
    """
    rates = [f"{share.rows / share.seconds:.3g}" for share in shares if share.rows]
    if not rates:
        return ""
    if len(shares) > MOST_SINGLE:
        rows, each = [share.rows for share in shares], sorted(map(float, rates))
        return (
            f"UNet rows by worker: {min(rows)} to {max(rows)} on {len(shares)} workers, {each[0]:g} to {each[-1]:g} "
            "a second"
        )
    told = len(set(names)) > 1
    said = []
    for i, share in enumerate(shares):
        rate = [f"{share.rows / share.seconds:.3g} a second"] if share.rows else []
        more = "; ".join(rate + ([names[i]] if told and names[i] else []))
        said.append(f"{share.rows} ({more})" if more else f"{share.rows}")
    return f"UNet rows by worker: {', '.join(said)}"
