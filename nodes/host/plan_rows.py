"""Inputs of more prompts than a plan has, or of the same in another order: each prompt's rows are found by its text.

A plan that prompts were attached to or taken from may also need the conditioning of prompts that are gone: their rows
come behind those of the plan's prompts, from the inputs if they are there, else from where earlier runs have kept them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...hierdiff_core.plan.branching import plan_leaves
from ...hierdiff_core.plan.in_set import rows_in_set
from ...hierdiff_core.plan.keys import hashed, text_key
from .clusters import rows_of_leaves
from .cond_rows import APPLIES, PROMPTS
from .made_of import made_of
from .one_prompt import entry_of_rows
from .token_lengths import LENGTHS, TokenLengths, lengths_of

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.sampling.leaves import Leaves

Conds = Mapping[str, Sequence[dict]]
GONE = (
    "⚠ the conditioning of {count} prompt{s} that {are} gone is not kept any more: branches that {they} founded are "
    "drawn anew, as the mean of those that are left"
)


class PlanRows(NamedTuple):
    """Where a plan's prompts are among the rows of its inputs.

    rows : list of N int, or None   None: in their order, and nobody else
    given : int                     rows of the inputs
    """

    rows: list[int] | None
    given: int

    def has_all(self, tensor: Any) -> bool:
        """Whether a tensor has rows of all prompts of the inputs, of which the plan's are to be taken."""
        many = torch.is_tensor(tensor) and tensor.ndim > 0 and len(tensor) == self.given > 1
        return many and self.rows is not None

    def of(self, tensor: Any) -> Any:
        """The plan's rows of a tensor that has all of them; anything else as it is."""
        return tensor[self.rows] if self.has_all(tensor) else tensor

    def of_conds(self, conds: Conds) -> dict[str, list[dict]]:
        """A guider's conditioning with the plan's rows."""
        if self.rows is None:
            return {side: list(entries) for side, entries in conds.items()}
        return {side: [entry_of_rows(e, self.rows, self.given) for e in own] for side, own in conds.items()}


def plan_rows(positive: Sequence[dict], plan: Plan) -> PlanRows:
    """Find a plan's prompts among those of a conditioning.

    Parameters
    ----------
    positive : list of dict
        Entries as a guider keeps them.
    plan : Plan

    Returns
    -------
    found : PlanRows
        As the inputs are, where no entry has all prompts of the plan and more, or for a plan that prompts were attached
        to or taken from just these in another order.
    """
    as_they_are = PlanRows(None, plan.num_prompts)
    keys = list(plan.prompt_keys or map(text_key, plan.prompts or ()))
    for entry in positive if keys else ():
        texts, rows = entry.get(PROMPTS) or (), entry.get("cross_attn")
        if not torch.is_tensor(rows) or len(texts) != len(rows) or len(texts) < plan.num_prompts:
            continue
        own = [text_key(text) for text in texts]
        of_set = rows_in_set(plan, own)
        if of_set is not None:
            return PlanRows(of_set[plan_leaves(plan)].tolist(), len(own))
        if own == keys or (len(own) == len(keys) and plan.frozen is None):
            continue
        found = places_of(keys, own)
        if found is not None:
            return PlanRows(found, len(own))
    return as_they_are


def latent_of_rows(latent: dict, positive: Sequence, plan: Plan) -> dict:
    """The host's LATENT with the rows of a plan's prompts, by the texts of a CONDITIONING that has more or others."""
    found = plan_rows([{**values, "cross_attn": cond} for cond, values in positive], plan)
    if found.rows is None:
        return latent
    return {**latent, **{name: found.of(latent[name]) for name in ("samples", "noise_mask") if name in latent}}


def places_of(keys: Sequence[int], among: Sequence[int]) -> list[int] | None:
    """Where keys are among others, equal ones in their order; None unless all are there."""
    places: dict[int, list[int]] = defaultdict(list)
    for i, key in enumerate(among):
        places[key].append(i)
    try:
        return [places[key].pop(0) for key in keys]
    except IndexError:
        return None


class LeafRows(NamedTuple):
    """A conditioning with rows for prompts that are gone.

    conds : dict of list of dict
    rows : (L,) int64   row of each leaf of the plan; -1 for those that nobody has kept
    notes : list of str
    """

    conds: dict[str, list[dict]]
    rows: np.ndarray
    notes: list[str]


class KeptRows(NamedTuple):
    """The conditioning of prompts of earlier runs.

    leaves : Leaves
    digests : dict of str to str   of the embedding of each prompt, by its key in 16 hexadecimal digits
    """

    leaves: Leaves
    digests: Mapping[str, str]


def with_leaves(conds: Conds, given: Conds, found: PlanRows, plan: Plan, kept: KeptRows | None) -> LeafRows:
    """Add the rows of prompts that are gone but belong to a mean.

    Parameters
    ----------
    conds : dict of list of dict
        With the rows of the plan's N prompts.
    given : dict of list of dict
        The same with all rows of the inputs.
    found : PlanRows
        Where the former are in the latter.
    plan : Plan
    kept : KeptRows or None
        What earlier runs have kept.

    Returns
    -------
    leaf_rows : LeafRows
    """
    rows, count = rows_of_leaves(plan), plan.num_prompts
    gone, lost = [], 0
    for leaf in np.flatnonzero(rows < 0).tolist():
        own = given_row(given, found, plan, leaf) or kept_row(kept, plan, leaf)
        fitting = None if own is None else fitted(conds, own, count)
        if fitting is None:
            lost += 1
        else:
            rows[leaf] = count + len(gone)
            gone.append(fitting)
    more = {"s": "s" if lost > 1 else "", "are": "are" if lost > 1 else "is", "they": "they" if lost > 1 else "it"}
    notes = [GONE.format(count=lost, **more)] if lost else []
    made = {side: list(entries) for side, entries in conds.items()}
    if gone:
        for side, entries in made.items():
            made[side] = [longer(e, [own[side][k] for own in gone], count, side) for k, e in enumerate(entries)]
    return LeafRows(made, rows, notes)


