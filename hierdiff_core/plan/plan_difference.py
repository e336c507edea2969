"""How far two plans of the same prompts are apart."""

from __future__ import annotations

import numpy as np

from .plan import Plan


def difference(plan: Plan, other: Plan) -> float:
    """How far two plans of the same prompts and steps are apart.

    Parameters
    ----------
    plan, other : Plan
        Of N prompts and K steps.

    Returns
    -------
    share : float
        Of the steps that pairs of prompts share in either plan, those that they share in one alone: 0 for the same
        clusters, 1 where no pair shares a step in both. One minus the Jaccard index of the pairs, over all steps.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.plan_difference import difference
    >>> Z = [[0, 1, 0.5, 2]]
    >>> difference(build_plan(Z, [0.6, 0.6, 0.6, 0.6, 0]), build_plan(Z, [0.6, 0.6, 0.6, 0, 0]))
    0.25
    """
    both = either = 0.0
    for own, theirs in zip(plan.steps, other.steps, strict=True):
        crossing = np.unique(np.stack([own.labels, theirs.labels]), axis=1, return_counts=True)[1]
        shared = pairs_in(crossing)
        both += shared
        either += pairs_in(own.counts) + pairs_in(theirs.counts) - shared
    return float(1 - both / either) if either else 0.0


def pairs_in(counts: np.ndarray) -> float:
    """Pairs within groups of these sizes."""
    return float((counts.astype(np.float64) * (counts - 1)).sum() / 2)
