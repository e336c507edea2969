"""Prompts with seeds of their own: one tree for each seed, side by side in one linkage matrix.

Prompts of different seeds start from different noise, so that they can share nothing. Their trees are joined above
every height at which prompts of one seed merge, and no threshold reaches that far: whatever cuts the matrix cuts each
tree by itself, at the thresholds of the whole set.

Legend: N prompts, G seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..prompts.rows import LARGEST_SEED
from .checks import check_lengths, shown, whole_number
from .linkage import as_vectors, cut, ward_linkage

if TYPE_CHECKING:
    from .steps import Step

Seeds: TypeAlias = "tuple[int | None, ...]"  # of each prompt; None stands for the seed of the run

JOINED = 1.25  # times the highest root: where trees of different seeds are joined


def checked_seeds(seeds: Iterable[Any] | None, num_prompts: int) -> Seeds | None:
    """Seeds as Python ints, None where no prompt has one of its own; `ValueError` for what is no seed."""
    if seeds is None:
        return None
    checked = tuple(None if seed is None else whole_number("seeds", seed) for seed in seeds)
    check_lengths(num_prompts, seeds=checked)
    for place, seed in enumerate(checked):
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seeds must be from 0 to 2**64 - 1; got {shown(seed)} at place {place}")
    return None if all(seed is None for seed in checked) else checked


def seed_groups(seeds: Seeds | None, num_prompts: int) -> tuple[np.ndarray, Seeds]:
    """The prompts by their seeds.

    Parameters
    ----------
    seeds : tuple of N int or None
        None: no prompt has one.
    num_prompts : int
        Prompts, N.

    Returns
    -------
    groups : (N,) int64
        Group of each prompt, numbered as they first appear.
    own : tuple of G int or None
        The seed of each group.
    """
    if seeds is None:
        return np.zeros(num_prompts, dtype=np.int64), (None,)
    number = {seed: group for group, seed in enumerate(dict.fromkeys(seeds))}
    return np.array([number[seed] for seed in seeds], dtype=np.int64), tuple(number)


def forest(
    positive: Any, seeds: Seeds, metric: str, device: Any = "cpu", check: Callable[[], Any] | None = None
) -> np.ndarray:
    """Cluster the embeddings of each seed, and join the trees above all of their merges.

    Parameters
    ----------
    positive : (N, D) array or tensor
        One embedding a prompt.
    seeds : tuple of N int or None
        Of the prompts.
    metric : str
        As in `ward_linkage`.
    device : str or torch.device
        As there.
    check : callable, optional
        As there.

    Returns
    -------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout; its last G - 1 merges join the trees.
    """
    vectors = as_vectors(positive)
    groups, own = seed_groups(seeds, len(vectors))
    members = [np.flatnonzero(groups == group) for group in range(len(own))]
    return side_by_side([ward_linkage(vectors[rows], metric, device, check) for rows in members], members)


def side_by_side(trees: Sequence[np.ndarray], members: Sequence[np.ndarray], least: float = 0.0) -> np.ndarray:
    """Linkage matrices of some prompts each as one, in which their trees are joined last.

    Parameters
    ----------
    trees : G arrays
        Linkage matrices.
    members : G int64 arrays
        The prompts that their leaves are.
    least : float
        They are joined above this height too.

    Returns
    -------
    Z : (N-1, 4) float64
        Merges of equal height in the order of the trees.
    """
    num_prompts = sum(map(len, members))
    heights = np.concatenate([tree[:, 2] for tree in trees])
    of_tree = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
    nodes = [rows.tolist() for rows in members]  # of each tree, the numbers of its nodes in the whole
    taken, merges = [0] * len(trees), []
    for group in of_tree[np.argsort(heights, kind="stable")].tolist():
        a, b, height, count = trees[group][taken[group]]
        taken[group] += 1
        merges.append((*sorted((nodes[group][int(a)], nodes[group][int(b)])), height, count))
        nodes[group].append(num_prompts + len(merges) - 1)
    above, node, count = JOINED * (heights.max(initial=least) or 1.0), nodes[0][-1], len(members[0])
    for group in range(1, len(trees)):
        count += len(members[group])
        merges.append((*sorted((node, nodes[group][-1])), above, count))
        node = num_prompts + len(merges) - 1
    return np.array(merges, dtype=np.float64).reshape(-1, 4)


def within_trees(Z: np.ndarray, trees: int) -> np.ndarray:
    """The merges of a linkage matrix but for those that join its trees."""
    return Z[: len(Z) - (trees - 1)]


def check_trees(Z: np.ndarray, seeds: Seeds) -> None:
    """`ValueError` unless the last merges of a linkage matrix join a tree for each seed, above all others."""
    groups, own = seed_groups(seeds, len(Z) + 1)
    within = within_trees(Z, len(own))
    root = float(within[-1, 2]) if len(within) else 0.0
    labels = cut(Z, root)
    pairs = len(np.unique(np.stack([labels, groups]), axis=1).T)
    if not pairs == labels.max() + 1 == len(own):
        raise ValueError(
            f"Z must join a tree for each of {len(own)} seeds, above the merges of prompts of one seed; make it with "
            "PromptTree.of"
        )


def check_apart(steps: Sequence[Step], seeds: Seeds | None) -> None:
    """`ValueError` where prompts of different seeds share a step."""
    if seeds is None:
        return
    groups, first = seed_groups(seeds, len(seeds))[0], steps[0]
    mixed = np.flatnonzero(groups != groups[first.first][first.labels])
    for i in mixed[:1].tolist():
        other = int(first.first[first.labels[i]])
        raise ValueError(
            f"prompts {other} and {i} have different seeds ({seeds[other]} and {seeds[i]}) and cannot share a step; "
            "thresholds must stay below the height at which the trees are joined"
        )
