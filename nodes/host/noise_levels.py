"""Noise levels of any MODEL: how much of a latent is noise at a sigma, by what the model itself adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .samplers_by_name import sigmas_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def noise_levels(model_sampling: Any, sigmas: torch.Tensor) -> np.ndarray:
    """Noise levels at some sigmas.

    Parameters
    ----------
    model_sampling : object
        The host's, of a model.
    sigmas : (S,) tensor

    Returns
    -------
    levels : (S,) float64 array
        0 ... 1, see `hierdiff_core.plan.noise_levels`: the sigma of flow models, sigma / (1 + sigma) of others.
    """
    sigmas = sigmas.detach().cpu().double()
    ones, zeros = torch.ones(len(sigmas), 1, dtype=torch.float64), torch.zeros(len(sigmas), 1, dtype=torch.float64)
    noise = model_sampling.noise_scaling(sigmas, ones, zeros)
    signal = model_sampling.noise_scaling(sigmas, zeros, ones)
    return (noise / (noise + signal)).flatten().numpy()


def levels_of_steps(model: ModelPatcher, steps: int, sampler_name: str, scheduler: str) -> np.ndarray:
    """Noise levels that the steps of a run begin at: (steps,) float64, falling.

    Some schedulers give fewer sigmas than they are asked for; a plan's course is then laid over those.
    """
    sigmas = sigmas_of(model, steps, sampler_name, scheduler)
    levels = noise_levels(model.get_model_object("model_sampling"), sigmas[:-1])
    places = np.linspace(0, len(levels) - 1, steps)
    return np.minimum.accumulate(np.interp(places, np.arange(len(levels)), levels).clip(0, 1))
