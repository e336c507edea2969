"""The last step of a run from which a reroll changes a picture: samplers that draw noise draw none at the end."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import comfy.samplers
import torch

from .dry_run import DryRun


def last_reroll(
    guider: comfy.samplers.CFGGuider, sampler: comfy.samplers.KSAMPLER, sigmas: torch.Tensor, latents: torch.Tensor
) -> int | None:
    """The last of a run's own steps from which other noise makes another picture.

    Parameters
    ----------
    guider : CFGGuider
        Of the run, which has not begun.
    sampler : KSAMPLER
        As the host made it.
    sigmas : (S + 1,) tensor
    latents : (N, ...) tensor

    Returns
    -------
    step : int or None
        None for samplers of other packs, and for a run that stops before its end.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER) or float(sigmas[-1]) > 0:
        return None
    options, patcher = dict(sampler.extra_options), guider.model_patcher
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        options["noise_sampler"] = None  # the dry run's own
    inner = SimpleNamespace(inner_model=patcher.model, model_patcher=patcher, model_options=guider.model_options)
    denoiser = SimpleNamespace(inner_model=inner, sigmas=sigmas)  # samplers look for the model's schedule in it
    return DryRun(sampler.sampler_function, denoiser, latents, sigmas, {"seed": 0}, options).last_draw()
