"""What was evaluated of a set that is being drawn, in its folder: a run that goes on takes it from there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .embeddings import IMAGE_EMBEDDINGS, PromptEmbeddings
from .files.set_folder import TRUNK_ROWS
from .files.whole_files import replace
from .sampling.store import Store
from .sampling.trunk_files import TrunkFolder

IN_MEMORY = 2**30  # bytes
LEAST_FREE = 0.5  # of the disk's room stays for the pictures
NAMES = ("positive", "negative")


class SetTrunk:
    """Embeddings and rows of a set, on disk; a context manager that waits until all is written.

    Parameters
    ----------
    folder : Path
        Of what was evaluated, below the set's.
    name : str
        Of the set.
    gigabytes : float
        Most that it may take; with 0 nothing is kept.
    tell : callable
        ``tell(text)`` is given what a user should know.

    Attributes
    ----------
    store : Store or None
        For `sample`.
    """

    def __init__(self, folder: Path, name: str, gigabytes: float, tell: Callable[[str], Any]) -> None:
        self.folder, self.tell = folder, tell
        self.path = folder / f"{name}.embeddings.safetensors"
        free = shutil.disk_usage(folder.parent).free
        budget = int(min(gigabytes * 1e9, LEAST_FREE * free))
        self.store = Store(IN_MEMORY, TrunkFolder(folder / TRUNK_ROWS, budget)) if budget else None

    def __enter__(self) -> SetTrunk:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        for note in [] if self.store is None else self.store.notes:
            self.tell(note)

    def flush(self) -> None:
        """Wait until all is written."""
        if self.store is not None:
            self.store.flush()

    def embeddings(self, prompts: Sequence[str], make: Callable[[], PromptEmbeddings]) -> PromptEmbeddings:
        """Those of the prompts, from the folder or made by ``make()`` and kept there."""
        if self.store is None:
            return make()
        found = self._read(prompts)
        if found is None:
            found = make()
            self._write(found)
        return found

    def make_room(self) -> bool:
        """Give up what was evaluated, for pictures; whether that may have made room."""
        if self.store is None or self.store.folder is None:
            return False
        self.store.folder.budget = 0
        files = list((self.folder / TRUNK_ROWS).glob("*.safetensors"))
        for path in files:
            path.unlink(missing_ok=True)
        return bool(files)

    def _read(self, prompts):
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                rows = [file.get_tensor(name) for name in NAMES]
                said = (file.metadata() or {}).get("digest")
            if said != digest_of(rows):
                raise ValueError("its numbers are not those that were written")
            own = prompts if isinstance(prompts, tuple) else tuple(prompts)
            return PromptEmbeddings(rows[0], rows[1], own, IMAGE_EMBEDDINGS)
        except (OSError, ValueError, SafetensorError) as error:
            self.tell(f"{self.path.name} cannot be used ({str(error)[:200]}): the prompts are embedded again")
            return None

    def _write(self, embeddings):
        from safetensors.torch import save

        rows = [embeddings.positive.contiguous(), embeddings.negative.contiguous()]
        data = save(dict(zip(NAMES, rows, strict=True)), {"digest": digest_of(rows)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace(self.path, data)
        except OSError as error:
            self.tell(f"the embeddings are not kept ({error.strerror or error}); the run goes on")


def digest_of(rows: Sequence[torch.Tensor]) -> str:
    """What tells embeddings from damaged ones."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr(tuple(row.shape)).encode() + row.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
