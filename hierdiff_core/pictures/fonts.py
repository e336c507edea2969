"""Text in pictures: fonts that have the characters of a text, and texts cut to a width in pixels."""

from __future__ import annotations

import itertools
import os
import sys
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageFont

if TYPE_CHECKING:
    from PIL import ImageDraw

INK, MUTED = "#1f2933", "#6b7280"  # of texts, and of texts that matter less
ELLIPSIS = "…"
LONGEST_TEXT = 2000  # characters that are measured; no picture has room for more

# Looked for in this order when DejaVu Sans, which Matplotlib brings along, lacks a character.
FONT_FILES = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "msyh.ttc",
    "msyh.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "simhei.ttf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "YuGothM.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
    "NanumGothic.ttf",
    "arialuni.ttf",
    "Arial Unicode.ttf",
    "unifont.ttf",
    "Nirmala.ttc",
    "Nirmala.ttf",
    "leelawui.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "FreeSans.ttf",
)
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "${WINDIR}/Fonts",
    "${LOCALAPPDATA}/Microsoft/Windows/Fonts",
)


class Typeface:
    """Fonts of one size that together have the characters of a text: each is drawn in the first that has it."""

    def __init__(self, paths: Iterable[str], size: int) -> None:
        self.size = size
        self.fonts = [_font(path, size) for path in paths]

    def pieces(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Cut `text` where its font changes: pairs of a font, whose file is `font.path`, and a part of the text."""
        if len(self.fonts) == 1:
            return [(self.fonts[0], text)]
        which = np.zeros(len(text), dtype=np.int64)
        for i in range(len(self.fonts) - 1, -1, -1):
            which[_in_font(text, self.fonts[i].path)] = i
        cuts = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist(), len(text)]
        return [(self.fonts[which[a]], text[a:b]) for a, b in itertools.pairwise(cuts) if a < b]

    def getlength(self, text: str) -> float:
        return sum(font.getlength(piece) for font, piece in self.pieces(text))

    def draw(
        self, draw: ImageDraw.ImageDraw, x: float, y: float, text: str, fill: str = INK, centred: bool = False
    ) -> None:
        """Draw on a `PIL.ImageDraw.ImageDraw`: `y` is the line's middle, `x` its left end or, `centred`, its middle."""
        ascent, descent = self.fonts[0].getmetrics()
        x -= self.getlength(text) / 2 if centred else 0
        for font, piece in self.pieces(text):
            draw.text((x, y + (ascent - descent) / 2), piece, font=font, fill=fill, anchor="ls")
            x += font.getlength(piece)


def choose_font(text: str, size: int) -> tuple[Typeface, str]:
    """Fonts for `text`, and the text as they can draw it.

    Parameters
    ----------
    text : str
        Any language; line breaks and control characters become spaces.
    size : int >= 1
        Pixels.

    Returns
    -------
    face : Typeface
        DejaVu Sans first.
    text : str
        Characters that no installed font of `FONT_FILES` has are "?".
    """
    text = _tidy(text)
    paths = [base_font()]
    missing = _missing(text, paths[0])
    if missing:
        for path in _system_fonts():
            lacking = _missing(missing, path)
            if len(lacking) < len(missing):
                paths.append(path)
                missing = lacking
    return Typeface(paths, max(1, int(size))), "".join("?" if c in missing else c for c in text)


def shorten(text: str, face: Typeface, width: float) -> str:
    """Cut the middle out of `text` until it is at most `width` pixels wide in `face`."""
    if face.getlength(text) <= width:
        return text
    low, high = 0, len(text) - 1  # characters kept
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if face.getlength(_without_middle(text, kept)) <= width else (low, kept - 1)
    return _without_middle(text, low)


def wrap(text: str, face: Typeface, width: float, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of `width` pixels; the middle of the last one is cut if it must be.

    Returns
    -------
    lines : list of str
        At least one; words longer than a line, and languages without spaces, break anywhere.
    """
    done, rest = [], text
    while len(done) < lines - 1 and face.getlength(rest) > width:
        end = _fitting(rest, face, width)
        space = rest.rfind(" ", 1, end + 1)
        end = space if space > 0 else end
        done.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*done, shorten(rest, face, width)]


def _fitting(text, face, width):
    """The number of first characters of `text`, at least one, that `width` has room for."""
    low, high = 1, len(text)
    while low < high:
        end = (low + high + 1) // 2
        low, high = (end, high) if face.getlength(text[:end]) <= width else (low, end - 1)
    return low


def _without_middle(text, kept):
    head = (kept + 1) // 2
    return text[:head].rstrip() + ELLIPSIS + text[len(text) - (kept - head) :].lstrip()


def _tidy(text):
    """One line of `text` without invisible characters (joiners, emoji variations), of bounded length."""
    text = str(text)
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT // 2] + ELLIPSIS + text[-LONGEST_TEXT // 2 :]
    kept = (" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join("".join(c for c in kept if not _invisible(c)).split())


def _invisible(c):
    return unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f"


def base_font() -> str:
    """The file of the DejaVu Sans that Matplotlib brings along."""
    import matplotlib  # here, not above: it takes a while, and a pack is imported when the server starts

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@lru_cache(maxsize=256)
def _font(path, size):
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=64)
def _code_points(path):
    """Sorted code points that the font has (none where its file cannot be read), then one that no text has."""
    from matplotlib.ft2font import FT2Font

    try:
        points = sorted(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        points = []
    return np.array([*points, sys.maxunicode + 1])


def _in_font(text, path):
    """(len(text),) bool which characters the font has."""
    codes = np.array([ord(c) for c in text], dtype=np.int64)
    points = _code_points(path)
    return points[np.searchsorted(points, codes)] == codes


def _missing(text, path):
    """The characters of `text`, each once and without the space, that the font lacks."""
    characters = "".join(set(text) - {" "})
    return "".join(characters[i] for i in np.flatnonzero(~_in_font(characters, path)))


@lru_cache(maxsize=1)
def _system_fonts():
    """Paths of the installed fonts of `FONT_FILES`, in that order."""
    found = {}
    for folder in FONT_FOLDERS:
        for root, _, files in os.walk(os.path.expanduser(os.path.expandvars(folder))):
            for file in files:
                found.setdefault(file.lower(), os.path.join(root, file))
    return [found[name.lower()] for name in FONT_FILES if name.lower() in found]
