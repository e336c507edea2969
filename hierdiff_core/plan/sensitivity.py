"""How much sharing a step shows in the final image: measured once for a model, kept as JSON.

Legend: K steps, u = embedding scaled to length 1, G(b) = squared change of the final latent (mean over its elements)
when the first b steps are shared, per squared distance of u from the shared mean; w_k = G(k + 1) - G(k).
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from ..files.whole_files import replace

FORMAT = "hierdiff-sensitivity-1"
# Files are shared between users. Far above what any calibration gives, and small enough to read without a thought.
MOST_STEPS = 1000
MOST_BYTES = 1 << 18
MOST_SETTINGS, LONGEST_TEXT = 50, 500
LARGEST_CHANGE, SMALLEST_PEAK = 1e30, 1e-30
# Changes below this share of the largest are rounding errors of the networks.
FAINTEST = 1e-9


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What `hierdiff_core.measure.calibration` measures.

    Attributes
    ----------
    num_steps : int
        Steps K of the runs that were compared, at most `MOST_STEPS`.
    shared_steps : (B,) int64
        Increasing, 1 ... K: how many first steps were shared.
    change : (B,) float64
        The G of each.
    settings : dict
        What it was measured with: model, scheduler, guidance and so on; strings and numbers.

    Raises
    ------
    ValueError
        If lengths, values or their types do not fit.

    Notes
    -----
    Errors of the conditioning at successive steps point the same way and add up, so the change is measured over all
    the first b steps together, and w_k are its increments; perturbing each step alone would miss their sum.

    Examples
    --------
    >>> from hierdiff_core import Sensitivity
    >>> Sensitivity(4, [1, 2, 4], [0.01, 0.1, 1.0]).weights(4).round(3).tolist()
    [0.01, 0.09, 0.216, 0.684]
    """

    num_steps: int
    shared_steps: np.ndarray
    change: np.ndarray
    settings: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = self.num_steps
        if not isinstance(steps, numbers.Integral) or isinstance(steps, bool) or not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"num_steps must be an integer between 1 and {MOST_STEPS}; got {shortened(steps)}")
        shared = array_of(self.shared_steps, "shared_steps", is_whole, np.int64)
        change = array_of(self.change, "change", is_number, np.float64)
        object.__setattr__(self, "num_steps", int(self.num_steps))
        object.__setattr__(self, "shared_steps", shared)
        object.__setattr__(self, "change", change)
        if len(shared) == 0 or shared.shape != change.shape:
            lengths = f"{len(shared)} and {len(change)}"
            raise ValueError(f"shared_steps and change must be lists of one length, at least 1; got {lengths}")
        if shared[0] < 1 or shared[-1] != self.num_steps or (np.diff(shared) < 1).any():
            raise ValueError(f"shared_steps must rise from 1 or more to num_steps; got {shortened(shared.tolist())}")
        if not (np.isfinite(change).all() and (change >= 0).all() and change.any()):
            raise ValueError("change must be finite, not negative and not all 0; sharing changed no latent")
        if not SMALLEST_PEAK <= change.max() <= LARGEST_CHANGE:
            raise ValueError(
                f"change must have its largest value between {SMALLEST_PEAK} and {LARGEST_CHANGE}; got {change.max()}"
            )

    def cumulative(self, num_steps: int) -> np.ndarray:
        """The G after each step of a run of `num_steps` steps.

        Returns
        -------
        G : (num_steps + 1,) float64
            From 0, non-decreasing.

        Notes
        -----
        log G is made monotone by isotonic regression, then interpolated. For another number of steps the same number
        of steps left counts, not the same share of the run: what mends an error are the steps that are left
        (docs/measurements/schedules.md). This is a guess for models where that was not measured.
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

    def weights(self, num_steps: int) -> np.ndarray:
        """The w_k for a run of `num_steps` steps: (num_steps,) float64 >= 0."""
        return np.diff(self.cumulative(num_steps))


def is_number(value: Any) -> bool:
    """Whether a value of a file is a number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def is_whole(value: Any) -> bool:
    """Whether a value of a file is a whole number."""
    return is_number(value) and (isinstance(value, numbers.Integral) or float(value).is_integer())


