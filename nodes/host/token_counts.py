"""What a text encoder cannot read of a prompt at once, or at all, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...hierdiff_core.prompts.tokens import MOST_SPELLED, spelled_letters, tokens_of
from .encode_set import name_of

MOST_NAMED = 4


def reading_notes(clip: Any, tokens: Sequence[Any], prompts: Sequence[str], pooled: bool) -> list[str]:
    """Warnings on prompts that are longer than the encoder's window, or hold tokens that it does not know.

    Parameters
    ----------
    clip : the host's CLIP
    tokens : list of N dict
        Encoder name -> chunks of (token, weight).
    prompts : N str
    pooled : bool
        Whether prompts are compared by the pooled output, which is the first chunk's.
    """
    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    long = [found for i in sorted(first.values()) if (found := _window(clip, tokens[i], prompts[i], i, prompts))]
    notes = []
    if long:
        window = min(window for window, _ in long)
        seen = "; pooled compares the first chunk only" if pooled else ""
        names = _listed([name for _, name in long])
        notes.append(f"⚠ longer than the {window} tokens that this encoder reads at once: {names}{seen}")
    unknown = [found for i in sorted(first.values()) if (found := _unknown(clip, tokens[i], i, prompts))]
    return notes + ([f"⚠ this encoder does not know {_listed(unknown)}: use words that it knows"] if unknown else [])


def _window(clip, tokens, prompt, i, prompts):
    """(tokens that fit, prompt in words) for a prompt of several chunks, else None."""
    name = max(tokens, key=lambda name: len(tokens[name]))
    tokenizer, chunks = _tokenizer(clip, name), len(tokens[name])
    if chunks < 2 or tokenizer is None:
        return None
    ends = (tokenizer.start_token is not None) + (tokenizer.end_token is not None)
    words = clip.tokenize(prompt, return_word_ids=True)[name]
    count = sum(word != 0 for chunk in words for _, _, word in chunk)  # 0: the encoder's own tokens
    return tokenizer.max_length - ends, f"{name_of(i, prompts)} with {count} tokens, read in {chunks} chunks"


def _unknown(clip, tokens, i, prompts):
    """How many tokens of a prompt an encoder does not know, in words; "" where it knows all."""
    if all(_is_clip(clip, name) for name in tokens) and _spelled(clip, tokens, prompts[i]):
        return f"the words of {name_of(i, prompts)}, and spells them out"
    for name, chunks in tokens.items():
        tokenizer = _tokenizer(clip, name)
        known_as = getattr(getattr(tokenizer, "tokenizer", None), "unk_token_id", None)
        if known_as is None or known_as in (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token):
            continue
        count = sum(isinstance(token, int) and token == known_as for chunk in chunks for token, *_ in chunk)
        if count:
            return f"{count} token{'s' * (count > 1)} of {name_of(i, prompts)}"
    return ""


def _is_clip(clip, name):
    return type(getattr(_tokenizer(clip, name), "tokenizer", None)).__name__.startswith("CLIPTokenizer")


def _spelled(clip, tokens, prompt):
    """Whether CLIP's tokenizer, which knows every byte, spells most of a prompt."""
    tokenizer = _tokenizer(clip, next(iter(tokens))).tokenizer
    letters, spelled = spelled_letters(tokenizer, prompt, len(tokens_of(tokenizer, [prompt])[0]))
    return spelled > MOST_SPELLED * letters


def _tokenizer(clip: Any, name: str) -> Any:
    """The host's tokenizer of one encoder, or None."""
    return getattr(clip.tokenizer, f"clip_{name}", getattr(clip.tokenizer, name, None))


def _listed(names):
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])