def keep_rows(conds: Conds, count: int, plan: Plan, kept: KeptRows) -> None:
    """Keep the conditioning of a plan's prompts, of `count` rows, for when they are gone."""
    for i, key in enumerate(plan.prompt_keys or ()):
        own = row_values(conds, i, count)
        kept.leaves.put(name_of_row(key, kept.digests), made_of(own), own)


def row_values(conds: Conds, i: int, count: int) -> dict[str, list[dict]]:
    """What the i-th prompt has in each entry: tensors of one row, and the numbers of its tokens."""
    made = {}
    for side, entries in conds.items():
        made[side] = []
        for entry in entries:
            own = {k: v[i : i + 1].clone() for k, v in entry.items() if has_rows(k, v, count, side)}
            lengths = lengths_of(entry)
            if lengths is not None and len(lengths.tokens) == count:
                numbers = lengths.tokens[i], lengths.masked[i], lengths.total, lengths.left
                own[LENGTHS] = torch.tensor([int(number) for number in numbers])
            made[side].append(own)
    return made


def has_rows(name: str, value: Any, count: int, side: str) -> bool:
    """Whether a value of an entry has a row for each of so many prompts; of a single prompt, the positive ones."""
    many = count > 1 or side == "positive"
    return many and name != APPLIES and torch.is_tensor(value) and value.ndim > 0 and len(value) == count


def name_of_row(key: int, digests: Mapping[str, str]) -> int:
    """What a prompt's conditioning is kept under: another text encoder gives its text another embedding."""
    return hashed(f"conditioning {key} {digests.get(f'{key:016x}', '')}".encode())


def given_row(given: Conds, found: PlanRows, plan: Plan, leaf: int) -> dict[str, list[dict]] | None:
    """The row of a leaf that is no prompt of the plan among those of the inputs."""
    keys = plan.leaf_keys
    if keys is None or found.rows is None:
        return None
    for entry in given.get("positive", ()):
        texts = entry.get(PROMPTS) or ()
        own = [text_key(text) for text in texts]
        of_set = rows_in_set(plan, own)
        places = [i for i, key in enumerate(own) if i not in found.rows and key == keys[leaf]]
        places = places if of_set is None else [i for i in of_set[leaf : leaf + 1].tolist() if i >= 0]
        if len(texts) == found.given and places:
            return row_values(given, places[0], found.given)
    return None


def kept_row(kept: KeptRows | None, plan: Plan, leaf: int) -> dict[str, list[dict]] | None:
    """The row of a leaf that an earlier run has kept."""
    keys = plan.leaf_keys
    if kept is None or keys is None:
        return None
    digest = kept.leaves.find(name_of_row(keys[leaf], kept.digests))
    return None if digest is None else kept.leaves.get(digest)


def fitted(conds: Conds, own: dict[str, list[dict]], count: int) -> dict[str, list[dict]] | None:
    """A kept row, if it has what each entry has of its prompts: other nodes may have changed these since."""
    for side, entries in conds.items():
        rows = own.get(side, [])
        if len(rows) != len(entries):
            return None
        for entry, row in zip(entries, rows, strict=True):
            names = [name for name, value in entry.items() if has_rows(name, value, count, side)]
            lengths = lengths_of(entry)
            if lengths is not None and lengths.total != entry["cross_attn"].shape[1]:
                return None
            if any(name not in row or not can_join(entry[name], row[name], LENGTHS in entry) for name in names):
                return None
    return own


def can_join(rows: torch.Tensor, row: torch.Tensor, padded: bool) -> bool:
    """Whether a row has the shape of others, but for tokens that are padded anyway."""
    start = 2 if padded and rows.ndim > 1 else 1
    return rows.dtype == row.dtype and rows.ndim == row.ndim and rows.shape[start:] == row.shape[start:]


def longer(entry: dict, gone: Sequence[dict], count: int, side: str) -> dict:
    """An entry with the rows of prompts that are gone behind the others."""
    made = dict(entry)
    lengths = lengths_of(entry)
    for name, value in entry.items():
        if has_rows(name, value, count, side):
            parts = [value, *(row[name].to(value.device) for row in gone)]
            made[name] = torch.cat(parts if lengths is None else padded(parts, lengths.left))
        elif name == APPLIES:
            made[name] = torch.cat([value, torch.zeros(len(gone), dtype=torch.bool)])
    if lengths is not None:
        own = [lengths_of_row(row) for row in gone]
        tokens = *lengths.tokens, *(length for length, _ in own)
        masked = *lengths.masked, *(is_masked for _, is_masked in own)
        made[LENGTHS] = tuple(TokenLengths(tokens, masked, made["cross_attn"].shape[1], lengths.left))
    return made


def lengths_of_row(row: dict) -> tuple[int, bool]:
    """How many tokens a kept row has, and whether its encoder gave a mask with them."""
    if LENGTHS not in row:
        return row["cross_attn"].shape[1], False
    numbers = row[LENGTHS].tolist()
    return numbers[0], bool(numbers[1])


def padded(parts: Sequence[torch.Tensor], left: bool) -> list[torch.Tensor]:
    """Rows of different numbers of tokens, lengthened by what nobody reads."""
    if parts[0].ndim < 2:
        return list(parts)
    longest, made = max(part.shape[1] for part in parts), []
    for part in parts:
        missing = part.new_zeros((part.shape[0], longest - part.shape[1], *part.shape[2:]))
        made.append(torch.cat([missing, part] if left else [part, missing], dim=1))
    return made
