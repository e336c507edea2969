"""The threshold that meets a budget of UNet rows.

Legend: K steps, tau = threshold at the first step, s_k = falling shape from 1 to 0,
NFE = number of function evaluations = sum over the steps of the number of clusters.
"""

import math

import numpy as np

from .linkage import check_linkage

# Thresholds are products of rounded floats: stay this far (relatively) above the height that has to merge.
CLEARANCE = 1e-9


def tau_for_root_share(Z, share):
    """`tau` as a share of the root's height, which makes it comparable between sets and encoders.

    Parameters
    ----------
    Z : (N-1, 4) float64
        linkage matrix
    share : float >= 0
        1 starts with one cluster for all prompts

    Returns
    -------
    tau : float
        height in the linkage's own metric (0 for a single prompt)
    """
    Z = check_linkage(Z)
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"root share must be a finite number >= 0; got {share}")
    return float(share * Z[-1, 2]) if len(Z) else 0.0


def reachable_saving(Z, shape):
    """Least and greatest share of UNet rows that some `tau` saves.

    Parameters
    ----------
    Z : (N-1, 4) float64
        linkage matrix
    shape : (K,) float
        from `falling_shape`

    Returns
    -------
    least, greatest : float
        in 0 ... 1. `least` is 0: prompts with equal embeddings are drawn once in any case, and that is no saving
    """
    distinct = _distinct_heights(Z)
    return 0.0, len(distinct) * np.count_nonzero(shape) / ((len(distinct) + 1) * len(shape))


def tau_for_saving(Z, shape, saving, *, clamp=False):
    """Smallest `tau` for which thresholds of this shape save at least the share `saving` of the UNet rows.

    Parameters
    ----------
    Z : (N-1, 4) float64
        linkage matrix
    shape : (K,) float
        from `falling_shape`
    saving : float in 0 ... 1
        1 - NFE / (M K), of the M prompts that differ
    clamp : bool
        save as much as can be saved where that is less than `saving`; `out_of_reach` says so

    Returns
    -------
    tau : float
        height in the linkage's own metric

    Raises
    ------
    ValueError
        if `saving` is negative or not a number, or without `clamp` if it is more than any `tau` can save (the message
        says what is reachable).

    Notes
    -----
    The M - 1 heights h_j above 0 and the shape s_k give NFE(tau) = K M - #{(j, k) : h_j <= tau s_k}, a decreasing step
    function with breakpoints h_j / s_k, so tau is an order statistic. Breakpoints that tie fall together: what is saved
    may be a little more than was asked for, and `Plan.saved` says how much.
    """
    shape = np.asarray(shape, dtype=np.float64)
    greatest = reachable_saving(Z, shape)[1]
    if not (math.isfinite(saving) and saving >= 0) or (saving > greatest + CLEARANCE and not clamp):
        raise ValueError(_saving_refused(Z, shape, saving, greatest))
    heights = _distinct_heights(Z)
    breakpoints = np.divide.outer(heights, shape[shape > 0]).ravel()
    # rows to do without; rounded down where float error alone asks for one more
    rows = math.ceil(min(saving, greatest) * (len(heights) + 1) * len(shape) - CLEARANCE)
    if rows <= 0:
        return 0.0
    rows = min(rows, len(breakpoints))
    return float(np.partition(breakpoints, rows - 1)[rows - 1] * (1 + CLEARANCE))


def out_of_reach(Z, shape, saving):
    """Why less than `saving` can be saved, in words; None where it is within reach. As for `tau_for_saving`."""
    greatest, prompts, steps = reachable_saving(Z, shape)[1], len(_distinct_heights(Z)) + 1, len(shape)
    if saving <= greatest + CLEARANCE:
        return None
    asked = f"saving {saving:g} ({saving:.1%}) is out of reach"
    if saving > 1:
        asked += " (it is a share: 0.6 saves 60 %)"
    private = steps - np.count_nonzero(shape)
    if prompts == 1:
        which = "a single prompt" if len(Z) == 0 else f"{len(Z) + 1} equal prompts, drawn once,"
        return f"{asked}: {which} can share no step, so nothing is saved"
    if private == steps:
        return f"{asked}: {steps} step{'s' * (steps > 1)}, none of them shared, save nothing"
    return f"{asked}: {prompts} prompts in {steps} steps, {private} of them unshared, can save {greatest:.1%} at most"


def _saving_refused(Z, shape, saving, greatest):
    prompts, private = len(_distinct_heights(Z)) + 1, np.count_nonzero(np.asarray(shape) == 0)
    if not greatest and saving > 0:
        return f"{out_of_reach(Z, shape, saving)}; set it to 0, or add steps or prompts"
    return (
        f"saving must lie between 0 and {greatest:.4f} for this set ({prompts} prompts, {len(shape)} steps, "
        f"{private} private); got {saving}. Lower it, or add steps or prompts"
    )


def _distinct_heights(Z):
    """The heights at which prompts that differ merge: merges at height 0 are of duplicates."""
    heights = check_linkage(Z)[:, 2]
    return heights[heights > 0]
