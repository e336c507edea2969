"""Linkage matrices with leaves hung on, taken out, or moved; all other merges keep their heights.

Legend: L leaves; node n is leaf n, or merge n - L.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .tree import PromptTree


def some_leaves(tree: PromptTree, leaves: np.ndarray) -> PromptTree:
    """The tree of some of the leaves; heights at which they part stay."""
    Z, merges = restricted(tree.Z, leaves)
    return PromptTree(
        Z,
        tree.metric,
        None if tree.errors is None else tree.errors[merges],
        None if tree.prompts is None else tuple(tree.prompts[i] for i in leaves),
        None if tree.keys is None else tuple(tree.keys[i] for i in leaves),
        None if tree.seeds is None else tuple(tree.seeds[i] for i in leaves),
    )


def with_one_more(
    tree: PromptTree, node: int, height: float, key: int, prompt: str | None, seed: int | None
) -> PromptTree:
    """A tree with one more leaf, L, as the sibling of a node; the error of their merge, which is not known, is 0."""
    assert tree.keys is not None
    Z, place = with_leaf(tree.Z, node, height)
    return PromptTree(
        Z,
        tree.metric,
        None if tree.errors is None else np.insert(tree.errors, place, 0.0),
        None if tree.prompts is None else (*tree.prompts, prompt or ""),
        (*tree.keys, key),
        (*(tree.seeds or (None,) * tree.num_prompts), seed),
    )


def with_copies(tree: PromptTree, leaves: np.ndarray, node: int, height: float) -> PromptTree:
    """A tree in which some leaves are there twice: as they were, and as a branch of their own beside a node.

    Parameters
    ----------
    tree : PromptTree
        Of L leaves, with keys.
    leaves : (M,) int64
        Those to copy, as leaves L, L + 1, ...; they part from each other where they do now.
    node : int
        Sibling of the branch.
    height : float
        Of their merge: not below either, not above what is above the node.

    Returns
    -------
    tree : PromptTree
        Of L + M leaves. Errors are not known.
    """
    count, more = tree.num_prompts, len(leaves)
    merges = nested(tree.Z, range(count), count + more)
    branch = nested(restricted(tree.Z, leaves)[0], range(count, count + more), count + more + len(merges))
    root = count if more == 1 else count + more + len(merges) + len(branch) - 1
    new = count + more + len(merges) + len(branch)
    sibling = node if node < count else node + more
    merges = [tuple(new if child == sibling else child for child in merge[:2]) + merge[2:] for merge in merges]
    Z = linkage_in_order([*merges, *branch, (sibling, root, height)], count + more)
    everyone = [*range(count), *leaves.tolist()]
    assert tree.keys is not None
    return PromptTree(
        Z,
        tree.metric,
        None,
        None if tree.prompts is None else tuple(tree.prompts[i] for i in everyone),
        tuple(tree.keys[i] for i in everyone),
        None if tree.seeds is None else tuple(tree.seeds[i] for i in everyone),
    )


def nested(Z: np.ndarray, leaves: Sequence[int], first: int) -> list[tuple]:
    """Merges (node, node, height) of a linkage matrix, whose leaves and first merge have these numbers."""
    numbers = [*leaves, *range(first, first + len(Z))]
    return [(numbers[int(a)], numbers[int(b)], float(height)) for a, b, height, _ in Z]


def linkage_in_order(merges: Sequence[tuple], leaves: int) -> np.ndarray:
    """The linkage matrix of merges (node, node, height) in any order, the i-th of which makes node `leaves` + i.

    The lowest come first; of equal ones the first, as soon as both of its nodes are there.
    """
    above = {int(child): i for i, (a, b, _) in enumerate(merges) for child in (a, b)}
    missing = [sum(child >= leaves for child in merge[:2]) for merge in merges]
    ready = [(merge[2], i) for i, merge in enumerate(merges) if not missing[i]]
    heapq.heapify(ready)
    numbers, rows = list(range(leaves)) + [-1] * len(merges), []
    while ready:
        height, i = heapq.heappop(ready)
        numbers[leaves + i] = leaves + len(rows)
        rows.append([numbers[merges[i][0]], numbers[merges[i][1]], height])
        parent = above.get(leaves + i)
        if parent is not None:
            missing[parent] -= 1
            if not missing[parent]:
                heapq.heappush(ready, (merges[parent][2], parent))
    return linkage_matrix(rows)


def root_of(Z: np.ndarray, leaves: np.ndarray) -> int:
    """The lowest node that holds all of the marked leaves: (L,) bool."""
    held = over_nodes(Z, leaves.astype(np.int64), operator.add)
    return int(np.argmax(held == np.count_nonzero(leaves)))


def spans(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leaves in an order in which each node holds those in a row.

    Returns
    -------
    order : (L,) int64
        Leaves from left to right.
    start, size : (2L-1,) int64
        Node n holds the leaves ``order[start[n] : start[n] + size[n]]``.
    """
    leaves, children = len(Z) + 1, Z[:, :2].astype(np.int64).tolist()
    size = over_nodes(Z, np.ones(leaves, dtype=np.int64), operator.add)
    start, order = np.zeros_like(size), np.empty(leaves, dtype=np.int64)
    for j in reversed(range(len(Z))):
        a, b = children[j]
        start[a], start[b] = start[leaves + j], start[leaves + j] + size[a]
    order[start[:leaves]] = np.arange(leaves)
    return order, start, size


