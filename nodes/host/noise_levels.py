"""Noise levels of any MODEL: how much of a latent is noise at a sigma, by what the model itself adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np


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
