"""The model of `scale_simulation.py`: a plan as gaps, a driver that cuts it into pieces, workers, links.

Pieces are cut by the rules of `hierdiff_core/sampling/executor_cut.py`; tests/repository/test_scale_simulation.py
compares the two.
"""

import heapq
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from hierdiff_core.sampling.executor_cut import LEAST_LEAVES, PER_GPU
from hierdiff_core.sampling.executor_speeds import Speeds

DEEP, FLAT = "deep (one cluster for 12 of 40 steps)", "flat (a twentieth of the prompts at first)"
STEPS, SAVING = 40, 0.6


@dataclass(frozen=True)
class Costs:
    """Seconds, bytes and rates. H100: docs/measurements/performance.md, full-size Kandinsky, 512 x 512, float16."""

    row_ms: tuple = ((1, 41.23), (2, 20.40), (4, 11.44), (8, 7.42), (12, 7.27), (16, 6.81), (24, 6.35), (32, 6.08))
    decode: float = 0.0171  # H100, a picture
    task: float = 0.00105  # driver's processor, a piece handed out and taken back: scale_costs.py, Ray 2.60
    byte: float = 4.3e-10  # driver's processor, a byte there or back: scale_costs.py
    cut: float = 0.00085  # driver's processor, to cut a piece out of a plan of 100,000: scale_costs.py
    link: float = 1.25e9  # assumed: 10 gigabits a second, of a driver
    row_bytes: float = 65_536.0  # 4 x 64 x 64 float32
    prompt_bytes: float = 10_240.0 + 8 * STEPS  # two embeddings of 1,280, and its labels
    picture_bytes: float = 786_432.0  # 512 x 512, 3 bytes
    start: float = 15.0  # assumed: Python, torch and diffusers imported, an actor started
    weights: float = 2.64e9  # UNet and MoVQ, float16
    storage: float = 10e9  # assumed: bytes a second of the storage that all workers read from
    disk: float = 2e9  # assumed: of a worker's own disk
    notice: float = 5.0  # assumed: until a death is noticed


@dataclass(frozen=True)
class Design:
    """How a set is spread."""

    name: str
    sends: str = "latents"  # what workers send to the driver: latents, pictures or nothing
    recompute: bool = False  # each piece begins at step 0
    drivers: int = 1  # each with its share of prompts and workers
    local_weights: bool = False
    warm: bool = False  # weights are loaded before the set begins
    by_speed: bool = True  # slow workers get smaller pieces
    copies: bool = False  # idle workers draw what others are still at
    batch: int = 8  # rows of a call that a piece is not cut below
    per_worker: float = PER_GPU  # pieces that what is left makes for each worker
    least_leaves: float = LEAST_LEAVES  # whole pictures of a batch that a piece has at least


@dataclass(frozen=True)
class World:
    """What workers are like."""

    workers: int
    uneven: float = 0.03  # spread of speeds
    slow: float = 0.0  # share of workers that are three times as slow
    deaths: float = 0.0  # of a worker, an hour
    seed: int = 0


class Tree:
    """A plan as gaps between neighbouring leaves, each opened by a step: a cluster is a run of leaves without a gap."""

    def __init__(self, opened):
        self.opened = np.asarray(opened)  # (N-1,): step at which leaf i and i + 1 part
        self.num_leaves = len(self.opened) + 1
        each = np.arange(STEPS)[:, None] >= self.opened
        self.open_before = np.concatenate([np.zeros((STEPS, 1), dtype=np.int64), np.cumsum(each, axis=1)], axis=1)

    @classmethod
    def of_widths(cls, num_leaves, widths, seed=0):
        """Leaves whose gaps open at random places, so that step k has `widths[k]` clusters."""
        steps = np.repeat(np.arange(STEPS), np.diff(np.concatenate([[1], widths])))
        return cls(np.random.default_rng(seed).permutation(steps[: num_leaves - 1]))

    def widths(self, first, last):
        """Clusters of each step in leaves first ... last - 1 of several runs together: (K,) int64."""
        inside = self.open_before[:, np.asarray(last) - 1] - self.open_before[:, np.asarray(first)]
        return (inside + 1).reshape(STEPS, -1).sum(axis=1)

    def clusters(self, first, last, k):
        """Runs of leaves that are the clusters of step k among leaves first ... last - 1: two arrays."""
        cuts = first + 1 + np.flatnonzero(self.opened[first : last - 1] <= k)
        return np.concatenate([[first], cuts]), np.concatenate([cuts, [last]])

    @property
    def rows(self):
        return int(self.widths([0], [self.num_leaves]).sum())


