"""Noise keyed by (seed, branch, step).

A picture must not depend on the micro-batch, the device's batch or the order of the prompts, so no draw may
depend on what was drawn before it. A branch is known by the smallest key of its prompts' texts: its noise goes on
in one of its children, the others start their own.

A noise source is any callable ``noise(k, branches) -> generators`` that gives diffusers' ``generator`` argument
for step `k` (`FIRST_LATENT` for the initial latent) of the branches with these keys: a list with a
`torch.Generator` for each branch, one generator for all of them, or None for torch's global one.
"""

import torch

from ..plan.keys import hashed

FIRST_LATENT = -1


def keyed_noise(seed):
    """Noise source whose draws are a function of (seed, branch, step) and of nothing else.

    Parameters
    ----------
    seed : int in 0 ... 2**64 - 1

    Notes
    -----
    Draws come from the CPU, so they are the same on every device. torch seeds its CPU generator with 32 bits;
    the three parts of the key are hashed down to them.
    """

    def noise(k, branches):
        return [keyed_generator(seed, branch, k) for branch in branches]

    return noise


def common_noise(seed):
    """Noise source that gives all branches of a step the same draw: runs then differ by their conditioning alone.

    Parameters
    ----------
    seed : int in 0 ... 2**64 - 1
    """

    def noise(k, branches):
        return [keyed_generator(seed, 0, k) for _ in branches]

    return noise


def draw_rows(generators, shape, dtype, device):
    """One draw of each generator, on the device.

    Parameters
    ----------
    generators : list of C CPU `torch.Generator`
    shape : (C, ...)
        of the result

    Returns
    -------
    noise : (C, ...) tensor
        the numbers that diffusers' `randn_tensor` gives for these generators

    Notes
    -----
    From pinned memory, so that the copy waits for nothing: the numbers are drawn while the device is busy with the
    UNet.
    """
    noise = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    for row, generator in zip(noise, generators, strict=True):
        torch.randn(row.shape, generator=generator, dtype=dtype, out=row)
    return noise.to(device, non_blocking=True)


def keyed_generator(seed, branch, step):
    """CPU `torch.Generator` seeded by a hash of three ints."""
    return torch.Generator("cpu").manual_seed(hashed(f"{seed} {branch} {step}".encode()) % 2**32)
