"""Many pictures on one sheet, with captions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .fonts import choose_font, wrap

MAX_SIDE = 16384
MAX_PIXELS = 2**26  # one float32 tensor of a sheet this large takes 800 MB
LARGEST_PICTURE = 512
SMALLEST_CELL = 96
CAPTION_LINES = 3
SHEET_SHAPE = 4 / 3  # width to height that columns=0 aims at


def contact_sheet(images: Iterable[Image.Image], prompts: Iterable[str], columns: int = 0) -> Image.Image:
    """Lay out pictures in rows, each over its prompt.

    Parameters
    ----------
    images : iterable of N PIL.Image.Image
        Of one size; may be a generator, each is shrunk as it comes.
    prompts : N str
        Captions, at most three lines of each.
    columns : int >= 0
        0 chooses a sheet of about 4:3.

    Returns
    -------
    sheet : PIL.Image.Image
        RGB; pictures are shown at most 512 pixels long, smaller where the sheet would pass 16384 pixels a side or 67
        million in all, and without captions where that leaves them less than 96 pixels.

    Raises
    ------
    ValueError
        If there is no image, there are not as many prompts as images, or `columns` is negative.
    """
    images, prompts = iter(images), list(prompts)
    if columns < 0:
        raise ValueError(f"columns must be 0 (automatic) or more; got {columns}")
    image = next(images, None)
    if image is None:
        raise ValueError("images must contain at least one picture; got none")
    if not prompts:
        raise ValueError("prompts must contain one prompt per image; got none")
    layout = _sheet_layout(image.size, len(prompts), columns)
    captions = _captions(prompts, layout)
    lines = max((len(caption) for _, caption in captions), default=0)
    sheet = Image.new("RGB", layout.size(lines), "white")
    count = 0
    while image is not None:
        sheet.paste(fit(image, layout.picture), layout.corner(count, lines))
        count += 1
        image = next(images, None)
    if count != len(prompts):
        raise wrong_count(count, len(prompts))
    _write_captions(sheet, layout, captions, lines)
    return sheet


def wrong_count(images: int, prompts: int) -> ValueError:
    """The error of a sheet of other prompts."""
    return ValueError(
        f"there must be as many images as prompts; got {images} images and {prompts} prompts. "
        "Give the prompts that the images were made from, all of them and in the same order"
    )


def fit(picture: Image.Image, box: tuple[int, int]) -> Image.Image:
    """`picture` in RGB, no larger than `box` = (width, height)."""
    scale = min(1, box[0] / picture.width, box[1] / picture.height)
    size = [max(1, round(n * scale)) for n in picture.size]
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Layout:
    """Where the pictures of a sheet go, all in pixels; `line` is 0 where captions have no room."""

    columns: int
    rows: int
    side: int
    picture: tuple[int, int]
    cell: int
    gap: int
    text: int
    line: int

    def size(self, lines: int = CAPTION_LINES) -> tuple[int, int]:
        """Of the sheet, with captions of so many lines."""
        return self.columns * (self.cell + self.gap) + self.gap, self.rows * self.pitch(lines) + self.gap

    def pitch(self, lines: int) -> int:
        """From one row's top to the next."""
        return self.picture[1] + lines * self.line + (self.gap // 2 if lines and self.line else 0) + self.gap

    def corner(self, i: int, lines: int) -> tuple[int, int]:
        return (
            self.gap + i % self.columns * (self.cell + self.gap) + (self.cell - self.picture[0]) // 2,
            self.gap + i // self.columns * self.pitch(lines),
        )


def _sheet_layout(picture, count, columns):
    """The layout with the largest pictures that keeps within the limits."""
    largest = min(LARGEST_PICTURE, max(picture))
    if columns == 0:
        columns = _pleasing_columns(count, _layout(picture, largest, 1, 1, captions=True))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    for captions, smallest in ((True, min(largest, SMALLEST_CELL)), (False, 1)):
        side = largest
        while side >= smallest:
            layout = _layout(picture, side, columns, rows, captions)
            if max(layout.size()) <= MAX_SIDE and math.prod(layout.size()) <= MAX_PIXELS:
                return layout
            side -= max(1, side // 64)
    return layout


def _pleasing_columns(count, cell):
    """Columns for a sheet near 4:3 with few empty places in its last row."""

    def penalty(columns):
        rows = math.ceil(count / columns)
        shape = columns * (cell.cell + cell.gap) / (rows * cell.pitch(lines=2))  # of most captions
        return abs(math.log(shape / SHEET_SHAPE)) + 1.5 * (rows * columns - count) / count

    return min(range(1, min(count, math.ceil(4 * math.sqrt(count))) + 1), key=penalty)


def _layout(picture, side, columns, rows, captions):
    width, height = (max(1, round(n * side / max(picture))) for n in picture)
    cell = max(SMALLEST_CELL, width) if captions else width
    text = min(20, max(11, cell // 22))
    line = round(1.35 * text) if captions else 0
    return _Layout(columns, rows, side, (width, height), cell, max(1, min(16, side // 16)), text, line)


def _captions(prompts, layout):
    """For each prompt its typeface and lines; empty where there is no room."""
    if not layout.line:
        return []
    faces = [choose_font(prompt, layout.text) for prompt in prompts]
    return [(face, wrap(text, face, layout.cell - 2, CAPTION_LINES)) for face, text in faces]


def _write_captions(sheet, layout, captions, lines):
    draw = ImageDraw.Draw(sheet)
    for i, (face, caption) in enumerate(captions):
        x, y = layout.corner(i, lines)
        x += layout.picture[0] // 2
        y += layout.picture[1] + layout.gap // 2
        for j, line in enumerate(caption):
            face.draw(draw, x, y + (j + 0.5) * layout.line, line, centred=True)
