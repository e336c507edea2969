"""One run in a folder at a time, also after one that was killed: the system takes its lock back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LOCK = ".hierdiff-lock"


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Keep other runs out of a folder for the length of a `with` block; the folder must be there.

    Where a disk knows no locks, as some network drives, there are none.

    Raises
    ------
    ValueError
        If another run holds it.
    """
    path = Path(folder) / LOCK
    file = _locked(path)
    if file is None:
        raise ValueError(f"another run is drawing into {folder} now; wait for it, or choose another folder with --out")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not on Windows, where it is open
            path.unlink()
        file.close()
        with contextlib.suppress(OSError):
            if os.name == "nt":
                path.unlink()


def _locked(path):
    """The open file with a lock on it; None if another process has one."""
    while True:
        file = open(path, "a+b")  # noqa: SIM115
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # no locks here
            return file
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        file.close()  # its holder removed it meanwhile: lock the one that others see


def _lock(file):
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError as error:
            raise BlockingIOError from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
