"""The embeddings that a plan is drawn with: of its prompts, found among those of more, and of prompts that are gone.

Legend: N prompts of the plan, L leaves (`Plan.leaf_keys`): these prompts, and those that are gone but belong to a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from ..embeddings import PromptEmbeddings
from ..plan.branching import plan_leaves
from ..plan.in_set import rows_in_set
from ..plan.matching import SHORTENED
from ..prompts.rows import PromptRows

if TYPE_CHECKING:
    from ..plan.plan import Plan
    from ..sampling.leaves import Leaves as KeptLeaves

# embeddings by their prompt's key, or the digests that a store has them by
Leaves: TypeAlias = "PromptEmbeddings | Mapping[int, torch.Tensor | bytes]"
MOST_NAMED = 3


@dataclass(frozen=True)
class PlanEmbeddings:
    """What the means of a plan are made of.

    Attributes
    ----------
    own : PromptEmbeddings
        Of the plan's prompts, in its order.
    leaves : (2, L, D) float32 tensor
        Of its leaves, on the CPU; zero where they are not known.
    known : (L,) bool array
        Which of them are.
    notes : tuple of str
        What a report should say.
    """

    own: PromptEmbeddings
    leaves: torch.Tensor
    known: np.ndarray
    notes: tuple[str, ...] = ()


def embeddings_for(
    plan: Plan, embeddings: PromptEmbeddings, leaves: Leaves | None = None, kept: KeptLeaves | None = None
) -> PlanEmbeddings:
    """Find what a plan is drawn with.

    Parameters
    ----------
    plan : Plan
        Perhaps one that prompts were attached to or removed from.
    embeddings : PromptEmbeddings
        Of the plan's prompts in its order, or of more: they are found by their keys then.
    leaves : PromptEmbeddings or mapping, optional
        Of prompts that are gone: their embeddings, or by key (2, D) tensors, or the digests that they are kept by.
    kept : Leaves, optional
        Of a store: asked for digests, and for prompts that are gone and found nowhere else.

    Returns
    -------
    found : PlanEmbeddings

    Raises
    ------
    ValueError
        If a prompt of the plan is not among the embeddings.
    """
    own = own_embeddings(plan, embeddings)
    if plan.frozen is None:
        return PlanEmbeddings(own, own.stacked(), np.ones(len(own), dtype=bool))
    keys, present = list(plan.leaf_keys or []), plan.frozen.present
    rows, known = torch.zeros(2, len(keys), own.width), np.zeros(len(keys), dtype=bool)
    rows[:, torch.from_numpy(present)], known[present] = own.stacked(), True
    of_set = rows_in_set(plan, embeddings.keys)
    for leaf in np.flatnonzero(~known).tolist():
        row = -1 if of_set is None else int(of_set[leaf])
        pair = embeddings.stacked()[:, row] if row >= 0 else gone_leaf(keys[leaf], embeddings, leaves, kept)
        if pair is not None and pair.shape == (2, own.width) and bool(torch.isfinite(pair).all()):
            rows[:, leaf], known[leaf] = pair.detach().to("cpu", torch.float32), True
    return PlanEmbeddings(own, rows, known, tuple(notes_on_lost(plan, known)))


def own_embeddings(plan: Plan, embeddings: PromptEmbeddings) -> PromptEmbeddings:
    """Those of a plan's prompts, in its order; `ValueError` where one is not there."""
    keys, given = plan.prompt_keys, embeddings.keys
    of_set = rows_in_set(plan, given)
    if of_set is not None:
        return some_embeddings(embeddings, of_set[plan_leaves(plan)].tolist())
    fits = plan.num_prompts == len(embeddings)
    if fits and (plan.frozen is None or list(keys or ()) == given):
        return embeddings
    if keys is None or (plan.frozen is None and (len(embeddings) < plan.num_prompts or not set(keys) <= set(given))):
        raise ValueError(
            f"the plan is for {plan.num_prompts} prompts, but there are {len(embeddings)} embeddings; "
            "make the linkage and the schedule from these embeddings"
        )
    return some_embeddings(embeddings, places_by_key(plan, embeddings))


