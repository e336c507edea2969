"""The stores of this process, one for the session and one for each name of Keep Trunks; and runs that use one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import folder_paths

from ...hierdiff_core.files.names import FORBIDDEN, RESERVED
from ...hierdiff_core.sampling.store import Store, session_store
from ...hierdiff_core.sampling.trunk_files import TrunkFolder

GIB = 2**30
PLACE = ("hierdiff", "trunks")  # in the host's user folder
LONGEST_NAME = 80  # characters; in UTF-8 at most three times as many bytes, below what file systems take

_stores: dict[str, Store] = {}
_lock = threading.Lock()


def check_trunk_name(name: str) -> None:
    """`ValueError` for a name that is no plain name of a folder on every system; "" is none at all."""
    if not name:
        return
    if len(name) > LONGEST_NAME:
        raise ValueError(f"name must have at most {LONGEST_NAME} characters; got {len(name)}")
    if FORBIDDEN.search(name):
        raise ValueError(f'name must not contain <>:"/\\|?* or control characters; got {name!r}')
    if name != name.strip(" .") or name.split(".")[0].rstrip(" ").upper() in RESERVED:
        raise ValueError(
            f"name must be a plain name of a folder, without spaces or dots at its ends, and none that Windows "
            f"reserves; got {name!r}"
        )


def trunk(name: str, memory: float, disk: float) -> Store:
    """The store of a name, with these budgets from now on.

    Parameters
    ----------
    name : str
        All who give the same share a store, whatever the case of its letters; "": the session's own, in memory alone.
    memory, disk : float
        GiB that it may take; without any disk it is in memory alone.

    Returns
    -------
    store : Store

    Raises
    ------
    ValueError
        If the name is no name of a folder.
    """
    check_trunk_name(name)
    with _lock:
        store = _stores.setdefault(name.casefold(), Store(0)) if name else session_store()
        if name:
            set_folder(store, name, int(disk * GIB))
        store.budget = int(memory * GIB)
    return store


def set_folder(store: Store, name: str, budget: int) -> None:
    """Give a store its folder, or take it away where it may use no disk."""
    if not budget:
        folder = None
    elif store.folder is not None:
        folder = store.folder
        folder.budget = budget
    else:
        folder = TrunkFolder(folder_of(name), budget)
    store.folder = store.leaves.folder = folder


def folder_of(name: str) -> Path:
    """Where a name is kept: in the folder that has it, in letters of whatever case, else in a new one."""
    place = Path(folder_paths.get_user_directory(), *PLACE)
    there = sorted(os.listdir(place)) if place.is_dir() else []
    same = [found for found in there if found.casefold() == name.casefold()]
    return place / (name if name in same or not same else same[0])


def shown_place(name: str) -> str:
    """The folder of a name as users are shown it, from the host's user folder."""
    return "/".join(("user", *PLACE, folder_of(name).name))
