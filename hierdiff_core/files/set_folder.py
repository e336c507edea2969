"""The command line's folder: a set in it is kept, gone on with, or replaced as a whole, and nothing else is touched.

Pictures say themselves that they were drawn here, and of which set they are (`picture_marks`). While a set is drawn,
unfinished.json has what is needed to go on with it; report.json is there when all is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from .image_set import SetWriter
from .picture_marks import mark_of
from .whole_files import leftovers, try_writing

REPORT, UNFINISHED = "report.json", "unfinished.json"
FIGURES = ("contact_sheet.png", "dendrogram.png", "schedule.png", "tree.png")
PICTURE = re.compile(r"\d{4,}\.png", re.ASCII)
LARGEST_REPORT = 1 << 26  # bytes
TRUNK = ".hierdiff-trunk"  # folder of what was evaluated
TRUNK_ROWS = "rows"  # in it
TRUNK_FILES = ("*.safetensors", "*.json")


def file_name(index: int) -> str:
    """Name of the picture of a prompt: 0000.png, 0001.png and so on, in prompt order."""
    return f"{index:04d}.png"


def files_of_sets(folder: str | Path) -> list[str]:
    """Names in a folder that look like a set's: pictures, figures, reports."""
    named = {REPORT, UNFINISHED, *FIGURES}
    names = [path.name for path in Path(folder).glob("*")]
    return sorted(name for name in names if name in named or PICTURE.fullmatch(name))


def own_files(folder: str | Path) -> set[str]:
    """Names in a folder of what this command wrote: pictures and figures say so themselves.

    Those of earlier versions say nothing: the reports of these versions name them.
    """
    folder = Path(folder)
    named = {name: pictures_in(folder / name) for name in (REPORT, UNFINISHED)}
    own = {name for name, pictures in named.items() if pictures is not None}
    if any(named.values()):
        own |= {*FIGURES, *(name for pictures in named.values() for name in pictures or ())}
    return {name for name in files_of_sets(folder) if name in own or "set" in mark_of(folder / name)}


def prepare_folder(folder: str | Path, overwrite: bool, count: int = 0) -> None:
    """Make the folder, before anything is computed, and find out whether it takes files.

    Parameters
    ----------
    folder : str or Path
        Of the set.
    overwrite : bool
        Whether a set in it makes room.
    count : int
        How many pictures will be written.

    Raises
    ------
    ValueError
        If it holds pictures of a set, finished or not, and `overwrite` is false; or files of somebody else in the
        places of pictures.
    OSError
        If it cannot be written.
    """
    found = files_of_sets(folder)
    if found and not overwrite:
        raise ValueError(
            f"{folder} holds a set already ({', '.join(found[:3])}{' …' if len(found) > 3 else ''}); choose another "
            f"folder with --out, or add {'--resume to go on with it, ' if UNFINISHED in found else ''}"
            f"{'or ' if UNFINISHED in found else ''}--overwrite"
        )
    refuse_foreign(folder, found, count)
    try:
        try_writing(Path(folder) / REPORT)
    except OSError as error:
        reason = f"{error.strerror or error} ({error.filename})"
        raise OSError(f"{reason}: nothing can be written to {folder}; choose another folder with --out") from error


def refuse_foreign(folder: str | Path, found: Sequence[str], count: int) -> None:
    """Refuse files in the places of a set's that nothing says were drawn here: they are never replaced."""
    needed = {REPORT, UNFINISHED, *FIGURES, *map(file_name, range(count))}
    if foreign := sorted((needed & set(found)) - own_files(folder)):
        raise ValueError(
            f"{folder} has {', '.join(foreign[:3])}{' …' if len(foreign) > 3 else ''}, which this command has not "
            "written: neither the file nor a report says so. Move it, or choose another folder with --out"
        )


