"""Ward linkage by SciPy, as a module and as a program of its own.

Imports no other file of this package: `linkage_process` runs it by its path, and must not wait for torch. As a program
it reads an array of vectors from its standard input and writes the tree to its standard output, both in numpy's format.
"""

import sys

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist


def ward_tree(vectors: np.ndarray, metric: str, smallest: float) -> np.ndarray:
    """Ward linkage.

    Parameters
    ----------
    vectors : (N, D) float64 array
        N >= 2, every row finite and not zero.
    metric : "cosine" or "chord"
        See `linkage.ward_linkage`.
    smallest : float
        Distances of unequal rows are raised to it.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout; equal rows merge at height exactly 0.
    """
    return linkage(condensed_distances(vectors, metric, smallest), method="ward")


def condensed_distances(vectors: np.ndarray, metric: str, smallest: float) -> np.ndarray:
    """Distances of all pairs, (N(N-1)/2,) float64: exactly 0 for equal rows and only for them."""
    if metric == "cosine":
        condensed = pdist(vectors, "cosine")
    else:
        condensed = pdist(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "euclidean")
    np.maximum(condensed, smallest, out=condensed)  # in place: of 20,000 rows they take 1.5 GiB
    _, group, sizes = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    group, count = group.reshape(-1), len(vectors)
    for number in np.flatnonzero(sizes > 1):
        members = np.flatnonzero(group == number)
        for i, later in enumerate(members[:-1], start=1):
            condensed[count * later - later * (later + 1) // 2 + members[i:] - later - 1] = 0
    return condensed


if __name__ == "__main__":
    given = np.lib.format.read_array(sys.stdin.buffer, allow_pickle=False)
    np.lib.format.write_array(sys.stdout.buffer, ward_tree(given, sys.argv[1], float(sys.argv[2])))
