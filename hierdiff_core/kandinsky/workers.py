"""`sample` on many workers: parts of the plan are drawn by other processes, on this machine or on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .acceleration import ACCELERATIONS
from .guidance import WHOLE_RUN

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan
    from ..sampling.executor import Workers
    from ..sampling.observer import Observer
    from .plan_embeddings import Leaves


def sample_on(
    workers: Workers,
    decoder: KandinskyV22Pipeline,
    embeddings: PromptEmbeddings,
    plan: Plan,
    *,
    seed: int = 0,
    guidance: float = 4.0,
    scheduler: str = "DDPM",
    width: int = 512,
    height: int = 512,
    micro_batch: int = 0,
    rescale_means: bool = False,
    acceleration: str = ACCELERATIONS[0],
    guidance_interval: Sequence[float] = WHOLE_RUN,
    observer: Observer | None = None,
    leaves: Leaves | None = None,
    on_pictures: Callable[[np.ndarray, torch.Tensor], Any] | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
) -> torch.Tensor:
    """Draw a set by `sample`, its parts on workers.

    Parameters
    ----------
    workers : Workers
        Where.
    decoder : KandinskyV22Pipeline
        From `load_decoder`. It makes no call: each worker loads the folder that it came from, and the weights are
        compared.
    embeddings, plan, seed, guidance, scheduler, width, height, micro_batch, rescale_means, acceleration
        As in `sample`.
    guidance_interval, leaves
        As in `sample`.
    observer : Observer
        Hears of the run in this process: `before_call` several times a second, where it may raise to stop the run,
        `on_rows` with clean latents of at most 32 a side, `on_finished` as subtrees end.
    on_pictures : callable
        ``on_pictures(prompts, images)``: pictures that the workers have decoded as subtrees ended, (M,) int64 indices
        and (M, H, W, 3) float32 images on the CPU.
    folder : str or Path
        Of the decoder, by the same name on each machine; where `decoder` was loaded from when None.
    device : str
        "cuda" or "cpu", of the workers; the decoder's when None.

    Returns
    -------
    (N, C, height / f, width / f) float32 tensor
        Latents in prompt order, on the decoder's device. On a CPU they are bit-identical to those of `sample`.

    Raises
    ------
    ValueError
        As `sample`; if Ray is missing, a worker holds other weights, or prompts cannot be drawn.
    """
    raise NotImplementedError
