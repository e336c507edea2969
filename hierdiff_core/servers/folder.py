"""The folder that the shards of a set are collected in: each shard whole or not at all, and what is done is kept.

A server is not trusted with paths: each is checked, and files come into a folder of their own first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.image_set import METADATA, caption_line, names_in_metadata
from ..files.names import safe_name
from ..files.whole_files import replace
from .client import DIGEST_SIZE, LARGEST_FILE, Server, as_dict, words
from .workflow import FOLDER, OTHER_FILES, SET_FILES

STATE, STAGE = "shards.json", ".hierdiff-shards"
FORMAT = "hierdiff-shards-1"
PICTURES = ("png", "webp", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "exr", "svg")
MEDIA = ("mp4", "webm", "mkv", "mov", "wav", "flac", "mp3", "opus", "ogg", "glb")
ENDINGS = frozenset((*PICTURES, *MEDIA, "txt", "json", "jsonl", "csv", "latent", "safetensors"))
MOST_FILES, DEEPEST, LONGEST_PATH, LARGEST_METADATA = 200_000, 16, 1000, 1 << 28
DIGEST = re.compile(rf"[0-9a-f]{{{2 * DIGEST_SIZE}}}")


class Liar(ValueError):
    """A server names files that nobody would write."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a shard on a server.

    Attributes
    ----------
    parts : tuple of str
        Folders and name below the shard's.
    size : int
        Bytes.
    digest : str
        In hexadecimal digits.
    """

    parts: tuple[str, ...]
    size: int
    digest: str


def checked_files(answer: Any) -> list[RemoteFile]:
    """The files that a server says a shard has.

    Raises
    ------
    Liar
        If a path leads elsewhere, is none that every system takes, comes twice, has an ending that no picture or
        caption has, or a size or digest is none.
    """
    listed = as_dict(answer).get("files")
    if not isinstance(listed, list) or not listed or len(listed) > MOST_FILES:
        raise Liar(f"it lists no files, or more than {MOST_FILES}")
    found: dict[str, RemoteFile] = {}
    for each in listed:
        own = as_dict(each)
        size, digest = own.get("size"), own.get("digest")
        parts = checked_parts(own.get("path"))
        most = LARGEST_METADATA if parts[-1] == METADATA else LARGEST_FILE
        if type(size) is not int or not 0 <= size <= most:
            raise Liar(f"{words(own.get('path'))} has the size {words(size)}")
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise Liar(f"{words(own.get('path'))} has no digest")
        if found.setdefault(folded(parts), file := RemoteFile(parts, size, digest)) is not file:
            raise Liar(f"it lists {words(own.get('path'))} twice")
    return list(found.values())


def folded(parts: Iterable[str]) -> str:
    """A path as file systems that know no case, or one form of accents, compare it."""
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def checked_parts(path: Any) -> tuple[str, ...]:
    """The parts of a path below a shard's folder; `Liar` for any that leads elsewhere."""
    if not isinstance(path, str) or len(path) > LONGEST_PATH:
        raise Liar(f"it names a file {words(path)}")
    parts = tuple(path.split("/"))
    plain = all(part == safe_name(part, 255, 255) and not part.startswith(".") for part in parts)
    ending = parts[-1].rpartition(".")[2].lower()
    inside = 2 <= len(parts) <= DEEPEST and parts[0] in (SET_FILES, OTHER_FILES)
    if not plain or not inside or ending not in ENDINGS or "." not in parts[-1]:
        raise Liar(f"it names a file {words(repr(path))}, which no shard writes")
    return parts


