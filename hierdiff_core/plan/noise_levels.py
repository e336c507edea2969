"""Noise levels: how much of a latent is noise, 0 ... 1, the same number for every kind of model.

Legend: x = s * picture + n * noise; the level is n / (s + n). Of flow models that is their sigma; of others, whose
sigma is n / s, it is sigma / (1 + sigma): the flow time of the same signal-to-noise ratio.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .checks import is_finite, shown

# A flow model's whole run begins at 1; one of another kind far above it.
FLOW_BEGINS = 0.95


def levels_of_sigmas(sigmas: ArrayLike) -> np.ndarray:
    """Noise levels of the steps of a whole run, by its sigmas alone.

    Parameters
    ----------
    sigmas : (K + 1,) float
        Falling, as ComfyUI's schedulers make them; the last is where the run ends.

    Returns
    -------
    levels : (K,) float64
        At the beginning of each step.

    Raises
    ------
    ValueError
        If the sigmas rise, are negative or not finite, or begin where neither a flow model nor another does.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas must be those of at least one step; got shape {sigmas.shape}")
    if not np.isfinite(sigmas).all() or (sigmas < 0).any() or (np.diff(sigmas) > 0).any():
        raise ValueError("sigmas must be finite, not negative, and not rise from step to step")
    if sigmas[0] < FLOW_BEGINS:
        raise ValueError(
            f"sigmas begin at {sigmas[0]:.4g}, where no whole run does, so that their noise levels are not known: give "
            "those of a whole run (denoise 1)"
        )
    return sigmas[:-1] / (1 + sigmas[:-1]) if sigmas[0] > 1 + 1e-6 else sigmas[:-1].clip(max=1.0)


def unshared_steps(levels: ArrayLike, share_above: float, at_least: int = 1) -> int:
    """How many final steps are not shared, where steps at a noise level or below are not.

    Parameters
    ----------
    levels : (K,) float
        Noise levels of the steps.
    share_above : float
        Steps above this noise level, 0 ... 1, may be shared.
    at_least : int
        Steps that are not shared whatever their level.

    Returns
    -------
    count : int
        For `Profile.private_steps`: from the first step at the level or below on.

    Raises
    ------
    ValueError
        If the level is none.

    Examples
    --------
    >>> from hierdiff_core.plan.noise_levels import unshared_steps
    >>> unshared_steps([1, 0.8, 0.6, 0.4, 0.2], 0.6)
    3
    """
    if not (is_finite(share_above) and 0 <= share_above <= 1):
        raise ValueError(f"share_above must be a noise level from 0 to 1; got {shown(share_above)}")
    low = np.asarray(levels, dtype=np.float64) <= share_above
    count = len(low) - int(low.argmax()) if low.any() else 0
    return max(count, at_least)
