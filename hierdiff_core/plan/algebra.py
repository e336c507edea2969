"""Plans from plans: with more prompts, with fewer, with others (side by side: `joining`).

Legend: N prompts of the plan, L leaves (`Plan.leaf_keys`): these prompts, and those that are gone but belong to a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .checks import checked_keys, whole_number
from .linkage import as_vectors
from .plan import Plan
from .replanning import check_prompt, check_texts, frozen_tree, replanned
from .rerolls import Reroll, checked_rerolls
from .seeds import checked_seeds
from .steps import linked_steps

if TYPE_CHECKING:
    import torch


def alone(num_prompts: int, num_steps: int, prompt_keys: Iterable[int] | None = None) -> Plan:
    """The plan of standard sampling: nothing is shared but the first noise.

    Parameters
    ----------
    num_prompts : int >= 1
        Prompts; those with equal embeddings are drawn each for itself.
    num_steps : int >= 1
        Denoising steps.
    prompt_keys : N ints, optional
        Their keys.

    Returns
    -------
    plan : Plan
        Without a linkage matrix.

    Raises
    ------
    ValueError
        If there is no prompt, no step, another number of keys, or one that is no whole number from 0 to 2**64.

    Examples
    --------
    >>> from hierdiff_core.plan.algebra import alone
    >>> alone(3, 5).clusters_per_step.tolist()
    [3, 3, 3, 3, 3]
    """
    num_prompts, num_steps = whole_number("num_prompts", num_prompts), whole_number("num_steps", num_steps)
    if num_prompts < 1 or num_steps < 1:
        raise ValueError(f"a plan needs at least 1 prompt and 1 step; got {num_prompts} and {num_steps}")
    keys = None if prompt_keys is None else checked_keys("prompt_keys", prompt_keys)
    if keys is not None and len(keys) != num_prompts:
        raise ValueError(f"prompt_keys must be one for each of {num_prompts} prompts; got {len(keys)}")
    everyone = np.arange(num_prompts)
    return Plan(np.zeros(num_steps), linked_steps([everyone] * num_steps), prompt_keys=keys)


def attach(
    plan: Plan,
    leaves: ArrayLike | torch.Tensor,
    new: ArrayLike | torch.Tensor,
    keys: Sequence[int],
    prompts: Sequence[str] | None = None,
    *,
    metric: str | None = None,
    seeds: Sequence[int | None] | None = None,
) -> Plan:
    """Hang more prompts into a plan: each shares the nearest branch until that is too far away, then goes alone.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    leaves : (L, D) array or tensor
        Embeddings of `plan.leaf_keys`; of a plan that was not changed yet, those of its prompts.
    new : (M, D) array or tensor
        Embeddings of the new prompts. They are hung one after the other, and may share each other's branches.
    keys : M ints
        Their keys.
    prompts : M str, optional
        Their texts, for a plan that knows texts; without for others.
    metric : str, optional
        Of the plan's heights, for plans that do not know it (`build_plan`).
    seeds : M (int or None), optional
        Their seeds, where some have one of their own: each hangs in the tree of its seed, a new seed begins one.

    Returns
    -------
    plan : Plan
        Of N + M prompts, the new ones last, with the same thresholds. Branches that were there keep their keys and the
        prompts that their means are made of (`Plan.branch_keys`, `Plan.founders`), whatever key a new prompt has.

    Raises
    ------
    ValueError
        If the plan was made by hand or has no keys, or the numbers of embeddings, keys and texts do not fit, a
        key is no whole number from 0 to 2**64, or texts are given though the plan has none, or not though it has.

    Notes
    -----
    A prompt shares a branch where the height of Ward's merge of the two is no larger than the step's threshold. One
    that was removed and comes back with the same key and embedding gets its own place again, as long as the plan
    remembers it.

    Examples
    --------
    >>> from hierdiff_core import Budget, Profile, PromptTree, plan_for
    >>> from hierdiff_core.plan.algebra import attach
    >>> rows = [[1, 0], [0.8, 0.6], [0, 1]]
    >>> tree = PromptTree.of(rows, "chord", ["a cat", "a lynx", "a bus"])
    >>> plan = plan_for(tree, Budget("saving", 0.4), Profile(10))
    >>> grown = attach(plan, rows, [[0.96, 0.28]], [5], ["a kitten"])
    >>> grown.nfe - plan.nfe, grown.branch_keys(0) == plan.branch_keys(0)
    (2, True)
    """
    leaves, new, keys = as_vectors(leaves, "leaves"), as_vectors(new, "new"), checked_keys("keys", keys)
    for name, values in (("keys", keys), ("prompts", prompts)):
        if values is not None and len(values) != len(new):
            raise ValueError(f"{name} must be one for each of {len(new)} new embeddings; got {len(values)}")
    check_texts(plan, "prompts", prompts is not None)
    own = (None,) * len(new) if seeds is None else checked_seeds(seeds, len(new)) or (None,) * len(new)
    frozen = frozen_tree(plan, leaves, new.shape[1], metric)
    for i, row in enumerate(new):
        frozen, leaf = frozen.hung(leaves, row, keys[i], prompts[i] if prompts else None, own[i], plan.tau)
        leaves = leaves if leaf < len(leaves) else np.concatenate([leaves, row[None]])
        frozen = replace(frozen, present=np.append(frozen.present, leaf))
    return replanned(plan, frozen, leaves[frozen.present])


def removed(plan: Plan, i: int) -> Plan:
    """A plan without one of its prompts; all others keep their branches, and these their keys and means.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    i : int
        The prompt to take out.

    Returns
    -------
    plan : Plan
        Of N - 1 prompts. What belongs to a mean of a branch that is still there stays in `Plan.leaf_keys`.

    Raises
    ------
    ValueError
        If the plan was made by hand or has no keys, there is no such prompt, or it is the only one.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.algebra import removed
    >>> plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0], prompt_keys=[7, 8, 9])
    >>> smaller = removed(plan, 0)
    >>> smaller.prompt_keys, smaller.branch_keys(0), smaller.branch_keys(2)
    ((8, 9), [7], [8, 9])
    """
    i = check_prompt(plan, i)
    if plan.num_prompts == 1:
        raise ValueError("the only prompt of a plan cannot be removed")
    return only(plan, np.delete(np.arange(plan.num_prompts), i).tolist())


def only(plan: Plan, prompts: Iterable[int]) -> Plan:
    """A plan of some of its prompts: as if all others were `removed`.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    prompts : iterable of int
        Those to keep, each once, in the order that they are to have.

    Returns
    -------
    plan : Plan
        The prompts keep their branches, and these their keys and means.

    Raises
    ------
    ValueError
        If the plan was made by hand or has no keys, or there is no such prompt, or none is named.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.algebra import only
    >>> plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0], prompt_keys=[7, 8, 9])
    >>> smaller = only(plan, [1, 2])
    >>> smaller.prompt_keys, smaller.branch_keys(0)
    ((8, 9), [7])
    """
    rows = [check_prompt(plan, i) for i in prompts]
    frozen, vectors = frozen_tree(plan), None if plan.vectors is None else as_vectors(plan.vectors)[rows]
    return replanned(plan, replace(frozen, present=frozen.present[rows]), vectors)


def edited(
    plan: Plan,
    i: int,
    leaves: ArrayLike | torch.Tensor,
    new: ArrayLike | torch.Tensor,
    key: int,
    prompt: str | None = None,
    *,
    metric: str | None = None,
) -> Plan:
    """A plan with another prompt in the place of one: the new one is attached, the old one removed.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    i : int
        The prompt to replace.
    leaves : (L, D) array or tensor
        Embeddings of `plan.leaf_keys`.
    new : (D,) array or tensor
        Embedding of the new prompt.
    key : int
        Its key.
    prompt : str, optional
        Its text, for a plan that knows texts; without for others.
    metric : str, optional
        Of the plan's heights, for plans that do not know it.

    Returns
    -------
    plan : Plan
        Of N prompts. The others keep their branches. Editing a prompt back gives the first plan again.

    Raises
    ------
    ValueError
        As `attach`, and if there is no such prompt.

    Examples
    --------
    >>> from hierdiff_core import Budget, Profile, PromptTree, plan_for
    >>> from hierdiff_core.plan.algebra import edited
    >>> rows = [[1, 0], [0.8, 0.6], [0, 1]]
    >>> plan = plan_for(PromptTree.of(rows, "chord", ["a cat", "a lynx", "a bus"]), Budget("saving", 0.4), Profile(10))
    >>> other = edited(plan, 1, rows, [0.96, 0.28], 5, "a kitten")
    >>> other.prompts, other.branch_keys(0) == plan.branch_keys(0)
    (('a cat', 'a kitten', 'a bus'), True)
    """
    i, key = check_prompt(plan, i), checked_keys("key", [key])[0]
    one: Any = new if hasattr(new, "detach") else np.asarray(new)  # a tensor may be of any precision, with a graph
    if one.ndim != 1:
        raise ValueError(f"new must have shape (D,), of one prompt; got {tuple(one.shape)}")
    leaves, row = as_vectors(leaves, "leaves"), as_vectors(one[None], "new")
    check_texts(plan, "prompt", prompt is not None)
    seed = None if plan.seeds is None else plan.seeds[i]
    frozen, leaf = frozen_tree(plan, leaves, row.shape[1], metric).hung(leaves, row[0], key, prompt, seed, plan.tau)
    present = frozen.present.copy()
    present[i] = leaf
    return replanned(plan, replace(frozen, present=present), np.concatenate([leaves, row])[present])


def rerolled(plan: Plan, rerolls: Iterable[Reroll]) -> Plan:
    """A plan some of whose prompts have other noise from a step on; all others keep their branches.

    Parameters
    ----------
    plan : Plan
        Made by `plan_for` or `build_plan`, with keys.
    rerolls : iterable of Reroll
        Further ones: those that the plan has stay.

    Returns
    -------
    plan : Plan
        The same where there are none. Prompts that share a branch and are rerolled there alike share it still.

    Raises
    ------
    ValueError
        If the plan was made by hand or has no keys, or a reroll is of a prompt or a step that is not there.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.algebra import rerolled
    >>> from hierdiff_core.plan.rerolls import Reroll
    >>> plan = build_plan([[0, 1, 0.5, 2]], [0.6, 0.6, 0], prompt_keys=[7, 8])
    >>> other = rerolled(plan, [Reroll(1, 1, 1)])
    >>> other.clusters_per_step.tolist(), [salt > 0 for salt in other.salts(1)], other.fresh(1).tolist()
    ([1, 2, 2], [False, True], [False, True])
    """
    found = checked_rerolls([*plan.rerolls, *rerolls], plan.num_leaves, plan.num_steps)
    if found == plan.rerolls:
        return plan
    return replanned(replace(plan, rerolls=found), frozen_tree(plan), plan.vectors)


def rerolled_until(plan: Plan, last: int) -> tuple[Plan, list[int]]:
    """A plan whose rerolls all make another picture: samplers that draw noise draw none in their last step.

    Parameters
    ----------
    plan : Plan
    last : int
        The last step from which other noise makes another picture. Later rerolls begin there.

    Returns
    -------
    plan : Plan
        The same where no reroll is later.
    prompts : list of int
        Whose rerolls were moved: numbers of the plan's prompts.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.algebra import rerolled, rerolled_until
    >>> from hierdiff_core.plan.rerolls import Reroll
    >>> plan = rerolled(build_plan([[0, 1, 0.5, 2]], [0.6, 0, 0], prompt_keys=[7, 8]), [Reroll(1, 2, 1)])
    >>> moved, prompts = rerolled_until(plan, 1)
    >>> moved.rerolls[0].step, prompts
    (1, [1])
    """
    late = {own.prompt for own in plan.rerolls if own.step > last}
    if not late:
        return plan, []
    moved = checked_rerolls(
        (replace(own, step=min(own.step, last)) for own in plan.rerolls), plan.num_leaves, plan.num_steps
    )
    leaves = range(plan.num_prompts) if plan.frozen is None else plan.frozen.present.tolist()
    prompts = [i for i, leaf in enumerate(leaves) if leaf in late]
    return replanned(replace(plan, rerolls=moved), frozen_tree(plan), plan.vectors), prompts


def with_variants(plan: Plan, variants: Sequence[tuple[int, float] | None]) -> Plan:
    """A plan whose variants of prompts have other noise from their share of the steps on (`PromptRow.variant`)."""
    last = plan.num_steps - 1
    rerolls = [
        Reroll(i, min(int(variant[1] * plan.num_steps + 0.5), last), variant[0])
        for i, variant in enumerate(variants)
        if variant is not None
    ]
    return rerolled(plan, rerolls)
