"""Wildcards: ``__name__`` stands for the values in a file of that name, each a line of text with alternatives itself.

Files lie in folders that the user has: name.txt with a value a line, or .yaml, .yml and .json with lists under keys.
`a/name` is a file in a subfolder or a key below a key, ``*`` any name, ``**`` any number of folders. A file is found by
listing the folders, never by making a path of a name, so that no name leads out of them.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .alternatives import NO_WEIGHT, WEIGHT, Group, Sequence, parse_line, shorten
from .text_form import whole_characters

TABLES = (".yaml", ".yml", ".json")
ENDINGS = (".txt", *TABLES)
MOST_FILES = 100_000  # in all folders
MOST_BYTES = 8_000_000  # of a file
MOST_VALUES = 100_000  # of a wildcard
MOST_TABLES = 64_000_000  # bytes of all .yaml and .json files
DEEPEST = 20  # wildcards in values of wildcards; keys below keys
TILDE = ("~", "@", "!")  # how other programs ask for another way to draw
BYTE_ORDER_MARK = "\ufeff"
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Values:
    """A list of a file.

    Attributes
    ----------
    path : Path
    lines : tuple of (str, str)
        Where in the file, and what is there.
    """

    path: Path
    lines: tuple[tuple[str, str], ...]


class Wildcards:
    """The wildcards of some folders, read when they are first asked for.

    Parameters
    ----------
    folders : iterable of str or Path
        Of a name that is in several the first one counts. Folders that there are not are passed over.

    Attributes
    ----------
    remarks : list of str
        What a user should hear about the files that were read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hierdiff_core.prompts.prompt_set import PromptReader
    >>> from hierdiff_core.prompts.wildcards import Wildcards
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "colour.txt").write_text("red\\ngreen")
    ...     reader = PromptReader(Wildcards([folder]))
    ...     reader.add_text("a __colour__ apple")
    >>> reader.prompts
    ['a red apple', 'a green apple']
    """

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        self.folders = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders))
        self.remarks: list[str] = []
        self._files: dict[str, Path] | None = None  # a text file by its name
        self._tables: list[tuple[str, Path]] = []  # (name of the folder, file)
        self._lists: dict[str, Values] | None = None  # of the tables, by their names
        self._groups: dict[tuple[str, bool], Group | None] = {}
        self._open: list[str] = []  # names that are being read

    def group(self, name: str, limited: bool = True) -> Group | None:
        """The group that a wildcard stands for, or None if there is no such wildcard.

        Parameters
        ----------
        name : str
            Without the underscores.
        limited : bool
            As of `parse_line`.

        Raises
        ------
        ValueError
            Names the wildcard and the file that cannot be read, is empty, or leads back to itself.
        """
        key = (name, limited)
        if key not in self._groups:
            if name in self._open:
                around = " → ".join(f"__{each}__" for each in [*self._open[self._open.index(name) :], name])
                raise ValueError(f"a wildcard must not lead back to itself: {around}")
            if len(self._open) >= DEEPEST:
                raise ValueError(f"wildcards lie more than {DEEPEST} deep in each other: __{self._open[0]}__ …")
            self._open.append(name)
            try:
                self._groups[key] = self._read(name, limited)
            finally:
                self._open.pop()
        return self._groups[key]

    def like(self, name: str) -> str | None:
        """A name that there is and that is much like this one."""
        known = [*self._text_files(), *self._listed()]
        return next(iter(get_close_matches(name.lower(), known, 1)), None)

    def stamp(self) -> str:
        """Another text when a file has changed, come or gone."""
        paths = [*self._text_files().values(), *(path for _, path in self._tables)]
        return repr([(str(path), *_state(path)) for path in paths])

    def _read(self, name, limited):
        found = self._found(_plain(name))
        if not found:
            return None
        group = Group(0, limited, f"__{shorten(name)}__")
        for values in found:
            for place, text in values.lines:
                where = f"__{shorten(name)}__ ({values.path.name}, {place})"
                try:
                    group.add(*self._parsed(text, limited, where))
                except ValueError as error:
                    raise type(error)(f"{where}: {error}") from None
                if len(group.alternatives) > MOST_VALUES:
                    raise ValueError(f"__{shorten(name)}__ has more than {MOST_VALUES} values; use a part of them")
        if not group.alternatives:
            files = ", ".join(values.path.name for values in found[:3])
            raise ValueError(f"the wildcard __{shorten(name)}__ is empty: write a value per line into {files}")
        return group

    def _parsed(self, text, limited, where):
        """Sequence and weight of a value."""
        weight = WEIGHT.match(text)
        if weight is None and (wrong := NO_WEIGHT.match(text)):
            raise ValueError(f"{shorten(wrong[1])}:: is no weight: write a number of 0 or more, such as 2::red")
        text, number = (text[weight.end() :].strip(), float(weight[1])) if weight else (text, 1.0)
        if not re.search(r"[{}|\\]|__", text):
            sequence = Sequence(limited)
            sequence.add_text(text)
            return sequence, number
        sequence, oddities = parse_line(text, lambda name: self.group(name, limited), limited)
        if "wildcard" in oddities:
            self._remark(f"{where} has {oddities['wildcard']}: there is no such wildcard; it is used as written")
        return sequence, number

    def _remark(self, text):
        if text not in self.remarks:
            self.remarks.append(text)

    # --- finding

    def _found(self, name: str) -> list[Values]:
        """All lists of a name; of one that is nowhere as it is, those of this name in any folder."""
        for wanted in (name, f"**/{name}"):
            if "*" not in wanted:
                if wanted in self._text_files():
                    return [self._of_file(self._text_files()[wanted])]
                found = [self._listed()[wanted]] if wanted in self._listed() else []
            else:
                pattern = re.compile(_translated(wanted))
                found = [self._of_file(path) for key, path in self._text_files().items() if pattern.fullmatch(key)]
                found += [values for key, values in self._listed().items() if pattern.fullmatch(key)]
            if found:
                return found
        return []

    def _text_files(self) -> dict[str, Path]:
        if self._files is None:
            self._files = {}
            for number, (name, path) in enumerate(each for folder in self.folders for each in files_in(folder)):
                if number >= MOST_FILES:
                    raise ValueError(f"there are more than {MOST_FILES} wildcard files; use folders with fewer")
                if path.suffix.lower() == ".txt":
                    self._files.setdefault(_plain(name[: -len(path.suffix)]), path)
                else:
                    self._tables.append((name.rpartition("/")[0], path))
        return self._files

    def _listed(self) -> dict[str, Values]:
        """Lists of the tables; a file that cannot be read is told and passed over: it may be meant for others."""
        if self._lists is None:
            self._text_files()
            self._lists, size = {}, 0
            for folder, path in self._tables:
                size += _state(path)[1]
                if size > MOST_TABLES:
                    raise ValueError(f"the .yaml and .json files of wildcards have more than {MOST_TABLES} bytes")
                try:
                    for name, values in table_of(path, self._text(path)):
                        self._lists.setdefault(_plain(f"{folder}/{name}" if folder else name), values)
                except ValueError as error:
                    self._remark(str(error))
        return self._lists

    def _of_file(self, path):
        lines = enumerate(self._text(path).splitlines(), start=1)
        kept = ((f"line {number}", line.strip()) for number, line in lines)
        return Values(path, tuple((place, line) for place, line in kept if line and not line.startswith("#")))

    def _text(self, path):
        """Text of a file in UTF-8, or UTF-16 or UTF-32 with their mark; else in Windows-1252, with a remark."""
        try:
            with open(path, "rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(f"the wildcard file {path.name} cannot be read: {error.strerror or error}") from None
        if len(data) > MOST_BYTES:
            raise ValueError(f"the wildcard file {path.name} has more than {MOST_BYTES} bytes; split it")
        encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            if encoding != "utf-8":
                raise ValueError(f"the wildcard file {path.name} is damaged; save it as UTF-8") from None
            text = data.decode("cp1252", errors="replace")
            self._remark(f"{path.name} is not UTF-8 and was read as Windows-1252: save it as UTF-8")
        return whole_characters(text.removeprefix(BYTE_ORDER_MARK).replace("\0", ""))


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name below the folder, path) of its wildcard files, in order: none that are hidden or outside of it."""
    root = os.path.realpath(folder)
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)
            if name.startswith(".") or not name.lower().endswith(ENDINGS):
                continue
            if os.path.islink(path) and os.path.commonpath([root, os.path.realpath(path)]) != root:
                continue
            yield os.path.relpath(path, root).replace(os.sep, "/"), Path(path)


