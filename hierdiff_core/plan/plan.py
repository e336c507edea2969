"""The plan: which prompts share which latent at which step. Numbers only, no latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .advised import Advised
from .branching import branch_keys_of, branches_of, founders_of, fresh_at, noise_keys_of, recut, salts_of
from .budget import Budget, thresholds_for
from .checks import check_thresholds, whole_number
from .deciding import LEAST_APART as LEAST_APART
from .deciding import deciding_step
from .frozen import FrozenTree
from .guidance import GuidanceCourse
from .linkage import cut
from .profile import Profile
from .rerolls import Reroll
from .seeds import Seeds, seed_groups
from .sensitivity import Sensitivity
from .steps import Branch, Step
from .tree import PromptTree


@dataclass(frozen=True, eq=False)
class Plan:
    """All steps of a run. Made by `plan_for` or `build_plan`.

    Attributes
    ----------
    thresholds : (K,) float64
        Non-increasing, the last is 0.
    steps : tuple of K Step
        The clusters of each step.
    Z : (N-1, 4) float64
        The linkage matrix that was cut; None for a plan made by hand.
    prompt_keys : tuple of N int, or None
        Noise keys of the prompts, see `hierdiff_core.sampling.noise`.
    merge_errors : (N-1,) float64, or None
        Squared error that each merge adds, see `linkage.merge_errors`.
    sensitivity : Sensitivity, or None
        Of the model that will draw.
    prompts : tuple of N str, or None
        For those who show the plan; nothing is looked up by them.
    metric : str or None
        Of the heights in `Z`; None where that is not known.
    frozen : FrozenTree, or None
        The tree with its history, once a prompt was attached or removed: branches that were there stay what they were.
    differ : (M,) int64, or None
        For a plan without `Z`, the prompts whose embeddings differ, rising; None if all do.
    guidance : GuidanceCourse, or None
        Where and how strongly its runs are guided; None leaves that to the sampler's settings.
    advised : Advised, or None
        What was measured for this plan on a model. Whatever makes another plan of it drops it.
    seeds : tuple of N (int or None), or None
        Of prompts that have a seed of their own; they share no step with prompts of another. None: no prompt has one.
    one_of : (Plan, int), or None
        For the plan of a prompt that is drawn alone (`one_unshared`): the plan of its set, and which prompt it is.
    rerolls : tuple of Reroll
        Prompts that have other noise from a step on.
    made_by : mapping of str, or None
        What the schedule was asked for: tells a changed schedule from changed prompts.
    vectors : (N, D) array or tensor, or None
        The embeddings that were clustered, for `attach`; files do not keep them.
    part_of : (Plan, (L,) int64), or None
        For a shard (`shards.shard_of`): the plan of its set, and which leaves of that its own are; not kept by files.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0.1, 0])
    >>> plan.clusters_per_step.tolist(), plan.nfe, plan.nfe_standard, plan.saved
    ([1, 2, 3, 3], 9, 12, 0.25)
    >>> [(branch.start, branch.stop, branch.members.tolist()) for branch in plan.branches]
    [(0, 1, [0, 1, 2]), (1, 2, [0, 1]), (1, 4, [2]), (2, 4, [0]), (2, 4, [1])]
    """

    thresholds: np.ndarray
    steps: tuple[Step, ...]
    Z: np.ndarray | None = None
    prompt_keys: tuple[int, ...] | None = None
    merge_errors: np.ndarray | None = None
    sensitivity: Sensitivity | None = None
    prompts: tuple[str, ...] | None = None
    metric: str | None = None
    frozen: FrozenTree | None = None
    differ: np.ndarray | None = None
    guidance: GuidanceCourse | None = None
    advised: Advised | None = None
    seeds: Seeds | None = None
    one_of: tuple[Plan, int] | None = None
    rerolls: tuple[Reroll, ...] = ()
    made_by: Mapping[str, Any] | None = None
    vectors: Any = None
    part_of: tuple[Plan, np.ndarray] | None = None

    @property
    def num_steps(self) -> int:
        """Denoising steps, K."""
        return len(self.steps)

    @property
    def num_prompts(self) -> int:
        """Prompts, N: equal ones too."""
        return len(self.steps[-1].labels)

    @cached_property
    def tree(self) -> PromptTree | None:
        """What was cut; None for a plan made by hand."""
        if self.Z is None:
            return None
        own = (self.metric, self.merge_errors, self.prompts, self.prompt_keys, self.seeds, self.vectors)
        return PromptTree(self.Z, *own)

    @cached_property
    def distinct(self) -> np.ndarray:
        """The prompts that differ, rising: (M,) int64.

        Of those with equal embeddings the first, for the others are drawn with it. All prompts of a plan made by hand.
        """
        if self.Z is not None:
            return np.sort(self.steps[-1].first)
        return np.arange(self.num_prompts) if self.differ is None else self.differ

    @property
    def num_distinct(self) -> int:
        """Prompts that differ, M."""
        return len(self.distinct)

    @property
    def tau(self) -> float:
        """Threshold at the first step."""
        return float(self.thresholds[0])

    @property
    def clusters_per_step(self) -> np.ndarray:
        """Number of latents that each step denoises: (K,) int64."""
        return np.array([step.num_clusters for step in self.steps])

    @property
    def nfe(self) -> int:
        """UNet rows of the whole run (a guidance pair counts as one)."""
        return int(self.clusters_per_step.sum())

    @property
    def nfe_standard(self) -> int:
        """UNet rows of a separate run for each prompt that differs."""
        return self.num_distinct * self.num_steps

    @property
    def saved(self) -> float:
        """Share of UNet rows saved against separate runs of the prompts that differ, 0 ... 1."""
        return 1 - self.nfe / self.nfe_standard

    @property
    def distortion(self) -> float | None:
        """Expected squared change of a picture's final latent against a run that shares nothing: sum_k w_k SSE_k / M.

        The mean over the latent's elements. None for a plan that knows no merge errors or no sensitivity.
        """
        if self.Z is None or self.merge_errors is None or self.sensitivity is None:
            return None
        shared = self.Z[:, 2] <= self.thresholds[:, None]  # (K, N-1)
        sse = shared @ self.merge_errors
        return float(self.sensitivity.weights(self.num_steps) @ sse / self.num_distinct)

    @property
    def num_different(self) -> int:
        """About how many different pictures come out.

        Prompts that are still together after the deciding step end in pictures that hardly differ.
        """
        weights = None if self.sensitivity is None else self.sensitivity.weights(self.num_steps)
        return self.steps[deciding_step(self.num_steps, weights)].num_clusters

    @property
    def looks_alike(self) -> bool:
        """Whether at least half of the pictures are expected to look like another."""
        return self.num_distinct > 1 and self.num_different <= self.num_distinct / 2

    @property
    def leaf_keys(self) -> tuple[int, ...] | None:
        """Keys of all prompts whose embeddings belong to some mean, those that are gone too; None without keys."""
        return self.prompt_keys if self.frozen is None else self.frozen.tree.keys

    @property
    def num_leaves(self) -> int:
        """Rows of `leaf_keys`, L."""
        return self.num_prompts if self.frozen is None else self.frozen.tree.num_prompts

    def founders(self, k: int) -> list[np.ndarray]:
        """Whose embeddings the mean of each cluster is made of.

        Parameters
        ----------
        k : int
            Step.

        Returns
        -------
        founders : list of C int64 arrays
            Rows, in the order of `leaf_keys`; of equal embeddings one. Unless prompts were attached or removed, these
            are the cluster's members.
        """
        return founders_of(self, k)

    def branch_keys(self, k: int, prompt_keys: Sequence[int] | None = None) -> list[int]:
        """What each cluster of a step is known by: its noise, and what was evaluated of it, are looked up by this.

        Parameters
        ----------
        k : int
            Step.
        prompt_keys : N ints, optional
            In place of the plan's own; for a plan without any, the prompts' numbers are taken.

        Returns
        -------
        keys : list of C int
            The smallest key of the prompts that the cluster was made of: its members, but for those that joined later
            (`attach`), and those that are gone.
        """
        return branch_keys_of(self, k, prompt_keys)

    def salts(self, k: int) -> list[int]:
        """What the noise of each cluster of a step is changed by: 0, or a hash of its rerolls up to there."""
        return salts_of(self, k)

    def fresh(self, k: int) -> np.ndarray:
        """The clusters of a step that are rerolled there: (C,) bool.

        Samplers that draw noise in each step take that of the salted keys from there on. Others start these clusters
        from a fresh amount of noise, as in img2img: the clean latent that the step before was heading for, and noise of
        the step's level. At step 0 it is the first noise that is another, for all samplers.
        """
        return fresh_at(self, k)

    def noise_keys(self, k: int, prompt_keys: Sequence[int] | None = None) -> list[int]:
        """What the noise of each cluster of a step is a function of: `branch_keys`, changed by `salts`."""
        return noise_keys_of(self, k, prompt_keys)

    def groups(self) -> tuple[np.ndarray, Seeds]:
        """The prompts by their seeds, see `seed_groups`: group of each prompt, and the seed of each group."""
        return seed_groups(self.seeds, self.num_prompts)

    def branch_seeds(self, k: int) -> list[int | None]:
        """The seed of each cluster of a step; None: that of the run."""
        first = self.steps[k].first.tolist()
        return [None] * len(first) if self.seeds is None else [self.seeds[i] for i in first]

    def straight_line(self) -> Plan:
        """The paper's straight line for the same tree, unshared steps and rows (or fewer rows, where heights tie).

        Raises
        ------
        ValueError
            If the plan does not know its linkage matrix.
        """
        tree, saved = self._known_tree(), self.saved
        if self.rerolls:  # what they cost comes on top: it cannot be saved by other thresholds
            rows = sum(int(cut(tree.Z, threshold).max()) + 1 for threshold in self.thresholds)
            saved = 1 - rows / (tree.num_distinct * self.num_steps)
        line = Profile(self.num_steps, private_steps=int((self.thresholds == 0).sum()))
        return self._cut_again(thresholds_for(tree, Budget("saving", saved), line))

    def resampled(self, num_steps: int) -> Plan:
        """The plan for another number of steps, with thresholds interpolated over the same course.

        Its guidance stays as it is: shares of the steps are of the new ones, `boost_steps` as many as before.

        Raises
        ------
        ValueError
            If there is no step, or the plan does not know its linkage matrix.
        """
        num_steps = whole_number("num_steps", num_steps, 1)
        if num_steps == self.num_steps:
            return self
        self._known_tree()
        places = np.linspace(0, self.num_steps - 1, num_steps) if num_steps > 1 else np.array([self.num_steps - 1.0])
        made_by = None if self.made_by is None else {**self.made_by, "steps": num_steps}
        return self._cut_again(np.interp(places, np.arange(self.num_steps), self.thresholds), made_by)

    def _cut_again(self, thresholds: np.ndarray, made_by: Mapping[str, Any] | None = None) -> Plan:
        of = self.part_of
        part_of = of and (of[0]._cut_again(thresholds, made_by), of[1])
        own = replace(self, made_by=made_by, advised=None, part_of=part_of)
        return recut(own, self._known_tree().Z, check_thresholds(thresholds))

    def _known_tree(self) -> PromptTree:
        if self.tree is None:
            raise ValueError("a plan without Z cannot be cut again; make it with build_plan")
        return self.tree

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """The edges of the tree, parents before children."""
        return branches_of(self)
