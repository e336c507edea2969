"""Advice: what was measured on a model, and the way that came out best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import stdtrit

from ..plan.advised import Advised
from ..plan.plan import Plan
from ..plan.sensitivity import shortened
from ..plan.tree import PromptTree
from .menu import TOGETHER
from .trials import MEASURES, SAME
from .ways import Way
from .words import sentences_of

# No visible loss: the value is the loss that is allowed, in per cent. Rows per picture: guided rows, of two passes
# each, so that 20 guided steps of a picture that shares nothing are 20; without guidance a row is a pass.
GOALS = LOSSLESS, ROWS = ("no visible loss", "rows per picture")
SURE = 0.99  # of cases that keep what is promised, as far as the samples are like the rest
FINEST = 0.5  # per cent: no sample says more finely what other prompts lose
# Per cent, with one standard error. On the models of docs/measurements/advice.md, a judge sees nothing of a loss up to
# the first, and takes few pictures amiss up to the second.
SEEN = {MEASURES[0]: (4.0, 12.0), SAME: (2.0, 10.0)}
VISIBLE = ("none", "slight", "visible")


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
        Whether noises are in it that took no part in the choice.
    cached : float
        Share of the passes that a step cache leaves; 1 without one.
    """

    way: Way
    means: str
    passes: float
    losses: Mapping[str, float]
    errors: Mapping[str, float]
    checked: bool = False
    cached: float = 1.0

    @property
    def loss(self) -> float:
        """The largest of the losses, per cent."""
        return max(self.losses.values())

    @property
    def error(self) -> float:
        """Standard error of the largest loss."""
        return self.errors[max(self.losses, key=lambda name: self.losses[name])]

    def at_most(self, errors: float) -> float:
        """The largest of the losses when each is so many standard errors larger; 0 at least."""
        return max(0.0, *(loss + errors * self.errors[name] for name, loss in self.losses.items()))


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
    samples, prompts : int
        Prompts that were drawn, of how many that differ.
    full : Measured
        Full sampling.
    measured : tuple of Measured
        All other ways that were drawn.
    chosen : Measured
        The way that is advised, checked; it is full sampling where nothing else holds the goal.
    met : bool
        Whether the chosen way holds the goal, and saves something.
    """

    model: str
    settings: dict[str, Any]
    goal: str
    value: float
    measure: str
    guided: bool
    samples: int
    prompts: int
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
        if self.chosen == self.full:
            return 0.0
        errors = float(stdtrit(max(self.samples - 1, 1), SURE))  # Student's, for few samples
        return max(self.chosen.at_most(errors), self.loss + FINEST)

    @property
    def verdict(self) -> str:
        """How much of the loss can be seen, as far as a measurement without eyes tells: one of `VISIBLE`."""
        return self.verdict_on(self.chosen)

    def verdict_on(self, measured: Measured) -> str:
        """How much can be seen of the loss of any way that was measured: one of `VISIBLE`."""
        nothing, little = SEEN[self.measure]
        loss = measured.at_most(1.0)
        return VISIBLE[0 if loss <= nothing else 1 if loss <= little else 2]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What pays, in plain words; the first says it all."""
        return sentences_of(self)

    def plan_for(self, tree: PromptTree) -> Plan:
        """The advised plan for a set, with `guidance` and `advised`.

        Parameters
        ----------
        tree : PromptTree
            Of any set of prompts, clustered by embeddings of the same encoder.

        Returns
        -------
        plan : Plan
        """
        way = self.chosen.way
        passes = way.passes(tree, self.guided) * self.chosen.cached
        advised = Advised(self.model, dict(self.settings), self.verdict, self.loss / 100, passes, self.measure)
        return replace(way.plan(tree), advised=advised)

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
        differs = [
            f"{name} is {shortened(settings[name])}, it was measured with {shortened(self.settings[name])}"
            for name in self.settings
            if name in settings and settings[name] != self.settings[name]
        ]
        if fingerprint != self.model:
            differs.insert(0, f"the model is another one ({shortened(fingerprint)}, not {shortened(self.model)})")
        if differs:
            raise ValueError(
                f"this advice does not hold here: {'; '.join(differs)}. Run What Pays Here? with this model and these "
                "settings, or load the advice that belongs to them"
            )

    def chart(self) -> dict[str, Any]:
        """What `pictures.advice.draw_advice` draws: its keyword arguments."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for one in self.measured:
            curves.setdefault(one.means, []).append((one.passes, one.loss))
        return {
            "curves": {means: sorted(points) for means, points in curves.items() if means != TOGETHER},
            "mixed": sorted(curves.get(TOGETHER, [])),
            "full": self.full.passes,
            "advised": (self.chosen.passes, self.loss, self.promised),
            "allowed": self.value if self.goal == LOSSLESS else None,
            "measure": self.measure,
            "title": self.sentences[0],
        }
