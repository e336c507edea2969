"""What was evaluated of a set, in its folder: a run that goes on with it, or grows it, takes it from there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .embeddings import IMAGE_EMBEDDINGS, PromptEmbeddings
from .files.set_folder import TRUNK, TRUNK_ROWS
from .files.whole_files import replace
from .plan.edits import apply_edits, read_edits
from .plan.keeping import remember
from .plan.plan import Plan
from .prompts.rows import PromptRows, as_rows
from .sampling.store import Store
from .sampling.trunk_files import TrunkFolder
from .set_note import images_of, trunk_files

IN_MEMORY = 2**30  # bytes
LEAST_FREE = 0.5  # of the disk's room stays for the pictures
NAMES = ("positive", "negative")
MOST_GROWN = 1 << 26  # bytes of what is said of an earlier set

Embed = Callable[[Sequence[str]], PromptEmbeddings]


class SetTrunk:
    """Embeddings, tree and rows of a set, on disk; a context manager that waits until all is written.

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
        paths = trunk_files(folder, name)
        self.path, self.tree = paths["embeddings"], paths["tree"]
        self.grown, self.grown_rows = folder / f"{name}.grown.json", folder / f"{name}.grown.safetensors"
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

    def take_over(self, folder: Path, note: Mapping[str, Any]) -> None:
        """Take what is kept of a finished set, whose report says `note`: the files are linked, or copied."""
        if self.grown.exists():
            return
        paths, rows = trunk_files(folder / TRUNK, note["set"]), self.folder / TRUNK_ROWS
        rows.mkdir(parents=True, exist_ok=True)
        for path in (folder / TRUNK / TRUNK_ROWS).glob("*.safetensors"):
            link_or_copy(path, rows / path.name)
        link_or_copy(paths["embeddings"], self.grown_rows)
        said = {"tree": paths["tree"].read_text(encoding="utf-8"), "images": note["images"]}
        replace(self.grown, json.dumps(said).encode())
        if self.store is not None and self.store.folder is not None:
            self.store = Store(IN_MEMORY, TrunkFolder(rows, self.store.folder.budget))

    def plan(self, plan: Plan, keep: bool, grows: bool) -> Plan:
        """The plan of the run: on the tree of the set that this one grows from; the tree is kept where that is asked.

        Raises
        ------
        ValueError
            If the set grows, and the tree that it grows on cannot be read any more.
        """
        if self.store is None or not (keep or grows):
            return plan
        said = self._grown() if grows else None
        if grows and said is None:
            raise ValueError(f"the tree that the set grows on cannot be read from {self.grown}; begin anew with --grow")
        found = apply_edits(plan, read_edits(said["tree"] if said else ""), True, self.store.leaves)
        for note in found.notes:
            self.tell(note)
        remember(found.plan, self.store.leaves)
        self._attempt("the tree is", lambda: replace(self.tree, found.told.encode()))
        return found.plan

    def embeddings(self, prompts: Sequence[str], embed: Embed) -> PromptEmbeddings:
        """Those of the prompts, from the folder or made by ``embed(prompts)`` and kept there."""
        if self.store is None:
            return embed(prompts)
        rows = self._read(self.path)
        if rows is None or len(rows[0]) != len(prompts):
            found = self._grown_embeddings(prompts, embed)
            rows = [found.positive.contiguous(), found.negative.contiguous()]
            self._attempt("the embeddings are", lambda: self._write(rows))
        own = prompts if isinstance(prompts, tuple) else tuple(prompts)
        return PromptEmbeddings(rows[0], rows[1], own, IMAGE_EMBEDDINGS)

    def make_room(self) -> bool:
        """Give up what was evaluated, for pictures; whether that may have made room."""
        if self.store is None or self.store.folder is None:
            return False
        self.store.folder.budget = 0
        files = list((self.folder / TRUNK_ROWS).glob("*.safetensors"))
        for path in files:
            path.unlink(missing_ok=True)
        return bool(files)

    def _grown(self):
        """What is said of the set that this one grows from; None where it cannot be read."""
        try:
            if self.grown.stat().st_size > MOST_GROWN:
                return None
            said = json.loads(self.grown.read_text(encoding="utf-8"))
            return said if isinstance(said["tree"], str) and isinstance(said["images"], list) else None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    def _grown_embeddings(self, prompts, embed):
        """Embeddings of prompts, those of the earlier set from there: a GPU gives others by rounding."""
        said, rows = self._grown(), self._read(self.grown_rows)
        if said is None or rows is None or len(said["images"]) != len(rows[0]):
            return embed(prompts)
        places = {told(image): row for row, image in enumerate(said["images"])}
        wanted = [places.get(told(image)) for image in images_of(prompts)]
        new = [i for i, row in enumerate(wanted) if row is None]
        found = embed(PromptRows(as_rows(prompts).rows[i] for i in new)) if new else None
        made = {i: place for place, i in enumerate(new)}
        sides = []
        for old, name in zip(rows, NAMES, strict=True):
            own: Any = getattr(found, name, None)
            sides.append(torch.stack([own[made[i]] if row is None else old[row] for i, row in enumerate(wanted)]))
        return PromptEmbeddings(sides[0], sides[1], tuple(prompts), IMAGE_EMBEDDINGS)

    def _read(self, path):
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                rows = [file.get_tensor(name) for name in NAMES]
                said = (file.metadata() or {}).get("digest")
            if said != digest_of(rows):
                raise ValueError("its numbers are not those that were written")
            return rows
        except (OSError, ValueError, SafetensorError) as error:
            self.tell(f"{path.name} cannot be used ({str(error)[:200]}): the prompts are embedded again")
            return None

    def _write(self, rows):
        from safetensors.torch import save

        replace(self.path, save(dict(zip(NAMES, rows, strict=True)), {"digest": digest_of(rows)}))

    def _attempt(self, what, write):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write()
        except OSError as error:
            self.tell(f"{what} not kept ({error.strerror or error}); the run goes on")


def told(image: Mapping[str, Any]) -> str:
    """What decides a prompt's embedding, of what a report says of it."""
    return json.dumps([image.get(name) for name in ("prompt", "negative", "seed")])


def link_or_copy(path: Path, new: Path) -> None:
    """A file under a second name; files here are never changed, so that a link will do."""
    try:
        os.link(path, new)
    except FileExistsError:
        pass
    except OSError:
        shutil.copyfile(path, new)


def digest_of(rows: Sequence[torch.Tensor]) -> str:
    """What tells embeddings from damaged ones."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr(tuple(row.shape)).encode() + row.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