def array_of(values: Any, name: str, fits: Callable[[Any], bool], dtype: Any) -> np.ndarray:
    """A list or array with one axis as an array; every item of a list must fit."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) > MOST_STEPS:
        raise ValueError(f"{name} must be a list of at most {MOST_STEPS} numbers; got {shortened(values)}")
    for place, value in enumerate(values):
        if not fits(value):
            what = "whole numbers" if fits is is_whole else "numbers"
            raise ValueError(f"{name} must be a list of {what}; got {shortened(value)} at place {place}")
    try:
        return np.array([int(value) for value in values] if fits is is_whole else values, dtype=dtype)
    except OverflowError:
        raise ValueError(f"{name} has an integer that is too large") from None


def shortened(value: Any) -> str:
    """A value from a file for a message: what it is, where it is long."""
    if isinstance(value, (list, tuple, dict)):
        items = list(value.values()) if isinstance(value, dict) else value
        if len(items) > 20 or any(isinstance(item, (list, tuple, dict)) for item in items):
            return f"a {type(value).__name__} of {len(items)}"
    try:
        text = repr(value[:200] if isinstance(value, str) else value)
    except ValueError:  # an int of too many digits
        return "a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:120]}…"


def as_data(sensitivity: Sensitivity) -> dict[str, Any]:
    """What a file of a `Sensitivity` holds, as JSON's types."""
    return {
        "format": FORMAT,
        "settings": sensitivity.settings,
        "num_steps": sensitivity.num_steps,
        "shared_steps": sensitivity.shared_steps.tolist(),
        "change": sensitivity.change.tolist(),
    }


def of_data(data: Any) -> Sensitivity:
    """A `Sensitivity` from what `as_data` gave, or somebody else made; `ValueError` if it is something else."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    missing = {"num_steps", "shared_steps", "change"} - data.keys()
    if missing:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    check_settings(data.get("settings", {}))
    return Sensitivity(data["num_steps"], data["shared_steps"], data["change"], data.get("settings", {}))


def sensitivity_json(sensitivity: Sensitivity) -> bytes:
    """Bytes of the file of a `Sensitivity`."""
    return (json.dumps(as_data(sensitivity), indent=2) + "\n").encode()


def write_sensitivity(sensitivity: Sensitivity, path: str | os.PathLike) -> None:
    """Save as JSON, whole or not at all, in the place of a file that may be there.

    Parameters
    ----------
    sensitivity : Sensitivity
        To be saved.
    path : str or Path
        Of the file.

    Raises
    ------
    OSError
        If it cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> from hierdiff_core import Sensitivity, read_sensitivity, write_sensitivity
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "sensitivity.json")
    ...     write_sensitivity(Sensitivity(4, [1, 4], [0.01, 1.0]), path)
    ...     read_sensitivity(path).change.tolist()
    [0.01, 1.0]
    """
    replace(path, sensitivity_json(sensitivity))


def read_sensitivity(path: str | os.PathLike) -> Sensitivity:
    """Load what `write_sensitivity` saved.

    Parameters
    ----------
    path : str or Path
        Of the file.

    Returns
    -------
    sensitivity : Sensitivity
        Checked.

    Raises
    ------
    ValueError
        If the file is missing, too large, or holds something else; it names the file.

    Examples
    --------
    >>> import os, tempfile
    >>> from hierdiff_core import Sensitivity, read_sensitivity, write_sensitivity
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "sensitivity.json")
    ...     write_sensitivity(Sensitivity(4, [1, 4], [0.01, 1.0]), path)
    ...     read_sensitivity(path).num_steps
    4
    """
    try:
        return of_data(json.loads(bounded_text(path, MOST_BYTES)))
    except RecursionError as error:
        raise ValueError(f"{path} is not a sensitivity saved by Calibrate Schedule: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a sensitivity saved by Calibrate Schedule: {error}") from error


def bounded_text(path: str | os.PathLike, most: int) -> str:
    """Text of a file in UTF-8; `ValueError` if it has more than `most` bytes."""
    with open(path, "rb") as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise ValueError(f"it has more than {most >> 10} kB")
    return text.decode("utf-8-sig")


def check_settings(settings: Any) -> None:
    """Refuse settings of a file that are no few short texts and finite numbers."""
    if not isinstance(settings, dict) or len(settings) > MOST_SETTINGS:
        raise ValueError(f"settings must be at most {MOST_SETTINGS} names with values; got {shortened(settings)}")
    for name, value in settings.items():
        texts = [text for text in (name, value) if isinstance(text, str)]
        number = is_number(value) and -LARGEST_CHANGE <= value <= LARGEST_CHANGE
        if not (number or isinstance(value, str)) or max(map(len, texts)) > LONGEST_TEXT:
            raise ValueError(
                f"settings must be texts of at most {LONGEST_TEXT} characters and numbers; "
                f"got {shortened(value)} for {shortened(name)}"
            )
        "".join(texts).encode()  # half surrogates: UnicodeEncodeError is a ValueError
