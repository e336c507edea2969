"""Latents -> images by MoVQ, after sampling or while other latents are still sampled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

from ..plan.checks import whole_number
from ..sampling.microbatch import MicroBatches, auto_micro_batch
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
        return to_images(movq_pixels(movq, z))

    return MicroBatches(micro_batch, before_call).map(decode_rows, len(latents))


def to_images(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in -1 ... 1 on any device -> (N, H, W, 3) float32 in 0 ... 1 on the CPU."""
    return (pixels.float() * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().contiguous()


def movq_bytes_per_row(movq: VQModel, height: int, width: int) -> int:
    """Bytes that decoding one latent of `height` x `width` latent pixels takes in MoVQ.

    The factor is a little above what benchmarks/memory.py measures.
    """
    config: Any = movq.config
    channels = config.block_out_channels
    factor = 2 ** (len(channels) - 1)
    return height * width * factor**2 * channels[0] * movq.dtype.itemsize * 11


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
        self.jobs = []
        self.thread: ThreadPoolExecutor | None = None
        self.stream: Any = None

    def __enter__(self):
        device = self.decoder.movq.device
        if device.type == "cuda":
            self.thread = ThreadPoolExecutor(1, "HierDiff decoder")
            self.stream = torch.cuda.Stream(device)
        return self

    def __exit__(self, kind, *_):
        if self.thread is None:
            return
        self.thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.raise_errors()

    def __call__(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        if self.thread is None:
            self.on_pictures(prompts, decode(self.decoder, latents))
            return
        self.raise_errors()
        sampled = torch.cuda.Event()
        sampled.record()
        self.jobs.append(self.thread.submit(self.decode_aside, prompts, latents, sampled))

    def decode_aside(self, prompts: np.ndarray, latents: torch.Tensor, sampled: torch.cuda.Event) -> None:
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(sampled)
            latents.record_stream(self.stream)  # their memory must not be used again before they are decoded
            self.on_pictures(prompts, decode(self.decoder, latents))

    def raise_errors(self) -> None:
        """Raise what went wrong in a job that is done."""
        going_on = []
        for job in self.jobs:
            if job.done():
                job.result()
            else:
                going_on.append(job)
        self.jobs = going_on
