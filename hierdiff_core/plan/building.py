"""Plans of trees: for a budget, or for thresholds that are given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from .algebra import with_variants
from .budget import Budget, asked, thresholds_for
from .checks import check_lengths, check_thresholds, checked_keys
from .linkage import check_linkage, cut
from .plan import Plan
from .profile import Profile
from .seeds import check_apart, checked_seeds
from .sensitivity import Sensitivity
from .steps import linked_steps
from .tree import PromptTree


def plan_for(tree: PromptTree, budget: Budget, profile: Profile) -> Plan:
    """Plan a set: cut the tree so that as much is shared as the budget says.

    Parameters
    ----------
    tree : PromptTree
        What is to be drawn.
    budget : Budget
        How much is shared.
    profile : Profile
        How the threshold falls over the steps.

    Returns
    -------
    plan : Plan
        It knows the tree's prompts, keys and errors, and the profile's sensitivity.

    Raises
    ------
    ValueError
        If the budget is out of reach, and not to be clamped.

    Examples
    --------
    >>> from hierdiff_core import Budget, Profile, PromptTree, plan_for
    >>> tree = PromptTree.of([[1, 0], [0.8, 0.6], [0, 1]], "chord", ["a cat", "a lynx", "a bus"])
    >>> plan = plan_for(tree, Budget("saving", 0.4), Profile(10))
    >>> plan.clusters_per_step.tolist(), round(plan.saved, 3)
    ([1, 1, 1, 1, 1, 2, 2, 3, 3, 3], 0.4)
    """
    plan = build_plan(
        tree.Z,
        thresholds_for(tree, budget, profile),
        tree.keys,
        tree.errors,
        profile.sensitivity,
        tree.prompts,
        tree.seeds,
    )
    plan = replace(plan, metric=tree.metric, made_by=asked(tree, budget, profile), vectors=tree.vectors)
    return with_variants(plan, tree.variants or ())


def build_plan(
    Z: ArrayLike,
    thresholds: ArrayLike,
    prompt_keys: Iterable[int] | None = None,
    merge_errors: np.ndarray | None = None,
    sensitivity: Sensitivity | None = None,
    prompts: Iterable[str] | None = None,
    seeds: Iterable[int | None] | None = None,
) -> Plan:
    """Cut `Z` at each threshold and link every cluster to its parent.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix; (0, 4) for a single prompt.
    thresholds : (K,) float >= 0
        Non-increasing, ending at 0.
    prompt_keys : N ints, optional
        Kept in the plan for samplers that know no texts.
    merge_errors : (N-1,) float64, optional
        For `Plan.distortion`.
    sensitivity : Sensitivity, optional
        For `Plan.distortion`.
    prompts : N str, optional
        Kept in the plan for those who show it.
    seeds : N (int or None), optional
        Of prompts that have a seed of their own.

    Returns
    -------
    plan : Plan
        With as many steps as thresholds.

    Raises
    ------
    ValueError
        If `Z` is no linkage matrix, the thresholds rise, are negative, not finite, or do not end at 0, the other lists
        do not fit `Z`, a key is no whole number from 0 to 2**64, or prompts of different seeds share a step.

    Notes
    -----
    Prompts with equal embeddings merge at height 0 and stay one cluster to the end; `plan.steps[-1].labels`
    fans its latent out to each of them.

    Source: Decatur et al. 2025, Algorithm 1, lines 4-10.

    Examples
    --------
    >>> from hierdiff_core import build_plan, linear_thresholds
    >>> build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], linear_thresholds(5, 0.8)).clusters_per_step.tolist()
    [1, 1, 2, 2, 3]
    """
    Z = check_linkage(Z)
    thresholds = check_thresholds(thresholds)
    keys = checked_keys("prompt_keys", prompt_keys) if prompt_keys is not None else None
    texts = tuple(prompts) if prompts is not None else None
    check_lengths(len(Z) + 1, prompt_keys=keys, merge_errors=merge_errors, prompts=texts)
    own, steps = checked_seeds(seeds, len(Z) + 1), linked_steps(cut(Z, t) for t in thresholds)
    check_apart(steps, own)
    return Plan(thresholds, steps, Z, keys, merge_errors, sensitivity, texts, seeds=own)
