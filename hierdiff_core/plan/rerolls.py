"""Other noise from a step on: what tells the variants of one prompt apart, and a picture from the one it was before.

Legend: N prompts of a plan; L leaves (`Plan.leaf_keys`): these prompts, and those that are gone but belong to a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .checks import shown, whole_number
from .keys import hashed

LARGEST_NUMBER = 2**32 - 1
History: TypeAlias = "tuple[tuple[int, int], ...]"  # (step, number) of the rerolls of a branch, rising


@dataclass(frozen=True, order=True)
class Reroll:
    """A prompt has other noise from a step on, and from there a branch apart from those that have not.

    Attributes
    ----------
    prompt : int
        Its row in `Plan.leaf_keys`: the number of the prompt, unless prompts were attached to the plan or removed.
    step : int
        From which step on, 0 ... K - 1.
    number : int
        Tells rerolls of one step apart, 1 or more. Prompts of one branch with the same step and number stay together.

    Examples
    --------
    >>> from hierdiff_core.plan.rerolls import Reroll
    >>> Reroll(prompt=0, step=8, number=1)
    Reroll(prompt=0, step=8, number=1)
    """

    prompt: int
    step: int
    number: int


def checked_rerolls(rerolls: Iterable[Any], leaves: int, num_steps: int) -> tuple[Reroll, ...]:
    """Rerolls in order, each once; `ValueError` for one of a prompt or step that is not there."""
    found = set()
    for reroll in rerolls:
        values = {name: whole_number(f"{name} of a reroll", getattr(reroll, name, None)) for name in ("prompt", "step")}
        values["number"] = whole_number("number of a reroll", getattr(reroll, "number", None), 1)
        for name, most in (("prompt", leaves - 1), ("step", num_steps - 1), ("number", LARGEST_NUMBER)):
            if not 0 <= values[name] <= most:
                raise ValueError(f"{name} of a reroll must be at most {most}; got {shown(values[name])}")
        found.add(Reroll(**values))
    return tuple(sorted(found))


def histories(rerolls: Iterable[Reroll], leaves: int, last: int | None = None) -> list[History]:
    """The rerolls of each leaf as (step, number), rising: all of them, or those up to a last step."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(leaves)]
    for reroll in sorted(rerolls):
        if last is None or reroll.step <= last:
            found[reroll.prompt].append((reroll.step, reroll.number))
    return [tuple(own) for own in found]


def groups_by_step(rerolls: Iterable[Reroll], leaves: int) -> dict[int, np.ndarray]:
    """At each step where something is rerolled: equal numbers for leaves of equal rerolls up to there."""
    found: list[History] = [()] * leaves
    groups, ordered = {}, sorted(rerolls, key=lambda own: (own.step, own.prompt, own.number))
    for place, own in enumerate(ordered):
        found[own.prompt] = (*found[own.prompt], (own.step, own.number))
        if place + 1 == len(ordered) or ordered[place + 1].step > own.step:
            groups[own.step] = groups_of(found)
    return groups


def salt_of(history: History) -> int:
    """What noise is changed by: 0 without rerolls, else a hash of all of them."""
    return hashed(repr(history).encode()) or 1 if history else 0


def salted_key(key: int, salt: int) -> int:
    """Noise key of a branch: its own where nothing was rerolled."""
    return hashed(f"{key} {salt}".encode()) if salt else key


def groups_of(histories_of: Sequence[History]) -> np.ndarray:
    """Equal numbers for equal histories: int64."""
    numbers: dict[History, int] = {}
    return np.array([numbers.setdefault(own, len(numbers)) for own in histories_of], dtype=np.int64)
