"""The tree that is kept: today's prompts on the tree of an earlier run, whose branches stay what they were.

Legend: N prompts of today, L leaves of the kept tree, K steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .addresses import addresses, leaf_addresses
from .frozen import FrozenTree
from .keys import hashed
from .leaves import fingerprint
from .linkage import as_vectors, unit_rows
from .plan import Plan
from .replanning import frozen_tree, replanned
from .rerolls import Reroll

# Heights of another machine's embeddings are the same but for rounding; of another encoder's they are not.
SAME_HEIGHT = 0.02


def on_kept_tree(
    plan: Plan, kept: Plan, digests: Mapping[str, str], leaves: Any, rerolls: Sequence[tuple[str, int, int]] = ()
) -> tuple[Plan, list[str]]:
    """Today's prompts on a kept tree: new ones hung onto it, those that are gone taken out.

    Parameters
    ----------
    plan : Plan
        The fresh plan of today's prompts, with their vectors.
    kept : Plan
        Of the earlier run, of the same schedule.
    digests : mapping of str to str
        Of the embedding of each key, in hex digits.
    leaves : object with ``get(digest)``, or None
        Where embeddings of prompts that are gone are found.
    rerolls : sequence of (address, step, number)
        That will be applied: leaves that they name are kept.

    Returns
    -------
    plan : Plan
        At the kept thresholds; the rest is the fresh plan's. The fresh plan itself where no embedding of the kept tree
        is known.
    notes : list of str
        On what could not be kept.
    """
    vectors, today = as_vectors(plan.vectors), addresses(plan)
    kept, rows, notes = with_known_leaves(kept, dict(zip(today, vectors, strict=True)), digests, leaves)
    if not len(rows):
        return plan, notes
    frozen, names = frozen_tree(kept), leaf_addresses(kept)
    places = {name: leaf for leaf, name in enumerate(names)}
    seeds, texts = plan.seeds or (None,) * len(today), plan.prompts or (None,) * len(today)
    assert plan.prompt_keys is not None
    present = []
    for i, name in enumerate(today):  # those that are gone are still there: what takes their place hangs beside them
        if name not in places:
            frozen, places[name] = frozen.hung(rows, vectors[i], plan.prompt_keys[i], texts[i], seeds[i], kept.tau)
            if places[name] == len(rows):
                rows = np.concatenate([rows, vectors[i : i + 1]])
            frozen = replace(frozen, present=np.append(frozen.present, places[name]))
        present.append(places[name])
    frozen = replace(frozen, present=np.array(present), tree=retexted(frozen, present, plan))
    own = variants_of(plan, kept, names, present)
    named = tuple(Reroll(places[name], step, number) for name, step, number in rerolls if name in places)
    shell = replace(plan, thresholds=kept.thresholds, frozen=frozen, rerolls=own, differ=None)
    return replanned(shell, frozen, plan.vectors, also=named), notes


def with_known_leaves(
    kept: Plan, today: Mapping[str, np.ndarray], digests: Mapping[str, str], leaves: Any
) -> tuple[Plan, np.ndarray, list[str]]:
    """The kept plan without leaves whose embeddings are not known any more; the embeddings; what was lost."""
    names, frozen = leaf_addresses(kept), frozen_tree(kept)
    found = [today.get(name) for name in names]
    of_keys = {name[:16]: row for name, row in today.items()}
    width = len(next(iter(today.values())))
    for leaf, name in enumerate(names):
        if found[leaf] is None:
            found[leaf] = of_keys.get(name[:16])
        if found[leaf] is None:
            found[leaf] = remembered(digests.get(name[:16]), leaves, width)
    known = np.flatnonzero([row is not None for row in found])
    lost = [leaf for leaf in range(len(names)) if found[leaf] is None]
    rows = np.array([found[leaf] for leaf in known]).reshape(-1, width)
    if not lost:
        return kept, rows, []
    if not len(known):
        return kept, rows, ["⚠ no embedding of the kept tree is known any more: the set was planned anew"]
    texts = frozen.tree.prompts or names
    note = (
        f"⚠ the embeddings of {len(lost)} prompts that are gone are not known any more "
        f'("{texts[lost[0]][:60]}"): branches that these founded are drawn anew'
    )
    present = frozen.present[np.isin(frozen.present, known)]
    if not len(present):  # of today's prompts none was there: any leaf that is known stands for them
        present = known[:1]
    fewer = replace(frozen, present=present).of_leaves(known)
    places = {leaf: place for place, leaf in enumerate(known.tolist())}
    rerolls = tuple(replace(own, prompt=places[own.prompt]) for own in kept.rerolls if own.prompt in places)
    return replanned(replace(kept, rerolls=rerolls), fewer, everyone=True), rows, [note]


def remembered(digest: Any, leaves: Any, width: int) -> np.ndarray | None:
    """An embedding by the hex digits of its digest; None where nobody knows it, or it has another width."""
    if leaves is None or not isinstance(digest, str):
        return None
    try:
        value = leaves.get(bytes.fromhex(digest))
        row = None if value is None else as_vectors(value[None])[0]
    except ValueError:
        return None
    return row if row is not None and len(row) == width else None


def remember(plan: Plan, leaves: Any) -> None:
    """Keep the vectors of a plan's prompts, so that they are known when the prompts are gone.

    Parameters
    ----------
    plan : Plan
        Of today's prompts; without vectors or keys, nothing is kept.
    leaves : object with ``put(key, digest, value)``
        Where they are kept.
    """
    if plan.vectors is None or plan.prompt_keys is None:
        return
    for key, row, vector in zip(plan.prompt_keys, plan.vectors, as_vectors(plan.vectors), strict=True):
        value = row.detach().cpu().clone() if hasattr(row, "detach") else np.array(row)
        leaves.put(hashed(f"vector {key}".encode()) >> 1, fingerprint(vector), value)


def digests_of(plan: Plan) -> dict[str, str]:
    """Digests of the vectors of a plan's prompts, by the hex digits of their keys."""
    if plan.vectors is None or plan.prompt_keys is None:
        return {}
    rows = as_vectors(plan.vectors)
    return {f"{key:016x}": fingerprint(row).hex() for key, row in zip(plan.prompt_keys, rows, strict=True)}


