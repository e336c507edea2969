"""What the rows of a Kandinsky run are made of, so that a store knows them again.

A row is what the UNet said of a branch at a step, after guidance. It depends on the weights, the scheduler and its
steps, the first latent, and on what the branch has met: means, guidance and noise of each step so far. Guidance and
seeds belong to the branches, so that steps before a change of them are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..embeddings import leaf_digest
from ..plan.part import whole
from ..sampling.lineage import content
from ..sampling.reuse import RowKeys, StoredRows, means_in_digests, row_keys
from .fingerprint import decoder_fingerprint
from .schedulers import draws_noise

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..plan.plan import Plan
    from ..sampling.noise import BranchNoise
    from ..sampling.observer import Observer
    from ..sampling.store import Store
    from .plan_embeddings import PlanEmbeddings

FORMAT = "kandinsky 1"  # another one where rows of an older version must not be taken
OF_BRANCHES = ("guidance", "seed", "prompts")  # parts of a run that its branches know better


def run_parts(
    decoder: KandinskyV22Pipeline,
    made: Any,
    scheduler: str,
    width: int,
    height: int,
    latents: torch.Tensor | None,
    rescale_means: bool,
    seed: int,
    guidance: object,
    found: PlanEmbeddings,
) -> dict[str, str]:
    """What a run is made of, by words for a report.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    made : diffusers scheduler
        With its timesteps set.
    scheduler : str
        Its name.
    width, height : int
        Pixels.
    latents : tensor or None
        The first latent that a caller has given.
    rescale_means : bool
        Whether means are.
    seed : int
        Of the run.
    guidance : any
        How it is guided.
    found : PlanEmbeddings
        Of its prompts.

    Returns
    -------
    parts : dict of str to str
    """
    given = "" if latents is None else content(*latents.shape, latents.float().cpu().numpy().tobytes()).hex()
    return {
        "model": f"{decoder_fingerprint(decoder)} {config_digest(decoder.unet)}",
        "scheduler": f"{scheduler} {config_digest(made)}",
        "steps": str(len(made.timesteps)),
        "size": f"{width}x{height}",
        "seed": str(seed),
        "guidance": str(guidance),
        "precision": f"{decoder.unet.dtype} {decoder.unet.device.type}",
        "first latent": given,
        "rescaling of means": str(bool(rescale_means)),
        "prompts": content(*sorted(found.own.digests)).hex(),
    }


def config_digest(configured: Any) -> str:
    """What tells a network's or a scheduler's config from another, whatever folder it is from."""
    config = sorted((name, value) for name, value in configured.config.items() if not name.startswith("_"))
    return content(str(config)).hex()


def keys_of_run(
    plan: Plan,
    found: PlanEmbeddings,
    noise: BranchNoise,
    seed: int,
    guidance: Sequence[float] | Sequence[np.ndarray] | np.ndarray,
    scheduler: Any,
    parts: dict[str, str],
) -> RowKeys:
    """What the rows of a run are stored by.

    Parameters
    ----------
    plan : Plan
        To be drawn.
    found : PlanEmbeddings
        What its means are made of.
    noise : BranchNoise
        Of the run.
    seed : int
        Of the run.
    guidance : K float or (C_k,) float64 arrays
        As `DecoderStep` has it.
    scheduler : diffusers scheduler
        Of the run.
    parts : dict of str to str
        From `run_parts`.

    Returns
    -------
    rows : RowKeys
    """
    told = [f"{name}: {parts[name]}" for name in sorted(parts) if name not in OF_BRANCHES]
    part, digests = whole(plan, found.known), [leaf_digest(pair) for pair in found.leaves.unbind(dim=1)]
    draws, contents = draws_noise(scheduler), []
    for k, step in enumerate(part.steps):
        met = noise_met(plan, noise, seed, k, step.parents, draws)
        strengths = np.broadcast_to(np.asarray(guidance[k], dtype=np.float64), step.counts.shape)
        strengths = np.where(strengths > 1, strengths.astype(np.float32), 1.0)  # rounded as the sampler rounds it
        means = means_in_digests(part, k, digests)
        contents.append([content(*own) for own in zip(means, strengths.tolist(), met, strict=True)])
    return row_keys(part, contents, content(FORMAT, *told))


def begun(
    store: Store,
    rows: RowKeys,
    found: PlanEmbeddings,
    parts: dict[str, str],
    owner: str,
    steps: int,
    observer: Observer | None,
) -> StoredRows:
    """Begin a run on a store, and have it say what a report should.

    Parameters
    ----------
    store : Store
        Keeps the embeddings of the prompts too.
    rows : RowKeys
        Of the run.
    found : PlanEmbeddings
        What its means are made of.
    parts : dict of str to str
        From `run_parts`.
    owner : str
        Whose run it is.
    steps : int
        That it makes.
    observer : Observer or None
        Hears what the store has.

    Returns
    -------
    stored : StoredRows
    """
    reason = store.begin(parts, owner)
    for key, pair in zip(found.own.keys, found.own.stacked().unbind(dim=1), strict=True):
        store.leaves.put(key, leaf_digest(pair), pair.clone())
    stored = StoredRows(store, rows, observer)
    if not stored.begin(steps) and reason:
        store.note(reason)
    for note in found.notes:
        store.note(note)
    return stored


def noise_met(
    plan: Plan, noise: BranchNoise, seed: int, k: int, parents: np.ndarray, draws: bool
) -> list[bytes | None]:
    """The noise that each cluster of step k has met since the step before.

    Parameters
    ----------
    plan : Plan
    noise : BranchNoise
        Of the run.
    seed : int
        Of the run.
    k : int
        Step.
    parents : (C,) int64 array
        Of its clusters.
    draws : bool
        Whether the scheduler draws in each step.

    Returns
    -------
    met : list of C bytes or None
    """
    seeds, fresh = seeds_of(plan, k, seed), plan.fresh(k)
    if k == 0:
        keys = noise.keys(0)
        return [content("first", own, keys[c] if fresh[c] else None) for c, own in enumerate(seeds)]
    if draws:
        keys, seeds = noise.keys(k - 1), seeds_of(plan, k - 1, seed)
        return [content("drawn", keys[parent], seeds[parent]) for parent in parents.tolist()]
    keys = noise.keys(k)
    return [content("fresh", keys[c], seeds[c]) if fresh[c] else None for c in range(len(seeds))]


def seeds_of(plan: Plan, k: int, seed: int) -> list[int]:
    """The seed of each cluster of a step."""
    return [seed if own is None else own for own in plan.branch_seeds(k)]
