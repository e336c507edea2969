"""Advice as JSON: written whole, and checked when it is read, for files are shared between users."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..files.whole_files import replace
from ..plan.sensitivity import LONGEST_TEXT, bounded_text, check_settings, is_number, is_whole, shortened
from .advised_way import GOALS, Advice, Measured
from .trials import MEASURES
from .ways import way_data, way_of

FORMAT = "hierdiff-advice-1"
MOST_BYTES = 1 << 22
MOST_MEASURED, MOST_PROMPTS = 1000, 200_000
LARGEST = 1e12
NAMES = ("adherence", "detail", "fidelity")


def advice_json(advice: Advice) -> bytes:
    """Bytes of the file of an `Advice`."""
    data = {field.name: getattr(advice, field.name) for field in fields(Advice)}
    for name in ("full", "chosen"):
        data[name] = _measured_data(data[name])
    data["measured"] = [_measured_data(one) for one in advice.measured]
    return (json.dumps({"format": FORMAT, **data}, indent=1, allow_nan=False) + "\n").encode()


def advice_of_json(text: str | bytes) -> Advice:
    """Advice from its JSON.

    Parameters
    ----------
    text : str or bytes
        What `advice_json` gave, or what somebody else made.

    Returns
    -------
    advice : Advice
        Checked.

    Raises
    ------
    ValueError
        If it is no advice; it names the entry.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    missing = {field.name for field in fields(Advice)} - data.keys()
    if missing:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    check_settings(data["settings"])
    measured = data["measured"]
    if not isinstance(measured, list) or len(measured) > MOST_MEASURED:
        raise ValueError(f"measured must be a list of at most {MOST_MEASURED}; got {shortened(measured)}")
    return Advice(
        model=_text(data, "model"),
        settings=data["settings"],
        goal=_one_of(data, "goal", GOALS),
        value=_number(data, "value"),
        measure=_one_of(data, "measure", MEASURES),
        guided=_truth(data, "guided"),
        samples=_count(data, "samples"),
        prompts=_count(data, "prompts"),
        full=_measured_of(data["full"], "full"),
        measured=tuple(_measured_of(one, "measured") for one in measured),
        chosen=_measured_of(data["chosen"], "chosen"),
        met=_truth(data, "met"),
    )


def write_advice(advice: Advice, path: str | os.PathLike) -> None:
    """Save as JSON, whole or not at all, in the place of a file that may be there.

    Parameters
    ----------
    advice : Advice
        To be saved.
    path : str or Path
        Of the file.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    replace(path, advice_json(advice))


def read_advice(path: str | os.PathLike) -> Advice:
    """Load what `write_advice` saved.

    Parameters
    ----------
    path : str or Path
        Of the file.

    Returns
    -------
    advice : Advice
        Checked.

    Raises
    ------
    ValueError
        If the file is missing, too large, or holds something else; it names the file.
    """
    try:
        return advice_of_json(bounded_text(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no advice saved by What Pays Here?: {error}") from error


def _measured_data(one: Measured) -> dict[str, Any]:
    data = {field.name: getattr(one, field.name) for field in fields(Measured)}
    return {**data, "way": way_data(one.way), "losses": dict(one.losses), "errors": dict(one.errors)}


def _measured_of(data: Any, where: str) -> Measured:
    names = {field.name for field in fields(Measured)}
    if not isinstance(data, dict) or not data.keys() >= names:
        raise ValueError(f"{where} must have {', '.join(sorted(names))}; got {shortened(data)}")
    losses, errors = (_losses(data, name, where) for name in ("losses", "errors"))
    if losses.keys() != errors.keys():
        raise ValueError(f"{where} must have an error for each loss; got {shortened(list(errors))}")
    try:
        way = way_of(data["way"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    checked, cached = _truth(data, "checked"), _number(data, "cached")
    return Measured(way, _text(data, "means"), _number(data, "passes"), losses, errors, checked, cached)


def _losses(data: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    found = data[name]
    if not isinstance(found, dict) or not found or not found.keys() <= set(NAMES):
        raise ValueError(f"{name} of {where} must be by {', '.join(NAMES)}; got {shortened(found)}")
    return {own: _number(found, own) for own in found}


def _number(data: Mapping[str, Any], name: str) -> float:
    value = data[name]
    if not (is_number(value) and -LARGEST <= value <= LARGEST):
        raise ValueError(f"{name} must be a number; got {shortened(value)}")
    return float(value)


def _count(data: Mapping[str, Any], name: str) -> int:
    value = data[name]
    if not (is_whole(value) and 1 <= value <= MOST_PROMPTS):
        raise ValueError(f"{name} must be a whole number from 1 to {MOST_PROMPTS}; got {shortened(value)}")
    return int(value)


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data[name]
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT:
        raise ValueError(f"{name} must be a text of 1 to {LONGEST_TEXT} characters; got {shortened(value)}")
    value.encode()  # half surrogates: UnicodeEncodeError is a ValueError
    return value


def _one_of(data: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    if data[name] not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {shortened(data[name])}")
    return data[name]


def _truth(data: Mapping[str, Any], name: str) -> bool:
    if not isinstance(data[name], bool):
        raise ValueError(f"{name} must be true or false; got {shortened(data[name])}")
    return data[name]
