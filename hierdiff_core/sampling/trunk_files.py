"""The store on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class TrunkFolder:
    """Rows and leaves in a folder of safetensors files, the least recently used given up first.

    Parameters
    ----------
    path : path
        The folder; it is made when something is written.
    budget : int
        Bytes of disk that its files may take.
    """

    def __init__(self, path: str | os.PathLike[str], budget: int):
        self.path, self.budget = Path(path), int(budget)

    def begin(self, parts: Mapping[str, str], owner: str) -> dict[str, str] | None:
        """Begin a run; what the owner's last one was made of, where a file tells."""
        raise NotImplementedError

    def has(self, key: bytes) -> bool:
        """Whether a row is there."""
        raise NotImplementedError

    def read(self, key: bytes) -> tuple[torch.Tensor, bytes] | None:
        """A row and its branch."""
        raise NotImplementedError

    def add(self, key: bytes, row: torch.Tensor, branch: bytes) -> None:
        """Have a row written, in the background."""
        raise NotImplementedError

    def add_leaf(self, key: int, digest: bytes, value: Any) -> None:
        """Have a leaf written, in the background."""
        raise NotImplementedError

    def leaf(self, digest: bytes) -> Any:
        """A leaf."""
        raise NotImplementedError

    def leaf_of(self, key: int) -> bytes | None:
        """The digest of a prompt's leaf."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until all is written."""
        raise NotImplementedError
