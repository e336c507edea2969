"""What each prompt of a run is made of: its rows of the conditioning, and what it has of its own beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .cond_rows import APPLIES, PICTURES, PROMPTS, has_no_mean
from .control_rows import chain_of, hints_of, with_hints
from .made_of import made_of
from .rows_alone import ALONE
from .stored_calls import PromptDigests
from .token_lengths import LENGTHS, lengths_of

NOT_COUNTED = (PROMPTS, LENGTHS, ALONE, "model_conds", "uuid")  # of an entry: names, and what a run makes itself
TOKENS, MASK = "cross_attn", "attention_mask"


class Value(NamedTuple):
    """A value of a conditioning entry that has a row for each prompt.

    place : str    side, entry and name
    name : str     in the entry
    entry : dict
    """

    place: str
    name: str
    entry: dict


def prompt_digests(
    conds: Mapping[str, list[dict]], tensors: Sequence[torch.Tensor | None], num_prompts: int, count: int
) -> PromptDigests:
    """Digests of a run's prompts.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side as a guider keeps them, not encoded yet.
    tensors : list of ((N, ...) tensor or None)
        What the sampler starts from: latents, noise, mask.
    num_prompts : int
        N.
    count : int
        Rows of the conditioning: N, and one for each prompt that is gone but belongs to a mean.

    Returns
    -------
    digests : PromptDigests
    """
    values = list(values_with_rows(conds, num_prompts, count))
    texts = [made_of([(value.place, row_of(value, i, num_prompts, count)) for value in values]) for i in range(count)]
    kept = [value for value in values if value.name == APPLIES or is_own(value)]
    entries = [entry for side in conds.values() for entry in side]
    hints = [hint for entry in entries for each in chain_of(entry.get("control")) for hint in hints_of(each)]
    given = [each for each in (*tensors, *hints) if each is not None and len(each) in (num_prompts, count)]
    own = [
        made_of([row_of(value, i, num_prompts, count) for value in kept], [each[i] for each in given])
        for i in range(num_prompts)
    ]
    return PromptDigests(texts, own)


def common_conditioning(conds: Mapping[str, list[dict]], num_prompts: int, count: int) -> str:
    """A digest of all in the conditioning that is the same for every prompt.

    Raises
    ------
    CannotTell
        Naming what nobody can look into.
    """
    by_prompt = {(value.place, value.name) for value in values_with_rows(conds, num_prompts, count)}

    def common(place, entry):
        kept = {k: v for k, v in entry.items() if (place, k) not in by_prompt and k not in NOT_COUNTED}
        if entry.get("control") is not None:
            kept["control"] = with_hints(entry["control"], lambda hint: None if _has_rows(hint, num_prompts) else hint)
        return kept

    return made_of([[place, common(place, entry)] for place, entry in _placed(conds)]).hex()


def values_with_rows(conds: Mapping[str, list[dict]], num_prompts: int, count: int) -> Iterator[Value]:
    """The values of conditioning entries that have a row for each prompt; of a single prompt, all of the positive."""
    for place, entry in _placed(conds):
        if num_prompts == 1 and not place.startswith("positive"):
            continue
        for name in sorted(entry):
            parts = entry[name] if isinstance(entry[name], (list, tuple)) else [entry[name]]
            parts = vars(entry[name]).values() if name in PICTURES and hasattr(entry[name], "__dict__") else parts
            if name not in NOT_COUNTED and any(_has_rows(part, num_prompts, count) for part in parts):
                yield Value(place, name, entry)


def is_own(value: Value) -> bool:
    """Whether a cluster takes its first prompt's, for want of a mean."""
    held = value.entry[value.name]
    parts = held if isinstance(held, (list, tuple)) else [held]
    return value.name == "mask" or any(not torch.is_tensor(part) or has_no_mean(value.name, part) for part in parts)


def row_of(value: Value, i: int, num_prompts: int, count: int) -> Any:
    """The i-th prompt's row of a value, without padding; None of a prompt that is gone where nobody has kept it."""
    held, lengths = value.entry[value.name], lengths_of(value.entry)
    if lengths is not None and value.name == MASK and not lengths.masked[i]:
        return None  # a mask of the padding alone

    def row(part):
        if not _has_rows(part, num_prompts, count):
            return None
        return part[i : i + 1] if i < len(part) else None

    if isinstance(held, (list, tuple)):
        return [row(part) for part in held]
    if not torch.is_tensor(held):
        return {name: row(part) for name, part in vars(held).items()}
    own = row(held)
    if own is None or lengths is None or value.name not in (TOKENS, MASK):
        return own
    return lengths.trimmed(own, lengths.tokens[i])


def _placed(conds: Mapping[str, list[dict]]) -> Iterator[tuple[str, dict]]:
    for side, entries in sorted(conds.items()):
        for k, entry in enumerate(entries):
            yield f"{side} {k}", entry


def _has_rows(part: Any, *counts: int) -> bool:
    return torch.is_tensor(part) and part.ndim > 0 and len(part) in counts
