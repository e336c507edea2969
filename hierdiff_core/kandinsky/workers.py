"""`sample` on many workers: parts of the plan are drawn by other processes, on this machine or on others.

The driver, which is this process, plans and hands out; it makes no call of the UNet. Noise is a function of seed,
branch and step, and what a scheduler remembers goes along with a branch, so that it does not matter who draws what.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..sampling.executor import Executor, Workers
from ..sampling.finite import latents_not_finite
from .acceleration import ACCELERATIONS
from .decoder import NOT_FINITE
from .guidance import WHOLE_RUN
from .workers_run import Run, lost_in_words, make_ready, run_of, run_on

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan
    from ..sampling.observer import Observer
    from .plan_embeddings import Leaves


def sample_on(
    workers: Workers | Executor,
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
    on_lost: Callable[[str], Any] | None = None,
    on_shares: Callable[[str], Any] | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
) -> torch.Tensor:
    """Draw a set by `sample`, its parts on workers.

    Parameters
    ----------
    workers : Workers or Executor
        Where; an executor is one that was entered already.
    decoder : KandinskyV22Pipeline
        From `load_decoder`. It makes no call: each worker loads the folder that it came from, and the weights are
        compared.
    embeddings, plan : PromptEmbeddings, Plan
        As in `sample`.
    seed, guidance, scheduler, width, height, micro_batch, rescale_means : int, float, str, int, int, int, bool
        As in `sample`.
    acceleration, guidance_interval : str, (float, float)
        As in `sample`.
    observer : Observer
        Hears of the run in this process: `before_call` several times a second, where it may raise to stop the run,
        `on_rows` with clean latents of at most 32 a side, once for each row, and `on_finished` as subtrees end.
    leaves : PromptEmbeddings or mapping
        As in `sample`.
    on_pictures : callable
        ``on_pictures(prompts, images)``: pictures that the workers have decoded as subtrees ended, (M,) int64 indices
        and (M, H, W, 3) float32 images on the CPU.
    on_lost : callable
        ``on_lost(text)`` names prompts that could not be drawn, and says why.
    on_shares : callable
        ``on_shares(text)`` says at the end how many rows each worker has drawn, and how many a second.
    folder : str or Path
        Of the decoder, by the same name on each machine; where `decoder` was loaded from when None.
    device : str
        "cuda" or "cpu", of the workers; the decoder's when None.

    Returns
    -------
    (N, C, height / f, width / f) float32 tensor
        Latents in prompt order, on the decoder's device. On a CPU they are bit-identical to those of `sample`. Of
        prompts that cannot be drawn they are NaN, and a warning names these.

    Raises
    ------
    ValueError
        As `sample`; if Ray is missing, a worker cannot load the decoder or holds other weights, or no prompt can be
        drawn.
    """
    run = run_of(
        decoder,
        embeddings,
        plan,
        seed=seed,
        guidance=guidance,
        scheduler=scheduler,
        width=width,
        height=height,
        micro_batch=micro_batch,
        rescale_means=rescale_means,
        acceleration=acceleration,
        guidance_interval=guidance_interval,
        leaves=leaves,
        folder=folder,
        device=device,
    )
    if observer is None:  # nobody looks at clean latents
        run = replace(run, setup={**run.setup, "ends": [np.zeros(step.num_clusters, bool) for step in plan.steps]})
    if on_pictures is not None:
        run = replace(run, setup={**run.setup, "pictures": {}}, marks={i: {} for i in range(plan.num_prompts)})
    latents = torch.full((plan.num_prompts, *run.first.shape[1:]), float("nan"))

    def on_done(done: Mapping[str, Any]) -> None:
        rows = torch.from_numpy(done["latents"])
        latents[torch.from_numpy(done["prompts"])] = rows
        if observer is not None:
            observer.on_finished(done["prompts"], rows)
        if on_pictures is not None:
            on_pictures(done["pictures"], torch.from_numpy(done["pixels"]).float() / 255)

    with executor_for(workers, run) as executor:
        make_ready(executor, run)
        lost = run_on(executor, run, on_done, observer, on_shares=on_shares)
    told = None if lost else latents_not_finite(latents, run.found.own.prompts, NOT_FINITE)
    if lost and sum(len(own.prompts) for own in lost) == plan.num_prompts:
        raise ValueError(lost_in_words(lost, run.found.own.prompts))
    missing = lost_in_words(lost, run.found.own.prompts) if lost else None
    if missing and on_lost is not None:
        on_lost(missing)
    for note in filter(None, [told, missing, *run.found.notes]):
        logging.warning("HierDiff: %s", note)
    return latents.to(decoder.unet.device)


def executor_for(workers: Workers | Executor, run: Run) -> AbstractContextManager[Executor]:
    """The executor that is meant: of `Workers` one that begins and ends with the run, others are entered already."""
    if not isinstance(workers, Workers):
        return contextlib.nullcontext(workers)
    if not run.setup["folder"]:
        raise ValueError("workers load the decoder by themselves, and this one does not say from which folder: name it")
    from ..sampling.ray_executor import RayExecutor

    return RayExecutor(workers, run.setup["device"])
