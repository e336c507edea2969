"""Some of a line's combinations, drawn at random: weights count, and the same seed draws the same."""

from __future__ import annotations

import bisect
import itertools
import random
from dataclasses import dataclass

from .alternatives import Group, Sequence, fold

TRIES = 20  # draws for each prompt that is wanted, until one is new
REFUSALS = 50  # draws of an alternative that was drawn before


@dataclass(frozen=True)
class Draw:
    """How many prompts each line gives, and the seed of the choice.

    Attributes
    ----------
    count : int >= 1
        Different prompts of a line; one without alternatives gives one.
    seed : int
    """

    count: int
    seed: int


def drawn(sequence: Sequence, draw: Draw, key: str) -> list[str]:
    """Different combinations of what `parse_line` has read, at random.

    Each is drawn by itself: a larger `count` begins with the same prompts.

    Parameters
    ----------
    sequence : Sequence
    draw : Draw
    key : str
        Of the line: other lines draw otherwise.

    Returns
    -------
    prompts : list of str
        Fewer than `draw.count` where there are no more, or the rest is too rare.
    """
    wanted, found = min(draw.count, sequence.count), {}
    for i in range(TRIES * wanted):
        if len(found) == wanted:
            break
        found.setdefault(fold(one_of(sequence, random.Random(f"{draw.seed}/{i}/{key}"))), None)
    return list(found)


def one_of(sequence: Sequence, chance: random.Random) -> str:
    """One combination of a sequence."""
    return "".join(part if isinstance(part, str) else _value(part, chance) for part in sequence.parts)


def _value(group: Group, chance: random.Random) -> str:
    if group.low == group.high == 1:
        return one_of(group.alternatives[_index(group, chance)], chance)
    number = group.low + int(chance.random() * (group.high - group.low + 1))
    return group.separator.join(one_of(group.alternatives[i], chance).strip() for i in _several(group, number, chance))


def _index(group: Group, chance: random.Random) -> int:
    return bisect.bisect(group.sums, chance.random() * group.sums[-1], hi=len(group.sums) - 1)


def _several(group: Group, number: int, chance: random.Random) -> list[int]:
    """Indices of `number` different alternatives, by weighted draws without putting back, in the written order."""
    chosen: set[int] = set()
    for _ in range(number):
        for _ in range(REFUSALS):
            index = _index(group, chance)
            if index not in chosen:
                break
        else:  # those that are left are rare: draw among them
            left = [i for i in range(len(group.weights)) if i not in chosen]
            sums = list(itertools.accumulate(group.weights[i] for i in left))
            index = left[bisect.bisect(sums, chance.random() * sums[-1], hi=len(sums) - 1)]
        chosen.add(index)
    return sorted(chosen)
