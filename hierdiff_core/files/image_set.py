"""A set of pictures as files: names from prompts, captions, nothing overwritten."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .names import safe_name
from .whole_files import leftovers, publish, remove_leftovers, write_new, written_aside

FORMATS = ("png", "webp", "jpg")
CAPTIONS = ("none", "txt", "metadata.jsonl")
METADATA = "metadata.jsonl"
LINE_START = b'{"file_name": "'


def caption_text(prompt: str) -> bytes:
    """Bytes of a caption file: the prompt on one line, as trainers read it."""
    return " ".join(prompt.split()).encode(errors="replace")


def caption_line(file_name: str, prompt: str) -> bytes:
    """Bytes of a line of metadata.jsonl, as the `datasets` library reads it for a folder of images."""
    line = json.dumps({"file_name": file_name, "text": prompt}, ensure_ascii=False)
    for separator in "\x85\u2028\u2029":  # line ends for some readers
        line = line.replace(separator, f"\\u{ord(separator):04x}")
    return f"{line}\n".encode(errors="replace")


def names_in_metadata(data: bytes) -> set[str]:
    """File names in the bytes of a metadata.jsonl; lines that cannot be read are passed over."""
    return {name for line in data.split(b"\n") if (name := name_in_line(line)) is not None}


def name_in_line(line: bytes) -> str | None:
    try:
        entry = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else None


def mended(path: Path) -> bytes:
    """Bytes of a metadata.jsonl, after what a killed run left at its end is gone from the file.

    That is a line of ours that was not finished, and, beside a hidden file of such a run, the line of a picture that
    did not come to be.
    """
    data = path.read_bytes()
    whole = without_torn_line(data)
    if leftovers(path.parent):
        whole = without_line_of_no_picture(whole, path.parent)
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return whole


def without_torn_line(data: bytes) -> bytes:
    start = data.rfind(b"\n") + 1
    torn = data[start:]
    ours = torn.startswith(LINE_START) or LINE_START.startswith(torn)
    return data[:start] if ours and name_in_line(torn) is None else data


def without_line_of_no_picture(data: bytes, folder: Path) -> bytes:
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    name = name_in_line(data[start:])
    gone = data[start:].startswith(LINE_START) and name is not None and not os.path.lexists(folder / name)
    return data[:start] if gone else data


def append(path: Path, line: bytes) -> Callable[[], None]:
    """Append a line to a file; when that fails the file is as long as before.

    Returns
    -------
    withdraw : callable
        Takes the line back, unless somebody has appended another meanwhile.
    """
    with open(path, "a+b", buffering=0) as file:  # a buffer would be written again when it is closed
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except BaseException:
            os.truncate(path, before)
            raise

    def withdraw():
        if os.path.getsize(path) == before + len(line):
            os.truncate(path, before)

    return withdraw


class FreeNames:
    """Gives out names that no picture or caption has: name, name_2, name_3 and so on.

    A name is taken if a file of any picture format or a caption has it, in whatever case: a caption belongs to the
    picture of its name.

    Parameters
    ----------
    files : iterable of str
        Names of the files that are there.
    """

    def __init__(self, files: Iterable[str] = ()) -> None:
        self._taken = {_key(*os.path.splitext(name)) for name in files} - {None}
        self._last = {}

    def take(self, stem: str) -> str:
        """The first free name for `stem`; it is taken from then on."""
        key = stem.casefold()
        number = self._last.get(key, 0) + 1
        while (name := stem if number == 1 else f"{stem}_{number}").casefold() in self._taken:
            number += 1
        self._last[key] = number
        self._taken.add(name.casefold())
        return name


def _key(stem, extension):
    known = extension.lower() in {".txt", *(f".{name}" for name in FORMATS)}
    return stem.casefold() if known else None


class SetWriter:
    """Writes pictures and captions into a folder and overwrites nothing; for several threads.

    A picture appears whole, under its own name, when its caption is there. A process that is killed leaves at most a
    caption without its picture, whose name no later picture gets; the last line of metadata.jsonl is taken back by the
    next run.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    captions : str
        One of `CAPTIONS`.
    total : int
        How many pictures there will be, for messages.
    before : int
        How many of them are in other folders, for messages.

    Attributes
    ----------
    files : list of str
        Pictures written so far.
    size : int
        Their bytes, with captions.

    Raises
    ------
    ValueError
        If captions, an extension or a stem is none that may be: nothing is written outside of the folder.
    OSError
        Says what happened, how many pictures were written and where.
    """

    def __init__(self, folder: str | Path, captions: str, total: int, before: int = 0) -> None:
        if captions not in CAPTIONS:
            raise ValueError(f"captions must be one of {', '.join(CAPTIONS)}; got {str(captions)[:80]!r}")
        self.folder, self.captions, self.total = Path(folder), captions, total
        self.files, self.size, self.before = [], 0, before
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(self.folder))
            if METADATA in names and (captions == METADATA or leftovers(self.folder)):
                listed = names_in_metadata(mended(self.folder / METADATA))
                names |= listed if captions == METADATA else set()
            remove_leftovers(self.folder)
        except OSError as error:
            raise self._failure(error) from error
        self._names = FreeNames(names)

    def add(self, stem: str, extension: str, data: bytes, prompt: str) -> str:
        """Write one picture and its caption; both or none.

        Parameters
        ----------
        stem : str
            File name without extension, as from `file_stem`.
        extension : str
            One of `FORMATS`.
        data : bytes
            Of the picture's file.
        prompt : str
            For the caption.

        Returns
        -------
        name : str
            The name that the file got.
        """
        if extension not in FORMATS:
            raise ValueError(f"extension must be one of {', '.join(FORMATS)}; got {str(extension)[:80]!r}")
        if stem != safe_name(stem):
            raise ValueError(f"stem must be a plain file name, as file_stem gives it; got {stem[:80]!r}")
        with self._lock:
            try:
                with written_aside(self.folder / f"{stem}.{extension}", data) as part:
                    name, caption = self._publish(part, stem, extension, prompt)
            except OSError as error:
                raise self._failure(error) from error
            self.files.append(name)
            self.size += len(data) + caption
        return name

    def add_file(self, name: str, data: bytes) -> None:
        """Write a file beside the pictures, such as a report; it must not exist yet."""
        try:
            write_new(self.folder / name, data)
        except OSError as error:
            raise self._failure(error) from error

    def _publish(self, part, stem, extension, prompt):
        while True:
            path = self.folder / f"{self._names.take(stem)}.{extension}"
            if any(path.with_name(f"{path.stem}.{other}").exists() for other in FORMATS):
                continue  # somebody else was quicker
            with contextlib.suppress(FileExistsError):  # as above
                with self._captioned(path, prompt) as size:
                    publish(part, path)
                return path.name, size

    @contextlib.contextmanager
    def _captioned(self, path, prompt):
        """Write the caption of a picture that appears in the `with` block, and take it back if it does not."""
        if self.captions == "none":
            yield 0
            return
        if self.captions == "txt":
            data, file = caption_text(prompt), path.with_name(f"{path.stem}.txt")
            write_new(file, data)
            withdraw = functools.partial(file.unlink, missing_ok=True)
        else:
            data = caption_line(path.name, prompt)
            withdraw = append(self.folder / METADATA, data)
        try:
            yield len(data)
        except BaseException:
            withdraw()
            raise

    def _failure(self, error):
        reason = error.strerror or str(error)
        in_the_way = isinstance(error, FileExistsError) and error.filename == str(self.folder)
        if in_the_way or isinstance(error, NotADirectoryError):
            reason = f"{reason} (a file where a folder is needed)"
        place = f" ({error.filename})" if error.filename else ""
        return OSError(
            f"{reason}{place}: {self.before + len(self.files)} of {self.total} images were written to {self.folder}"
        )


class SetTree:
    """Writes pictures and captions into a folder and folders below it, each by a `SetWriter`.

    Parameters
    ----------
    folder : Path
    captions : str
    total : int
        As of `SetWriter`. Each folder has a metadata.jsonl of its own.

    Attributes
    ----------
    files : list of str
        Pictures written so far, with their folders.

    Raises
    ------
    ValueError
        If captions, an extension or a part of a name is none that may be.
    OSError
        Says what happened, how many pictures were written and where.
    """

    def __init__(self, folder: str | Path, captions: str, total: int) -> None:
        self.folder, self.captions, self.total = Path(folder), captions, total
        self.files: list[str] = []
        self._writers: dict[tuple[str, ...], SetWriter] = {}
        self._writer(())

    @property
    def size(self) -> int:
        """Bytes written so far, with captions."""
        return sum(writer.size for writer in self._writers.values())

    def add(self, parts: Sequence[str], extension: str, data: bytes, caption: str) -> str:
        """Write one picture and its caption; `parts` are its folders and its name, as `names.file_parts` gives them."""
        for part in parts:
            if part != safe_name(part):
                raise ValueError(f"parts must be plain names, as file_parts gives them; got {part[:80]!r}")
        *folders, stem = parts
        writer = self._writer(tuple(folders))
        writer.before = len(self.files) - len(writer.files)
        name = "/".join([*folders, writer.add(stem, extension, data, caption)])
        self.files.append(name)
        return name

    def _writer(self, folders):
        if folders not in self._writers:
            place = self.folder.joinpath(*folders)
            self._writers[folders] = SetWriter(place, self.captions, self.total, len(self.files))
        return self._writers[folders]
