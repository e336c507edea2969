"""Conditioning entries for some of a plan's prompts: each with a LoRA hook, a ControlNet or an area of its own.

The host joins conditionings to a list of entries (Conditioning (Combine)). One that CLIP Embedding made from some of a
plan's prompts is for these alone: it gets rows for all of them, and says to whom it applies.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...hierdiff_core.plan.keys import text_key
from .cond_rows import APPLIES, PROMPTS
from .control_rows import with_hints
from .encode_set import name_of

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan

AREAS = ("area", "set_area_to_bounds")


def assigned(conds: dict[str, list[dict]], plan: Plan) -> dict[str, list[dict]]:
    """A guider's conditioning in which entries for some prompts say so.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them.
    plan : Plan
        For N prompts. Where it knows none of them, all entries are for all.

    Returns
    -------
    conds : dict of list of dict
        The same object where every entry is for all prompts.

    Raises
    ------
    ValueError
        If a prompt is in no entry, or the other sides' entries cannot be told apart.
    """
    positive = conds.get("positive", [])
    rows = _rows_of_prompts(positive, plan)
    if all(own is None for own in rows):
        return conds
    covered = np.stack([np.ones(plan.num_prompts, bool) if own is None else own >= 0 for own in rows])
    for i in np.flatnonzero(~covered.any(axis=0))[:1]:
        raise ValueError(
            f"no entry of the positive conditioning is for {name_of(int(i), plan.prompts or [''] * plan.num_prompts)}; "
            "combine conditionings of CLIP Embedding so that each prompt of the plan is in one of them"
        )
    made = [entry if own is None else _for_some(entry, own) for entry, own in zip(positive, rows, strict=True)]
    others = {side: _opposite(entries, made, rows, side) for side, entries in conds.items() if side != "positive"}
    return {"positive": made, **others}


def applying(entries: list[dict] | None, prompt: int) -> tuple[bool, ...]:
    """Which entries of one side are for a prompt."""
    return tuple(bool(entry[APPLIES][prompt]) if APPLIES in entry else True for entry in entries or ())


def _rows_of_prompts(entries: Sequence[dict], plan: Plan) -> list[np.ndarray | None]:
    """For each entry the row of each prompt, (N,) int64 with -1 for none; None where it is for all prompts.

    A text that is there several times is taken in order, where the entries hold the plan's prompts exactly once.
    """
    keys = list(plan.prompt_keys or [text_key(prompt) for prompt in plan.prompts or ()])
    whole = any(_count(entry) == len(keys) for entry in entries)
    texts = [[text_key(text) for text in entry.get(PROMPTS) or ()] for entry in entries]
    least = 2 if whole else 1  # one row beside those of the set serves all prompts
    some = [
        least <= len(own) < len(keys) and len(own) == _count(entry) and set(own) <= set(keys)
        for own, entry in zip(texts, entries, strict=True)
    ]
    in_order = Counter(key for own, is_some in zip(texts, some, strict=True) if is_some for key in own) == Counter(keys)
    places = defaultdict(list)
    for i, key in enumerate(keys):
        places[key].append(i)
    rows: list[np.ndarray | None] = []
    for own, is_some in zip(texts, some, strict=True):
        found = np.full(len(keys), -1)
        for row, key in reversed(list(enumerate(own))) if not in_order else enumerate(own):
            if is_some:
                found[[places[key].pop(0)] if in_order else places[key]] = row
        rows.append(found if is_some else None)
    return rows


def _count(entry: dict) -> int:
    rows = entry.get("cross_attn")
    return len(rows) if torch.is_tensor(rows) else 0


def _for_some(entry: dict, rows: np.ndarray) -> dict:
    """An entry whose tensors have a row for each prompt, and for those that it is not for any; single rows stay."""
    count, places = _count(entry), np.maximum(rows, 0).tolist()

    def take(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [take(item) for item in value] if any(torch.is_tensor(item) for item in value) else value
        return value[places] if torch.is_tensor(value) and value.ndim and len(value) == count > 1 else value

    made = {key: take(value) for key, value in entry.items() if key != PROMPTS}
    if entry.get("control") is not None and count > 1:
        made["control"] = with_hints(entry["control"], take)
    return {**made, APPLIES: torch.from_numpy(rows >= 0)}


def _opposite(entries: list[dict], positive: list[dict], rows: Sequence[np.ndarray | None], side: str) -> list[dict]:
    """Entries of another side for each set of prompts that have the same positive ones.

    As many as positive ones that share no prompt belong to them in order, as the host's Pair nodes make them. What the
    host hands over from the positive side goes to the prompts that it is of.
    """
    num_prompts = max(len(own) for own in rows if own is not None)
    classes: dict[tuple, list[int]] = defaultdict(list)
    for i in range(num_prompts):
        classes[applying(positive, i)].append(i)
    paired = len(entries) == len(positive) > 1 and all(sum(which) == 1 for which in classes)
    if any(key in entry for key in AREAS for entry in (*entries, *(positive if paired else ()))):
        raise ValueError(
            f"the {side} conditioning has areas, or one entry for each positive one with an area: which prompts they "
            f"are for cannot be told; use one {side} conditioning without areas"
        )
    made = []
    for which, members in classes.items():
        own = [entry for entry, here in zip(positive, which, strict=True) if here]
        applies = np.full(num_prompts, -1)
        applies[members] = 0
        if paired:
            place = which.index(True)
            made += _handed_over([_for_some(entries[place], np.asarray(rows[place]))], own)
        else:
            made += _handed_over([{**entry, APPLIES: torch.from_numpy(applies >= 0)} for entry in entries], own)
    return made


def _handed_over(entries: list[dict], positive: list[dict]) -> list[dict]:
    """The entries with what the host would give them from these positive ones (`apply_empty_x_to_equal_area`)."""
    for name in ("control", "gligen"):
        given = [
            each[name]
            for each in positive
            if each.get(name) is not None and "area" not in each
            if name != "control" or each.get("control_apply_to_uncond")
        ]
        if any(entry.get(name) is not None for entry in entries):
            continue
        originals = entries[:]
        for x, value in enumerate(given):
            place = x % len(originals)
            if x < len(originals):
                entries[place] = {**originals[place], name: value}
            else:
                entries = [*entries, {**originals[place], name: value}]
    return entries
