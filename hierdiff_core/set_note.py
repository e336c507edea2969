"""What decides the pictures of a set: noted in its folder while it is drawn, compared when somebody goes on with it."""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .files.picture_marks import mark_of, whole_picture
from .files.set_folder import (
    LARGEST_REPORT,
    REPORT,
    TRUNK,
    UNFINISHED,
    file_name,
)
from .kandinsky.model_digest import file_digest, model_digest
from .kandinsky.model_folder import DECODER_CLASS, PRIOR_CLASS
from .prompts.rows import PromptRow, PromptRows, as_rows

FORMAT = "hierdiff-set-1"
FILES = ("prior", "decoder", "sensitivity", "advice")  # what they hold decides, not where they lie
SPEED = ("order", "micro_batch", "acceleration", "keep", "trunk_gb")  # change no picture
# Of this call, and what prompts are read from
CALL = (
    "prompts",
    "file",
    "wildcards",
    "out",
    "overwrite",
    "resume",
    "grow",
    "grown_from",
    "advise",
    "budget_given",
    "prog",
    "workers",
    "ray",
    "collect",
)
OWN = ("negative", "seed", "caption")


def own_data(row: PromptRow) -> dict[str, Any]:
    """What a report says of a prompt beside its text: its own negative, seed and caption."""
    return {name: getattr(row, name) for name in OWN if getattr(row, name) is not None}


def images_of(prompts: Sequence[str]) -> list[dict[str, Any]]:
    """What reports and pictures say of each prompt."""
    return [{"prompt": row.text, **own_data(row)} for row in as_rows(prompts).rows]


def set_note(options: Namespace, prompts: Sequence[str]) -> dict[str, Any]:
    """What unfinished.json says of a set that is about to be drawn.

    Parameters
    ----------
    options : Namespace
        Checked.
    prompts : N str
        Of the set.

    Returns
    -------
    note : dict
        "set" is a name made of all that decides the pictures.
    """
    settings = {key: plain(value) for key, value in vars(options).items() if key not in CALL}
    settings["device"] = options.device
    note = {"settings": settings, "files": digests(options), "device": options.device.partition(":")[0]}
    decides = {key: value for key, value in settings.items() if key not in (*FILES, *SPEED, "device")}
    parts = [decides, note["files"], note["device"], images_of(prompts), options.grown_from]
    name = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
    more = {} if options.grown_from is None else {"grown_from": options.grown_from}
    return {"format": FORMAT, "set": name, **note, "budget_given": options.budget_given, **more}


def plain(value: Any) -> Any:
    """An option as JSON has it; files by where they lie, whatever folder somebody is in."""
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, (list, tuple)) else value


def digests(options: Namespace) -> dict[str, str | None]:
    """What the files hold that decide the pictures."""
    found: dict[str, str | None] = {
        "prior": model_digest(options.prior, PRIOR_CLASS),
        "decoder": model_digest(options.decoder, DECODER_CLASS),
    }
    for name in ("sensitivity", "advice"):
        path = getattr(options, name)
        found[name] = None if path is None else file_digest(path).hex()
    return found


def note_path(folder: Path) -> Path:
    """Where the note of the set in a folder is: of an unfinished one, or in the report."""
    unfinished, report = folder / UNFINISHED, folder / REPORT
    return report if report.exists() and not unfinished.exists() else unfinished


def read_set(path: Path) -> dict[str, Any] | None:
    """What unfinished.json or report.json says; None where there is no such file."""
    try:
        if path.stat().st_size > LARGEST_REPORT:
            raise ValueError(f"{path} is too large for a note of this command")
        note = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({str(error)[:200]}); choose another folder with --out") from None
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of an earlier version, or not of this command: nobody can go on with it. Choose another "
            "folder with --out, or replace the set with --overwrite"
        )
    return note


