"""PNG files that are made beside other work: without Python's lock, which Pillow holds while it compresses."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COMPRESSION = 1  # as fast as can be
UP = 2  # each row less the one above it


def png_bytes(pixels: np.ndarray, chunks: Iterable[tuple[bytes, bytes]] = (), level: int = COMPRESSION) -> bytes:
    """A PNG file.

    Parameters
    ----------
    pixels : (H, W, 3) uint8 array
    chunks : iterable of (kind, data)
        More chunks, such as texts (those of Pillow's `PngInfo`).
    level : int
        Of zlib's compression.

    Returns
    -------
    bytes
    """
    height, width, _ = pixels.shape
    flat = pixels.reshape(height, -1)
    rows = np.empty((height, 1 + flat.shape[1]), dtype=np.uint8)
    rows[:, 0], rows[0, 1:] = UP, flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows.data, level)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, data) for kind, data in parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
