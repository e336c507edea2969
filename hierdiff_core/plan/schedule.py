"""Falling thresholds, and the threshold that meets a budget of UNet rows.

Legend: K steps, tau = threshold at the first step, s_k = falling shape from 1 to 0, phi_k = tau * s_k,
NFE = number of function evaluations = sum over the steps of the number of clusters,
w_k = how much an error of the conditioning at step k shows in the final image.
"""

import math

import numpy as np
from scipy.optimize import isotonic_regression

from .linkage import METRICS, check_linkage

SHAPES = ("linear", "cosine", "power", "calibrated")

# Thresholds are products of rounded floats: stay this far (relatively) above the height that has to merge.
CLEARANCE = 1e-9
# Weights below this share of the largest count as equal: quotients of rounding errors shape no schedule.
FAINTEST = 1e-12


def falling_shape(num_steps, name="linear", private_steps=1, *, power=2.0, weights=None, metric="chord"):
    """How the threshold falls from its first value to 0: s_k, of which phi_k = tau * s_k.

    Parameters
    ----------
    num_steps : int >= 1       denoising steps K
    name : "linear", "cosine", "power" or "calibrated"
        "linear" is the paper's straight line r_k = 1 - k / (K - 1); "cosine" is (1 - cos(pi r)) / 2; "power" is
        r ** power; "calibrated" spends a budget where it shows, see `calibrated_shape`
    private_steps : int >= 1   how many last steps have threshold 0, so that every prompt takes them alone
    power : float > 0          exponent of "power"; 1 is the straight line
    weights : (K,) float       w_k of "calibrated", from `Sensitivity.weights(num_steps)`
    metric : str               the linkage's metric, for "calibrated"

    Returns
    -------
    shape : (K,) float64   non-increasing, from 1 to 0 (with one step, or private steps only: all 0)

    Raises
    ------
    ValueError  if a value is out of range, or `weights` are missing.

    Source: Decatur et al. 2025, equation 7, for "linear".
    """
    _check_steps(num_steps, private_steps)
    if name not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}; got {name!r}")
    line = np.linspace(0, 1, num_steps)[::-1]
    if name == "cosine":
        shape = (1 - np.cos(np.pi * line)) / 2
    elif name == "power":
        if not (math.isfinite(power) and power > 0):
            raise ValueError(f"power must be a finite number above 0; got {power}")
        shape = line**power
    elif name == "calibrated":
        if weights is None or len(weights) != num_steps:
            raise ValueError(
                "shape 'calibrated' needs the model's sensitivity at each step; measure it with Calibrate Schedule or "
                "load one with Load Sensitivity, or choose another shape"
            )
        shape = calibrated_shape(weights, private_steps, metric)
    else:
        shape = line.copy()
    shape[num_steps - private_steps :] = 0
    return shape


