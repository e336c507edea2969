"""Hierarchical clustering of prompt embeddings: embeddings -> Z, then Z and a height -> flat clusters.

Legend: N prompts, D embedding width, Z linkage matrix in SciPy's layout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import fcluster, is_valid_linkage, linkage

from .leaves import leaf_numbers, with_equal_rows
from .linkage_process import tree_fits, tree_seconds, ward_tree

if TYPE_CHECKING:
    import torch

METRICS = ("cosine", "chord")

# Distances of unequal embeddings stay above zero: rounding must not merge two prompts into one leaf.
SMALLEST_DISTANCE = float(np.finfo(np.float64).eps)
# Squares of the largest number of an embedding, and their sum, must neither overflow nor lose digits.
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-140, 1e150
# With a GPU at hand, more prompts than these have their distances computed there, and more than those their tree:
# up to the first SciPy takes a fraction of a second, up to the second its tree is faster than one merge after the other
# on a GPU (docs/measurements/performance.md).
MOST_ON_CPU = 500
MOST_TREE_ON_CPU = 5000
# And with more than these, all pairs of nearest neighbours are merged at once: one after the other reads all centroids
# three times for each prompt.
MOST_IN_CHAIN = 50_000
DISTANCES_AT_ONCE = 5 << 28  # bytes, of `ward_torch_pairs.MOST_DISTANCES` and what is computed of them
# Floating-point operations a second of one core, for a rough estimate.
CORE_FLOPS = 1.5e10


def ward_linkage(
    positive: ArrayLike | torch.Tensor,
    metric: str = "cosine",
    device: Any = "cpu",
    check: Callable[[], Any] | None = None,
) -> np.ndarray:
    """Cluster embeddings with Ward linkage.

    Parameters
    ----------
    positive : (N, D) array or tensor
        One embedding a prompt, finite and not zero.
    metric : "cosine" or "chord"
        "cosine" is 1 - cos of the angle, as in the paper. "chord" is the Euclidean distance of the unit
        vectors, sqrt(2 * cosine), for which the sum of height**2 / 2 is the total within-cluster squared error; it
        comes closer to full sampling (docs/measurements/schedules.md), and the nodes and the command line take it by
        default.
    device : str or torch.device
        A CUDA device takes over large sets; with any other it is SciPy for every size that main memory holds.
    check : callable, optional
        Called many times while a large set is clustered; may raise to stop.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout; equal embeddings merge at height exactly 0 and weigh no more than one: the other
        merges are those of the set without duplicates.

    Raises
    ------
    ValueError
        If `metric` is unknown, an embedding is missing, not finite, zero or beyond `SMALLEST_NUMBER` and
        `LARGEST_NUMBER`, or the distances of "cosine" do not fit in the memory that is free.

    Notes
    -----
    Beyond `MOST_ON_CPU` prompts a GPU computes the distances, in float64; beyond `MOST_TREE_ON_CPU` it also finds the
    merges (`ward_torch`). Beyond `MOST_IN_CHAIN`, and where SciPy's distances do not fit in main memory, those of
    "chord" are found in pairs, in memory for the embeddings alone (`ward_torch_pairs`). Heights equal SciPy's but for
    rounding, and so does the tree where no distances tie.
    SciPy takes a process of its own where it takes long (`linkage_process`), with the same result.

    Ward's method assumes Euclidean distances. "cosine" is not one; the paper uses it all the same, and the
    heights still grow from merge to merge (tests/plan/test_linkage.py).

    Source: Decatur et al. 2025, Algorithm 1, lines 2-3.

    Examples
    --------
    >>> from hierdiff_core import ward_linkage
    >>> ward_linkage([[1, 0], [0.8, 0.6], [0, 1]]).round(3).tolist()
    [[0.0, 1.0, 0.2, 2.0], [2.0, 3.0, 0.872, 3.0]]
    """
    check_metric(metric)
    vectors = as_vectors(positive)
    if len(vectors) == 1:
        return np.empty((0, 4))
    leaf, first = leaf_numbers(vectors)
    if len(first) < len(vectors):
        return with_equal_rows(ward_linkage(vectors[first], metric, device, check), leaf)
    if in_pairs(len(vectors), vectors.shape[1], metric, device):
        from .ward_torch_pairs import ward_pairs  # here, since planning needs no torch

        return ward_pairs(vectors, SMALLEST_DISTANCE, device, check)
    if not str(device).startswith("cuda") or len(vectors) <= MOST_ON_CPU:
        return ward_tree(vectors, metric, SMALLEST_DISTANCE, check)
    from . import ward_torch

    if len(vectors) <= MOST_TREE_ON_CPU:
        return linkage(ward_torch.condensed_distances(vectors, metric, SMALLEST_DISTANCE, device), method="ward")
    return ward_torch.ward_chain(vectors, metric, SMALLEST_DISTANCE, device, check)


def in_pairs(num_prompts: int, width: int, metric: str, device: Any) -> bool:
    """Whether `ward_linkage` merges pairs: of many prompts, and where there is no room for their distances."""
    if metric != "chord":
        return False
    return num_prompts > MOST_IN_CHAIN if str(device).startswith("cuda") else not tree_fits(num_prompts, width)


def linkage_bytes(num_prompts: int, width: int, metric: str, device: Any) -> int:
    """Bytes of a device's memory that `ward_linkage` takes at most; 0 where SciPy does all the work.

    For embeddings of `width` numbers. A little more than was measured (docs/measurements/performance.md).
    """
    if not str(device).startswith("cuda") or num_prompts <= MOST_ON_CPU:
        return 0
    libraries = 64 * 2**20
    if num_prompts <= MOST_TREE_ON_CPU:
        return 24 * num_prompts**2 + libraries
    if in_pairs(num_prompts, width, metric, device):
        return 32 * num_prompts * width + DISTANCES_AT_ONCE + libraries
    return (9 * num_prompts**2 if metric == "cosine" else 64 * num_prompts * width) + libraries


def linkage_seconds(num_prompts: int, width: int, metric: str, device: Any) -> float:
    """About how long `ward_linkage` takes where a CPU does all the work, in seconds; 0 where a GPU does."""
    if str(device).startswith("cuda") and num_prompts > MOST_ON_CPU:
        return 0.0
    if in_pairs(num_prompts, width, metric, device):
        return 6 * width * num_prompts**2 / (CORE_FLOPS * (os.cpu_count() or 1))
    return tree_seconds(num_prompts, width, metric)


def flat_clusters(Z: ArrayLike, t: float) -> np.ndarray:
    """Cut a linkage matrix into flat clusters at height `t`.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout.
    t : float >= 0
        Height, in Z's own metric.

    Returns
    -------
    labels : (N,) int64
        0-based, contiguous, one for each prompt in order; numbered as SciPy's `fcluster` does.

    Raises
    ------
    ValueError
        If `t` is negative or not a number, or `Z` is not a valid linkage.

    Notes
    -----
    Source: Decatur et al. 2025, Algorithm 1, lines 4-10.

    Examples
    --------
    >>> from hierdiff_core import flat_clusters
    >>> flat_clusters([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], 0.3).tolist()
    [0, 0, 1]
    """
    if not t >= 0:
        raise ValueError(f"t must be a height >= 0; got {t}")
    return cut(check_linkage(Z), t)


def cut(Z: np.ndarray, t: float) -> np.ndarray:
    """`flat_clusters` of a linkage matrix and a height that were checked."""
    if len(Z) == 0:
        return np.zeros(1, dtype=np.int64)
    return fcluster(Z, t, criterion="distance").astype(np.int64) - 1


def merge_errors(Z: ArrayLike, positive: ArrayLike | torch.Tensor) -> np.ndarray:
    """How much each merge adds to the squared error of sharing.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix.
    positive : (N, D) array or tensor
        The embeddings.

    Returns
    -------
    errors : (N-1,) float64
        Increase of the sum of squared distances of the unit vectors from their clusters' means, equal embeddings
        counted once; for "chord" this is height**2 / 2.

    Notes
    -----
    Source: Ward 1963.

    Examples
    --------
    >>> from hierdiff_core import merge_errors, ward_linkage
    >>> rows = [[1, 0], [0.8, 0.6], [0, 1]]
    >>> merge_errors(ward_linkage(rows, "chord"), rows).round(3).tolist()
    [0.2, 0.867]
    """
    Z = check_linkage(Z)
    vectors = unit_rows(as_vectors(positive))
    means, counts, slots = vectors, [1.0] * len(vectors), list(range(len(vectors)))  # slots: row of each node's mean
    errors = np.empty(len(Z))
    for j, (a, b, height, _) in enumerate(Z.tolist()):
        a, b = slots[int(a)], slots[int(b)]
        slots.append(a)
        if height == 0:  # a duplicate
            errors[j] = 0
            continue
        total = counts[a] + counts[b]
        errors[j] = counts[a] * counts[b] / total * np.square(means[a] - means[b]).sum()
        means[a], counts[a] = (counts[a] * means[a] + counts[b] * means[b]) / total, total
    return errors


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check_metric(metric: str | None) -> None:
    """`ValueError` for a metric that is none of `METRICS`."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")


