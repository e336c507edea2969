"""Rerolled branches of samplers that draw no noise: they begin at their step from a fresh amount of it, as in img2img.

The sampler goes through all branches at once, and those that were not rerolled shall stay bit-identical. So the rows
are changed in place, in the tensor that the sampler calls its model with, before the first call of the step. Samplers
that go on from another tensor, or from what they remember of the noise, are found out before: they run on a number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...hierdiff_core.sampling.noise import FIRST_LATENT, draw_rows, keyed_generator
from .dry_run import DryRun, sampler_name
from .stand_in import StandIn
from .stretches import beginnings, calls_once_a_step, restless, split_steps

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan
    from .clusters import CurrentClusters

SAME = 1e-3  # of a change, relatively
TAKEN = 0.3  # how much of the noise that was put in must be left at the next call
REFUSED = (
    "{name} goes on from what it remembers of the noise, so that prompts cannot be rerolled at step {step}, nor have "
    "variants from there: use a sampler that draws noise (euler_ancestral, dpmpp_2m_sde), euler or dpmpp_2m, or reroll "
    "from the first step on"
)
NOT_TAKEN = "⚠ {name} did not take the noise of rerolled prompts at step {step}: their pictures may be what they were"
NO_STEP_BEFORE = "⚠ the run begins at step {step}, where prompts were rerolled: they go on from the latents that it got"


def fresh_steps(plan: Plan, steps: range) -> list[int]:
    """The steps of a run at which prompts are rerolled, but for the plan's first."""
    return sorted({reroll.step for reroll in plan.rerolls if reroll.step in steps and reroll.step > 0})


def with_fresh_noise(
    function: Callable, drawn: Callable, current: CurrentClusters, seed: int, note: Callable[[str], object]
) -> Callable:
    """A sampler function whose rerolled branches begin at their step from noise of their own.

    Parameters
    ----------
    function : callable
        Any k-diffusion sampler, as it is run. One that draws noise has other noise for them already.
    drawn : callable
        The same in one piece.
    current : CurrentClusters
        Of the run.
    seed : int
        Of the run.
    note : callable
        Gets a line for the report.

    Raises
    ------
    ValueError
        From the sampler, before any call of the model, where it is known not to take the noise.
    """
    steps = fresh_steps(current.plan, range(current.first_step, current.last_step + 1))
    if not steps:
        return function

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        dry = DryRun(drawn, model, x, sigmas, extra_args or {}, options)
        if dry.draws():  # other noise from there on
            return function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)
        own = [k - current.first_step for k in steps]
        calls = {k: call_of_step(dry, k, current) for k in own if k}
        fresh = FreshNoise(model, current, seed, calls, sigmas, sampler_name(drawn), note)
        if 0 in own:
            note(NO_STEP_BEFORE.format(step=current.first_step))
        return function(fresh, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)

    return sample


def call_of_step(dry: DryRun, k: int, current: CurrentClusters) -> int | None:
    """The call with which a sampler begins a step, one of the run's own; None where that is not known before it runs.

    Raises
    ------
    ValueError
        If the sampler would not take what is put into its latents there.
    """
    first = max([0, *(begin for begin in anew(dry, current) if begin <= k)])
    place = place_of_step(dry, k, first)
    if place is None:
        return None
    if not takes(dry, k, first, place):
        raise ValueError(REFUSED.format(name=sampler_name(dry.function), step=current.first_step + k + 1))
    return place if first == 0 else k


def anew(dry: DryRun, current: CurrentClusters) -> Sequence[int]:
    """The steps at which a sampler begins anew, whatever is put into its latents."""
    whole = dry(restless)
    if whole is None or not calls_once_a_step(whole, dry):
        return []
    splits = split_steps(current)
    return beginnings(dry, splits if len(splits) == 0 else split_steps(current, current.equal_inputs()))


def place_of_step(dry: DryRun, k: int, first: int) -> int | None:
    """Which of a sampler's calls since step `first` is at the beginning of step `k`: the one before its callback."""
    told: list[int] = []
    passed = dry(restless, first=first, callback=lambda calls: told.append(calls))
    if passed is None:
        return None
    if len(told) <= k - first:  # a sampler that tells of several steps at once
        return k - first
    return told[k - first] - 1


