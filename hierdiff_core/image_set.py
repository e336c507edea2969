"""A set of pictures as files: names from prompts, captions, nothing overwritten."""

import json
import os
import re
from pathlib import Path
from string import Formatter

FORMATS = ("png", "webp", "jpg")
CAPTIONS = ("none", "txt", "metadata.jsonl")
METADATA = "metadata.jsonl"
# Characters and UTF-8 bytes: with a suffix and an extension below the 255 bytes of common file systems.
PROMPT_LENGTH, PROMPT_BYTES = 80, 160
NAME_LENGTH, NAME_BYTES = 120, 200
LARGEST_WIDTH = 20
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]')
RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"
}
FIELDS = "the fields are {index}, {index:04d} and the like, and {prompt}"


def safe_name(text, length=NAME_LENGTH, size=NAME_BYTES):
    """A file name, without extension, that all common file systems take.

    Parameters
    ----------
    text : str
    length, size : int   most characters and UTF-8 bytes of the result

    Returns
    -------
    name : str   never empty; characters that some system forbids become _, runs of white space one space; no dot or
        space at the ends; names that Windows reserves begin with _
    """
    name = FORBIDDEN.sub("_", " ".join(text.split())).strip(" .")
    if name.split(".")[0].rstrip(" ").upper() in RESERVED:
        name = f"_{name}"
    return name[:length].encode()[:size].decode(errors="ignore").strip(" .") or "untitled"


def check_pattern(pattern):
    """Refuse a name pattern that has other fields than index and prompt, or characters no file name may have.

    Raises
    ------
    ValueError  that says what is wrong.
    """
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"name {pattern[:200]!r} cannot be read ({error}); {FIELDS}, and {{{{ is a brace") from None
    if not pattern.strip():
        raise ValueError("name must not be empty; the default is {index:04d}_{prompt}")
    for literal, field, spec, conversion in parts:
        if FORBIDDEN.search(literal):
            raise ValueError(f'name must have none of <>:"/\\|?* and no control character; got {pattern[:200]!r}')
        if field is None:
            continue
        if field not in ("index", "prompt") or conversion:
            shown = field + (f"!{conversion}" if conversion else "")
            raise ValueError(f"name has the field {{{shown}}}; {FIELDS}")
        width = re.fullmatch(r"(\d{0,3})d?", spec or "", re.ASCII)
        if width is None or (field == "prompt" and spec) or int(width[1] or 0) > LARGEST_WIDTH:
            raise ValueError(f"name has the format {spec!r} for {field}; {FIELDS} (at most {LARGEST_WIDTH} digits)")


def file_stem(pattern, index, prompt):
    """Name of a picture, without extension, from a pattern that `check_pattern` has passed.

    Parameters
    ----------
    pattern : str      such as {index:04d}_{prompt}
    index : int        of the prompt, from 0
    prompt : str

    Returns
    -------
    stem : str         a `safe_name`
    """
    return safe_name(pattern.format(index=index, prompt=safe_name(prompt, PROMPT_LENGTH, PROMPT_BYTES)))


def check_subfolder(folder):
    """Folder names below an output folder.

    Parameters
    ----------
    folder : str     names separated by / or \\

    Returns
    -------
    parts : list of str

    Raises
    ------
    ValueError  if the path is empty, absolute, leads out, or has a name that some file system forbids.
    """
    parts = folder.strip().replace("\\", "/").rstrip("/").split("/")
    for part in parts:
        if part != safe_name(part):
            raise ValueError(
                f"folder must be plain names separated by /, below the output folder; got {folder[:200]!r}"
            )
    return parts


def caption_text(prompt):
    """Bytes of a caption file: the prompt on one line, as trainers read it."""
    return " ".join(prompt.split()).encode(errors="replace")


def caption_line(file_name, prompt):
    """Bytes of a line of metadata.jsonl, as the `datasets` library reads it for a folder of images."""
    line = json.dumps({"file_name": file_name, "text": prompt}, ensure_ascii=False)
    for separator in "\x85\u2028\u2029":  # line ends for some readers
        line = line.replace(separator, f"\\u{ord(separator):04x}")
    return f"{line}\n".encode(errors="replace")