def saving_widths(num_leaves, roots, trunk=0, saving=SAVING):
    """Clusters of each step: `roots` for some steps, then more and more, to all leaves, so that a share is saved."""
    x = np.concatenate([np.zeros(trunk), np.linspace(0, 1, STEPS - trunk)])
    low, high = 1e-3, 1e3
    for _ in range(60):
        power = (low * high) ** 0.5
        widths = np.round(roots * (num_leaves / roots) ** (x**power)).astype(np.int64)
        low, high = (power, high) if widths.sum() > (1 - saving) * num_leaves * STEPS else (low, power)
    return np.maximum.accumulate(np.clip(widths, 1, num_leaves))


@dataclass(eq=False)
class Piece:
    """Runs of leaves from a step on, or the head of them: the steps before they part."""

    start: int
    first: np.ndarray
    last: np.ndarray
    widths: np.ndarray  # clusters of all steps
    stop: int = STEPS
    runners: int = 0
    done: bool = False

    @property
    def left(self):
        """Rows of it and of all below."""
        return int(self.widths[self.start :].sum())

    @property
    def rows(self):
        return int(self.widths[self.start : self.stop].sum())

    @property
    def leaves(self):
        return int((self.last - self.first).sum())


class Line:
    """What serves one after the other: a processor, a direction of a link."""

    def __init__(self):
        self.free = self.busy = 0.0

    def served(self, now, seconds):
        """When it is done with something that takes so many seconds."""
        self.free = max(now, self.free) + seconds
        self.busy += seconds
        return self.free


