"""How the threshold falls over the steps.

Legend: K steps, tau = threshold at the first step, s_k = falling shape from 1 to 0, phi_k = tau * s_k,
w_k = how much an error of the conditioning at step k shows in the final image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from .checks import is_finite, shown, whole_number
from .linkage import check_linkage, check_metric
from .sensitivity import Sensitivity

SHAPES = ("linear", "cosine", "power", "calibrated", "trunk")

# Weights below this share of the largest count as equal: quotients of rounding errors shape no schedule.
FAINTEST = 1e-12


@dataclass(frozen=True, eq=False)
class Profile:
    """How the threshold falls over a run, whatever is shared: the settings of a falling shape.

    Attributes
    ----------
    num_steps : int >= 1
        Denoising steps K.
    shape : "linear", "cosine", "power", "calibrated" or "trunk"
        See `falling_shape`.
    private_steps : int >= 1
        Number of final steps that are not shared.
    power : float > 0
        Exponent of "power".
    sensitivity : Sensitivity, or None
        Of the model that will draw: for "calibrated", and for `Plan.distortion`.

    Raises
    ------
    ValueError
        As `falling_shape`, if a value is out of range or the sensitivity of "calibrated" is missing.

    Examples
    --------
    >>> from hierdiff_core import Profile
    >>> Profile(5, "power", private_steps=2).falling("chord").tolist()
    [1.0, 0.5625, 0.25, 0.0, 0.0]
    """

    num_steps: int
    shape: str = "linear"
    private_steps: int = 1
    power: float = 2.0
    sensitivity: Sensitivity | None = None

    def __post_init__(self) -> None:
        # by what it can do: the pack in a host and the installed library are two copies, each with a class of its own
        if self.sensitivity is not None and not callable(getattr(self.sensitivity, "weights", None)):
            raise ValueError(f"sensitivity must be a Sensitivity or None; got {type(self.sensitivity).__name__}")
        checked = _check_steps(self.num_steps, self.private_steps)
        for name, value in zip(("num_steps", "private_steps"), checked, strict=True):
            object.__setattr__(self, name, value)
        self.falling("chord")  # refuses what makes no shape, of any tree

    def falling(self, metric: str | None) -> np.ndarray:
        """The falling shape for a tree whose heights are of this metric.

        Parameters
        ----------
        metric : "cosine", "chord" or None
            Only "calibrated" needs to know it.

        Returns
        -------
        shape : (K,) float64
            From 1 to 0, see `falling_shape`.
        """
        weights = None
        if self.shape == "calibrated" and self.sensitivity is not None:
            weights = self.sensitivity.weights(self.num_steps)
        return falling_shape(
            self.num_steps, self.shape, self.private_steps, power=self.power, weights=weights, metric=metric
        )


def falling_shape(
    num_steps: int,
    name: str = "linear",
    private_steps: int = 1,
    *,
    power: float = 2.0,
    weights: ArrayLike | None = None,
    metric: str | None = "chord",
) -> np.ndarray:
    """How the threshold falls from its first value to 0: s_k, of which phi_k = tau * s_k.

    Parameters
    ----------
    num_steps : int >= 1
        Denoising steps K.
    name : "linear", "cosine", "power", "calibrated" or "trunk"
        "linear" is the paper's straight line r_k = 1 - k / (K - 1); "cosine" is (1 - cos(pi r)) / 2; "power" is
        r ** power; "calibrated" spends a budget where it shows, see `calibrated_shape`; "trunk" stays at 1 until the
        unshared steps begin: the first clusters, or one trunk of all prompts, down to a noise level
        (`noise_levels.unshared_steps`).
    private_steps : int >= 1
        Number of final steps that are not shared: their threshold is 0.
    power : float > 0
        Exponent of "power"; 1 is the straight line.
    weights : (K,) float
        The w_k of "calibrated", from `Sensitivity.weights(num_steps)`.
    metric : str
        The linkage's metric, for "calibrated".

    Returns
    -------
    shape : (K,) float64
        Non-increasing, from 1 to 0 (with one step, or unshared steps only: all 0).

    Raises
    ------
    ValueError
        If a value is out of range, or `weights` are missing.

    Notes
    -----
    Source: Decatur et al. 2025, equation 7, for "linear".

    Examples
    --------
    >>> from hierdiff_core import falling_shape
    >>> falling_shape(5).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    >>> falling_shape(5, "power", private_steps=2, power=2).tolist()
    [1.0, 0.5625, 0.25, 0.0, 0.0]
    """
    num_steps, private_steps = _check_steps(num_steps, private_steps)
    if name not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}; got {name!r}")
    line = np.linspace(0, 1, num_steps)[::-1]
    if name == "cosine":
        shape = (1 - np.cos(np.pi * line)) / 2
    elif name == "power":
        if not (is_finite(power) and power > 0):
            raise ValueError(f"power must be a finite number above 0; got {shown(power)}")
        shape = line**power
    elif name == "calibrated":
        if weights is None or len(np.asarray(weights)) != num_steps:
            raise ValueError(
                "shape 'calibrated' needs the model's sensitivity at each step; measure it with Calibrate Schedule or "
                "load one with Load Sensitivity, or choose another shape"
            )
        shape = calibrated_shape(weights, private_steps, metric)
    elif name == "trunk":
        shape = np.ones(num_steps)
    else:
        shape = line.copy()
    shape[num_steps - private_steps :] = 0
    return shape


def calibrated_shape(weights: ArrayLike, private_steps: int = 1, metric: str | None = "chord") -> np.ndarray:
    """The shape for which a budget of UNet rows leaves the least expected distortion.

    Parameters
    ----------
    weights : (K,) float >= 0
        The w_k, see `hierdiff_core.plan.sensitivity`.
    private_steps : int >= 1
        Number of final steps that are not shared.
    metric : "chord" or "cosine"
        Of the linkage.

    Returns
    -------
    shape : (K,) float64
        From 1 to 0.

    Notes
    -----
    With "chord", a merge at height h adds h**2 / 2 to the squared error SSE_k of the conditioning, so that
    sum_k (w_k SSE_k + lambda clusters_k) is least when each merge is cut where w_k h**2 / 2 = lambda:
    phi_k = sqrt(2 lambda / w_k). Clusters that were split cannot join again, so w_k must not fall: each merge's best
    step lies on the lower convex hull of the running sum of w_k, whose slopes are the isotonic regression of w_k.
    Every NFE that a tau of this shape reaches is reached with the least sum_k w_k SSE_k of all nested clusterings
    along the tree (tests/plan/test_schedule.py searches them all).

    "cosine" heights are squared chord heights, halved, as far as pairs of prompts go: there phi_k is taken as
    proportional to 1 / w_k, which is not exact.
    """
    w = np.asarray(weights, dtype=np.float64)
    check_metric(metric)
    if not (np.isfinite(w).all() and (w >= 0).all() and w.any()):
        raise ValueError("weights must be finite, not negative and not all 0; calibrate again")
    if not FAINTEST * w.max():  # so small that a share of it is no number any more
        w = w / w.max()
    shape = np.zeros(len(w))
    shared = w[: len(w) - private_steps]
    if len(shared):
        rising = np.maximum(isotonic_regression(shared).x, FAINTEST * w.max())
        shape[: len(shared)] = (rising[0] / rising) ** (0.5 if metric == "chord" else 1.0)
    return shape


def linear_thresholds(num_steps: int, tau: float, private_steps: int = 1) -> np.ndarray:
    """The paper's straight line from `tau` to 0.

    Parameters
    ----------
    num_steps : int >= 1
        Denoising steps K.
    tau : float >= 0
        Threshold at the first step, in the linkage's own metric.
    private_steps : int >= 1
        Number of final steps that are not shared: their threshold is 0.

    Returns
    -------
    thresholds : (K,) float64
        Non-increasing, the last is 0.

    Raises
    ------
    ValueError
        If `tau` is negative or not finite, or `private_steps` is not in 1 ... K.

    Notes
    -----
    Follows the paper's code, ``np.linspace(0, tau, K)[::-1]``: equation 7 of the paper, tau (1 - k/K), never
    reaches 0. With one step the only threshold is 0: nothing is shared.

    Source: Decatur et al. 2025, equation 7 and Algorithm 1.

    Examples
    --------
    >>> from hierdiff_core import linear_thresholds
    >>> linear_thresholds(5, 2.0).tolist()
    [2.0, 1.5, 1.0, 0.5, 0.0]
    """
    num_steps, private_steps = _check_steps(num_steps, private_steps)
    check_tau(tau)
    thresholds = np.linspace(0, tau, num_steps)[::-1].copy()
    thresholds[num_steps - private_steps :] = 0
    return thresholds


def thresholds_at(tau: float, shape: ArrayLike, Z: ArrayLike | None = None) -> np.ndarray:
    """Thresholds phi_k = tau * s_k.

    Parameters
    ----------
    tau : float >= 0
        Threshold at the first step, in the linkage's own metric.
    shape : (K,) float
        From `falling_shape`.
    Z : (N-1, 4) float64, optional
        Linkage matrix. Thresholds are cut off at its root, which changes no cluster: calibrated shapes span many powers
        of ten, and what lies above the root says nothing.

    Returns
    -------
    thresholds : (K,) float64
        Non-increasing, the last is 0.

    Raises
    ------
    ValueError
        If `tau` is negative or not finite.

    Examples
    --------
    >>> from hierdiff_core import falling_shape, thresholds_at
    >>> thresholds_at(2.0, falling_shape(5)).tolist()
    [2.0, 1.5, 1.0, 0.5, 0.0]
    >>> thresholds_at(2.0, falling_shape(5), [[0, 1, 0.7, 2]]).tolist()
    [0.7, 0.7, 0.7, 0.5, 0.0]
    """
    check_tau(tau)
    thresholds = tau * np.asarray(shape, dtype=np.float64)
    if Z is None:
        return thresholds
    Z = check_linkage(Z)
    return np.minimum(thresholds, Z[-1, 2] if len(Z) else 0.0)


def check_tau(tau: float) -> None:
    """`ValueError` for what is no finite height."""
    if not (is_finite(tau) and tau >= 0):
        raise ValueError(f"tau must be a finite height >= 0; got {shown(tau)}")


def _check_steps(num_steps: int, private_steps: int) -> tuple[int, int]:
    num_steps, private_steps = whole_number("num_steps", num_steps, 1), whole_number("private_steps", private_steps)
    if not 1 <= private_steps <= num_steps:
        raise ValueError(f"private_steps must lie between 1 and the number of steps ({num_steps}); got {private_steps}")
    return num_steps, private_steps
