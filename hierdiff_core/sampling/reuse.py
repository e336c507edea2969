"""A run on a store: what it has is taken from there, and only what it lacks is evaluated.

Legend: K steps of a plan, C clusters of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..devices import on_device
from .lineage import Lineage, content
from .observer import Observer
from .store import Store

if TYPE_CHECKING:
    from ..plan.part import Part


@dataclass(frozen=True)
class RowKeys:
    """What the rows of a run are stored by.

    Attributes
    ----------
    keys : K lists of C bytes
        Digest of each row, see `lineage`.
    branches : K lists of C bytes
        The branch that it belongs to: rows from one split to the next are given up together.
    """

    keys: list[list[bytes]]
    branches: list[list[bytes]]

    def missing(self, store: Store) -> np.ndarray:
        """How many rows of each step would have to be evaluated: (K,) int64; equal ones count once."""
        return np.array([len(store.missing(list(dict.fromkeys(keys)))) for keys in self.keys], dtype=np.int64)


def row_keys(part: Part, contents: Sequence[Sequence[bytes]], fingerprint: bytes) -> RowKeys:
    """What the rows of a whole plan are stored by.

    Parameters
    ----------
    part : Part
        `whole` of a plan.
    contents : K lists of C bytes
        What each cluster of each step is made of.
    fingerprint : bytes
        Of all that the branches have in common.

    Returns
    -------
    rows : RowKeys
    """
    lineage, keys, branches = Lineage(fingerprint), [], []
    for step, own in zip(part.steps, contents, strict=True):
        parents = step.parents if keys else None
        digests = lineage.advance(parents, own)
        children = np.bincount(step.parents)
        goes_on = [bool(keys) and children[parent] == 1 for parent in step.parents]
        above = [branches[-1][parent] if same else None for parent, same in zip(step.parents, goes_on, strict=True)]
        branches.append([digest if kept is None else kept for digest, kept in zip(digests, above, strict=True)])
        keys.append(digests)
    return RowKeys(keys, branches)


def means_in_digests(part: Part, k: int, leaves: Sequence[bytes]) -> list[bytes]:
    """What the mean of each cluster of a step is made of: the digests of its leaves, in no order.

    Parameters
    ----------
    part : Part
        `whole` of a plan.
    k : int
        Step.
    leaves : L bytes
        Digests of the embeddings.

    Returns
    -------
    digests : C bytes
    """
    made_of: list[list[bytes]] = [[] for _ in part.steps[k].counts]
    for leaf, cluster in zip(*part.means_of(k), strict=True):
        made_of[cluster].append(leaves[leaf])
    return [content(*sorted(own)) for own in made_of]


class StoredRows:
    """The rows of a run, from a store or from the model.

    Parameters
    ----------
    store : Store
        Gets what is evaluated.
    rows : RowKeys
        Of the run.
    observer : Observer, optional
        Hears of rows that were not evaluated.
    """

    def __init__(self, store: Store, rows: RowKeys, observer: Observer | None = None):
        self.store, self.rows, self.observer = store, rows, observer

    def begin(self, steps: int) -> int:
        """Keep what this run will ask for from being given up, and tell how many rows of each step are there.

        Parameters
        ----------
        steps : int
            That the run makes.

        Returns
        -------
        stored : int
            Rows of the run that need not be evaluated.
        """
        counts = np.zeros(len(self.rows.keys), dtype=np.int64)
        for k, keys in enumerate(self.rows.keys[:steps]):
            counts[k] = len(keys) - len(set(keys)) + self.store.reserve(list(dict.fromkeys(keys)))
        if self.observer is not None:
            self.observer.on_stored(counts)
        return int(counts.sum())

    def __call__(
        self, k: int, clusters: np.ndarray, device: torch.device, evaluate: Callable[[np.ndarray | None], torch.Tensor]
    ) -> torch.Tensor:
        """The rows of some clusters of a step.

        Parameters
        ----------
        k : int
            Step.
        clusters : (C,) int64 array
            Their labels in the plan's step.
        device : torch.device
            Where they are to be.
        evaluate : callable
            ``evaluate(places) -> (M, ...) tensor``: the model's rows at some of the C places, rising; at all if None.

        Returns
        -------
        (C, ...) tensor
            Of equal digests one row is evaluated.
        """
        keys = [self.rows.keys[k][c] for c in clusters.tolist()]
        held = {key: self.store.get(key) for key in dict.fromkeys(keys)}
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        new = sorted(first[key] for key, row in held.items() if row is None)
        if len(new) < len(keys) and self.observer is not None:
            self.observer.on_reused(len(keys) - len(new))
        if len(new) == len(keys):
            return self._put(k, clusters, keys, evaluate(None))
        fresh = self._put(k, clusters[new], [keys[i] for i in new], evaluate(np.array(new))) if new else None
        return self._together(keys, held, new, fresh, device)

    def _put(self, k: int, clusters: np.ndarray, keys: list[bytes], rows: torch.Tensor) -> torch.Tensor:
        self.store.put_rows(keys, rows, [self.rows.branches[k][c] for c in clusters.tolist()])
        return rows

    def _together(
        self,
        keys: list[bytes],
        held: dict[bytes, torch.Tensor | None],
        new: list[int],
        fresh: torch.Tensor | None,
        device: torch.device,
    ) -> torch.Tensor:
        """Rows of the store and of the model, in the order of the keys."""
        kept = {key: row for key, row in held.items() if row is not None}
        rows = [on_device(torch.stack(list(kept.values())), device)] if kept else []
        rows += [] if fresh is None else [fresh]
        place = {key: i for i, key in enumerate([*kept, *(keys[i] for i in new)])}
        return torch.cat(rows)[on_device(np.array([place[key] for key in keys]), device)]
