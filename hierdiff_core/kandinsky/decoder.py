"""Kandinsky 2.2 through diffusers: prompts -> embeddings, embeddings and a plan -> latents (images: `decoding`).

A prior is a `diffusers.KandinskyV22PriorPipeline`, a decoder a `diffusers.KandinskyV22Pipeline`; any folder that
these load will do. Mathematics outside the networks is in float32, whatever precision the networks have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..embeddings import check_image_embeddings
from ..plan.checks import whole_number
from ..plan.matching import check_leaves, check_plan_prompts
from ..sampling.finite import latents_not_finite
from ..sampling.loop import ORDERS, denoise_plan
from ..sampling.microbatch import MicroBatches, auto_micro_batch
from ..sampling.noise import FIRST_LATENT, BranchNoise, NoiseSource, keyed_noise
from ..sampling.observer import Observer, with_callbacks
from ..sampling.pooling import cluster_means, rescaled_means
from .acceleration import ACCELERATIONS, LARGEST_COMPILED, unet_calls
from .decoder_step import DecoderStep
from .guidance import WHOLE_RUN, check_guidance, strengths
from .schedulers import make_scheduler

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan

# Branches that a part of the plan may always have, depth first: latents are small, and fewer parts are less to do.
LEAST_PART = 16
NOT_FINITE = "load the decoder in fp32 or bf16, or lower the guidance"


@torch.no_grad()
def sample(
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
    latents: torch.Tensor | None = None,
    noise: NoiseSource | None = None,
    on_step: Callable[..., Any] | None = None,
    before_call: Callable[..., Any] | None = None,
    order: str = ORDERS[0],
    acceleration: str = ACCELERATIONS[0],
    guidance_interval: Sequence[float] = WHOLE_RUN,
    on_branches: Callable[..., Any] | None = None,
    on_finished: Callable[..., Any] | None = None,
    observer: Observer | None = None,
) -> torch.Tensor:
    """Denoise a set of images that share their early steps.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Of N prompts.
    plan : Plan
        For N prompts and K steps. Its guidance (`GuidanceCourse`) is obeyed.
    seed : int in 0 ... 2**64 - 1
        Of the noise.
    guidance : float
        Classifier-free guidance; 1 or less skips the unconditional pass.
    scheduler : str
        A key of `SCHEDULERS`.
    width, height : int
        Pixels, multiples of `size_multiple(decoder)`.
    micro_batch : int
        Branches per UNet call; 0 chooses from free memory. It halves when memory runs out, and is at most 16 with
        torch.compile. On a CPU it is always 1: the images are then bit-identical, whatever is asked for.
    rescale_means : bool
        Stretch each cluster's mean embedding to the mean length of its members; the paper takes the mean as it is.
    latents : (1, C, height / f, width / f) tensor
        Initial latent of prompts without a seed of their own, already scaled by the scheduler's `init_noise_sigma`;
        drawn from `noise` when None (f = MoVQ's scale factor).
    noise : noise source
        See `hierdiff_core.sampling.noise`; `keyed_noise(seed)` when None. Prompts with seeds of their own
        (`Plan.seeds`) have `keyed_noise` of these, whatever is given here.
    on_step : callable
        Older spelling of `observer`: ``on_step(k, x0)`` after each step, with the clean latents (C, ...) that the
        step's branches are heading for; breadth first only.
    before_call : callable
        Older spelling of `observer`: called before every UNet call; may raise to stop.
    order : str
        "breadth first": each step with all of its branches, before the next step. "depth first": subtrees one after
        the other, at most two micro-batches of branches at a time, or 16 branches if that is more; only finished
        latents take more memory with more prompts, and the first pictures are done early. On a CPU the images are
        bit-identical.
    acceleration : str
        One of `ACCELERATIONS`, see `unet_calls`; no effect but on a CUDA device.
    guidance_interval : (float, float)
        Shares of the steps, 0 ... 1, between which there is guidance; the other steps take the conditional pass alone,
        half the work, and change the pictures (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval
        improves sample and distribution quality in diffusion models"). Unless it is the whole run, it goes before the
        plan's.
    on_branches : callable
        Older spelling of `observer`: as its `on_rows`.
    on_finished : callable
        Older spelling of `observer`: as its `on_finished`.
    observer : Observer
        Hears of the run while it goes on, see `hierdiff_core.sampling.observer`.

    Returns
    -------
    (N, C, height / f, width / f) float32 tensor
        Latents in prompt order, on the decoder's device.

    Raises
    ------
    ValueError
        Before any UNet call, if the inputs do not fit each other; at the end, if no latent is finite. Where only some
        hold NaN or infinity, their prompts are logged (`finite.rows_not_finite` finds them).

    Notes
    -----
    Source: Decatur et al. 2025, Algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import PromptEmbeddings, build_plan, load_decoder, ward_linkage
    >>> decoder = load_decoder()
    >>> rows = torch.eye(2, decoder.unet.config.encoder_hid_dim)
    >>> embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), ["a cat", "a dog"])
    >>> plan = build_plan(ward_linkage(rows), [2.0, 0.0])  # the first of two steps is shared
    >>> plan.nfe, sample(decoder, embeddings, plan, width=64, height=64).shape
    (3, torch.Size([2, 4, 8, 8]))
    """
    check_sample_inputs(decoder, embeddings, plan, width, height, micro_batch, guidance, guidance_interval)
    check_order(order, on_step)
    observer = with_callbacks(
        observer, on_step=on_step, before_call=before_call, on_branches=on_branches, on_finished=on_finished
    )
    noise = noise or keyed_noise(seed)
    made = make_scheduler(scheduler, decoder.scheduler.config, plan.num_steps)
    branch_noise = BranchNoise(noise, plan, embeddings.keys)
    first = first_rows(decoder, made, branch_noise, width, height, latents)
    network = unet_calls(decoder.unet, acceleration)
    limit = rows_per_call(decoder, first, micro_batch, acceleration)
    step = DecoderStep(
        network,
        made,
        strengths(plan, guidance, guidance_interval, made),
        branch_noise,
        MicroBatches(limit, None if observer is None else observer.before_call),
        observer,
    )
    latents = denoise_plan(
        plan,
        first,
        step.first,
        step,
        embeddings.stacked().to(first.device),
        pool=rescaled_means if rescale_means else cluster_means,
        most_rows=None if order == ORDERS[0] else max(2 * limit, LEAST_PART),
        observer=observer,
    )
    problem = latents_not_finite(latents, embeddings.prompts, NOT_FINITE)
    if problem:
        logging.warning("HierDiff: %s", problem)
    return latents


def first_rows(
    decoder: KandinskyV22Pipeline,
    scheduler: Any,
    noise: BranchNoise,
    width: int,
    height: int,
    latents: torch.Tensor | None = None,
) -> torch.Tensor:
    """The latents that branches start from, (G, C, h, w) float32 on the decoder's device: one for each seed.

    One is that of all prompts without a seed of their own: the latent that is given, or drawn as the others are.

    Raises
    ------
    ValueError
        If the latent that is given has another shape.
    """
    f = decoder.movq_scale_factor
    shape = (1, decoder.unet.config.in_channels, height // f, width // f)
    if latents is not None and latents.shape != shape:
        raise ValueError(f"latents must have shape {shape} for {width}x{height} pixels; got {tuple(latents.shape)}")
    rows = [
        first_latent(shape, source) * scheduler.init_noise_sigma if seed is not None or latents is None else latents
        for seed, source in noise.sources
    ]
    return torch.cat([row.to(decoder.unet.device, torch.float32) for row in rows])


def first_latent(shape: Sequence[int], noise: NoiseSource) -> torch.Tensor:
    """The noise that all branches of a noise source start from: float32, on the CPU."""
    from diffusers.utils.torch_utils import randn_tensor

    generator = noise(FIRST_LATENT, [0])
    return randn_tensor(tuple(shape), generator=generator, device=torch.device("cpu"), dtype=torch.float32)


def rows_per_call(decoder: KandinskyV22Pipeline, first: torch.Tensor, micro_batch: int, acceleration: str) -> int:
    """Branches per UNet call: as many as are asked for, or as free memory allows; one on a CPU."""
    if first.device.type == "cpu" or not micro_batch:
        micro_batch = auto_micro_batch(first.device, unet_bytes_per_row(decoder.unet, *first.shape[2:]))
    return min(micro_batch, LARGEST_COMPILED) if acceleration == "torch.compile" else micro_batch


def size_multiple(decoder: KandinskyV22Pipeline) -> int:
    """Pixels that width and height must be multiples of: MoVQ's factor, then the UNet's."""
    return decoder.movq_scale_factor**2


def check_order(order: str, on_step: Callable[..., Any] | None = None) -> None:
    """Raise `ValueError` for an order that there is not, or that a callback cannot follow."""
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}; got {order!r}")
    if on_step is not None and order != ORDERS[0]:
        raise ValueError("on_step sees all branches of a step at once; depth first, use on_branches")


def check_sample_inputs(
    decoder: KandinskyV22Pipeline,
    embeddings: PromptEmbeddings,
    plan: Plan,
    width: int,
    height: int,
    micro_batch: int = 0,
    guidance: float = 4.0,
    guidance_interval: Sequence[float] = WHOLE_RUN,
) -> None:
    """Raise `ValueError` when the inputs of `sample` do not fit each other."""
    if plan.num_prompts != len(embeddings):
        raise ValueError(
            f"the plan is for {plan.num_prompts} prompts, but there are {len(embeddings)} embeddings; "
            "make the linkage and the schedule from these embeddings"
        )
    check_image_embeddings(embeddings, decoder.unet.config.encoder_hid_dim)
    check_plan_prompts(plan, embeddings.prompts)
    check_leaves(plan, embeddings)
    multiple = size_multiple(decoder)
    for name, value in (("width", width), ("height", height)):
        value = whole_number(name, value)
        if value < multiple or value % multiple:
            below = max(multiple, value // multiple * multiple)
            raise ValueError(
                f"{name} must be a multiple of {multiple} pixels; got {value}, use {below} or {below + multiple}"
            )
    if whole_number("micro_batch", micro_batch) < 0:
        raise ValueError(f"micro_batch must be 0 (choose from free memory) or more; got {micro_batch}")
    check_guidance(plan, guidance, guidance_interval)


def unet_bytes_per_row(unet: Any, height: int, width: int) -> int:
    """Bytes that one branch's guidance pair takes in the UNet, at `height` x `width` latent pixels.

    The factor is a little above what benchmarks/memory.py measures for Kandinsky 2.2 at several sizes.
    """
    return 2 * height * width * unet.config.block_out_channels[0] * unet.dtype.itemsize * 20
