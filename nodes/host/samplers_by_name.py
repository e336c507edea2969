"""The host's samplers and schedulers by their names: which there are, and which one a run has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def sampler_names() -> list[str]:
    """All samplers that the host offers: workflows that were saved with one that is refused stay valid."""
    return comfy.samplers.KSampler.SAMPLERS


def scheduler_names() -> list[str]:
    """All schedulers that the host offers."""
    return comfy.samplers.KSampler.SCHEDULERS


def sigmas_of(model: ModelPatcher, steps: int, sampler_name: str, scheduler: str, denoise: float = 1.0) -> torch.Tensor:
    """(S + 1,) sigmas as the host's KSampler takes them; some schedulers give fewer than were asked for."""
    host = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, denoise)
    return host.sigmas


def name_of_sampler(sampler: Any, expected: object = None) -> str:
    """Name of a sampler of a run.

    Parameters
    ----------
    sampler : Sampler
        As the host made it.
    expected : str, optional
        The name of one that it may be: two names may stand for one function with other options.

    Returns
    -------
    name : str
        `expected` where that gives the same sampler; else that of its function, with its options.
    """
    name, options, inpaint = parts_of(sampler)
    if isinstance(expected, str) and expected in sampler_names():
        theirs = parts_of(comfy.samplers.sampler_object(expected))
        if theirs == (name, options, inpaint):
            return expected
    more = [f"{key}={value}" for key, value in {**options, **inpaint}.items()]
    return f"{name.rpartition('.')[2].removeprefix('sample_')}{' with ' if more else ''}{', '.join(more)}"


def parts_of(sampler: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What tells samplers apart: the function's name, and both kinds of options."""
    function = getattr(sampler, "sampler_function", type(sampler))
    options, inpaint = (getattr(sampler, name, None) or {} for name in ("extra_options", "inpaint_options"))
    return getattr(function, "__qualname__", type(function).__name__), options, inpaint
