"""A prompt that is drawn alone, out of inputs that have a row for each prompt of its set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .cond_rows import APPLIES, PICTURES, PROMPTS, check_conds
from .control_rows import with_hints
from .partial_entries import applying, assigned
from .token_lengths import taken_lengths

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan


def row_of_prompt(rows: Any, plan: Plan) -> Any:
    """The prompt's row of a tensor that has one for each prompt of the set; anything else as it is.

    Parameters
    ----------
    rows : tensor, or None
    plan : Plan
        Of any prompts: only of one that is drawn alone (`one_unshared`) a row is taken.
    """
    if plan.one_of is None:
        return rows
    whole, i = plan.one_of
    return _taken(rows, [i], whole.num_prompts)


def latent_of_prompt(latent: dict, plan: Plan) -> dict:
    """The host's LATENT with the prompt's rows, see `row_of_prompt`."""
    if plan.one_of is None:
        return latent
    taken = {key: row_of_prompt(latent[key], plan) for key in ("samples", "noise_mask") if latent.get(key) is not None}
    return {**latent, **taken}


def conds_of_prompt(conds: dict[str, list[dict]], plan: Plan) -> dict[str, list[dict]]:
    """A guider's conditioning with the prompt's rows and the entries that are for it.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them.
    plan : Plan
        See `row_of_prompt`.

    Raises
    ------
    ValueError
        If the entries do not fit the set.
    """
    if plan.one_of is None:
        return conds
    whole, i = plan.one_of
    for_all = assigned(conds, whole)
    for name, entries in for_all.items():
        check_conds(entries, name, whole.num_prompts)
    return {
        side: [without_choice(one, i, whole.num_prompts) for one in entries if applying([one], i)[0]]
        for side, entries in for_all.items()
    }


def without_choice(entry: dict, i: int, count: int) -> dict:
    """An entry for one prompt alone: it no longer says whom it is for."""
    return entry_of_rows({key: value for key, value in entry.items() if key != APPLIES}, [i], count)


def entry_of_rows(entry: dict, rows: Sequence[int], count: int) -> dict:
    """A conditioning entry with some of its prompts' rows.

    Parameters
    ----------
    entry : dict
        As a guider keeps it.
    rows : sequence of int
        Which, in the order that they are to have.
    count : int
        Rows that it has.
    """
    made = {key: _value(key, value, rows, count) for key, value in entry.items()}
    return taken_lengths(made, rows, count)


def _value(key: str, value: Any, rows: Sequence[int], count: int) -> Any:
    if key == PROMPTS:
        return tuple(value[i] for i in rows) if value and len(value) == count else value
    if key == "control":
        return with_hints(value, lambda hint: _taken(hint, rows, count))
    if key in PICTURES and hasattr(value, "__dict__"):  # what a vision model of the host gives
        made = copy.copy(value)
        made.__dict__.update({name: _taken(part, rows, count) for name, part in value.__dict__.items()})
        return made
    if isinstance(value, (list, tuple)) and any(torch.is_tensor(item) for item in value):
        return type(value)(_taken(item, rows, count) for item in value)
    return _taken(value, rows, count)


def _taken(tensor: Any, rows: Sequence[int], count: int) -> Any:
    many = torch.is_tensor(tensor) and tensor.ndim > 0 and tensor.shape[0] == count > 1
    return tensor[list(rows)] if many else tensor
