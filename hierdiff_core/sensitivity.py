"""How much sharing a step shows in the final image: measured once for a model, kept as JSON.

Legend: K steps, u = embedding scaled to length 1, G(b) = squared change of the final latent (mean over its elements)
when the first b steps are shared, per squared distance of u from the shared mean; w_k = G(k + 1) - G(k).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

FORMAT = "hierdiff-sensitivity-1"
# Changes below this share of the largest are rounding errors of the networks.
FAINTEST = 1e-9


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What `hierdiff_core.calibration` measures.

    Attributes
    ----------
    num_steps : int                steps K of the runs that were compared
    shared_steps : (B,) int64      increasing, 1 ... K: how many first steps were shared
    change : (B,) float64          G of each
    settings : dict                what it was measured with: model, scheduler, guidance and so on; strings and numbers

    Raises
    ------
    ValueError  if lengths or values do not fit.

    Notes
    -----
    Errors of the conditioning at successive steps point the same way and add up, so the change is measured over all
    the first b steps together, and w_k are its increments; perturbing each step alone would miss their sum.
    """

    num_steps: int
    shared_steps: np.ndarray
    change: np.ndarray
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        shared, change = np.asarray(self.shared_steps, dtype=np.int64), np.asarray(self.change, dtype=np.float64)
        object.__setattr__(self, "shared_steps", shared)
        object.__setattr__(self, "change", change)
        if shared.ndim != 1 or len(shared) == 0 or shared.shape != change.shape:
            raise ValueError(f"shared_steps and change must be lists of one length; got {shared.shape}, {change.shape}")
        if shared[0] < 1 or shared[-1] != self.num_steps or (np.diff(shared) < 1).any():
            raise ValueError(f"shared_steps must rise from 1 or more to num_steps; got {shared.tolist()}")
        if not (np.isfinite(change).all() and (change >= 0).all() and change.any()):
            raise ValueError("change must be finite, not negative and not all 0; sharing changed no latent")

    def cumulative(self, num_steps):
        """G after each step of a run of `num_steps` steps.

        Returns
        -------
        G : (num_steps + 1,) float64   from 0, non-decreasing

        Notes
        -----
        log G is made monotone by isotonic regression, then interpolated. For another number of steps the same number
        of steps left counts, not the same share of the run: what mends an error are the steps that are left
        (docs/schedules.md). This is a guess for models where that was not measured.
        """
        change = np.log(np.maximum(self.change, FAINTEST * self.change.max()))
        shared = np.arange(num_steps + 1)
        places = self.shared_steps + num_steps - self.num_steps  # with as many steps left
        G = np.exp(np.interp(shared, places, isotonic_regression(change).x))
        if places[0] > 0:
            before = shared < places[0]
            G[before] = G[places[0]] * shared[before] / places[0]
        G[0] = 0
        return G

    def weights(self, num_steps):
        """w_k for a run of `num_steps` steps: (num_steps,) float64 >= 0."""
        return np.diff(self.cumulative(num_steps))


def write_sensitivity(sensitivity, path):
    """Save as JSON."""
    data = {
        "format": FORMAT,
        "settings": sensitivity.settings,
        "num_steps": sensitivity.num_steps,
        "shared_steps": sensitivity.shared_steps.tolist(),
        "change": sensitivity.change.tolist(),
    }
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read_sensitivity(path):
    """Load what `write_sensitivity` saved.

    Raises
    ------
    ValueError  if the file is missing or holds something else; it names the file.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return Sensitivity(data["num_steps"], data["shared_steps"], data["change"], data.get("settings", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} holds no sensitivity that Calibrate Schedule has saved: {error}") from error
