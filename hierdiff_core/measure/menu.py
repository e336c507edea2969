"""The means of saving and how far each can be taken: what the advisor tries, and mixes.

Legend: K steps of full sampling. A degree of a means is its place in the list from gentle to severe; -1: not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..plan.guidance import GuidanceCourse
from .ways import Way, spread_at, spreads

if TYPE_CHECKING:
    from .workbench import Workbench

STEPS, ENDS, TRUNK, NEAR, BOOST = (
    "fewer steps",
    "guidance only at first",
    "first steps shared by all",
    "first steps shared by neighbours",
    "stronger guidance after a split",
)
TOGETHER, FULL = "together", "full sampling"

FEWER = 0.88  # of the steps, from one degree to the next
LEAST_STEPS = 2
DEPTHS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95)  # shares of the steps
GUIDED = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # shares of the steps
BOOSTS = (2.0, 1.5)
BOOSTED = 0.15  # share of the steps that follow a split
NARROWER = 0.9  # of the root's spread: neighbours that lie further apart are none


@dataclass(frozen=True)
class Mix:
    """How far each means is taken.

    Attributes
    ----------
    steps, trunk, near, ends : int
        Degrees.
    boost : float
        Of guidance after a split; 1: none.
    cache : str
        Name of a step cache; "" for none.
    """

    steps: int = -1
    trunk: int = -1
    near: int = -1
    ends: int = -1
    boost: float = 1.0
    cache: str = ""

    @property
    def means(self) -> str:
        """The means, where it is one; `TOGETHER` for more, `FULL` for none."""
        if self.boost != 1 and self == Mix(trunk=self.trunk, boost=self.boost):
            return BOOST
        used = [name for name, degree in zip((STEPS, TRUNK, NEAR, ENDS), self.degrees, strict=True) if degree >= 0]
        used += [self.cache] if self.cache else []
        return FULL if not used else used[0] if len(used) == 1 and self.boost == 1 else TOGETHER

    @property
    def degrees(self) -> tuple[int, int, int, int]:
        """Of steps, trunk, neighbours and guidance."""
        return self.steps, self.trunk, self.near, self.ends

    def severer(self, other: Mix) -> bool:
        """Whether it takes every means at least as far as another mix with the same boost and cache."""
        mine, theirs = ((own.steps, own.trunk, own.ends, max(own.near, own.trunk)) for own in (self, other))
        same = (self.boost, self.cache) == (other.boost, other.cache)
        return same and all(far >= near for far, near in zip(mine, theirs, strict=True))

    def changes(self, other: Mix) -> int:
        """In how many means it differs from another mix; all sharing is one."""
        mine, theirs = ((own.steps, (own.trunk, own.near), own.ends, own.boost, own.cache) for own in (self, other))
        return sum(a != b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True, eq=False)
class Menu:
    """What can be tried with a model and its sampled prompts.

    Attributes
    ----------
    workbench : Workbench
        The model and the sampled prompts.
    """

    workbench: Workbench

    @cached_property
    def step_counts(self) -> tuple[int, ...]:
        """Numbers of steps, falling."""
        counts, value = [], self.workbench.steps * FEWER
        while round(value) >= LEAST_STEPS:
            counts.append(round(value))
            value *= FEWER
        return tuple(sorted({count for count in counts if count < self.workbench.steps}, reverse=True))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Numbers of full sampling's steps that are shared, rising."""
        most = self.workbench.steps - 1
        return tuple(sorted({min(max(round(share * self.workbench.steps), 1), most) for share in DEPTHS} - {0}))

    @cached_property
    def depth_levels(self) -> tuple[float, ...]:
        """Noise level that each depth shares down to."""
        levels = self.levels(self.workbench.steps)
        return tuple(float(levels[depth]) for depth in self.depths)

    @cached_property
    def guided_shares(self) -> tuple[float, ...]:
        """Shares of the steps with guidance, falling; none for a model without it."""
        return GUIDED if self.workbench.guided else ()

    @cached_property
    def wide(self) -> float:
        """Spread of all sampled prompts."""
        return float(spreads(self.workbench.tree)[-1])

    @cached_property
    def narrow(self) -> float | None:
        """Spread where all pairs of neighbours share; None where neighbours lie as far apart as all."""
        tree = self.workbench.tree
        pairs = (tree.Z[:, 3] == 2) & (tree.Z[:, 2] > 0)
        if not pairs.any():
            return None
        spread = spread_at(tree, tree.Z[pairs, 2].max())
        return spread if 0 < spread <= NARROWER * self.wide else None

    @property
    def near_depths(self) -> tuple[int, ...]:
        """As `depths`, for neighbours; none where there are none."""
        return () if self.narrow is None else self.depths

    def levels(self, steps: int) -> np.ndarray:
        """Noise levels that the steps of a run begin at."""
        return np.asarray(self.workbench.levels(steps), dtype=np.float64)

    def way(self, mix: Mix) -> Way:
        """The way of a mix.

        Parameters
        ----------
        mix : Mix
            How far each means is taken.

        Returns
        -------
        way : Way
        """
        steps = self.workbench.steps if mix.steps < 0 else self.step_counts[mix.steps]
        way = Way(tuple(np.clip(self.levels(steps), 0, 1)), guidance=self.course(mix, steps), cache=mix.cache)
        if mix.trunk >= 0:
            way = replace(way, trunk=self.depth_levels[mix.trunk])
        if mix.near > mix.trunk and self.narrow is not None:
            way = replace(way, sharing=((self.depth_levels[mix.near], self.narrow),))
        return way

    def course(self, mix: Mix, steps: int) -> GuidanceCourse:
        """The guidance of a mix in a run of so many steps."""
        end = self.guided_shares[mix.ends] if mix.ends >= 0 else 1.0
        boosted = max(1, round(BOOSTED * steps)) if mix.boost != 1 else 0
        return GuidanceCourse(end=end, boost=mix.boost, boost_steps=boosted)

    def guides_splits(self, mix: Mix) -> bool:
        """Whether guidance goes on after the last split: without, what splits off would never be guided."""
        shared = max(mix.trunk, mix.near)
        if mix.ends < 0 or shared < 0:
            return True
        return self.guided_shares[mix.ends] * self.workbench.steps > self.depths[shared]

    def named(self, mix: Mix) -> str:
        """A mix in a few words, for the progress."""
        K = self.workbench.steps
        words = [f"{self.step_counts[mix.steps]} of {K} steps"] if mix.steps >= 0 else []
        words += [f"{self.depths[mix.trunk] / K:.0%} shared by all"] if mix.trunk >= 0 else []
        words += [f"{self.depths[mix.near] / K:.0%} shared by neighbours"] if mix.near >= 0 else []
        words += [f"guidance in the first {self.guided_shares[mix.ends]:.0%}"] if mix.ends >= 0 else []
        words += [f"guidance times {mix.boost:g} after a split"] if mix.boost != 1 else []
        words += [mix.cache] if mix.cache else []
        return ", ".join(words) or FULL
