"""Small pictures of unfinished branches."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .sampling import on_device

# Longest side, in latent pixels, at which branches are kept for the tree: 32 decode to 256 picture pixels.
LARGEST_KEPT = 32


def colour_patches(size=256, patch=32, seed=0):
    """(1, size, size, 3) float32 in 0 ... 1: squares of random colours to fit a latent-to-RGB map on."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand((1, 3, size // patch, size // patch), generator=generator)
    colours = (1.6 * colours - 0.3).clamp(0, 1)  # black, white and pure colours must be among them
    return interpolate(colours, size=(size, size), mode="nearest").permute(0, 2, 3, 1).contiguous()


def fit_latent_rgb(pictures, latents):
    """Least-squares linear map from latent channels to colours.

    Parameters
    ----------
    pictures : (B, H, W, 3) float tensor in 0 ... 1
    latents : (B, C, h, w) float tensor   the pictures as the autoencoder sees them

    Returns
    -------
    factors : (C + 1, 3) float32 tensor on the CPU   the last row is the bias
    """
    latents = latents.float().cpu()
    colours = adaptive_avg_pool2d(pictures.float().cpu().permute(0, 3, 1, 2), latents.shape[2:])
    inputs = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    return torch.linalg.lstsq(inputs, colours.permute(0, 2, 3, 1).flatten(0, 2)).solution


def latents_to_rgb(latents, factors):
    """(B, C, h, w) latents -> (B, h, w, 3) uint8 on the same device, by a map from `fit_latent_rgb`."""
    factors = on_device(factors, latents.device).to(latents.dtype)
    rgb = latents.permute(0, 2, 3, 1) @ factors[:-1] + factors[-1]
    return (rgb.clamp(0, 1) * 255).byte()


class Arriving:
    """A tensor on its way to the CPU; the device goes on with what it is given meanwhile.

    Parameters
    ----------
    tensor : tensor   on any device

    Attributes
    ----------
    copy : tensor     on the CPU, to be read after `wait`
    """

    def __init__(self, tensor):
        self.copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self.event: Any = None
        if tensor.is_cuda:
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(tensor.device))

    @property
    def here(self):
        return self.event is None or self.event.query()

    def wait(self):
        """The tensor, when all of it is there."""
        if self.event is not None:
            self.event.synchronize()
        return self.copy


def shrunk(latents, longest):
    """(B, C, h, w) latents, averaged down to at most `longest` a side; never enlarged."""
    scale = longest / max(latents.shape[2:])
    if scale >= 1:
        return latents
    height, width = (max(1, round(n * scale)) for n in latents.shape[2:])
    return adaptive_avg_pool2d(latents, (height, width))


def tile_sheet(tiles):
    """(B, h, w, 3) uint8 -> PIL picture of all of them without gaps, row by row, ceil(sqrt(B)) in a row."""
    count, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = torch.zeros(rows * columns, height, width, 3, dtype=torch.uint8)
    cells[:count] = tiles
    cells = cells.unflatten(0, (rows, columns)).transpose(1, 2)  # (rows, h, columns, w, 3)
    return Image.fromarray(cells.reshape(rows * height, columns * width, 3).numpy())


def to_pictures(images):
    """(N, H, W, 3) float tensor in 0 ... 1 -> list of N PIL pictures."""
    return [Image.fromarray(pixels) for pixels in (images * 255).round().byte().cpu().numpy()]


class BranchLatents:
    """Keeps the clean latent that each branch is heading for at its last step. An `on_branches` callback.

    Attributes
    ----------
    latents : list of (C, h, w) tensor   by index into `plan.branches`, on the CPU, at most `LARGEST_KEPT` a side; those
        of a CUDA device may still be on their way, `stacked` waits for them
    """

    def __init__(self, plan):
        self.latents: list[torch.Tensor | None] = [None] * len(plan.branches)
        self._ending = [{} for _ in plan.steps]  # index by cluster
        self._last: Arriving | None = None
        for index, branch in enumerate(plan.branches):
            self._ending[branch.stop - 1][branch.cluster] = index

    def __call__(self, k, clusters, x0):
        rows = [row for row, cluster in enumerate(clusters) if cluster in self._ending[k]]
        if not rows:
            return
        self._last = Arriving(shrunk(x0[on_device(np.array(rows), x0.device)], LARGEST_KEPT))
        for row, latent in zip(rows, self._last.copy, strict=True):
            self.latents[self._ending[k][clusters[row]]] = latent

    def stacked(self, indices):
        """(B, C, h, w) tensor   the latents of the branches with these indices"""
        if self._last:
            self._last.wait()  # those before it are there by then
        return torch.stack([self.latents[index] for index in indices])
