"""The run of a set on several servers: a thread for each of them takes shards, queues them, waits and collects."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from ..sampling.pace import in_words
from .board import Board
from .client import Refused, Server, ServerGone
from .folder import Liar, SetFolder
from .workflow import SplitWorkflow

SOONEST, LATEST = 0.2, 2.0  # seconds between two questions
QUEUE_EVERY = 10  # questions about a run until its server is asked whether it still has it


class Stopped(Exception):
    """The user has stopped the run."""


class Forgotten(ServerGone):
    """A server knows nothing of what it was to draw: it was started again."""


class ShardRun:
    """Draws the shards of a set.

    Parameters
    ----------
    workflow : SplitWorkflow
    servers : sequence of Server
        That were checked.
    folder : SetFolder
    tell : callable
        ``tell(text)``: a line of progress.
    patience : float
        Seconds that a server may be silent.
    slow : float
        See `Board`.
    extra : dict
        What goes along with each prompt, for the pictures' metadata.

    Attributes
    ----------
    board : Board
    """

    def __init__(
        self,
        workflow: SplitWorkflow,
        servers: Sequence[Server],
        folder: SetFolder,
        tell: Callable[[str], Any],
        patience: float = 60.0,
        slow: float = 3.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.workflow, self.servers, self.folder, self.tell = workflow, list(servers), folder, tell
        self.patience, self.extra = patience, extra
        self.board = Board(folder.count, {server.name for server in servers}, set(folder.done), slow)
        self.stop = threading.Event()
        self.crashed: list[BaseException] = []

    def run(self) -> dict[int, str]:
        """Draw what is missing.

        Returns
        -------
        lost : dict of int to str
            Shards that nobody could draw, and why.

        Raises
        ------
        KeyboardInterrupt
            After what was queued is cancelled.
        OSError
            If a file cannot be written here.
        """
        adopted = self._adopted()
        threads = [
            threading.Thread(target=self._serve, args=(server, adopted.get(server.name, [])), name=server.name)
            for server in self.servers
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self._pause()
        except BaseException:
            self.stop.set()
            for thread in threads:
                thread.join()
            raise
        if self.crashed:
            raise self.crashed[0]
        return self.board.lost()

    def _pause(self) -> None:
        """Wait for the threads; here the user's Ctrl-C arrives."""
        self.stop.wait(SOONEST)

    def _adopted(self) -> dict[str, list[dict[str, Any]]]:
        """What an earlier start has queued, by server; nobody else takes these shards before it is known."""
        found: dict[str, list[dict[str, Any]]] = {}
        for own in list(self.folder.running):
            fits = own["server"] in self.board.servers and own["shard"] not in self.board.done
            if fits and 1 <= own["shard"] <= self.board.count:
                self.board.held.setdefault(own["shard"], {})[own["server"]] = self.board.clock()
                found.setdefault(own["server"], []).append(own)
        return found

    def _serve(self, server: Server, adopted: list[dict[str, Any]]) -> None:
        """What a server's thread does."""
        try:
            for own in adopted:
                self._attempt(server, own["shard"], own)
            while not (self.stop.is_set() or self.board.over or server.name not in self.board.servers):
                shard = self.board.take(server.name)
                if shard is None:
                    self.board.wait(LATEST)
                else:
                    self._attempt(server, shard, None)
        except Stopped:
            pass
        except BaseException as error:  # of this machine: a full disk, say
            self.crashed.append(error)
            self.stop.set()
            self.board.drop(server.name)

    def _attempt(self, server: Server, shard: int, queued: dict[str, Any] | None) -> None:
        """Have a server draw a shard, and say what has come of it."""
        name, began = server.name, time.monotonic()
        try:
            own = queued or self._queue(server, shard)
            count = self._wait_and_collect(server, shard, own)
        except Forgotten:
            self.board.leave(shard, name)
            self.tell(f"{name} knows nothing of shard {shard} any more: it goes to whoever is free")
        except (ServerGone, Liar) as error:
            self.board.drop(name)
            self.tell(f"⚠ {name} is left out: {error}; {self._rest()}")
        except Refused as error:
            given_up = self.board.fail(shard, name, str(error))
            self.tell(f"⚠ shard {shard} failed on {name}: {error}")
            if given_up:
                self.tell(f"⚠ {name} is left out: {given_up}" if not self.board.aborted else f"⚠ {given_up}")
        else:
            if count is None:
                self.board.leave(shard, name)
            elif self.board.finish(shard, name):
                seconds = time.monotonic() - began
                self.tell(f"shard {shard} from {name}: {count} files in {seconds:.0f} s; {self._rest()}")

    def _rest(self) -> str:
        done, count, seconds = len(self.board.done), self.board.count, self.board.seconds
        left = sum(seconds) / len(seconds) * (count - done) / max(len(self.board.servers), 1) if seconds else 0.0
        return f"{done} of {count} shards done" + (f", about {in_words(left)} left" if left else "")

    def _queue(self, server: Server, shard: int) -> dict[str, Any]:
        """Queue a shard; a server that refuses it at once cannot run the workflow."""
        run = f"{self.folder.digest}-{shard}-{secrets.token_hex(4)}"
        prompt_id = str(uuid.uuid4())
        self.folder.note_running(shard, server.name, prompt_id, run)  # first: a start after a kill asks for it
        prompt = self.workflow.shard(shard, self.folder.count, run)
        try:
            given = server.queue(prompt, prompt_id, self.extra)
        except Refused as error:
            self.folder.note_ended(prompt_id)
            raise Liar(f"it refuses the workflow: {error}") from None
        except ServerGone:
            self.folder.note_ended(prompt_id)
            raise
        if given != prompt_id:
            self.folder.note_ended(prompt_id)
            self.folder.note_running(shard, server.name, given, run)
        self.tell(f"shard {shard} of {self.folder.count} queued on {server.name}")
        return {"shard": shard, "server": server.name, "id": given, "run": run}

    def _wait_and_collect(self, server: Server, shard: int, own: dict[str, Any]) -> int | None:
        """Wait for a shard and bring its files here: how many, None where another server was faster."""
        heard, pause, questions, gone = time.monotonic(), SOONEST, 0, False
        try:
            while True:
                if self.stop.is_set():
                    raise Stopped
                if self.board.is_done(shard):
                    return None
                try:
                    if server.ended(own["id"]):
                        return self.folder.collect(shard, server, own["run"])
                    questions += 1
                    if questions % QUEUE_EVERY == 1 and not server.has_queued(own["id"]):
                        if not server.ended(own["id"]):  # it may have ended in between
                            raise Forgotten(f"{server.name} knows nothing of it")
                        continue
                    heard, pause = time.monotonic(), min(1.5 * pause, LATEST)
                except Forgotten:
                    raise
                except ServerGone:
                    if time.monotonic() - heard > self.patience:
                        gone = True
                        raise
                self.stop.wait(pause)
        finally:
            if not gone:
                self._end(server, shard, own)

    def _end(self, server: Server, shard: int, own: dict[str, Any]) -> None:
        """Forget what was queued, and cancel it where it was not waited for."""
        if self.stop.is_set() or self.board.is_done(shard):
            server.cancel(own["id"])
        self.folder.note_ended(own["id"])
