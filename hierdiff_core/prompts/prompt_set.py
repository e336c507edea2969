"""A prompt set from text, lists and arguments: one prompt a line, with alternatives in braces and wildcards.

`PromptReader` collects the prompts, keeps the limits of a set while it reads, and remembers what a user should hear:
comments that were skipped, equal prompts, syntax of other programs that means nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .alternatives import (
    ENOUGH,
    MOST_CHARACTERS,
    SHOWN,
    TooManyPrompts,
    check_characters,
    check_count,
    check_groups,
    check_length,
    expand,
    fold,
    parse_line,
)
from .draws import Draw, drawn
from .hints import Remarks, looks_like_json
from .rows import PromptRow
from .text_form import whole_characters

if TYPE_CHECKING:
    from .alternatives import Sequence as Combinations
    from .wildcards import Wildcards

KEEP, SPLIT = "keep", "split"
LINKED_LINES = (KEEP, SPLIT)
MOST_LISTED = 100_000  # items of nested lists
DEEPEST_LIST = 20

BYTE_ORDER_MARK = "\ufeff"  # left at the beginning of texts by some editors; it cannot be seen
COMMENTS = ("#", "//")
JSON_TEXT = "The text looks like JSON: write its prompts one per line (the command line reads .json and .jsonl files)"


def parse_prompts(text: str) -> list[str]:
    """Prompts of a text.

    Blank lines are skipped, and comments: lines that begin with ``#`` or ``//``, and whole lines from ``/*`` to ``*/``.
    ``{a|b}`` stands for each of its alternatives; a line with several such groups gives all combinations, the last
    group changing fastest. Groups may be nested, and ``\\{``, ``\\|``, ``\\}``, ``\\#``, and at the beginning of a
    line ``\\//`` and ``\\/*``, stand for the characters themselves. ``{2$$a|b|c}`` stands for each two of its
    alternatives, in the order in which they are written; weights, as in ``{2::a|b}``, mean nothing here. Lines end
    where `str.splitlines` ends them: also at U+2028, U+0085 and form feeds.

    Parameters
    ----------
    text : str

    Returns
    -------
    prompts : list of str

    Raises
    ------
    ValueError
        If a brace is not closed or not opened, or a limit of `alternatives` is passed: on prompts, on characters of a
        prompt and of all, on nested braces. The message names the line.
    """
    reader = PromptReader()
    reader.add_text(text)
    return reader.prompts


def check_prompts(prompts: str | Iterable[str]) -> tuple[str, ...]:
    """Prompts as all later stages can take them.

    Parameters
    ----------
    prompts : str, or iterable of str

    Returns
    -------
    prompts : tuple of str
        With whole characters, see `whole_characters`.

    Raises
    ------
    ValueError
        If there is none, or one is empty or no text.
    """
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if not prompts:
        raise ValueError("there are no prompts; write at least one line")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {i} must be text; got {describe(prompt)}")
        if not prompt.strip():
            raise ValueError(f"prompt {i} must not be empty; got {prompt[:SHOWN]!r}")
    return tuple(map(whole_characters, prompts))


class PromptReader:
    """Collects the prompts of a set.

    Parameters
    ----------
    wildcards : Wildcards, optional
        What ``__name__`` stands for; None: such names are used as they are written, with a remark.
    draw : Draw, optional
        How many prompts of each line are drawn at random; None: all combinations.

    Attributes
    ----------
    rows : list of PromptRow
        So far; those that all combinations of a line have made know their factors.
    remarks : Remarks
        What a user should hear about them.
    """

    def __init__(self, wildcards: Wildcards | None = None, draw: Draw | None = None) -> None:
        self.rows: list[PromptRow] = []
        self.wildcards, self.draw = wildcards, draw
        self.remarks = Remarks()
        self._count = self._characters = self._groups = 0
        self._seen: dict[str, int] = {}  # lines that were drawn from, and how often: equal ones draw otherwise

    @property
    def prompts(self) -> list[str]:
        """Texts of the rows."""
        return [row.text for row in self.rows]

    def add_text(self, text: str, source: str = "", comments: bool = True) -> None:
        """Add the prompts of a text as `parse_prompts` reads them.

        Parameters
        ----------
        text : str
        source : str
            What messages call the text, before the line's number; "" for the only one.
        comments : bool
            False: lines that look like comments are prompts.

        Raises
        ------
        ValueError
            As `parse_prompts`; then no prompt of the text is added.
        """
        for place, line, sequence, oddities in self.count_text(text, source, comments):
            self._add(place, line, sequence, oddities, PromptRow(""))

    def add_line(self, line: str, place: str, row: PromptRow) -> None:
        """Add the prompts of one line, such as a cell of a table: with alternatives and wildcards, never a comment.

        Parameters
        ----------
        line : str
        place : str
            What messages call the line.
        row : PromptRow
            Whose negative, seed and caption the prompts get.

        Raises
        ------
        ValueError
            As `parse_prompts`; then no prompt is added.
        """
        line = _strip(self._whole(line, place))
        self._add(place, line, *self._parse(line, place, False, ""), row)

    def _add(self, place, line, sequence, oddities, row):
        first = len(self.rows)
        drawn = self.draw and self._drawn(self.draw, place, line, sequence)
        made = expand(sequence) if drawn is None else [(text, ()) for text in drawn]
        self.rows += [replace(row, text=prompt, factors=factors) for text, factors in made if (prompt := fold(text))]
        self.remarks.line(place, line, oddities, first if len(self.rows) > first else None)

    def _drawn(self, draw, place, line, sequence):
        times = self._seen[line] = self._seen.get(line, 0) + 1
        texts = drawn(sequence, draw, f"{times}/{line}")
        if sequence.count > 1 and len(texts) < draw.count:
            self.remarks.note(f"{place} gives only {len(texts)} different prompt{'s' if len(texts) > 1 else ''}")
        try:
            self._take_room(0, sum(map(len, texts)))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        return texts

    def count_text(
        self, text: str, source: str = "", comments: bool = True
    ) -> list[tuple[str, str, Combinations, dict[str, str]]]:
        """Read a text and take its combinations off what the set has room for, without making prompts.

        It refuses what `add_text` refuses.
        """
        place = f"{source}, line" if source else "line"
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"{source or 'the text'} has {len(text)} characters; at most {MOST_CHARACTERS} are "
                "allowed: split it into several sets"
            )
        lines = [_strip(line) for line in self._whole(text, source or "the text").splitlines()]
        skipped = comment_lines(lines) if comments else []
        self.remarks.skipped(source, [number + 1 for number in skipped])
        passed, found = set(skipped), []
        for number, line in enumerate(lines):
            if line and number not in passed:
                where = f"{place} {number + 1}"
                found.append((where, line, *self._parse(line, where, comments, text)))
        return found

    def _parse(self, line, place, comments, text):
        if comments and line.startswith(("\\//", "\\/*")):
            line = line[1:]
        self._groups += line.count("{")
        try:
            check_groups(self._groups)
            sequence, oddities = parse_line(
                line, lambda name: self._wildcard(name, self.draw is None), self.draw is None
            )
            if self.draw is None:
                self._take_room(sequence.count, sequence.characters)
            else:
                self._take_room(min(self.draw.count, sequence.count), 0)
                oddities.pop("weights", None)
        except ValueError as error:
            hint = f". {JSON_TEXT}" if looks_like_json(text) else self._all_of(line, error)
            raise ValueError(f"{place}: {error}{hint}") from None
        if self.wildcards is None:
            return sequence, oddities
        self.remarks.files(self.wildcards.remarks)
        if "wildcard" in oddities:
            oddities["like"] = self.wildcards.like(oddities["wildcard"].split(", ")[0].strip("_")) or ""
        return sequence, oddities

    def _all_of(self, line, error):
        """How many prompts a line gives that gives too many."""
        if not isinstance(error, TooManyPrompts) or self.draw is not None:
            return ""
        try:
            count = parse_line(line, lambda name: self._wildcard(name, False), False)[0].count
        except ValueError:  # something else is wrong with it, further on
            return ""
        return f". The line gives {count if count < ENOUGH else 'countless'} of them" if count > 1 else ""

    def _wildcard(self, name, limited):
        return None if self.wildcards is None else self.wildcards.group(name, limited)

    def add_argument(self, text: str, source: str) -> None:
        """Add an argument of a command line: alternatives as in a text, but nothing in it is a comment."""
        first, lines = len(self.rows), [line for line in text.splitlines() if line.strip()]
        self.add_text(text, source, comments=False)
        if len(self.rows) == first:
            self.remarks.empty(source)
        if len(lines) > 1:
            self.remarks.note(f"{source} has {len(lines)} lines: one prompt each")
            for line in lines:
                if line.strip().startswith("#"):
                    self.remarks.odd("mark", source, line.strip())

    def add_verbatim(self, text: str | None, source: str, lines: str = KEEP) -> None:
        """Add a text as it is: no alternatives, no comments.

        Parameters
        ----------
        text : str or None
            None and empty texts are left out, with a remark.
        source : str
            What messages call the text.
        lines : str
            One of `LINKED_LINES`: a text with several lines stays one prompt, or is one for each line.

        Raises
        ------
        ValueError
            If it is too long, or the set has no room for it.
        """
        text = text or ""
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{source}: a text of {len(text)} characters; at most {MOST_CHARACTERS} are allowed")
        text = _strip(self._whole(text, source))
        rows = [row for row in map(_strip, text.splitlines()) if row]
        if not rows:
            self.remarks.empty(source)
            return
        try:
            check_length(max(map(len, rows)) if lines == SPLIT else len(text))
            self._take_room(len(rows) if lines == SPLIT else 1, len(text))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        if lines == KEEP and len(rows) > 1:
            self.remarks.several_lines(len(self.rows), len(rows))
        first, added = len(self.rows), rows if lines == SPLIT else [text]
        self.rows += map(PromptRow, added)
        self.remarks.verbatim(first, added)

    def _whole(self, text, source):
        whole = whole_characters(text)
        if whole.count("\ufffd") > text.count("\ufffd"):
            self.remarks.half(source)
        return whole

    def _take_room(self, count, characters):
        self._count += count
        self._characters += characters
        check_count(self._count)
        check_characters(self._characters)


def comment_lines(lines: Sequence[str]) -> list[int]:
    """Indices of the lines that are comments: of one line, or whole lines from one that begins with ``/*`` to ``*/``.

    Parameters
    ----------
    lines : list of str
        Without white space around them.
    """
    ends, end = [], None  # for each line, the next one with */ behind its first two characters
    for i in range(len(lines) - 1, -1, -1):
        ends.append((i if lines[i].find("*/", 2) >= 0 else None, end))
        end = i if "*/" in lines[i] else end
    ends.reverse()
    found, i = [], 0
    while i < len(lines):
        last = i
        if lines[i].startswith("/*"):
            here, later = ends[i]
            last = here if here is not None else later
        if last is not None and (lines[i].startswith(COMMENTS) or _closes(lines[i], lines[last], last == i)):
            found += range(i, last + 1)
            i = last
        i += 1
    return found


def _closes(first, line, same):
    """Whether a comment that begins with the line `first` ends with `line`, and nothing stands behind it."""
    return first.startswith("/*") and line.find("*/", 2 if same else 0) == len(line) - 2


def flat_texts(values: Iterable[Any], name: str) -> Iterator[tuple[str, str | None]]:
    """Yield (place, str or None) for each item of nested lists, such as ("prompts[2][0]", "a cat").

    Raises
    ------
    ValueError
        At an item that is no text, or when there are too many or too deep lists.
    """
    open_lists, seen = [(name, enumerate(values))], 0
    while open_lists:
        around, items = open_lists[-1]
        i, value = next(items, (None, None))
        if i is None:
            open_lists.pop()
            continue
        seen += 1
        place = f"{around}[{i}]"
        if isinstance(value, (list, tuple)):
            open_lists.append((place, enumerate(value)))
        elif value is None or isinstance(value, str):
            yield place, value
        else:
            raise ValueError(f"{place} must be text; got {describe(value)}. Connect an output of text")
        if seen > MOST_LISTED or len(open_lists) > DEEPEST_LIST:
            raise ValueError(f"{name} contains too many or too deeply nested lists; connect a plain list of texts")


def describe(value: Any) -> str:
    """What something is that should be a text: its type, and its value where that is a number."""
    shown = f" {value}" if type(value) in (bool, int, float) and abs(value) < 1e15 else ""
    return f"{type(value).__name__}{shown}"


def _strip(text):
    return text.strip().strip(BYTE_ORDER_MARK).strip()