@dataclass
class SetFolder:
    """A set that is being collected; for several threads.

    Attributes
    ----------
    folder : Path
        Made where it does not exist.
    digest : str
        Of the workflow.
    count : int
        Shards.
    done : dict of int to dict
        Of each finished shard: files and server.
    running : list of dict
        What was queued: shard, server, id and run.
    """

    folder: Path
    digest: str
    count: int
    done: dict[int, dict[str, Any]] = field(default_factory=dict)
    running: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def begun(cls, folder: Path, digest: str, count: int | None, default: int) -> SetFolder:
        """The set in a folder, or a new one; `count` None: as many shards as it had, `default` where it is new.

        Raises
        ------
        ValueError
            If the folder has another set, or this one in another number of shards, or its note cannot be read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        note = read_note(folder / STATE)
        if note is None:
            made = cls(folder, digest, count or default)
            made.save()
            return made
        if note["digest"] != digest:
            raise ValueError(f"{folder} holds the shards of another workflow: choose another folder with --out")
        if count not in (None, note["count"]):
            raise ValueError(
                f"{folder} was begun with {note['count']} shards, not {count}: leave --shards out, or choose another "
                "folder with --out"
            )
        made = cls(folder, digest, note["count"], note["done"], note["running"])
        made.finish_moving()
        return made

    def save(self) -> None:
        """Keep what is done."""
        with self.lock:
            note = {
                "format": FORMAT,
                "digest": self.digest,
                "count": self.count,
                "done": {str(shard): own for shard, own in sorted(self.done.items())},
                "running": self.running,
            }
            replace(self.folder / STATE, (json.dumps(note, indent=1) + "\n").encode())

    def note_running(self, shard: int, server: str, prompt_id: str, run: str) -> None:
        """Keep what is queued where: a later start finds it."""
        with self.lock:
            self.running.append({"shard": shard, "server": server, "id": prompt_id, "run": run})
            self.save()

    def note_ended(self, prompt_id: str) -> None:
        """Forget what was queued."""
        with self.lock:
            self.running = [own for own in self.running if own["id"] != prompt_id]
            self.save()

    def collect(self, shard: int, server: Server, run: str) -> int:
        """Bring a shard's files here; how many.

        Raises
        ------
        Liar
            If the server names files that nobody would write: nothing of the shard is kept.
        ServerGone
            If a file does not come.
        """
        files = checked_files(server.get("/hierdiff/shards", run=run))
        for file in files:
            if file.parts[-1] != METADATA and os.path.lexists(self._target(shard, file.parts)):
                raise Liar(f"it names a file that is there already: {words('/'.join(file.parts))}")
        stage = self.folder / STAGE / f"{run}.part"
        shutil.rmtree(stage, ignore_errors=True)
        for file in files:
            path = stage.joinpath(*file.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            subfolder = "/".join([FOLDER, run, *file.parts[:-1]])
            query = {"filename": file.parts[-1], "subfolder": subfolder, "type": "output"}
            server.download(query, path, file.size, file.digest)
        with self.lock:
            if shard in self.done:  # another server was faster
                shutil.rmtree(stage, ignore_errors=True)
                return len(files)
            os.replace(stage, self.folder / STAGE / f"shard-{shard}")  # from here on it is whole
            self.finish_moving()
            self.done[shard] = {"files": len(files), "server": server.name}
            self.save()
        return len(files)

    def finish_moving(self) -> None:
        """Give the files of whole shards their places; a start after a kill goes on with it."""
        with self.lock:
            for stage in sorted((self.folder / STAGE).glob("shard-*")):
                shard = int(stage.name.removeprefix("shard-"))
                count = 0
                for path in sorted(path for path in stage.rglob("*") if path.is_file()):
                    self._place(shard, path, path.relative_to(stage).parts)
                    count += 1
                if shard not in self.done:
                    self.done[shard] = {"files": count, "server": ""}
                shutil.rmtree(stage)
            self.save()

    def _target(self, shard: int, parts: tuple[str, ...]) -> Path:
        """Where a file goes: those of the set have names of their own, others a folder for each shard."""
        below = parts[1:] if parts[0] == SET_FILES else (f"shard-{shard:03d}", *parts[1:])
        return self.folder.joinpath(*below)

    def _place(self, shard: int, path: Path, parts: tuple[str, ...]) -> None:
        target = self._target(shard, parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        if parts[-1] == METADATA and parts[0] == SET_FILES:
            known = target.read_bytes() if target.exists() else b""
            replace(target, merged(known, path.read_bytes()))
        else:
            os.replace(path, target)

    def clean(self) -> None:
        """Remove what was brought here in part."""
        shutil.rmtree(self.folder / STAGE, ignore_errors=True)


def merged(known: bytes, more: bytes) -> bytes:
    """Lines of two metadata.jsonl as one, each file once, in the order of their names."""
    lines = {name: line + b"\n" for line in known.split(b"\n") for name in names_in_metadata(line)}
    for line in more.split(b"\n"):
        for name in names_in_metadata(line):
            text = json.loads(line.decode(errors="replace")).get("text")
            lines[name] = caption_line(name, text if isinstance(text, str) else "")
    return b"".join(lines[name] for name in sorted(lines))


def read_note(path: Path) -> dict[str, Any] | None:
    """What a folder says of its shards; None where there is no note.

    Raises
    ------
    ValueError
        If there is one that cannot be read.
    """
    try:
        note = json.loads(path.read_bytes())
        if note["format"] != FORMAT:
            raise ValueError("another format")
        known = {int(shard): dict(own) for shard, own in note["done"].items()}
        running = [
            {"shard": int(own["shard"]), **{name: str(own[name]) for name in ("server", "id", "run")}}
            for own in note["running"]
        ]
        return {"digest": str(note["digest"]), "count": int(note["count"]), "done": known, "running": running}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no note of shards ({error}): choose another folder with --out") from None
