"""A cluster begins with its first prompt's latent, and keeps what that prompt's mask keeps, until it splits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import comfy.samplers
import torch

from .clusters import CurrentClusters

MASK_FUNCTION = "denoise_mask_function"  # in the host's model options


def with_first_inputs(sampler: comfy.samplers.KSAMPLER, current: CurrentClusters) -> comfy.samplers.KSAMPLER:
    """A copy of a sampler that makes the rows of each cluster equal: latents, and where there is a mask what it keeps.

    Parameters
    ----------
    sampler : KSAMPLER
    current : CurrentClusters
        Of the run.
    """
    function = sampler.sampler_function

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        extra_args = dict(extra_args or {})
        if extra_args.get("denoise_mask") is not None:
            host_options = extra_args.get("model_options", {})
            following = FollowingMask(current, model, host_options.get(MASK_FUNCTION))
            extra_args["model_options"] = {**host_options, MASK_FUNCTION: following}
        x = current.of_first(x)
        return function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)

    return comfy.samplers.KSAMPLER(sample, sampler.extra_options, sampler.inpaint_options)


class FollowingMask:
    """What the host asks for a mask before each call of the model: it decides what is kept of which latent.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    model : KSamplerX0Inpaint
        The host's; it holds the latents of which a part is kept.
    before : callable or None
        The function of another node, such as Differential Diffusion.
    """

    def __init__(self, current: CurrentClusters, model: comfy.samplers.KSamplerX0Inpaint, before: Callable | None):
        self.current, self.model, self.before = current, model, before
        self.latents = model.latent_image  # each prompt's own

    def __call__(self, sigma: torch.Tensor, denoise_mask: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """The mask of each cluster's first prompt, at the clusters that this call will have."""
        self.current.advance(sigma)
        self.model.latent_image = self.current.of_first(self.latents)
        mask = self.current.of_first(denoise_mask)
        return mask if self.before is None else self.before(sigma, mask, *args, **kwargs)
