"""Alternatives in braces: ``a {red|green} apple`` -> "a red apple", "a green apple".

A line is read in two passes, so that one with too many combinations is refused before any is made: `parse_line` counts
them and their characters while it reads, `expand` makes them, or `draws.drawn` some of them at random.

``{2::red|blue}`` has weights, which count for random draws; an alternative of weight 0 never comes. ``{2$$a|b|c}``
chooses two, ``{1-2$$ and $$a|b|c}`` one or two with " and " between them. ``__name__`` is a group whose alternatives
are in a file (`wildcards`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

# Of a set. As many as the schedule's plot draws; beyond, a CPU takes gigabytes to cluster them, and a slip of
# multiplied alternatives is likelier than a wish.
MOST_PROMPTS = 10_000
MOST_CHARACTERS = 4_000_000  # of a text, and of all prompts of a set: 400 for each of 10,000
LONGEST_PROMPT = 20_000  # characters; text encoders are trained on far less
MOST_GROUPS = 100_000  # of a set: a second of reading
MOST_NESTED = 100  # braces within braces; far below what Python's stack takes
MOST_CHOSEN = 100  # alternatives that a group chooses
ENOUGH = 10**15  # combinations and characters that are told apart where nothing limits them

MARKS = re.compile(r"\\(?:[{|}#]|__)|[{}|]|__(?![_\s])(?:(?!__)[^{}|$\n]){1,100}?(?<!\s)__")
HEADER = re.compile(r"\s*(?P<low>\d{0,9})(?P<dash>-?)(?P<high>\d{0,9})\$\$(?:(?P<separator>[^{}$]*)\$\$)?")
WEIGHT = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})\s*::")
NO_WEIGHT = re.compile(r"\s*([-+]?[.,]?\d[\d.,]{0,30})\s*::")
SEPARATOR = ", "  # between chosen alternatives
SHOWN = 40  # characters of a group in messages

Factors = tuple[tuple[str, str], ...]


class Sequence:
    """Literals and groups, one after the other.

    Attributes
    ----------
    parts : list of str and Group
        Never two str side by side.
    count : int
        Combinations; at most `ENOUGH` where they are not limited.
    characters : int
        Of all combinations together, or a little more.
    longest : int
        Characters of the longest.
    """

    __slots__ = ("characters", "count", "limited", "longest", "parts")

    def __init__(self, limited: bool = True) -> None:
        self.parts, self.count, self.characters, self.longest = [], 1, 0, 0
        self.limited = limited

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
        if len(group.alternatives) == 1 and group.low == 1:  # it multiplies nothing: what is in it goes on here
            for part in group.alternatives[0].parts:
                self.add_text(part) if isinstance(part, str) else self.add_group(part)
            return
        self.parts.append(group)
        self.characters = self.characters * group.count + group.characters * self.count
        self.count *= group.count
        self.longest += group.longest
        self._check()

    def _check(self):
        check_length(self.longest)
        bound(self)


class Group:
    """Alternatives, each a Sequence, with a weight; from `low` to `high` of them are chosen. Other attributes as there.

    Attributes
    ----------
    name : str
        As it is written, shortened.
    """

    __slots__ = (
        *("alternatives", "characters", "count", "high", "limited", "longest", "low", "name", "separator", "start"),
        *("sums", "weights", "written"),
    )

    def __init__(self, start: int, limited: bool = True, name: str = "") -> None:
        self.start = start  # of its brace in the line
        self.alternatives, self.count, self.characters, self.longest = [], 0, 0, 0
        self.weights, self.sums = [], []  # of the alternatives, and all up to each together
        self.written = 0  # alternatives, also those of weight 0
        self.low = self.high = 1
        self.separator = SEPARATOR
        self.limited, self.name = limited, name

    def add(self, sequence: Sequence, weight: float = 1.0) -> None:
        self.written += 1
        if weight == 0:
            return
        self.alternatives.append(sequence)
        self.weights.append(weight)
        self.sums.append(weight + (self.sums[-1] if self.sums else 0.0))
        self.count += sequence.count
        self.characters += sequence.characters
        self.longest = max(self.longest, sequence.longest)
        if self.high == 1:  # else `finish` counts
            bound(self)

    def finish(self) -> bool:
        """Count what is chosen, when all alternatives are there; False if there are fewer than are to be chosen."""
        if not self.alternatives:
            raise ValueError(f"all alternatives of {{{self.name}}} have the weight 0; give one of them another")
        if (self.low, self.high) == (1, 1):
            return True
        self._unwrap()
        enough = self.low <= len(self.alternatives)
        self.low, self.high = (min(number, len(self.alternatives)) for number in (self.low, self.high))
        totals = [(1, 0)] + [(0, 0)] * self.high  # of so many alternatives: combinations, and their characters
        for one in self.alternatives:
            for chosen in range(self.high, 0, -1):
                count, characters = totals[chosen - 1]
                between = len(self.separator) if chosen > 1 else 0
                more = (count * one.count, characters * one.count + count * (one.characters + between * one.count))
                before = totals[chosen]
                totals[chosen] = min(before[0] + more[0], ENOUGH), min(before[1] + more[1], ENOUGH)
            self.count, self.characters = (sum(each) for each in zip(*totals[self.low : self.high + 1], strict=True))
            bound(self)
        longest = sorted((one.longest for one in self.alternatives), reverse=True)[: self.high]
        self.longest = sum(longest) + len(self.separator) * max(0, len(longest) - 1)
        check_length(self.longest)
        return enough

    def _unwrap(self):
        """``{2$$__colours__}`` chooses among the colours."""
        if len(self.alternatives) == 1 and len(self.alternatives[0].parts) == 1:
            inner = self.alternatives[0].parts[0]
            if isinstance(inner, Group) and inner.low == inner.high == 1:
                self.alternatives, self.weights, self.sums = inner.alternatives, inner.weights, inner.sums


def bound(counted: Sequence | Group) -> None:
    """Refuse too many combinations, or stop counting them where they are not limited."""
    if counted.limited:
        check_count(counted.count)
        check_characters(counted.characters)
    else:
        counted.count, counted.characters = min(counted.count, ENOUGH), min(counted.characters, ENOUGH)


class TooManyPrompts(ValueError):
    """More prompts than a set has room for."""


def check_count(count: int) -> None:
    if count > MOST_PROMPTS:
        raise TooManyPrompts(
            f"more than {MOST_PROMPTS} prompts in a set; use fewer alternatives, make several sets, or draw some of "
            "them at random"
        )


def check_groups(groups: int) -> None:
    if groups > MOST_GROUPS:
        raise ValueError(f"more than {MOST_GROUPS} braces in a set; use fewer alternatives")


def check_length(longest: int) -> None:
    if longest > LONGEST_PROMPT:
        raise ValueError(f"a prompt of more than {LONGEST_PROMPT} characters; shorten it")


def check_characters(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise ValueError(f"more than {MOST_CHARACTERS} characters of prompts; shorten them, or make several sets")


def parse_line(
    line: str, wildcard: Callable[[str], Group | None] | None = None, limited: bool = True
) -> tuple[Sequence, dict[str, str]]:
    """Read the groups of a line and count its combinations.

    Parameters
    ----------
    line : str
    wildcard : callable, optional
        ``wildcard(name)``: the group that ``__name__`` stands for, or None.
    limited : bool
        False: any number of combinations, to draw some of them.

    Returns
    -------
    sequence : Sequence
        For `expand`.
    oddities : dict
        What other programs may mean by it and is not done here, or not quite: a kind, and the first piece of the line
        that is of this kind. "single": a group of one alternative; "bracket": a | between [ and ] in a group; "bar": a
        | outside of groups; "variable": a $ before a group; "weights": a group with several; "few": a group with fewer
        alternatives than it chooses; "wildcard": names of wildcards that there are not.

    Raises
    ------
    ValueError
        If a brace is not closed or not opened, a weight or a number of alternatives makes no sense, or a limit is
        passed: `MOST_PROMPTS`, `MOST_CHARACTERS`, `LONGEST_PROMPT`, `MOST_NESTED`. The caller puts the line's name
        before the message.
    """
    reader, position = _LineReader(line, wildcard, limited), 0
    while mark := MARKS.search(line, position):
        reader.literal(line[position : mark.start()])
        position = mark.end()
        if mark[0] == "{":
            position = reader.open(mark.start())
        elif mark[0] == "|":
            position = reader.bar(mark.start())
        elif mark[0] == "}":
            reader.close(mark.end())
        elif mark[0].startswith("_"):
            reader.wildcard(mark[0])
        else:
            reader.sequence.add_text(mark[0][1:])
    if reader.group is not None:
        raise ValueError("'{' is not closed; write \\{ for the character itself")
    reader.literal(line[position:])
    return reader.sequence, reader.oddities


class _LineReader:
    """What stands between the innermost brace that is open and the present character; `outer` is what is around."""

    def __init__(self, line, find, limited):
        self.line, self.find, self.limited = line, find, limited
        self.sequence, self.group, self.brackets, self.weight = Sequence(limited), None, 0, 1.0
        self.outer = []
        self.oddities = {}

    def literal(self, text):
        self.sequence.add_text(text)
        self.brackets += text.count("[") - text.count("]")

    def wildcard(self, written):
        found = self.find(written[2:-2]) if self.find else None
        if found is not None:
            self.sequence.add_group(found)
            return
        self.literal(written)
        missing = self.oddities.get("wildcard", "").split(", ")
        if written not in missing and len(missing) < SHOWN:
            self.oddities["wildcard"] = ", ".join([*filter(None, missing), written])

    def open(self, start):
        """Returns where the first alternative begins, behind the numbers of a group that chooses."""
        if start and self.line[start - 1] == "$":
            self._odd("variable", start - 1)
        self.outer.append((self.sequence, self.group, self.brackets, self.weight))
        if len(self.outer) > MOST_NESTED:
            raise ValueError(f"braces are nested more than {MOST_NESTED} deep; use fewer levels")
        group = self.group = Group(start, self.limited)
        header = HEADER.match(self.line, start + 1)
        if header is None or not (header["low"] or header["high"]):
            return self._begin(start + 1)
        self._choose(group, header)
        return self._begin(header.end())

    def _choose(self, group, header):
        """Take the numbers of ``{1-2$$ and $$...}``."""
        low, high = header["low"], header["high"]
        low = int(low) if low else 1
        high = int(high) if high else MOST_CHOSEN if header["dash"] else low
        if low > high or not 1 <= high <= MOST_CHOSEN:
            raise ValueError(
                f"{shorten('{' + header[0])} cannot choose: write {{2$$…}} or {{1-3$$…}}, with the smaller number "
                f"first and at most {MOST_CHOSEN}"
            )
        group.low, group.high = low, high
        group.separator = SEPARATOR if header["separator"] is None else header["separator"]

    def _begin(self, position):
        """Begin an alternative; returns where its text does, behind the weight."""
        self.sequence, self.brackets, self.weight = Sequence(self.limited), 0, 1.0
        weight = WEIGHT.match(self.line, position)
        if weight is not None:
            self.weight = float(weight[1])
            return weight.end()
        wrong = NO_WEIGHT.match(self.line, position)
        if wrong is not None:
            raise ValueError(
                f"{shorten(wrong[1])}:: is no weight: write a number of 0 or more, such as {{2::red|0.5::blue}}"
            )
        return position

    def bar(self, start):
        if self.group is None:
            self._odd("bar", max(0, start - SHOWN // 2))
            self.sequence.add_text("|")
            return start + 1
        if self.brackets > 0:
            self._odd("bracket", self.group.start)
        self.group.add(self.sequence, self.weight)
        return self._begin(start + 1)

    def close(self, end):
        if self.group is None:
            raise ValueError("'}' without '{' before it; write \\} for the character itself")
        done = self.group
        done.name = shorten(self.line[done.start + 1 : end - 1])
        done.add(self.sequence, self.weight)
        if done.written == 1 and done.high == 1:
            self._odd("single", done.start, end)
        if not done.finish():
            self._odd("few", done.start, end)
        if len(set(done.weights)) > 1:
            self._odd("weights", done.start, end)
        self.sequence, self.group, self.brackets, self.weight = self.outer.pop()
        self.sequence.add_group(done)

    def _odd(self, kind, start, end=None):
        if kind not in self.oddities:
            self.oddities[kind] = shorten(self.line[start:end])


def shorten(text: str, length: int = SHOWN) -> str:
    """The beginning of a text, for messages."""
    text = " ".join(text[: 2 * length].split())
    return text if len(text) <= length else f"{text[:length]}…"


def expand(sequence: Sequence) -> list[tuple[str, Factors]]:
    """All combinations of what `parse_line` has read, the last group changing fastest.

    Returns
    -------
    variants : list of `sequence.count` (str, tuple)
        Each text, and for each of the line's outer groups its name and what stands in its place.
    """
    choices = [
        [(part, ())] if isinstance(part, str) else [(value, ((part.name, fold(value)),)) for value in values_of(part)]
        for part in sequence.parts
    ]
    return [
        ("".join(text for text, _ in choice), tuple(itertools.chain.from_iterable(factor for _, factor in choice)))
        for choice in itertools.product(*choices)
    ]


def texts_of(sequence: Sequence) -> list[str]:
    """All combinations of a sequence, as texts."""
    choices = [[part] if isinstance(part, str) else values_of(part) for part in sequence.parts]
    return ["".join(choice) for choice in itertools.product(*choices)]


def values_of(group: Group) -> list[str]:
    """All that can stand in the place of a group: of chosen alternatives each selection once, in the written order."""
    if group.low == group.high == 1:
        return [text for one in group.alternatives for text in texts_of(one)]
    return list(_selections(group))


def _selections(group: Group) -> Iterator[str]:
    texts = [[text.strip() for text in texts_of(one)] for one in group.alternatives]
    for number in range(group.low, group.high + 1):
        for chosen in itertools.combinations(texts, number):
            for choice in itertools.product(*chosen):
                yield group.separator.join(choice)


def fold(text: str) -> str:
    """One line of a text, with single spaces."""
    return " ".join(text.split())
