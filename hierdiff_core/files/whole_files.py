"""Files that appear whole or not at all, and never in the place of another.

A file is written under a hidden name in the folder where it belongs, and gets its own name when all of it is on the
disk. What a killed process leaves is such a hidden file, which the next run removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

BEFORE, AFTER = ".hierdiff-", ".part"
SECONDS_UNTIL_STALE = 3600  # since the last change; one file takes seconds
TRIAL_BYTES = 1 << 16


def write_new(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that does not exist yet, whole or not at all.

    Raises
    ------
    FileExistsError
        If there is such a file.
    OSError
        If it cannot be written.
    """
    with written_aside(path, data) as part:
        publish(part, path)


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, whole or not at all, in the place of one that may be there; `OSError` if it cannot be written."""
    with written_aside(path, data) as part, naming(path):
        os.replace(part, path)


def try_writing(path: str | os.PathLike[str]) -> None:
    """Find out, without leaving anything, whether a file can be written under this name.

    Raises
    ------
    OSError
        If its folder cannot be made, takes no files, is full, or the name is too long for the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = path.with_name(f".{path.name[:-1]}~")  # as long, hidden, and of no kind that anybody lists
    with written_aside(path, bytes(TRIAL_BYTES)), naming(path):
        try:
            open(trial, "xb").close()
        except FileExistsError:  # left by a trial that was killed: it could be made
            pass
        else:
            trial.unlink()


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str], data: bytes) -> Iterator[Path]:
    """Write `data` under a hidden name beside `path`, for the length of a `with` block; yields that name's Path."""
    part = Path(path).with_name(f"{BEFORE}{secrets.token_hex(8)}{AFTER}")
    try:
        with naming(path), open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        with contextlib.suppress(OSError):  # a virus scanner may hold it on Windows: it is removed later
            part.unlink(missing_ok=True)


def publish(part: Path, path: str | os.PathLike[str]) -> None:
    """Give a file its own name; `FileExistsError` if something has it.

    Notes
    -----
    A hard link refuses a name that is taken, in one step. Where there are none (FAT, some network drives), the name is
    reserved first: a rename replaces what is there on POSIX.
    """
    with naming(path):
        try:
            os.link(part, path)
        except FileExistsError:
            raise
        except OSError:
            rename_new(part, path)


def rename_new(part: Path, path: str | os.PathLike[str]) -> None:
    """`publish` without hard links."""
    with reserved(path):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(part, path)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an `OSError` of the block name `path`, not the hidden file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def reserved(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep others of this pack from a name, by a hidden file, for the length of a `with` block."""
    path = Path(path)
    digest = hashlib.sha256(path.name.casefold().encode(errors="surrogatepass")).hexdigest()
    mark = path.with_name(f"{BEFORE}{digest[:16]}{AFTER}")
    with open(mark, "xb"):  # FileExistsError: it is being written now
        pass
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def leftovers(folder: str | Path) -> list[Path]:
    """Paths of the hidden files in a folder: of runs that were killed, or that are writing now."""
    return list(Path(folder).glob(f"{BEFORE}*{AFTER}"))


def remove_leftovers(folder: str | Path) -> None:
    """Remove the hidden files of runs that were killed; those that may still be written stay."""
    latest = time.time() - SECONDS_UNTIL_STALE
    for path in leftovers(folder):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < latest:
                path.unlink()
