"""Conditionings of single prompts, as the host's text encoders give them -> one with a row for each prompt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .token_lengths import LENGTHS, TokenLengths

# Prompts of 1 to 6 chunks of 77 tokens, in any mixture, have a common length of 60 chunks at most. The host joins a
# positive and a negative of 4 times the shorter one's length at most (CONDCrossAttn.can_concat), to save time: beyond
# it runs them one after the other, which the rows of one batch cannot.
MOST_REPEATED = 60 * 77

# How a shorter prompt may be lengthened: see `merge`.
REPEAT, PAD_RIGHT, PAD_LEFT, NO_MASK, REFUSE = "repeat", "pad right", "pad left", "pad without a mask", "refuse"


def merge(
    entries: Sequence[Any],
    prompts: Sequence[str],
    lengthen: str = REFUSE,
    fix: str = "use prompts of equal length",
    most_bytes: float = math.inf,
) -> list[Any]:
    """Join the conditionings of N prompts into one entry whose tensors have a row for each.

    Parameters
    ----------
    entries : list of N (cond, values)
        Cond (1, T_i, D); values: dict with `pooled_output` and what else there is.
    prompts : list of N str
        For the messages.
    lengthen : REPEAT, PAD_RIGHT, PAD_LEFT, NO_MASK or REFUSE
        For prompts with fewer tokens than the longest.
    fix : str
        What the user can do where lengths are refused.
    most_bytes : float
        What rows that are lengthened by repetition may take, all together.

    Returns
    -------
    [cond, values]
        Cond (N, T, D); tensors of `values` with N rows, anything else as it was.

    Raises
    ------
    ValueError
        If lengths differ and cannot be made equal, or a value differs and cannot be joined.

    Notes
    -----
    Prompts of equal length: each row is bit-identical to the prompt's own conditioning. Otherwise shorter rows change:

    - REPEAT lengthens to the least common multiple. This is what the host does with a positive and a negative of
      different length (CONDCrossAttn.concat). Cross-attention does not notice: each key's weight is split evenly among
      its copies (to rounding). Chunks of the empty prompt, as other programs append, would be new keys that take
      weight. Right for encoders that read chunks of 77 tokens: SD 1.x, SD 2.x, SDXL. In joint attention (Flux, SD3,
      Qwen-Image) it would multiply the weight of the text, so it is not used there. Stable Cascade, which mixes text
      and image in its attention, is repeated all the same, as by the host.
    - PAD_RIGHT and PAD_LEFT add zeros, and 0 to `attention_mask`. NO_MASK adds zeros on the right, for encoders whose
      models know no mask: T5 of Flux, SD3, Chroma and PixArt. `hierdiff_lengths` says how many tokens there were:
      samplers with shared steps leave the padding out (`rows_alone`), and are exact for any model. Other samplers hand
      it to the model. That is exact where the mask is heeded at every layer (LTX-Video), and in Flux 2, which pads with
      zeros on the left itself, up to 512 tokens. Elsewhere padding changes a picture like another prompt, or is an
      error: `docs/measurements/padding.md`.
    - REFUSE: nothing is known of the encoder.
    """
    conds = [cond for cond, _ in entries]
    _check_shapes(conds, prompts)
    values = [dict(values) for _, values in entries]
    masked = tuple(v.get("attention_mask") is not None for v in values)
    lengths = tuple(cond.shape[1] for cond in conds)
    masks = _pop_masks(conds, values)
    if len(set(lengths)) > 1:
        conds, masks = _lengthened(conds, masks, lengthen, fix, most_bytes)
    merged = {name: _joined(name, values, prompts) for name in _names(values, prompts)}
    if masks is not None:
        merged["attention_mask"] = torch.cat(masks)
    if masks is not None or (lengthen == NO_MASK and len(set(lengths)) > 1):
        merged[LENGTHS] = tuple(TokenLengths(lengths, masked, conds[0].shape[1], lengthen == PAD_LEFT))
    return [torch.cat(conds), merged]


def length_counts(lengths: Iterable[int]) -> str:
    """Token lengths and how many prompts have them, in words: `77 (3 prompts), 154 (1 prompt)`."""
    counts = sorted(Counter(lengths).items())
    return ", ".join(f"{length} ({n} prompt{'s' if n > 1 else ''})" for length, n in counts)


def _check_shapes(conds, prompts):
    for i, cond in enumerate(conds):
        if cond.ndim != 3 or cond.shape[0] != 1 or cond.shape[2] != conds[0].shape[2]:
            raise ValueError(
                f"the conditioning of {name_of(i, prompts)} has shape {tuple(cond.shape)}; "
                f"expected (1, tokens, {conds[0].shape[-1]})"
            )


def _pop_masks(conds, values):
    """list of (1, T_i) masks taken out of the dicts, 1s where the encoder left a mask without padding out; or None."""
    found = [v.get("attention_mask") for v in values]
    fits = [m is None or m.shape == c.shape[:2] for m, c in zip(found, conds, strict=True)]
    if all(m is None for m in found) or not all(fits):  # a mask of other tokens is a value like any other
        return None
    for v in values:
        v.pop("attention_mask", None)
    like = next(m for m in found if m is not None)  # models tell 0/1 masks from additive ones by the dtype
    return [like.new_ones(c.shape[:2]) if m is None else m for m, c in zip(found, conds, strict=True)]


def _lengthened(conds, masks, lengthen, fix, most_bytes):
    """Conditionings, and masks or None, of equal length."""
    lengths = [cond.shape[1] for cond in conds]
    if masks is not None and lengthen != PAD_LEFT:
        lengthen = PAD_RIGHT  # repeated tokens would need repeated masks; zeros that are masked are sure
    if lengthen == REPEAT:
        common = math.lcm(*lengths)
        size = common * sum(cond.nbytes // cond.shape[1] for cond in conds)
        if common <= MOST_REPEATED and size <= most_bytes:
            return [cond.repeat(1, common // cond.shape[1], 1) for cond in conds], masks
    elif lengthen in (PAD_RIGHT, PAD_LEFT, NO_MASK):
        missing = [max(lengths) - length for length in lengths]
        sides = [(n, 0) if lengthen == PAD_LEFT else (0, n) for n in missing]
        pad = torch.nn.functional.pad
        padded = [pad(cond, (0, 0, *side)) for cond, side in zip(conds, sides, strict=True)]
        if lengthen == NO_MASK:
            return padded, None
        masks = masks or [torch.ones(cond.shape[:2], dtype=torch.long, device=cond.device) for cond in conds]
        return padded, [pad(mask, side) for mask, side in zip(masks, sides, strict=True)]
    raise ValueError(
        f"the prompts have different numbers of tokens, {length_counts(lengths)}, "
        f"and this text encoder's cannot be made equal without changing the pictures; {fix}"
    )


def _names(values, prompts):
    """Names of the values, which all prompts must have."""
    names = list(dict.fromkeys(name for v in values for name in v))
    for name in names:
        missing = [i for i, v in enumerate(values) if v.get(name) is None]
        if 0 < len(missing) < len(values):
            raise ValueError(
                f"{name_of(missing[0], prompts)} has no '{name}' but others of the set have one; "
                "put the prompts without it in a set of their own"
            )
    return names


def _joined(name, values, prompts):
    """One value for the whole set: tensors of one row are stacked, anything else must be equal."""
    parts = [v.get(name) for v in values]
    if all(torch.is_tensor(part) and part.ndim and part.shape[0] == 1 for part in parts):
        for i, part in enumerate(parts):
            if part.shape != parts[0].shape:
                raise ValueError(
                    f"'{name}' of {name_of(i, prompts)} has shape {tuple(part.shape)}, that of {name_of(0, prompts)} "
                    f"{tuple(parts[0].shape)}; put prompts of different length in sets of their own"
                )
        return torch.cat(parts)
    for i, part in enumerate(parts):
        if not _equal(part, parts[0]):
            raise ValueError(
                f"'{name}' of {name_of(i, prompts)} differs from that of {name_of(0, prompts)} and cannot be joined; "
                "put them in sets of their own"
            )
    return parts[0]


def _equal(a, b):
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


def name_of(i: int, prompts: Sequence[str]) -> str:
    """A prompt in words, by its place and the beginning of its text."""
    return f'prompt {i} ("{prompts[i][:60]}")'
