"""Small pictures of unfinished branches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .devices import AsyncHostCopy, on_device
from .sampling.observer import Observer

if TYPE_CHECKING:
    from .plan.plan import Plan

# Longest side, in latent pixels, at which branches are kept for the tree: 32 decode to 256 picture pixels.
LARGEST_KEPT = 32
PREVIEW_PICTURES = 64
PREVIEW_CELL = 8  # pixels; a preview shows fewer pictures rather than smaller ones


def colour_patches(size: int = 256, patch: int = 32, seed: int = 0) -> torch.Tensor:
    """(1, size, size, 3) float32 in 0 ... 1: squares of random colours to fit a latent-to-RGB map on."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand((1, 3, size // patch, size // patch), generator=generator)
    colours = (1.6 * colours - 0.3).clamp(0, 1)  # black, white and pure colours must be among them
    return interpolate(colours, size=(size, size), mode="nearest").permute(0, 2, 3, 1).contiguous()


def fit_latent_rgb(pictures: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Least-squares linear map from latent channels to colours.

    Parameters
    ----------
    pictures : (B, H, W, 3) float tensor in 0 ... 1
    latents : (B, C, h, w) float tensor
        The pictures as the autoencoder sees them.

    Returns
    -------
    factors : (C + 1, 3) float32 tensor on the CPU
        The last row is the bias.
    """
    latents = latents.float().cpu()
    height, width = latents.shape[2:]
    colours = adaptive_avg_pool2d(pictures.float().cpu().permute(0, 3, 1, 2), (height, width))
    inputs = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    return torch.linalg.lstsq(inputs, colours.permute(0, 2, 3, 1).flatten(0, 2)).solution


def latents_to_rgb(latents: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) latents -> (B, h, w, 3) uint8 on the same device, by a map from `fit_latent_rgb`."""
    factors = on_device(factors, latents.device).to(latents.dtype)
    rgb = latents.permute(0, 2, 3, 1) @ factors[:-1] + factors[-1]
    return (rgb.clamp(0, 1) * 255).byte()


def shrunk(latents: torch.Tensor, longest: int) -> torch.Tensor:
    """(B, C, h, w) latents, averaged down to at most `longest` a side; never enlarged."""
    scale = longest / max(latents.shape[2:])
    if scale >= 1:
        return latents
    if latents.device.type == "mps":  # where only sides that divide can be averaged
        latents = latents.cpu()
    height, width = (max(1, round(n * scale)) for n in latents.shape[2:])
    return adaptive_avg_pool2d(latents, (height, width))


def tile_sheet(tiles: torch.Tensor, gap: int = 0, background: int = 0) -> torch.Tensor:
    """Pictures in rows of ceil(sqrt(B)).

    Parameters
    ----------
    tiles : (B, h, w, 3) uint8 tensor
        On any device.
    gap : int
        Pixels between them.
    background : int
        Grey level of the gaps and of what the last row leaves over.

    Returns
    -------
    sheet : (H, W, 3) uint8 tensor
        On the same device.
    """
    count, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = tiles.new_full((rows * columns, height + gap, width + gap, 3), background)
    cells[:count, :height, :width] = tiles
    sheet = cells.unflatten(0, (rows, columns)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap].contiguous()


def preview_grid(tiles: torch.Tensor, size: int = 512) -> torch.Tensor:
    """A grid of pictures without captions, small enough to send at every step.

    Parameters
    ----------
    tiles : (B, h, w, 3) uint8 tensor
        On any device; at most 64 are shown, picked evenly.
    size : int >= 8
        Pixels that neither side passes.

    Returns
    -------
    grid : (H, W, 3) uint8 tensor
        On the same device; small pictures are enlarged by whole factors, so that their pixels stay sharp.

    Raises
    ------
    ValueError
        If there are no pictures or `size` is less than 8.
    """
    if not len(tiles):
        raise ValueError("tiles must contain at least one picture; got none")
    if size < PREVIEW_CELL:
        raise ValueError(f"size must be at least {PREVIEW_CELL} pixels; got {size}")
    shown = min(len(tiles), PREVIEW_PICTURES, (size // PREVIEW_CELL) ** 2)
    tiles = tiles[on_device(np.arange(shown) * len(tiles) // shown, tiles.device)]
    columns = math.ceil(math.sqrt(shown))
    gap = 0 if shown == 1 else max(1, size // 256)
    side = (size - gap * (columns - 1)) // columns
    times = side // max(tiles.shape[1:3])
    if times:
        tiles = tiles.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    else:
        tiles = shrunk(tiles.permute(0, 3, 1, 2).float(), side).round().byte().permute(0, 2, 3, 1)
    return tile_sheet(tiles, gap, background=255)


def to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """(N, H, W, 3) float tensor in 0 ... 1 -> list of N PIL pictures."""
    return [Image.fromarray(pixels) for pixels in (images * 255).round().byte().cpu().numpy()]


class BranchLatents(Observer):
    """Keeps the clean latent that each branch is heading for at its last step.

    Parameters
    ----------
    plan : Plan
        Of the run.

    Attributes
    ----------
    latents : list of (C, h, w) tensor
        By index into `plan.branches`, on the CPU, at most `LARGEST_KEPT` a side; those of a CUDA device may still be on
        their way, `stacked` waits for them.
    """

    def __init__(self, plan: Plan):
        self.latents: list[Any] = [None] * len(plan.branches)
        self._ending: list[dict[int, int]] = [{} for _ in plan.steps]  # index by cluster
        self._last: AsyncHostCopy | None = None
        for index, branch in enumerate(plan.branches):
            self._ending[branch.stop - 1][branch.cluster] = index

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Keep the rows of branches that end at step k."""
        rows = [row for row, cluster in enumerate(clusters) if cluster in self._ending[k]]
        if not rows:
            return
        self._last = AsyncHostCopy(shrunk(x0[on_device(np.array(rows), x0.device)], LARGEST_KEPT))
        for row, latent in zip(rows, self._last.copy, strict=True):
            self.latents[self._ending[k][clusters[row]]] = latent

    def stacked(self, indices: Sequence[int]) -> torch.Tensor:
        """The latents of the branches with these indices, (B, C, h, w)."""
        if self._last:
            self._last.wait()  # those before it are there by then
        return torch.stack([self.latents[index] for index in indices])
