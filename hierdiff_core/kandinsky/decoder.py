"""Kandinsky 2.2 through diffusers: prompts -> embeddings, embeddings and a plan -> latents (images: `decoding`).

A prior is a `diffusers.KandinskyV22PriorPipeline`, a decoder a `diffusers.KandinskyV22Pipeline`; any folder that
these load will do. Mathematics outside the networks is in float32, whatever precision the networks have.
"""

import copy
import logging
import math

import numpy as np
import torch

from ..embeddings import check_image_embeddings
from ..plan.keys import branch_keys
from ..plan.matching import check_leaves, check_plan_prompts
from ..sampling.finite import latents_not_finite
from ..sampling.loop import ORDERS, gather_history, sample_branches
from ..sampling.microbatch import MicroBatches, auto_micro_batch
from ..sampling.noise import FIRST_LATENT, draw_rows, keyed_noise
from .acceleration import ACCELERATIONS, LARGEST_COMPILED, unet_calls
from .schedulers import (
    learns_variance,
    make_scheduler,
    predicted_original,
    step_with_noise,
    takes_generator,
)

# Branches that a piece of work may always have, depth first: latents are small, and fewer pieces are less to do.
LEAST_PIECE = 16
NOT_FINITE = "load the decoder in fp32 or bf16, or lower the guidance"
WHOLE_RUN = (0.0, 1.0)  # as shares of the steps


