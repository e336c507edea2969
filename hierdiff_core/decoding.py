"""Decode finished latents while others are still sampled."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .kandinsky import decode


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

    def __init__(self, decoder, on_pictures):
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

    def __call__(self, prompts, latents):
        if self.thread is None:
            self.on_pictures(prompts, decode(self.decoder, latents))
            return
        self.raise_errors()
        sampled = torch.cuda.Event()
        sampled.record()
        self.jobs.append(self.thread.submit(self.decode_aside, prompts, latents, sampled))

    def decode_aside(self, prompts, latents, sampled):
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(sampled)
            latents.record_stream(self.stream)  # their memory must not be used again before they are decoded
            self.on_pictures(prompts, decode(self.decoder, latents))

    def raise_errors(self):
        """Raise what went wrong in a job that is done."""
        going_on = []
        for job in self.jobs:
            if job.done():
                job.result()
            else:
                going_on.append(job)
        self.jobs = going_on