def table_of(path: Path, text: str) -> Iterator[tuple[str, Values]]:
    """Yield (name, Values) of the lists in a YAML or JSON file; of one list alone the name is the file's."""
    try:
        content = json.loads(text) if path.suffix.lower() == ".json" else _yaml(path, text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the wildcard file {path.name} cannot be read: {shorten(str(error), 120)}") from None
    if isinstance(content, (list, str)):
        content = {path.stem: content}
    budget = iter(range(MOST_VALUES))  # YAML may repeat a list any number of times
    for name, items in _lists_in(content, "", 0):
        lines = []
        for number, item in enumerate(items, start=1):
            if next(budget, None) is None:
                raise ValueError(f"the wildcard file {path.name} has more than {MOST_VALUES} values; split it")
            value = _value(item)
            lines += [(f"{name}, item {number}", value)] if value else []
        yield name, Values(path, tuple(lines))


def _lists_in(content: Any, name: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    if depth > DEEPEST:
        raise ValueError(f"keys lie more than {DEEPEST} deep in each other")
    if isinstance(content, str):
        yield name, [content]
    elif isinstance(content, list):
        yield name, content
    elif isinstance(content, Mapping):
        for key, inner in content.items():
            yield from _lists_in(inner, f"{name}/{key}" if name else str(key), depth + 1)


def _value(item: Any) -> str:
    """A value of a list: a text, a number, or {text, weight}."""
    if isinstance(item, Mapping):
        text = str(item.get("text") or item.get("content") or "")
        return f"{item['weight']}::{' '.join(text.split())}" if text and "weight" in item else " ".join(text.split())
    return " ".join(str(item).split()) if isinstance(item, (str, int, float)) and not isinstance(item, bool) else ""


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml  # ComfyUI brings it
    except ImportError:
        raise ValueError("reading .yaml files needs PyYAML: pip install pyyaml") from None
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _plain(name: str) -> str:
    """The form that all spellings of a name have in common."""
    name = name.strip().lstrip("".join(TILDE)).replace("\\", "/").strip("/")
    return re.sub(r"/+", "/", name).casefold()


def _translated(pattern: str) -> str:
    """A regular expression: * is anything but /, ** anything."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(kinds.get(part, re.escape(part)) for part in parts)


def _state(path: Path) -> tuple[int, int]:
    """Time of the last change, and size in bytes."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size
