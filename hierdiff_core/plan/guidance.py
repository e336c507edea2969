"""Where in a run, and how strongly, each branch is guided. Numbers only: samplers obey them.

Legend: K steps, C_k clusters of step k. A pass is one evaluation of one row of the network: a guided step of a cluster
takes two, conditional and unconditional, any other step one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .checks import is_finite, shown, whole_number
from .in_set import numbers_in_set

if TYPE_CHECKING:
    from .plan import Plan
    from .steps import Step

NEVER = -1  # steps since a split, of a branch that has split off none
LARGEST_BOOST = 100.0


@dataclass(frozen=True)
class GuidanceCourse:
    """Guidance over the steps of a run: an interval that has it, and more of it after each split.

    Attributes
    ----------
    start, end : float
        Shares of the steps, 0 ... 1, between which there is guidance; the other steps take one pass instead of two.
    boost : float > 0
        The strength is multiplied by this after a split; 1: never.
    boost_steps : int >= 0
        For so many steps, from the one at which a branch has split off its parent. What a run begins with is no split.
    boost_above : float
        Only while the noise level is above this, 0 ... 1: the share of noise in the latents.

    Raises
    ------
    ValueError
        If a value is out of range.

    Notes
    -----
    Sources: the interval is that of Kynkäänniemi et al. 2024, "Applying guidance in a limited interval improves sample
    and distribution quality in diffusion models". The boost is not in the paper. It mends what sharing does to models
    that lay their pictures out early, and harms others: a default of no model.

    Examples
    --------
    >>> from hierdiff_core import GuidanceCourse, build_plan
    >>> plan = build_plan([[0, 1, 0.5, 2]], [1, 1, 0, 0, 0])
    >>> course = GuidanceCourse(end=0.8, boost=2, boost_steps=1)
    >>> [own.tolist() for own in course.factors(plan)]
    [[1.0], [1.0], [2.0, 2.0], [1.0, 1.0], [0.0, 0.0]]
    >>> course.passes(plan), GuidanceCourse().passes(plan)
    (14, 16)
    """

    start: float = 0.0
    end: float = 1.0
    boost: float = 1.0
    boost_steps: int = 0
    boost_above: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "end", "boost", "boost_above"):
            value = getattr(self, name)
            if isinstance(value, str) or not is_finite(value):
                raise ValueError(f"{name} must be a finite number; got {shown(value)}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "boost_steps", whole_number("boost_steps", self.boost_steps, 0))
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                "guidance must start and end between 0 and 1 (shares of the steps), and not end before it starts; "
                f"got {shown(self.start)} and {shown(self.end)}"
            )
        if not 0 < self.boost <= LARGEST_BOOST:
            raise ValueError(f"boost must be above 0, and {LARGEST_BOOST:g} at most; got {shown(self.boost)}")
        if not 0 <= self.boost_above <= 1:
            raise ValueError(f"boost_above must be a noise level from 0 to 1; got {shown(self.boost_above)}")

    @property
    def cuts(self) -> bool:
        """Whether some steps of a run may go without guidance."""
        return (self.start, self.end) != (0.0, 1.0)

    @property
    def boosts(self) -> bool:
        """Whether the strength changes after a split."""
        return self.boost != 1 and self.boost_steps > 0

    def inside(self, num_steps: int) -> np.ndarray:
        """Which steps have guidance.

        Parameters
        ----------
        num_steps : int
            Steps of the run, K.

        Returns
        -------
        inside : (K,) bool
            The interval begins and ends at the nearest step.
        """
        first, stop = (round(share * num_steps) for share in (self.start, self.end))
        k = np.arange(num_steps)
        return (k >= first) & (k < stop)

    def passes(self, plan: Plan, unconditional: np.ndarray | None = None) -> int:
        """Passes of a whole run whose sampler guides.

        Parameters
        ----------
        plan : Plan
            Of the run.
        unconditional : (K,) int64 array, optional
            Unconditional rows of each step where these are shared at splits, see `unconditional.rows_of_families`.

        Returns
        -------
        passes : int
            Two for each cluster of a step inside the interval, one outside; fewer inside where rows are shared.
        """
        rows = plan.clusters_per_step
        return int(rows.sum() + (rows if unconditional is None else unconditional) @ self.inside(plan.num_steps))

    def factors(self, plan: Plan, levels: ArrayLike | None = None) -> list[np.ndarray]:
        """What to multiply the strength of guidance by.

        Parameters
        ----------
        plan : Plan
            Of the run.
        levels : (K,) float, optional
            Noise levels of its steps, 0 ... 1; not needed where `boost_above` is 0.

        Returns
        -------
        factors : list of K (C_k,) float64 arrays
            Of each cluster of each step; 0: no guidance, thus one pass.

        Raises
        ------
        ValueError
            If the levels are missing, or not one for each step.
        """
        high = self._above(plan.num_steps, levels)
        inside = self.inside(plan.num_steps)
        return [self.factors_of(since, bool(inside[k]), bool(high[k])) for k, since in enumerate(since_parted(plan))]

    def factors_of(self, since: np.ndarray, inside: bool = True, high: bool = True) -> np.ndarray:
        """As `factors`, of the branches of one step.

        Parameters
        ----------
        since : (C,) int64
            Steps since each split off its parent, `NEVER` for one that did not.
        inside : bool
            Whether the step is inside the interval.
        high : bool
            Whether its noise level is above `boost_above`.

        Returns
        -------
        factors : (C,) float64
            0 where there is no guidance.
        """
        raised = (since >= 0) & (since < self.boost_steps) & high
        return np.where(raised, self.boost, 1.0) * inside

    def _above(self, num_steps: int, levels: ArrayLike | None) -> np.ndarray:
        if levels is None:
            if self.boosts and self.boost_above > 0:
                raise ValueError("levels are needed: boost_above is a noise level")
            return np.ones(num_steps, dtype=bool)
        levels = np.asarray(levels, dtype=np.float64)
        if levels.shape != (num_steps,):
            raise ValueError(f"levels must have shape ({num_steps},), one for each step; got {levels.shape}")
        return levels > self.boost_above


def since_parted(plan: Plan) -> list[np.ndarray]:
    """`since_splits` of a plan; those of a shard are of its set, for what parts from it there is in other shards."""
    own = since_splits(plan.steps)
    if plan.part_of is None:
        return own
    whole, numbers = plan.part_of[0], numbers_in_set(plan)
    theirs = since_splits(whole.steps)
    of_set = [theirs[k][whole.steps[k].labels[numbers[step.first]]] for k, step in enumerate(plan.steps)]
    # the later of the two: what its inputs part in the shard alone, they part in the set too
    return [np.where((a == NEVER) | ((b != NEVER) & (b < a)), b, a) for a, b in zip(own, of_set, strict=True)]


def since_splits(steps: Sequence[Step]) -> list[np.ndarray]:
    """How long ago each branch split off its parent.

    Parameters
    ----------
    steps : K Step
        Of a plan.

    Returns
    -------
    since : list of K (C_k,) int64 arrays
        Steps; 0 in the step that begins with the split, `NEVER` for a branch that the run began with.
    """
    since: list[np.ndarray] = []
    for k, step in enumerate(steps):
        if k == 0:
            since.append(np.full(step.num_clusters, NEVER, dtype=np.int64))
            continue
        siblings = np.bincount(step.parents)[step.parents]
        before = since[-1][step.parents]
        since.append(np.where(siblings > 1, 0, np.where(before < 0, NEVER, before + 1)))
    return since
