"""Measure a model's sensitivity: prompts share their first steps, and are compared with runs that share none.

Legend: K steps, S prompts that are sampled, B numbers of shared steps that are tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..embeddings import PromptEmbeddings
from ..plan.checks import whole_number
from ..plan.linkage import flat_clusters, ward_linkage
from ..plan.plan import Plan, Step
from ..plan.sensitivity import Sensitivity

SMALLEST_ERROR = 1e-12


class Probe:
    """Prompts of one cluster, and how many steps they share, as one plan for one run.

    Parameters
    ----------
    positive : (N, D) tensor or array
        Embeddings of the prompts, N >= 2.
    num_steps : int >= 1
        Denoising steps K.
    samples : int >= 2
        Prompts that are drawn; all of them where the set has no more.
    resolution : int >= 1
        How many numbers of shared steps are tried; at most K.
    seed : int
        Which prompts of the set are drawn.

    Attributes
    ----------
    shared_steps : (B,) int64 array
        Rising to K, closer and closer together.
    prompts : (S,) int64 array
        Indices of the prompts, from all parts of the set's tree.
    rows : (L,) int64 array
        The prompt of each leaf of the plan, L = (B + 1) S.
    plan : Plan
        Leaves in the order (shared steps, with none first; prompt).
    squared_error : float
        Sum of squared distances of the prompts' unit vectors from their mean.

    Raises
    ------
    ValueError
        If a number is too small, or no two prompts have embeddings of different directions.

    Notes
    -----
    One wide cluster, not many close pairs: the mean of two prompts already is a picture of one of them, which the other
    does not always leave again, while the mean of many is of none. Early steps are shared by wide clusters
    (docs/measurements/schedules.md has the comparison).
    """

    def __init__(
        self, positive: torch.Tensor | np.ndarray, num_steps: int, samples: int = 8, resolution: int = 12, seed: int = 0
    ):
        for name, value, least in (("steps", num_steps, 1), ("samples", samples, 2), ("resolution", resolution, 1)):
            whole_number(name, value, least)
        self.num_steps = int(num_steps)
        self.shared_steps = probed_steps(self.num_steps, resolution)
        self.prompts = probed_prompts(positive, samples, seed)
        self.rows = np.tile(self.prompts, len(self.shared_steps) + 1)
        self.plan = self._plan()
        unit = torch.nn.functional.normalize(plain_tensor(positive)[self.prompts].double(), dim=1)
        self.squared_error = float((unit - unit.mean(dim=0)).square().sum())
        if self.squared_error < SMALLEST_ERROR:
            raise ValueError("calibration compares prompts, and these point the same way; add prompts that differ")

    def _plan(self) -> Plan:
        """Branches: one trunk, and from each number of shared steps on one for each prompt."""
        counts = [0, *self.shared_steps]
        previous = np.zeros(len(self.rows), dtype=np.int64)
        steps = []
        for k in range(self.num_steps):
            labels = np.arange(len(self.rows)).reshape(len(counts), -1) + 1
            labels[[count > k for count in counts]] = 0
            _, first, labels, members = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
            labels = labels.ravel()
            steps.append(Step(labels, first, members, parents=previous[first]))
            previous = labels
        return Plan(np.zeros(self.num_steps), tuple(steps))

    def leaves(self, embeddings: PromptEmbeddings) -> PromptEmbeddings:
        """The `PromptEmbeddings` of the plan's leaves, from those of the prompts."""
        rows: list[int] = self.rows.tolist()
        prompts = [embeddings.prompts[i] for i in rows]
        return PromptEmbeddings(
            embeddings.positive[self.rows], embeddings.negative[self.rows], prompts, embeddings.kind
        )

    def sensitivity(self, latents: torch.Tensor, **settings: Any) -> Sensitivity:
        """What the final latents of the plan's leaves say.

        Parameters
        ----------
        latents : (L, ...) tensor
            In the order of the plan's leaves.
        **settings
            What the result is for, kept with it.

        Returns
        -------
        Sensitivity
            Change of the latents by the number of shared steps.

        Raises
        ------
        ValueError
            If they are not one for each leaf of the plan or not finite, or sharing changed none of them.
        """
        if len(latents) != len(self.rows):
            raise ValueError(
                f"latents must be one for each of the plan's {len(self.rows)} leaves (Probe.rows); got {len(latents)}"
            )
        latents = latents.detach().float().cpu().reshape(len(self.shared_steps) + 1, len(self.prompts), -1)
        if not torch.isfinite(latents).all():
            raise ValueError("the final latents hold NaN or infinity; load the model in fp32 or bf16")
        change = (latents[1:] - latents[0]).double().square().mean(dim=2).sum(dim=1) / self.squared_error
        settings = {"prompts": len(self.prompts), "rows": self.plan.nfe, **settings}
        return Sensitivity(self.num_steps, self.shared_steps, change.numpy(), settings)


def plain_tensor(rows: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Numbers on the CPU without a graph, of a tensor of any precision, an array or a list."""
    return rows.detach().cpu() if isinstance(rows, torch.Tensor) else torch.as_tensor(np.asarray(rows))


def probed_steps(num_steps: int, resolution: int) -> np.ndarray:
    """Numbers of shared steps, (B,) int64 rising to K; intervals shrink towards the end, where most is at stake."""
    resolution = min(resolution, num_steps)
    left = np.unique(np.geomspace(1, num_steps, resolution).round().astype(np.int64))[:-1]
    more = np.setdiff1d(np.arange(1, num_steps), left)[: resolution - 1 - len(left)]  # where rounding met
    return np.append(num_steps - np.union1d(left, more)[::-1], num_steps).astype(np.int64)


def probed_prompts(positive: torch.Tensor | np.ndarray, samples: int, seed: int = 0) -> np.ndarray:
    """One prompt of each of S flat clusters, (S,) int64 in the order of the prompts."""
    Z = ward_linkage(positive, "chord")
    distinct = np.count_nonzero(Z[:, 2]) + 1
    if distinct < 2:
        raise ValueError("calibration compares prompts, and needs two with different embeddings; add prompts")
    ranked = Z.copy()
    ranked[:, 2] = np.arange(1, len(Z) + 1)  # heights may tie, and a cut between them would leave fewer clusters
    labels = flat_clusters(ranked, len(Z) + 1 - min(samples, distinct))
    rng = np.random.default_rng(seed)
    return np.sort([rng.choice(np.flatnonzero(labels == label)) for label in np.unique(labels)])
