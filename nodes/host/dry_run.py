"""At which sigmas one of the host's samplers will call its model, known before it runs: from a run without a model.

Reading a sigma from the device waits for everything that was queued before it: in each step the device would stand
still until the CPU has launched the next call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch


def sigmas_of_calls(
    function: Callable, model: object, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict, options: dict
) -> list[float] | None:
    """The sigmas of a sampler's calls, in order: it is run on a single number, with a model that predicts zero.

    Parameters
    ----------
    function : callable
        Of the host's k-diffusion samplers.
    model : object
        The denoiser that the sampler is given; asked for what it knows, never called.
    x : (N, ...) tensor
        What the sampler starts from; only its number of dimensions is used.
    sigmas : (K + 1,) tensor
    extra_args, options : dict
        As the sampler gets them.

    Returns
    -------
    sigmas : list of float, or None
        None for samplers of other packs, and for those that need a real model: the sigmas may then depend on what it
        predicts.
    """
    if not (getattr(function, "__module__", None) or "").startswith("comfy."):
        return None
    zero = ZeroModel(model)
    one = torch.zeros([1] * x.ndim)
    extra_args = {**extra_args, "model_options": {}}  # nothing of what other nodes put there is called
    if "noise_sampler" in options:
        options = {**options, "noise_sampler": lambda sigma, sigma_next: torch.zeros_like(one)}
    try:
        with torch.random.fork_rng(devices=[]):
            function(zero, one, sigmas.cpu(), extra_args=extra_args, callback=None, disable=True, **options)
    except Exception:  # whatever it needs that a number has not: the sigmas are read from the device then
        return None
    return zero.sigmas


class ZeroModel:
    """A denoiser that predicts zero and notes the sigmas that it is called with; all else is the real one's.

    Parameters
    ----------
    model : object
        The real denoiser.
    """

    def __init__(self, model: object):
        self.model = model
        self.sigmas: list[float] = []

    def __call__(self, x, sigma, model_options=None, **kwargs):
        self.sigmas.append(float(sigma.flatten()[0]))
        zero = torch.zeros_like(x)
        for listen in (model_options or {}).get("sampler_post_cfg_function", ()):  # the sampler's own
            listen(
                {"denoised": zero, "cond_denoised": zero, "uncond_denoised": zero, "cond": (), "uncond": ()}
                | {"cond_scale": 1.0, "model": self, "sigma": sigma, "model_options": model_options, "input": x}
            )
        return zero

    def __getattr__(self, name):
        return getattr(self.model, name)


def with_dry_run(function: Callable, begin: Callable[[list[float] | None], None]) -> Callable:
    """A sampler function that calls ``begin(sigmas or None)`` with the sigmas of its calls before the first of them."""

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        begin(sigmas_of_calls(function, model, x, sigmas, extra_args or {}, options))
        return function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)

    return sample
