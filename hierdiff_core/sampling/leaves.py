"""Embeddings of prompts that are gone: the means of branches that they founded are still made of them.

Kept by the digest of what they are, and found by their prompt's key too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .trunk_files import TrunkFolder

LEAVES_BUDGET = 256 * 2**20  # bytes: 10,000 embeddings of 1,280 numbers take half of it


class Leaves:
    """What prompts were embedded as, least recently used ones given up first.

    Parameters
    ----------
    budget : int
        Bytes that they may take.
    folder : TrunkFolder, optional
        Keeps them on disk too.

    Attributes
    ----------
    held : int
        Bytes that they take.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core.sampling.leaves import Leaves
    >>> leaves = Leaves()
    >>> leaves.put(7, b"digest of a cat", torch.ones(2, 3))
    >>> leaves.find(7), leaves.get(b"digest of a cat").shape, leaves.get(b"another")
    (b'digest of a cat', torch.Size([2, 3]), None)
    """

    def __init__(self, budget: int = LEAVES_BUDGET, folder: TrunkFolder | None = None):
        self.budget, self.folder, self.held = budget, folder, 0
        self._values: OrderedDict[bytes, Any] = OrderedDict()
        self._latest: OrderedDict[int, bytes] = OrderedDict()  # digest of each key; one entry a put at most
        self._lock = threading.RLock()

    def put(self, key: int, digest: bytes, value: Any) -> None:
        """Keep what a prompt is embedded as.

        Parameters
        ----------
        key : int
            Of the prompt.
        digest : bytes
            Of the value.
        value : any
            Tensors on the CPU, alone or in lists and dicts; it is kept as it is, so nobody may change it afterwards.
        """
        with self._lock:
            self._latest[int(key)] = digest
            self._latest.move_to_end(int(key))
            if digest in self._values:
                self._values.move_to_end(digest)
                return
            self._keep(digest, value)
            if self.folder is not None:
                self.folder.add_leaf(int(key), digest, value)

    def get(self, digest: bytes) -> Any:
        """What was kept under a digest; None where that is not known any more.

        Parameters
        ----------
        digest : bytes

        Returns
        -------
        value : any
        """
        with self._lock:
            if digest in self._values:
                self._values.move_to_end(digest)
                return self._values[digest]
            found = None if self.folder is None else self.folder.leaf(digest)
            if found is not None:
                self._keep(digest, found)
            return found

    def find(self, key: int) -> bytes | None:
        """The digest that was put last for a prompt's key; None where there is none.

        Parameters
        ----------
        key : int

        Returns
        -------
        digest : bytes or None
        """
        with self._lock:
            known = self._latest.get(int(key))
            return known if known is not None or self.folder is None else self.folder.leaf_of(int(key))

    def clear(self) -> None:
        """Forget all that is in memory."""
        with self._lock:
            self._values.clear()
            self._latest.clear()
            self.held = 0

    def _keep(self, digest: bytes, value: Any) -> None:
        self._values[digest] = value
        self.held += size_of(value)
        while self.held > self.budget and len(self._values) > 1:
            self.held -= size_of(self._values.popitem(last=False)[1])
        while len(self._latest) > 2 * len(self._values) + 1024:
            self._latest.popitem(last=False)


def size_of(value: Any) -> int:
    """Bytes of the tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, (list, tuple)) else 0