@torch.no_grad()
def sample(
    decoder,
    embeddings,
    plan,
    *,
    seed=0,
    guidance=4.0,
    scheduler="DDPM",
    width=512,
    height=512,
    micro_batch=0,
    rescale_means=False,
    latents=None,
    noise=None,
    on_step=None,
    before_call=None,
    order=ORDERS[0],
    acceleration=ACCELERATIONS[0],
    guidance_interval=WHOLE_RUN,
    on_branches=None,
    on_finished=None,
):
    """Denoise a set of images that share their early steps.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    embeddings : PromptEmbeddings
        N prompts
    plan : Plan
        for N prompts and K steps
    seed : int in 0 ... 2**64 - 1
    guidance : float
        classifier-free guidance; 1 or less skips the unconditional pass
    scheduler : str
        a key of `SCHEDULERS`
    width, height : int
        pixels, multiples of `size_multiple(decoder)`
    micro_batch : int
        branches per UNet call; 0 chooses from free memory. It halves when memory runs out, and is at most 16 with
        torch.compile. On a CPU it is always 1: the images are then the same to the bit, whatever is asked for
    rescale_means : bool
        stretch each cluster's mean embedding to the mean length of its members; the paper takes the mean as it is
    latents : (1, C, height / f, width / f) tensor
        initial latent, already scaled by the scheduler's `init_noise_sigma`; drawn from `noise` when None (f = MoVQ's
        scale factor)
    noise : noise source
        see `hierdiff_core.sampling.noise`; `keyed_noise(seed)` when None
    on_step : callable
        ``on_step(k, x0)`` after each step, with the clean latents (C, ...) that the step's branches are heading for;
        breadth first only
    before_call : callable
        called before every UNet call; may raise to stop
    order : str
        "breadth first": each step with all of its branches, before the next step. "depth first": subtrees one after the
        other, in pieces of at most two micro-batches; only finished latents take more memory with more prompts, and the
        first pictures are done early. On a CPU the images are the same to the bit
    acceleration : str
        one of `ACCELERATIONS`, see `unet_calls`; no effect but on a CUDA device
    guidance_interval : (float, float)
        shares of the steps, 0 ... 1, between which there is guidance; the other steps take the conditional pass alone,
        half the work, and change the pictures (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval
        improves sample and distribution quality in diffusion models")
    on_branches : callable
        ``on_branches(k, clusters, x0)`` after each step of a piece, in either order, with the labels (C,) of the
        clusters of step k that it denoised, and their clean latents
    on_finished : callable
        ``on_finished(prompts, latents)`` when prompts are done: (M,) int64 indices and (M, ...) latents; breadth first
        once, depth first as they come

    Returns
    -------
    latents : (N, C, height / f, width / f) float32 tensor
        in prompt order, on the decoder's device

    Raises
    ------
    ValueError
        before any UNet call, if the inputs do not fit each other; at the end, if no latent is finite. Where only some
        hold NaN or infinity, their prompts are logged (`finite.rows_not_finite` finds them).

    Source: Decatur et al. 2025, Algorithm 1.
    """
    check_sample_inputs(decoder, embeddings, plan, width, height, micro_batch, guidance, guidance_interval)
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}; got {order!r}")
    if on_step is not None and order != ORDERS[0]:
        raise ValueError("on_step sees all branches of a step at once; depth first, use on_branches")
    scheduler = make_scheduler(scheduler, decoder.scheduler.config, plan.num_steps)
    noise = noise or keyed_noise(seed)
    device = decoder.unet.device
    f = decoder.movq_scale_factor
    shape = (1, decoder.unet.config.in_channels, height // f, width // f)
    if latents is None:
        latents = first_latent(shape, noise) * scheduler.init_noise_sigma
    elif latents.shape != shape:
        raise ValueError(f"latents must have shape {shape} for {width}x{height} pixels; got {tuple(latents.shape)}")
    network = unet_calls(decoder.unet, acceleration)
    if device.type == "cpu" or not micro_batch:
        micro_batch = auto_micro_batch(device, unet_bytes_per_row(decoder.unet, *shape[2:]))
    if acceleration == "torch.compile":
        micro_batch = min(micro_batch, LARGEST_COMPILED)
    batches = MicroBatches(micro_batch, before_call)
    by_step = step_guidance(plan.num_steps, guidance, guidance_interval)
    denoiser = Denoiser(
        network, scheduler, plan, embeddings.keys, by_step, noise, batches, watcher(on_step, on_branches)
    )
    latents = sample_branches(
        denoiser,
        latents.to(device, torch.float32),
        plan,
        embeddings.stacked().to(device),
        rescale_means,
        most_rows=None if order == ORDERS[0] else max(2 * micro_batch, LEAST_PIECE),
        fork=Denoiser.fork,
        on_finished=on_finished,
    )
    problem = latents_not_finite(latents, embeddings.prompts, NOT_FINITE)
    if problem:
        logging.warning("HierDiff: %s", problem)
    return latents


def step_guidance(num_steps, guidance, interval=WHOLE_RUN):
    """(K,) float   guidance of each step: `guidance` inside the interval, 1, which is none, outside"""
    first, stop = (round(share * num_steps) for share in interval)
    k = np.arange(num_steps)
    return np.where((k >= first) & (k < stop), guidance, 1.0)


def watcher(on_step, on_branches):
    """One callable ``(k, clusters, x0)`` from both callbacks of `sample`; None when there are none."""
    if on_step is None:
        return on_branches

    def both(k, clusters, x0):
        on_step(k, x0)
        if on_branches is not None:
            on_branches(k, clusters, x0)

    return both


def first_latent(shape, noise):
    """The noise that all branches start from: float32, on the CPU."""
    from diffusers.utils.torch_utils import randn_tensor

    generator = noise(FIRST_LATENT, [0])
    return randn_tensor(shape, generator=generator, device=torch.device("cpu"), dtype=torch.float32)


class Denoiser:
    """One denoising step of some branches: guided UNet in micro-batches, then one step of the scheduler.

    Parameters
    ----------
    network : callable
        ``(latents, t, image_embeds) -> float32 prediction``, see `unet_calls`
    scheduler : diffusers scheduler with its timesteps set
    plan : Plan
    prompt_keys : N ints
        noise keys
    guidance : (K,) float
        of each step; 1 or less: none
    noise : noise source
    batches : MicroBatches
    on_branches : callable
        as in `sample`
    """

    def __init__(self, network, scheduler, plan, prompt_keys, guidance, noise, batches, on_branches=None):
        self.network = network
        self.scheduler = scheduler
        self.plan = plan
        self.prompt_keys = prompt_keys
        self.guidance = guidance
        self.noise = noise
        self.batches = batches
        self.on_branches = on_branches
        self.timesteps = scheduler.timesteps.to(network.device)  # once: a copy in each step would wait for the device
        self.clusters, self.keys = None, None  # of the present step, and their noise keys
        self.row_shape = None  # of a latent, once there was a step

    def fork(self, k, clusters, rows):
        """The denoiser of the branches `clusters` of step k; a scheduler's memory follows from `rows`."""
        child = copy.copy(self)
        child.clusters = clusters
        if rows is None:
            return child
        labels = self.plan.steps[k].labels
        members = np.flatnonzero(np.isin(labels, clusters))
        child.keys = branch_keys(np.searchsorted(clusters, labels[members]), [self.prompt_keys[i] for i in members])
        child.scheduler = copy.copy(self.scheduler)
        if self.row_shape is not None:
            gather_history(child.scheduler, rows, self.row_shape)
        return child

    def __call__(self, latents, k, embeddings):
        self.row_shape = latents.shape[1:]
        t, channels = self.scheduler.timesteps[k], latents.shape[1]
        scaled = self.scheduler.scale_model_input(latents, t)
        time, guidance = self.timesteps[k], float(self.guidance[k])
        prediction = self.batches.map(
            lambda rows: self.predict(scaled[rows], time, embeddings[:, rows], guidance), len(latents)
        )
        noise_prediction = prediction[:, :channels]
        x0 = self.on_branches and predicted_original(self.scheduler, scaled, t, noise_prediction)
        output = prediction if learns_variance(self.scheduler) else noise_prediction
        latents = self.step(output, k, t, latents)
        if self.on_branches:
            self.on_branches(k, self.clusters, x0)
        return latents

    def step(self, output, k, t, latents):
        """The scheduler's step; on a GPU nothing in it waits for the UNet to be done."""
        if not takes_generator(self.scheduler):
            return self.scheduler.step(output, t, latents).prev_sample
        generators = self.noise(k, self.keys)
        step = None
        if latents.device.type == "cuda" and isinstance(generators, list):
            step = step_with_noise(
                self.scheduler, lambda shape, dtype: draw_rows(generators, shape, dtype, latents.device)
            )
        if step is not None:
            return step(output, t, latents).prev_sample
        return self.scheduler.step(output, t, latents, generator=generators).prev_sample

    def predict(self, latents, t, embeddings, guidance):
        """Noise (and variance) prediction after guidance: (B, C or 2C, h, w) float32.

        Guidance moves the noise alone; the variance is the conditional pass's, as in `KandinskyV22Pipeline`.
        """
        positive, negative = embeddings.to(self.network.dtype)
        latents = latents.to(self.network.dtype)
        if guidance <= 1:
            return self.network(latents, t, positive)
        both = self.network(torch.cat([latents, latents]), t, torch.cat([negative, positive]))
        noise, variance = both.split([latents.shape[1], both.shape[1] - latents.shape[1]], dim=1)
        unconditional, conditional = noise.chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        return torch.cat([guided, variance.chunk(2)[1]], dim=1)


def size_multiple(decoder):
    """Pixels that width and height must be multiples of: MoVQ's factor, then the UNet's."""
    return decoder.movq_scale_factor**2


def check_sample_inputs(
    decoder, embeddings, plan, width, height, micro_batch=0, guidance=4.0, guidance_interval=WHOLE_RUN
):
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
        if value < multiple or value % multiple:
            below = max(multiple, value // multiple * multiple)
            raise ValueError(
                f"{name} must be a multiple of {multiple} pixels; got {value}, use {below} or {below + multiple}"
            )
    if micro_batch < 0:
        raise ValueError(f"micro_batch must be 0 (choose from free memory) or more; got {micro_batch}")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be a finite number; got {guidance}")
    start, end = guidance_interval
    if not 0 <= start <= end <= 1:
        raise ValueError(
            "guidance must start and end between 0 and 1 (shares of the steps), and not end before it starts; "
            f"got {start} and {end}"
        )


def unet_bytes_per_row(unet, height, width):
    """Bytes that one branch's guidance pair takes in the UNet, at `height` x `width` latent pixels.

    The factor is a little above what benchmarks/memory.py measures for Kandinsky 2.2 at several sizes.
    """
    return 2 * height * width * unet.config.block_out_channels[0] * unet.dtype.itemsize * 20
