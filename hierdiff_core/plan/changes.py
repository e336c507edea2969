"""Rerolls, splits, holds and pins, applied to a plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from .addresses import in_words, leaf_addresses
from .algebra import rerolled
from .branching import moved_step
from .edits_text import Change, Edits
from .moving import held_until, split_at
from .plan import Plan
from .replanning import frozen_tree, replanned
from .rerolls import Reroll

DONE = {"reroll": "rerolled at", "split": "split at", "hold": "held until"}


def pinned_of(edits: Edits, today: Sequence[str]) -> frozenset[str]:
    """Addresses that are pinned; `ValueError` for one of a prompt that is not there."""
    pinned = [name for change in edits.changes if change.do == "pin" for name in change.prompts]
    gone = [name for name in pinned if name not in set(today)]
    if gone:
        what = gone[0][:40] if edits.kept is None else in_words(edits.kept.plan, gone)
        raise ValueError(f"the pinned prompt {what} was removed: put it back, or take its pin off in the tree's menu")
    return frozenset(pinned)


def rerolls_of(edits: Edits, num_steps: int) -> list[tuple[str, int, int]]:
    """All rerolls as (address, step, number), for a run of so many steps."""
    return [
        (name, moved_step(change.step, change.of, num_steps), change.number)
        for change in edits.changes
        if change.do == "reroll"
        for name in change.prompts
    ]


def apply_changes(
    plan: Plan, changes: Sequence[Change], pinned: Collection[str], known: Plan | None = None
) -> tuple[Plan, list[str]]:
    """A plan with the changes of a user: splits and holds in their order, then rerolls.

    Parameters
    ----------
    plan : Plan
        Of today's prompts.
    changes : sequence of Change
        Of several of one kind and branch, the last counts.
    pinned : collection of str
        Addresses of prompts that no change touches.
    known : Plan, optional
        Has the texts of prompts that are gone.

    Returns
    -------
    plan : Plan
        The same where there is nothing to change.
    notes : list of str
        On branches that are gone.

    Raises
    ------
    ValueError
        If changes contradict each other.
    """
    if all(change.do == "pin" for change in changes):
        return plan, []
    names = leaf_addresses(plan)
    leaves = range(plan.num_prompts) if plan.frozen is None else plan.frozen.present.tolist()
    today = {names[leaf]: i for i, leaf in enumerate(leaves)}
    due, notes = [], []
    for change in last_words([in_steps(change, plan.num_steps) for change in changes if change.do != "pin"]):
        gone = [name for name in change.prompts if name not in today]
        if gone and not change.said:
            notes.append(gone_in_words(change, gone, plan if known is None else known))
        found = unpinned(plan, change, [name for name in change.prompts if name in today], pinned)
        ghosts = [name for name in gone if name in names] if change.do == "reroll" else []
        if found or ghosts:
            due.append(replace(change, prompts=(*found, *ghosts)))
    check_contradictions(plan, due)
    moved = with_moves(plan, due, today)
    now = moved.frozen.present.tolist() if moved.frozen is not None else list(range(moved.num_prompts))
    places = {name: leaf for leaf, name in enumerate(names)} | {name: now[i] for name, i in today.items()}
    rerolls = [
        Reroll(places[name], change.step, change.number)
        for change in due
        if change.do == "reroll"
        for name in change.prompts
    ]
    if rerolls:
        return rerolled(moved, rerolls), notes
    return plan if moved is plan else replanned(moved, frozen_tree(moved), moved.vectors), notes


def with_moves(plan: Plan, changes: Sequence[Change], today: dict[str, int]) -> Plan:
    """A plan with its splits and holds."""
    for change in changes:
        rows = [today[name] for name in change.prompts if name in today]
        if change.do == "split":
            plan = split_at(plan, rows, change.step)
        elif change.do == "hold" and plan.num_steps > 1:
            plan = held_until(plan, rows, max(change.step, 1))
    return plan


def in_steps(change: Change, num_steps: int) -> Change:
    """A change for a run of so many steps: at the same share of them."""
    return replace(change, step=moved_step(change.step, change.of, num_steps), of=num_steps)


def last_words(changes: Sequence[Change]) -> list[Change]:
    """Of changes of one kind to the same prompts the last; rerolls of several steps are several."""
    found: dict[tuple, Change] = {}
    for change in changes:
        key = (change.do, frozenset(change.prompts), change.step if change.do == "reroll" else None)
        found.pop(key, None)
        found[key] = change
    return list(found.values())


def unpinned(plan: Plan, change: Change, names: Sequence[str], pinned: Collection[str]) -> list[str]:
    """The prompts that a change may touch; `ValueError` where it names none but pinned ones."""
    free = [name for name in names if name not in pinned]
    if names and not free:
        raise ValueError(
            f"{in_words(plan, names)} cannot be pinned and {DONE[change.do]} step {change.step} too: take one of the "
            "two back in the tree's menu"
        )
    return free


def check_contradictions(plan: Plan, changes: Sequence[Change]) -> None:
    """`ValueError` for prompts that are held together, and parted before that."""
    for held in changes:
        together = set(held.prompts)
        for other in changes if held.do == "hold" else ():
            part = together & set(other.prompts)
            if other.do == "hold" or not part or part == together or other.step >= held.step:
                continue
            raise ValueError(
                f"{in_words(plan, sorted(part))} cannot be {DONE[other.do]} step {other.step} and held together with "
                f"{in_words(plan, sorted(together - part))} until step {held.step}: take one of the two back in the "
                "tree's menu"
            )


def gone_in_words(change: Change, gone: Sequence[str], known: Plan) -> str:
    """A note on prompts of a change that are not there any more."""
    return f"⚠ {in_words(known, gone)}, {DONE[change.do]} step {change.step}, is not in the set any more"
