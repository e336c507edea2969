"""By which step a picture of its own must have begun."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

# Without a measurement, prompts need at least this share of the steps apart from the others to become another picture:
# of late models, which split best, the bundled one parts pictures in 2 of 40 steps but not in 1.
LEAST_APART = 0.05


def deciding_step(num_steps: int, weights: ArrayLike | None = None) -> int:
    """The step by which a picture of its own must have begun.

    Parameters
    ----------
    num_steps : int
        Steps of the run.
    weights : (K,) float, optional
        The w_k, see `hierdiff_core.plan.sensitivity`.

    Returns
    -------
    k : int
        Sharing steps 0 ... k takes more than half of the difference away that separate runs would make (the squared
        change that sharing all steps would cause); without weights, it leaves less than `LEAST_APART`.
    """
    if weights is None:
        return max(num_steps - 1 - math.ceil(LEAST_APART * num_steps), 0)
    lost = np.cumsum(weights)
    return int(np.argmax(lost > lost[-1] / 2))
