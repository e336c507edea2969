"""Rows of a call on several devices, where the host has clones of the model there (its MultiGPU CFG Split).

The host gives whole conditionings to the devices: where there are more of these than conditionings, some have nothing
to do. So the rows are divided first, and each part goes to some of the devices by the host's own function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

CLONES, POOL = "multigpu_clones", "multigpu_thread_pool"  # in the options of a run, on hosts that have them


class PartOfRows(NamedTuple):
    """Rows that are evaluated together.

    rows : list of int
    options : dict   the run's, with the devices of this part alone
    """

    rows: list[int]
    options: dict[str, Any]


def dealt(options: dict[str, Any], rows: Sequence[int], entries: int) -> list[PartOfRows]:
    """Divide the rows of a call among the devices of a run.

    Parameters
    ----------
    options : dict
        Of the run.
    rows : sequence of int
        Of the call.
    entries : int
        Conditionings of each row, which the host divides by itself.

    Returns
    -------
    parts : list of PartOfRows
        One with all rows where the host keeps all devices busy, or has no clones.
    """
    clones = options.get(CLONES)
    count = len(clones) if isinstance(clones, dict) and options.get(POOL) is not None else 1
    groups = min(count, len(rows))
    if groups < 2 or entries >= count:
        return [PartOfRows(list(rows), options)]
    devices = np.array_split(np.arange(count), groups)
    names, inner = list(clones or ()), options.get("transformer_options", {})
    own = [{CLONES: {names[i]: (clones or {})[names[i]] for i in part}} for part in devices]
    return [
        PartOfRows(part.tolist(), {**options, "transformer_options": dict(inner), **only})
        for part, only in zip(np.array_split(np.array(rows), groups), own, strict=True)
    ]


def evaluated(parts: Sequence[PartOfRows], call: Callable[[PartOfRows], torch.Tensor]) -> torch.Tensor:
    """The rows of all parts, in their order; parts at the same time, each in a thread that waits for its devices."""
    if len(parts) == 1:
        return call(parts[0])
    inference = torch.is_inference_mode_enabled()  # threads do not inherit it

    def work(part: PartOfRows) -> torch.Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return call(part)

    with ThreadPoolExecutor(len(parts), "HierDiff rows") as threads:
        return torch.cat(list(threads.map(work, parts)))
