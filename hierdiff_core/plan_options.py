"""What options of the command line mean for a plan: a noise level in steps, guidance that is raised after splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kandinsky.model_folder import MOST_CONFIG, read_object
from .kandinsky.schedulers import make_scheduler, noise_levels
from .plan.guidance import GuidanceCourse
from .plan.noise_levels import unshared_steps

if TYPE_CHECKING:
    from argparse import Namespace


def private_steps(options: Namespace) -> int:
    """Final steps that are not shared: as many as were asked for, and those at the noise level or below."""
    if not options.share_above:
        return options.private_steps
    config = read_object(options.decoder, "scheduler/scheduler_config.json", MOST_CONFIG)
    levels = noise_levels(make_scheduler(options.scheduler, config, options.steps))
    return unshared_steps(levels, options.share_above, options.private_steps)


def guidance_course(options: Namespace) -> GuidanceCourse | None:
    """What raises guidance after a split, if anything does."""
    if options.boost is None:
        return None
    factor, steps, above = options.boost
    if not steps.is_integer():
        raise ValueError(f"--boost must have a whole number of steps; got {steps:g}")
    try:
        return GuidanceCourse(boost=factor, boost_steps=int(steps), boost_above=above)
    except ValueError as error:
        raise ValueError(f"--boost: {error}") from None