def noted_settings(parser: ArgumentParser, note: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings in a note as defaults of the parser, each checked: folders are shared."""
    settings = note.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: settings must be an object; got {str(settings)[:80]}")
    found = {}
    for action in parser._actions:
        name = action.dest
        if name not in settings or name in CALL:
            continue
        value = settings[name]
        if not (value is None and action.default is None) and not fits(action, value):
            raise ValueError(f"{path}: {name} cannot be {str(value)[:80]!r}")
        found[name] = Path(value) if action.type is Path and value is not None else value
    return found


def fits(action: Any, value: Any) -> bool:
    """Whether a value from a file is one that an option may have."""
    if value is None:
        return action.default is None or action.dest in ("saving", "sensitivity")
    if isinstance(action.const, bool):
        return isinstance(value, bool)
    if action.nargs:
        numbers = isinstance(value, list) and len(value) == action.nargs
        return numbers and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in value)
    if action.choices is not None:
        return value in list(action.choices)
    if action.type in (int, float):
        kinds = (int,) if action.type is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, str)


def noted_prompts(note: Mapping[str, Any], path: Path) -> PromptRows:
    """The prompts in a note."""
    try:
        rows = [
            PromptRow(image["prompt"], **{name: image[name] for name in OWN if image.get(name) is not None})
            for image in note["images"]
        ]
    except (LookupError, TypeError):
        raise ValueError(f"{path}: images must list a prompt each") from None
    texts = [text for row in rows for text in (row.text, row.negative or "", row.caption or "")]
    if not rows or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path}: images must list a prompt each")
    if not all(row.seed is None or type(row.seed) is int for row in rows):
        raise ValueError(f"{path}: seeds must be whole numbers")
    return PromptRows(rows)


def differences(noted: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What decides pictures and is not what it was, each named."""
    told = []
    before, after = noted["settings"], now["settings"]
    for name in sorted({*before, *after} - {*FILES, *SPEED, *CALL, "device"}):
        if before.get(name) != after.get(name):
            told.append(f"{option(name)} was {shown(before.get(name))} and is {shown(after.get(name))}")
    for name in FILES:
        if noted.get("files", {}).get(name) != now["files"][name]:
            told.append(f"{option(name)} holds another {'model' if name in FILES[:2] else 'file'}")
    if noted.get("device") != now["device"]:
        told.append(f"--device was {shown(noted.get('device'))} and is {shown(now['device'])}")
    return told


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def shown(value: Any) -> str:
    return "not given" if value is None else str(value)[:80]


def prompts_that_differ(noted: Sequence[str], now: Sequence[str]) -> str:
    """What is another in two lists of prompts, in words; "" if they are the same."""
    before, after = images_of(noted), images_of(now)
    if before == after:
        return ""
    if len(before) != len(after):
        return f"there were {len(before)} prompts and are {len(after)}"
    i = next(i for i, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)
    return f"prompt {i} was {str(before[i])[:80]} and is {str(after[i])[:80]}"


def check_grown(options: Namespace, mine: Mapping[str, Any]) -> None:
    """Refuse to grow a set whose pictures were drawn in another way, or of which nothing is kept, before compute."""
    if not options.grow or (options.resume and (options.out / UNFINISHED).exists()):
        return
    note = read_set(options.grow / REPORT)
    if note is None:
        raise ValueError(f"--grow: the set in {options.grow} is not finished; go on with it first, by --resume --keep")
    if told := differences(note, mine):
        raise ValueError(
            f"--grow: {options.grow} was drawn in another way: {'; '.join(told[:5])}. Leave that out, or draw a set of "
            "its own without --grow"
        )
    if not options.trunk_gb:
        raise ValueError("--grow needs room for what was evaluated; leave --trunk-gb 0 out")
    if not all(path.exists() for path in trunk_files(options.grow / TRUNK, note["set"]).values()):
        raise ValueError(f"--grow: nothing is kept in {options.grow}: draw it with --keep")


def trunk_files(folder: Path, name: str) -> dict[str, Path]:
    """Where the embeddings and the tree of a set are kept, and what it has from the set that it grows from."""
    return {"embeddings": folder / f"{name}.embeddings.safetensors", "tree": folder / f"{name}.tree.json"}


def check_same(options: Namespace, note: dict[str, Any] | None, mine: dict[str, Any], prompts: Sequence[str]) -> None:
    """Refuse to go on with a set whose pictures would be others, by what is another."""
    if note is None:
        return
    noted = noted_prompts(note, note_path(options.out))
    told = [*filter(None, [prompts_that_differ(noted, prompts)]), *differences(note, mine)]
    if told or note.get("set") != mine["set"]:
        raise ValueError(
            f"--resume: {options.out} holds another set: {'; '.join(told[:5]) or 'its note was changed'}. Leave that "
            "out to go on with what is there, or choose another folder with --out"
        )


def finished_pictures(folder: Path, name: str, count: int) -> dict[int, Image.Image]:
    """Pictures of a set that are in its folder, by their prompts; damaged ones are removed, to be drawn again.

    Raises
    ------
    ValueError
        If something else lies in the place of a picture.
    """
    marks = {i: mark_of(folder / file_name(i)) for i in range(count) if (folder / file_name(i)).exists()}
    others = [file_name(i) for i, mark in marks.items() if (mark.get("set"), mark.get("index")) != (name, i)]
    if others:
        raise ValueError(
            f"--resume: {', '.join(others[:3])}{' …' * (len(others) > 3)} in {folder} "
            f"{'is' if len(others) == 1 else 'are'} not of this set, as nothing in "
            f"{'it' if len(others) == 1 else 'them'} says so. Move {'it' if len(others) == 1 else 'them'}, or choose "
            "another folder with --out"
        )
    found = {i: whole_picture(folder / file_name(i)) for i in marks}
    for i, picture in found.items():
        if picture is None:
            (folder / file_name(i)).unlink()
    return {i: picture for i, picture in found.items() if picture is not None}