def names_in_metadata(data):
    """File names in the bytes of a metadata.jsonl; lines that cannot be read are passed over."""
    names = set()
    for line in data.decode(errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            names.add(entry["file_name"])
    return names


class FreeNames:
    """Gives out names that no picture or caption has: name, name_2, name_3 …

    A name is taken if a file of any picture format or a caption has it, in whatever case: a caption belongs to the
    picture of its name.

    Parameters
    ----------
    files : iterable of str   names of the files that are there
    """

    def __init__(self, files=()):
        self._taken = {_key(*os.path.splitext(name)) for name in files} - {None}
        self._last = {}

    def take(self, stem):
        """The first free name for `stem`; it is taken from then on."""
        key = stem.casefold()
        number = self._last.get(key, 0) + 1
        while (name := stem if number == 1 else f"{stem}_{number}").casefold() in self._taken:
            number += 1
        self._last[key] = number
        self._taken.add(name.casefold())
        return name


def _key(stem, extension):
    known = extension.lower() in {".txt", *(f".{name}" for name in FORMATS)}
    return stem.casefold() if known else None


class SetWriter:
    """Writes pictures and captions into a folder and overwrites nothing.

    Parameters
    ----------
    folder : Path     made where it does not exist
    captions : str    one of `CAPTIONS`
    total : int       how many pictures there will be, for messages

    Attributes
    ----------
    files : list of str   pictures written so far
    size : int            their bytes, with captions

    Raises
    ------
    ValueError  if captions, an extension or a stem is none that may be: nothing is written outside of the folder.
    OSError     that says what happened, how many pictures were written and where.
    """

    def __init__(self, folder, captions, total):
        if captions not in CAPTIONS:
            raise ValueError(f"captions must be one of {', '.join(CAPTIONS)}; got {str(captions)[:80]!r}")
        self.folder, self.captions, self.total = Path(folder), captions, total
        self.files, self.size = [], 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(self.folder))
            if captions == METADATA and METADATA in names:
                names |= names_in_metadata((self.folder / METADATA).read_bytes())
        except OSError as error:
            raise self._failure(error) from error
        self._names = FreeNames(names)

    def add(self, stem, extension, data, prompt):
        """Write one picture (bytes) and its caption; both or none.

        Parameters
        ----------
        stem : str        as from `file_stem`
        extension : str   one of `FORMATS`
        """
        if extension not in FORMATS:
            raise ValueError(f"extension must be one of {', '.join(FORMATS)}; got {str(extension)[:80]!r}")
        if stem != safe_name(stem):
            raise ValueError(f"stem must be a plain file name, as file_stem gives it; got {stem[:80]!r}")
        try:
            path = self._create(stem, extension, data)
            try:
                caption = self._write_caption(path, prompt)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._failure(error) from error
        self.files.append(path.name)
        self.size += len(data) + caption

    def _create(self, stem, extension, data):
        while True:
            path = self.folder / f"{self._names.take(stem)}.{extension}"
            try:
                write_new(path, data)
            except FileExistsError:  # somebody else was quicker
                continue
            return path

    def _write_caption(self, path, prompt):
        if self.captions == "none":
            return 0
        if self.captions == "txt":
            data = caption_text(prompt)
            write_new(path.with_name(f"{path.stem}.txt"), data)
        else:
            data = caption_line(path.name, prompt)
            append(self.folder / METADATA, data)
        return len(data)

    def _failure(self, error):
        reason = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason = f"{reason} (a file where a folder is needed)"
        place = f" ({error.filename})" if error.filename else ""
        return OSError(f"{reason}{place}: {len(self.files)} of {self.total} images were written to {self.folder}")


def write_new(path, data):
    """Write a file that does not exist yet; when that fails nothing is left of it.

    Raises
    ------
    FileExistsError  if there is such a file.
    OSError          if it cannot be written.
    """
    file = open(path, "xb")  # noqa: SIM115  a failure here must not remove what another has made
    try:
        with file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def append(path, line):
    """Append a line to a file; when that fails the file is as long as before."""
    with open(path, "a+b", buffering=0) as file:  # a buffer would be written again when it is closed
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
        except BaseException:
            os.truncate(path, before)
            raise
