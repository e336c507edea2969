"""A sampler that remembers earlier predictions begins anew where clusters split.

What it remembers was predicted under the mean conditioning of larger clusters. A multistep sampler would extrapolate
from there across the jump to its own conditioning, and overshoot.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ...hierdiff_core.plan.linkage import cut
from ...hierdiff_core.plan.steps import linked_steps
from .clusters import CurrentClusters, rows_of_leaves
from .dry_run import DryRun, Passed, StretchEnds, sampler_name
from .stand_in import StandIn

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.plan.steps import Step

# No sampler of the host's needs more steps than these to come to its full order.
FULL_ORDER = 4
# How much of an error of a prediction a sampler may leave some steps later, see `DryRun.growth`; found by measuring
# (docs/measurements/samplers.md). Beyond the first it remembers nothing from the first split on.
STEPS_TO_GROW, SENSITIVE, UNSTABLE = 7, 0.1, 2.0
# The same for the steps before the last, which many schedules make the largest by far.
STEPS_TO_LAST, LAST_UNSTABLE = 2, 6.0

# Samplers that carry what was shared into the images, however few steps it were: how far on the bundled model at 60 %
# saved, in levels of 255, on the schedule normal at cfg 3 (docs/measurements/samplers.md). Of euler it is less than 1.
MEASURED_FAR = {
    "lcm": 6,
    "euler_cfg_pp": 6,
    "euler_ancestral_cfg_pp": 4,
    "dpmpp_2m_cfg_pp": 8,
    "res_multistep_cfg_pp": 4,
    "gradient_estimation_cfg_pp": 4,
    "sa_solver": 3,
}
# On a schedule whose sigmas fall by less from step to step, as those of karras over 20 steps, they are within 2 levels.
STEEP = 2.0


class Stretch(NamedTuple):
    """Steps that a sampler runs through without a new beginning.

    first : int              its first step
    sigmas : list of float   of its calls of the model
    """

    first: int
    sigmas: list[float]


def in_stretches(function: Callable, current: CurrentClusters, note: Callable[[str], object]) -> Callable:
    """A sampler function that begins anew where clusters split, if what it remembers would mislead it.

    Parameters
    ----------
    function : callable
        Any k-diffusion sampler; those of other packs run as they are.
    current : CurrentClusters
        Of the run; told at which sigmas the model will be called, where that is known.
    note : callable
        Gets a line for the report, before the first call of the model, if the sampler makes much of small differences.
    """

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        dry = DryRun(function, model, x, sigmas, extra_args or {}, options)
        splits = split_steps(current)
        stretches = stretches_of(dry, splits)
        if len(stretches) > 1:
            splits = split_steps(current, current.equal_inputs())
            stretches = stretches_of(dry, splits)
        current.know_sigmas([sigma for stretch in stretches for sigma in stretch.sigmas] or None)
        for line in notes_on(dry, sampler_name(function), len(stretches) > 1) if splits else ():
            note(line)
        plan, settings = current.plan, {"disable": disable, **options}

        def begins(step):  # the plan may have been refined meanwhile, so that nothing splits there any more
            return current.plan is plan or step in beginnings(dry, split_steps(current, current.equal_inputs()))

        if len(stretches) < 2:
            return function(model, x, sigmas, extra_args=extra_args, callback=callback, **settings)
        with tqdm(total=len(sigmas) - 1, disable=disable) as bar:  # one for all, not one for each
            settings["disable"] = True
            while stretches:
                first = stretches[0].first
                ahead = CallsOf(model, stretches, begins, current)
                x = run(function, ahead, x, sigmas[first:], extra_args, numbered(callback, first, bar), settings)
        return x

    return sample


def run(function, ahead, x, sigmas, extra_args, callback, settings):
    """A stretch of a sampler: what comes out of it, or what it would have called the model with next."""
    # samplers put functions of their own into the arguments
    args = None if extra_args is None else dict(extra_args)
    try:
        return function(ahead, x, sigmas, extra_args=args, callback=callback, **settings)
    except StretchEnds as end:
        return end.x


class CallsOf(StandIn):
    """A denoiser that answers the calls of one stretch; the call after them leaves the sampler.

    Parameters
    ----------
    model : object
        The real denoiser.
    stretches : list of Stretch
        Those to come; what is run is taken out.
    begins : callable
        ``begins(step) -> bool``: whether a stretch begins there; else it goes on with the one before.
    current : CurrentClusters
        Of the run; told at which calls the sampler has forgotten what it knew.
    """

    def __init__(
        self, model: Callable, stretches: list[Stretch], begins: Callable[[int], bool], current: CurrentClusters
    ):
        super().__init__(model)
        self._stretches, self._begins, self._current = stretches, begins, current
        first = stretches.pop(0)
        self._calls, self._forgot = len(first.sigmas), first.first > 0

    def __call__(self, x, sigma, *args, **kwargs):
        if self._calls == 0 and self._stretches and not self._begins(self._stretches[0].first):
            self._calls = len(self._stretches.pop(0).sigmas)
        if self._calls == 0:
            raise StretchEnds(x)
        self._calls -= 1
        self._current.begins_anew, self._forgot = self._forgot, False
        return self._model(x, sigma, *args, **kwargs)


def numbered(callback: Callable | None, first: int, bar: tqdm) -> Callable:
    """A sampler's callback for steps that begin with this one of the run; the bar moves with it."""

    def told(info):
        bar.update(1)
        if callback is not None:
            callback({**info, "i": info["i"] + first})

    return told


