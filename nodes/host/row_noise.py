"""Noise that a sampler draws by itself, for all rows at once: made the same for all rows of a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .clusters import CurrentClusters
from .stand_in import StandIn

DRAWS = {
    *(torch.randn, torch.randn_like, torch.rand, torch.rand_like, torch.randint, torch.randint_like),
    *(torch.normal, torch.bernoulli, torch.poisson),
    *(getattr(torch.Tensor, f"{name}_") for name in ("normal", "uniform", "random", "bernoulli", "exponential")),
    *(getattr(torch.Tensor, f"{name}_") for name in ("cauchy", "geometric", "log_normal")),
    torch.Tensor.bernoulli,
}


class RowNoise(TorchFunctionMode):
    """While it is entered, what torch draws with a row for each prompt has the rows of a cluster equal to its first.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    ndim : int
        Of the latents: draws of other dimensions have no row for each prompt, but for plain lists of N numbers.

    Notes
    -----
    The draw itself happens as ever: where every prompt is alone, it is bit-identical to what the sampler draws without
    sharing.
    """

    def __init__(self, current: CurrentClusters, ndim: int):
        super().__init__()
        self.current = current
        self.ndims = (1, ndim)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; of draws the rows are made equal."""
        drawn = func(*args, **(kwargs or {}))
        if func not in DRAWS or not self._has_rows(drawn):
            return drawn
        return drawn.copy_(self.current.of_first(drawn))  # in place: it may be a tensor that the sampler has

    def _has_rows(self, drawn):
        num_prompts = self.current.plan.num_prompts
        shared = len(self.current.clusters.first) < num_prompts
        return shared and torch.is_tensor(drawn) and drawn.ndim in self.ndims and len(drawn) == num_prompts

    def outside(self, function: Callable) -> Callable:
        """A function that runs as if this were not entered, such as the model: its draws are its own."""

        def call(*args, **kwargs):
            self.__exit__(None, None, None)
            try:
                return function(*args, **kwargs)
            finally:
                self.__enter__()

        return call


class Outside(StandIn):
    """A denoiser whose calls run outside of a `RowNoise`; all else is the real one's.

    Parameters
    ----------
    model : object
        The real denoiser.
    noise : RowNoise
    """

    def __init__(self, model: Callable, noise: RowNoise):
        super().__init__(model)
        self._call = noise.outside(model)

    def __call__(self, *args, **kwargs):
        return self._call(*args, **kwargs)


def with_row_noise(function: Callable, current: CurrentClusters) -> Callable:
    """A sampler function whose own draws are the same for all rows of a cluster.

    Parameters
    ----------
    function : callable
        Any k-diffusion sampler.
    current : CurrentClusters
        Of the run.
    """

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        noise = RowNoise(current, x.ndim)
        told = callback and noise.outside(callback)
        with noise:
            model = Outside(model, noise)
            return function(model, x, sigmas, extra_args=extra_args, callback=told, disable=disable, **options)

    return sample
