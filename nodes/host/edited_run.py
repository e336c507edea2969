"""A sampler's run on the tree that is kept, with what the user has changed in it; what the page is told of that."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...hierdiff_core.plan.addresses import addresses
from ...hierdiff_core.plan.algebra import rerolled_until
from ...hierdiff_core.plan.edits import apply_edits, read_edits
from ...hierdiff_core.plan.keeping import remember
from ...hierdiff_core.plan.shards import same_part, set_of_shard
from ...hierdiff_core.sampling.store import Store, session_store
from .encode_set import name_of
from .runs import running

if TYPE_CHECKING:
    from ...hierdiff_core.embeddings import PromptEmbeddings
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.sampling.progress import RunProgress

TOLD = "hierdiff_edits"  # in the node's output
NOT_KEPT = "⚠ Keep Trunks is connected, but keep is off: nothing was kept or reused"
TOO_LATE = (
    "⚠ {sampler} adds no noise after step {step} of {steps}, so that a later reroll or variant would have changed "
    "nothing: taken from that step on for {names}"
)
EMBEDDINGS = "embeddings"  # of the kept tree: digests of the prompts' embeddings, by the hex digits of their keys


@dataclass(frozen=True, eq=False)
class EditedRun:
    """What a run draws, and where it keeps what was evaluated.

    Attributes
    ----------
    fresh, plan : Plan
        That of today's prompts; and the one that is drawn.
    store : Store or None
        None: nothing is kept.
    notes : list of str
        For the report.
    told : str
        The edits that give this plan again; "" where nothing was edited or kept.
    leaves : dict of int to bytes
        Digests of embeddings of prompts that may be gone, by their keys.
    last_reroll : int or None
        The last step from which other noise makes another picture; None where that is not known.
    """

    fresh: Plan
    plan: Plan
    store: Store | None = None
    notes: list[str] = field(default_factory=list)
    told: str = ""
    leaves: dict[int, bytes] = field(default_factory=dict)
    last_reroll: int | None = None


def edited_run(
    plan: Plan, keep: bool, edits: str, trunk: Store | None, last_reroll: int | None = None, sampler: str = ""
) -> EditedRun:
    """Apply a sampler's edits.

    Parameters
    ----------
    plan : Plan
        Of today's prompts. One of a prompt that is drawn alone is drawn as it is.
    keep : bool
        Whether new prompts are hung onto the kept tree.
    edits : str
        JSON, see `hierdiff_core.plan.edits`.
    trunk : Store or None
        Of Keep Trunks; the session's where there is none.
    last_reroll : int, optional
        The last step from which other noise makes another picture: later rerolls begin there.
    sampler : str
        What a report calls that which draws the noise.

    Returns
    -------
    run : EditedRun
        Without a store where the user has asked for nothing of all this.

    Raises
    ------
    ValueError
        If the edits are none, or contradict each other.
    """
    if plan.one_of is not None or not (keep or edits.strip()):
        notes = [NOT_KEPT] if trunk is not None and plan.one_of is None else []
        drawn, moved = in_time(plan, last_reroll, sampler)
        return EditedRun(plan, drawn, notes=[*notes, *moved], last_reroll=last_reroll)
    store = (session_store() if trunk is None else trunk) if keep else None
    given = read_edits(edits)
    edited = apply_edits(set_of_shard(plan), given, keep, None if store is None else store.leaves)
    drawn, moved = in_time(edited.plan, last_reroll, sampler)
    drawn, notes = same_part(plan, drawn), [*edited.notes, *moved]
    return EditedRun(plan, drawn, store, notes, edited.told, digests_in(edits), last_reroll)


def in_time(plan: Plan, last_reroll: int | None, sampler: str) -> tuple[Plan, list[str]]:
    """A plan whose rerolls all make another picture, and what a report says of those that were moved for it."""
    if last_reroll is None:
        return plan, []
    moved, prompts = rerolled_until(plan, last_reroll)
    if not prompts:
        return plan, []
    names = " and ".join(name_of(i, plan.prompts or [""] * plan.num_prompts) for i in prompts[:2])
    more = f" and {len(prompts) - 2} more" if len(prompts) > 2 else ""
    return moved, [TOO_LATE.format(names=f"{names}{more}", step=last_reroll + 1, steps=plan.num_steps, sampler=sampler)]


def digests_in(edits: str) -> dict[int, bytes]:
    """The digests of embeddings that a kept tree comes with, of edits that were read; what is none is left out."""
    kept = (json.loads(edits) if edits.strip() else {}).get("kept")
    given = kept.get(EMBEDDINGS) if isinstance(kept, dict) else None
    found = {}
    for key, digest in given.items() if isinstance(given, dict) else ():
        try:
            found[int(key, 16)] = bytes.fromhex(digest)
        except (TypeError, ValueError):
            continue
    return found


def told_edits(edited: EditedRun, embeddings: PromptEmbeddings) -> str:
    """The edits of a run for the next one, with the digests of the embeddings of all prompts that the tree knows.

    What prompts were embedded as is kept too: these may be gone by then.
    """
    if edited.store is not None:
        remember(edited.fresh, edited.store.leaves)
    plan, told = edited.plan, edited.told
    data = json.loads(told) if told else {}
    if not isinstance(data.get("kept"), dict):
        return told
    known = {**edited.leaves, **dict(zip(embeddings.keys, embeddings.digests, strict=True))}
    data["kept"][EMBEDDINGS] = {f"{key:016x}": known[key].hex() for key in plan.leaf_keys or () if key in known}
    return json.dumps(data, separators=(",", ":"))


def told_of(
    plan: Plan, told: str, run: RunProgress, seconds: float | None, last_reroll: int | None = None
) -> dict[str, Any]:
    """What the page is told at the end of a run, as data of the node's output; nothing of a plan without keys.

    Parameters
    ----------
    plan : Plan
        Of the run's prompts, before any edits.
    told : str
        Its edits.
    run : RunProgress
        That has ended.
    seconds : float or None
        That a row took.
    last_reroll : int or None
        The last step from which other noise makes another picture, where that is known.
    """
    if plan.prompt_keys is None or plan.one_of is not None:
        return {}
    entry = {
        "edits": told,
        "keys": addresses(plan),
        "names": list(plan.prompts or ()),
        "reused": run.reused,
        "rows": run.reused + run.rows,
        "seconds_per_row": seconds,
        "last_reroll": last_reroll,
    }
    return {TOLD: [entry]}


def owner() -> str:
    """Whose run it is, for stores that several nodes use: the node that calls, by page and workflow."""
    client, node, workflow, *_ = running()
    return "/".join(map(str, (client, workflow, node)))


def reused_in_words(reused: int, rows: int, store: Store | None) -> list[str]:
    """Lines of a report on what was reused, and on what the store has to say."""
    if store is None:
        return []
    lines = [f"reused {reused} of {rows} rows"] if reused else []
    return lines + [note if note.endswith("could be reused") else f"⚠ {note}" for note in store.notes]
