"""Checks of arguments that several modules take: whole numbers, keys, lengths, thresholds."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LARGEST_KEY = 2**64  # as in files; those of texts are below 2**63


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """An argument as a Python int; `ValueError` that names it for what is no whole number: 3.0 and "3" are none."""
    try:
        number = int(operator.index(value))
    except TypeError:
        raise ValueError(f"{name} must be a whole number; got {shown(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}; got {shown(number)}")
    return number


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number; a text is no number."""
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def shown(value: Any) -> str:
    """A value for a message: texts in quotes, numbers of NumPy as others, long ones cut."""
    try:
        text = repr(value) if isinstance(value, (str, bytes)) else str(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:80] + "…"


def checked_keys(name: str, keys: Iterable[Any]) -> tuple[int, ...]:
    """Keys as Python ints; `ValueError` for one that is no whole number, negative, or larger than files keep."""
    if isinstance(keys, range) and keys and min(keys) >= 0 and max(keys) <= LARGEST_KEY:
        return tuple(keys)
    checked = tuple(whole_number(name, key) for key in keys)
    for place, key in enumerate(checked):
        if not 0 <= key <= LARGEST_KEY:
            raise ValueError(f"{name} must be whole numbers from 0 to 2**64; got {shown(key)} at place {place}")
    return checked


def check_lengths(num_prompts: int, **lists: Sequence[Any] | np.ndarray | None) -> None:
    """`ValueError` for a list that does not fit a tree of so many prompts: errors are of merges, others of prompts."""
    for name, values in lists.items():
        wanted = num_prompts - name.endswith("errors")
        if values is not None and len(values) != wanted:
            raise ValueError(f"{name} must have {wanted} entries for Z of {num_prompts}; got {len(values)}")


def check_thresholds(thresholds: ArrayLike) -> np.ndarray:
    """Thresholds as an array of their own; `ValueError` if they rise, are no heights, or do not end at 0."""
    thresholds = np.array(thresholds, dtype=np.float64)
    if thresholds.ndim != 1 or len(thresholds) == 0:
        raise ValueError(f"thresholds must have shape (K,) with K >= 1; got {thresholds.shape}")
    if not (np.isfinite(thresholds).all() and (thresholds >= 0).all()):
        raise ValueError("thresholds must be finite heights >= 0")
    rises = np.flatnonzero(np.diff(thresholds) > 0)
    if len(rises):
        k = rises[0] + 1
        raise ValueError(
            f"thresholds must not increase; step {k} rises from {thresholds[k - 1]:.4g} to {thresholds[k]:.4g}"
        )
    if thresholds[-1] != 0:
        raise ValueError(
            f"thresholds must end at 0, where every prompt has a latent of its own; the last is {thresholds[-1]:.4g}"
        )
    return thresholds
