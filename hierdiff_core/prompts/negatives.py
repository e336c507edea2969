"""Negative prompts: one for all prompts, or one for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .prompt_set import describe
from .text_form import normal_form, whole_characters


def check_negatives(negative_prompt: str | Iterable[str], count: int) -> list[str]:
    """A negative for each prompt.

    Parameters
    ----------
    negative_prompt : str, or `count` str
    count : int

    Returns
    -------
    negatives : list of `count` str

    Raises
    ------
    ValueError
        If one is no text, or there are not as many as prompts.
    """
    negatives = [negative_prompt] * count if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != count:
        raise ValueError(
            f"negative_prompt must be a single text, or one per prompt; got {len(negatives)} for {count} prompts"
        )
    for i, negative in enumerate(negatives):
        if not isinstance(negative, str):
            raise ValueError(f"negative_prompt {i} must be text; got {describe(negative)}")
    return list(map(whole_characters, negatives))


def distinct_pairs(prompts: Sequence[str], negatives: Sequence[str]) -> tuple[list[list[tuple[str, str]]], list[int]]:
    """Pairs of prompt and negative without repetition, those with a negative apart from those without.

    Parameters
    ----------
    prompts, negatives : N str each

    Returns
    -------
    groups : list of 1 or 2 lists of (prompt, negative)
        Prompts in `normal_form`, so that any tokenizer sees the same.
    places : list of N int
        Where each prompt's pair stands in the groups, one behind the other.
    """
    pairs = [(normal_form(prompt), negative) for prompt, negative in zip(prompts, negatives, strict=True)]
    distinct = list(dict.fromkeys(pairs))
    groups = [group for group in ([p for p in distinct if p[1]], [p for p in distinct if not p[1]]) if group]
    place = {pair: i for i, pair in enumerate(pair for group in groups for pair in group)}
    return groups, [place[pair] for pair in pairs]
