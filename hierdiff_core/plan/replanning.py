"""A plan cut again after its tree was changed: prompts came or went, and what is left of it keeps its history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .branching import cut_steps
from .checks import whole_number
from .frozen import FrozenTree
from .linkage import METRICS, check_metric
from .plan import Plan
from .rerolls import Reroll


def frozen_tree(
    plan: Plan, leaves: np.ndarray | None = None, width: int | None = None, metric: str | None = None
) -> FrozenTree:
    """The tree of a plan with its history, for embeddings of its leaves and new ones of `width` numbers."""
    if plan.tree is None:
        raise ValueError("a plan without Z cannot be changed; make it with plan_for")
    if plan.prompt_keys is None:
        raise ValueError("a plan without prompt_keys cannot be changed; make it with plan_for from the prompts' texts")
    everyone = np.arange(plan.num_prompts)
    tree = replace(plan.tree, vectors=None)
    frozen = plan.frozen or FrozenTree(tree, np.zeros(plan.num_prompts, dtype=np.int64), everyone)
    if leaves is None:
        return frozen
    metric = metric or frozen.tree.metric
    if metric is None:
        raise ValueError(
            f"metric must be one of {', '.join(METRICS)}; got None: the plan does not know that of its heights, "
            "pass metric="
        )
    check_metric(metric)
    if leaves.shape != (frozen.tree.num_prompts, width):
        raise ValueError(
            f"leaves must be the embeddings of the plan's {frozen.tree.num_prompts} leaf_keys, {width} numbers wide as "
            f"the new ones; got shape {leaves.shape}"
        )
    return replace(frozen, tree=replace(frozen.tree, metric=metric))


def replanned(
    plan: Plan, frozen: FrozenTree, vectors: Any = None, also: Iterable[Reroll] = (), everyone: bool = False
) -> Plan:
    """The plan of the prompts that are present in a changed tree, at the same thresholds.

    Its rerolls are of the leaves of this tree, `vectors` of its prompts. Leaves that no mean needs are left out: with
    these rerolls and those that will come (`also`), unless `everyone` stays.
    """
    leaves, places = needed(frozen, [*plan.rerolls, *also])
    if everyone:
        leaves = np.arange(frozen.tree.num_prompts)
        places = {leaf: leaf for leaf in leaves.tolist()}
    frozen = frozen.of_leaves(leaves)
    rerolls = tuple(replace(own, prompt=places[own.prompt]) for own in plan.rerolls if own.prompt in places)
    tree = frozen.of_prompts()
    return replace(
        plan,
        steps=cut_steps(tree.Z, plan.thresholds, rerolls, frozen.present, len(leaves)),
        Z=tree.Z,
        prompt_keys=tree.keys,
        merge_errors=tree.errors,
        prompts=tree.prompts,
        metric=tree.metric,
        frozen=None if frozen.plain and not rerolls else frozen,
        advised=None,
        seeds=tree.seeds,
        rerolls=rerolls,
        vectors=vectors,
        part_of=None,
    )


def needed(frozen: FrozenTree, rerolls: Iterable[Reroll]) -> tuple[np.ndarray, dict[int, int]]:
    """The leaves that some mean may still need, and where each of them goes.

    Of those that are gone and were rerolled, all whose first reroll a prompt has that is there.
    """
    first: dict[int, tuple[int, int]] = {}
    for own in sorted(rerolls):
        first.setdefault(own.prompt, (own.step, own.number))
    alive = {first[leaf] for leaf in frozen.present.tolist() if leaf in first}
    leaves = np.union1d(frozen.needed(), np.array([i for i, own in first.items() if own in alive], dtype=np.int64))
    return leaves, {leaf: place for place, leaf in enumerate(leaves.tolist())}


def leaves_of(plan: Plan, prompts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Which of its leaves, (L,) int64, a plan keeps that has some of its prompts alone."""
    frozen = frozen_tree(plan)
    return needed(replace(frozen, present=frozen.present[prompts]), plan.rerolls)[0]


def check_texts(plan: Plan, name: str, given: bool) -> None:
    """`ValueError` for a new prompt without a text where the plan has texts, and the other way round."""
    if given and plan.prompts is None:
        raise ValueError(f"{name} must be left out: the plan has no texts of its other prompts")
    if not given and plan.prompts is not None:
        raise ValueError(f"{name} must be given: the plan has the texts of its other prompts")


def check_prompt(plan: Plan, i: int) -> int:
    """The number of a prompt; `ValueError` for what is none."""
    i = whole_number("i", i)
    if not 0 <= i < plan.num_prompts:
        raise ValueError(f"there is no prompt {i}: the plan has prompts 0 to {plan.num_prompts - 1}")
    return i
