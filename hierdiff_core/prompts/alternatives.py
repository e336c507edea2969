"""Alternatives in braces: ``a {red|green} apple`` -> "a red apple", "a green apple".

A line is read in two passes, so that one with too many combinations is refused before any is made: `parse_line` counts
them and their characters while it reads, `expand` makes them.
"""

from __future__ import annotations

import itertools
import re

# Of a set. As many as the schedule's plot draws; beyond, a CPU takes gigabytes to cluster them, and a slip of
# multiplied alternatives is likelier than a wish.
MOST_PROMPTS = 10_000
MOST_CHARACTERS = 4_000_000  # of a text, and of all prompts of a set: 400 for each of 10,000
LONGEST_PROMPT = 20_000  # characters; text encoders are trained on far less
MOST_GROUPS = 100_000  # of a set: a second of reading
MOST_NESTED = 100  # braces within braces; far below what Python's stack takes

MARKS = re.compile(r"\\[{|}#]|[{}|]")
SHOWN = 40  # characters of a group in messages


class Sequence:
    """Literals and groups, one after the other.

    Attributes
    ----------
    parts : list of str and Group
        Never two str side by side.
    count : int
        Combinations.
    characters : int
        Of all combinations together.
    longest : int
        Characters of the longest.
    """

    __slots__ = ("characters", "count", "longest", "parts")

    def __init__(self) -> None:
        self.parts, self.count, self.characters, self.longest = [], 1, 0, 0

    def add_text(self, text: str) -> None:
        if not text:
            return
        if self.parts and isinstance(self.parts[-1], str):
            self.parts[-1] += text
        else:
            self.parts.append(text)
        self.characters += self.count * len(text)
        self.longest += len(text)
        self._check()

    def add_group(self, group: Group) -> None:
        if len(group.alternatives) == 1:  # it multiplies nothing: what is in it goes on here
            for part in group.alternatives[0].parts:
                self.add_text(part) if isinstance(part, str) else self.add_group(part)
            return
        self.parts.append(group)
        self.characters = self.characters * group.count + group.characters * self.count
        self.count *= group.count
        self.longest += group.longest
        self._check()

    def _check(self):
        check_count(self.count)
        check_length(self.longest)
        check_characters(self.characters)


class Group:
    """Alternatives, each a Sequence; attributes as there."""

    __slots__ = ("alternatives", "characters", "count", "longest", "start")

    def __init__(self, start: int) -> None:
        self.start = start  # of its brace in the line
        self.alternatives, self.count, self.characters, self.longest = [], 0, 0, 0

    def add(self, sequence: Sequence) -> None:
        self.alternatives.append(sequence)
        self.count += sequence.count
        self.characters += sequence.characters
        self.longest = max(self.longest, sequence.longest)
        check_count(self.count)
        check_characters(self.characters)


def check_count(count: int) -> None:
    if count > MOST_PROMPTS:
        raise ValueError(f"more than {MOST_PROMPTS} prompts in a set; use fewer alternatives, or make several sets")


def check_groups(groups: int) -> None:
    if groups > MOST_GROUPS:
        raise ValueError(f"more than {MOST_GROUPS} braces in a set; use fewer alternatives")


def check_length(longest: int) -> None:
    if longest > LONGEST_PROMPT:
        raise ValueError(f"a prompt of more than {LONGEST_PROMPT} characters; shorten it")


def check_characters(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise ValueError(f"more than {MOST_CHARACTERS} characters of prompts; shorten them, or make several sets")


def parse_line(line: str) -> tuple[Sequence, dict[str, str]]:
    """Read the groups of a line and count its combinations.

    Parameters
    ----------
    line : str

    Returns
    -------
    sequence : Sequence
        For `expand`.
    oddities : dict
        What other programs may mean by it and is not done here: a kind, and the first piece of the line that is of this
        kind. "single": a group of one alternative; "bracket": a | between [ and ] in a group; "bar": a | outside of
        groups; "variable": a $ before a group.

    Raises
    ------
    ValueError
        If a brace is not closed or not opened, or a limit is passed: `MOST_PROMPTS`, `MOST_CHARACTERS`,
        `LONGEST_PROMPT`, `MOST_NESTED`. The caller puts the line's name before the message.
    """
    reader, position = _LineReader(line), 0
    for mark in MARKS.finditer(line):
        reader.literal(line[position : mark.start()])
        position = mark.end()
        if mark[0] == "{":
            reader.open(mark.start())
        elif mark[0] == "|":
            reader.bar(mark.start())
        elif mark[0] == "}":
            reader.close(mark.end())
        else:
            reader.sequence.add_text(mark[0][1])
    if reader.group is not None:
        raise ValueError("'{' is not closed; write \\{ for the character itself")
    reader.literal(line[position:])
    return reader.sequence, reader.oddities


class _LineReader:
    """What stands between the innermost brace that is open and the present character; `outer` is what is around."""

    def __init__(self, line):
        self.line = line
        self.sequence, self.group, self.brackets = Sequence(), None, 0
        self.outer = []
        self.oddities = {}

    def literal(self, text):
        self.sequence.add_text(text)
        self.brackets += text.count("[") - text.count("]")

    def open(self, start):
        if start and self.line[start - 1] == "$":
            self._odd("variable", start - 1)
        self.outer.append((self.sequence, self.group, self.brackets))
        if len(self.outer) > MOST_NESTED:
            raise ValueError(f"braces are nested more than {MOST_NESTED} deep; use fewer levels")
        self.sequence, self.group, self.brackets = Sequence(), Group(start), 0

    def bar(self, start):
        if self.group is None:
            self._odd("bar", max(0, start - SHOWN // 2))
            self.sequence.add_text("|")
            return
        if self.brackets > 0:
            self._odd("bracket", self.group.start)
        self.group.add(self.sequence)
        self.sequence, self.brackets = Sequence(), 0

    def close(self, end):
        if self.group is None:
            raise ValueError("'}' without '{' before it; write \\} for the character itself")
        self.group.add(self.sequence)
        if len(self.group.alternatives) == 1:
            self._odd("single", self.group.start, end)
        done = self.group
        self.sequence, self.group, self.brackets = self.outer.pop()
        self.sequence.add_group(done)

    def _odd(self, kind, start, end=None):
        if kind not in self.oddities:
            self.oddities[kind] = shorten(self.line[start:end])


def shorten(text: str, length: int = SHOWN) -> str:
    """The beginning of a text, for messages."""
    text = " ".join(text[: 2 * length].split())
    return text if len(text) <= length else f"{text[:length]}…"


def expand(sequence: Sequence) -> list[str]:
    """All combinations of what `parse_line` has read, the last group changing fastest.

    Returns
    -------
    variants : list of `sequence.count` str
    """
    choices = [
        [part] if isinstance(part, str) else [text for one in part.alternatives for text in expand(one)]
        for part in sequence.parts
    ]
    return ["".join(choice) for choice in itertools.product(*choices)]
