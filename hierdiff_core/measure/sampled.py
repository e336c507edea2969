"""A few prompts of a set that stand for all: neighbours from different parts of the tree.

Legend: N prompts, S of them sampled.
"""

from __future__ import annotations

import numpy as np

from ..plan.checks import whole_number
from ..plan.linkage import flat_clusters
from ..plan.tree import PromptTree
from .ways import clusters_of

LEAST_SAMPLES = 2


def sampled_prompts(tree: PromptTree, samples: int = 8, seed: int = 0) -> np.ndarray:
    """Choose prompts to measure with, so that wide and narrow clusters are among them.

    Parameters
    ----------
    tree : PromptTree
        Of the whole set.
    samples : int >= 2
        How many; all that differ, where the set has no more.
    seed : int
        Which ones.

    Returns
    -------
    rows : (S,) int64
        Rising; no two with equal embeddings.

    Raises
    ------
    ValueError
        If there are fewer than two samples, or no two prompts differ.

    Notes
    -----
    Prompts that lie far apart, as those of `Probe`, say nothing of narrow clusters. Each part of the tree gives a
    prompt and the one that it merges with first.

    Examples
    --------
    >>> from hierdiff_core import PromptTree
    >>> from hierdiff_core.measure.sampled import sampled_prompts
    >>> tree = PromptTree.of([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99], [0.2, 0.98]], "chord")
    >>> sampled_prompts(tree, 4).tolist() in ([0, 1, 2, 3], [0, 1, 3, 4])
    True
    """
    samples = whole_number("samples", samples)
    if samples < LEAST_SAMPLES:
        raise ValueError(f"samples must be {LEAST_SAMPLES} or more, for sharing takes two prompts; got {samples}")
    if tree.num_prompts == 1:
        raise ValueError("there is one prompt: nothing can be shared, and no advice is needed; add prompts")
    if tree.num_distinct == 1:
        raise ValueError(f"all {tree.num_prompts} prompts are equal, and are drawn once in any case; add prompts")
    ranked, rng = tree.Z.copy(), np.random.default_rng(seed)
    ranked[:, 2] = np.arange(1, len(ranked) + 1)  # heights may tie
    wanted = min(samples, tree.num_distinct)
    parts = wanted // 2
    while True:  # parts of one prompt give no pair: then there are more parts
        labels = flat_clusters(ranked, tree.num_prompts - parts)
        chosen = _pairs(tree, labels, rng)
        if len(chosen) >= wanted or parts == tree.num_distinct:
            return np.sort(chosen[:wanted])
        parts += 1


def _pairs(tree: PromptTree, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A prompt of each flat cluster and its nearest, the second ones at the end."""
    above = np.full(2 * tree.num_prompts - 1, -1)  # the merge that each cluster goes into
    above[tree.Z[:, :2].astype(np.int64)] = np.arange(len(tree.Z))[:, None]
    first, second = [], []
    for label in rng.permutation(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        first.append(int(rng.choice(members)))
        near = np.intersect1d(_nearest(tree, above, first[-1]), members)
        if len(near):
            second.append(int(rng.choice(near)))
    return np.array(first + second, dtype=np.int64)


def _nearest(tree: PromptTree, above: np.ndarray, prompt: int) -> np.ndarray:
    """The prompts that a prompt merges with at its first height above 0."""
    node, merge = prompt, above[prompt]
    while tree.Z[merge, 2] == 0:
        node, merge = tree.num_prompts + merge, above[tree.num_prompts + merge]
    a, b = (int(child) for child in tree.Z[merge, :2])
    waiting, leaves = [b if node == a else a], []
    while waiting:
        own = waiting.pop()
        if own < tree.num_prompts:
            leaves.append(own)
        else:
            waiting += [int(child) for child in tree.Z[own - tree.num_prompts, :2]]
    return np.array(leaves, dtype=np.int64)


def sampled_tree(tree: PromptTree, rows: np.ndarray) -> PromptTree:
    """The tree of some of a set's prompts: its merges at the heights that they have in the whole tree.

    Parameters
    ----------
    tree : PromptTree
        Of the whole set.
    rows : (S,) int64
        From `sampled_prompts`.

    Returns
    -------
    tree : PromptTree
        Of S prompts, in the order of `rows`.

    Notes
    -----
    The errors of its merges, and so the spreads of its clusters, are those to be expected of prompts that stand for
    the clusters that they are from: a tree does not say how far two prompts of different clusters lie apart, but how
    far such prompts do on average.
    """
    widths, counts, left, right = clusters_of(tree)
    squares = np.concatenate([np.zeros(tree.num_prompts), widths**2])
    place: dict[int, tuple[int, list[int]]] = {int(row): (i, [i]) for i, row in enumerate(rows)}
    apart, Z, errors = np.zeros((len(rows), len(rows))), [], []
    for j, (a, b) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        node, met = tree.num_prompts + j, [place[child] for child in (a, b) if child in place]
        if len(met) == 2:
            (one, ours), (other, theirs) = met
            merged = tree.Z[j, 2] > 0
            # n_a n_b / (n_a + n_b) |m_a - m_b|^2 is what the merge adds
            between = squares[node] * counts[node] - squares[a] * counts[a] - squares[b] * counts[b]
            between *= counts[node] / (counts[a] * counts[b]) if merged else 0.0
            apart[np.ix_(ours, theirs)] = between + squares[a] + squares[b] if merged else 0.0
            errors.append(_added(apart, ours, theirs))
            Z.append([one, other, tree.Z[j, 2], len(ours) + len(theirs)])
            place[node] = len(rows) + len(Z) - 1, ours + theirs
        elif met:
            place[node] = met[0]
    prompts, keys = (None if own is None else [own[int(row)] for row in rows] for own in (tree.prompts, tree.keys))
    return PromptTree(np.array(Z).reshape(-1, 4), tree.metric, np.array(errors), prompts, keys)  # pyright: ignore[reportArgumentType]


def _added(apart: np.ndarray, ours: list[int], theirs: list[int]) -> float:
    """What joining two clusters adds to their squared error, from squared distances (upper triangle or lower)."""
    apart = apart + apart.T  # each pair was written once

    def squared_error(own: list[int]) -> float:
        return float(apart[np.ix_(own, own)].sum() / 2 / len(own))

    return max(squared_error(ours + theirs) - squared_error(ours) - squared_error(theirs), 0.0)
