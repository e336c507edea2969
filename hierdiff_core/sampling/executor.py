"""Where the parts of a plan are run: here, in threads, or on the workers of a Ray cluster (`ray_executor`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any, Protocol, TypeAlias

from ..plan.checks import shown, whole_number

MOST_WORKERS = 10_000
SECONDS = 0.2  # until a run says that nothing has happened, so that it can be stopped
MOST_REASON = 500  # characters
NO_RAY = "Workers need Ray: pip install hierdiff[ray]"
ADDRESS = re.compile(r"(ray://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.\-]*):\d{1,5}")


@dataclass(frozen=True)
class Workers:
    """Processes that draw the parts of a set, one on each GPU, through Ray.

    Attributes
    ----------
    count : int
        How many; 0: one for each GPU of this machine, or of the cluster; where there is none, one for every two cores.
    address : str
        "": this machine; Ray is started on 127.0.0.1, and stopped when the set is drawn. "auto": the cluster that this
        machine belongs to. Else a Ray address, ``host:6379`` or ``ray://host:10001``.

    Raises
    ------
    ValueError
        If the count is negative or no whole number, or the address is none.

    Examples
    --------
    >>> from hierdiff_core.sampling.executor import Workers
    >>> Workers(2)
    Workers(count=2, address='')
    >>> Workers(address="somewhere")
    Traceback (most recent call last):
        ...
    ValueError: address must be empty (this machine), auto, host:port or ray://host:port; got 'somewhere'
    """

    count: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        count = whole_number("count of workers", self.count)
        if not 0 <= count <= MOST_WORKERS:
            raise ValueError(f"count of workers must be 0 (one for each GPU) to {MOST_WORKERS}; got {shown(count)}")
        address: Any = self.address
        address = address.strip() if isinstance(address, str) else address
        known = isinstance(address, str) and (address in ("", "auto") or ADDRESS.fullmatch(address))
        if not known or (address.rpartition(":")[2].isdigit() and int(address.rpartition(":")[2]) > 65535):
            raise ValueError(
                f"address must be empty (this machine), auto, host:port or ray://host:port; got {shown(self.address)}"
            )
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "address", address)


@dataclass(frozen=True)
class Told:
    """What a worker says in the middle of a task: finished prompts, say.

    Attributes
    ----------
    value : any
        Plain data.
    """

    value: Any


@dataclass(frozen=True)
class Done:
    """What a task has come to.

    Attributes
    ----------
    value : any
        Plain data.
    """

    value: Any


@dataclass(frozen=True)
class Failure:
    """Why a task was not done.

    Attributes
    ----------
    reason : str
        For a user.
    disk : bool
        Whether a file could not be written: no other worker would do better.
    """

    reason: str
    disk: bool = False


Said: TypeAlias = "Told | Done | Failure"
# task's number and its data
Task: TypeAlias = "tuple[int, Any]"
# take(worker) -> task, or None: nothing for it now
Take: TypeAlias = "Callable[[int], Task | None]"
# work(task, tell) -> result; tell(value) says something in the middle
Work: TypeAlias = "Callable[[Any, Callable[[Any], None]], Any]"


@dataclass(frozen=True)
class Job:
    """How a worker is made that does the tasks of a run.

    Attributes
    ----------
    entry : str
        ``module:name`` below this package, of a callable that is given `setup` and gives a `Work`: in another process.
    setup : dict
        Plain data: text, numbers, numpy arrays, lists and dicts of them.
    here : callable
        ``here() -> Work`` in this process.
    """

    entry: str
    setup: dict[str, Any]
    here: Callable[[], Work]


class NoWorkers(RuntimeError):
    """Nobody is left to do what waits."""


class Executor(Protocol):
    """What runs tasks. A context manager: leaving it ends whatever is still in work.

    Attributes
    ----------
    count : int
        Tasks that it does at a time.
    """

    count: int

    @property
    def kinds(self) -> list[str]:
        """What each worker computes on, for a user; "" where nobody knows."""
        ...

    def __enter__(self) -> Any:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End."""
        ...

    def early(self, entry: str, setup: dict[str, Any]) -> None:
        """Have workers made before a job is known, and do what can be done for it; nothing is waited for.

        Parameters
        ----------
        entry : str
            As of `Job`; it is called by each worker that is another process, and its result is not wanted. What goes
            wrong is said by `begin`.
        setup : dict
            What it is given.
        """
        ...

    def begin(self, job: Job) -> None:
        """Make the workers.

        Parameters
        ----------
        job : Job
            How.

        Raises
        ------
        ValueError
            If a worker cannot be made; nothing was computed then.
        """
        ...

    def run(self, take: Take) -> Iterator[tuple[int, Said] | None]:
        """Do tasks until there are none.

        Parameters
        ----------
        take : callable
            ``take(worker)`` is asked for the next task whenever a worker is idle, by its number below `count`; None
            where none waits for it now. What is yielded may bring new ones.

        Yields
        ------
        said : (int, Told or Done or Failure), or None
            The number of a task, and what its worker says; None several times a second, where nobody says anything.
        """
        ...


