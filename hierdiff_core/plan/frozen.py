"""Trees that prompts were hung onto or taken from, in which every branch stays what it was.

A cluster is what its oldest members made it: they alone decide its key and its mean embedding, whoever joins later, and
also when some of them are gone. So what was evaluated of a branch stays valid.

Legend: N prompts of the plan; L leaves of the tree: these prompts, and prompts that are gone but belong to a mean.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .linkage import SMALLEST_DISTANCE, cut, unit_rows
from .rerolls import History
from .seeds import JOINED, Seeds
from .surgery import (
    over_nodes,
    parents_of,
    restricted,
    root_of,
    some_leaves,
    spans,
    top_at_zero,
    with_leaf,
    with_one_more,
)
from .tree import PromptTree

__all__ = ["FrozenTree", "restricted", "with_leaf"]
# Rows of a matrix of pairwise distances that are computed at once.
BLOCK = 512
BELOW_JOINS = 1 - 1e-6  # times the height at which trees of different seeds are joined


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

    def founders(
        self, labels: np.ndarray, threshold: float, rerolls: Sequence[History] | None = None
    ) -> list[np.ndarray]:
        """The leaves that made each cluster what it is.

        Parameters
        ----------
        labels : (N,) int64
            Clusters of the plan's prompts at a step.
        threshold : float
            Of this step.
        rerolls : L of History, optional
            Of each leaf, up to this step.

        Returns
        -------
        founders : list of C int64 arrays
            Rising. The oldest leaves of the cluster that the whole tree has there. Where some of these were rerolled,
            they are still of the cluster that they left; theirs is of those that left with them. Of a cluster that is
            only a part of that one (`matching.separated`), the oldest of its own.
        """
        whole = cut(self.tree.Z, threshold)
        home = np.full(whole.max() + 1, -1)  # cluster that each cluster of the whole tree is, if it is one
        present, count = np.bincount(whole[self.present]), labels.max() + 1
        first = np.unique(labels, return_index=True)[1]
        same = present[whole[self.present[first]]] == np.bincount(labels)
        home[whole[self.present[first[same]]]] = np.flatnonzero(same)
        apart = np.flatnonzero(~same[labels])
        leaves = np.concatenate([np.flatnonzero(home[whole] >= 0), self.present[apart]])
        clusters = np.concatenate([home[whole][home[whole] >= 0], labels[apart]])
        found = self._oldest(leaves, clusters, count)
        if rerolls is None or not any(rerolls):
            return found
        rerolled = np.zeros(len(home), dtype=bool)
        rerolled[whole[[bool(own) for own in rerolls]]] = True
        for c in np.flatnonzero(rerolled[whole[self.present[first]]]).tolist():
            found[c] = self._of_rerolled(whole, np.sort(self.present[labels == c]), rerolls)
        return found

    def _oldest(self, leaves: np.ndarray, clusters: np.ndarray, count: int) -> list[np.ndarray]:
        """Of the leaves of each cluster the oldest, rising."""
        ages = self.generations[leaves]
        least = np.full(count, ages.max(initial=0))
        np.minimum.at(least, clusters, ages)
        kept = ages == least[clusters]
        leaves, clusters = leaves[kept], clusters[kept]
        order = np.lexsort((leaves, clusters))
        return np.split(leaves[order], np.cumsum(np.bincount(clusters, minlength=count))[:-1])

    def _of_rerolled(self, whole: np.ndarray, members: np.ndarray, rerolls: Sequence[History]) -> np.ndarray:
        """The founders of the cluster of some leaves, where leaves of its cluster in the whole tree were rerolled."""
        leaves = np.flatnonzero(whole == whole[members[0]]).tolist()
        mine = rerolls[members[0]]
        pool = np.array([leaf for leaf in leaves if rerolls[leaf][: len(mine)] == mine])
        everyone = np.array([leaf for leaf in pool if rerolls[leaf] == mine])
        if np.count_nonzero(np.isin(everyone, self.present)) != len(members):
            pool = members
        ages = self.generations[pool]
        return pool[ages == ages.min()]

    def hung(
        self,
        vectors: np.ndarray,
        vector: np.ndarray,
        key: int,
        prompt: str | None,
        seed: int | None = None,
        above: float = 0.0,
    ) -> tuple[FrozenTree, int]:
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
        seed : int or None
            Of its own: it hangs in the tree of this seed, alone where there is none.
        above : float
            The highest threshold, which a tree of another seed is joined above.

        Returns
        -------
        tree : FrozenTree
            With the same prompts; nobody is the new leaf yet.
        leaf : int
            Number of the leaf: L, or that of a prompt that was gone and comes back.
        """
        assert self.tree.keys is not None
        kin = np.array([own == seed for own in self.seeds])
        equal = np.flatnonzero((vectors == vector).all(axis=1) & kin)
        for leaf in equal:
            if self.tree.keys[leaf] == key and leaf not in self.present:
                return self, int(leaf)
        if len(equal):  # one leaf for both, drawn once
            node, height = top_at_zero(self.tree.Z, int(equal[0])), 0.0
        elif kin.any():
            walk = Walk(self, unit_rows(vectors), unit_rows(vector[None])[0])
            node, height = walk.place(root_of(self.tree.Z, kin))
        else:
            node = 2 * len(kin) - 2
            height = max(JOINED * max(self.tree.root_height, above), *self.tree.Z[-1:, 2], SMALLEST_DISTANCE)
        tree = with_one_more(self.tree, node, height, key, prompt, seed)
        return FrozenTree(tree, np.append(self.generations, self.generations.max() + 1), self.present), len(kin)

    @property
    def seeds(self) -> Seeds:
        """The seed of each leaf."""
        return self.tree.seeds or (None,) * self.tree.num_prompts

    def needed(self) -> np.ndarray:
        """The leaves but for those that are gone and belong to no mean of a branch that is still there: rising."""
        Z = self.tree.Z
        kept = np.zeros(self.tree.num_prompts, dtype=bool)
        kept[self.present] = True
        parents, oldest = parents_of(Z).tolist(), over_nodes(Z, self.generations, min).tolist()
        alive, ages = over_nodes(Z, kept, operator.or_).tolist(), self.generations.tolist()
        for leaf in np.flatnonzero(~kept).tolist():
            node = parents[leaf]
            while node >= 0 and oldest[node] == ages[leaf] and not alive[node]:
                node = parents[node]
            kept[leaf] = node >= 0 and oldest[node] == ages[leaf]
        return np.flatnonzero(kept)

    def of_leaves(self, leaves: np.ndarray) -> FrozenTree:
        """The tree of some of its leaves, rising, all prompts among them."""
        if len(leaves) == self.tree.num_prompts:
            return self
        places = np.searchsorted(leaves, self.present)
        return FrozenTree(some_leaves(self.tree, leaves), self.generations[leaves], places)


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
        self.alive = over_nodes(self.Z, alive, operator.or_)

    def place(self, root: int) -> tuple[int, float]:
        """The node to be the new leaf's sibling, in the tree below a root, and the height of their merge."""
        leaves, node, above = len(self.unit), root, parents_of(self.Z)[root]
        # a tree of a seed stays below the merge that joins it to others
        ceiling = np.inf if above < 0 else self.Z[above - leaves, 2] * BELOW_JOINS
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
