"""One slider: positions from full sampling to a draft, which mean losses that were measured on the model at hand.

Legend: position 0 is full sampling; 1, 2 and 3 are the marks safe, balanced and draft. A mark is a loss that is
allowed, in per cent with one standard error; between two marks it lies between theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..plan.checks import is_finite, shown
from ..plan.tree import PromptTree
from .advised_way import SEEN, Advice
from .ways import Way

MARKS = ("safe", "balanced", "draft")
LAST = float(len(MARKS))
DRAFT = 30.0  # per cent: judges of the bundled models still found all of the prompt in about three pictures of four
# Where nothing was measured, steps are shared down to this noise level: models that lay their pictures out early lose
# nothing by it, those that do so late could share far more.
SAFE_LEVEL = 0.8


def allowed_loss(position: float, measure: str) -> float:
    """The loss that a position of the slider allows.

    Parameters
    ----------
    position : float
        0 to 3; see the legend.
    measure : str
        Which loss was measured: a key of `SEEN`.

    Returns
    -------
    loss : float
        Per cent.

    Raises
    ------
    ValueError
        If the position is none.

    Examples
    --------
    >>> from hierdiff_core.measure.marks import allowed_loss
    >>> [allowed_loss(position, "looks as good") for position in (0, 1, 1.5, 3)]
    [0.0, 4.0, 8.0, 30.0]
    """
    return float(np.interp(check_position(position), range(len(MARKS) + 1), (0.0, *SEEN[measure], DRAFT)))


def advice_at(known: Sequence[Advice], position: float, tree: PromptTree) -> Advice:
    """What takes the fewest passes at a position of the slider, of all that was measured.

    Parameters
    ----------
    known : sequence of Advice
        Of the model and settings at hand, one at least: for other goals other ways were drawn.
    position : float
        0 to 3; see the legend.
    tree : PromptTree
        What is to be drawn: how many passes a way takes depends on it.

    Returns
    -------
    advice : Advice
        One of those known, which advises the way that was found: its plan, verdict and sentences are those of the
        position. Full sampling, and not `met`, where nothing else loses so little. Ways that need another node, a step
        cache, are left out.
    """
    check_position(position)
    best = replace(known[0], chosen=known[0].full, met=False)
    for advice in known if position > 0 else ():
        for one in (advice.chosen, *advice.measured):
            if one.way.cache or one.at_most(1.0) > allowed_loss(position, advice.measure):
                continue
            passes = one.way.passes(tree, advice.guided)
            if (passes, one.loss) < (best.chosen.passes, best.loss):
                best = replace(advice, chosen=replace(one, passes=passes), met=True)
    return best


def safe_way(levels: Sequence[float], position: float) -> Way:
    """What is known to be safe on models of which nothing was measured: few first steps are shared by all prompts.

    Parameters
    ----------
    levels : sequence of K float
        Noise levels that the steps begin at.
    position : float
        0 to 3. From 1 on it is the same way: what lies beyond is known by measuring alone.

    Returns
    -------
    way : Way
    """
    trunk = 1.0 + (SAFE_LEVEL - 1.0) * min(check_position(position), 1.0)
    return Way(tuple(levels), trunk=trunk)


def name_of(position: float) -> str:
    """A position in words.

    Parameters
    ----------
    position : float
        0 to 3.

    Returns
    -------
    name : str

    Examples
    --------
    >>> from hierdiff_core.measure.marks import name_of
    >>> [name_of(position) for position in (0, 0.5, 1, 2.4)]
    ['off', 'below safe', 'safe', 'between balanced and draft']
    """
    whole = int(check_position(position))
    if position == whole:
        return MARKS[whole - 1] if whole else "off"
    return f"between {MARKS[whole - 1]} and {MARKS[whole]}" if whole else f"below {MARKS[0]}"


def check_position(position: float) -> float:
    """The position as a number; `ValueError` if it is none of the slider's."""
    if not (is_finite(position) and 0 <= position <= LAST):
        raise ValueError(
            f"saving must lie between 0 and {LAST:g}: 1 is safe, 2 balanced, 3 draft; got {shown(position)}"
        )
    return float(position)