def takes(dry: DryRun, k: int, first: int, place: int) -> bool:
    """Whether a sampler goes on from what is put into its latents, and from nothing else that knows of the noise.

    Two numbers that are put in must be as far apart at the next step as they are for a sampler that begins there. Where
    a number is put in the latents are known to the prediction alone, which stays what it is.
    """

    def predict(x, sigma, call):
        return restless(0.0, sigma, call)

    def next_input(value, begin, at):
        passed = dry(predict, first=begin, put=(at, value))
        return following(passed, at) if passed else None

    ends = [next_input(value, first, place) for value in (1.0, 2.0)] + [next_input(value, k, 0) for value in (1.0, 2.0)]
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return True  # the last step of all: what comes of it is the prediction
    ours, theirs = known[1] - known[0], known[3] - known[2]
    return abs(ours - theirs) <= SAME * max(abs(theirs), SAME)


def following(passed, at: int) -> float | None:
    """What a sampler called its model with at the first call of a lower noise level after a call."""
    level = passed.sigmas[at]
    lower = (x for x, sigma in zip(passed.inputs[at + 1 :], passed.sigmas[at + 1 :], strict=True) if sigma < level)
    return next(lower, None)


class FreshNoise(StandIn):
    """A denoiser that puts noise into the rows of rerolled branches before the call with which their step begins.

    Parameters
    ----------
    model : object
        The real denoiser.
    current : CurrentClusters
        Of the run.
    seed : int
    calls : dict of int to (int or None)
        For each of the run's own steps at which prompts are rerolled, the call that it begins with; None: the first of
        its noise level.
    sigmas : (S + 1,) tensor
    name : str
        Of the sampler.
    note : callable
    """

    def __init__(
        self,
        model: Callable,
        current: CurrentClusters,
        seed: int,
        calls: dict[int, int | None],
        sigmas: torch.Tensor,
        name: str,
        note: Callable[[str], object],
    ):
        super().__init__(model)
        self._current, self._seed, self._todo, self._sigmas = current, seed, dict(calls), sigmas
        self._name, self._note = name, note
        self._count = 0
        self._denoised: torch.Tensor | None = None
        self._put: tuple[int, torch.Tensor, torch.Tensor] | None = None  # step, rows and noise, until it is looked for

    def __call__(self, x, sigma, *args, **kwargs):
        self._current.advance(sigma)
        self._look_for_noise(x)
        for k, call in [each for each in self._todo.items() if self._begins(*each)]:
            del self._todo[k]
            self._begin(x, k, is_known=call is not None)
        self._denoised = self._model(x, sigma, *args, **kwargs)
        self._count += 1
        return self._denoised

    def _begins(self, k, call):
        if call is not None:
            return self._count == call
        return self._current.k >= self._current.first_step + k

    def _begin(self, x, k, is_known):
        plan, step = self._current.plan, self._current.first_step + k  # by now others may be current
        prompts = np.flatnonzero(plan.fresh(step)[plan.steps[step].labels])
        if self._denoised is None or not len(prompts):
            return
        rows = torch.from_numpy(prompts).to(x.device)
        noise = noise_of_prompts(plan, step, prompts, self._seed, step, x)
        sampling = self._model.inner_model.inner_model.model_sampling
        begun = sampling.noise_scaling(self._sigmas[k].to(x), noise, self._denoised[rows], False)
        x[rows] = begun.to(x.dtype)
        self._put = None if is_known else (k, rows, noise)

    def _look_for_noise(self, x):
        """Tell of a sampler that goes on from something else than it called its model with."""
        if self._put is None or self._denoised is None:
            return
        k, rows, noise = self._put
        self._put = None
        left = (x[rows] - self._denoised[rows]).flatten(1).float()
        alike = torch.nn.functional.cosine_similarity(left, noise.flatten(1).float())
        if bool((alike < TAKEN).any()):
            self._note(NOT_TAKEN.format(name=self._name, step=self._current.first_step + k + 1))


def noise_of_prompts(
    plan: Plan, k: int, prompts: Sequence[int] | np.ndarray, seed: int, draw: int, like: torch.Tensor
) -> torch.Tensor:
    """(P, ...) noise of some prompts' branches at a step: a function of seed, branch, rerolls and the draw's number."""
    keys, seeds = plan.noise_keys(k), plan.branch_seeds(k)
    own = [int(plan.steps[k].labels[i]) for i in prompts]
    generators = [keyed_generator(seed if (mine := seeds[c]) is None else mine, keys[c], draw) for c in own]
    return draw_rows(generators, (len(own), *like.shape[1:]), like.dtype, like.device)


def rerolled_noise(noise: torch.Tensor, plan: Plan, seed: int) -> torch.Tensor:
    """The noise (N, ...) that a run begins with; prompts that are rerolled from the first step on have another."""
    prompts = np.flatnonzero(plan.fresh(0)[plan.steps[0].labels])
    if not len(prompts) or not noise.any():
        return noise
    made = noise.clone()
    made[prompts] = noise_of_prompts(plan, 0, prompts, seed, FIRST_LATENT, noise)
    return made
