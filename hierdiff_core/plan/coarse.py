"""Clustering by two levels: coarse groups of near embeddings, exact inside, joined by exact Ward of their means.

For sets whose exact tree takes too long where they are clustered. What it costs in sharing is in
docs/measurements/scale.md. Legend: N prompts, D embedding width, G groups, Z linkage matrix in SciPy's layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .checks import whole_number
from .leaves import leaf_numbers, with_equal_rows
from .linkage import SMALLEST_DISTANCE, as_vectors, check_metric, unit_rows, ward_linkage

# Groups are found on so many embeddings, in so many passes; products of so many numbers are in memory at once.
MOST_SAMPLED, PASSES, BLOCK = 20_000, 8, 1 << 22


def two_level_linkage(
    positive: Any,
    groups: int,
    metric: str = "chord",
    device: Any = "cpu",
    check: Callable[[], Any] | None = None,
) -> np.ndarray:
    """Cluster embeddings by two levels: `ward_linkage` in each of some groups, and of the groups.

    Parameters
    ----------
    positive : (N, D) array or tensor
        One embedding a prompt, finite and not zero.
    groups : int
        At most so many, G; 1 is the exact tree. Time falls with their number, and so does what is shared.
    metric : "chord"
        Groups have means, so that only a Euclidean distance joins them exactly.
    device : str or torch.device
        As in `ward_linkage`.
    check : callable, optional
        As there.

    Returns
    -------
    Z : (N-1, 4) float64
        A valid linkage matrix, SciPy layout, heights rising. Prompts of different groups meet where their groups do.

    Raises
    ------
    ValueError
        As `ward_linkage`, and if there is no group, or the metric is another.

    Notes
    -----
    Groups are found by k-means, without randomness. They are joined by Ward's method from their means, weighted by
    their sizes, which adds exactly what each merge adds to the squared error; a merge of groups that is lower than one
    inside of them is raised to it, so that heights are those of a tree.

    Examples
    --------
    >>> from hierdiff_core.plan.coarse import two_level_linkage
    >>> two_level_linkage([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], 2)[:, :2].tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    groups = whole_number("groups", groups, 1)
    check_metric(metric)
    if metric != "chord":
        raise ValueError(f"two levels need metric chord, which has means; got {metric!r}")
    vectors = as_vectors(positive)
    leaf, first = leaf_numbers(vectors)
    if len(first) < len(vectors):
        return with_equal_rows(two_level_linkage(vectors[first], groups, metric, device, check), leaf)
    if groups == 1 or len(vectors) <= 2:
        return ward_linkage(vectors, metric, device, check)
    unit = unit_rows(vectors)
    labels = coarse_labels(unit, groups, check or (lambda: None))
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    trees = [ward_linkage(vectors[rows], metric, device, check) for rows in members]
    return joined(trees, members, np.stack([unit[rows].mean(axis=0) for rows in members]))


def coarse_labels(unit: np.ndarray, groups: int, check: Callable[[], Any] = lambda: None) -> np.ndarray:
    """Groups of near rows, by k-means.

    Parameters
    ----------
    unit : (N, D) float64 array
        Rows of length 1.
    groups : int
        At most so many.
    check : callable
        Called before each pass.

    Returns
    -------
    labels : (N,) int64
        0-based, contiguous.

    Notes
    -----
    The first means are rows that are far from each other: in turn the one that is farthest from those before, of a
    sample of a few for each group, since the farthest of all are strays. Source: Lloyd 1982; Gonzalez 1985.
    """
    rows = unit[np.linspace(0, len(unit) - 1, min(len(unit), MOST_SAMPLED)).astype(np.int64)].astype(np.float32)
    means = far_apart(rows[:: max(len(rows) // (4 * groups), 1)], groups)
    for _ in range(PASSES):
        check()
        own = nearest_mean(rows, means)
        sums = np.zeros_like(means)
        np.add.at(sums, own, rows)
        counts = np.bincount(own, minlength=len(means))[:, None]
        means = np.where(counts > 0, sums / np.maximum(counts, 1), means)
    check()
    return np.unique(nearest_mean(unit, means), return_inverse=True)[1].reshape(-1).astype(np.int64)


def far_apart(rows: np.ndarray, count: int) -> np.ndarray:
    """Some rows, each the farthest from those before; fewer where rows are equal."""
    chosen, nearness = [0], rows @ rows[0]
    while len(chosen) < min(count, len(rows)):
        farthest = int(np.argmin(nearness))
        if farthest in chosen:
            break
        chosen.append(farthest)
        nearness = np.maximum(nearness, rows @ rows[farthest])
    return rows[chosen]


def nearest_mean(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Number of the mean that each row is nearest to: (N,) int64."""
    squares, size = np.square(means).sum(axis=1), max(BLOCK // len(means), 1)
    blocks = (rows[i : i + size].astype(np.float32) for i in range(0, len(rows), size))
    return np.concatenate([np.argmin(squares - 2 * (block @ means.T), axis=1) for block in blocks])


def joined(trees: list[np.ndarray], members: list[np.ndarray], means: np.ndarray) -> np.ndarray:
    """One linkage matrix of trees that lie below a tree of their means.

    Parameters
    ----------
    trees : G arrays
        Linkage matrices.
    members : G int64 arrays
        The prompts that their leaves are.
    means : (G, D) float64
        Of their unit vectors.

    Returns
    -------
    Z : (N-1, 4) float64
        SciPy layout.
    """
    from .ward_torch import to_linkage_matrix  # here, since planning needs no torch
    from .ward_torch_pairs import weighted_merges

    below = [in_slots(tree, rows) for tree, rows in zip(trees, members, strict=True)]
    above = weighted_merges(means, np.array([len(rows) for rows in members]), SMALLEST_DISTANCE)
    first = np.array([rows[0] for rows in members])
    roots = {int(rows[0]): tree[-1, 2] if len(tree) else 0.0 for tree, rows in zip(trees, members, strict=True)}
    raised = []
    for low, high, height in zip(*first[above[:, :2].astype(np.int64)].T.tolist(), above[:, 2].tolist(), strict=True):
        roots[high] = max(height, roots[low], roots[high])  # the pair goes on in the higher slot
        raised.append((low, high, roots[high]))
    return to_linkage_matrix(np.concatenate([*below, np.array(raised, dtype=np.float64).reshape(-1, 3)]))


def in_slots(Z: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Merges of a linkage matrix as slots of the whole set, see `to_linkage_matrix`: (n-1, 3) float64."""
    slots, merges = rows.tolist(), []
    for a, b, height, _ in Z.tolist():
        merges.append((slots[int(a)], slots[int(b)], height))
        slots.append(slots[int(b)])
    return np.array(merges, dtype=np.float64).reshape(-1, 3)
