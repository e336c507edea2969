"""Unconditional rows that branches have in common: children of a branch have one latent in the step that parts them.

Legend: K steps, C_k clusters of step k, L leaves (`Plan.leaf_keys`), M prompts that differ, G seeds. Where all
negatives are equal and all steps are guided, a run needs M - G unconditional passes less than one for each row:
clusters of the first step have one latent for each seed, and a split needs one pass for all of its children.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .part import Part, whole

if TYPE_CHECKING:
    from .plan import Plan


def unconditional_families(
    plan: Plan, negatives: np.ndarray | None = None, known: np.ndarray | None = None
) -> list[np.ndarray]:
    """Which clusters of each step take one unconditional row: those with one latent and one negative.

    Parameters
    ----------
    plan : Plan
        Of a whole run.
    negatives : (L,) int64 array, optional
        Equal for leaves with equal negatives; None where all are. A cluster whose leaves have several shares its row
        with no other: its negative is a mean.
    known : (L,) bool array, optional
        See `whole`.

    Returns
    -------
    families : list of K (C_k,) int64 arrays
        The first cluster of each one's family. Clusters that begin anew with other noise (`Plan.fresh`) share with
        none, whatever a sampler makes of it.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> plan = build_plan(np.array([[0, 1, 0.2, 2], [2, 3, 0.5, 3]]), [0.6, 0.4, 0.1, 0])
    >>> [own.tolist() for own in unconditional_families(plan)]
    [[0], [0, 0], [0, 0, 2], [0, 1, 2]]
    >>> [own.tolist() for own in unconditional_families(plan, np.array([0, 0, 1]))]
    [[0], [0, 1], [0, 0, 2], [0, 1, 2]]
    """
    part = whole(plan, known)
    return [_families(plan, part, k, negatives) for k in range(plan.num_steps)]


def _families(plan: Plan, part: Part, k: int, negatives: np.ndarray | None) -> np.ndarray:
    latents, each = part.steps[k].parents, np.arange(len(part.steps[k].parents))
    alone = np.asarray(plan.fresh(k), dtype=bool)
    if negatives is None:
        return first_alike(latents, np.where(alone, each, -1))
    leaves, clusters = part.means_of(k)
    own, mixed = of_clusters(np.asarray(negatives)[leaves], clusters, len(latents))
    return first_alike(latents, own, np.where(alone | mixed, each, -1))


def of_clusters(values: np.ndarray, clusters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What clusters are made of, and whether it is more than one thing.

    Parameters
    ----------
    values : (F,) int64 array
        Of each leaf that counts in a mean.
    clusters : (F,) int64 array
        Its cluster.
    count : int
        Clusters, C.

    Returns
    -------
    values : (C,) int64 array
        The least of each cluster.
    mixed : (C,) bool array
    """
    least, most = (np.full(count, value, dtype=np.int64) for value in (np.iinfo(np.int64).max, -1))
    np.minimum.at(least, clusters, values)
    np.maximum.at(most, clusters, values)
    return least, least != most


def first_alike(*keys: np.ndarray) -> np.ndarray:
    """The first place at which all keys, (C,) int64 each, are what they are at each place: (C,) int64."""
    _, first, of = np.unique(np.stack(keys), axis=1, return_index=True, return_inverse=True)
    return first[of.reshape(-1)].astype(np.int64)


def families_of_part(families: Sequence[np.ndarray], part: Part) -> list[np.ndarray]:
    """Families of a whole run as a part of it has them, whose clusters take no row of another part's.

    Parameters
    ----------
    families : list of K (C_k,) int64 arrays
        From `unconditional_families`.
    part : Part
        Of the same plan.

    Returns
    -------
    families : list of K (C_k,) int64 arrays
        Clusters of its steps that are not in the part are families of their own; other steps' are as they were.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.part import below, whole
    >>> plan = build_plan(np.array([[0, 1, 0.2, 2], [2, 3, 0.5, 3]]), [0.6, 0.4, 0.1, 0])
    >>> part = below(whole(plan), 2, np.array([1, 2]))
    >>> [own.tolist() for own in families_of_part(unconditional_families(plan), part)]
    [[0], [0, 0], [0, 1, 2], [0, 1, 2]]
    """
    found = list(families)
    for k, step in enumerate(part.steps, part.start):
        found[k] = np.arange(len(found[k]), dtype=np.int64)
        found[k][step.clusters] = step.clusters[first_alike(families[k][step.clusters])]
    return found


def rows_of_families(families: Sequence[np.ndarray]) -> np.ndarray:
    """Unconditional rows of each step, if all of them are guided: (K,) int64."""
    return np.array([int((own == np.arange(len(own))).sum()) for own in families], dtype=np.int64)


def shares_rows(device: str) -> bool:
    """Whether unconditional rows are shared on a kind of device, such as "cuda".

    Not on a CPU: there a guidance pair is one call of two rows, and matrix libraries round a row otherwise in a call of
    another size. Pictures would differ by rounding from what they were.
    """
    return device != "cpu"