def places_by_key(plan: Plan, embeddings: PromptEmbeddings) -> list[int]:
    """Where each prompt of a plan is among embeddings; of prompts with one key they are taken in turn."""
    by_key: dict[int, list[int]] = {}
    for place, key in enumerate(embeddings.keys):
        by_key.setdefault(key, []).append(place)
    wanted = list(plan.prompt_keys or ())
    found, turn = [], dict.fromkeys(by_key, 0)
    for i, key in enumerate(wanted):
        places = by_key.get(key)
        named = (
            f'prompt {i} of the plan ("{plan.prompts[i][:SHORTENED]}")' if plan.prompts else f"prompt {i} of the plan"
        )
        if places is None:
            raise ValueError(f"{named} is not among the embeddings; connect those of the prompts that it was made of")
        if len(places) != wanted.count(key) and not all_equal(embeddings, places):
            raise ValueError(
                f"{named} is among the embeddings {len(places)} times with different negatives, and nothing tells "
                "which is meant; connect the embeddings of the plan's prompts alone"
            )
        found.append(places[turn[key] % len(places)])
        turn[key] += 1
    return found


def all_equal(embeddings: PromptEmbeddings, places: Sequence[int]) -> bool:
    """Whether prompts have the same embeddings."""
    pairs = embeddings.stacked()[:, list(places)]
    return bool((pairs == pairs[:, :1]).all())


def some_embeddings(embeddings: PromptEmbeddings, places: Sequence[int]) -> PromptEmbeddings:
    """The embeddings at some places, in their order; prompts keep what is their own."""
    prompts = embeddings.prompts
    rows = getattr(prompts, "rows", None)
    texts = tuple(prompts[i] for i in places) if rows is None else PromptRows(rows[i] for i in places)
    own = list(places)
    return replace(embeddings, positive=embeddings.positive[own], negative=embeddings.negative[own], prompts=texts)


def gone_leaf(
    key: int, embeddings: PromptEmbeddings, leaves: Leaves | None, kept: KeptLeaves | None
) -> torch.Tensor | None:
    """The embeddings of a prompt that is gone, (2, D): those that are given, else those connected, else a store's."""
    given = leaf_given(key, leaves)
    if isinstance(given, bytes):
        given = None if kept is None else kept.get(given)
    if isinstance(given, torch.Tensor):
        return given
    connected = leaf_given(key, embeddings)
    if isinstance(connected, torch.Tensor):
        return connected
    digest = None if kept is None or leaves is not None else kept.find(key)
    found = None if kept is None or digest is None else kept.get(digest)
    return found if isinstance(found, torch.Tensor) else None


def leaf_given(key: int, leaves: Leaves | None) -> torch.Tensor | bytes | None:
    """What is given for a key."""
    if isinstance(leaves, PromptEmbeddings):
        keys = leaves.keys
        return leaves.stacked()[:, keys.index(key)] if key in keys else None
    return None if leaves is None else leaves.get(key)


def notes_on_lost(plan: Plan, known: np.ndarray) -> list[str]:
    """What to say of prompts whose embeddings are found nowhere, and of the branches that they founded."""
    lost = np.flatnonzero(~known)
    if plan.frozen is None or not len(lost):
        return []
    texts = plan.frozen.tree.prompts
    named = [f'"{texts[i][:SHORTENED]}"' if texts else f"key {(plan.leaf_keys or ())[i]:x}" for i in lost[:MOST_NAMED]]
    more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
    touched = set()
    for k in range(plan.num_steps):
        for c, own in enumerate(plan.founders(k)):
            if not known[own].all():
                touched.update(np.flatnonzero(plan.steps[k].labels == c).tolist())
    if not touched:  # its branch is cut off before the first step
        return []
    pictures = f"{len(touched)} picture{'s' * (len(touched) != 1)}"
    return [
        f"the embeddings of {', '.join(named)}{more}, which {'are' if len(lost) > 1 else 'is'} gone, are not kept: "
        f"branches that were made of them are drawn anew from the prompts that are left, and {pictures} may change"
    ]
