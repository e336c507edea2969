"""What a run would cost with a store, before it runs: no call of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sampling.noise import BranchNoise, keyed_noise
from .decoder import steps_until
from .guidance import WHOLE_RUN, course_of, strengths
from .plan_embeddings import embeddings_for
from .reuse import keys_of_run, run_parts
from .schedulers import make_scheduler

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan
    from ..sampling.store import Store
    from .plan_embeddings import Leaves, PlanEmbeddings


def missing_rows(
    decoder: KandinskyV22Pipeline,
    embeddings: PromptEmbeddings,
    plan: Plan,
    store: Store,
    *,
    seed: int = 0,
    guidance: float = 4.0,
    scheduler: str = "DDPM",
    width: int = 512,
    height: int = 512,
    rescale_means: bool = False,
    latents: torch.Tensor | None = None,
    guidance_interval: Sequence[float] = WHOLE_RUN,
    stop_after: float = 1.0,
    leaves: Leaves | None = None,
) -> np.ndarray:
    """How many rows of each step `sample` would have the UNet evaluate.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        Its weights are looked at.
    embeddings, plan, store : PromptEmbeddings, Plan, Store
        As for `sample`, which checks them.
    seed, guidance, scheduler, width, height, rescale_means, latents : any
        As for `sample`.
    guidance_interval, stop_after, leaves : any
        As for `sample`.

    Returns
    -------
    rows : (K,) int64 array
        0 for steps that are not made.

    Raises
    ------
    ValueError
        If a prompt of the plan is not among the embeddings, or the scheduler cannot make its steps.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import PromptEmbeddings, Store, build_plan, load_decoder, sample, ward_linkage
    >>> from hierdiff_core.kandinsky.price import missing_rows
    >>> decoder, store, small = load_decoder(), Store(2**20), {"width": 64, "height": 64}
    >>> rows = torch.eye(2, decoder.unet.config.encoder_hid_dim)
    >>> embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), ["a cat", "a dog"])
    >>> plan = build_plan(ward_linkage(rows), [2.0, 0.0])
    >>> missing_rows(decoder, embeddings, plan, store, **small).tolist()
    [1, 2]
    >>> _ = sample(decoder, embeddings, plan, store=store, stop_after=0.5, **small)
    >>> missing_rows(decoder, embeddings, plan, store, **small).tolist()
    [0, 2]
    """
    found = embeddings_for(plan, embeddings, leaves, store.leaves)
    made = make_scheduler(scheduler, decoder.scheduler.config, plan.num_steps)
    way = (guidance, course_of(plan, guidance_interval))
    parts = run_parts(decoder, made, scheduler, width, height, latents, rescale_means, seed, way, found)
    counts = missing_of(plan, found, store, made, parts, seed, guidance, guidance_interval)
    counts[steps_until(stop_after, plan.num_steps) :] = 0
    return counts


def missing_of(
    plan: Plan,
    found: PlanEmbeddings,
    store: Store,
    made: Any,
    parts: dict[str, str],
    seed: int,
    guidance: float,
    guidance_interval: Sequence[float],
) -> np.ndarray:
    """`missing_rows` of a run of which is known what it is made of: no decoder is looked at.

    Parameters
    ----------
    plan : Plan
    found : PlanEmbeddings
        Of its prompts.
    store : Store
    made : diffusers scheduler
        With its timesteps set.
    parts : dict of str to str
        From `run_parts`.
    seed, guidance, guidance_interval : any
        As for `sample`.

    Returns
    -------
    rows : (K,) int64 array
        Of all steps.
    """
    noise = BranchNoise(keyed_noise(seed), plan, found.own.keys)
    factors = strengths(plan, guidance, guidance_interval, made)
    return keys_of_run(plan, found, noise, seed, factors, made, parts).missing(store)
