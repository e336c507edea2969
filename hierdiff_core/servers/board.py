"""Which server draws which shard: what waits goes to whoever is free, what a server leaves goes to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

MOST_FAILURES = 3  # of a server, one after the other, while others finish shards
LEAST_SLOW = 30.0  # seconds under which nobody is slow


@dataclass
class Board:
    """The shards of a set, and who has them; for several threads.

    Attributes
    ----------
    count : int
        Shards, numbered from 1.
    servers : set of str
        Those that draw; one that is gone is taken out.
    done : set of int
        Finished shards.
    slow : float
        A shard that has taken so many times as long as others do is given to a second server, once nothing waits.
    clock : callable
        Seconds.
    held : dict of int to dict of str to float
        Who draws each shard, and since when.
    failures : dict of int to dict of str to str
        On which servers a shard has failed, and why.
    """

    count: int
    servers: set[str]
    done: set[int] = field(default_factory=set)
    slow: float = 3.0
    clock: Callable[[], float] = time.monotonic
    held: dict[int, dict[str, float]] = field(default_factory=dict)
    failures: dict[int, dict[str, str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    in_a_row: dict[str, int] = field(default_factory=dict)
    aborted: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do, or nobody to do it."""
        return bool(self.aborted) or not self.servers or not self._left()

    def _left(self) -> list[int]:
        """Shards that are not finished, and that some server has not failed at."""
        return [
            shard
            for shard in range(1, self.count + 1)
            if shard not in self.done and (shard in self.held or self.servers - set(self.failures.get(shard, ())))
        ]

    def take(self, server: str) -> int | None:
        """The next shard for a server; None where there is none now."""
        with self.changed:
            if self.over or server not in self.servers:
                return None
            fit = [shard for shard in self._left() if server not in self.failures.get(shard, ())]
            waiting = [shard for shard in fit if shard not in self.held]
            shard = waiting[0] if waiting else self._slowest(fit, server)
            if shard is not None:
                self.held.setdefault(shard, {})[server] = self.clock()
            return shard

    def _slowest(self, shards: Iterable[int], server: str) -> int | None:
        """The shard that one other server has had for far too long."""
        if not self.seconds:
            return None
        limit = max(self.slow * median(self.seconds), LEAST_SLOW)
        now, late = self.clock(), []
        for shard in shards:
            since = self.held.get(shard, {})
            if len(since) == 1 and server not in since and now - min(since.values()) > limit:
                late.append((min(since.values()), shard))
        return min(late)[1] if late else None

    def is_done(self, shard: int) -> bool:
        """Whether a shard is finished, perhaps by another."""
        with self.changed:
            return shard in self.done

    def finish(self, shard: int, server: str) -> bool:
        """A server has drawn a shard; whether it is the first."""
        with self.changed:
            since = self._release(shard, server)
            first = shard not in self.done
            if first and since is not None:
                self.seconds.append(self.clock() - since)
            self.done.add(shard)
            self.in_a_row[server] = 0
            return first

    def fail(self, shard: int, server: str, reason: str) -> str:
        """A server has failed at a shard, which goes to others; "" or why the server, or everything, is given up."""
        with self.changed:
            self._release(shard, server)
            self.failures.setdefault(shard, {})[server] = reason
            self.in_a_row[server] = self.in_a_row.get(server, 0) + 1
            failed = [name for own in self.failures.values() for name in own]
            if not self.done and self.servers <= set(failed) and len(failed) >= min(2, self.count):
                self.aborted = reason
                return f"no shard could be drawn: {reason}"
            if self.done and self.in_a_row[server] >= MOST_FAILURES and len(self.servers) > 1:
                self.servers.discard(server)
                return f"it has failed {MOST_FAILURES} times in a row"
            return ""

    def leave(self, shard: int, server: str) -> None:
        """A server gives a shard back: it is gone, or another was faster."""
        with self.changed:
            self._release(shard, server)

    def drop(self, server: str) -> None:
        """A server draws no more."""
        with self.changed:
            self.servers.discard(server)
            for shard in [shard for shard, since in self.held.items() if server in since]:
                self._release(shard, server)
            self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until something has changed, but not longer."""
        with self.changed:
            if not self.over:
                self.changed.wait(seconds)

    def _release(self, shard: int, server: str) -> float | None:
        since = self.held.get(shard, {}).pop(server, None)
        if not self.held.get(shard, True):
            del self.held[shard]
        self.changed.notify_all()
        return since

    def lost(self) -> dict[int, str]:
        """Shards that nobody could draw, and why."""
        missing = [shard for shard in range(1, self.count + 1) if shard not in self.done]
        return {shard: "; ".join(dict.fromkeys(self.failures.get(shard, {}).values())) for shard in missing}