class DrawnSet:
    """A set on its way into its folder; a context manager around the work.

    An earlier set is kept until the first picture of the new one is there. An interruption, or an error of the disk,
    says what was finished and how to go on; a run that leaves nothing to go on with leaves no note either.

    Parameters
    ----------
    folder : str or Path
        As `prepare_folder` has passed it.
    prompts : N str
        Of the set.
    overwrite : bool
        Whether an earlier set makes room.
    note : mapping, optional
        What unfinished.json is to say beside the pictures; "set" is the name that pictures bear.
    finished : collection of int
        Prompts whose pictures are there already.
    images : N mappings, optional
        What reports say of each prompt; its text where this is not given.
    go_on : str
        The command that goes on with the set.
    resume : bool
        Whether a note of this set may be there.

    Raises
    ------
    OSError
        Says what happened, how many pictures were written and where.
    """

    def __init__(
        self,
        folder: str | Path,
        prompts: Sequence[str],
        overwrite: bool,
        note: Mapping[str, Any] | None = None,
        finished: Collection[int] = (),
        images: Sequence[Mapping[str, Any]] | None = None,
        go_on: str = "",
        resume: bool = False,
    ) -> None:
        self.folder, self.prompts, self.overwrite = Path(folder), prompts, overwrite
        self.finished, self.go_on, self.resume = set(finished), go_on, resume
        images = [{"prompt": prompt} for prompt in prompts] if images is None else images
        entries = [{"file": file_name(i), **image} for i, image in enumerate(images)]
        self.note = {**(note or {}), "images": entries}
        self.make_room: Callable[[], bool] = lambda: False  # called where the disk is full
        self._writer: SetWriter | None = None
        self._lock = threading.Lock()
        if not overwrite:
            self._begun()  # another run in the folder is found now

    @property
    def trunk(self) -> Path:
        """Folder of what was evaluated."""
        return self.folder / TRUNK

    def mark(self, index: int) -> dict[str, Any]:
        """What the picture of a prompt says of itself."""
        image = {key: value for key, value in self.note["images"][index].items() if key != "file"}
        return {**image, "index": index, "set": self.note.get("set", "")}

    def figure_mark(self, name: str) -> dict[str, Any]:
        """What a figure says of itself."""
        return {"figure": name, "set": self.note.get("set", "")}

    def add(self, index: int, data: bytes) -> str:
        """Write the picture of a prompt, the bytes of a PNG file; several threads may. Returns the file's name."""
        try:
            return self._begun().add(f"{index:04d}", "png", data, self.prompts[index])
        except OSError as error:
            cause = error.__cause__
            if not (isinstance(cause, OSError) and cause.errno == errno.ENOSPC and self.make_room()):
                raise
            return self._begun().add(f"{index:04d}", "png", data, self.prompts[index])

    def begin(self) -> None:
        """Let an earlier set make room, and write the note, since others are about to write pictures."""
        self._begun()

    def note_written(self, index: int) -> str:
        """Count the picture of a prompt that another process has written. Returns the file's name."""
        self._begun().files.append(file_name(index))
        return file_name(index)

    def add_file(self, name: str, data: bytes) -> None:
        """Write a file beside the pictures."""
        self._begun().add_file(name, data)

    def add_figure(self, name: str, data: bytes) -> None:
        """Write a figure, in the place of one of the same set that a run left behind."""
        if mark_of(self.folder / name) == self.figure_mark(Path(name).stem):
            (self.folder / name).unlink()
        self.add_file(name, data)

    def finish(self, report: dict[str, Any], keep: bool = False) -> None:
        """Write the report in place of the note of an unfinished set; remove what was evaluated unless it is kept."""
        self.add_file(REPORT, as_json(report))
        (self.folder / UNFINISHED).unlink()
        if not keep:
            remove_trunk(self.folder)

    def strays(self) -> list[str]:
        """Pictures in the folder that are not of this set, and that are nobody's: they were not removed."""
        own = {*self._begun().files, *map(file_name, self.finished)}
        return [name for name in files_of_sets(self.folder) if PICTURE.fullmatch(name) and name not in own]

    @property
    def count(self) -> int:
        """Pictures that are in the folder."""
        return len(self.finished) + (len(self._writer.files) if self._writer else 0)

    def _begun(self):
        with self._lock:
            if self._writer is None:
                if self.overwrite:
                    remove_set(self.folder)
                writer = SetWriter(self.folder, "none", len(self.prompts), before=len(self.finished))
                if not (self.resume and (self.folder / UNFINISHED).exists()):
                    writer.add_file(UNFINISHED, as_json(self.note))
                self._writer = writer
        return self._writer

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if not kind:
            return
        begun = self._writer is not None
        stored = begun and not issubclass(kind, ValueError) and any((self.trunk / TRUNK_ROWS).glob("*"))
        kept = begun and bool(self.count or stored)
        if begun and not kept:
            with contextlib.suppress(OSError):
                (self.folder / UNFINISHED).unlink(missing_ok=True)
        if not kept and not self.overwrite:
            remove_trunk(self.folder)
        how = f"; go on with: {self.go_on}" if kept and self.go_on else ""
        if issubclass(kind, KeyboardInterrupt):
            some = f"{self.count} of {len(self.prompts)} pictures are in {self.folder}{how}"
            raise KeyboardInterrupt(some if kept else "no picture was finished") from None
        if issubclass(kind, OSError) and how:
            raise OSError(f"{error}{how}") from error


def remove_set(folder: str | Path) -> None:
    """Remove the pictures, figures and reports in a folder that were written here, and nothing else.

    The reports go last: killed before, the next call still finds the names.
    """
    folder, own = Path(folder), own_files(folder)
    for name in [*sorted(own - {REPORT, UNFINISHED}), *sorted(own & {REPORT, UNFINISHED})]:
        (folder / name).unlink(missing_ok=True)


def remove_trunk(folder: str | Path) -> None:
    """Remove what was evaluated; a file in its folder that is none of ours stays, and the folder with it."""
    trunk = Path(folder) / TRUNK
    for place in (trunk / TRUNK_ROWS, trunk):
        with contextlib.suppress(OSError):  # a file that cannot be removed costs its room alone
            for path in [*leftovers(place), *(path for pattern in TRUNK_FILES for path in place.glob(pattern))]:
                path.unlink(missing_ok=True)
            place.rmdir()


def pictures_in(report: Path) -> list[str] | None:
    """Names of pictures that say nothing of themselves, in the report of an earlier version; other names are left out.

    None where it is no report of a set.
    """
    try:
        if report.stat().st_size > LARGEST_REPORT:
            return None
        said = json.loads(report.read_text(encoding="utf-8"))
        names = [image["file"] for image in said["images"] if isinstance(image, dict)]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return [] if "set" in said else [name for name in names if isinstance(name, str) and PICTURE.fullmatch(name)]


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace")
