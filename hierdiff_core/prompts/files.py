"""Prompts from files: lines of text, CSV, JSON and JSON lines, told apart by the file's extension.

A text file is read as Prompt Set's text is, with alternatives and comments; tables and JSON give prompts as they are.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .alternatives import MOST_CHARACTERS, shorten
from .cells import CellError, add_pictures, cells_of, read_row
from .prompt_set import describe
from .rows import PromptRow

if TYPE_CHECKING:
    from .prompt_set import PromptReader

Row: TypeAlias = Mapping[str, Any]  # cells by the names of their columns; "prompt" is always there
FIELDS = ("prompt", "text", "caption")  # of a table or an object; the first that is there
FIELD_NAMES = "prompt, text or caption"
TEXTS = ("negative", "caption")
OTHER_NAMES = {"negative_prompt": "negative", "negative prompt": "negative", "images": "pictures", "enabled": "on"}
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
        .csv and .tsv: a table with a column prompt, text or caption, and perhaps negative, seed, pictures and caption.
        .jsonl and .ndjson: an object with such fields, or a text, on each line; .json: a list of them. Any other:
        a prompt a line. UTF-8, or with the mark that UTF-16 and UTF-32 files have at the beginning.

    Raises
    ------
    ValueError
        Names the file, the line and the remedy; also where there is no such file.
    """
    path = Path(path)
    text = decode(path, read_bytes(path))
    rows = rows_of(path, text)
    if rows is None:
        reader.add_text(text, str(path))
        return
    for place, row in rows:
        first, where = len(reader.rows), f"{path}, {place}"
        reader.add_verbatim(" ".join(str(row["prompt"]).split()), where)
        try:
            own, pictures = read_row(cells_of(row)) if len(reader.rows) > first else (PromptRow(""), 1)
        except CellError as error:
            raise ValueError(f"{where}: {error}") from None
        add_pictures(reader, first, own, pictures, where)


def rows_of(path: str | Path, text: str) -> Iterator[tuple[str, Row]] | None:
    """(place, fields) of the rows of a table or of JSON, by the name of its file; None for lines of text."""
    kinds = {".csv": table, ".tsv": table, ".jsonl": json_lines, ".ndjson": json_lines, ".json": json_list}
    read = kinds.get(Path(path).suffix.lower())
    return None if read is None else read(path, text)


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


def table(path: str | Path, text: str) -> Iterator[tuple[str, Row]]:
    """Yield (place, fields) of the rows of a table with a header."""
    delimiter, names = table_header(path, text)
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
                yield place, {"prompt": "", **dict(zip(names, row, strict=False))}
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}; check the quotes") from None


def table_header(path: str | Path, text: str) -> tuple[str, list[str]]:
    """Delimiter of a table, and the names of its columns as `fields_of` calls them."""
    first = next(iter(text.splitlines()), "")
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if any(field in names for field in FIELDS):
            return delimiter, own_names(names)
    raise ValueError(
        f"{path}, line 1: the first line of a table must name its columns, one of them {FIELD_NAMES}; got "
        f"{shorten(repr(first))}. For one prompt per line, use a .txt file"
    )


def own_names(names: Sequence[str]) -> list[str]:
    """Names of columns, of which one is "prompt": the first of `FIELDS` that is there."""
    which = names.index(next(field for field in FIELDS if field in names))
    return ["prompt" if i == which else OTHER_NAMES.get(name, name) for i, name in enumerate(names)]


def json_lines(path: str | Path, text: str) -> Iterator[tuple[str, Row]]:
    """Yield (place, fields) of a JSON value on each line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", fields_of(parse_json(path, f"line {number}", line), f"{path}, line {number}")


def json_list(path: str | Path, text: str) -> Iterator[tuple[str, Row]]:
    """Yield (place, fields) of the items of a JSON list."""
    values = parse_json(path, "", text)
    if not isinstance(values, list):
        raise ValueError(f"{path}: must be a list of texts, or of objects with {FIELD_NAMES}; got {describe(values)}")
    for i, value in enumerate(values):
        yield f"item {i}", fields_of(value, f"{path}, item {i}")


def parse_json(path: str | Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "too deep or too large"
        raise ValueError(
            f"{path}, {place or line}: not JSON ({getattr(error, 'msg', type(error).__name__)}); for one prompt "
            "per line, use a .txt file"
        ) from None


def fields_of(value: Any, place: str) -> Row:
    """The fields of a JSON value, one of them "prompt": the value itself, or a field of it."""
    if isinstance(value, str):
        return {"prompt": value}
    found = f"an object with {shorten(', '.join(value))}" if isinstance(value, dict) else describe(value)
    if not isinstance(value, dict) or not any(field in value for field in FIELDS):
        raise ValueError(f"{place}: must be text, or an object with text in {FIELD_NAMES}; got {found}")
    row = dict(zip(own_names(list(value)), value.values(), strict=True))
    if not isinstance(row["prompt"], str):
        raise ValueError(f"{place}: must be text, or an object with text in {FIELD_NAMES}; got {found}")
    for name in TEXTS:
        if row.get(name) is not None and not isinstance(row[name], str):
            raise ValueError(f"{place}: {name} must be text; got {describe(row[name])}")
    return row
