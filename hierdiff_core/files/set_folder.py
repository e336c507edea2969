"""The command line's folder: a set in it is kept, or replaced as a whole, and nothing else is touched.

While a set is drawn, unfinished.json says which prompts its pictures are of; report.json is there when all are.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .image_set import SetWriter
from .whole_files import try_writing

REPORT, UNFINISHED = "report.json", "unfinished.json"
FIGURES = ("contact_sheet.png", "dendrogram.png", "schedule.png", "tree.png")
PICTURE = re.compile(r"\d{4,}\.png", re.ASCII)
LARGEST_REPORT = 1 << 26  # bytes


def file_name(index: int) -> str:
    """Name of the picture of a prompt: 0000.png, 0001.png and so on, in prompt order."""
    return f"{index:04d}.png"


def files_of_sets(folder: str | Path) -> list[str]:
    """Names in a folder that look like a set's: pictures, figures, reports."""
    named = {REPORT, UNFINISHED, *FIGURES}
    names = [path.name for path in Path(folder).glob("*")]
    return sorted(name for name in names if name in named or PICTURE.fullmatch(name))


def prepare_folder(folder: str | Path, overwrite: bool) -> None:
    """Make the folder, before anything is computed, and find out whether it takes files.

    Raises
    ------
    ValueError
        If it holds pictures of a set, finished or not, and `overwrite` is false.
    OSError
        If it cannot be written.
    """
    found = files_of_sets(folder)
    if found and not overwrite:
        raise ValueError(
            f"{folder} holds a set already ({', '.join(found[:3])}{' …' if len(found) > 3 else ''}); "
            "choose another folder with --out, or add --overwrite"
        )
    try:
        try_writing(Path(folder) / REPORT)
    except OSError as error:
        reason = f"{error.strerror or error} ({error.filename})"
        raise OSError(f"{reason}: nothing can be written to {folder}; choose another folder with --out") from error


class DrawnSet:
    """A set on its way into its folder; a context manager around the work.

    An earlier set is kept until the first picture of the new one is there. A `KeyboardInterrupt` of the block says what
    was finished; a run that leaves no picture leaves no note of one either.

    Parameters
    ----------
    folder : str or Path
        As `prepare_folder` has passed it.
    prompts : N str
    overwrite : bool
        Whether an earlier set makes room.

    Raises
    ------
    OSError
        Says what happened, how many pictures were written and where.
    """

    def __init__(self, folder: str | Path, prompts: Sequence[str], overwrite: bool) -> None:
        self.folder, self.prompts, self.overwrite = Path(folder), prompts, overwrite
        self._writer: SetWriter | None = None
        self._lock = threading.Lock()
        if not overwrite:
            self._begun()  # another run in the folder is found now

    def add(self, index: int, data: bytes) -> str:
        """Write the picture of a prompt, the bytes of a PNG file; several threads may. Returns the file's name."""
        return self._begun().add(f"{index:04d}", "png", data, self.prompts[index])

    def add_file(self, name: str, data: bytes) -> None:
        """Write a file beside the pictures."""
        self._begun().add_file(name, data)

    def finish(self, report: dict[str, Any]) -> None:
        """Write the report in place of the note of an unfinished set."""
        self.add_file(REPORT, as_json(report))
        (self.folder / UNFINISHED).unlink()

    def strays(self) -> list[str]:
        """Pictures in the folder that are not of this set, and that no report named: they were not removed."""
        own = set(self._begun().files)
        return [name for name in files_of_sets(self.folder) if PICTURE.fullmatch(name) and name not in own]

    def _begun(self):
        with self._lock:
            if self._writer is None:
                if self.overwrite:
                    remove_set(self.folder, len(self.prompts))
                writer = SetWriter(self.folder, "none", len(self.prompts))
                images = [{"file": file_name(i), "prompt": prompt} for i, prompt in enumerate(self.prompts)]
                writer.add_file(UNFINISHED, as_json({"images": images}))
                self._writer = writer
        return self._writer

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        count = len(self._writer.files) if self._writer else 0
        if self._writer and kind and not count:
            (self.folder / UNFINISHED).unlink(missing_ok=True)
        if kind and issubclass(kind, KeyboardInterrupt):
            some = f"{count} of {len(self.prompts)} pictures are finished, in {self.folder}; see {UNFINISHED} there"
            raise KeyboardInterrupt(some if count else "no picture was finished") from None


def remove_set(folder: str | Path, count: int) -> None:
    """Remove the pictures that the reports in a folder name, those that `count` new ones replace, figures, reports.

    The reports go last: killed before, the next call still finds the names.
    """
    folder = Path(folder)
    listed = {name for report in (REPORT, UNFINISHED) for name in pictures_in(folder / report)}
    for name in [*sorted(listed | set(map(file_name, range(count)))), *FIGURES, REPORT, UNFINISHED]:
        (folder / name).unlink(missing_ok=True)


def pictures_in(report: Path) -> list[str]:
    """File names in a report that are names of our pictures: a report that others have written names no other file."""
    try:
        if report.stat().st_size > LARGEST_REPORT:
            return []
        images = json.loads(report.read_text(encoding="utf-8"))["images"]
        names = [image["file"] for image in images]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str) and PICTURE.fullmatch(name)]


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace")
