"""Trees that prompts were hung onto or taken from, in which every branch stays what it was.

A cluster is what its oldest members made it: they alone decide its key and its mean embedding, whoever joins later, and
also when some of them are gone. So what was evaluated of a branch stays valid.

Legend: N prompts of the plan; L leaves of the tree: these prompts, and prompts that are gone but belong to a mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .linkage import SMALLEST_DISTANCE, cut, unit_rows
from .tree import PromptTree

# Rows of a matrix of pairwise distances that are computed at once.
BLOCK = 512


@dataclass(frozen=True, eq=False)
class FrozenTree:
    """A tree with the order in which its leaves came, and those that are prompts of the plan.

    Attributes
    ----------
    tree : PromptTree
        Of L leaves, with their keys. Of merges by which a leaf was hung, the errors are 0: they are not known.
    generations : (L,) int64
        0 for the leaves that the tree was made of; one more for each leaf that was hung later.
    present : (N,) int64
        Leaf of each prompt, in the plan's order.
    """

    tree: PromptTree
    generations: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        leaves = self.tree.num_prompts
        for name in ("generations", "present"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        if self.tree.keys is None:
            raise ValueError("a tree can be frozen when it has the keys of its prompts; make it from their texts")
        if self.generations.shape != (leaves,) or (self.generations < 0).any():
            raise ValueError(f"generations must be {leaves} numbers of 0 or more, one for each leaf")
        inside = (self.present >= 0) & (self.present < leaves)
        if self.present.ndim != 1 or not len(self.present) or not inside.all():
            raise ValueError(f"present must name at least one of the leaves 0 ... {leaves - 1}")
        if len(np.unique(self.present)) < len(self.present):
            raise ValueError("present must name each leaf once; one is named twice")

    @property
    def plain(self) -> bool:
        """Whether this is an ordinary tree: nothing was hung, and nobody is gone."""
        return not self.generations.any() and np.array_equal(self.present, np.arange(self.tree.num_prompts))

    def of_prompts(self) -> PromptTree:
        """The tree of the plan's prompts alone; heights at which they part stay."""
        tree = some_leaves(self.tree, self.present)
        return tree if self.plain else replace(tree, errors=None)

    def founders(self, labels: np.ndarray, threshold: float) -> list[np.ndarray]:
        """The leaves that made each cluster what it is.

        Parameters
        ----------
        labels : (N,) int64
            Clusters of the plan's prompts at a step.
        threshold : float
            Of this step.

        Returns
        -------
        founders : list of C int64 arrays
            Rising. The oldest leaves of the cluster that the whole tree has there; of a cluster that is only a part
            of that one (`matching.separated`), the oldest of its own.
        """
        whole = cut(self.tree.Z, threshold)
        leaves = np.split(np.argsort(whole, kind="stable"), np.cumsum(np.bincount(whole))[:-1])
        present = np.zeros(self.tree.num_prompts, dtype=bool)
        present[self.present] = True
        own = np.split(self.present[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels))[:-1])
        found = []
        for members in own:
            all_leaves = leaves[whole[members[0]]]
            pool = all_leaves if np.count_nonzero(present[all_leaves]) == len(members) else np.sort(members)
            ages = self.generations[pool]
            found.append(pool[ages == ages.min()])
        return found

    def hung(self, vectors: np.ndarray, vector: np.ndarray, key: int, prompt: str | None) -> tuple[FrozenTree, int]:
        """The tree with one more leaf, beside the branch that it is nearest to.

        Parameters
        ----------
        vectors : (L, D) float64
            Embeddings of the leaves.
        vector : (D,) float64
            Embedding of the new one.
        key : int
            Its key.
        prompt : str or None
            Its text.

        Returns
        -------
        tree : FrozenTree
            With the same prompts; nobody is the new leaf yet.
        leaf : int
            Number of the leaf: L, or that of a prompt that was gone and comes back.
        """
        assert self.tree.keys is not None
        equal = np.flatnonzero((vectors == vector).all(axis=1))
        for leaf in equal:
            if self.tree.keys[leaf] == key and leaf not in self.present:
                return self, int(leaf)
        Z, tree, keys = self.tree.Z, self.tree, (*self.tree.keys, key)
        if len(equal):  # one leaf for both, drawn once
            node, height = top_at_zero(Z, int(equal[0])), 0.0
        else:
            node, height = Walk(self, unit_rows(vectors), unit_rows(vector[None])[0]).place()
        longer, place = with_leaf(Z, node, height)
        grown = PromptTree(
            longer,
            tree.metric,
            None if tree.errors is None else np.insert(tree.errors, place, 0.0),
            None if tree.prompts is None else (*tree.prompts, prompt or ""),
            keys,
        )
        generations = np.append(self.generations, self.generations.max() + 1)
        return FrozenTree(grown, generations, self.present), len(self.generations)

    def pruned(self) -> FrozenTree:
        """The tree without leaves that are gone and belong to no mean of a branch that is still there."""
        Z = self.tree.Z
        kept = np.zeros(self.tree.num_prompts, dtype=bool)
        kept[self.present] = True
        parents, oldest = parents_of(Z), over_nodes(Z, self.generations, np.minimum)
        alive = over_nodes(Z, kept, np.logical_or)
        for leaf in np.flatnonzero(~kept):
            node = parents[leaf]
            while node >= 0 and oldest[node] == self.generations[leaf] and not alive[node]:
                node = parents[node]
            kept[leaf] = node >= 0 and oldest[node] == self.generations[leaf]
        if kept.all():
            return self
        leaves = np.flatnonzero(kept)
        smaller = some_leaves(self.tree, leaves)
        return FrozenTree(smaller, self.generations[leaves], np.searchsorted(leaves, self.present))


