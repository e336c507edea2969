"""Ward linkage with torch, for sets that SciPy's distance matrix is too slow or too large for.

Legend: N prompts, D embedding width, Z linkage matrix in SciPy's layout. A *slot* stands for a cluster: one of N
places, of which a merge frees the lower and keeps the higher, as SciPy does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..devices import free_memory

INFINITY = float("inf")
# Rows of the distance matrix that are computed at once.
BLOCK = 1024


def ward_chain(
    vectors: np.ndarray, metric: str, smallest: float, device: Any, check: Callable[[], Any] | None = None
) -> np.ndarray:
    """Ward linkage by the nearest-neighbour chain: exact, N merges after about 3 N searches for a nearest neighbour.

    Parameters
    ----------
    vectors : (N, D) float64 array
        N >= 2, every row finite and not zero.
    metric : "cosine" or "chord"
        "chord" keeps centroids, O(N D) memory; "cosine" keeps all distances, O(N^2).
    smallest : float
        Distances of unequal rows are raised to it.
    device : torch.device
        Where distances are computed, in float64.
    check : callable, optional
        Called after every merge; may raise to stop.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout; equal rows merge at height exactly 0.

    Raises
    ------
    ValueError
        If the distances of "cosine" do not fit in the device's memory.

    Notes
    -----
    Ward's method is reducible: two clusters that are each other's nearest neighbours stay so whatever else merges, so
    the order of the merges is free. Where distances tie, the choice is SciPy's: the first slot, but the chain's last
    link before others (tests/plan/test_ward.py compares them).

    Source: Murtagh 1983; Müllner 2011, section 3.2.
    """
    device = torch.device(device)
    if metric == "chord":
        clusters = Centroids(vectors, smallest, device)
    else:
        check_matrix_fits(len(vectors), device)
        clusters = DistanceMatrix(pairwise_distances(vectors, metric, smallest, device))
    merges = []
    for merge in chain_merges(clusters):
        merges.append(merge)
        if check is not None:
            check()
    return to_linkage_matrix(np.array(merges))


def equal_groups(vectors: np.ndarray) -> np.ndarray:
    """The first row that each row is equal to: (N,) int64."""
    first = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(vectors + 0.0)])  # -0.0 becomes 0.0


def chain_merges(clusters: Centroids | DistanceMatrix) -> Iterator[tuple[int, int, float]]:
    """Yield (slot, slot, height) of each merge, in the order in which the chain finds them.

    Parameters
    ----------
    clusters : Centroids or DistanceMatrix
        What is clustered; its merges are made as they are found.

    Yields
    ------
    low, high : int
        Slots.
    height : float
        At which they merge.
    """
    chain, first = [], 0  # chain: (slot, distance from the one before)
    free = np.zeros(len(clusters.sizes), dtype=bool)
    for _ in range(len(free) - 1):
        if not chain:
            while free[first]:
                first += 1
            chain = [(first, INFINITY)]
        while True:
            found, distance = clusters.nearest(chain[-1][0])
            # At a tie the way back goes first, as in SciPy. Distances along a chain fall, so it cannot run in circles;
            # by rounding the same one may be shorter on the way back.
            if len(chain) > 1 and (distance >= chain[-1][1] or found == chain[-2][0]):
                break
            chain.append((found, distance))
        (last, height), (before, _) = chain.pop(), chain.pop()
        low, high = min(last, before), max(last, before)
        free[low] = True
        clusters.merge(low, high, height)
        yield low, high, height


class Centroids:
    """Clusters as centroids of unit vectors: Ward's distance of Euclidean points, in O(N D) memory.

    Parameters
    ----------
    vectors, smallest, device : array, float, torch.device
        As in `ward_chain`.
    """

    def __init__(self, vectors: np.ndarray, smallest: float, device: torch.device):
        self.rows = unit_rows(vectors, device)
        self.squares = self.rows.square().sum(dim=1)
        self.row_sizes = torch.ones_like(self.squares)
        self.smallest = smallest
        self.sizes = np.ones(len(vectors))  # of each slot; 0 once it is free
        self.slots = np.arange(len(vectors))  # of each row
        self.places = np.arange(len(vectors))  # row of each slot
        self.left = len(vectors)
        self.groups = equal_groups(vectors)  # of each slot; clusters of unequal rows have groups of their own
        self.some_equal = len(np.unique(self.groups)) < self.left
        self.row_groups = torch.as_tensor(self.groups, device=device)

    def nearest(self, slot: int) -> tuple[int, float]:
        """Slot and distance of the nearest other cluster, the first of several."""
        at = int(self.places[slot])
        squared = torch.addmv(self.squares, self.rows, self.rows[at], alpha=-2) + self.squares[at]
        weights = self.row_sizes * (2 * self.sizes[slot]) / (self.row_sizes + self.sizes[slot])
        squared = (squared * weights).clamp_(min=self.smallest**2)
        if self.some_equal:
            squared.masked_fill_(self.row_groups == self.groups[slot], 0)
        squared.masked_fill_(self.row_sizes == 0, INFINITY)
        squared[at] = INFINITY
        place, value = first_minimum(squared)
        return int(self.slots[place]), value**0.5

    def merge(self, low: int, high: int, height: float) -> None:
        """Merge slot `low` into slot `high`."""
        a, b = int(self.places[low]), int(self.places[high])
        total = self.sizes[low] + self.sizes[high]
        if height > 0:
            self.rows[b] = self.rows[a] * (self.sizes[low] / total) + self.rows[b] * (self.sizes[high] / total)
            self.squares[b] = self.rows[b].square().sum()
            self.row_groups[b] = self.groups[high] = -1 - high
        self.sizes[low], self.sizes[high] = 0, total
        self.row_sizes[a], self.row_sizes[b] = 0, float(total)
        self.left -= 1
        if 2 * self.left < len(self.slots):
            self.close_gaps()

    def close_gaps(self) -> None:
        """Forget the rows of slots that are free."""
        kept = np.flatnonzero(self.sizes[self.slots] > 0)
        index = torch.as_tensor(kept, device=self.rows.device)
        for name in ("rows", "squares", "row_sizes", "row_groups"):
            setattr(self, name, getattr(self, name)[index])
        self.slots = self.slots[kept]
        self.places[self.slots] = np.arange(len(kept))


class DistanceMatrix:
    """Clusters as a matrix of distances, updated by Lance and Williams' formula: any distance, O(N^2) memory.

    Parameters
    ----------
    distances : (N, N) float64 tensor
        Symmetric; taken over and changed.
    """

    def __init__(self, distances: torch.Tensor):
        self.distances = distances.fill_diagonal_(INFINITY)
        self.sizes = np.ones(len(distances))  # of each slot; 0 once it is free
        self.row_sizes = torch.ones_like(distances[0])

    def nearest(self, slot: int) -> tuple[int, float]:
        """Slot and distance of the nearest other cluster, the first of several."""
        return first_minimum(self.distances[slot])

    def merge(self, low: int, high: int, height: float) -> None:
        """Merge slot `low` into slot `high`."""
        n, m = self.sizes[low], self.sizes[high]
        share = 1 / (n + m + self.row_sizes)  # in the order of SciPy's operations, so that ties stay ties
        squared = (self.row_sizes + n) * share * self.distances[low] * self.distances[low]
        squared += (self.row_sizes + m) * share * self.distances[high] * self.distances[high]
        squared -= self.row_sizes * share * height * height
        merged = exact_sqrt(squared)
        self.distances[high] = merged
        self.distances[:, high] = merged
        self.distances[high, high] = INFINITY
        self.distances[:, low] = INFINITY
        self.sizes[low], self.sizes[high] = 0, n + m
        self.row_sizes[low], self.row_sizes[high] = 0, float(n + m)


def check_matrix_fits(rows: int, device: torch.device) -> None:
    """`ValueError` if a device's free memory does not hold a matrix of distances."""
    if device.type == "cuda" and 1.1 * 8 * rows**2 > free_memory(device):
        raise ValueError(
            f"{rows} embeddings have {8 * rows**2 / 2**30:.0f} GiB of cosine distances, more than fit on "
            f"{device}; use metric chord, which needs no matrix"
        )


