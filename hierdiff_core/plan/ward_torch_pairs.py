"""Ward linkage with torch in a few dozen passes over the set, for sets whose distances fit nowhere.

All clusters that are each other's nearest neighbours are merged at once, so that a search is a matrix product and not
one of 3 N products with a vector. Legend: N prompts, D embedding width, S rows of clusters that are kept, Z linkage
matrix in SciPy's layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .ward_torch import INFINITY, to_linkage_matrix, unit_rows

# Distances that are in memory at once, and rows that a search takes at least, since fewer are not faster.
MOST_DISTANCES, LEAST_SEARCHED = 1 << 25, 64
# Rows that are searched again for each merge of the last round: more than there are, unless many distances tie.
SEARCHED_PER_MERGE = 8


def ward_pairs(vectors: np.ndarray, smallest: float, device: Any, check: Callable[[], Any] | None = None) -> np.ndarray:
    """Ward linkage of unit vectors by pairs of nearest neighbours: exact, in O(N D) memory.

    Parameters
    ----------
    vectors : (N, D) float64 array
        N >= 2, every row finite and not zero, no two equal; their directions are clustered by metric "chord".
    smallest : float
        Distances are raised to it.
    device : torch.device
        Where distances are computed, in float64.
    check : callable, optional
        Called at least after every `MOST_DISTANCES` distances; may raise to stop.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout.

    Notes
    -----
    Ward's method is reducible: two clusters that are each other's nearest neighbours stay so whatever else merges, and
    no merge brings two clusters nearer to a third. So the order of the merges is free, and a nearest neighbour has to
    be searched again only once it was merged itself; the distance to it is a lower bound until then. The tree is that
    of `ward_chain` where no distances tie; where some do, it is one that merges a nearest pair each time
    (tests/plan/test_ward_pairs.py checks every merge).

    Source: Bruynooghe 1978; Murtagh 1983.
    """
    rows = unit_rows(vectors, torch.device(device))
    return to_linkage_matrix(pair_merges(rows, torch.ones_like(rows[:, 0]), smallest, check))


def weighted_merges(centroids: np.ndarray, sizes: np.ndarray, smallest: float) -> np.ndarray:
    """Merges of Ward's method that begins with clusters of several rows each, on the CPU.

    Parameters
    ----------
    centroids : (G, D) float64 array
        Means of their rows.
    sizes : (G,) array
        Rows of each.
    smallest : float
        Distances are raised to it.

    Returns
    -------
    merges : (G-1, 3) float64
        As `to_linkage_matrix` takes them.
    """
    rows = torch.tensor(np.asarray(centroids, dtype=np.float64))
    return pair_merges(rows, torch.tensor(np.asarray(sizes, dtype=np.float64)), smallest, None)


def pair_merges(
    rows: torch.Tensor, sizes: torch.Tensor, smallest: float, check: Callable[[], Any] | None
) -> np.ndarray:
    """(N-1, 3) float64: slot, slot and height of each merge; those of one round lie side by side."""
    clusters = Clusters(rows, sizes, smallest, check or (lambda: None))
    merges, merged = [], len(rows)
    while clusters.left > 1:
        clusters.search_again(max(LEAST_SEARCHED, SEARCHED_PER_MERGE * merged))
        merges.append(clusters.merge_pairs())
        merged = len(merges[-1])
    return np.concatenate([np.empty((0, 3)), *merges])


class Clusters:
    """Centroids, their nearest neighbours, and how much is known of these.

    Parameters
    ----------
    rows : (S, D) float64 tensor
        Centroids; taken over and changed.
    sizes : (S,) float64 tensor
        Vectors of each.
    smallest : float
        Least distance.
    check : callable
        Called before each block of distances.
    """

    def __init__(self, rows: torch.Tensor, sizes: torch.Tensor, smallest: float, check: Callable[[], Any]):
        self.rows, self.sizes, self.smallest, self.check = rows, sizes.clone(), smallest, check
        self.squares = rows.square().sum(dim=1)
        self.slots = torch.arange(len(rows), device=rows.device)
        self.beyond = torch.zeros_like(self.squares)  # infinite once a row was merged into another
        self.nearest = torch.zeros_like(self.slots)  # row of each one's nearest neighbour
        self.squared = torch.zeros_like(self.squares)  # distance to it, squared; of stale ones a lower bound
        self.stale = torch.ones_like(self.slots, dtype=torch.bool)
        self.left = len(rows)

    def search_again(self, most: int) -> None:
        """Search for unknown neighbours: of `most` rows with the least bounds, and on until a pair is there."""
        while True:
            places = torch.nonzero(self.stale).reshape(-1)
            if len(places) > most:
                places = places[torch.topk(self.squared[places], most, largest=False, sorted=False).indices]
            for block in places.split(max(MOST_DISTANCES // len(self.rows), 1)):
                self.check()
                self.search(block)
            if len(places) < most or len(self.pairs()):
                return
            most *= 2

    def search(self, places: torch.Tensor) -> None:
        """Find the nearest neighbours of some rows."""
        squared = torch.addmm(self.squares, self.rows[places], self.rows.T, alpha=-2)
        squared += self.squares[places, None]
        own = self.sizes[places, None]
        weights = own + self.sizes
        squared *= torch.div(self.sizes, weights, out=weights).mul_(2 * own)
        squared.clamp_(min=self.smallest**2)
        squared += self.beyond
        squared[torch.arange(len(places), device=places.device), places] = INFINITY
        self.squared[places], self.nearest[places] = squared.min(dim=1)
        self.stale[places] = False

    def pairs(self) -> torch.Tensor:
        """The lower rows of clusters that are each other's nearest neighbours."""
        here = torch.arange(len(self.rows), device=self.rows.device)
        mutual = (self.nearest[self.nearest] == here) & (here < self.nearest)
        return torch.nonzero(mutual & ~self.stale & ~self.stale[self.nearest] & (self.beyond == 0)).reshape(-1)

    def merge_pairs(self) -> np.ndarray:
        """Merge all pairs that are known: (P, 3) float64, slot, slot and height of each."""
        low = self.pairs()
        if not len(low):  # where distances tie, rounding may leave a circle: any nearest pair will do
            low = torch.argmin(torch.where(self.stale, INFINITY, self.squared + self.beyond)).reshape(1)
        high = self.nearest[low]
        n, m = self.sizes[low], self.sizes[high]
        apart = (self.rows[low] - self.rows[high]).square().sum(dim=1)
        squared = (apart * 2 * n * m / (n + m)).clamp_(min=self.smallest**2)
        merges = torch.stack([self.slots[low].double(), self.slots[high].double(), squared.sqrt()], dim=1)
        share = (n / (n + m))[:, None]
        self.rows[high] = self.rows[low] * share + self.rows[high] * (1 - share)
        self.squares[high], self.sizes[high] = self.rows[high].square().sum(dim=1), n + m
        self.forget(low, high, squared)
        return merges.cpu().numpy()

    def forget(self, low: torch.Tensor, high: torch.Tensor, squared: torch.Tensor) -> None:
        """Mark whose neighbours are gone after merges at some heights, and drop rows of clusters that are."""
        changed = torch.zeros_like(self.stale)
        changed[low] = changed[high] = True
        self.stale |= changed | changed[self.nearest]
        self.squared[high] = squared
        self.stale[low], self.beyond[low], self.nearest[low] = False, INFINITY, low
        self.left -= len(low)
        if self.left < 0.75 * len(self.rows):
            self.close_gaps()

    def close_gaps(self) -> None:
        """Forget the rows that were merged into others."""
        kept = self.beyond == 0
        self.nearest = (torch.cumsum(kept, dim=0) - 1)[self.nearest].clamp_(min=0)
        for name in ("rows", "sizes", "squares", "slots", "beyond", "nearest", "squared", "stale"):
            setattr(self, name, getattr(self, name)[kept])
