"""How much is shared, and the thresholds that meet it: `thresholds_for` is the one place that makes them.

Legend: K steps, tau = threshold at the first step, s_k = falling shape from 1 to 0,
NFE = number of function evaluations = sum over the steps of the number of clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .checks import is_finite, shown
from .keys import hashed
from .linkage import check_linkage
from .profile import Profile, thresholds_at
from .seeds import within_trees
from .tree import PromptTree

UNITS = ("tau", "root share", "saving")

# Thresholds are products of rounded floats: stay this far (relatively) above the height that has to merge.
CLEARANCE = 1e-9


@dataclass(frozen=True)
class Budget:
    """How much a set is to share, in any of three units.

    Attributes
    ----------
    unit : "tau", "root share" or "saving"
        Of the value. tau: height of the first threshold (the paper). root share: the same as a share of the tree's
        height. saving: share of the UNet rows to save.
    value : float >= 0
        In this unit.
    clamp : bool
        Save as much as can be saved where that is less than a saving asks for; `missed` says so. Without it, such a
        budget is refused.

    Raises
    ------
    ValueError
        If the unit is unknown, or the value is negative or not finite.

    Examples
    --------
    >>> from hierdiff_core import Budget, Profile, PromptTree
    >>> tree, profile = PromptTree([[0, 1, 0.2, 2], [2, 3, 0.5, 3]]), Profile(4)
    >>> Budget("root share", 0.5).tau(tree, profile)
    0.25
    >>> Budget("saving", 0.9, clamp=True).missed(tree, profile)
    'saving 0.9 (90.0%) is out of reach: 3 prompts in 4 steps, 1 of them unshared, can save 50.0% at most'
    """

    unit: str
    value: float
    clamp: bool = False

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit of a budget must be one of {', '.join(UNITS)}; got {self.unit!r}")
        if not (is_finite(self.value) and self.value >= 0):
            raise ValueError(f"{self.unit} must be a finite number >= 0; got {shown(self.value)}")

    def tau(self, tree: PromptTree, profile: Profile) -> float:
        """Threshold at the first step.

        Parameters
        ----------
        tree : PromptTree
            To be cut.
        profile : Profile
            How the threshold falls.

        Returns
        -------
        tau : float
            Height in the tree's own metric.

        Raises
        ------
        ValueError
            If a saving is out of reach, and the budget is not to be clamped.
        """
        if self.unit == "tau":
            return self.value
        if self.unit == "root share":
            return self.value * tree.root_height
        shape = profile.falling(tree.metric)
        return tau_for_saving(tree.Z, shape, self.value, clamp=self.clamp, trees=tree.num_trees)

    def missed(self, tree: PromptTree, profile: Profile) -> str | None:
        """Why a saving cannot be met, in words; None where it can, and for other units, which take any value."""
        if self.unit != "saving":
            return None
        return out_of_reach(tree.Z, profile.falling(tree.metric), self.value, trees=tree.num_trees)


def thresholds_for(tree: PromptTree, budget: Budget, profile: Profile) -> np.ndarray:
    """The thresholds that share as much of a tree as a budget says.

    Parameters
    ----------
    tree : PromptTree
        To be cut.
    budget : Budget
        How much is shared.
    profile : Profile
        How the threshold falls.

    Returns
    -------
    thresholds : (K,) float64
        Non-increasing, the last is 0. Those of shape "calibrated" are cut off at the root, see `thresholds_at`.

    Raises
    ------
    ValueError
        If a saving is out of reach, and the budget is not to be clamped.
    """
    tau = budget.tau(tree, profile)
    thresholds = thresholds_at(tau, profile.falling(tree.metric), tree.Z if profile.shape == "calibrated" else None)
    return tree.within(thresholds)


def asked(tree: PromptTree, budget: Budget, profile: Profile) -> dict[str, Any]:
    """What a schedule was asked for, as JSON's types: `Plan.made_by`.

    Two schedules with the same are one schedule, of other prompts perhaps. Of a sensitivity the weights count, and
    only where the shape follows them.
    """
    found = {
        "unit": budget.unit,
        "value": float(budget.value),
        "steps": profile.num_steps,
        "shape": profile.shape,
        "unshared steps": profile.private_steps,
        "metric": tree.metric,
    }
    if profile.shape == "power":
        found["power"] = float(profile.power)
    if profile.shape == "calibrated" and profile.sensitivity is not None:
        weights = profile.sensitivity.weights(profile.num_steps)
        found["sensitivity"] = f"{hashed(np.round(weights / weights.sum(), 6).tobytes()):016x}"
    return found


def tau_for_root_share(Z: ArrayLike, share: float) -> float:
    """`tau` as a share of the root's height, which makes it comparable between sets and encoders.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix.
    share : float >= 0
        1 starts with one cluster for all prompts.

    Returns
    -------
    tau : float
        Height in the linkage's own metric (0 for a single prompt).

    Raises
    ------
    ValueError
        If the share is negative or not finite.

    Examples
    --------
    >>> from hierdiff_core import tau_for_root_share
    >>> tau_for_root_share([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], 0.5)
    0.25
    """
    Z = check_linkage(Z)
    if not (is_finite(share) and share >= 0):
        raise ValueError(f"root share must be a finite number >= 0; got {shown(share)}")
    return float(share * Z[-1, 2]) if len(Z) else 0.0


def reachable_saving(Z: ArrayLike, shape: ArrayLike, *, trees: int = 1) -> tuple[float, float]:
    """Least and greatest share of UNet rows that some `tau` saves.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix.
    shape : (K,) float
        From `falling_shape`.
    trees : int
        How many trees `Z` joins by its last merges, which nothing shares (`PromptTree.num_trees`).

    Returns
    -------
    least, greatest : float
        In 0 ... 1. `least` is 0: prompts with equal embeddings are drawn once in any case, and that is no saving.

    Examples
    --------
    >>> from hierdiff_core import falling_shape, reachable_saving
    >>> reachable_saving([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], falling_shape(4))
    (0.0, 0.5)
    """
    shape, distinct = np.asarray(shape), _distinct_heights(Z, trees)
    return 0.0, len(distinct) * int(np.count_nonzero(shape)) / ((len(distinct) + trees) * len(shape))


def tau_for_saving(Z: ArrayLike, shape: ArrayLike, saving: float, *, clamp: bool = False, trees: int = 1) -> float:
    """Smallest `tau` for which thresholds of this shape save at least the share `saving` of the UNet rows.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix.
    shape : (K,) float
        From `falling_shape`.
    saving : float in 0 ... 1
        The share 1 - NFE / (M K), of the M prompts that differ.
    clamp : bool
        Save as much as can be saved where that is less than `saving`; `out_of_reach` says so.
    trees : int
        How many trees `Z` joins by its last merges, which nothing shares (`PromptTree.num_trees`).

    Returns
    -------
    tau : float
        Height in the linkage's own metric.

    Raises
    ------
    ValueError
        If `saving` is negative or not a number, or without `clamp` if it is more than any `tau` can save (the message
        says what is reachable).

    Notes
    -----
    The M - 1 heights h_j above 0 (M - G in G trees) and the shape s_k give NFE(tau) = K M - #{(j, k) : h_j <= tau s_k},
    a decreasing step function with breakpoints h_j / s_k, so tau is an order statistic. Breakpoints that tie fall
    together: what is saved may be a little more than was asked for, and `Plan.saved` says how much.

    Examples
    --------
    >>> from hierdiff_core import falling_shape, tau_for_saving
    >>> Z = [[0, 1, 0.2, 2], [2, 3, 0.5, 3]]
    >>> round(tau_for_saving(Z, falling_shape(4), 0.25), 6)
    0.5
    >>> tau_for_saving(Z, falling_shape(4), 0.9, clamp=True) == tau_for_saving(Z, falling_shape(4), 0.5)
    True
    """
    shape = np.asarray(shape, dtype=np.float64)
    greatest = reachable_saving(Z, shape, trees=trees)[1]
    if not (is_finite(saving) and saving >= 0) or (saving > greatest + CLEARANCE and not clamp):
        raise ValueError(_saving_refused(Z, shape, saving, greatest, trees))
    heights = _distinct_heights(Z, trees)
    breakpoints = np.divide.outer(heights, shape[shape > 0]).ravel()
    # rows to do without; rounded down where float error alone asks for one more
    rows = math.ceil(min(saving, greatest) * (len(heights) + trees) * len(shape) - CLEARANCE)
    if rows <= 0:
        return 0.0
    rows = min(rows, len(breakpoints))
    return float(np.partition(breakpoints, rows - 1)[rows - 1] * (1 + CLEARANCE))


def out_of_reach(Z: ArrayLike, shape: ArrayLike, saving: float, *, trees: int = 1) -> str | None:
    """Why less than `saving` can be saved, in words; None where it is within reach."""
    Z, shape = np.asarray(Z), np.asarray(shape)
    greatest, steps = reachable_saving(Z, shape, trees=trees)[1], len(shape)
    prompts = len(_distinct_heights(Z, trees)) + trees
    if saving <= greatest + CLEARANCE:
        return None
    asked = f"saving {saving:g} ({saving:.1%}) is out of reach"
    if saving > 1:
        asked += " (it is a share: 0.6 saves 60 %)"
    unshared = steps - np.count_nonzero(shape)
    if prompts == trees > 1:
        return f"{asked}: each of {trees} seeds has one prompt, and prompts of different seeds share no step"
    if prompts == 1:
        which = "a single prompt" if len(Z) == 0 else f"{len(Z) + 1} equal prompts, sampled once,"
        return f"{asked}: {which} can share no step, so nothing is saved"
    if unshared == steps:
        return f"{asked}: {steps} step{'s' * (steps > 1)}, none of them shared, save nothing"
    what = f"{prompts} prompts of {trees} seeds" if trees > 1 else f"{prompts} prompts"
    return f"{asked}: {what} in {steps} steps, {unshared} of them unshared, can save {greatest:.1%} at most"


def _saving_refused(Z: ArrayLike, shape: np.ndarray, saving: float, greatest: float, trees: int) -> str:
    prompts, unshared = len(_distinct_heights(Z, trees)) + trees, np.count_nonzero(shape == 0)
    if not greatest and saving > 0:
        return f"{out_of_reach(Z, shape, saving, trees=trees)}; set it to 0, or add steps or prompts"
    return (
        f"saving must lie between 0 and {greatest:.4f} for this set ({prompts} prompts, {len(shape)} steps, "
        f"{unshared} unshared); got {saving}. Lower it, or add steps or prompts"
    )


def _distinct_heights(Z: ArrayLike, trees: int = 1) -> np.ndarray:
    """The heights at which prompts that differ merge: merges at height 0 are of duplicates."""
    heights = within_trees(check_linkage(Z), trees)[:, 2]
    return heights[heights > 0]
