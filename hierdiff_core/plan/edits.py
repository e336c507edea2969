"""Edits of a set: what a user changed and keeps, applied to the plan of today's prompts.

A run is a function of its inputs alone. So edits hold all that it needs: the tree that is kept, and the changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .addresses import addresses
from .changes import apply_changes, pinned_of, rerolls_of
from .edits_text import Edits, Kept, read_edits, told_text
from .keeping import digests_of, on_kept_tree, other_embeddings
from .pinning import beside_pinned
from .plan import Plan
from .plan_difference import difference

__all__ = ["Edited", "Edits", "apply_edits", "read_edits"]


@dataclass(frozen=True, eq=False)
class Edited:
    """A plan that edits were applied to.

    Attributes
    ----------
    plan : Plan
        To be drawn.
    notes : list of str
        What a user should know; warnings begin with "⚠ ".
    told : str
        The JSON that gives this plan again; "" where nothing was edited or kept.
    addresses : tuple of N str
        What changes call the prompts, see `addresses.addresses`; empty for a plan without keys.
    """

    plan: Plan
    notes: list[str]
    told: str
    addresses: tuple[str, ...] = ()


def apply_edits(plan: Plan, edits: Edits, keep: bool = False, leaves: Any = None) -> Edited:
    """The plan of a run: today's prompts, on the tree that is kept, with what the user changed.

    Parameters
    ----------
    plan : Plan
        The fresh plan of today's prompts.
    edits : Edits
        From `read_edits`.
    keep : bool
        Hang new prompts onto the kept tree, and tell the tree for the next run.
    leaves : object with ``get(digest)``, optional
        Where the embeddings of prompts that are gone are found (`keeping.remember` keeps them).

    Returns
    -------
    edited : Edited
        A function of these inputs alone.

    Raises
    ------
    ValueError
        If edits contradict each other, a pinned prompt was removed, or the plan has no keys or linkage matrix.

    Examples
    --------
    >>> from hierdiff_core import Budget, Profile, PromptTree, plan_for
    >>> from hierdiff_core.plan.edits import apply_edits, read_edits
    >>> rows, texts = [[1, 0], [0.8, 0.6], [0, 1]], ["a cat", "a lynx", "a bus"]
    >>> budget, profile = Budget("saving", 0.4), Profile(10)
    >>> first = apply_edits(plan_for(PromptTree.of(rows[:2], prompts=texts[:2]), budget, profile), read_edits(""), True)
    >>> fresh = plan_for(PromptTree.of(rows, prompts=texts), budget, profile)
    >>> grown = apply_edits(fresh, read_edits(first.told), True)
    >>> grown.plan.prompts
    ('a cat', 'a lynx', 'a bus')
    >>> grown.notes[0]
    'the kept tree takes 17 rows; a plan made anew would take 18, and share 6% otherwise'
    """
    if plan.prompt_keys is None and not keep and not edits.changes:
        return Edited(plan, [], "")
    today = addresses(plan)
    if not keep and not edits.changes:
        return Edited(plan, [], "", tuple(today))
    pinned = pinned_of(edits, today)
    base, what, notes = plan, "", []
    if keep and edits.kept is not None:
        base, what, notes = kept_or_anew(plan, edits, edits.kept, pinned, leaves)
    changed, more = apply_changes(base, edits.changes, pinned, None if edits.kept is None else edits.kept.plan)
    notes = [*compared(plan, base, changed, what), *notes]
    told = told_text(base if keep else None, edits.changes, known_digests(base, edits) if keep else {})
    return Edited(changed, [*notes, *more], told, tuple(today))


def kept_or_anew(
    plan: Plan, edits: Edits, kept: Kept, pinned: frozenset[str], leaves: Any
) -> tuple[Plan, str, list[str]]:
    """Today's prompts on the kept tree, or planned anew where that cannot be, with pinned prompts where they were.

    The plan, what to call it in a comparison with the fresh one, and notes.
    """
    why = why_anew(plan, kept)
    if why is None:
        base, notes = on_kept_tree(plan, kept.plan, kept.digests, leaves, rerolls_of(edits, plan.num_steps))
        return base, "the kept tree", notes
    pinned &= frozenset(addresses(kept.plan))
    if not pinned or plan.vectors is None:
        return plan, "", [why] if why else []
    if plan.num_steps != kept.plan.num_steps or other_embeddings(plan, kept.plan):
        return plan, "", [why, "⚠ pinned prompts are drawn anew too: what they were drawn with has changed"]
    base = beside_pinned(plan, kept.plan, pinned)
    return base, "the plan with pinned prompts where they were", [why] if why else []


def why_anew(plan: Plan, kept: Kept) -> str | None:
    """Why the kept tree is not kept, in words, "" where that was asked for; None where it is."""
    if kept.anew:
        return ""
    if plan.vectors is None:
        return "⚠ the plan does not know the embeddings of its prompts, as one from a file: nothing was kept"
    before, now = (dict(own or {}) for own in (kept.plan.made_by, plan.made_by))
    if before != now or not now:
        other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        what = ", ".join(other[:4]) if before and now else "what it was made by"
        return f"the schedule has changed ({what}): the set was planned anew"
    if other_embeddings(plan, kept.plan):
        return "the embeddings of the prompts have changed: the set was planned anew"
    return None


def compared(plan: Plan, base: Plan, changed: Plan, what: str) -> list[str]:
    """A line on what a fresh plan would cost, and how far the one that is used is from it.

    Parameters
    ----------
    plan : Plan
        The fresh one.
    base, changed : Plan
        The one that is used, and with the user's changes, which is what is drawn.
    what : str
        What to call it.
    """
    apart = difference(base, plan)
    if base.nfe == plan.nfe and not apart:
        return []
    rows = f"{base.nfe} rows" if changed.nfe == base.nfe else f"{changed.nfe} rows with your changes"
    return [f"{what} takes {rows}; a plan made anew would take {plan.nfe}, and share {apart:.0%} otherwise"]


def known_digests(base: Plan, edits: Edits) -> dict[str, str]:
    """Digests of the embeddings of all leaves: today's, and those that are gone."""
    gone = {} if edits.kept is None else edits.kept.digests
    keys = {f"{key:016x}" for key in base.leaf_keys or ()}
    return {key: digest for key, digest in {**gone, **digests_of(base)}.items() if key in keys}
