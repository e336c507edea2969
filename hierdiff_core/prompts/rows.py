"""Prompts with what is their own: a negative, a seed, a caption, and where an expansion made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class PromptRow:
    """A prompt of a set, and what belongs to it alone.

    Attributes
    ----------
    text : str
        The prompt.
    negative : str or None
        What to avoid; None: what the whole set avoids.
    seed : int or None
        Of its noise, 0 ... 2**64 - 1; None: the sampler's.
    caption : str or None
        For the files; None: the prompt.
    factors : tuple of (str, str)
        Of a prompt that an expansion made: name of each factor and its value, in the order they stand in the line. The
        name is the written alternatives, shortened: ("a|b", "a").
    variant : (int, float) or None
        Of a variant of the prompt: its number, 1 or more, and the share of the steps, 0 ... 1, after which it has other
        noise than the prompt itself.
    place : (int, int) or None
        Of a prompt of a shard: its number in the whole set, from 0, and how many prompts that has.
    """

    text: str
    negative: str | None = None
    seed: int | None = None
    caption: str | None = None
    factors: tuple[tuple[str, str], ...] = ()
    variant: tuple[int, float] | None = None
    place: tuple[int, int] | None = None


class PromptRows(tuple[str, ...]):
    """The texts of a set as a tuple, for whoever takes texts, and their `rows` for whoever knows more.

    Made of an iterable of `PromptRow`.

    Attributes
    ----------
    rows : tuple of PromptRow
        As many as there are texts.

    Examples
    --------
    >>> from hierdiff_core.prompts.rows import PromptRow, PromptRows
    >>> prompts = PromptRows([PromptRow("a cat", seed=7), PromptRow("a dog")])
    >>> tuple(prompts), prompts.rows[0].seed
    (('a cat', 'a dog'), 7)
    """

    rows: tuple[PromptRow, ...]

    def __new__(cls, rows: Iterable[PromptRow]) -> PromptRows:
        rows = tuple(rows)
        made = super().__new__(cls, (row.text for row in rows))
        made.rows = rows
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles keep the rows."""
        return type(self), (self.rows,)


def as_rows(prompts: Iterable[str]) -> PromptRows:
    """Prompts as rows: those that are rows already as they are, plain texts with nothing of their own.

    Rows are known by what they have, not by their class: a host's copy of the pack and the library have one each.

    Parameters
    ----------
    prompts : iterable of str
        A `PromptRows`, or texts.

    Returns
    -------
    prompts : PromptRows
    """
    if isinstance(prompts, PromptRows):
        return prompts
    rows = getattr(prompts, "rows", None)
    return PromptRows(map(PromptRow, prompts) if rows is None else rows)


def own_seeds(prompts: Iterable[str]) -> tuple[int | None, ...] | None:
    """The seed of each prompt; None if no prompt has one."""
    seeds = tuple(row.seed for row in as_rows(prompts).rows)
    return None if all(seed is None for seed in seeds) else seeds


def own_variants(prompts: Iterable[str]) -> tuple[tuple[int, float] | None, ...] | None:
    """Which variant each prompt is; None if no prompt is one."""
    variants = tuple(getattr(row, "variant", None) for row in as_rows(prompts).rows)
    return None if all(variant is None for variant in variants) else variants


def with_variants(prompts: Iterable[str], which: Iterable[int], count: int, part_at: float) -> PromptRows:
    """Prompts, some of them followed by variants: the same prompt with other noise from some share of the steps on.

    Parameters
    ----------
    prompts : iterable of N str
        A `PromptRows`, or texts.
    which : iterable of int
        Those that get variants, 0 ... N - 1; a variant gets none.
    count : int
        Variants of each.
    part_at : float
        Share of the steps, 0 ... 1, after which they part.

    Returns
    -------
    prompts : PromptRows
        Variants are numbered after those that a prompt has.

    Examples
    --------
    >>> from hierdiff_core.prompts.rows import with_variants
    >>> [row.variant for row in with_variants(["a cat", "a dog"], [0], 2, 0.5).rows]
    [None, (1, 0.5), (2, 0.5), None]
    """
    chosen, made, rows = set(which), [], as_rows(prompts).rows
    groups: list[list[PromptRow]] = []
    for i, row in enumerate(rows):
        if row.variant is None or not groups:
            groups.append([])
            groups[-1].append(row)
            made.append(i in chosen)
        else:
            groups[-1].append(row)
    result: list[PromptRow] = []
    for group, more in zip(groups, made, strict=True):
        result += group
        first = max((row.variant[0] for row in group if row.variant), default=0) + 1
        numbers = range(first, first + count) if more else ()
        result += [replace(group[0], variant=(number, float(part_at))) for number in numbers]
    return PromptRows(result)


def own_negatives(prompts: Iterable[str], others: str | Sequence[str]) -> str | list[str]:
    """The negative of each prompt: its own, or else that of the whole set.

    Parameters
    ----------
    prompts : iterable of N str
        A `PromptRows`, or texts.
    others : str, or N str
        For prompts without a negative of their own.

    Returns
    -------
    negatives : str, or list of N str
        `others` where no prompt has one of its own.
    """
    own = [row.negative for row in as_rows(prompts).rows]
    if all(negative is None for negative in own):
        return others if isinstance(others, str) else list(others)
    if not isinstance(others, str) and len(others) != len(own):
        return list(others)  # whoever checks their number says so
    rest = [others] * len(own) if isinstance(others, str) else others
    return [theirs if negative is None else negative for negative, theirs in zip(own, rest, strict=True)]


def with_texts(prompts: Iterable[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The same prompts in another spelling; rows keep what is their own.

    Parameters
    ----------
    prompts : iterable of N str
        A `PromptRows`, or texts.
    texts : N str
        Their spellings.

    Returns
    -------
    prompts : tuple of N str
        A `PromptRows` where `prompts` has rows.
    """
    rows = getattr(prompts, "rows", None)
    if rows is None:
        return tuple(texts)
    return PromptRows(replace(row, text=text) for row, text in zip(as_rows(prompts).rows, texts, strict=True))
