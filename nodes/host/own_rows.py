"""Which clusters a call of the model may hold together, and what it gets for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from .cond_rows import APPLIES
from .partial_entries import applying
from .rows_alone import CLUSTERS, shapes_of, taken_cond

Sides = Sequence["list[dict] | None"]  # the conditioning entries of each side; None where there is none


def alike(sides: Sides, prompts: np.ndarray) -> list[list[int]]:
    """Clusters that a call may hold together.

    Parameters
    ----------
    sides : list of (list of dict, or None)
        Entries with a row for each of C clusters.
    prompts : (C,) int64
        Whose entries the clusters take.

    Returns
    -------
    groups : list of list of int
        Clusters with the same entries, and with conditioning that the host joins unchanged.
    """
    entries = [entry for side in sides for entry in side or ()]
    if not any(name in entry for entry in entries for name in (APPLIES, CLUSTERS)):
        return [list(range(len(prompts)))]
    groups = defaultdict(list)
    for c, prompt in enumerate(prompts.tolist()):
        whose = tuple(applying(side, prompt) for side in sides)
        shapes = tuple(shapes_of(entry[CLUSTERS][c]) for entry in entries if CLUSTERS in entry)
        groups[whose, shapes].append(c)
    return list(groups.values())


def rows_of_call(sides: Sides, x: torch.Tensor, t: torch.Tensor, rows: list[int], prompts: np.ndarray) -> tuple:
    """Conditioning, latents and sigmas of some of C clusters: a group of `alike`, or a part; some more than once."""
    count = len(prompts)
    own = [side and [entry for entry in side if applying([entry], int(prompts[rows[0]]))[0]] for side in sides]
    taken = [side and [taken_cond(entry, rows, count) for entry in side] for side in own]
    return (taken, x, t) if rows == list(range(count)) else (taken, x[rows], t[rows])
