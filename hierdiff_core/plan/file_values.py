"""Values of a plan's file, each checked and named where it is something else: files are shared between users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .checks import LARGEST_KEY
from .sensitivity import is_number, is_whole, shortened

LONGEST_PROMPT = 100_000  # characters
LARGEST = 1e150  # height or error: their squares are still numbers


def optional(data: dict, name: str, read: Callable[[], Any]) -> Any:
    """What `read` finds, or None where `data` has no such entry."""
    return None if data.get(name) is None else read()


def items(data: dict, name: str, exactly: int | None, most: int | None) -> list:
    """A list of a file, of so many entries."""
    values = data.get(name)
    if not isinstance(values, list):
        raise ValueError(f"{name} must be a list; got {shortened(values)}")
    if exactly is not None and len(values) != exactly:
        raise ValueError(f"{name} must be {exactly} entries; got {len(values)}")
    if most is not None and len(values) > most:
        raise ValueError(f"{name} must be at most {most} entries; got {len(values)}")
    return values


def numbers(data: dict, name: str, *, exactly: int | None = None, most: int | None = None) -> np.ndarray:
    """A list of finite numbers."""
    values = items(data, name, exactly, most)
    for place, value in enumerate(values):
        if not (is_number(value) and -LARGEST <= value <= LARGEST):
            raise ValueError(f"{name} must be finite numbers; got {shortened(value)} at place {place}")
    return np.array(values, dtype=np.float64)


def wholes(
    data: dict, name: str, least: int, greatest: int, *, exactly: int | None = None, most: int | None = None
) -> np.ndarray:
    """A list of whole numbers in a range."""
    values = items(data, name, exactly, most)
    for place, value in enumerate(values):
        if not (is_whole(value) and least <= value <= greatest):
            raise ValueError(
                f"{name} must be whole numbers from {least} to {greatest}; got {shortened(value)} at place {place}"
            )
    return np.array(values, dtype=np.int64)


def whole(data: dict, name: str, least: int, greatest: int) -> int:
    """A whole number in a range."""
    return int(wholes({name: [data.get(name)]}, name, least, greatest)[0])


def keys_of(data: dict, name: str, count: int) -> tuple[int, ...]:
    """Keys: whole numbers that may be too large for a float."""
    values = items(data, name, count, None)
    for place, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_KEY:
            raise ValueError(f"{name} must be whole numbers up to 2**64; got {shortened(value)} at place {place}")
    return tuple(values)


def texts_of(data: dict, count: int) -> tuple[str, ...]:
    """Prompts of a file."""
    values = items(data, "prompts", count, None)
    for place, value in enumerate(values):
        if not isinstance(value, str) or len(value) > LONGEST_PROMPT:
            raise ValueError(
                f"prompts must be texts of at most {LONGEST_PROMPT} characters; got {shortened(value)} at place {place}"
            )
        value.encode()  # half surrogates: UnicodeEncodeError is a ValueError
    return tuple(values)
