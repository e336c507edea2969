"""Prompts with equal embeddings are one leaf of the tree: naming one twice moves no merge, no mean and no picture.

Legend: N prompts, M leaves.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def leaf_numbers(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number rows by the order in which they first appear; equal rows get one number.

    Parameters
    ----------
    vectors : (N, D) float array
        Rows to compare, bit for bit.

    Returns
    -------
    leaf : (N,) int64
        From 0 to M - 1.
    first : (M,) int64
        The first row of each leaf, rising.
    """
    numbers: dict[bytes, int] = {}
    leaf = np.array([numbers.setdefault(fingerprint(row), len(numbers)) for row in vectors])
    return leaf, np.unique(leaf, return_index=True)[1]


def fingerprint(row: np.ndarray) -> bytes:
    """16 bytes in place of a row: tens of thousands of rows would be a second copy of them all."""
    return blake2b((row + 0.0).tobytes(), digest_size=16).digest()  # -0.0 becomes 0.0


def with_equal_rows(Z: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Hang the rows that equal others into the tree of the leaves.

    Parameters
    ----------
    Z : (M-1, 4) float64
        Linkage matrix of the leaves.
    leaf : (N,) int64
        From `leaf_numbers`.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix of all rows: equal ones merge first, at height 0; the other merges and their heights are those of
        the leaves.
    """
    rows, leaves = len(leaf), len(Z) + 1
    merges, sizes = [], [1] * rows
    nodes = [-1] * leaves  # of each leaf: the node that holds all of its rows so far

    def merge(a: int, b: int, height: float) -> int:
        sizes.append(sizes[a] + sizes[b])
        merges.append((min(a, b), max(a, b), height, sizes[-1]))
        return len(sizes) - 1

    for row, number in enumerate(leaf.tolist()):
        nodes[number] = row if nodes[number] < 0 else merge(nodes[number], row, 0.0)
    for a, b, height, _ in Z.tolist():
        nodes.append(merge(nodes[int(a)], nodes[int(b)], height))
    return np.array(merges, dtype=np.float64).reshape(-1, 4)
