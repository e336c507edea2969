"""Guidance of a Kandinsky run: of each step, or of each cluster where the plan raises it after a split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plan.guidance import GuidanceCourse
from .schedulers import noise_levels

if TYPE_CHECKING:
    from ..plan.plan import Plan

WHOLE_RUN = (0.0, 1.0)  # as shares of the steps


def course_of(plan: Plan, interval: Sequence[float] = WHOLE_RUN) -> GuidanceCourse:
    """The course of guidance of a run: the plan's, but an interval that a sampler was given goes before the plan's.

    Raises
    ------
    ValueError
        If the interval is none.
    """
    course, (start, end) = plan.guidance or GuidanceCourse(), interval
    return course if (start, end) == WHOLE_RUN else replace(course, start=start, end=end)


def step_guidance(num_steps: int, guidance: float, interval: Sequence[float] = WHOLE_RUN) -> np.ndarray:
    """Guidance of each step, (K,) float: `guidance` inside the interval, 1, which is none, outside."""
    return np.where(GuidanceCourse(interval[0], interval[1]).inside(num_steps), guidance, 1.0)


def passes_per_row(
    plan: Plan,
    guidance: float,
    interval: Sequence[float] = WHOLE_RUN,
    unconditional: np.ndarray | None = None,
) -> np.ndarray:
    """Evaluations that a row of each step takes, (K,): 2 where it is guided, else 1.

    Between 1 and 2 where its clusters share some of their `unconditional` rows, (K,) int64, see `shared.shared_rows`.
    """
    course = course_of(plan, interval)
    guided = step_guidance(plan.num_steps, guidance, (course.start, course.end)) > 1
    return 1 + guided * (1 if unconditional is None else unconditional / plan.clusters_per_step)


def strengths(plan: Plan, guidance: float, interval: Sequence[float], scheduler: Any) -> np.ndarray | list[np.ndarray]:
    """Guidance of each step of a run, or of each of its clusters where these differ.

    Parameters
    ----------
    plan : Plan
        Of the run.
    guidance : float
        As the sampler was given it.
    interval : (float, float)
        As the sampler was given it, see `course_of`.
    scheduler : diffusers scheduler
        With its timesteps set.

    Returns
    -------
    strengths : (K,) float array, or list of K (C_k,) float64 arrays
        1 where there is no guidance.
    """
    course = course_of(plan, interval)
    if not course.boosts:
        return step_guidance(plan.num_steps, guidance, (course.start, course.end))
    factors = course.factors(plan, noise_levels(scheduler))
    return [np.where(own > 0, guidance * own, 1.0) for own in factors]


def check_guidance(plan: Plan, guidance: float, interval: Sequence[float] = WHOLE_RUN) -> None:
    """Refuse guidance that is none, and a boost where there is nothing to raise.

    Raises
    ------
    ValueError
        It names the value.
    """
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be a finite number; got {guidance}")
    if course_of(plan, interval).boosts and guidance <= 1:
        raise ValueError(
            f"the plan raises guidance after each split, but guidance is {guidance:g}, which is none: use more than 1, "
            "or a plan without boost"
        )
