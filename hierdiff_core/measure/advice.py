"""What pays on a model: it is measured on a few prompts, and the way that is advised is checked by drawing it.

Legend: K steps, S sampled prompts. A pass is one evaluation of one row of the network; a guided step of a latent is
two. Losses are relative to full sampling of the same prompts, in per cent.
"""

from __future__ import annotations

import os

from ..plan.checks import is_finite, shown
from ..plan.sensitivity import check_settings
from ..plan.tree import PromptTree
from .advice_file import read_advice, write_advice
from .advised_way import GOALS, LOSSLESS, Advice, Measured
from .menu import BOOSTS, LEAST_STEPS, Menu, Mix
from .sampled import LEAST_SAMPLES, sampled_prompts, sampled_tree
from .search import CHECKED, FRESH, NOISES, ROUNDING, ROUNDS, TYPICAL, Found, Search
from .trials import MEASURES, Progress, Trials, trials_path
from .ways import Way
from .workbench import Drawn, Workbench

__all__ = [
    "GOALS",
    "MEASURES",
    "Advice",
    "Drawn",
    "Measured",
    "Progress",
    "Way",
    "Workbench",
    "advise",
    "most_passes",
    "read_advice",
    "sampled_prompts",
    "sampled_tree",
    "write_advice",
]


def advise(
    workbench: Workbench,
    tree: PromptTree,
    goal: str = GOALS[0],
    value: float = 3.0,
    measure: str = MEASURES[0],
    *,
    folder: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Measure what pays on a model, choose, and check the choice by drawing it.

    Parameters
    ----------
    workbench : Workbench
        The model and the sampled prompts.
    tree : PromptTree
        Of the whole set: it says how many passes a way takes for each picture.
    goal : str
        One of `GOALS`.
    value : float
        Of the goal: the loss that is allowed in per cent, or guided rows for each picture.
    measure : str
        One of `MEASURES`.
    folder : path, optional
        Where each measurement is kept as soon as it is made, and found again for the same model, settings and prompts:
        after a run that was stopped, or for another goal.
    progress : callable, optional
        Called before each drawing; may raise to stop.

    Returns
    -------
    advice : Advice

    Raises
    ------
    ValueError
        Before anything is drawn, if the goal or the prompts are none to be measured; after full sampling, if the model
        does not follow its prompts.
    """
    check_goal(goal, value, measure)
    check_settings(dict(workbench.settings))
    _check_sample(workbench, tree)
    menu = Menu(workbench)
    trials = Trials(
        workbench,
        menu.way(Mix()),
        measure,
        None if folder is None else trials_path(folder, workbench),
        progress,
        most_passes(workbench, measure),
    )
    search = Search(menu, trials, tree, value if goal == LOSSLESS else TYPICAL)
    search.each_alone()
    if goal == LOSSLESS:
        chosen = search.within(value)
        met = chosen is not None
    else:
        passes = value * (1 + workbench.guided)
        chosen = search.for_passes(passes)
        met = chosen.passes <= passes * (1 + ROUNDING)
    return _advice(search, goal, float(value), chosen or search.draw(Mix()), met)


def _advice(search: Search, goal: str, value: float, chosen: Found, met: bool) -> Advice:
    """What a search has found."""
    workbench, full = search.trials.workbench, search.draw(Mix())

    def measured(found: Found) -> Measured:
        mix = found.mix
        way, cached = search.menu.way(mix), search.caches.get(mix.cache, 1.0)
        return Measured(way, mix.means, found.passes, found.losses, found.errors, found.checked, cached)

    return Advice(
        workbench.fingerprint,
        dict(workbench.settings),
        goal,
        value,
        search.trials.measure,
        bool(workbench.guided),
        workbench.tree.num_distinct,
        search.tree.num_distinct,
        measured(full),
        tuple(measured(found) for found in search.found.values() if found is not full),
        measured(chosen),
        met,
    )


def check_goal(goal: str, value: float, measure: str) -> None:
    """Raise `ValueError` for a goal or a measure that there is not, or a value that it cannot have."""
    for name, own, known in (("goal", goal, GOALS), ("measure", measure, MEASURES)):
        if own not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {shown(own)}")
    if not (is_finite(value) and value > 0):
        what = "loss that is allowed, in per cent," if goal == LOSSLESS else "number of guided rows per picture"
        raise ValueError(f"value must be the {what} above 0; got {shown(value)}")


def _check_sample(workbench: Workbench, tree: PromptTree) -> None:
    """Refuse, before anything is drawn, prompts of which nothing can be learned."""
    sampled_prompts(tree)
    if workbench.tree.num_distinct < LEAST_SAMPLES:
        few = "the sample is a single prompt, or equal ones"
        raise ValueError(f"{few}; {LEAST_SAMPLES} prompts that differ are the least to measure with, 8 are usual")
    if workbench.steps < LEAST_STEPS:
        raise ValueError(f"with {workbench.steps} step there is nothing to save; take {LEAST_STEPS} or more")


def most_passes(workbench: Workbench, measure: str = MEASURES[0]) -> int:
    """How many passes `advise` takes at most: to be told before it begins.

    Parameters
    ----------
    workbench : Workbench
        The model and the sampled prompts.
    measure : str
        One of `MEASURES`.

    Returns
    -------
    passes : int
    """
    menu = Menu(workbench)
    trials = Trials(workbench, menu.way(Mix()), measure)
    kinds = (
        [Mix(steps=degree) for degree in range(len(menu.step_counts))],
        [Mix(ends=degree) for degree in range(len(menu.guided_shares))],
        [Mix(trunk=degree) for degree in range(len(menu.depths))],
        [Mix(near=degree) for degree in range(len(menu.near_depths))],
        [Mix(trunk=degree) for degree in range(len(menu.depths) * workbench.guided)],  # again, with raised guidance
    )
    alone = sum(_most_by_halves([trials.passes_of(menu.way(mix)) for mix in kind]) for kind in kinds)
    full = trials.passes_of(trials.full)
    boosts = 2 * len(BOOSTS) * full * workbench.guided
    confirmed = len(FRESH) * (1 + ROUNDS)  # full sampling, and what is advised
    return round(alone + boosts + full * (len(NOISES) + confirmed + len(workbench.caches) + CHECKED))


def _most_by_halves(costs: list[int]) -> int:
    """What halving a list of degrees costs at most."""
    if not costs:
        return 0
    middle = (len(costs) - 1) // 2
    return costs[middle] + max(_most_by_halves(costs[:middle]), _most_by_halves(costs[middle + 1 :]))