def calibrated_shape(weights, private_steps=1, metric="chord"):
    """The shape for which a budget of UNet rows leaves the least expected distortion.

    Parameters
    ----------
    weights : (K,) float >= 0   w_k, see `hierdiff_core.plan.sensitivity`
    private_steps : int >= 1    the last steps, which are not shared
    metric : "chord" or "cosine"

    Returns
    -------
    shape : (K,) float64

    Notes
    -----
    With "chord", a merge at height h adds h**2 / 2 to the squared error SSE_k of the conditioning, so that
    sum_k (w_k SSE_k + lambda clusters_k) is least when each merge is cut where w_k h**2 / 2 = lambda:
    phi_k = sqrt(2 lambda / w_k). Clusters that were split cannot join again, so w_k must not fall: each merge's best
    step lies on the lower convex hull of the running sum of w_k, whose slopes are the isotonic regression of w_k.
    Every NFE that a tau of this shape reaches is reached with the least sum_k w_k SSE_k of all nested clusterings
    along the tree (tests/test_schedule.py searches them all).

    "cosine" heights are squared chord heights, halved, as far as pairs of prompts go: there phi_k is taken as
    proportional to 1 / w_k, which is not exact.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError("weights must be finite, not negative and not all 0; calibrate again")
    if not FAINTEST * weights.max():  # so small that a share of it is no number any more
        weights = weights / weights.max()
    shape = np.zeros(len(weights))
    shared = weights[: len(weights) - private_steps]
    if len(shared):
        rising = np.maximum(isotonic_regression(shared).x, FAINTEST * weights.max())
        shape[: len(shared)] = (rising[0] / rising) ** (0.5 if metric == "chord" else 1.0)
    return shape


def linear_thresholds(num_steps, tau, private_steps=1):
    """The paper's straight line from `tau` to 0.

    Parameters
    ----------
    num_steps : int >= 1       denoising steps K
    tau : float >= 0           threshold at the first step, in the linkage's own metric
    private_steps : int >= 1   how many last steps have threshold 0, so that every prompt takes them alone

    Returns
    -------
    thresholds : (K,) float64   non-increasing, the last is 0

    Raises
    ------
    ValueError  if `tau` is negative or not finite, or `private_steps` is not in 1 ... K.

    Notes
    -----
    Follows the paper's code, ``np.linspace(0, tau, K)[::-1]``: equation 7 of the paper, tau (1 - k/K), never
    reaches 0. With one step the only threshold is 0: nothing is shared.

    Source: Decatur et al. 2025, equation 7 and Algorithm 1.
    """
    _check_steps(num_steps, private_steps)
    _check_tau(tau)
    thresholds = np.linspace(0, tau, num_steps)[::-1].copy()
    thresholds[num_steps - private_steps :] = 0
    return thresholds


def thresholds_at(tau, shape, Z=None):
    """phi_k = tau * s_k.

    Parameters
    ----------
    tau : float >= 0      threshold at the first step, in the linkage's own metric
    shape : (K,) float    from `falling_shape`
    Z : linkage matrix, optional   thresholds are cut off at its root, which changes no cluster. Calibrated shapes span
        many powers of ten, and what lies above the root says nothing

    Returns
    -------
    thresholds : (K,) float64
    """
    _check_tau(tau)
    thresholds = tau * np.asarray(shape, dtype=np.float64)
    return thresholds if Z is None else np.minimum(thresholds, tau_for_root_share(Z, 1.0))


def tau_for_root_share(Z, share):
    """`tau` as a share of the root's height, which makes it comparable between sets and encoders.

    Parameters
    ----------
    Z : (N-1, 4) float64   linkage matrix
    share : float >= 0     1 starts with one cluster for all prompts

    Returns
    -------
    tau : float   height in the linkage's own metric (0 for a single prompt)
    """
    Z = check_linkage(Z)
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"root share must be a finite number >= 0; got {share}")
    return float(share * Z[-1, 2]) if len(Z) else 0.0


def reachable_saving(Z, shape):
    """Least and greatest share of UNet rows that some `tau` saves.

    Parameters
    ----------
    Z : (N-1, 4) float64   linkage matrix
    shape : (K,) float     from `falling_shape`

    Returns
    -------
    least, greatest : float   in 0 ... 1. `least` is 0: prompts with equal embeddings are drawn once in any case, and
        that is no saving
    """
    distinct = _distinct_heights(Z)
    return 0.0, len(distinct) * np.count_nonzero(shape) / ((len(distinct) + 1) * len(shape))


def tau_for_saving(Z, shape, saving, *, clamp=False):
    """Smallest `tau` for which thresholds of this shape save at least the share `saving` of the UNet rows.

    Parameters
    ----------
    Z : (N-1, 4) float64        linkage matrix
    shape : (K,) float          from `falling_shape`
    saving : float in 0 ... 1   1 - NFE / (M K), of the M prompts that differ
    clamp : bool                save as much as can be saved where that is less than `saving`; `out_of_reach` says so

    Returns
    -------
    tau : float   height in the linkage's own metric

    Raises
    ------
    ValueError  if `saving` is negative or not a number, or without `clamp` if it is more than any `tau` can save (the
        message says what is reachable).

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


def _check_tau(tau):
    if not (math.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must be a finite height >= 0; got {tau}")


def _check_steps(num_steps, private_steps):
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}")
    if not 1 <= private_steps <= num_steps:
        raise ValueError(f"private_steps must lie between 1 and the number of steps ({num_steps}); got {private_steps}")