def over_nodes(Z: np.ndarray, of_leaves: np.ndarray, combine: Callable[[Any, Any], Any]) -> np.ndarray:
    """What the leaves of each node come to: (2L-1,) from (L,), by a function of two plain values.

    NumPy's own functions take a dozen times as long as Python's for two numbers.
    """
    values = of_leaves.tolist()
    for a, b in Z[:, :2].astype(np.int64).tolist():
        values.append(combine(values[a], values[b]))
    return np.array(values, dtype=of_leaves.dtype)


def parents_of(Z: np.ndarray) -> np.ndarray:
    """Node above each node, -1 for the root: (2L-1,) int64."""
    parents = np.full(2 * len(Z) + 1, -1, dtype=np.int64)
    parents[Z[:, :2].astype(np.int64)] = (len(Z) + 1 + np.arange(len(Z)))[:, None]
    return parents


def top_at_zero(Z: np.ndarray, leaf: int) -> int:
    """The node that holds a leaf and all that equal it."""
    parents, node, leaves = parents_of(Z), leaf, len(Z) + 1
    while parents[node] >= 0 and Z[parents[node] - leaves, 2] == 0:
        node = int(parents[node])
    return node


def with_leaf(Z: np.ndarray, node: int, height: float) -> tuple[np.ndarray, int]:
    """A linkage matrix with one more leaf.

    Parameters
    ----------
    Z : (L-1, 4) float64
        Linkage matrix.
    node : int
        The new leaf's sibling.
    height : float
        Of their merge: not below the node, not above what is above it.

    Returns
    -------
    Z : (L, 4) float64
        Leaf L is the new one; all other leaves, merges and heights stay.
    place : int
        Row of the new merge.
    """
    leaves = len(Z) + 1
    place = max(int(np.searchsorted(Z[:, 2], height)), node - leaves + 1, 0)

    def renumbered(old: int) -> int:
        return old if old < leaves else old + 1 + (old - leaves >= place)

    new = leaves + 1 + place
    merges = []
    for a, b, above, _ in Z.tolist():
        pair = [new if int(child) == node else renumbered(int(child)) for child in (a, b)]
        merges.append([*pair, above])
    merges.insert(place, [renumbered(node), leaves, height])
    return linkage_matrix(merges), place


def restricted(Z: np.ndarray, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The linkage matrix of some of the leaves: heights at which they part stay.

    Parameters
    ----------
    Z : (L-1, 4) float64
        Linkage matrix.
    leaves : (N,) int64
        Those to keep; leaf i of the result is ``leaves[i]``.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix.
    merges : (N-1,) int64
        Rows of the old one that are left.
    """
    nodes: list[int | None] = [None] * (2 * len(Z) + 1)
    for new, old in enumerate(leaves.tolist()):
        nodes[old] = new
    merges, rows = [], []
    for j, (a, b, height, _) in enumerate(Z.tolist()):
        left, right = nodes[int(a)], nodes[int(b)]
        if left is None or right is None:
            nodes[len(Z) + 1 + j] = right if left is None else left
            continue
        nodes[len(Z) + 1 + j] = len(leaves) + len(merges)
        merges.append([left, right, height])
        rows.append(j)
    return linkage_matrix(merges), np.array(rows, dtype=np.int64)


def linkage_matrix(merges: list[list]) -> np.ndarray:
    """SciPy's layout of merges [node, node, height]: (M, 4) float64, with the lower node first and sizes."""
    sizes = [1] * (len(merges) + 1)
    rows = []
    for a, b, height in merges:
        sizes.append(sizes[a] + sizes[b])
        rows.append((min(a, b), max(a, b), height, sizes[-1]))
    return np.array(rows, dtype=np.float64).reshape(-1, 4)
