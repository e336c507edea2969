"""Latents -> images by MoVQ, after sampling or while other latents are still sampled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch

from ..devices import AsyncHostCopy, SideStream
from ..plan.checks import whole_number
from ..sampling.microbatch import SAFE_SHARE, MicroBatches, auto_micro_batch
from .acceleration import movq_pixels

if TYPE_CHECKING:
    import numpy as np
    from diffusers.models.autoencoders.vq_model import VQModel
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

LARGEST_MOVQ = 8  # larger batches gain nothing (docs/measurements/performance.md); each 512-pixel latent takes 640 MB


@torch.no_grad()
def decode(
    decoder: KandinskyV22Pipeline,
    latents: torch.Tensor,
    micro_batch: int = 0,
    before_call: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Decode latents to pictures with MoVQ, in batches; the pictures leave the device.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    latents : (N, C, h, w) float tensor
    micro_batch : int
        Latents per call; 0 chooses from free memory.
    before_call : callable, optional
        Called without arguments before each call of MoVQ.

    Returns
    -------
    images : (N, f h, f w, 3) float32 tensor on the CPU
        In 0 ... 1.

    Raises
    ------
    ValueError
        If there is no latent, or they have another shape.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import decode, load_decoder
    >>> decode(load_decoder(), torch.zeros(1, 4, 8, 12)).shape
    torch.Size([1, 64, 96, 3])
    """
    if latents.ndim != 4 or not len(latents):
        raise ValueError(f"latents must have shape (N, C, h, w) with N >= 1; got {tuple(latents.shape)}")
    movq, micro_batch = decoder.movq, whole_number("micro_batch", micro_batch, 0)
    if movq.device.type == "cpu" or not micro_batch:
        micro_batch = auto_micro_batch(movq.device, movq_bytes_per_row(movq, *latents.shape[2:]), LARGEST_MOVQ)

    def decode_rows(rows):
        z = latents[rows].to(movq.device, movq.dtype)
        return AsyncHostCopy(to_images(movq_pixels(movq, z)))

    return arrived(MicroBatches(micro_batch, before_call).each(decode_rows, len(latents)), len(latents))


def to_images(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in -1 ... 1 -> (N, H, W, 3) float32 in 0 ... 1, on the same device."""
    return (pixels.float() * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous()


def arrived(parts: Iterable[tuple[slice, AsyncHostCopy]], count: int) -> torch.Tensor:
    """(count, ...) tensor of all parts of it, each waited for while the device makes the next."""
    images, before = torch.empty(0), None
    for part in itertools.chain(parts, [None]):
        if before is not None:
            rows, copy = before
            here = copy.wait()
            if not len(images):
                images = here.new_empty(count, *here.shape[1:])  # not pinned: the computer has little such memory
            images[rows] = here
        before = part
    return images


def movq_bytes_per_row(movq: VQModel, height: int, width: int) -> int:
    """Bytes that decoding one latent of `height` x `width` latent pixels takes in MoVQ.

    The factor is a little above what benchmarks/memory.py measures.
    """
    config: Any = movq.config
    channels = config.block_out_channels
    factor = 2 ** (len(channels) - 1)
    return height * width * factor**2 * channels[0] * movq.dtype.itemsize * 11


def pictures_beside(free: int, taken: int, bytes_per_picture: int) -> int:
    """Latents of a call of MoVQ for which there is memory while the UNet is at work.

    Parameters
    ----------
    free : int
        Bytes, with the weights of both on the device.
    taken : int
        By the UNet's calls, see `unet_bytes`.
    bytes_per_picture : int
        See `movq_bytes_per_row`.

    Returns
    -------
    int
        0 ... `LARGEST_MOVQ`; 0: they have to take turns.
    """
    return max(0, min(LARGEST_MOVQ, int((SAFE_SHARE * free - taken) / bytes_per_picture)))


class BackgroundDecoder:
    """An `on_finished` callback of `sample` that decodes in a thread; a context manager around the run.

    On a CUDA device the pictures are decoded in a stream of their own, so that sampling need not wait until they have
    been copied to the CPU. Elsewhere sampling and decoding take turns: they would only share the same cores.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    on_pictures : callable
        ``on_pictures(prompts, images)``: (M,) int64 indices and (M, H, W, 3) float32 images on the CPU, one call after
        the other. What it raises is raised by the next call of the callback, or at the end.
    """

    def __init__(self, decoder: KandinskyV22Pipeline, on_pictures: Callable[[np.ndarray, torch.Tensor], None]) -> None:
        self.decoder = decoder
        self.on_pictures = on_pictures
        self.jobs: list[Future[None]] = []
        self.side: SideStream | None = None

    def __enter__(self):
        device = self.decoder.movq.device
        if device.type == "cuda":
            self.side = SideStream(device, "HierDiff decoder")
        return self

    def __exit__(self, kind, *_):
        if self.side is None:
            return
        self.side.end(give_up=kind is not None)
        if kind is None:
            self.raise_errors()

    def __call__(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        if self.side is None:
            self.on_pictures(prompts, decode(self.decoder, latents))
            return
        self.raise_errors()
        self.jobs.append(self.side.run(lambda rows: self.on_pictures(prompts, decode(self.decoder, rows)), latents))

    def raise_errors(self) -> None:
        """Raise what went wrong in a job that is done."""
        going_on = []
        for job in self.jobs:
            if job.done():
                job.result()
            else:
                going_on.append(job)
        self.jobs = going_on
