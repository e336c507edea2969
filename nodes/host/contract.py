"""What other packs can read of a run while the model is evaluated: plain values in `transformer_options`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...hierdiff_core.plan.keys import hashed
from .clusters import CurrentClusters

KEY = "hierdiff"
VERSION = 1
# AnimateDiff's name for the rows of a call; IPAdapter and Advanced-ControlNet pick their pictures and masks by it.
WINDOW_KEY = "ad_params"


class Contract:
    """Tells, for every evaluation of the model, which prompts its rows are for.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.

    Attributes
    ----------
    tells_window : bool
        Whether the rows are told under AnimateDiff's name too. Packs that heed it then take the data of these rows from
        theirs, at each call anew; the guard finds out whether it is needed.
    unheard : bool
        Whether nothing is told, since nobody is there to read it.
    """

    def __init__(self, current: CurrentClusters):
        self.current = current
        self.tells_window = False
        self.unheard = False

    def evaluation(self, rows: list[int], model_options: dict) -> contextlib.AbstractContextManager:
        """A context: an evaluation of some of the current clusters is told of in these options."""
        if self.unheard:
            return contextlib.nullcontext()
        window = None
        if self.tells_window:
            window = window_of(self.current.clusters.first[rows].tolist(), self.current.plan.num_prompts)
        return told(model_options, self.of(rows), window)

    def of(self, rows: list[int]) -> dict:
        """The values for an evaluation of some of the current clusters; docs/for-other-packs.md says what they mean."""
        current = self.current
        return {
            "version": VERSION,
            "prompts": current.plan.num_prompts,
            "step": current.k,
            "rows": current.clusters.first[rows].tolist(),
            "members": [current.members[c] for c in rows],
            "keys": [key_of(current.keys[c], current.seeds[c]) for c in rows],
            "clusters": rows,
            "parents": rows if current.parents is None else current.parents[rows].tolist(),
            "split": current.parents is not None,
            "guard": False,
        }


def key_of(key: int, seed: int | None) -> int:
    """What a branch is known by to other packs: equal prompts of other seeds are other branches."""
    return key if seed is None else hashed(f"{seed} {key}".encode()) >> 1


def window_of(rows: list[int], num_prompts: int) -> dict:
    """The values that AnimateDiff tells of a window over the batch."""
    return {"sub_idxs": rows, "full_length": num_prompts, "context_length": len(rows)}


@contextlib.contextmanager
def told(model_options: dict, values: dict, window: dict | None = None) -> Iterator[None]:
    """A context: options tell other packs something; afterwards they are as they were.

    Parameters
    ----------
    model_options : dict
        Of a call; changed in place, as those who look may have no other.
    values : dict
        For `KEY`.
    window : dict or None
        For `WINDOW_KEY`, unless somebody else has set it.
    """
    options = model_options.setdefault("transformer_options", {})
    added = {KEY: values}
    if window is not None and WINDOW_KEY not in options:
        added[WINDOW_KEY] = window
    with replaced(options, added):
        yield


@contextlib.contextmanager
def replaced(options: dict, values: dict) -> Iterator[None]:
    """A context: a dict has other values for some keys, in place; afterwards it is as it was."""
    before = {key: options[key] for key in values if key in options}
    options.update(values)
    try:
        yield
    finally:
        for key in values:
            options.pop(key, None)
        options.update(before)
