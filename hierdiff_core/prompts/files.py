"""Prompts from files: lines of text, CSV, JSON and JSON lines, told apart by the file's extension.

A text file is read as Prompt Set's text is, with alternatives and comments; tables and JSON give prompts as they are.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .alternatives import MOST_CHARACTERS, shorten
from .prompt_set import describe

if TYPE_CHECKING:
    from .prompt_set import PromptReader

FIELDS = ("prompt", "text", "caption")  # of a table or an object; the first that is there
FIELD_NAMES = "prompt, text or caption"
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
MOST_BYTES = 4 * MOST_CHARACTERS  # no encoding takes more for them
# The marks by which a file tells its encoding. UTF-32's begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def add_file(reader: PromptReader, path: str | Path) -> None:
    """Add the prompts of a file to a `PromptReader`.

    Parameters
    ----------
    reader : PromptReader
    path : str or Path
        .csv and .tsv: a table with a column prompt, text or caption. .jsonl and .ndjson: an object with such a field,
        or a text, on each line; .json: a list of them. Any other: a prompt a line. UTF-8, or with the mark that UTF-16
        and UTF-32 files have at the beginning.

    Raises
    ------
    ValueError
        Names the file, the line and the remedy; also where there is no such file.
    """
    path = Path(path)
    text = decode(path, read_bytes(path))
    kinds = {".csv": table, ".tsv": table, ".jsonl": json_lines, ".ndjson": json_lines, ".json": json_list}
    read = kinds.get(path.suffix.lower())
    if read is None:
        reader.add_text(text, str(path))
        return
    for place, prompt in read(path, text):
        reader.add_verbatim(" ".join(prompt.split()), f"{path}, {place}")


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes, refused before they fill the memory."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"there is no prompt file {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES} bytes; split it into several sets")
    return data


def decode(path: str | Path, data: bytes) -> str:
    """Text of a file, without the mark of its encoding."""
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if not encoding.startswith("utf-8"):
            raise ValueError(f"{path} looks like {encoding.upper()} text but is damaged; save it as UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte 0x{data[error.start]:02x} is not UTF-8. The file may be in Latin-1 or "
            "Windows-1252: open it in an editor and save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: a zero byte, so this is not UTF-8 text; save it as UTF-8")
    return text


def table(path: str | Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield (place, prompt) of the rows of a table with a header."""
    delimiter, column = header(path, text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        width = len(next(rows))
        for row in rows:
            place = f"line {rows.line_num}"
            if len(row) > width:
                raise ValueError(
                    f"{path}, {place}: {len(row)} columns, but the first line names {width}; put quotes around texts "
                    f"that contain a {DELIMITERS[delimiter]}"
                )
            if row:  # the reader gives blank lines as no columns
                yield place, row[column] if len(row) > column else ""
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}; check the quotes") from None


def header(path: str | Path, text: str) -> tuple[str, int]:
    """Delimiter of a table, and the index of the column with the prompts."""
    first = next(iter(text.splitlines()), "")
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        for field in FIELDS:
            if field in names:
                return delimiter, names.index(field)
    raise ValueError(
        f"{path}, line 1: the first line of a table must name its columns, one of them {FIELD_NAMES}; got "
        f"{shorten(repr(first))}. For one prompt per line, use a .txt file"
    )


def json_lines(path: str | Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield (place, prompt) of a JSON value on each line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", field_of(parse_json(path, f"line {number}", line), f"{path}, line {number}")


def json_list(path: str | Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield (place, prompt) of the items of a JSON list."""
    values = parse_json(path, "", text)
    if not isinstance(values, list):
        raise ValueError(f"{path}: must be a list of texts, or of objects with {FIELD_NAMES}; got {describe(values)}")
    for i, value in enumerate(values):
        yield f"item {i}", field_of(value, f"{path}, item {i}")


def parse_json(path: str | Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "too deep or too large"
        raise ValueError(
            f"{path}, {place or line}: not JSON ({getattr(error, 'msg', type(error).__name__)}); for one prompt "
            "per line, use a .txt file"
        ) from None


def field_of(value: Any, place: str) -> str:
    """The prompt in a JSON value: the value itself, or a field of it."""
    found = f"an object with {shorten(', '.join(value))}" if isinstance(value, dict) else describe(value)
    if isinstance(value, dict):
        value = next((value[field] for field in FIELDS if field in value), None)
    if not isinstance(value, str):
        raise ValueError(f"{place}: must be text, or an object with text in {FIELD_NAMES}; got {found}")
    return value