def check_linkage(Z: ArrayLike) -> np.ndarray:
    """Return `Z` as a float64 array, or raise `ValueError` when it is not a monotone SciPy linkage matrix."""
    Z = np.asarray(Z, dtype=np.float64)
    if Z.ndim != 2 or Z.shape[1] != 4:
        raise ValueError(f"Z must be a linkage matrix of shape (N-1, 4); got shape {Z.shape}")
    if not np.isfinite(Z).all():
        raise ValueError("Z must be finite; it holds NaN or infinity")
    if len(Z) == 1 and (set(Z[0, :2]) != {0, 1} or Z[0, 2] < 0):  # some versions of SciPy pass any single row
        raise ValueError(f"Z of two prompts must merge 0 and 1 at a height >= 0; got {Z[0].tolist()}")
    if len(Z):
        is_valid_linkage(Z, throw=True, name="Z")
        if (np.diff(Z[:, 2]) < 0).any():
            raise ValueError("Z must have heights that do not decrease; sort the merges or use ward_linkage")
    return Z


def as_vectors(rows: Any, name: str = "positive") -> np.ndarray:
    """(N, D) float64, every row finite and longer than 0; `ValueError` names the argument."""
    if hasattr(rows, "detach"):
        rows = rows.detach().float().cpu().numpy()
    vectors = np.asarray(rows, dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[0] == 0 or vectors.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, D) with N >= 1; got {vectors.shape}")
    which = "embedding" if name == "positive" else f"{name}: embedding"
    finite, filled = np.all(np.isfinite(vectors), axis=1), np.any(vectors != 0, axis=1)
    for i in np.flatnonzero(np.logical_not(finite & filled))[:1]:
        if finite[i]:
            raise ValueError(f"{which} {i} is zero and has no direction to compare; reword or drop that prompt")
        raise ValueError(f"{which} {i} holds NaN or infinity; embed that prompt again, in a wider precision")
    largest = np.abs(vectors).max(axis=1)
    for i in np.flatnonzero((largest < SMALLEST_NUMBER) | (largest > LARGEST_NUMBER))[:1]:
        raise ValueError(
            f"the largest number of {which} {i} is {largest[i]:.3g}; distances can be computed where it is "
            f"{SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g}: scale the embeddings, only their directions count"
        )
    return vectors
