"""Prompts without what only a sampler reads: weights and LoRA tags."""

from __future__ import annotations

import re

TAG = re.compile(r"<(?:lora|lyco|lycoris|locon|loha|lokr|hypernet|wlr)\s*:[^<>]*>", re.IGNORECASE)
WEIGHT = re.compile(r"\s*:\s*[-+]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})\s*$")
MARKS = re.compile(r"\\[()]|[()]")


def plain_words(prompt: str) -> str:
    """A prompt for people and trainers: no tags, no weights, no parentheses that weigh; commas and spaces in order.

    ``((a cat:1.2), <lora:x:1>, \\\\(b\\\\))`` becomes ``a cat, (b)``. Parentheses that are not closed stay.

    Parameters
    ----------
    prompt : str

    Returns
    -------
    words : str
        May be empty.

    Examples
    --------
    >>> from hierdiff_core.files.plain_words import plain_words
    >>> plain_words("a (red:1.3) cat, <lora:ink:0.8>, (best)")
    'a red cat, best'
    """
    text = _unweighted(TAG.sub("", prompt))
    pieces = (" ".join(piece.split()) for piece in text.split(","))
    return ", ".join(piece for piece in pieces if piece)


def _unweighted(text):
    open_texts, around = [], ""  # what stands before each parenthesis that is open
    position = 0
    for mark in MARKS.finditer(text):
        around += text[position : mark.start()]
        position = mark.end()
        if mark[0] == "(":
            open_texts.append(around)
            around = ""
        elif mark[0] == ")" and open_texts:
            around = open_texts.pop() + WEIGHT.sub("", around)
        else:
            around += mark[0][-1]
    around += text[position:]
    while open_texts:
        around = f"{open_texts.pop()}({around}"
    return around
