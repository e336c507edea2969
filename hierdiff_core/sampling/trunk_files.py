"""The store on disk: a folder of files that each hold some rows, written while the run goes on.

A file appears whole or not at all, and is never changed: so processes may share a folder, and one that is killed leaves
nothing half written. Each second of a run makes one, so that no more is lost than that.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..files.whole_files import remove_leftovers, write_new
from .row_files import (
    LARGEST_TEXT,
    LONGEST_PART,
    FileContents,
    WrittenLeaf,
    WrittenRow,
    contents_of,
    file_of,
    form_of,
    leaf_of,
    row_of,
    shortened_parts,
)

ENDING = ".trunk.safetensors"
OURS = re.compile(r"[0-9a-f]{16}\.trunk\.safetensors", re.ASCII)
SECONDS = 1.0  # of a run that a killed process loses, about
WRITTEN_AT_ONCE = 32 * 2**20  # bytes
MOST_WAITING = 256 * 2**20  # bytes that wait for a slow disk; a run waits beyond that
MOST_FILES = 4096
LONGEST_FORM = LARGEST_TEXT // 4  # characters of what a file says of a leaf
SECONDS_TO_END = 30.0  # that a process which ends waits for what is still to be written


class TrunkFolder:
    """Rows and leaves in a folder of safetensors files, the least recently used given up first.

    Parameters
    ----------
    path : path
        The folder; it is made when something is written. Files in it that are not a store's are left alone.
    budget : int
        Bytes of disk that its files may take.

    Attributes
    ----------
    tell : callable
        ``tell(text)`` hears once what a report should say.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import Store, TrunkFolder
    >>> store = Store(2**20, TrunkFolder("trunks", 2**20))
    >>> store.put(b"cat, step 0", torch.ones(4, 8, 8), branch=b"cat")
    >>> store.flush()
    >>> tomorrow = Store(2**20, TrunkFolder("trunks", 2**20))
    >>> tomorrow.get(b"cat, step 0").shape
    torch.Size([4, 8, 8])
    """

    def __init__(self, path: str | os.PathLike[str], budget: int):
        self.path, self.budget = Path(path), int(budget)
        self.tell: Callable[[str], None] = lambda text: None
        self._files: dict[str, FileContents] = {}  # the latest used last
        self._refused: set[str] = set()
        self._of_row: dict[bytes, str] = {}
        self._of_leaf: dict[bytes, str] = {}
        self._of_key: dict[int, bytes] = {}
        self._parts: dict[str, str] = {}
        self._owner, self._began, self._used, self._off = "", 0.0, set(), False
        self._rows: dict[bytes, WrittenRow] = {}  # to be written
        self._leaves: dict[bytes, WrittenLeaf] = {}
        self._waiting, self._hurry = 0, False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._look()

    def begin(self, parts: Mapping[str, str], owner: str) -> dict[str, str] | None:
        """Begin a run: look for files of other processes, and give up the oldest where there are too many.

        Parameters
        ----------
        parts : mapping of str to str
            What the run is made of.
        owner : str
            Whose it is.

        Returns
        -------
        before : dict of str to str or None
            What an earlier run was made of: one like this if there is any, else the owner's last, else the last of all.
        """
        with self._lock:
            self._off, self._began = False, time.time()
            self._used.clear()
            self._refused.clear()
            self._look()
            self._parts, self._owner = shortened_parts(parts), owner[:LONGEST_PART]
            runs = [contents for contents in self._files.values() if contents.parts]
            alike = [run for run in runs if run.parts == self._parts]
            theirs = [run for run in runs if run.owner == self._owner]
            return (alike or theirs or runs)[-1].parts if runs else None

    def has(self, key: bytes) -> bool:
        """Whether a row is here, or on its way."""
        return key in self._of_row or key in self._rows

    def read(self, key: bytes) -> tuple[torch.Tensor, bytes] | None:
        """A row and its branch; None where it is not here, or its file is damaged.

        Parameters
        ----------
        key : bytes

        Returns
        -------
        row : tensor
        branch : bytes
        """
        with self._lock:
            waiting = self._rows.get(key)
            if waiting is not None:
                return waiting.row, waiting.branch
            name = self._of_row.get(key)
            if name is None:
                return None
            tensor = self._files[name].rows[key]
            row = self._attempt(name, lambda: row_of(self.path / name, tensor))
            return None if row is None else (row, bytes.fromhex(tensor.split(".")[1]))

    def add(self, key: bytes, row: torch.Tensor, branch: bytes) -> None:
        """Have a row written, in the background.

        Parameters
        ----------
        key : bytes
            Its digest.
        row : tensor
            On the CPU; nobody may change it.
        branch : bytes
            What it belongs to.
        """
        with self._lock:
            if self._off or self.has(key):
                return
            self._rows[key] = WrittenRow(key, branch, row)
            self._wait_in_line(row.nbytes)

    def add_leaf(self, key: int, digest: bytes, value: Any) -> None:
        """Have a leaf written, in the background; what a file cannot hold is not.

        Parameters
        ----------
        key : int
            Of its prompt.
        digest : bytes
            Of the value.
        value : any
            As for `Leaves.put`.
        """
        tensors: list[torch.Tensor] = []
        try:
            form = form_of(value, tensors)
        except ValueError:
            return
        if len(json.dumps(form)) > LONGEST_FORM:
            return
        with self._lock:
            self._of_key[key] = digest
            if self._off or digest in self._of_leaf or digest in self._leaves:
                return
            self._leaves[digest] = WrittenLeaf(key, digest, form, tensors)
            self._wait_in_line(sum(tensor.nbytes for tensor in tensors))

    def leaf(self, digest: bytes) -> Any:
        """A leaf's value; None where it is not here, or its file is damaged."""
        with self._lock:
            name = self._of_leaf.get(digest)
            if name is None:
                return None
            told = self._files[name].leaves[digest]
            return self._attempt(name, lambda: leaf_of(self.path / name, told))

    def leaf_of(self, key: int) -> bytes | None:
        """The digest of the leaf that a prompt had last."""
        with self._lock:
            return self._of_key.get(key)

    def flush(self) -> None:
        """Wait until all is written, or cannot be."""
        with self._lock:
            self._hurry = True
            self._changed.notify_all()
            while self._thread is not None and self._thread.is_alive() and (self._rows or self._leaves):
                self._changed.wait(SECONDS)
            self._hurry = False

    def _wait_in_line(self, size: int) -> None:
        self._waiting += size
        if self._thread is None:
            self._thread = threading.Thread(target=_write_on, args=(weakref.ref(self),), daemon=True)
            self._thread.name = "hierdiff trunk"
            self._thread.start()
            atexit.register(_end, weakref.ref(self))
        self._changed.notify_all()
        while self._waiting > MOST_WAITING and not self._off:
            self._changed.wait(SECONDS)

    def _write_some(self) -> None:
        """Write what waits as one file; called by the thread."""
        with self._lock:
            rows, leaves = list(self._rows.values()), self._some_leaves()
            parts, owner, size = self._parts, self._owner, self._waiting
        name, failed, written = f"{secrets.token_hex(8)}{ENDING}", "", None
        try:
            data = file_of(rows, leaves, parts, owner)
            self.path.mkdir(parents=True, exist_ok=True)
            failed = "" if self._make_room(len(data)) else f"its {self.budget / 2**30:.3g} GiB are full"
            if not failed:
                write_new(self.path / name, data)
                written = contents_of(self.path / name)
        except Exception as error:  # whatever it is, the run goes on
            failed = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        with self._lock:
            for row in rows:
                self._rows.pop(row.key, None)
            for leaf in leaves:
                self._leaves.pop(leaf.digest, None)
            self._waiting = max(self._waiting - size, 0)
            if written is None:
                self._give_up_writing(failed)
            else:
                self._note_file(name, written)
                self._used.add(name)
            self._changed.notify_all()

    def _some_leaves(self) -> list[WrittenLeaf]:
        """Leaves for one file: what is said of them must not be too long."""
        chosen, length = [], 0
        for leaf in self._leaves.values():
            length += len(json.dumps(leaf.form)) + 200 * (1 + len(leaf.tensors))
            if chosen and length > LARGEST_TEXT // 2:
                break
            chosen.append(leaf)
        return chosen

    def _give_up_writing(self, reason: str) -> None:
        self._off = True
        self._rows.clear()
        self._leaves.clear()
        self._waiting = 0
        self.tell(f"nothing more of this run is kept in the folder {self.path.name} ({reason}); the run goes on")

    def _make_room(self, size: int) -> bool:
        """Give up the least recently used files that are not of this run; whether there is room then."""
        ours = self._ours()
        room, count = self.budget - sum(known.st_size for known in ours.values()) - size, len(ours)
        for name, known in ours.items():
            if room >= 0 and count < MOST_FILES:
                break
            if name in self._used or known.st_mtime >= self._began > 0:  # of this run, or of another process's
                continue
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
            room, count = room + known.st_size, count - 1
            with self._lock:
                self._forget(name)
        return room >= 0

    def _ours(self) -> dict[str, os.stat_result]:
        """The store's files in the folder, whatever they hold, the least recently used first."""
        found = {}
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if OURS.fullmatch(entry.name):
                    with contextlib.suppress(OSError):  # another process gave it up
                        found[entry.name] = entry.stat(follow_symlinks=False)
        regular = [name for name, known in found.items() if stat.S_ISREG(known.st_mode)]
        return {name: found[name] for name in sorted(regular, key=lambda name: found[name].st_mtime)}

    def _look(self) -> None:
        """Take note of files that came, and of those that are gone."""
        ours = self._ours()
        for name in [name for name in self._files if name not in ours]:
            self._forget(name)
        for name in ours:
            if name not in self._files and name not in self._refused:
                contents = self._attempt(name, lambda name=name: contents_of(self.path / name), use=False)
                if contents is not None:
                    self._note_file(name, contents)
        if ours:
            remove_leftovers(self.path)

    def _note_file(self, name: str, contents: FileContents) -> None:
        self._files[name] = contents
        self._of_row.update(dict.fromkeys(contents.rows, name))
        for digest, leaf in contents.leaves.items():
            self._of_leaf[digest] = name
            self._of_key[leaf["key"]] = digest

    def _forget(self, name: str) -> None:
        contents = self._files.pop(name, FileContents())
        for key in contents.rows:
            if self._of_row.get(key) == name:
                del self._of_row[key]
        for digest in contents.leaves:
            if self._of_leaf.get(digest) == name:
                del self._of_leaf[digest]

    def _attempt(self, name: str, read: Callable[[], Any], use: bool = True) -> Any:
        """Read of a file, and remember that it was used; None, and a note, where it is no good."""
        try:
            found = read()
        except FileNotFoundError:
            self._forget(name)
            return None
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            self._forget(name)
            self._refused.add(name)
            self.tell(f"{name} in the folder {self.path.name} cannot be used: {str(error)[:200]}")
            return None
        if use and name not in self._used:
            self._used.add(name)
            with contextlib.suppress(OSError):
                os.utime(self.path / name)
        return found


def _write_on(folder: weakref.ref[TrunkFolder]) -> None:
    """Write what comes, a second's worth at a time, for as long as anybody has the folder."""
    while (own := folder()) is not None:
        with own._lock:
            if not (own._rows or own._leaves):
                own._changed.wait(SECONDS)
            until = time.monotonic() + SECONDS
            while (left := until - time.monotonic()) > 0:
                if own._hurry or own._waiting >= WRITTEN_AT_ONCE:
                    break
                own._changed.wait(left)
            some = bool(own._rows or own._leaves)
        if some:
            own._write_some()
        del own


def _end(folder: weakref.ref[TrunkFolder]) -> None:
    """Have what waits written before the process ends, unless the disk takes too long."""
    own = folder()
    if own is not None:
        ender = threading.Thread(target=own.flush, daemon=True)
        ender.start()
        ender.join(SECONDS_TO_END)
