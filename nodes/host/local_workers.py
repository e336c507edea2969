"""What a sampler with workers does otherwise than one without: what cannot be combined, and room on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management

if TYPE_CHECKING:
    from ...hierdiff_core.sampling.executor import Workers
    from ...hierdiff_core.sampling.store import Store


def check_workers(workers: Workers | None, store: Store | None, stops: bool) -> None:
    """Refuse, before anything is loaded, what is not done by workers.

    Parameters
    ----------
    workers : Workers or None
        None: all is drawn here.
    store : Store or None
        Where the run would keep what it evaluates.
    stops : bool
        Whether the run ends before its last step.

    Raises
    ------
    ValueError
        It names the input.
    """
    if workers is None:
        return
    if store is not None:
        raise ValueError("workers keep nothing for the next run: turn keep off, or disconnect workers")
    if stops:
        raise ValueError("workers draw all steps: set stop_after to 1, or disconnect workers")


def make_way(workers: Workers) -> None:
    """Let the host unload its models where workers will load theirs: each has a copy of its own."""
    if workers.address in ("", "auto"):
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
