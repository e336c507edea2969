"""How the threshold falls over the steps.

Legend: K steps, tau = threshold at the first step, s_k = falling shape from 1 to 0, phi_k = tau * s_k,
w_k = how much an error of the conditioning at step k shows in the final image.
"""

import math

import numpy as np
from scipy.optimize import isotonic_regression

from .budget import tau_for_root_share
from .linkage import METRICS

SHAPES = ("linear", "cosine", "power", "calibrated")

# Weights below this share of the largest count as equal: quotients of rounding errors shape no schedule.
FAINTEST = 1e-12


def falling_shape(num_steps, name="linear", private_steps=1, *, power=2.0, weights=None, metric="chord"):
    """How the threshold falls from its first value to 0: s_k, of which phi_k = tau * s_k.

    Parameters
    ----------
    num_steps : int >= 1
        denoising steps K
    name : "linear", "cosine", "power" or "calibrated"
        "linear" is the paper's straight line r_k = 1 - k / (K - 1); "cosine" is (1 - cos(pi r)) / 2; "power" is
        r ** power; "calibrated" spends a budget where it shows, see `calibrated_shape`
    private_steps : int >= 1
        how many last steps have threshold 0, so that every prompt takes them alone
    power : float > 0
        exponent of "power"; 1 is the straight line
    weights : (K,) float
        w_k of "calibrated", from `Sensitivity.weights(num_steps)`
    metric : str
        the linkage's metric, for "calibrated"

    Returns
    -------
    shape : (K,) float64
        non-increasing, from 1 to 0 (with one step, or private steps only: all 0)

    Raises
    ------
    ValueError
        if a value is out of range, or `weights` are missing.

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
    weights : (K,) float >= 0
        w_k, see `hierdiff_core.plan.sensitivity`
    private_steps : int >= 1
        the last steps, which are not shared
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
    num_steps : int >= 1
        denoising steps K
    tau : float >= 0
        threshold at the first step, in the linkage's own metric
    private_steps : int >= 1
        how many last steps have threshold 0, so that every prompt takes them alone

    Returns
    -------
    thresholds : (K,) float64
        non-increasing, the last is 0

    Raises
    ------
    ValueError
        if `tau` is negative or not finite, or `private_steps` is not in 1 ... K.

    Notes
    -----
    Follows the paper's code, ``np.linspace(0, tau, K)[::-1]``: equation 7 of the paper, tau (1 - k/K), never
    reaches 0. With one step the only threshold is 0: nothing is shared.

    Source: Decatur et al. 2025, equation 7 and Algorithm 1.
    """
    _check_steps(num_steps, private_steps)
    check_tau(tau)
    thresholds = np.linspace(0, tau, num_steps)[::-1].copy()
    thresholds[num_steps - private_steps :] = 0
    return thresholds


def thresholds_at(tau, shape, Z=None):
    """phi_k = tau * s_k.

    Parameters
    ----------
    tau : float >= 0
        threshold at the first step, in the linkage's own metric
    shape : (K,) float
        from `falling_shape`
    Z : linkage matrix, optional
        thresholds are cut off at its root, which changes no cluster. Calibrated shapes span many powers of ten, and
        what lies above the root says nothing

    Returns
    -------
    thresholds : (K,) float64
    """
    check_tau(tau)
    thresholds = tau * np.asarray(shape, dtype=np.float64)
    return thresholds if Z is None else np.minimum(thresholds, tau_for_root_share(Z, 1.0))


def check_tau(tau):
    if not (math.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must be a finite height >= 0; got {tau}")


def _check_steps(num_steps, private_steps):
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}")
    if not 1 <= private_steps <= num_steps:
        raise ValueError(f"private_steps must lie between 1 and the number of steps ({num_steps}); got {private_steps}")