def split_steps(current: CurrentClusters, inputs: np.ndarray | None = None) -> list[int]:
    """The run's own steps, its first being 0, at which clusters split.

    With the prompts' inputs, (N,) numbers: at which what the model gets changes for a prompt. A part of a run begins
    anew where the whole does, so that its pictures are the same.
    """
    if current.whole is not None:
        return split_steps(current.whole, None if inputs is None else current.whole.equal_inputs())
    steps, leaves = steps_that_count(current.plan)
    steps = steps[current.first_step : current.last_step + 1]
    each = -1 - np.arange(len(leaves))  # of those that are gone nobody knows the inputs: they count as different
    inputs = each if inputs is None else np.where(leaves < 0, each, inputs[leaves])
    return [i + 1 for i, (before, now) in enumerate(itertools.pairwise(steps)) if _changes(before, now, inputs)]


def steps_that_count(plan: Plan) -> tuple[Sequence[Step], np.ndarray]:
    """The steps whose splits make a sampler begin anew, and the prompt of each of their leaves, -1 for none.

    Where prompts were attached or removed these are the steps of the set that it began as: a sampler goes through all
    branches at once, and those that were there shall stay what they were.
    """
    if plan.frozen is None:
        return plan.steps, np.arange(plan.num_prompts)
    first = np.flatnonzero(plan.frozen.generations == 0)
    labels = (cut(plan.frozen.tree.Z, threshold)[first] for threshold in plan.thresholds)
    return linked_steps(np.unique(own, return_inverse=True)[1] for own in labels), rows_of_leaves(plan)[first]


def _changes(before, now, inputs):
    if now.num_clusters == before.num_clusters:
        return False
    split = (np.bincount(before.labels[now.first]) > 1)[before.labels]
    return len({*zip(before.labels[split].tolist(), inputs[split].tolist(), strict=True)}) > len(
        set(before.labels[split])
    )


def stretches_of(dry: DryRun, splits: list[int]) -> list[Stretch]:
    """How a sampler is to run: in one stretch where it looks at the present step only.

    Parameters
    ----------
    dry : DryRun
    splits : list of int
        Steps at which clusters split.

    Returns
    -------
    stretches : list of Stretch
        None at all where the sampler's calls cannot be known before it runs.
    """
    whole, steps = dry(restless), len(dry.sigmas) - 1
    if whole is None:
        return []
    if not calls_once_a_step(whole, dry):  # else each step begins with a prediction of its own
        return [Stretch(0, whole.sigmas)]
    x, inputs, stretches = 1.0, [], []
    for first, until in itertools.pairwise([0, *beginnings(dry, splits), steps]):
        passed = dry(restless, x, first, until if until < steps else None)
        if passed is None or len(passed.sigmas) != until - first:
            return [Stretch(0, whole.sigmas)]
        x = passed.x
        inputs += passed.inputs
        stretches.append(Stretch(first, passed.sigmas))
    return stretches if inputs != whole.inputs else [Stretch(0, whole.sigmas)]


def beginnings(dry: DryRun, splits: list[int]) -> list[int]:
    """The steps at which a sampler begins anew: the splits, or every step after the first where errors would grow."""
    steps = len(dry.sigmas) - 1
    if splits and is_sensitive(dry):
        splits = list(range(splits[0], steps))
    return [k for k in splits if k <= steps - FULL_ORDER or dry.heeds_model(k)]


def calls_once_a_step(whole: Passed, dry: DryRun) -> bool:
    """Whether the model is called at the sigma of each step, and only there."""
    grid = dry.sigmas[:-1].tolist()  # flow models are called a little below their first sigma
    return len(whole.sigmas) == len(grid) and all(
        math.isclose(sigma, step, rel_tol=1e-3) for sigma, step in zip(whole.sigmas, grid, strict=True)
    )


def restless(x: float, sigma: float, call: int) -> float:
    """A prediction that changes from step to step, as it must for a dry run to show what a sampler remembers."""
    return x / (1 + sigma * sigma) + math.sin(8 * math.log(sigma))


def is_sensitive(dry: DryRun) -> bool:
    """Whether a sampler is better off without what it remembers, on its schedule."""
    return dry.growth(STEPS_TO_GROW) > SENSITIVE


def is_unstable(dry: DryRun) -> bool:
    """Whether a sampler makes large errors of small ones on its schedule."""
    return dry.growth(STEPS_TO_GROW) > UNSTABLE or dry.growth(STEPS_TO_LAST) > LAST_UNSTABLE


def is_steep(sigmas: torch.Tensor) -> bool:
    """Whether some step of (K + 1,) sigmas is a large one, but for that to 0."""
    positive = sigmas[sigmas > 0]
    return bool((positive[:-1] / positive[1:] >= STEEP).any())


def notes_on(dry: DryRun, name: str, begins_anew: bool) -> list[str]:
    """What users should know of a sampler on its schedule, where clusters split."""
    lines = []
    if dry.is_hosts and name in MEASURED_FAR and is_steep(dry.sigmas):
        lines.append(
            f"⚠ {name} carries the shared steps into the images: with 60 % saved, those of the bundled model were "
            f"{MEASURED_FAR[name]} levels of 255 from the unshared ones, with euler less than 1. Choose the scheduler "
            "karras, or euler"
        )
    if begins_anew and is_unstable(dry):
        lines.append(
            f"⚠ {name} is unstable on this schedule, with or without sharing: it makes large errors of small ones, so "
            "that images can be far from the unshared ones. Choose another scheduler (karras; simple for flow models) "
            "or a sampler such as euler or dpmpp_2m"
        )
    elif begins_anew and is_sensitive(dry):
        lines.append(
            f"{name} is sensitive on this schedule: from the first split on each step begins anew, as with euler"
        )
    return lines
