"""What a picture of the command line says of itself: the set that it belongs to, its prompt and its place.

A folder is guarded by these marks: what has none, and is named in no report, was not drawn here and is never touched.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

OWN = "hierdiff"  # key of the text; Save Image Set's pictures have it too
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises for damaged files


def as_png(picture: Image.Image, mark: dict[str, Any] | None = None) -> bytes:
    """Bytes of a PNG file; `mark` is what it says of itself."""
    info = None
    if mark:
        info = PngInfo()
        info.add_text(OWN, json.dumps(mark))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def mark_of(path: str | Path) -> dict[str, Any]:
    """What a picture says of itself, read without its pixels; empty where it says nothing, or is no picture."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            mark = json.loads(picture.info.get(OWN, ""))
    except (*UNREADABLE, RecursionError):
        return {}
    return mark if isinstance(mark, dict) else {}


def whole_picture(path: str | Path) -> Image.Image | None:
    """A picture with all of its pixels; None where the file is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            return picture.convert("RGB")
    except UNREADABLE:
        return None
