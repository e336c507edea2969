"""Prompts as a table: rows with on, prompt, negative, seed, pictures and caption, from texts of any form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .alternatives import MOST_CHARACTERS, MOST_PROMPTS, check_characters
from .cells import COLUMNS, CellError, Cells, add_pictures, cells_of, read_row
from .files import MOST_BYTES, decode, json_lines, json_list, rows_of, table, table_header
from .hints import looks_like_json
from .prompt_set import BYTE_ORDER_MARK, PromptReader, comment_lines
from .text_form import whole_characters

THE_TABLE = "the table"
MOST_PROBLEMS = 100  # that are told of at once


class Problem(NamedTuple):
    """What is wrong with a cell: `row` counts from 0, `column` is one of `COLUMNS`, `text` says it with both."""

    row: int
    column: str
    text: str


def read_cells(text: str) -> list[Cells]:
    """The rows of a table, in any of the forms in which one may be written or pasted.

    Parameters
    ----------
    text : str
        A table whose first line names its columns, with tabs, commas or semicolons between cells and quotes where a
        cell needs them; JSON: a list of objects or texts, or one on each line; or a prompt on each line, where lines
        that begin with ``#`` or ``//`` are skipped.

    Returns
    -------
    rows : list of Cells

    Raises
    ------
    ValueError
        If it is too long, has too many rows, or its quotes or its JSON are wrong.

    Examples
    --------
    >>> from hierdiff_core.prompts.table import read_cells
    >>> [(row.prompt, row.seed) for row in read_cells("prompt,seed\\na cat,7\\na dog,\\n")]
    [('a cat', '7'), ('a dog', '')]
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"the table has {len(text)} characters; at most {MOST_CHARACTERS} are allowed: split it")
    return _all_cells(_fields(whole_characters(text).lstrip(BYTE_ORDER_MARK)))


def file_cells(name: str, data: bytes) -> list[Cells]:
    """The rows of a file, of the kind that its name says.

    Parameters
    ----------
    name : str
        See `files.add_file`. Alternatives in lines of text stay as they are written.
    data : bytes
        What is in it.

    Returns
    -------
    rows : list of Cells

    Raises
    ------
    ValueError
        If it is no text or no such table, or has too many rows.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes; split it into several sets")
    text = whole_characters(decode(name, data)).lstrip(BYTE_ORDER_MARK)
    rows = rows_of(name, text)
    return _all_cells(_lines(text) if rows is None else (row for _, row in rows))


def _all_cells(found: Iterable[Mapping[str, Any]]) -> list[Cells]:
    rows = [cells_of(row) for row in found]
    if len(rows) > MOST_PROMPTS:
        raise ValueError(f"the table has {len(rows)} rows; at most {MOST_PROMPTS} are allowed: split it")
    return rows


def _fields(text: str) -> Iterable[Mapping[str, Any]]:
    start = text.lstrip()[:2]
    if start in ("[{", '{"') or looks_like_json(text):
        return [row for _, row in (json_list if start.startswith("[") else json_lines)(THE_TABLE, text)]
    if has_header(text):
        return [row for _, row in table(THE_TABLE, text)]
    return _lines(text)


def _lines(text: str) -> list[Mapping[str, Any]]:
    """A row for each line that is no comment."""
    lines = [line.strip().strip(BYTE_ORDER_MARK).strip() for line in text.splitlines()]
    skipped = set(comment_lines(lines))
    return [{"prompt": line} for i, line in enumerate(lines) if line and i not in skipped]


def has_header(text: str) -> bool:
    """Whether the first line of a text names columns, and is not a prompt with commas."""
    try:
        delimiter, names = table_header(THE_TABLE, text)
    except ValueError:
        return False
    known = sum(name in COLUMNS for name in names)
    return delimiter == "\t" or known > 1 or known == len(names)


def add_cells(reader: PromptReader, rows: Sequence[Cells]) -> list[Problem]:
    """Add the prompts of a table's rows to a set.

    Parameters
    ----------
    reader : PromptReader
        It keeps the limits of the set.
    rows : list of Cells
        Those that are off, or blank, are left out.

    Returns
    -------
    problems : list of Problem
        Of rows that give no prompt, since a cell of theirs cannot be read.

    Raises
    ------
    ValueError
        If all prompts together have too many characters.
    """
    problems: list[Problem] = []
    for i, cells in enumerate(rows):
        if not cells.is_on or cells.is_blank:
            continue
        try:
            own, pictures = read_row(cells)
            first = len(reader.rows)
            reader.add_line(" ".join(cells.prompt.split()), f"row {i + 1}", own)
            add_pictures(reader, first, own, pictures, f"row {i + 1}")
        except CellError as error:
            problems.append(Problem(i, error.column, f"row {i + 1}: {error}"))
        except ValueError as error:  # of the prompt: it names the row already
            problems.append(Problem(i, "prompt", str(error)))
        if len(problems) == MOST_PROBLEMS:
            break
    check_characters(sum(len(row.text) for row in reader.rows))
    return problems


def table_text(rows: Iterable[Cells]) -> str:
    """A table as the page keeps it: a header, then a line for each row, with tabs between cells.

    Parameters
    ----------
    rows : iterable of Cells

    Returns
    -------
    text : str
        `read_cells` gives the rows again.
    """
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_quoted(getattr(row, name)) for name in COLUMNS) for row in rows]
    return "\n".join(lines)


def _quoted(cell: str) -> str:
    if not any(mark in cell for mark in ("\t", "\n", "\r", '"')):
        return cell
    return '"' + cell.replace('"', '""') + '"'
