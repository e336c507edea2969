"""What pays on a model: it is measured on a few prompts, and the way that is advised is checked by drawing it.

Legend: K steps, S sampled prompts. A pass is one evaluation of one row of the network; a guided step of a latent is
two. Losses are relative to full sampling of the same prompts, in per cent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..plan.plan import Plan
from ..plan.tree import PromptTree
from .sampled import sampled_prompts, sampled_tree
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

# No visible loss: the value is the loss that is allowed, in per cent. Rows per picture: guided rows, of two passes
# each, so that 20 guided steps of a picture that shares nothing are 20.
GOALS = ("no visible loss", "rows per picture")
MEASURES = ("looks as good", "looks the same")
# progress(done, most, what): passes that are done, those that it may take at most, and what is drawn now, in words.
Progress: TypeAlias = Callable[[int, int, str], Any]


@dataclass(frozen=True)
class Measured:
    """What one way of drawing lost.

    Attributes
    ----------
    way : Way
        That was drawn.
    means : str
        Which means of saving it tries alone; "together" for more than one.
    passes : float
        For each picture of the whole set.
    losses : mapping of str to float
        By each measure ("adherence", "detail" or "fidelity"): per cent.
    errors : mapping of str to float
        Standard errors of the losses, from the differences between prompts.
    checked : bool
        Whether a second noise is in it, which took no part in the choice.
    """

    way: Way
    means: str
    passes: float
    losses: Mapping[str, float]
    errors: Mapping[str, float]
    checked: bool = False

    @property
    def loss(self) -> float:
        """The largest of the losses, per cent."""
        return max(self.losses.values())

    @property
    def error(self) -> float:
        """Standard error of the largest loss."""
        return self.errors[max(self.losses, key=lambda name: self.losses[name])]


@dataclass(frozen=True)
class Advice:
    """What was found to pay on a model.

    Attributes
    ----------
    model : str
        Fingerprint of the weights.
    settings : dict
        What it holds for: sampler, scheduler, steps, cfg, size.
    goal : str
        One of `GOALS`.
    value : float
        Of the goal.
    measure : str
        One of `MEASURES`.
    guided : bool
        Whether the sampler guides.
    full : Measured
        Full sampling.
    measured : tuple of Measured
        All other ways that were drawn.
    chosen : Measured
        The way that is advised, checked; it is full sampling where nothing else holds the goal.
    met : bool
        Whether the chosen way holds the goal.
    """

    model: str
    settings: dict[str, Any]
    goal: str
    value: float
    measure: str
    guided: bool
    full: Measured
    measured: tuple[Measured, ...]
    chosen: Measured
    met: bool

    @property
    def loss(self) -> float:
        """Of the advised way, per cent, as it was measured."""
        return self.chosen.loss

    @property
    def promised(self) -> float:
        """The largest loss of the advised way that its measurement leaves room for, per cent."""
        raise NotImplementedError

    @property
    def verdict(self) -> str:
        """How much of the promised loss can be seen: "none", "slight" or "visible"."""
        raise NotImplementedError

    @property
    def sentences(self) -> tuple[str, ...]:
        """What pays, in plain words; the first says it all."""
        raise NotImplementedError

    def plan_for(self, tree: PromptTree) -> Plan:
        """The advised plan for a set, with `guidance` and `advised`.

        Parameters
        ----------
        tree : PromptTree
            Of any set of prompts.

        Returns
        -------
        plan : Plan
        """
        raise NotImplementedError

    def check_for(self, fingerprint: str, settings: Mapping[str, Any]) -> None:
        """Refuse another model, or other settings.

        Parameters
        ----------
        fingerprint : str
            Of the model that is to draw.
        settings : mapping
            Of the run; names that the advice does not know are passed over.

        Raises
        ------
        ValueError
            Naming each difference.
        """
        raise NotImplementedError

    def chart(self) -> dict[str, Any]:
        """What `pictures.advice.draw_advice` draws: its keyword arguments."""
        raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


def write_advice(advice: Advice, path: str | os.PathLike) -> None:
    """Save as JSON, whole or not at all, in the place of a file that may be there.

    Parameters
    ----------
    advice : Advice
        To be saved.
    path : str or Path
        Of the file.
    """
    raise NotImplementedError


def read_advice(path: str | os.PathLike) -> Advice:
    """Load what `write_advice` saved.

    Parameters
    ----------
    path : str or Path
        Of the file.

    Returns
    -------
    advice : Advice
        Checked.

    Raises
    ------
    ValueError
        If the file is missing, too large, or holds something else; it names the file.
    """
    raise NotImplementedError(Path(path))