def unit_rows(vectors: np.ndarray, device: torch.device) -> torch.Tensor:
    """The vectors at length 1: (N, D) float64."""
    rows = torch.as_tensor(vectors, dtype=torch.float64, device=device)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def pairwise_distances(vectors: np.ndarray, metric: str, smallest: float, device: torch.device) -> torch.Tensor:
    """All distances, (N, N) float64, exactly symmetric: 0 for equal rows, else at least `smallest`."""
    groups = torch.as_tensor(equal_groups(vectors), device=device)
    unit = unit_rows(vectors, device)[groups]
    distances = torch.empty(len(unit), len(unit), dtype=unit.dtype, device=device)
    for start in range(0, len(unit), BLOCK):
        rows, stop = slice(start, start + BLOCK), min(start + BLOCK, len(unit))
        block = 1 - unit[rows] @ unit[:stop].T
        block = block if metric == "cosine" else exact_sqrt(block.mul_(2).clamp_(min=0))
        block = block.clamp_(min=smallest).masked_fill_(groups[rows, None] == groups[:stop], 0)
        distances[rows, :stop] = block
        distances[:stop, rows] = block.T
        square = block[:, start:].tril()
        distances[rows, rows] = square + square.tril(-1).T
    return distances


def condensed_distances(vectors: np.ndarray, metric: str, smallest: float, device: Any) -> np.ndarray:
    """The `pairwise_distances` in SciPy's order: (N(N-1)/2,) float64."""
    distances = pairwise_distances(vectors, metric, smallest, torch.device(device))
    rows, columns = torch.triu_indices(len(distances), len(distances), 1, device=distances.device)
    return distances[rows, columns].cpu().numpy()


