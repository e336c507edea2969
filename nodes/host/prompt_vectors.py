"""One vector for each prompt, to compare prompts by: equal where their conditioning is equal, and only there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ...hierdiff_core.plan.keys import text_key
from .encode_set import name_of

POOLED, TOKEN_MEAN = "pooled", "token mean"
MOST_NAMED = 4
BLIND = (
    "⚠ the pooled output is the same for {names}, whose conditioning differs: it ignores weights and tokens "
    "beyond the first chunk. The set is compared by token mean instead"
)
SET_APART = (
    "⚠ {pooling} is the same for {names}, whose conditioning differs. Each gets a picture of its own, but the plan "
    "lets them share as if they were nearly equal"
)
SAME = "⚠ {names} have the same conditioning: this text encoder sees no difference, so they share one picture"


class Vectors(NamedTuple):
    """What stands for the prompts.

    Attributes
    ----------
    rows : (N, D) float32 tensor
    pooling : str
        That was used.
    notes : list of str
        Warnings.
    """

    rows: torch.Tensor
    pooling: str
    notes: list[str]


def prompt_vectors(entries: Sequence[Any], prompts: Sequence[str], pooling: str) -> Vectors:
    """Vectors of the prompts' own conditionings, before any padding.

    Parameters
    ----------
    entries : list of N (cond, values)
    prompts : N str
    pooling : "pooled", "token mean" or "auto", which takes pooled where it tells the prompts apart

    Returns
    -------
    vectors : Vectors

    Raises
    ------
    ValueError
        If "pooled" is asked for and an encoder has no pooled output.

    Notes
    -----
    Equal vectors are one leaf of the tree, and one picture. But a summary does not see all of a conditioning: a pooled
    output is made of the first chunk of tokens, without weights. So vectors that are equal although the conditioning is
    not are set apart by the smallest step of a float32. The tree joins them before all others and parts them last; with
    tau = 0 they share nothing.
    """
    if pooling == "auto":
        return _chosen(entries, prompts)
    rows = torch.cat([token_mean(*entry) for entry in entries]) if pooling == TOKEN_MEAN else _pooled(entries, prompts)
    keys, groups = _grouped(rows, entries)
    blind = _blind(keys, groups)
    notes = [SET_APART.format(pooling=pooling, names=_named(blind, prompts))] if blind else []
    if blind and pooling == POOLED:
        notes[0] += f'; pooling "{TOKEN_MEAN}" compares them'
    same = _same(groups, prompts)
    notes += [SAME.format(names=_named(same, prompts))] if same else []
    return Vectors(_set_apart(rows, keys, groups, prompts) if blind else rows, pooling, notes)


def _chosen(entries, prompts):
    """Pooled outputs if they are there, not zero, and tell the prompts apart; else the means of the tokens."""
    pooled = [values.get("pooled_output") for _, values in entries]
    if any(row is None or not row.any() for row in pooled):
        return prompt_vectors(entries, prompts, TOKEN_MEAN)
    blind = _blind(*_grouped(torch.cat(pooled).float(), entries))
    if not blind:
        return prompt_vectors(entries, prompts, POOLED)
    vectors = prompt_vectors(entries, prompts, TOKEN_MEAN)
    return vectors._replace(notes=[BLIND.format(names=_named(blind, prompts)), *vectors.notes])


def _pooled(entries, prompts):
    pooled = [values.get("pooled_output") for _, values in entries]
    for prompt, row in zip(prompts, pooled, strict=True):
        if row is None or not row.any():
            found = "no pooled output" if row is None else "a pooled output of zeros"
            raise ValueError(f'this text encoder gives {found} for "{prompt[:60]}"; set pooling to "{TOKEN_MEAN}"')
    return torch.cat(pooled).float()


def token_mean(cond: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
    """Mean over the tokens that the encoder did not mask, (1, D) float32."""
    cond = cond.float()
    mask = values.get("attention_mask")
    if mask is None or mask.shape != cond.shape[:2] or not mask.any():
        return cond.mean(dim=1)
    weights = mask.to(cond).unsqueeze(-1)  # (1, T, 1)
    return (cond * weights).sum(dim=1) / weights.sum(dim=1)


# --- Equal vectors ---------------------------------------------------------------------------------------------------


def _key(row):
    return (row + 0.0).numpy().tobytes()  # -0.0 becomes 0.0: they are equal


def _grouped(rows, entries):
    """Keys that are equal for equal rows; and for each prompt the first one that has its vector and conditioning."""
    keys = [_key(row) for row in rows.cpu()]
    count, digests, first = Counter(keys), {}, {}
    groups = []
    for i, (key, entry) in enumerate(zip(keys, entries, strict=True)):
        if count[key] > 1 and id(entry) not in digests:
            digests[id(entry)] = digest(entry)
        groups.append(first.setdefault((key, digests.get(id(entry))), i))
    return keys, groups


def digest(value: Any) -> bytes:
    """Hash of all tensors in nested lists, tuples and dicts: shapes, types and every bit."""
    found = hashlib.blake2b(digest_size=16)
    _feed(found, value)
    return found.digest()


def _feed(found, value):
    if torch.is_tensor(value):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            found.update(f"{name}:".encode())
            _feed(found, value[name])
    elif isinstance(value, (list, tuple)):
        found.update(f"[{len(value)}]".encode())
        for item in value:
            _feed(found, item)


def _blind(keys, groups):
    """list of list of int   prompts of different conditioning that have one vector"""
    by_key = {}
    for i in sorted(set(groups)):
        by_key.setdefault(keys[i], []).append(i)
    return [members for members in by_key.values() if len(members) > 1]


def _same(groups, prompts):
    """list of list of int   prompts of different texts that have one conditioning, each text once"""
    by_group = {}
    for i, group in enumerate(groups):
        by_group.setdefault(group, {}).setdefault(prompts[i], i)
    return [list(members.values()) for members in by_group.values() if len(members) > 1]


def _set_apart(rows, keys, groups, prompts):
    """Rows of which no two are equal unless they are of one group; those that were different already stay as they are.

    Who is moved depends on the texts alone, not on the order of the prompts.
    """
    taken, latest, apart = set(keys), {}, {}
    for i in sorted(set(groups), key=lambda i: (text_key(prompts[i]), i)):
        row = rows[i].clone()
        if keys[i] in latest:
            row = latest[keys[i]].clone()
            place = row.abs().argmax()
            while _key(row) in taken:
                row[place] = torch.nextafter(row[place], row[place] * 2)
        taken.add(_key(row))
        latest[keys[i]] = apart[i] = row
    return torch.stack([apart[group] for group in groups])


def _named(found, prompts):
    """The prompts of the first group, and how many groups there are beside it."""
    names = [name_of(i, prompts) for i in found[0][:MOST_NAMED]]
    if len(found[0]) > MOST_NAMED:
        names.append(f"{len(found[0]) - MOST_NAMED} more")
    more = f" (and so in {len(found) - 1} more group{'s' * (len(found) > 2)} of prompts)" if len(found) > 1 else ""
    return f"{', '.join(names[:-1])} and {names[-1]}{more}"
