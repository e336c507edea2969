"""The command line's folder: a set in it is kept, or replaced as a whole, and nothing else is touched.

While a set is drawn, unfinished.json says which prompts its pictures are of; report.json is there when all are.
"""

import contextlib
import json
import re
from pathlib import Path

from .image_set import SetWriter
from .whole_files import try_writing

REPORT, UNFINISHED = "report.json", "unfinished.json"
FIGURES = ("contact_sheet.png", "dendrogram.png", "schedule.png", "tree.png")
PICTURE = re.compile(r"\d{4,}\.png", re.ASCII)
LARGEST_REPORT = 1 << 26  # bytes


def file_name(index):
    """0000.png, 0001.png, … in prompt order"""
    return f"{index:04d}.png"


def files_of_sets(folder):
    """Names in a folder that look like a set's: pictures, figures, reports."""
    named = {REPORT, UNFINISHED, *FIGURES}
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            path.name for path in Path(folder).iterdir() if path.name in named or PICTURE.fullmatch(path.name)
        )
    return []


def prepare_folder(folder, overwrite):
    """Make the folder, before anything is computed, and find out whether it takes files.

    Raises
    ------
    ValueError  if it holds pictures of a set, finished or not, and `overwrite` is false.
    OSError     if it cannot be written.
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


def begin_set(folder, prompts, overwrite):
    """Clear the folder of an earlier set, if that is asked for, and note what will be in it.

    Returns
    -------
    writer : SetWriter
    strays : list of str   pictures left in the folder that no report names, and that the new set will not replace
    """
    if overwrite:
        remove_set(folder, len(prompts))
    writer = SetWriter(folder, "none", len(prompts))
    images = [{"file": file_name(i), "prompt": prompt} for i, prompt in enumerate(prompts)]
    writer.add_file(UNFINISHED, as_json({"images": images}))
    return writer, [name for name in files_of_sets(folder) if PICTURE.fullmatch(name)]


def remove_set(folder, count):
    """Remove the pictures that the reports in a folder name, those that `count` new ones replace, figures, reports.

    The reports go last: killed before, the next call still finds the names.
    """
    folder = Path(folder)
    listed = {name for report in (REPORT, UNFINISHED) for name in pictures_in(folder / report)}
    for name in [*sorted(listed | set(map(file_name, range(count)))), *FIGURES, REPORT, UNFINISHED]:
        (folder / name).unlink(missing_ok=True)


def pictures_in(report):
    """File names in a report that are names of our pictures: a report that others have written names no other file."""
    try:
        if report.stat().st_size > LARGEST_REPORT:
            return []
        images = json.loads(report.read_text(encoding="utf-8"))["images"]
        names = [image["file"] for image in images]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str) and PICTURE.fullmatch(name)]


@contextlib.contextmanager
def interruptible(writer):
    """Let a `KeyboardInterrupt` of the block say what was finished; without a picture no note of one stays."""
    try:
        yield
    except BaseException as error:
        if not writer.files:
            (writer.folder / UNFINISHED).unlink(missing_ok=True)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(finished(writer)) from None
        raise


def finished(writer):
    """What an interrupted run leaves, in words."""
    if not writer.files:
        return "no picture was finished"
    return (
        f"{len(writer.files)} of {writer.total} pictures are finished, in {writer.folder}; "
        f"{UNFINISHED} there says which prompts they are of"
    )


def finish_set(writer, report):
    """Write the report in place of the note of an unfinished set."""
    writer.add_file(REPORT, as_json(report))
    (writer.folder / UNFINISHED).unlink()


def as_json(value):
    return json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace")
