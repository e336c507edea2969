"""What the model evaluated, kept for the next run.

A row is what the model said of one branch at one call, after guidance. It is kept by the digest of what the branch is
made of (`lineage`), so that a run which is asked for the same again takes it from here, whatever else has changed, and
nobody else ever gets it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..devices import AsyncHostCopy
from .leaves import Leaves
from .row_files import shortened_parts
from .store_texts import changed_in_words, in_bytes

if TYPE_CHECKING:
    from .trunk_files import TrunkFolder

SESSION_BUDGET = 2 * 2**30
ROW_COSTS = 512  # bytes beside its numbers, about
MOST_ARRIVING = 256 * 2**20  # bytes on their way from a device, in memory that the system cannot swap out
MOST_SETTINGS = 256  # runs whose settings are remembered


@dataclass
class _Branch:
    """Rows of one branch: they are given up together."""

    run: int
    rows: dict[bytes, torch.Tensor] = field(default_factory=dict)
    held: int = 0


@dataclass
class _Arriving:
    """Rows on their way from a device."""

    copy: AsyncHostCopy
    keys: Sequence[bytes]
    branches: Sequence[bytes]


class Store:
    """Rows that the model evaluated, by the digests of what they are made of.

    Parameters
    ----------
    budget : int
        Bytes of memory that the rows may take. A row is in float32: 64 KiB for a picture of 512 x 512, twice that where
        the model predicts a variance too.
    folder : TrunkFolder, optional
        Keeps the rows on disk too, in the background.

    Attributes
    ----------
    budget : int
        May be set at any time.
    leaves : Leaves
        Embeddings of prompts that are gone.
    notes : list of str
        What a report should say of the store since `begin`, each thing once.

    Notes
    -----
    Where rows do not fit, the least recently used branches of earlier runs are given up. Those of the present run stay:
    a run that is larger than the budget would else give up what it needs next, and find nothing when it runs again.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import Store
    >>> store = Store(budget=2**20)
    >>> store.put(b"cat, step 0", torch.ones(4, 8, 8), branch=b"cat")
    >>> store.get(b"cat, step 0").shape, store.get(b"dog, step 0"), store.rows
    (torch.Size([4, 8, 8]), None, 1)
    """

    def __init__(self, budget: int, folder: TrunkFolder | None = None):
        self._budget, self.folder = int(budget), folder
        self.leaves = Leaves(folder=folder)
        if folder is not None:
            folder.tell = self.note
        self.notes: list[str] = []
        self._branches: OrderedDict[bytes, _Branch] = OrderedDict()  # the latest used last
        self._of_row: dict[bytes, bytes] = {}
        self._arriving: deque[_Arriving] = deque()
        self._coming: set[bytes] = set()  # keys of these
        self._held = self._run = 0
        self._settings: OrderedDict[frozenset[tuple[str, str]], None] = OrderedDict()
        self._last: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._lock = threading.RLock()
        self._noting = threading.Lock()  # one of its own: the folder's thread has things to say too

    @property
    def budget(self) -> int:
        """Bytes of memory that the rows may take."""
        return self._budget

    @budget.setter
    def budget(self, budget: int) -> None:
        with self._lock:
            self._budget = int(budget)
            while self._held > self._budget and self._branches:
                self._give_up(next(iter(self._branches)))

    @property
    def held(self) -> int:
        """Bytes of memory that the rows take."""
        self.land()
        return self._held

    @property
    def rows(self) -> int:
        """Rows in memory."""
        self.land()
        return len(self._of_row)

    def begin(self, parts: Mapping[str, str], owner: str) -> str:
        """Begin a run.

        Parameters
        ----------
        parts : mapping of str to str
            What the run's fingerprint is made of, by words that a report can use: "sampler", "size".
        owner : str
            Whose run it is: a node's id, or a name.

        Returns
        -------
        reason : str
            Why nothing of the owner's last run can be reused, with the parts that changed; "" where something may be.
        """
        with self._lock:
            self._run += 1
            with self._noting:
                self.notes.clear()
            known = tuple(shortened_parts(parts).items())
            before, seen = self._last.get(owner), frozenset(known) in self._settings
            on_disk = None if self.folder is None else self.folder.begin(dict(known), owner)
            if on_disk == dict(known) or before is None:
                before = on_disk
            self._remember(known, owner)
        return "" if seen or before is None else changed_in_words(before, dict(known))

    def get(self, key: bytes) -> torch.Tensor | None:
        """What was put under a key.

        Parameters
        ----------
        key : bytes
            Digest of the row.

        Returns
        -------
        row : tensor or None
            On the CPU, bit-identical; it must not be changed. None where it is not kept.
        """
        with self._lock:
            if key in self._coming:  # of others nothing is awaited: a run asks for many that are not here
                self.land()
            branch = self._of_row.get(key)
            if branch is not None:
                self._touch(branch)
                return self._branches[branch].rows[key]
            found = None if self.folder is None else self.folder.read(key)
            if found is None:
                return None
            row, branch = found
            self._keep(key, row, branch)
            return row

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Ask what would have to be evaluated, without reading anything.

        Parameters
        ----------
        keys : sequence of bytes
            Digests of rows.

        Returns
        -------
        places : list of int
            Of the rows that are not kept, rising.
        """
        with self._lock:
            self.land()
            on_disk = (lambda key: False) if self.folder is None else self.folder.has
            return [i for i, key in enumerate(keys) if key not in self._of_row and not on_disk(key)]

    def reserve(self, keys: Sequence[bytes]) -> int:
        """Keep rows from being given up in this run, and count them.

        Parameters
        ----------
        keys : sequence of bytes
            Digests of rows that the run is going to ask for.

        Returns
        -------
        count : int
            How many are kept, in memory or on disk.
        """
        with self._lock:
            for branch in dict.fromkeys(self._of_row[key] for key in keys if key in self._of_row):
                self._touch(branch)
            return len(keys) - len(self.missing(keys))

    def put(self, key: bytes, row: torch.Tensor, branch: bytes) -> None:
        """Keep a row.

        Parameters
        ----------
        key : bytes
            Its digest.
        row : tensor
            On any device: nothing waits for it. It is copied.
        branch : bytes
            What is given up together.
        """
        self.put_rows([key], row[None], [branch])

    def put_rows(self, keys: Sequence[bytes], rows: torch.Tensor, branches: Sequence[bytes]) -> None:
        """Keep several rows, in one copy from the device.

        Parameters
        ----------
        keys : C bytes
            Their digests.
        rows : (C, ...) tensor
            On any device: nothing waits for it. It is copied.
        branches : C bytes
            What each belongs to.
        """
        with self._lock:
            if self._budget <= 0 and self.folder is None:
                return
            self._arriving.append(_Arriving(AsyncHostCopy(rows.detach()), list(keys), list(branches)))
            self._coming.update(keys)
            self.land(wait=rows.device.type == "cpu")
            while sum(batch.copy.copy.nbytes for batch in self._arriving) > MOST_ARRIVING:
                self._take_in(self._arriving.popleft())

    def land(self, wait: bool = True) -> None:
        """Take in the rows that have come from the device.

        Parameters
        ----------
        wait : bool
            Also for those that are still on their way.
        """
        with self._lock:
            while self._arriving and (wait or self._arriving[0].copy.here):
                self._take_in(self._arriving.popleft())

    def flush(self) -> None:
        """Wait until all that was put is where it is kept, on disk too."""
        self.land()
        if self.folder is not None:
            self.folder.flush()

    @contextlib.contextmanager
    def kept_safe(self) -> Iterator[None]:
        """Have all that a `with` block puts be where it is kept when the block ends, also by an error or a cancel."""
        try:
            yield
        finally:
            self.flush()

    def clear(self) -> None:
        """Forget all that is in memory; what is on disk stays."""
        with self._lock:
            self._arriving.clear()
            self._coming.clear()
            self._branches.clear()
            self._of_row.clear()
            self._held = 0
            self.leaves.clear()

    def note(self, text: str) -> None:
        """Have a report say something of this run, once.

        Parameters
        ----------
        text : str
        """
        with self._noting:
            if text not in self.notes:
                self.notes.append(text)

    def _take_in(self, batch: _Arriving) -> None:
        for key, row, branch in zip(batch.keys, batch.copy.wait(), batch.branches, strict=True):
            self._coming.discard(key)
            row = row.clone()  # out of memory that cannot be swapped out, or that somebody else may change
            if self.folder is not None:
                self.folder.add(key, row, branch)
            self._keep(key, row, branch)

    def _keep(self, key: bytes, row: torch.Tensor, branch: bytes) -> None:
        """Make room for a row and keep it; where there is no room, say so."""
        size = row.nbytes + ROW_COSTS
        if key in self._of_row:
            return self._touch(self._of_row[key])
        if branch in self._branches:
            self._touch(branch)  # it must not make room for itself
        while self._held + size > self._budget and self._branches:
            oldest = next(iter(self._branches))
            if oldest == branch or (self._run and self._branches[oldest].run == self._run):
                break
            self._give_up(oldest)
        if self._held + size > self._budget:
            return self._no_room(size)
        own = self._branches.setdefault(branch, _Branch(self._run))
        own.rows[key] = row
        own.held += size
        self._held += size
        self._of_row[key] = branch

    def _no_room(self, size: int) -> None:
        where = "; they are on disk alone" if self.folder is not None else "; the others are evaluated again next time"
        text = f"the store of {in_bytes(self._budget)} is too small for all rows of this run{where}"
        if size > self._budget:
            text = f"the store of {in_bytes(self._budget)} is too small for a single row of {in_bytes(size)}{where}"
        self.note(text)

    def _touch(self, branch: bytes) -> None:
        self._branches[branch].run = self._run
        self._branches.move_to_end(branch)

    def _give_up(self, branch: bytes) -> None:
        own = self._branches.pop(branch)
        self._held -= own.held
        for key in own.rows:
            del self._of_row[key]

    def _remember(self, known: tuple[tuple[str, str], ...], owner: str) -> None:
        self._settings[frozenset(known)] = None
        self._settings.move_to_end(frozenset(known))
        self._last[owner] = dict(known)
        self._last.move_to_end(owner)
        for memory in (self._settings, self._last):
            while len(memory) > MOST_SETTINGS:
                memory.popitem(last=False)


_session: Store | None = None
_session_lock = threading.Lock()


def session_store() -> Store:
    """The store of this process, in memory alone.

    Returns
    -------
    store : Store
        The same one at each call; 2 GiB unless somebody sets its `budget`.

    Examples
    --------
    >>> from hierdiff_core.sampling.store import session_store
    >>> session_store() is session_store()
    True
    """
    global _session
    with _session_lock:
        if _session is None:
            _session = Store(SESSION_BUDGET)
        return _session
