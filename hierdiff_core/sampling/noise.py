"""Noise keyed by (seed, branch, step).

A picture must not depend on the micro-batch, the device's batch or the order of the prompts, so no draw may
depend on what was drawn before it. A branch is known by the smallest key of its prompts' texts: its noise goes on
in one of its children, the others start their own.

A noise source is any callable ``noise(k, branches) -> generators`` that gives diffusers' ``generator`` argument
for step `k` (`FIRST_LATENT` for the initial latent) of the branches with these keys: a list with a
`torch.Generator` for each branch, one generator for all of them, or None for torch's global one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from ..plan.checks import shown, whole_number
from ..plan.keys import hashed

if TYPE_CHECKING:
    from ..plan.plan import Plan

NoiseSource: TypeAlias = Callable[[int, list[int]], Any]
FIRST_LATENT = -1
LARGEST_SEED = 2**64 - 1


class BranchNoise:
    """A noise source, asked by the clusters of a plan; prompts with seeds of their own ask one of their seed.

    Parameters
    ----------
    noise : noise source
        Of the run.
    plan : Plan
        For N prompts.
    prompt_keys : N int
        Noise keys of the prompts, from their texts.
    """

    def __init__(self, noise: NoiseSource, plan: Plan, prompt_keys: Sequence[int]):
        self.noise = noise
        self.plan = plan
        self.prompt_keys = prompt_keys
        self._keys: dict[int, list[int]] = {}
        self._own = {seed: keyed_noise(seed) for seed in plan.groups()[1] if seed is not None}

    def keys(self, k: int) -> list[int]:
        """Noise keys of all clusters of step k, salted by rerolls; kept for the parts of the plan that come to it."""
        if k not in self._keys:
            self._keys[k] = self.plan.noise_keys(k, self.prompt_keys)
        return self._keys[k]

    def generators(self, k: int, clusters: np.ndarray) -> Any:
        """What the noise source gives for some clusters of step k."""
        keys = self.keys(k)
        own = [keys[c] for c in clusters.tolist()]
        if self.plan.seeds is None:
            return self.noise(k, own)
        seeds = self.plan.branch_seeds(k)
        return self._drawn(k, own, [seeds[c] for c in clusters.tolist()])

    @property
    def sources(self) -> list[tuple[int | None, NoiseSource]]:
        """The seed of each group of `Plan.groups`, and the noise source that it draws from."""
        return [(seed, self.noise if seed is None else self._own[seed]) for seed in self.plan.groups()[1]]

    def _drawn(self, k: int, keys: Sequence[int], seeds: Sequence[int | None]) -> list[Any]:
        """A generator for each branch with one of these keys and seeds; that of the run where a seed is None."""
        theirs = [key for key, seed in zip(keys, seeds, strict=True) if seed is None]
        given = self.noise(k, theirs) if theirs else []
        run = iter(given if isinstance(given, list) else [given] * len(theirs))
        return [
            next(run) if seed is None else self._own[seed](k, [key])[0] for key, seed in zip(keys, seeds, strict=True)
        ]


def keyed_noise(seed: int) -> NoiseSource:
    """Noise source whose draws are a function of (seed, branch, step) and of nothing else.

    Parameters
    ----------
    seed : int in 0 ... 2**64 - 1
        The user's.

    Returns
    -------
    noise source
        Gives a generator for each branch.

    Raises
    ------
    ValueError
        If the seed is no whole number, or out of range.

    Notes
    -----
    Draws come from the CPU, so they are the same on every device. torch seeds its CPU generator with 32 bits;
    the three parts of the key are hashed down to them.
    """

    seed = checked_seed(seed)

    def noise(k: int, branches: list[int]) -> list[torch.Generator]:
        return [keyed_generator(seed, branch, k) for branch in branches]

    return noise


def common_noise(seed: int) -> NoiseSource:
    """Noise source that gives all branches of a step the same draw: runs then differ by their conditioning alone.

    Parameters
    ----------
    seed : int in 0 ... 2**64 - 1
        The user's.

    Returns
    -------
    noise source
        Gives a generator for each branch.
    """

    seed = checked_seed(seed)

    def noise(k: int, branches: list[int]) -> list[torch.Generator]:
        return [keyed_generator(seed, 0, k) for _ in branches]

    return noise


def checked_seed(seed: Any) -> int:
    """A seed as a Python int; `ValueError` unless it is a whole number in 0 ... 2**64 - 1."""
    seed = whole_number("seed", seed)
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to 2**64 - 1; got {shown(seed)}")
    return seed


def draw_rows(
    generators: Sequence[torch.Generator], shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """One draw of each generator, on the device.

    Parameters
    ----------
    generators : C torch.Generator
        On the CPU.
    shape : C, ... int
        Of the result.
    dtype : torch.dtype
        Of the result.
    device : torch.device
        Where the result goes.

    Returns
    -------
    (C, ...) tensor
        The numbers that diffusers' `randn_tensor` gives for these generators.

    Notes
    -----
    From pinned memory, so that the copy waits for nothing: the numbers are drawn while the device is busy with the
    UNet.
    """
    noise = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    for row, generator in zip(noise, generators, strict=True):
        torch.randn(row.shape, generator=generator, dtype=dtype, out=row)
    return noise.to(device, non_blocking=True)


def keyed_generator(seed: int, branch: int, step: int) -> torch.Generator:
    """CPU `torch.Generator` seeded by a hash of three ints."""
    return torch.Generator("cpu").manual_seed(hashed(f"{seed} {branch} {step}".encode()) % 2**32)
