"""Kandinsky 2.2 through diffusers: prompts -> embeddings, embeddings and a plan -> latents (images: `decoding`).

A prior is a `diffusers.KandinskyV22PriorPipeline`, a decoder a `diffusers.KandinskyV22Pipeline`; any folder that
these load will do. Mathematics outside the networks is in float32, whatever precision the networks have.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..embeddings import check_image_embeddings
from ..plan.checks import is_finite, shown, whole_number
from ..plan.matching import check_leaves, check_plan_prompts, check_plan_seeds
from ..plan.unconditional import rows_of_families
from ..sampling.finite import latents_not_finite
from ..sampling.loop import ORDERS, denoise_plan
from ..sampling.microbatch import MicroBatches
from ..sampling.noise import FIRST_LATENT, BranchNoise, NoiseSource, keyed_noise
from ..sampling.observer import Observer, with_callbacks
from ..sampling.pooling import cluster_means, rescaled_means
from .acceleration import ACCELERATIONS, unet_calls
from .call_memory import rows_per_call
from .call_sizes import PaddedCalls, call_counts, few_call_sizes
from .decoder_step import DecoderStep
from .guidance import WHOLE_RUN, check_guidance, course_of, passes_per_row, strengths
from .plan_embeddings import embeddings_for, own_embeddings
from .reuse import begun, keys_of_run, run_parts
from .schedulers import make_scheduler
from .shared import shared_families

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan
    from ..sampling.store import Store
    from .plan_embeddings import Leaves

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
    store: Store | None = None,
    stop_after: float = 1.0,
    leaves: Leaves | None = None,
    owner: str = "",
) -> torch.Tensor:
    """Denoise a set of images that share their early steps.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Of N prompts; or of more, among which the plan's are found by their texts.
    plan : Plan
        For N prompts and K steps. Its guidance (`GuidanceCourse`) is obeyed. Prompts may have been attached to it or
        removed from it: branches that were there before are drawn bit-identically on a CPU.
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
    store : Store
        Keeps what the UNet says of each branch, and gives what it has: only rows that it lacks are evaluated. On a CPU
        the images are bit-identical with and without it.
    stop_after : float
        Share of the steps, above 0, after which to stop; less than 1 gives the clean latents that the branches are
        heading for.
    leaves : PromptEmbeddings, or mapping of int to (2, D) tensor or bytes
        Embeddings of prompts that are gone from the plan but belong to means of its branches (`Plan.leaf_keys`): by
        their keys, or the digests that the store keeps them by (`PromptEmbeddings.digests`). Those that are not given
        are looked for among `embeddings`, then, if nothing is given, in the store. Where one is found nowhere, the mean
        is that of the others, and a note of the store says which pictures change.
    owner : str
        Whose run it is, for a store that several use: `Store.begin`.

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
    check_store(store, noise)
    stop = steps_until(stop_after, plan.num_steps)
    observer = with_callbacks(
        observer, on_step=on_step, before_call=before_call, on_branches=on_branches, on_finished=on_finished
    )
    found = embeddings_for(plan, embeddings, leaves, None if store is None else store.leaves)
    made = make_scheduler(scheduler, decoder.scheduler.config, plan.num_steps)
    branch_noise = BranchNoise(noise or keyed_noise(seed), plan, found.own.keys)
    first = first_rows(decoder, made, branch_noise, width, height, latents)
    factors = strengths(plan, guidance, guidance_interval, made)
    stored = None
    if store is not None:
        way = (guidance, course_of(plan, guidance_interval))
        parts = run_parts(decoder, made, scheduler, width, height, latents, rescale_means, seed, way, found)
        rows = keys_of_run(plan, found, branch_noise, seed, factors, made, parts)
        stored = begun(store, rows, found, parts, owner, stop, observer)
    elif found.notes:
        logging.warning("HierDiff: %s", "; ".join(found.notes))
    network = calls = unet_calls(decoder.unet, acceleration)
    limit = rows_per_call(decoder, first, micro_batch, calls.acceleration)
    batches = MicroBatches(limit, None if observer is None else observer.before_call)
    last = stop if stop_after < 1 else None
    families = shared_families(plan, found, first.device.type)
    if families is not None:
        passes = passes_per_row(plan, guidance, guidance_interval, rows_of_families(families))
        network = PaddedCalls(network, few_call_sizes(call_counts(plan.clusters_per_step, passes, limit)))
    step = DecoderStep(network, made, factors, branch_noise, batches, observer, stored, last, families)
    with contextlib.closing(calls), contextlib.nullcontext() if store is None else store.kept_safe():
        latents = denoise_plan(
            plan,
            first,
            step.first,
            step,
            found.leaves.to(first.device),
            pool=rescaled_means if rescale_means else cluster_means,
            most_rows=None if order == ORDERS[0] else max(2 * limit, LEAST_PART),
            observer=observer,
            known=found.known,
            stop=stop,
        )
    problem = latents_not_finite(latents, found.own.prompts, NOT_FINITE)
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


def steps_until(stop_after: float, num_steps: int) -> int:
    """Steps that a run makes which stops after a share of them, at least 1; `ValueError` for what is no such share."""
    if not (is_finite(stop_after) and 0 < stop_after <= 1):
        raise ValueError(f"stop_after must be a share of the steps above 0 and up to 1; got {shown(stop_after)}")
    return max(1, round(stop_after * num_steps))


def check_store(store: Store | None, noise: NoiseSource | None) -> None:
    """`ValueError` for a store and a noise source of the caller's own: nothing tells what it draws."""
    if store is not None and noise is not None:
        raise ValueError(
            "a store knows rows by the seed of their noise, and a noise source of your own says none: give seed, and "
            "leave noise out"
        )


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
    own = own_embeddings(plan, embeddings)
    check_image_embeddings(own, decoder.unet.config.encoder_hid_dim)
    if plan.frozen is None:
        check_plan_prompts(plan, own.prompts)
    else:  # they were found by their keys
        check_plan_seeds(plan, own.prompts)
    check_leaves(plan, own)
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