def retexted(frozen: FrozenTree, present: Sequence[int], plan: Plan) -> Any:
    """The tree with today's spelling of its prompts."""
    if plan.prompts is None or frozen.tree.prompts is None:
        return replace(frozen.tree, prompts=None) if plan.prompts is None else frozen.tree
    texts = list(frozen.tree.prompts)
    for leaf, text in zip(present, plan.prompts, strict=True):
        texts[leaf] = text
    return replace(frozen.tree, prompts=tuple(texts))


def variants_of(plan: Plan, kept: Plan, names: Sequence[str], present: Sequence[int]) -> tuple[Reroll, ...]:
    """Where today's variants part, and those that are gone as they did."""
    there, own = set(present), plan_rows(plan)
    gone = [reroll for reroll in kept.rerolls if reroll.prompt not in there]
    today = [replace(reroll, prompt=present[own[reroll.prompt]]) for reroll in plan.rerolls if reroll.prompt in own]
    return tuple(sorted([*gone, *today]))


def plan_rows(plan: Plan) -> dict[int, int]:
    """Number of the prompt of each leaf that is there."""
    leaves = range(plan.num_prompts) if plan.frozen is None else plan.frozen.present.tolist()
    return {leaf: i for i, leaf in enumerate(leaves)}


def other_embeddings(plan: Plan, kept: Plan) -> bool:
    """Whether the prompts that were kept have become other vectors: pairs that merge first are at other distances."""
    frozen, vectors = frozen_tree(kept), as_vectors(plan.vectors)
    rows = dict(zip(addresses(plan), unit_rows(vectors), strict=True))
    names, leaves = leaf_addresses(kept), frozen.tree.num_prompts
    tolerance = SAME_HEIGHT * frozen.tree.root_height
    off, pairs = 0, 0
    for a, b, height, _ in frozen.tree.Z.tolist():
        pair = [rows.get(names[int(node)]) if node < leaves else None for node in (a, b)]
        first = [node < leaves and not frozen.generations[int(node)] for node in (a, b)]
        if pair[0] is None or pair[1] is None or not all(first):
            continue
        square = float(np.square(pair[0] - pair[1]).sum())
        pairs += 1
        off += abs((square / 2 if frozen.tree.metric == "cosine" else np.sqrt(square)) - height) > tolerance
    return 2 * off > pairs
