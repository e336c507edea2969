"""Falling thresholds, and the threshold that meets a budget of UNet rows.

Legend: K steps, tau = threshold at the first step, s_k = falling shape from 1 to 0, phi_k = tau * s_k,
NFE = number of function evaluations = sum over the steps of the number of clusters.
"""

import math

import numpy as np

from .linkage import check_linkage

# Thresholds are products of rounded floats: stay this far (relatively) above the height that has to merge.
CLEARANCE = 1e-9


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
    if not (math.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must be a finite height >= 0; got {tau}")
    thresholds = np.linspace(0, tau, num_steps)[::-1].copy()
    thresholds[num_steps - private_steps :] = 0
    return thresholds


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


def reachable_saving(Z, num_steps, private_steps=1):
    """Least and greatest share of UNet rows that some `tau` of the straight line saves.

    Returns
    -------
    least, greatest : float   in 0 ... 1; `least` is above 0 where prompts have equal embeddings
    """
    heights = check_linkage(Z)[:, 2]
    _check_steps(num_steps, private_steps)
    rows = (len(heights) + 1) * num_steps
    equal = np.count_nonzero(heights == 0)
    apart = len(heights) - equal
    return equal * num_steps / rows, (equal * num_steps + apart * (num_steps - private_steps)) / rows


def tau_for_saving(Z, num_steps, saving, private_steps=1):
    """Smallest `tau` for which the straight line saves at least the share `saving` of the UNet rows.

    Parameters
    ----------
    Z : (N-1, 4) float64        linkage matrix
    num_steps : int >= 1        denoising steps K
    saving : float in 0 ... 1   1 - NFE / (N K)
    private_steps : int >= 1    as in `linear_thresholds`

    Returns
    -------
    tau : float   height in the linkage's own metric

    Raises
    ------
    ValueError  if `saving` is more than any `tau` can save (the message says what is reachable).

    Notes
    -----
    Heights h_j and the shape s_k give NFE(tau) = K N - #{(j, k) : h_j <= tau s_k}, a decreasing step function
    with breakpoints h_j / s_k, so tau is an order statistic. Breakpoints that tie fall together: what is saved
    may be a little more than was asked for, and `Plan.saved` says how much.
    """
    least, greatest = reachable_saving(Z, num_steps, private_steps)
    if not 0 <= saving <= greatest + CLEARANCE:
        raise ValueError(
            f"saving must lie between 0 and {greatest:.4f} for this set ({len(Z) + 1} prompts, {num_steps} steps, "
            f"{private_steps} private); got {saving}. Lower it, or add steps or prompts"
        )
    heights = np.asarray(Z, dtype=np.float64)[:, 2]
    shape = linear_thresholds(num_steps, 1.0, private_steps)
    breakpoints = np.divide.outer(heights[heights > 0], shape[shape > 0]).ravel()
    # rows to do without, beyond those of equal embeddings; rounded down where float error alone asks for one more
    rows = math.ceil((saving - least) * (len(heights) + 1) * num_steps - CLEARANCE)
    if rows <= 0:
        return 0.0
    rows = min(rows, len(breakpoints))
    return float(np.partition(breakpoints, rows - 1)[rows - 1] * (1 + CLEARANCE))


def _check_steps(num_steps, private_steps):
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}")
    if not 1 <= private_steps <= num_steps:
        raise ValueError(f"private_steps must lie between 1 and the number of steps ({num_steps}); got {private_steps}")