def exact_sqrt(values: torch.Tensor) -> torch.Tensor:
    """Square root, right to the last bit: torch's on a CPU is not, and ties would be lost."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def first_minimum(values: torch.Tensor) -> tuple[int, float]:
    """Place and value of the least of a vector, in one transfer from the device."""
    value, place = values.min(dim=0)
    value, place = torch.stack([value, place.to(value.dtype)]).tolist()
    return int(place), value


def to_linkage_matrix(merges: np.ndarray) -> np.ndarray:
    """Bring merges of slots in any order into SciPy's layout.

    Parameters
    ----------
    merges : (N-1, 3) float array
        Rows: two slots, height; a slot stands for whatever it was merged with before.

    Returns
    -------
    Z : (N-1, 4) float64
        Heights ascending, merges of one height in their order.
    """
    merges = merges[np.argsort(merges[:, 2], kind="stable")]
    num_leaves = len(merges) + 1
    parent = np.arange(num_leaves)  # of leaves in a forest
    node, size = np.arange(num_leaves), np.ones(num_leaves)  # of each root
    Z = np.empty((num_leaves - 1, 4))
    for j, (x, y, height) in enumerate(merges):
        a, b = root_of(parent, int(x)), root_of(parent, int(y))
        total = size[a] + size[b]
        Z[j] = min(node[a], node[b]), max(node[a], node[b]), height, total
        parent[a] = b
        node[b], size[b] = num_leaves + j, total
    return Z


def root_of(parent: np.ndarray, leaf: int) -> int:
    """The root above a leaf of a forest; the way to it is made short."""
    root = leaf
    while parent[root] != root:
        root = parent[root]
    while parent[leaf] != root:
        parent[leaf], leaf = root, parent[leaf]
    return root
