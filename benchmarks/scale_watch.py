"""What scale.py sees of a run on workers: each piece, bytes, rows that were drawn twice, a worker that it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from hierdiff_core.sampling.executor import Told
from hierdiff_core.sampling.ray_executor import RayExecutor


@dataclass
class Piece:
    """What was handed out: when, how large, to whom."""

    began: float
    ended: float
    rows: int
    worker: int
    head: bool
    failed: bool

    @property
    def seconds(self):
        """That it took."""
        return self.ended - self.began


class Metered:
    """An executor that is watched.

    Parameters
    ----------
    executor : Executor
        Entered already.
    on_piece : callable, optional
        ``on_piece(count, number, rows)`` when a piece was handed out: the how manieth, its name, its rows.
    """

    def __init__(self, executor, on_piece: Callable[[int, int, int], None] | None = None):
        self.executor, self.count = executor, executor.count
        self.on_piece = on_piece or (lambda count, number, rows: None)
        self.pieces: list[Piece] = []
        self.open: dict[int, Piece] = {}
        self.sent = self.got = self.told = 0
        self.loading = self.began = self.ended = 0.0

    @property
    def kinds(self):
        return self.executor.kinds

    def begin(self, job):
        began = time.monotonic()
        self.executor.begin(job)
        self.loading = time.monotonic() - began

    def run(self, take):
        self.began = time.monotonic()
        for said in self.executor.run(lambda worker: self.handed(take(worker), worker)):
            if said is not None:
                self.heard(*said)
            yield said
        self.ended = time.monotonic()

    def handed(self, task, worker):
        if task is not None:
            number, data = task
            rows = sum(len(step[0]) for step in data["part"]["steps"])
            self.open[number] = Piece(time.monotonic(), 0.0, rows, worker, bool(data["head"]), False)
            self.sent += size_of(data)
            self.on_piece(len(self.pieces) + len(self.open), number, rows)
        return task

    def heard(self, number, what):
        self.got += size_of(getattr(what, "value", None))
        if isinstance(what, Told):
            self.told += len(what.value.get("clusters", ()))
        elif number in self.open:
            piece = self.open.pop(number)
            piece.ended, piece.failed = time.monotonic(), not hasattr(what, "value")
            self.pieces.append(piece)


def size_of(data):
    """Bytes of the arrays in plain data."""
    if isinstance(data, np.ndarray):
        return data.nbytes
    values = data.values() if isinstance(data, dict) else data if isinstance(data, (list, tuple)) else ()
    return sum(size_of(value) for value in values)


def first_pieces(pieces, workers):
    """Seconds that a worker's first piece took longer than its rows take later; None where nobody had a later one."""
    more = []
    for worker in range(workers):
        own = sorted((p for p in pieces if p.worker == worker and not p.failed), key=lambda piece: piece.began)
        if rows := sum(piece.rows for piece in own[1:]):
            more.append(own[0].seconds - own[0].rows * sum(piece.seconds for piece in own[1:]) / rows)
    return float(np.mean(more)) if more else None


class Watched(RayExecutor):
    """Workers of Ray; knows when one died, and when another was in its place.

    Attributes
    ----------
    gone : list of [float, float or None]
        By the clock.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gone: list[list[float | None]] = []
        self.open: dict[int, list[float | None]] = {}

    def _died(self, slot, error):
        self.open[id(slot)] = [time.monotonic(), None]
        self.gone.append(self.open[id(slot)])
        super()._died(slot, error)

    def _made(self, slot, value):
        super()._made(slot, value)
        if slot.ready and id(slot) in self.open:
            self.open.pop(id(slot))[1] = time.monotonic()


class Killer:
    """Ends the process of a worker in the middle of a piece, once, by its id.

    Parameters
    ----------
    executor : RayExecutor
        Of the run.
    after : int
        Pieces that were handed out before.
    least : int
        Rows that the piece has at least.
    rate : float
        Rows a second of a worker.
    """

    def __init__(self, executor, after: int, least: int, rate: float):
        self.executor, self.after, self.least, self.rate = executor, after, least, rate
        self.timer: threading.Timer | None = None
        self.killed = 0

    def __call__(self, count, number, rows):
        waits = self.timer is not None and self.timer.is_alive()
        if count > self.after and rows >= self.least and not waits and not self.killed:
            self.timer = threading.Timer(rows / self.rate / 2, self.kill, [number])
            self.timer.start()

    def kill(self, number):
        for slot in self.executor.slots:
            if slot.task == number and slot.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGKILL)
                    self.killed = slot.pid
