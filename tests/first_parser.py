"""The parser of the first version: saved workflows must go on giving its prompts, in its order."""

import itertools
import math
import re

MOST_PER_LINE = 10_000

ESCAPED = {r"\{": "\ue000", r"\|": "\ue001", r"\}": "\ue002", r"\#": "\ue003"}  # private-use stand-ins


def parse_prompts(text):
    """Prompts of a text."""
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        for escape, stand_in in ESCAPED.items():
            line = line.replace(escape, stand_in)
        prompts += [_restore(variant) for variant in _expand(line, number)]
    return [prompt for prompt in prompts if prompt]


def _expand(line, number):
    """All combinations of a line's groups, innermost groups first."""
    pieces = re.split(r"([{}|])", line)
    variants, end = _alternatives(pieces, 0, number, depth=0)
    if end != len(pieces):
        raise ValueError(f"line {number}: '}}' without '{{' before it; write \\}} for the character itself")
    return variants


def _alternatives(pieces, i, number, depth):
    """Variants of pieces[i:] up to the brace that closes this group, and the index after it."""
    done, parts = [], []  # finished alternatives; choices for each part of the current one
    while i < len(pieces):
        piece = pieces[i]
        i += 1
        if piece == "{":
            variants, i = _alternatives(pieces, i, number, depth + 1)
            parts.append(variants)
        elif piece == "|" and depth:
            done += _combine(parts, number)
            parts = []
        elif piece == "}" and depth:
            return done + _combine(parts, number), i
        elif piece == "}":
            return done + _combine(parts, number), i - 1
        else:
            parts.append([piece])
    if depth:
        raise ValueError(f"line {number}: '{{' is not closed; write \\{{ for the character itself")
    return _combine(parts, number), i


def _combine(parts, number):
    if math.prod(map(len, parts)) > MOST_PER_LINE:
        raise ValueError(f"line {number} gives more than {MOST_PER_LINE} prompts; use fewer alternatives")
    return ["".join(choice) for choice in itertools.product(*parts)]


def _restore(prompt):
    for escape, stand_in in ESCAPED.items():
        prompt = prompt.replace(stand_in, escape[1])
    return " ".join(prompt.split())
