"""How a prior's text encoder reads prompts: what it cuts off, and what it has no words for."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .alternatives import shorten
from .text_form import whole_characters

MOST_WARNINGS = 20
LONGEST_EXCERPT = 60
# A prompt is in words that the encoder does not know when more than this share of its letters is spelled out.
MOST_SPELLED = 0.5
# What diffusers and transformers log for a long prompt, where we say the same in our words and with its number.
THEIR_WARNINGS = {
    "diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_prior": "The following part of your input was truncated",
    "transformers.tokenization_utils_base": "Token indices sequence length is longer",
}


def text_warnings(prior: Any, texts: str | Sequence[str], kind: str = "prompt") -> list[str]:
    """What a prior's text encoder cannot read of some texts, one line for each distinct one.

    Parameters
    ----------
    prior : KandinskyV22PriorPipeline
    texts : str, or list of str
    kind : str
        "prompt" or the like, for the lines.

    Returns
    -------
    lines : list of str
        At most `MOST_WARNINGS`, and one that says how many more there are.
    """
    names = [f"the {kind}"] if isinstance(texts, str) else [f"{kind} {i}" for i in range(len(texts))]
    texts = [texts] if isinstance(texts, str) else list(texts)
    first = {}
    for name, text in zip(names, texts, strict=True):
        first.setdefault(text, name)
    tokens = tokens_of(prior.tokenizer, list(first))
    lines = []
    for (text, name), ids in zip(first.items(), tokens, strict=True):
        lines += [f"{name} {matter}" for matter in matters(prior.tokenizer, text, ids)]
    more = len(lines) - MOST_WARNINGS
    return lines if more <= 0 else [*lines[:MOST_WARNINGS], f"and {more} more of the {kind}s"]


def log_unread(prior: Any, prompts: Sequence[str], negative_prompt: str | Sequence[str]) -> None:
    """Log the `text_warnings` of a set, for those who see no node."""
    for line in text_warnings(prior, prompts) + text_warnings(prior, negative_prompt, "negative prompt"):
        logging.getLogger("HierDiff").warning("HierDiff: %s", line)


def matters(tokenizer: Any, text: str, ids: Sequence[int]) -> Iterator[str]:
    """Yield what is wrong with one text, of which `ids` are the tokens."""
    fits = longest_text(tokenizer)
    if len(ids) > fits:
        lost = excerpt(tokenizer.decode(ids[fits:]).lstrip("\ufffd"))  # the cut may go through a letter's bytes
        yield f"has {len(ids)} tokens; this text encoder reads {fits}, so its end is ignored: {lost}"
    if tokenizer.eos_token_id in ids:
        yield f"contains {tokenizer.eos_token}, which marks the end of the text for this text encoder: {excerpt(text)}"
    letters, spelled = spelled_letters(tokenizer, text, len(ids))
    if spelled > MOST_SPELLED * letters:
        yield (
            "uses words or characters that this text encoder does not know and spells out, in "
            f"{len(ids)} tokens; English is safest: {excerpt(text)}"
        )


def longest_text(tokenizer: Any) -> int:
    """Tokens of the longest text that is read whole; the marks of its start and end do not count."""
    return tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, without the marks of start and end."""
    with without_their_warnings():
        return tokenizer(list(map(whole_characters, texts)), add_special_tokens=False).input_ids if texts else []


def spelled_letters(tokenizer: Any, text: str, num_tokens: int) -> tuple[int, int]:
    """How many letters and signs a text has, and how many of them its tokenizer spells.

    A word is spelled when it takes as many tokens as it has letters, or more: its tokens are then single letters, or
    bytes of letters, of which the encoder has learned nothing. CLIP's tokenizer knows most English words whole, takes
    other words of Latin letters in syllables, and spells Japanese, Chinese, Russian or Thai.
    """
    words = words_and_signs(text)
    letters = sum(map(len, words))
    if 2 * num_tokens <= letters:  # far fewer tokens than letters, as in English: nothing to look at
        return letters, 0
    tokens = tokens_of(tokenizer, words)
    return letters, sum(len(word) for word, ids in zip(words, tokens, strict=True) if len(ids) >= max(2, len(word)))


def words_and_signs(text: str) -> list[str]:
    """Runs of letters with their accents, and each emoji or other sign by itself; no digits, no punctuation."""
    words, inside = [], False
    for sign in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(sign)
        letter = kind[0] == "L" or (kind[0] == "M" and inside)
        if letter and inside:
            words[-1] += sign
        elif letter or kind in ("So", "Cn"):
            words.append(sign)
        inside = letter
    return words


def excerpt(text: str) -> str:
    return shorten(text, LONGEST_EXCERPT)


@contextmanager
def without_their_warnings() -> Iterator[None]:
    """Keep the libraries' own warnings of long prompts from the log."""
    filters = [(logging.getLogger(name), beginning_with(words)) for name, words in THEIR_WARNINGS.items()]
    for logger, refuse in filters:
        logger.addFilter(refuse)
    try:
        yield
    finally:
        for logger, refuse in filters:
            logger.removeFilter(refuse)


def beginning_with(words: str) -> Callable[[logging.LogRecord], bool]:
    """A filter that refuses log records which begin with some words."""
    return lambda record: not str(record.msg).startswith(words)
