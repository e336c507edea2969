"""The cells of a table of prompts: texts until `read_row` reads them, so that errors are told where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from .alternatives import LONGEST_PROMPT, MOST_PROMPTS, check_count, shorten
from .rows import LARGEST_SEED, PromptRow

if TYPE_CHECKING:
    from .prompt_set import PromptReader

COLUMNS = ("on", "prompt", "negative", "seed", "pictures", "caption")
OFF = ("0", "false", "no", "off")  # in the column on; all else, also nothing, is on
ANY_SEED = ("", "-1")  # the sampler's; other programs write -1


@dataclass(frozen=True)
class Cells:
    """A row of a table, as it is written.

    Attributes
    ----------
    on, prompt, negative, seed, pictures, caption : str
        "" for a cell that is empty, or that there is not.
    """

    on: str = ""
    prompt: str = ""
    negative: str = ""
    seed: str = ""
    pictures: str = ""
    caption: str = ""

    @property
    def is_on(self) -> bool:
        """Whether the row is used."""
        return self.on.strip().lower() not in OFF

    @property
    def is_blank(self) -> bool:
        """Whether nothing is written in it."""
        return not any(getattr(self, field.name).strip() for field in fields(self) if field.name != "on")


class CellError(ValueError):
    """A cell that cannot be read; `column` is its column."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def cells_of(row: Mapping[str, Any]) -> Cells:
    """The cells in the fields of a file's row."""
    return Cells(**{name: str(row[name]) for name in COLUMNS if row.get(name) is not None})


def add_pictures(reader: PromptReader, first: int, own: PromptRow, pictures: int, place: str) -> None:
    """Give the rows of a reader from `first` on what is their own, and repeat them for each of their pictures.

    Of several pictures each has a seed of its own: one after the other from the row's; without one the sampler's, then
    1, 2, 3.

    Raises
    ------
    ValueError
        If the set has no room for them; then they are taken out of it.
    """
    added = reader.rows[first:]
    del reader.rows[first:]
    try:
        check_count(first + len(added) * pictures)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if own.seed is None:
        seeds = [None, *range(1, pictures)]
    else:
        seeds = [(own.seed + i) % (LARGEST_SEED + 1) for i in range(pictures)]
    known = {"negative": own.negative, "caption": own.caption}
    reader.rows += [replace(row, seed=seed, **known) for row in added for seed in seeds]
    if pictures > 1 and own.seed is None:
        others = f"seeds 1 to {pictures - 1}" if pictures > 2 else "seed 1"
        reader.remarks.note(
            f"{place}: {pictures} pictures without a seed: the first has the sampler's, the others {others}; write a "
            "seed to choose them"
        )


def read_row(cells: Cells) -> tuple[PromptRow, int]:
    """What is a row's own, without its prompt; and how many pictures it asks for.

    Parameters
    ----------
    cells : Cells
        Of a row that is on.

    Returns
    -------
    row : PromptRow
        Its text is "".
    pictures : int
        1 or more.

    Raises
    ------
    CellError
        Names the value, and what it must be.
    """
    if not cells.prompt.strip():
        raise CellError("prompt", "the prompt is empty; write one, or switch the row off")
    seed = cells.seed.strip()
    pictures = _whole("pictures", cells.pictures.strip() or "1", 1, MOST_PROMPTS, "")
    number = None if seed in ANY_SEED else _whole("seed", seed, 0, LARGEST_SEED, "; leave it empty for the sampler's")
    texts = {name: " ".join(getattr(cells, name).split()) or None for name in ("negative", "caption")}
    for name, text in texts.items():
        if text is not None and len(text) > LONGEST_PROMPT:
            raise CellError(name, f"the {name} has {len(text)} characters; at most {LONGEST_PROMPT} are allowed")
    return PromptRow("", texts["negative"], number, texts["caption"]), pictures


def _whole(column: str, text: str, least: int, most: int, more: str) -> int:
    plain = text.isascii() and text.lstrip("+").isdigit() and len(text) <= 25
    number = int(text) if plain else -1
    if not least <= number <= most:
        limit = "2**64 - 1" if most == LARGEST_SEED else most
        raise CellError(
            column, f"{column} must be a whole number from {least} to {limit}; got {shorten(repr(text))}{more}"
        )
    return number
