"""What a step cache of the host keeps by row, a state for each call of the model: it follows the branches.

The host's EasyCache decides for all rows of a call at once whether to skip it, and keeps what the call gave. Here each
micro-batch has a state of its own, so that a skip is decided for its rows alone. Where clusters split, or where rows
come together in other calls than before, states are gathered from those that the rows had.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


class Place(NamedTuple):
    """Where a cluster's rows of a cache are.

    state : object   a copy of the host's holder
    rows : int       of the state
    row : int        the cluster's
    split : bool     whether the cluster has split since: what is kept was made under another conditioning
    """

    state: Any
    rows: int
    row: int
    split: bool


class RowStates:
    """The states of one of the host's caches, for the clusters of a run.

    Parameters
    ----------
    holder : object
        The host's, prepared for the run; it stays as it is.
    num_clusters : int
        To begin with.
    """

    def __init__(self, holder: object, num_clusters: int):
        self.places = [Place(holder, 1, 0, False)] * num_clusters

    def follow(self, rows: np.ndarray) -> None:
        """Clusters have split: `rows` (C,) are the rows that the new ones had before."""
        split = np.bincount(rows)[rows] > 1
        before = self.places
        self.places = [before[r]._replace(split=before[r].split or bool(s)) for r, s in zip(rows, split, strict=True)]

    @contextlib.contextmanager
    def of_call(self, rows: Sequence[int]) -> Iterator[Any]:
        """The state for a call with some clusters, in a context that keeps what becomes of it unless the call fails.

        It cannot be skipped if a cluster has split since, or if the clusters were in different calls before.
        """
        state, whole = self._gathered([self.places[c] for c in rows])
        if not whole:
            state.cumulative_change_rate = math.inf
        state.skip_current_step = False
        yield state
        if not whole and isinstance(state.cumulative_change_rate, float) and math.isinf(state.cumulative_change_rate):
            state.cumulative_change_rate = 0.0  # nobody asked: the call was in a part of the run that is never skipped
        for i, c in enumerate(rows):
            self.places[c] = Place(state, len(rows), i, False)

    def _gathered(self, places):
        """A new state with the rows of some places, and whether it may decide to skip."""
        parts = [list(part) for _, part in itertools.groupby(places, key=lambda place: id(place.state))]
        states = [taken(part[0].state, [place.row for place in part], part[0].rows) for part in parts]
        whole = len(parts) == 1 and not any(place.split for place in places)
        return states[0] if len(states) == 1 else joined(states), whole


def taken(holder: Any, rows: Sequence[int], num_rows: int) -> Any:
    """A copy of a holder with some of its rows.

    Parameters
    ----------
    holder : object
        Whatever of its attributes is a tensor with `num_rows` rows, or a dict of such, has a row for each of its
        clusters. All else is copied as it is: numbers on a device too, since the host adds to them in place.
    rows : sequence of int
    num_rows : int

    Returns
    -------
    taken : object
    """
    whole = list(rows) == list(range(num_rows))

    def of(value):
        if isinstance(value, dict):
            return {key: of(item) for key, item in value.items()}
        if isinstance(value, list):
            return list(value)
        if not torch.is_tensor(value):
            return value
        if value.ndim == 0:
            return value.clone()
        return value if whole or len(value) != num_rows else value[list(rows)]

    made = copy.copy(holder)
    vars(made).update({name: of(value) for name, value in vars(holder).items()})
    return made


def joined(holders: Sequence[Any]) -> Any:
    """A holder with the rows of several, one after the other; of all else the first one's."""

    def of(values):
        if isinstance(values[0], dict):
            return {key: of([v[key] for v in values]) for key in values[0] if all(key in v for v in values)}
        return torch.cat(values) if torch.is_tensor(values[0]) and values[0].ndim else values[0]

    made = copy.copy(holders[0])
    vars(made).update({name: of([vars(holder)[name] for holder in holders]) for name in vars(made)})
    return made
