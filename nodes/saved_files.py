"""Files of measurements that nodes save and load again, in a category of the host's folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..hierdiff_core.files.whole_files import try_writing
from .host.folders import path_of

Content = TypeVar("Content")

LONGEST_NAME = 100


def check_name(name: str) -> str:
    """A name of a file without spaces around it; `ValueError` for one that is no plain name."""
    name = name.strip()
    if set(name) & set('/\\:*?"<>|') or name.startswith("."):
        raise ValueError(f'name must be a plain file name, without folders or any of :*?"<>|; got {name[:200]!r}')
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"name must be at most {LONGEST_NAME} printable characters; got {name[:200]!r}")
    return name


def file_of(category: str, name: str, kind: str, maker: str) -> Path:
    """Path of a file of a category.

    Raises
    ------
    ValueError
        If there is none; it says what `kind` of file is missing, and that the node `maker` makes one.
    """
    path = path_of(category, name)
    if path is None:
        raise ValueError(
            f"there is no {kind} '{name[:200]}' under models/{category} or output/{category}; measure one with "
            f"{maker}, or put the file there (then press R to refresh the list)"
        )
    return Path(path)


def content_of(path: Path, name: str, read: Callable[[Path], Content]) -> Content:
    """What `read` finds in the file of a choice; errors name the choice, not where it lies on the disk."""
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from None


def place_for(category: str, name: str, path_for: Callable[[str], Path]) -> Path | None:
    """Path that can be written, or None for an empty name.

    Parameters
    ----------
    category : str
        Of the output folder.
    name : str
        That the user gave.
    path_for : callable
        ``path_for(name)``: where a file of this checked name is to lie. Of one that is there nothing is tried.

    Raises
    ------
    ValueError
        Before compute is spent: if the name is no plain one, or the disk does not take such a file.
    """
    name = check_name(name)
    if not name:
        return None
    try:
        path = path_for(name)
        if not path.exists():
            try_writing(path)
    except OSError as error:
        raise ValueError(
            f"name {name!r}: no file can be written in output/{category} ({error.strerror or error}); fix that, "
            "choose another name, or leave it empty to save nothing"
        ) from error
    return path
