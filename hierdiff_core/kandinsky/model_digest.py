"""Which model a folder holds, told from its files: two folders with the same files hold the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from .model_folder import PARTS

READ_WHOLE = 1 << 24  # bytes; of larger files, which are weights, so many pieces are looked at
PIECES, PIECE = 64, 1 << 16


def model_digest(folder: str | Path, class_name: str) -> str:
    """Digest of a model's folder, in moments whatever its size.

    Parameters
    ----------
    folder : str or Path
        In diffusers format.
    class_name : str
        A key of `model_folder.PARTS`: the files of its parts count.

    Returns
    -------
    digest : str
        32 hexadecimal digits.

    Raises
    ------
    OSError
        If a file cannot be read.

    Notes
    -----
    Training moves every number of a network, so pieces of its weights tell it from any other.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in sorted(PARTS[class_name]):
        for path in sorted((Path(folder) / part).glob("*")):
            if path.is_file():
                digest.update(f"{part}/{path.name}\0".encode())
                digest.update(file_digest(path))
    return digest.hexdigest()


def file_digest(path: str | Path) -> bytes:
    """16 bytes that tell a file from others: of large ones by their size and by pieces."""
    path = Path(path)
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= READ_WHOLE:
            digest.update(file.read())
        else:
            for start in np.linspace(0, size - PIECE, PIECES).astype(int).tolist():
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.digest()