class Driver:
    """Hands out a share of the leaves to a share of the workers."""

    def __init__(self, tree, design, workers, first, last, clock=lambda: 0.0, alike=True):
        self.speeds = Speeds(workers, clock, alike)
        self.tree, self.design, self.workers = tree, design, workers
        self.processor, self.there, self.back = Line(), Line(), Line()
        self.waiting, self.running, self.idle = [], {}, []
        self.left = self.pieces = self.cut = 0
        self.moved = 0.0
        self.add(0, first, last)

    def most(self, worker):
        """Rows that a piece may have now, of a worker."""
        least = self.design.batch * self.design.least_leaves * STEPS
        part = self.speeds.part(worker if self.design.by_speed else None)
        return max(part * self.left / (self.design.per_worker * self.workers), least)

    def add(self, start, first, last):
        first, last = np.atleast_1d(first), np.atleast_1d(last)
        self.put(Piece(start, first, last, self.tree.widths(first, last)))

    def put(self, piece):
        self.left += piece.left
        self.pieces += 1
        self.cut += 1  # it is in work before the next piece is handed out
        heapq.heappush(self.waiting, (-piece.left, self.pieces, piece))

    def take(self, worker=None):
        """The piece that an idle worker should do next, or None: the rules of `executor_cut.Pieces.take`."""
        while self.waiting:
            most, size = self.most(worker), self.waiting[0][-1].left
            if self.design.by_speed and self.running and self.speeds.too_slow(worker, min(size, most), self.left):
                return None
            piece = heapq.heappop(self.waiting)[-1]
            if piece.left <= most or piece.leaves == len(piece.first):
                return piece
            if self.design.recompute:
                self.part(piece, most)
                continue
            stop, parts = self.cut_at(piece, most)
            if stop > piece.start:
                piece.stop = stop
                return piece
            self.left -= piece.left
            self.deal(piece, piece.start, parts)
        return self.copied()

    def cut_at(self, piece, most):
        """Where a piece that is too large ends as a head; or where it begins, and in how many it is dealt out."""
        widths, batch, parts = piece.widths[piece.start :], self.design.batch, max(2, int(np.ceil(piece.left / most)))
        wide, idle = batch * parts, self.workers - len(self.running) - len(self.waiting)
        if widths[0] < wide and idle > 1:
            if widths[0] > 1:
                return piece.start, min(idle, int(widths[0]))
            wide = min(wide, batch + 1)
        return piece.start + int(np.argmax(widths >= min(wide, widths[-1] // 2 + 1))), parts

    def copied(self):
        """A piece that one worker is at, for another that has none."""
        alone = [piece for piece in self.running.values() if piece.runners == 1]
        return max(alone, key=lambda piece: piece.rows, default=None) if self.design.copies else None

    def part(self, piece, most):
        """Equal shares of the leaves of a run, each to begin at step 0."""
        self.left -= piece.left
        parts = min(int(np.ceil(piece.left / most)), piece.leaves)
        edges = np.linspace(piece.first[0], piece.last[0], max(parts, 2) + 1).astype(int)
        for first, last in itertools.pairwise(edges):
            self.add(0, first, last)

    def deal(self, piece, k, parts):
        """So many pieces of the clusters of a step, if there are as many clusters."""
        runs = [self.tree.clusters(a, b, k) for a, b in zip(piece.first, piece.last, strict=True)]
        first, last = (np.concatenate(ends) for ends in zip(*runs, strict=True))
        rows = (self.tree.open_before[k:, last - 1] - self.tree.open_before[k:, first] + 1).sum(axis=0)
        group = np.floor((np.cumsum(rows) - rows / 2) / rows.sum() * parts).astype(int)
        if parts > 1 and len(group) > 1 and group[0] == group[-1]:  # one of them is nearly all
            group = np.arange(len(group)) * 2 // len(group)
        edges = np.flatnonzero(np.diff(group)) + 1
        for own in zip(np.split(first, edges), np.split(last, edges), strict=True):
            self.add(k, *own)


class Simulation:
    """One run of a set."""

    def __init__(self, tree, design, world, costs=None):
        self.tree, self.design, self.world, self.costs = tree, design, world, costs or Costs()
        sizes, ms = np.array(self.costs.row_ms).T
        self.call = np.interp(np.arange(sizes[-1] + 1), sizes, sizes * ms / 1000)  # seconds by rows
        self.call[0] = 0.0
        self.rng = np.random.default_rng(world.seed)
        self.slowness = np.exp(world.uneven * self.rng.normal(size=world.workers))
        self.slowness[self.rng.random(world.workers) < world.slow] *= 3
        self.events, self.now, self.count = [], 0.0, 0
        self.lives = np.zeros(world.workers, dtype=int)
        self.rows = self.drawn = self.died = 0
        self.work, self.first_handed, self.first_drawn = 0.0, None, None
        drivers = min(design.drivers, world.workers)
        shares = np.linspace(0, tree.num_leaves, drivers + 1).astype(int)
        workers = np.bincount(np.arange(world.workers) % drivers, minlength=drivers)
        self.drivers = [
            Driver(tree, design, *own, clock=lambda: self.now, alike=not world.slow)
            for own in zip(workers.tolist(), shares[:-1], shares[1:], strict=True)
        ]

    def run(self):
        """Until all leaves are drawn; returns the table's figures."""
        for worker in range(self.world.workers):
            self.at(0.0 if self.design.warm else self.loaded(worker), self.ask, worker)
            self.fate(worker)
        while self.drawn < self.tree.num_leaves:
            self.now, _, happens, worker, life, piece = heapq.heappop(self.events)
            if life in (-1, self.lives[worker]):
                happens(worker, piece)
        return self.figures()

    def at(self, time, happens, worker, piece=None, always=False):
        """Something that happens to a worker, unless it dies before; or always."""
        life = -1 if always else self.lives[worker]
        heapq.heappush(self.events, (time, self.count, happens, worker, life, piece))
        self.count += 1

    def loaded(self, worker):
        """When a worker has started and read its weights, from its own disk or with all others from one storage."""
        shared = self.costs.weights * self.world.workers / self.costs.storage
        own = self.costs.weights / self.costs.disk
        return self.costs.start * self.slowness[worker] + (own if self.design.local_weights else max(own, shared))

    def driver(self, worker):
        return self.drivers[worker % len(self.drivers)]

    def place(self, worker):
        """Number of a worker among those of its driver."""
        return worker // len(self.drivers)

    def ask(self, worker, _):
        """A worker is idle: it gets a piece, or waits for one."""
        if not self.hand(self.driver(worker), worker):
            self.driver(worker).idle.append(worker)

    def hand(self, driver, worker):
        """Hand out a piece, if there is one."""
        piece, costs = driver.take(self.place(worker)), self.costs
        if piece is None:
            return False
        self.first_handed = self.now if self.first_handed is None else self.first_handed
        piece.runners += 1
        driver.running[worker] = piece
        driver.speeds.begun(worker, self.place(worker))
        size = piece.leaves * costs.prompt_bytes + (len(piece.first) * costs.row_bytes if piece.start else 0)
        driver.moved += size
        cutting, driver.cut = driver.cut * costs.cut, 0
        ready = driver.processor.served(self.now, cutting + costs.task / 2 + size * costs.byte)
        begun = driver.there.served(ready, size / costs.link)
        seconds = self.seconds(piece) * self.slowness[worker]
        self.work += seconds
        self.at(begun + seconds, self.send, worker, piece)
        return True

    def seconds(self, piece):
        """What a worker of usual speed takes: batches of each step, then pictures."""
        widths, most = piece.widths[piece.start : piece.stop], len(self.call) - 1
        steps = (widths // most * self.call[most] + self.call[widths % most]).sum()
        return float(steps + (piece.leaves * self.costs.decode if piece.stop == STEPS else 0.0))

    def send(self, worker, piece):
        """A piece is done; what it ends with goes to the driver."""
        driver, costs = self.driver(worker), self.costs
        each = {"latents": costs.row_bytes, "pictures": costs.picture_bytes, "nothing": 64.0}[self.design.sends]
        size = piece.leaves * each if piece.stop == STEPS else piece.widths[piece.stop - 1] * costs.row_bytes
        size = 64.0 if piece.done else size
        driver.moved += size
        here = driver.back.served(self.now, size / costs.link)
        self.at(driver.processor.served(here, costs.task / 2 + size * costs.byte), self.arrive, worker, piece)

    def arrive(self, worker, piece):
        """The driver has it, and the worker is idle; those that wait get what is below."""
        driver = self.driver(worker)
        del driver.running[worker]
        work = np.maximum(piece.widths[piece.start : piece.stop], self.design.batch).sum()
        driver.speeds.ended(worker, piece.rows, work if piece.stop == STEPS else 0)
        piece.runners -= 1
        self.rows += piece.rows
        if not piece.done:
            piece.done = True
            driver.left -= piece.left
            if piece.stop < STEPS:
                driver.deal(piece, piece.stop, 1)
            else:
                self.drawn += piece.leaves
                self.first_drawn = self.now if self.first_drawn is None else self.first_drawn
        self.wake(driver, worker)

    def wake(self, driver, *workers):
        driver.idle = [worker for worker in (*workers, *driver.idle) if not self.hand(driver, worker)]

    def fate(self, worker):
        if self.world.deaths:
            self.at(self.now + self.rng.exponential(3600 / self.world.deaths), self.die, worker)

    def die(self, worker, _):
        """A death costs its piece, and the time until another worker is in its place."""
        driver = self.driver(worker)
        self.died += 1
        self.lives[worker] += 1
        if worker in driver.idle:
            driver.idle.remove(worker)
        costs = self.costs
        driver.speeds.ended(worker)
        self.at(self.now + costs.notice, self.notice, worker, driver.running.pop(worker, None), True)
        self.at(self.now + costs.notice + costs.start + costs.weights / costs.disk, self.ask, worker)
        self.fate(worker)

    def notice(self, worker, piece):
        """The piece of a dead worker waits again, unless another is at it."""
        if piece is None:
            return
        driver, piece.runners = self.driver(worker), piece.runners - 1
        if not piece.done and not piece.runners:
            driver.left -= piece.left
            driver.put(replace(piece, stop=STEPS))
            self.wake(driver)

    def figures(self):
        """What a run took."""
        alone = self.seconds(
            Piece(0, *np.array([[0], [self.tree.num_leaves]]), self.tree.widths(0, self.tree.num_leaves))
        )
        working = self.now - self.first_handed
        share = lambda line: max(getattr(driver, line).busy for driver in self.drivers) / working  # noqa: E731
        return {
            "seconds": self.now,
            "start s": self.first_handed,
            "efficiency": alone / (working * self.world.workers),
            "with start": alone / (self.now * self.world.workers),
            "first picture s": self.first_drawn,
            "driver": share("processor"),
            "link": max(share("there"), share("back")),
            "GB": sum(driver.moved for driver in self.drivers) / 1e9,
            "pieces": sum(driver.pieces for driver in self.drivers),
            "rows": self.rows / self.tree.rows,
            "deaths": self.died,
        }


def tree_of(prompts, kind, seed=0):
    """The plan of a set that is one cluster for long, or begins as many."""
    widths = saving_widths(prompts, 1, 12) if kind == DEEP else saving_widths(prompts, max(prompts // 20, 1))
    return Tree.of_widths(prompts, widths, seed)