class Walk:
    """From the root of a tree to the branch that a new leaf is hung beside."""

    def __init__(self, frozen: FrozenTree, unit: np.ndarray, vector: np.ndarray) -> None:
        self.Z, self.metric = frozen.tree.Z, frozen.tree.metric
        self.generations, self.unit, self.vector = frozen.generations, unit, vector
        self.order, self.start, self.size = spans(self.Z)
        self.counted = np.zeros(len(unit), dtype=bool)  # of equal leaves the oldest
        self.counted[np.unique(cut(self.Z, 0.0), return_index=True)[1]] = True
        alive = np.zeros(len(unit), dtype=bool)
        alive[frozen.present] = True
        self.alive = over_nodes(self.Z, alive, np.logical_or)

    def place(self) -> tuple[int, float]:
        """The node to be the new leaf's sibling, and the height of their merge."""
        leaves, node, ceiling = len(self.unit), 2 * len(self.unit) - 2, np.inf
        height = self.height(node)
        while node >= leaves and height < self.Z[node - leaves, 2]:
            ceiling = self.Z[node - leaves, 2]
            children = [int(child) for child in self.Z[node - leaves, :2] if self.alive[int(child)]]
            height, node = min((self.height(child), child) for child in children)
        return node, float(min(max(height, SMALLEST_DISTANCE), ceiling))

    def height(self, node: int) -> float:
        """Height at which Ward's method merges the new leaf and the founders of a branch."""
        leaves = self.order[self.start[node] : self.start[node] + self.size[node]]
        ages = self.generations[leaves]
        founders = self.unit[leaves[(ages == ages.min()) & self.counted[leaves]]]
        count = len(founders)
        if self.metric == "cosine":
            to_new = np.square(1 - founders @ self.vector).mean()
            blocks = (np.square(1 - founders[i : i + BLOCK] @ founders.T).sum() for i in range(0, count, BLOCK))
            gap = to_new - sum(blocks) / (2 * count**2)
        else:
            gap = np.square(founders.mean(axis=0) - self.vector).sum()
        return float(np.sqrt(2 * count / (count + 1) * max(gap, 0.0)))


def some_leaves(tree: PromptTree, leaves: np.ndarray) -> PromptTree:
    """The tree of some of the leaves; heights at which they part stay."""
    Z, merges = restricted(tree.Z, leaves)
    return PromptTree(
        Z,
        tree.metric,
        None if tree.errors is None else tree.errors[merges],
        None if tree.prompts is None else tuple(tree.prompts[i] for i in leaves),
        None if tree.keys is None else tuple(tree.keys[i] for i in leaves),
    )


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
    size = over_nodes(Z, np.ones(leaves, dtype=np.int64), np.add)
    start, order = np.zeros_like(size), np.empty(leaves, dtype=np.int64)
    for j in reversed(range(len(Z))):
        a, b = children[j]
        start[a], start[b] = start[leaves + j], start[leaves + j] + size[a]
    order[start[:leaves]] = np.arange(leaves)
    return order, start, size


def over_nodes(Z: np.ndarray, of_leaves: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """What the leaves of each node come to: (2L-1,) from (L,), by a function of two values."""
    leaves = len(Z) + 1
    values = np.concatenate([of_leaves, np.empty(len(Z), dtype=of_leaves.dtype)])
    for j, (a, b) in enumerate(Z[:, :2].astype(np.int64).tolist()):
        values[leaves + j] = combine(values[a], values[b])
    return values


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
