"""What a user should hear about a prompt set: nothing is skipped, changed or drawn in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from .alternatives import shorten
from .rows import as_rows
from .text_form import normal_form

LISTED = 3  # prompts or lines that a remark names before "and N more"
AS_WRITTEN = "it is used as written"

# Oddities of `alternatives.parse_line`, and what becomes of them.
IN_LINES = {
    "single": "a single alternative is no choice, so its braces are removed; write \\{ and \\} to keep them",
    "bracket": "[ and ] do not group inside braces, so it is split at every |; nest braces instead",
    "bar": f"| separates alternatives only inside braces; {AS_WRITTEN}. Write {{a|b}} for a choice",
    "variable": "variables are not supported; the $ is used as written",
    "json": "it looks like JSON, whose braces are removed; write only the prompt (the command line reads .jsonl files)",
    "weights": "weights count only for random draws; here each alternative comes once",
    "few": "it has fewer alternatives than it chooses, so all are taken",
    "wildcard": f"there is no wildcard file of this name; {AS_WRITTEN}",
    "mark": f"arguments have no comments; {AS_WRITTEN}",
}
# Syntax of other programs, found in finished prompts. What can repeat in a pattern is bounded, or ends where the next
# match could begin: a hostile text must not take forever.
IN_PROMPTS = [
    (
        r"(?:\d{1,3}-?\d{0,3})?\$\$",
        f"only a number at the start of braces chooses, as in {{2$$a|b|c}}; {AS_WRITTEN}",
    ),
    (r"\d{0,3}\.?\d{1,3}::|::-?\d", f"only alternatives in braces have weights, as in {{2::a|b}}; {AS_WRITTEN}"),
    (
        r"(?i:<(?:lora|lyco|lycoris|locon|hypernet)\b[^<>]*>)",
        "it loads nothing and is used as written; load LoRAs with a node",
    ),
    (r"\[[^\[\]|]*\|[^\[\]]*\]", f"words in [ ] do not alternate here; {AS_WRITTEN}. Write {{a|b}} for a choice"),
    (
        r"\[(?:[^\[\]:]*:)?[^\[\]:]*:\s{0,9}\d{0,4}\.?\d{1,9}\s{0,9}\]",
        f"no prompt can change during a run; {AS_WRITTEN}",
    ),
    (r"(?<![:\w])//|/\*|\*/", f"only whole lines can be comments; {AS_WRITTEN}"),
    (r"^\[\s*(['\"])[\s\S]*\1\s*,?\s*\]$", f"it looks like a list, but is a single text; {AS_WRITTEN}"),
]
# The same, in prompts that are taken as they are.
IN_VERBATIM = [
    (r"__(?!_)[\w\-*./#]{1,80}?__", f"wildcards are not read in linked texts, tables and JSON; {AS_WRITTEN}"),
    (r"\{[^{}|]*\|[^{}]*\}", f"alternatives are not expanded in linked texts, tables and JSON; {AS_WRITTEN}"),
    (r"^(?:#|//)[^\n]*", f"comments are not recognised in linked texts, tables and JSON; {AS_WRITTEN}"),
    (r"^\{\s*\"[\s\S]*\}$", f"it may be JSON; {AS_WRITTEN}"),
]


def looks_like_json(text: str) -> bool:
    """Whether a text is a JSON object or a list of texts or objects, and no line of words."""
    text = text.strip().rstrip(",")
    if not text.startswith(("{", "[")):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(value) and (isinstance(value, dict) or any(isinstance(item, (str, dict)) for item in value))


class Remarks:
    """Gathers what there is to say while prompts are read; `notes` and `warnings` say it."""

    def __init__(self) -> None:
        self._notes, self._empty, self._halves, self._lines = [], [], [], []
        self._files = {}  # what there is to say of wildcard files, in order
        self._verbatim = []  # indices of prompts that are taken as they are
        self._found = {}  # what becomes of it -> [first place, piece of the text there, number of places]

    def skipped(self, source: str, numbers: Sequence[int]) -> None:
        """Lines of a text that are comments."""
        if numbers:
            word = "comment lines" if len(numbers) > 1 else "comment line"
            where = f" of {source}" if source else ""
            self._notes.append(f"{len(numbers)} {word} skipped{where}: {_listed(numbers)}")

    def note(self, text: str) -> None:
        self._notes.append(text)

    def files(self, texts: Sequence[str]) -> None:
        """Of wildcard files; each counts once."""
        self._files |= dict.fromkeys(texts)

    def empty(self, source: str) -> None:
        """A text that gives no prompt."""
        self._empty.append(source)

    def half(self, source: str) -> None:
        """A text with half a character."""
        self._halves.append(source)

    def several_lines(self, index: int, count: int) -> None:
        """A prompt that keeps its line breaks."""
        self._lines.append((index, count))

    def line(self, place: str, line: str, oddities: Mapping[str, str], index: int | None) -> None:
        """A line that was read, and the index of its first prompt, or None."""
        if looks_like_json(line):  # of a list of texts nothing is removed: the remark on finished prompts will do
            oddities = {"json": shorten(line)} if "{" in line else {}
        for kind, piece in oddities.items():
            if kind != "like":
                like = oddities.get("like") if kind == "wildcard" else None
                self.odd(kind, place if index is None else f"prompt {index} ({place})", piece, like)

    def odd(self, kind: str, place: str, piece: str, like: str | None = None) -> None:
        """Something in a line; `like` is a wildcard that may have been meant."""
        self._add(IN_LINES[kind] + (f". Did you mean __{like}__?" if like else ""), place, piece)

    def verbatim(self, first: int, prompts: Sequence[str]) -> None:
        self._verbatim += range(first, first + len(prompts))

    def _add(self, what, place, piece):
        self._found.setdefault(what, [place, shorten(piece), 0])[2] += 1

    def notes(self) -> list[str]:
        """What was done with the texts, a line each."""
        return list(self._notes)

    def warnings(self, prompts: Sequence[str]) -> list[str]:
        """Remarks on a finished set.

        Parameters
        ----------
        prompts : N str

        Returns
        -------
        lines : list of str
        """
        found = {key: list(value) for key, value in self._found.items()}
        for what, index, piece in self._foreign(prompts):
            found.setdefault(what, [f"prompt {index}", shorten(piece), 0])[2] += 1
        lines = [f"{place} has {piece}: {what}{_others(count - 1)}" for what, (place, piece, count) in found.items()]
        return [*self._about_lines(), *self._about_texts(), *lines, *self._files, *repeated(prompts)]

    def _foreign(self, prompts):
        verbatim = set(self._verbatim)
        for i, prompt in enumerate(prompts):
            for pattern, what in IN_PROMPTS + IN_VERBATIM if i in verbatim else IN_PROMPTS:
                match = re.search(pattern, prompt)
                if match:
                    yield what, i, match[0]

    def _about_lines(self):
        if not self._lines:
            return []
        index, count = self._lines[0]
        more = _others(len(self._lines) - 1)
        return [f"prompt {index} has {count} lines: set linked_lines to split to make each line a prompt{more}"]

    def _about_texts(self):
        lines = []
        if self._empty:
            verb = "are empty and were left out" if len(self._empty) > 1 else "is empty and was left out"
            lines.append(f"{_listed(self._empty)} {verb}")
        if self._halves:
            verb = "have" if len(self._halves) > 1 else "has"
            lines.append(f"{_listed(self._halves)} {verb} a broken character, replaced by \ufffd")
        return lines


def repeated(prompts: Sequence[str]) -> list[str]:
    """A line on prompts that are equal to an earlier one, whatever their white space and Unicode form.

    Those of another seed or negative are others.
    """
    first, pairs = {}, []
    for i, row in enumerate(as_rows(prompts).rows):
        earlier = first.setdefault((normal_form(row.text), row.seed, row.negative), i)
        if earlier != i:
            pairs.append(f"{i} to {earlier}")
    if not pairs:
        return []
    verb = "are" if len(pairs) > 1 else "is"
    return [f"{len(pairs)} of {len(prompts)} prompts {verb} equal to an earlier one: {_listed(pairs)}"]


def _listed(names):
    """ "a, b, c and 7 more" """
    more = len(names) - LISTED
    return ", ".join(map(str, names[:LISTED])) + (f" and {more} more" if more > 0 else "")


def _others(count):
    return f" ({count} more like it)" if count else ""
