"""Names and captions of saved pictures, from patterns such as {index:04d}_{prompt}."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from string import Formatter

# Characters and UTF-8 bytes: with a suffix and an extension below the 255 bytes of common file systems.
PROMPT_LENGTH, PROMPT_BYTES = 80, 160
NAME_LENGTH, NAME_BYTES = 120, 200
CUT = "..."  # in the place of a long name's middle; plain characters go into every archive
LARGEST_WIDTH = 20
LONGEST_FOLDER = 500  # with its subfolders
DEEPEST = 8  # subfolders in a name
LONGEST_PATTERN = 2000
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]')
RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"
}
NUMBERS, WORDS = ("index", "seed", "count"), ("prompt", "date", "time")
FIELDS = "the fields are {index}, {index:04d} and the like, {prompt}, {seed}, {date}, {time} and {count}"
DEFAULT_NAME, DEFAULT_CAPTION = "{index:04d}_{prompt}", "{prompt}"


@dataclass(frozen=True)
class Picture:
    """What a name or a caption can say of a picture.

    Attributes
    ----------
    index : int
        Number of the picture.
    prompt : str
    seed : int or None
        Of its noise; None where nobody knows it.
    count : int
        Pictures of the set.
    date, time : str
        When the set was saved.
    """

    index: int
    prompt: str
    seed: int | None = None
    count: int = 1
    date: str = ""
    time: str = ""


def safe_name(text: str, length: int = NAME_LENGTH, size: int = NAME_BYTES) -> str:
    """A file name, without extension, that all common file systems take.

    Parameters
    ----------
    text : str
    length, size : int
        Most characters and UTF-8 bytes of the result; a longer text loses its middle.

    Returns
    -------
    name : str
        Never empty; characters that some system forbids become _, runs of white space one space; no dot or space at the
        ends; names that Windows reserves begin with _.
    """
    name = FORBIDDEN.sub("_", " ".join(text.split())).strip(" .")
    if name.split(".")[0].rstrip(" ").upper() in RESERVED:
        name = f"_{name}"
    return without_middle(name, length, size) or "untitled"


def without_middle(name: str, length: int, size: int) -> str:
    """`name` with at most so many characters and UTF-8 bytes."""
    if len(name) <= length and len(name.encode()) <= size:
        return name
    kept = min(len(name), length - len(CUT))
    while True:
        head, tail = name[: (kept + 1) // 2].rstrip(" ."), name[len(name) - kept // 2 :].lstrip(" .")
        over = len(f"{head}{CUT}{tail}".encode()) - size
        if over <= 0:
            return f"{head}{CUT}{tail}"
        kept -= max(1, over // 4)


def check_name(pattern: str) -> None:
    """Refuse a name pattern with other fields, characters that no file name may have, or folders that lead elsewhere.

    Raises
    ------
    ValueError
        Says what is wrong.
    """
    parts = _parsed(pattern, "name", DEFAULT_NAME)
    folders = pattern.split("/")
    if len(folders) > DEEPEST + 1:
        raise ValueError(f"name has more than {DEEPEST} subfolders; got {pattern[:200]!r}")
    if any(folder.strip(" .") == "" for folder in folders):
        raise ValueError(f"name must have a plain name before and after each /; got {pattern[:200]!r}")
    for literal, *_ in parts:
        if FORBIDDEN.search(literal.replace("/", "")):
            raise ValueError(f'name must not contain <>:"\\|?* or control characters; got {pattern[:200]!r}')


def check_caption(pattern: str) -> None:
    """Refuse a caption pattern with other fields; `ValueError` says what is wrong."""
    _parsed(pattern, "caption", DEFAULT_CAPTION)


def _parsed(pattern, what, default):
    if not isinstance(pattern, str):
        raise ValueError(f"{what} must be text; got {str(pattern)[:80]}")
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"{what} must have at most {LONGEST_PATTERN} characters; got {len(pattern)}")
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"{what} {pattern[:200]!r} cannot be read ({error}); {FIELDS}, and {{{{ is a brace") from None
    if not pattern.strip():
        raise ValueError(f"{what} must not be empty; the default is {default}")
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if field not in NUMBERS + WORDS or conversion:
            shown = field + (f"!{conversion}" if conversion else "")
            raise ValueError(f"{what} has the unknown field {{{shown}}}; {FIELDS}")
        width = re.fullmatch(r"(\d{0,3})d?", spec or "", re.ASCII)
        if width is None or (field in WORDS and spec) or int(width[1] or 0) > LARGEST_WIDTH:
            raise ValueError(f"{what} has the format {spec!r} for {field}; {FIELDS} (at most {LARGEST_WIDTH} digits)")
    return parts


def file_parts(pattern: str, picture: Picture) -> list[str]:
    """Subfolders and name, without extension, of a picture, from a pattern that `check_name` has passed.

    Parameters
    ----------
    pattern : str
        Such as {date}/{index:04d}_{prompt}.
    picture : Picture

    Returns
    -------
    parts : list of str
        Each a `safe_name`: what a prompt has of / leads into no folder.
    """
    short = safe_name(picture.prompt, PROMPT_LENGTH, PROMPT_BYTES)
    return [safe_name(_filled(part, picture, short)) for part in pattern.split("/")]


def caption_of(pattern: str, picture: Picture) -> str:
    """Caption of a picture, from a pattern that `check_caption` has passed."""
    return _filled(pattern, picture, picture.prompt)


def _filled(pattern, picture, prompt):
    made = []
    for literal, field, spec, _ in Formatter().parse(pattern):
        made.append(literal)
        if field is not None:
            value = prompt if field == "prompt" else getattr(picture, field)
            made.append("none" if value is None else format(value, spec or ""))
    return "".join(made)


def uses(pattern: str, fields: Collection[str]) -> bool:
    """Whether a pattern has one of these fields."""
    return any(field in fields for _, field, _, _ in Formatter().parse(pattern))


def check_subfolder(folder: str) -> list[str]:
    """Folder names below an output folder.

    Parameters
    ----------
    folder : str
        Names separated by / or \\.

    Returns
    -------
    parts : list of str

    Raises
    ------
    ValueError
        If the path is empty, absolute, leads out, or has a name that some file system forbids.
    """
    if not isinstance(folder, str):
        raise ValueError(f"folder must be text; got {str(folder)[:80]}")
    if len(folder) > LONGEST_FOLDER:
        raise ValueError(f"folder must have at most {LONGEST_FOLDER} characters; got {len(folder)}")
    parts = folder.strip().replace("\\", "/").rstrip("/").split("/")
    for part in parts:
        if part != safe_name(part):
            raise ValueError(
                f"folder must be plain names separated by /, inside the output folder; got {folder[:200]!r}"
            )
    return parts