class Here:
    """Tasks one after the other in this thread; what they say is heard when they are done."""

    count = 1

    def __init__(self) -> None:
        self.kinds = [""]

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def early(self, entry: str, setup: dict[str, Any]) -> None:
        """Nothing: the work is made in this process."""

    def begin(self, job: Job) -> None:
        """As in `Executor`."""
        self.work = job.here()

    def run(self, take: Take) -> Iterator[tuple[int, Said] | None]:
        """As in `Executor`."""
        while (task := take(0)) is not None:
            number, data = task
            said: list[Said] = []
            said.append(attempt(self.work, data, lambda value, said=said: said.append(Told(value))))
            yield from ((number, one) for one in said)


class Threads:
    """Tasks in threads of this process.

    Parameters
    ----------
    count : int
        How many.
    """

    def __init__(self, count: int):
        self.count = whole_number("count of threads", count, 1)
        self.closed = False
        self.kinds = [""] * self.count

    def __enter__(self) -> Threads:
        self.pool = ThreadPoolExecutor(self.count, "HierDiff worker")
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        self.pool.shutdown(cancel_futures=True)

    def early(self, entry: str, setup: dict[str, Any]) -> None:
        """Nothing: the work is made in this process."""

    def begin(self, job: Job) -> None:
        """As in `Executor`."""
        self.idle = {number: job.here() for number in range(self.count)}

    def run(self, take: Take) -> Iterator[tuple[int, Said] | None]:
        """As in `Executor`."""
        heard: Queue[tuple[int, Said]] = Queue()
        working: dict[int, tuple[int, Work]] = {}
        while True:
            for worker in list(self.idle):
                if (task := take(worker)) is not None:
                    number, data = task
                    working[number] = worker, self.idle.pop(worker)
                    self.pool.submit(self._do, working[number][1], number, data, heard)
            if not working:
                return
            try:
                number, said = heard.get(timeout=SECONDS)
            except Empty:
                yield None
                continue
            if not isinstance(said, Told):
                worker, work = working.pop(number)
                self.idle[worker] = work
            yield number, said

    def _do(self, work: Work, number: int, data: Any, heard: Queue[tuple[int, Said]]) -> None:
        def tell(value: Any) -> None:
            if self.closed:
                raise RuntimeError("the run has ended")
            heard.put((number, Told(value)))

        heard.put((number, attempt(work, data, tell)))


def attempt(work: Work, data: Any, tell: Callable[[Any], None]) -> Done | Failure:
    """Do a task; what it raises is its failure."""
    try:
        return Done(work(data, tell))
    except OSError as error:
        return Failure(str(error), disk=True)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {str(error)[:MOST_REASON]}")
