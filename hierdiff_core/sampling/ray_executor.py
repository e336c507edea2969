"""Tasks on the workers of a Ray cluster: of one that is started here on 127.0.0.1, or of one that is running.

Each worker is a Ray actor, which may have this package from another place than this process: what is sent to it is
plain data. Retries are `executor_cut`'s, not Ray's. A worker that dies costs the task that it had, and is replaced.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .executor import MOST_REASON, SECONDS, Done, Failure, Job, NoWorkers, Said, Take, Told, Workers
from .ray_actor import actor_class
from .ray_cluster import begun_here, connected, import_ray

PACKAGE = Path(__file__).parents[1]
PATIENCE = 120.0  # seconds that workers which are there wait for those that are not
ALONE = 600.0  # seconds without any worker, while others are started, until a run gives up
SILENCE = 120.0  # seconds without an answer, where one comes every second, until a worker counts as dead
MOST_DEATHS = 3  # of a worker, one after the other without a task done, until it is not replaced any more
MOST_FAILURES = 3  # of a worker, one after the other, until it is made anew
REST, LONGEST_REST = 0.5, 30.0  # seconds: others may have what one has failed at, which would be idle first each time


class Slot:
    """A worker, or the one that takes its place.

    Attributes
    ----------
    actor : any
        Ray's handle.
    ref : any
        What it was asked last.
    task : int or None
        What it does.
    ready : bool
        Whether it was made.
    pid : int or None
        Of its process.
    kind : str
        What it computes on; "" before it says so.
    deaths, failures : int
        One after the other.
    rests, heard : float
        By the clock: until when it is given nothing, and when it was asked or has answered last.
    """

    def __init__(self) -> None:
        self.actor: Any = None
        self.ref: Any = None
        self.task: int | None = None
        self.ready = False
        self.pid: int | None = None
        self.kind = ""
        self.deaths = self.failures = 0
        self.rests = self.heard = 0.0


class RayExecutor:
    """Runs tasks on Ray; a context manager.

    Parameters
    ----------
    workers : Workers
        How many, and where.
    device : str
        "cuda" gives each worker a GPU.
    tell : callable, optional
        ``tell(text)`` is given what a user should know.

    Attributes
    ----------
    count : int
        Workers.

    Raises
    ------
    ValueError
        If Ray is not installed, the cluster does not answer, or has too few GPUs.
    """

    def __init__(self, workers: Workers, device: str, tell: Callable[[str], Any] | None = None):
        self.workers, self.device, self.tell = workers, device, tell or (lambda text: None)
        self.count = workers.count
        self.slots: list[Slot] = []
        self.ray: Any = None
        self.reason = ""  # why the last worker died
        self.late = False  # whether a run has begun

    def __enter__(self) -> RayExecutor:
        self.ray = import_ray()
        self.stack = contextlib.ExitStack()
        gpus = self.device != "cpu"
        with contextlib.ExitStack() as opened:
            if self.workers.address:
                found = opened.enter_context(connected(self.ray, self.workers.address, self.count, gpus))
            else:
                found = opened.enter_context(begun_here(self.ray, self.count, gpus))
            self.count, self.actors = found, actor_class(self.ray)
            opened.callback(self._kill)
            self.stack = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def kinds(self) -> list[str]:
        """What each worker computes on; "" of those that are not there yet."""
        return [slot.kind for slot in self.slots]

    def begin(self, job: Job) -> None:
        """Make the workers, or have those that are there ready for another job, and wait for them.

        Parameters
        ----------
        job : Job

        Raises
        ------
        ValueError
            If one cannot be made: it says why.
        """
        self.job, self.late = self.ray.put([job.entry, job.setup, version()]), False
        self.slots = self.slots or [Slot() for _ in range(self.count)]
        for slot in self.slots:
            slot.task, slot.deaths, slot.failures, slot.rests = None, 0, 0, 0.0
            self._begin(slot)
        began = time.monotonic()
        while waiting := [slot for slot in self.slots if slot.actor and not slot.ready]:
            if len(waiting) < len(self.slots) and time.monotonic() - began > PATIENCE:
                self.tell(f"{len(waiting)} of {len(self.slots)} workers are not there yet; the others begin")
                break
            self._wait(waiting, self._made)
        self.late = True
        if not any(slot.actor for slot in self.slots):
            raise ValueError(f"no worker could be made: {self.reason}")

    def early(self, entry: str, setup: dict[str, Any]) -> None:
        """As in `Executor`; workers that were there before are not asked."""
        if self.slots:
            return
        told = self.ray.put([entry, setup, version()])
        self.slots = [Slot() for _ in range(self.count)]
        for slot in self.slots:
            slot.actor = self._actor()
            slot.actor.early.remote(str(PACKAGE), PACKAGE.name, told)

    def run(self, take: Take) -> Iterator[tuple[int, Said] | None]:
        """As in `Executor`; workers that are late join, and those that die are replaced.

        Parameters
        ----------
        take : callable
            ``take(worker)`` gives the next task.

        Yields
        ------
        said : (int, Told or Done or Failure), or None

        Raises
        ------
        NoWorkers
            If none is left.
        """
        alone = time.monotonic()
        while True:
            if self._hand_out(take):
                return
            if any(slot.ready for slot in self.slots):
                alone = time.monotonic()
            elif not any(slot.actor for slot in self.slots):
                raise NoWorkers(f"no worker is left: {self.reason}")
            elif time.monotonic() - alone > ALONE:
                raise NoWorkers("no worker is left, and none could be made in its place")
            asked = [slot for slot in self.slots if slot.actor and (slot.task is not None or not slot.ready)]
            heard: list[tuple[int, Said]] = []
            self._wait(asked, lambda slot, value, heard=heard: heard.extend(self._heard(slot, value)))
            heard += [said for slot in asked for said in self._silent(slot)]
            yield from heard or [None]

    def _hand_out(self, take: Take) -> bool:
        """Give tasks to workers that are idle; whether all is done."""
        ready = {number: slot for number, slot in enumerate(self.slots) if slot.ready}
        asked = False
        for number, slot in ready.items():
            resting = slot.rests > time.monotonic() and len(ready) > 1
            if slot.task is None and not resting:
                task, asked = take(number), True
                if task is None:  # others may have something all the same: it may be too slow
                    continue
                slot.task, slot.ref, slot.heard = task[0], slot.actor.work.remote(task[1]), time.monotonic()
        return asked and not any(slot.task is not None for slot in self.slots)

    def _begin(self, slot: Slot) -> None:
        """Have a slot's worker made."""
        slot.actor = slot.actor or self._actor()
        slot.ready, slot.ref = False, slot.actor.begin.remote(str(PACKAGE), PACKAGE.name, self.job)

    def _actor(self) -> Any:
        options: dict[str, Any] = {"num_gpus": 1} if self.device != "cpu" else {"num_cpus": 1}
        return self.actors.options(**options, scheduling_strategy="SPREAD").remote()

    def _wait(self, slots: list[Slot], hear: Callable[[Slot, Any], Any]) -> None:
        """Hear what workers were asked, for a moment."""
        by_ref = {slot.ref: slot for slot in slots}
        if not by_ref:  # all of them rest
            time.sleep(SECONDS)
            return
        for ref in self.ray.wait(list(by_ref), num_returns=1, timeout=SECONDS)[0]:
            try:
                value = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                value = error
            hear(by_ref[ref], value)

    def _made(self, slot: Slot, value: Any) -> None:
        """Hear whether a worker was made."""
        if isinstance(value, Exception):
            self._died(slot, value)
        elif value[0] == "refused":
            reason = f"a worker on {value[1]} cannot begin: {value[2]}"
            if not self.late:
                raise ValueError(reason)
            self.tell(reason)
            self.reason = reason
            self._end(slot)
        else:
            slot.ready, slot.ref, (slot.pid, slot.kind) = True, None, value[1:]

    def _heard(self, slot: Slot, value: Any) -> Iterator[tuple[int, Said]]:
        """Hear of a worker's task, or of a new worker."""
        if slot.task is None:
            self._made(slot, value)
            return
        number = slot.task
        if isinstance(value, Exception):
            slot.task = None
            self._died(slot, value)
            yield number, Failure(f"its worker died ({self.reason})")
            return
        for kind, said in value:
            if kind == "told":
                yield number, Told(said)
                continue
            slot.task, slot.ref = None, None
            self._ended(slot, kind == "done")
            yield number, Done(said) if kind == "done" else Failure(said, disk=kind == "disk")
        if slot.task is not None:
            slot.ref, slot.heard = slot.actor.more.remote(), time.monotonic()

    def _silent(self, slot: Slot) -> Iterator[tuple[int, Said]]:
        """Take a worker that does not answer any more for dead."""
        if slot.task is not None and time.monotonic() - slot.heard > SILENCE:
            yield from self._heard(slot, TimeoutError(f"no answer for {SILENCE:.0f} s"))

    def _ended(self, slot: Slot, well: bool) -> None:
        """Note how a worker's task ended."""
        if well:
            slot.deaths = slot.failures = 0
            return
        slot.failures += 1
        slot.rests = time.monotonic() + min(REST * 2**slot.failures, LONGEST_REST)
        if slot.failures >= MOST_FAILURES:
            slot.failures = 0
            self._end(slot)
            self._begin(slot)

    def _died(self, slot: Slot, error: Exception) -> None:
        """Replace a worker that is gone, unless those before it died, too."""
        self.reason = in_short(error)
        slot.deaths += 1
        self._end(slot)
        if slot.deaths < MOST_DEATHS:
            self._begin(slot)

    def _end(self, slot: Slot) -> None:
        """Make sure that a worker is gone."""
        if slot.actor is not None:
            with contextlib.suppress(Exception):  # it is dead, or the cluster is
                self.ray.kill(slot.actor)
        slot.actor, slot.ref, slot.ready, slot.task = None, None, False, None

    def _kill(self) -> None:
        for slot in self.slots:
            self._end(slot)
        self.slots = []


def version() -> str:
    """Of this package, under whatever name."""
    return sys.modules[__name__.rpartition(".sampling")[0]].__version__


def in_short(error: Exception) -> str:
    """Why a worker died, on one line."""
    text = " ".join(str(getattr(error, "error_msg", None) or error).split())
    text = text.partition(" Object store memory usage: ")[0]  # where memory ran out: Ray's statistics, a page of them
    return text[:MOST_REASON] or type(error).__name__
