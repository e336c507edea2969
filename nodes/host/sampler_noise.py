"""Noise for the host's samplers that is the same for all rows of a cluster."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import torch

from ...hierdiff_core.sampling.noise import draw_rows, keyed_generator
from .clusters import CurrentClusters
from .dry_run import is_hosts, sampler_name
from .fresh_noise import with_fresh_noise
from .row_noise import with_row_noise
from .stretches import in_stretches

if TYPE_CHECKING:
    from ...hierdiff_core.plan.seeds import Seeds

# The host's samplers whose noise is a path: one Brownian tree for each branch.
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")

OWN_DRAWS = (
    "⚠ {name} draws noise by itself: a prompt's own seed decides what it starts from, but not what is drawn on the way"
)
LARGEST_CHURN = 2**0.5 - 1  # by how much a sampler with s_churn raises a sigma at most (Karras et al. 2022)


class OneNoise:
    """The host's NOISE: one noise, repeated for N rows; prompts with a seed of their own have that seed's.

    Parameters
    ----------
    seed : int
    num_prompts : int
    own : tuple of N (int or None), optional
        Seeds of the prompts.
    """

    def __init__(self, seed: int, num_prompts: int, own: Seeds | None = None):
        self.seed = seed
        self.num_prompts = num_prompts
        self.own = own

    def generate_noise(self, input_latent: dict) -> torch.Tensor:
        """(N, ...) noise for the host's LATENT."""
        own, latent = self.own or (), input_latent["samples"][:1]
        with_own_seeds = noise_of_seeds(latent, own)  # first: the global generator goes on from the run's own seed
        one = comfy.sample.prepare_noise(latent, self.seed)
        rows = one.repeat(self.num_prompts, *[1] * (one.ndim - 1))
        return rows_of_seeds(rows, own, with_own_seeds)


def noise_of_seeds(latent: torch.Tensor, seeds: Iterable[int | None]) -> dict[int, torch.Tensor]:
    """The noise that the host makes for a single latent, (1, ...), of each seed."""
    return {seed: comfy.sample.prepare_noise(latent, seed) for seed in dict.fromkeys(seeds) if seed is not None}


def rows_of_seeds(rows: torch.Tensor, seeds: Seeds, noise: dict[int, torch.Tensor]) -> torch.Tensor:
    """Noise (N, ...) in which prompts with a seed of their own have that seed's."""
    for i, seed in enumerate(seeds):
        if seed is not None:
            rows[i] = noise[seed][0].to(rows)
    return rows


class SamplerNoise:
    """The noise that a sampler adds in one run: a function of seed, branch and the number of the draw.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    seed : int

    Attributes
    ----------
    row : (1, ...) tensor
        One latent: shape, dtype and device of the noise. The run sets it at each call of the model, before any noise.
    theirs : str, or None
        The name of the sampler where it is another pack's.
    notes : list of str
        What users should know of the sampler.
    """

    def __init__(self, current: CurrentClusters, seed: int):
        self.current = current
        self.seed = seed
        self.row = torch.empty(0)
        self.theirs: str | None = None
        self.notes: list[str] = []
        self._draws = 0
        self._trees = {}  # Brownian trees by seed and branch key

    def shared_sampler(self, sampler: comfy.samplers.Sampler) -> comfy.samplers.KSAMPLER:
        """A copy of the host's sampler whose noise is the same for all rows of a cluster.

        Raises
        ------
        ValueError
            If the sampler couples rows, or is none that draws from sigma to sigma.
        """
        if not isinstance(sampler, comfy.samplers.KSAMPLER):
            raise ValueError(f"{type(sampler).__name__} is not a k-diffusion sampler of ComfyUI; use KSamplerSelect")
        function, options = sampler.sampler_function, dict(sampler.extra_options)
        name = getattr(function, "__name__", "")
        self.theirs = None if is_hosts(function) else sampler_name(function)
        if "adaptive" in name:
            raise ValueError(
                f"{sampler_name(function)} chooses its steps from the error of all rows together; use another sampler"
            )
        self.current.by_call = "dpm_fast" in name  # it never comes to the last sigma, where every prompt is alone
        churn = options.get("s_churn", 0) / max(len(self.current.sigmas) - 1, 1)
        self.current.raised = 1 + min(max(churn, 0.0), LARGEST_CHURN)
        if "noise_sampler" in options:
            options["noise_sampler"] = self.repeated(options["noise_sampler"])
        elif "noise_sampler" in inspect.signature(function).parameters:
            options["noise_sampler"] = self.brownian(name) if is_brownian(name) else self.white
        if self.theirs or churn > 0:
            if self.current.plan.seeds is not None:
                self.notes.append(OWN_DRAWS.format(name=sampler_name(function)))
            function = with_row_noise(function, self.current)
        stretched = in_stretches(function, self.current, self.notes.append)
        function = with_fresh_noise(stretched, function, self.current, self.seed, self.notes.append)
        if sampler.inpaint_options.get("random"):
            function = with_mask_noise(function, self.current.plan.seeds)
        return comfy.samplers.KSAMPLER(function, options, {})

    def white(self, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        """(N, ...) independent noise of each draw, as the host's samplers ask for it."""
        generators = [keyed_generator(seed, key, self._draws) for seed, key in self._seeds_and_keys()]
        self._draws += 1
        shape = len(generators), *self.row.shape[1:]
        return self.current.spread(draw_rows(generators, shape, self.row.dtype, self.row.device))

    def brownian(self, name: str) -> Callable:
        """Noise along a Brownian path for each branch, for a sampler of the host by name."""
        positive = self.current.sigmas[self.current.sigmas > 0].float()

        def noise(sigma, sigma_next):
            trees = [self._tree(own, positive, name.endswith("_gpu")) for own in self._seeds_and_keys()]
            return self.current.spread(torch.cat([tree(sigma, sigma_next) for tree in trees]))

        return noise

    def _seeds_and_keys(self):
        """What the noise of each current cluster is a function of."""
        own = zip(self.current.seeds, self.current.keys, strict=True)
        return [(self.seed if seed is None else seed, key) for seed, key in own]

    def _tree(self, own, sigmas, on_device):
        if own not in self._trees:
            seed = keyed_generator(own[0], own[1], 0).initial_seed()
            self._trees[own] = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler(
                self.row, sigmas.min(), sigmas.max(), seed=seed, cpu=not on_device
            )
        return self._trees[own]

    def repeated(self, noise_sampler: Callable) -> Callable:
        """Somebody else's noise, each cluster's first row for all of its rows."""

        def noise(sigma, sigma_next):
            return self.current.of_first(noise_sampler(sigma, sigma_next))

        return noise


def with_mask_noise(function: Callable, own: Seeds | None = None) -> Callable:
    """A sampler function whose mask keeps another noise than the run's, as the host's ddim: here one for all rows.

    Prompts with a seed of their own have that seed's, as if drawn alone.
    """

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, **options):
        def drawn(seed):
            return torch.randn((1, *x.shape[1:]), generator=torch.manual_seed(seed + 1)).to(model.noise)

        with_own_seeds = {seed: drawn(seed) for seed in dict.fromkeys(own or ()) if seed is not None}
        noise = drawn((extra_args or {}).get("seed", 41)).expand(x.shape).clone()
        model.noise = rows_of_seeds(noise, own or (), with_own_seeds)
        return function(model, x, sigmas, extra_args=extra_args, **options)

    return sample


def is_brownian(name: str) -> bool:
    """Whether a k-diffusion function of this name walks a Brownian path."""
    return any(name.startswith(f"sample_{sampler}") for sampler in BROWNIAN)
