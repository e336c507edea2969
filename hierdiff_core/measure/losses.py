"""What was lost against full sampling of the same prompts, and how sure that is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SURE = 2.0  # standard errors that full sampling must be above nothing


def relative_loss(values: ArrayLike, full: ArrayLike) -> np.ndarray:
    """What pictures lost of a value that full sampling of the same prompts has, as a share of its mean.

    Parameters
    ----------
    values : (N,) or (S, N) float
        Of the pictures, such as their `adherence`; S seeds of N prompts.
    full : same shape
        Of full sampling: the same prompts, seeds and noise.

    Returns
    -------
    losses : same shape, float64
        ``(full - values) / mean(full)``: on average 0 as good as full sampling, 1 nothing left of it, negative better.

    Raises
    ------
    ValueError
        If the shapes differ, or full sampling itself is not above 0 by more than chance.

    Notes
    -----
    Differences are divided by the mean of all pictures, never by a picture's own value, which may be near 0.
    """
    these, theirs = np.asarray(values, dtype=np.float64), np.asarray(full, dtype=np.float64)
    if these.shape != theirs.shape:
        raise ValueError(f"values and full must be of the same pictures; got shapes {these.shape} and {theirs.shape}")
    mean, error = mean_and_error(theirs)
    if not mean > SURE * (error if np.isfinite(error) else 0):
        raise ValueError(
            f"the prompts hardly show in full sampling's own pictures (adherence {mean:.3f} ± {error:.3f}), so a loss "
            "cannot be told from chance; take more samples, or compare with full sampling by squared distance"
        )
    return (theirs - these) / mean


def mean_and_error(losses: ArrayLike) -> tuple[float, float]:
    """The mean over pictures, and its standard error.

    Parameters
    ----------
    losses : (N,) or (S, N) float
        Of N prompts; with S seeds the seeds are averaged first, since pictures of one prompt are alike.

    Returns
    -------
    mean : float
        Over all pictures.
    error : float
        Standard error over the prompts; infinity for a single prompt.

    Examples
    --------
    >>> from hierdiff_core.measure.losses import mean_and_error
    >>> mean_and_error([0.0, 0.1, 0.2, 0.1])[0]
    0.1
    """
    prompts = np.atleast_2d(np.asarray(losses, dtype=np.float64)).mean(axis=0)
    if prompts.size == 0:
        raise ValueError("there is no picture to take a mean of")
    error = prompts.std(ddof=1) / len(prompts) ** 0.5 if len(prompts) > 1 else np.inf
    return float(prompts.mean()), float(error)
