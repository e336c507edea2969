"""Measure a model's sensitivity: pairs of prompts share their first steps, and are compared with runs that share none.

Legend: K steps, P pairs, B numbers of shared steps that are tried.
"""

import numpy as np
import torch

from .embeddings import PromptEmbeddings
from .kandinsky import sample
from .linkage import ward_linkage
from .noise import common_noise
from .plan import Plan, Step
from .sensitivity import Sensitivity


class Probe:
    """Which pairs share how many steps, as one plan for one run.

    Parameters
    ----------
    positive : (N, D) tensor or array   embeddings of the prompts, N >= 2
    num_steps : int >= 1
    samples : int >= 1                  pairs of prompts; fewer where the set has no more merges
    resolution : int >= 1               how many numbers of shared steps are tried; at most K
    seed : int                          which members of a merge are paired

    Attributes
    ----------
    shared_steps : (B,) int64   rising to K, closer and closer together
    pairs : (P, 2) int64        indices of prompts
    rows : (L,) int64           the prompt of each leaf of the plan, L = (B + 1) P 2
    plan : Plan                 leaves in the order (shared steps, with none first; pair; side)

    Raises
    ------
    ValueError  if no two prompts have different embeddings.
    """

    def __init__(self, positive, num_steps, samples=8, resolution=12, seed=0):
        for name, value in (("steps", num_steps), ("samples", samples), ("resolution", resolution)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        self.num_steps = num_steps
        self.shared_steps = probed_steps(num_steps, resolution)
        self.pairs = probed_pairs(positive, samples, seed)
        self.rows = np.tile(self.pairs.ravel(), len(self.shared_steps) + 1)
        self.plan = self._plan()
        unit = torch.nn.functional.normalize(torch.as_tensor(np.asarray(positive)).double(), dim=1)
        ends = unit[torch.as_tensor(self.pairs)]  # (P, 2, D)
        # each of the two lies half their distance from their mean
        self.squared_distance = float(((ends[:, 0] - ends[:, 1]) / 2).square().sum() * 2)

    def _plan(self):
        """Branches: a trunk for each pair, and from each number of shared steps on two of its own."""
        counts, P = [0, *self.shared_steps], len(self.pairs)
        previous = np.zeros(len(self.rows), dtype=np.int64)
        steps = []
        for k in range(self.num_steps):
            labels = np.arange(len(self.rows)).reshape(len(counts), P, 2) + P
            labels[[count > k for count in counts]] = np.arange(P)[:, None]
            _, first, labels, members = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
            labels = labels.ravel()
            steps.append(Step(labels, first, members, parents=previous[first]))
            previous = labels
        return Plan(np.zeros(self.num_steps), tuple(steps))

    def leaves(self, embeddings):
        """The `PromptEmbeddings` of the plan's leaves, from those of the prompts."""
        prompts = [embeddings.prompts[i] for i in self.rows]
        return PromptEmbeddings(embeddings.positive[self.rows], embeddings.negative[self.rows], prompts)

    def sensitivity(self, latents, **settings):
        """What the final latents of the plan's leaves, (L, ...), say.

        Raises
        ------
        ValueError  if the latents are not finite, or sharing changed none of them.
        """
        latents = latents.detach().float().cpu().reshape(len(self.shared_steps) + 1, 2 * len(self.pairs), -1)
        if not torch.isfinite(latents).all():
            raise ValueError("the final latents hold NaN or infinity; load the model in fp32 or bf16")
        change = (latents[1:] - latents[0]).double().square().mean(dim=2).sum(dim=1) / self.squared_distance
        settings = {"pairs": len(self.pairs), "rows": self.plan.nfe, **settings}
        return Sensitivity(self.num_steps, self.shared_steps, change.numpy(), settings)


def probed_steps(num_steps, resolution):
    """(B,) int64 numbers of shared steps, rising to K; intervals shrink towards the end, where most is at stake."""
    resolution = min(resolution, num_steps)
    left = np.unique(np.geomspace(1, num_steps, resolution).round().astype(np.int64))[:-1]
    more = np.setdiff1d(np.arange(1, num_steps), left)[: resolution - 1 - len(left)]  # where rounding met
    return np.append(num_steps - np.union1d(left, more)[::-1], num_steps).astype(np.int64)


def probed_pairs(positive, samples, seed=0):
    """(P, 2) int64: a member of each side of merges that are spread evenly over the tree's heights."""
    Z = ward_linkage(positive, "chord")
    merges = np.flatnonzero(Z[:, 2] > 0)
    if not len(merges):
        raise ValueError("calibration compares prompts, and needs two with different embeddings; add prompts")
    chosen = merges[np.unique(np.linspace(0, len(merges) - 1, min(samples, len(merges))).round().astype(np.int64))]
    members = [[i] for i in range(len(Z) + 1)]
    for a, b in Z[:, :2].astype(np.int64):
        members.append(members[a] + members[b])
    rng = np.random.default_rng(seed)
    return np.array([[rng.choice(members[child]) for child in Z[j, :2].astype(np.int64)] for j in chosen])


def calibrate(
    decoder,
    embeddings,
    num_steps=40,
    *,
    seed=0,
    guidance=4.0,
    scheduler="DDPM",
    samples=8,
    resolution=12,
    **options,
):
    """Measure the sensitivity of a Kandinsky decoder.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    embeddings : PromptEmbeddings    prompts like those that will be drawn; two or more
    num_steps, seed, guidance, scheduler   as in `sample`; the result is for this scheduler
    samples, resolution : int        see `Probe`; ``Probe(...).plan.nfe`` is the cost in UNet rows
    options                          `width`, `height`, `micro_batch`, `on_step`, `before_call` of `sample`

    Returns
    -------
    sensitivity : Sensitivity
    """
    probe = Probe(embeddings.positive, num_steps, samples, resolution, seed)
    return run_probe(probe, decoder, embeddings, seed, guidance, scheduler, **options)


def run_probe(probe, decoder, embeddings, seed, guidance, scheduler, **options):
    """Sample a probe's plan, all of its branches with the same noise."""
    latents = sample(
        decoder,
        probe.leaves(embeddings),
        probe.plan,
        seed=seed,
        guidance=guidance,
        scheduler=scheduler,
        noise=common_noise(seed),
        **options,
    )
    return probe.sensitivity(latents, scheduler=scheduler, guidance=guidance, seed=seed)
