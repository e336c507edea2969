"""Pictures of a set of combinations, in rows and columns with headings: one axis or more for each factor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .contact_sheet import LARGEST_PICTURE, MAX_PIXELS, MAX_SIDE, SHEET_SHAPE, fit, wrong_count
from .fonts import INK, MUTED, choose_font, wrap

SEED = "seed"  # the factor of prompts that differ in nothing else
LEAST_FILLED = 0.5  # of a grid's places; with fewer pictures it is none
HEADING_LINES = 3
WIDEST_HEADING = 240  # pixels of a row's heading
NO_VALUE = "(none)"
RULE = "#c3c9d2"

Factors = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Factor:
    """A name and its values, in the order in which they first appear."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Where the pictures of a set stand.

    Attributes
    ----------
    rows, columns : tuple of Factor
        Of the two axes; several lie in each other, the last changing fastest.
    places : tuple of (int, int)
        Row and column of each picture.
    """

    rows: tuple[Factor, ...]
    columns: tuple[Factor, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return _product(self.rows), _product(self.columns)


def grid_of(factors: Sequence[Factors], seeds: Sequence[int | None], size: tuple[int, int] = (1, 1)) -> Grid | None:
    """The grid of a set that was made of combinations.

    Parameters
    ----------
    factors : N sequences of (name, value)
        Of each prompt, see `hierdiff_core.prompts.rows`.
    seeds : N int or None
        Of each prompt: prompts that differ in the seed alone get it as one more factor.
    size : (int, int)
        Width and height of the pictures. Of more than two factors those that stand first share the rows, so that the
        sheet comes near to 4:3.

    Returns
    -------
    grid : Grid or None
        None if the prompts do not have the same two or more factors, two have the same values, or more than half of the
        places would be empty.
    """
    names = {tuple(name for name, _ in each) for each in factors}
    if len(names) != 1:
        return None
    keys = [tuple(value for _, value in each) for each in factors]
    known = next(iter(names))
    if len(set(keys)) < len(keys) and None not in seeds:
        keys = [(*key, f"{SEED} {seed}") for key, seed in zip(keys, seeds, strict=True)]
        known = (*known, SEED)
    every = [Factor(name, tuple(dict.fromkeys(key[i] for key in keys))) for i, name in enumerate(known)]
    kept = [i for i, factor in enumerate(every) if len(factor.values) > 1]
    keys = [tuple(every[i].values.index(key[i]) for i in kept) for key in keys]
    found = [every[i] for i in kept]
    if len(found) < 2 or len(set(keys)) < len(keys) or len(keys) < LEAST_FILLED * _product(found):
        return None
    cut = min(range(1, len(found)), key=lambda cut: _distance(found[:cut], found[cut:], size))
    rows, columns = tuple(found[:cut]), tuple(found[cut:])
    return Grid(rows, columns, tuple((_place(rows, key[:cut]), _place(columns, key[cut:])) for key in keys))


def grid_sheet(images: Iterable[Image.Image], grid: Grid) -> Image.Image:
    """Lay out pictures in a grid with headings.

    Parameters
    ----------
    images : iterable of N PIL.Image.Image
        Of one size, in the order of the grid's places; may be a generator, each is shrunk as it comes.
    grid : Grid

    Returns
    -------
    sheet : PIL.Image.Image
        RGB; pictures are at most 512 pixels long, smaller where the sheet would pass 16384 pixels a side or 67 million
        in all.

    Raises
    ------
    ValueError
        If there are not as many images as places.
    """
    images = iter(images)
    image = next(images, None)
    if image is None:
        raise wrong_count(0, len(grid.places))
    layout = _fitting_layout(image.size, grid)
    sheet = Image.new("RGB", layout.size, "white")
    count = 0
    while image is not None:
        if count < len(grid.places):
            row, column = grid.places[count]
            shown = fit(image, layout.picture)
            x, y = layout.x(column), layout.y(row)
            free = layout.picture[0] - shown.width, layout.picture[1] - shown.height
            sheet.paste(shown, (x + free[0] // 2, y + free[1] // 2))
        count += 1
        image = next(images, None)
    if count != len(grid.places):
        raise wrong_count(count, len(grid.places))
    draw = ImageDraw.Draw(sheet)
    _write_columns(draw, layout, grid.columns)
    _write_rows(draw, layout, grid.rows)
    return sheet


@dataclass(frozen=True)
class _Layout:
    """Where things go, all in pixels; `left` and `top` are the room of each heading, outermost first."""

    picture: tuple[int, int]
    gap: int
    text: int
    left: tuple[int, ...]
    top: tuple[int, ...]
    rows: tuple[Factor, ...]
    columns: tuple[Factor, ...]

    @property
    def line(self) -> int:
        return round(1.35 * self.text)

    @property
    def size(self) -> tuple[int, int]:
        columns, rows = _product(self.columns), _product(self.rows)
        return (
            self.x(columns - 1) + self.picture[0] + self.gap,
            self.y(rows - 1) + self.picture[1] + self.gap,
        )

    def x(self, column: int) -> int:
        return self.gap + sum(self.left) + self._before(self.columns, column, self.picture[0])

    def y(self, row: int) -> int:
        return self.gap + sum(self.top) + self._before(self.rows, row, self.picture[1])

    def _before(self, factors, index, side):
        """Pixels up to a place: between blocks of the outer factors there is more room."""
        parted = sum(index // _product(factors[level + 1 :]) for level in range(len(factors) - 1))
        return index * (side + self.gap) + parted * self.gap


def _fitting_layout(picture, grid):
    """The layout with the largest pictures that keeps within the limits."""
    side = min(LARGEST_PICTURE, max(picture))
    while True:
        layout = _layout(picture, side, grid)
        if side == 1 or (max(layout.size) <= MAX_SIDE and math.prod(layout.size) <= MAX_PIXELS):
            return layout
        side -= max(1, side // 64)


def _layout(picture, side, grid):
    width, height = (max(1, round(n * side / max(picture))) for n in picture)
    gap, text = max(2, min(12, side // 20)), min(20, max(11, side // 18))
    bare = _Layout((width, height), gap, text, (), (), grid.rows, grid.columns)
    widest = min(WIDEST_HEADING, max(4 * text, width))
    left, top = [], []
    for level, factor in enumerate(grid.rows):
        lines = [line for value in factor.values for line in _lines(value, text, widest, _row_lines(bare, level))[1]]
        faces = [choose_font(line, text) for line in lines]
        left.append(math.ceil(max(face.getlength(shown) for face, shown in faces)) + 2 * gap)
    for level, factor in enumerate(grid.columns):
        room = _span(bare.x, grid.columns, level, width)
        most = max(len(_lines(value, text, room, HEADING_LINES)[1]) for value in factor.values)
        top.append(most * bare.line + gap)
    return _Layout((width, height), gap, text, tuple(left), tuple(top), grid.rows, grid.columns)


def _row_lines(layout, level):
    """How many lines have room beside a block of rows."""
    return max(1, min(HEADING_LINES + 1, _span(layout.y, layout.rows, level, layout.picture[1]) // layout.line))


def _span(position, factors, level, side):
    """Pixels of a block of a factor."""
    return position(_product(factors[level + 1 :]) - 1) + side - position(0)


def _lines(value, text, width, lines):
    face, shown = choose_font(value or NO_VALUE, text)
    return face, wrap(shown, face, width, lines)


def _write_columns(draw, layout, factors):
    for level, start, end, value in _blocks(factors):
        left, right = layout.x(start), layout.x(end) + layout.picture[0]
        bottom = layout.gap + sum(layout.top[: level + 1]) - layout.gap // 2
        face, lines = _lines(value, layout.text, right - left, HEADING_LINES)
        if level < len(factors) - 1:
            draw.line([(left, bottom), (right - 1, bottom)], fill=RULE)
        top = bottom - layout.gap // 2 - len(lines) * layout.line
        for j, line in enumerate(lines):
            y = top + (j + 0.5) * layout.line
            face.draw(draw, (left + right) / 2, y, line, fill=INK if value else MUTED, centred=True)


def _write_rows(draw, layout, factors):
    for level, start, end, value in _blocks(factors):
        top, bottom = layout.y(start), layout.y(end) + layout.picture[1]
        left = layout.gap + sum(layout.left[:level])
        width = layout.left[level] - 2 * layout.gap
        face, lines = _lines(value, layout.text, width + 1, _row_lines(layout, level))
        if level < len(factors) - 1:
            x = left + layout.left[level] - layout.gap
            draw.line([(x, top), (x, bottom - 1)], fill=RULE)
        first = (top + bottom) / 2 - len(lines) * layout.line / 2
        for j, line in enumerate(lines):
            face.draw(draw, left, first + (j + 0.5) * layout.line, line, fill=INK if value else MUTED)


def _blocks(factors):
    """Yield (level, first place, last place, value) of all headings of an axis."""
    for level, factor in enumerate(factors):
        length = _product(factors[level + 1 :])
        for block in range(_product(factors[: level + 1])):
            value = factor.values[block % len(factor.values)]
            yield level, block * length, (block + 1) * length - 1, value


def _distance(rows, columns, size):
    """How far a sheet is from the shape that it should have."""
    return abs(math.log(_product(columns) * size[0] / (_product(rows) * size[1]) / SHEET_SHAPE))


def _place(factors, key):
    """Index of a place on an axis, from the indices of its values."""
    lengths = itertools.accumulate(reversed([len(factor.values) for factor in factors[1:]]), int.__mul__, initial=1)
    return sum(index * length for index, length in zip(reversed(key), lengths, strict=True))


def _product(factors):
    return math.prod(len(factor.values) for factor in factors)
