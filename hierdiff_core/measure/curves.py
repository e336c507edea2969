"""How the loss of each means rises with its degree, and what mixes are expected to lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

from .menu import BOOST, ENDS, NEAR, STEPS, TRUNK, Mix

STEEPEST = 2.0  # per cent a degree that a loss rises at least beyond what was measured
LEAST_KNOWN = 0.5  # per cent: smaller expectations say nothing of how losses of several means add up
TIMES = (0.25, 6.0)  # bounds of how much more or less a mix loses than its means alone
PRIOR = 0.3  # weight, in mixes that were drawn, of the belief that losses add up
NEIGHBOURHOOD = 4.0  # degrees over which a mix that was drawn says something of others
APART = 4.0  # degrees that another cache counts for


@dataclass
class Curves:
    """Losses of single means, and of mixes that were drawn.

    Attributes
    ----------
    alone : dict
        Losses by name, by the means and its degree: (means, boost or cache) -> degree -> losses.
    mixed : list of (Mix, float, float)
        Of mixes, the sum of what their means lose alone and what was measured.
    """

    alone: dict[tuple[str, object], dict[int, Mapping[str, float]]] = field(default_factory=dict)
    mixed: list[tuple[Mix, float, float]] = field(default_factory=list)
    _at: dict[tuple[str, int, str, object], float] = field(default_factory=dict, repr=False)

    def add(self, means: str, degree: int, losses: Mapping[str, float], which: object = None) -> None:
        """Remember what one means lost alone."""
        self.alone.setdefault((means, which), {})[degree] = losses
        self._at.clear()

    def at(self, name: str, degree: int, means: str, which: object = None) -> float:
        """One loss of one means alone at any degree: between measured degrees interpolated, never falling.

        Losses rise ever faster, so their roots are interpolated.

        Parameters
        ----------
        name : str
            Of the loss.
        degree : int
            Of the means; -1 loses nothing.
        means : str
            Its name.
        which : object
            Which boost, or cache.

        Returns
        -------
        loss : float
            Per cent, 0 at least; infinity for a means that was not measured.
        """
        if degree < 0:
            return 0.0
        key = name, degree, means, which
        if key not in self._at:
            self._at[key] = self._interpolated(name, degree, self.alone.get((means, which), {}))
        return self._at[key]

    def _interpolated(self, name: str, degree: int, known: Mapping[int, Mapping[str, float]]) -> float:
        if not known:
            return np.inf
        degrees = sorted(known)
        values = isotonic_regression([0.0] + [max(known[own][name], 0.0) for own in degrees]).x
        places = np.array([-1, *degrees])
        if degree <= places[-1]:
            return float(np.interp(degree, places, np.sqrt(values)) ** 2)
        slope = (values[-1] - values[-2]) / (places[-1] - places[-2])
        return float(values[-1] + (degree - places[-1]) * max(slope, STEEPEST))

    def sum_of(self, mix: Mix, names: tuple[str, ...]) -> float:
        """The sum of what a mix's means lose alone, per cent: the largest of those of `names`."""
        return max(self._sum(mix, name) for name in names)

    def _sum(self, mix: Mix, name: str) -> float:
        trunk = self.at(name, mix.trunk, TRUNK) if mix.boost == 1 else self._boosted(name, mix)
        loss = self.at(name, mix.steps, STEPS) + trunk + self.at(name, mix.ends, ENDS)
        if mix.near > mix.trunk:  # as far as all share, neighbours do so too
            loss += self.at(name, mix.near, NEAR) - self.at(name, mix.trunk, NEAR)
        return loss + (self.at(name, 0, mix.cache) if mix.cache else 0.0)

    def _boosted(self, name: str, mix: Mix) -> float:
        """A trunk with stronger guidance after its splits; deeper than measured, it mends as large a share as there."""
        known = self.alone.get((BOOST, mix.boost), {})
        deepest = max(known, default=-1)
        if mix.trunk <= deepest or deepest < 0:
            return self.at(name, mix.trunk, BOOST, mix.boost)
        left = self.at(name, deepest, BOOST, mix.boost) / max(self.at(name, deepest, TRUNK), LEAST_KNOWN)
        return self.at(name, mix.trunk, TRUNK) * min(left, 1.0)

    def times(self, mixes: Sequence[Mix]) -> np.ndarray:
        """How much more or less mixes are expected to lose than the sums of their means alone.

        Parameters
        ----------
        mixes : sequence of M Mix
            Of two means or more.

        Returns
        -------
        times : (M,) float64
            As mixes near them have lost that were drawn; 1 far from all of them.
        """
        places = np.array([_place(mix) for mix in mixes], dtype=np.float64)
        weight, logs = np.full(len(places), PRIOR), np.zeros(len(places))
        for mix, expected, measured in self.mixed:
            if expected > LEAST_KNOWN:
                near = np.exp(-np.abs(places - _place(mix)).sum(axis=1) / NEIGHBOURHOOD)
                weight += near
                logs += near * np.log(np.clip(measured / expected, *TIMES))
        return np.exp(logs / weight)


def _place(mix: Mix) -> tuple[float, ...]:
    """Where a mix lies among others: degrees, and as far away as several of them another boost or cache."""
    steps, trunk, near, ends = mix.degrees
    return steps / 2, trunk, max(near, trunk), ends, APART * (mix.boost != 1), APART * bool(mix.cache)
