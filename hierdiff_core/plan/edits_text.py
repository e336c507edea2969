"""What a user changed in a set, as JSON that a workflow keeps: the kept tree, rerolls, splits, holds and pins."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .checks import shown
from .plan import Plan
from .plan_file import made_by_of, plan_data, plan_of_data
from .sensitivity import is_whole, shortened

VERSION = 1
MOST_CHARACTERS = 1 << 24
MOST_CHANGES, MOST_NAMED = 10_000, 200_000
LONGEST_NAME = 80
LARGE = ("prompt_keys", "keys", "seeds")  # of a plan's data, and of its frozen tree's
DIGITS = re.compile(r"0x[0-9a-f]{1,17}", re.ASCII)
MOST_STEPS = 1000
ACTIONS = ("reroll", "split", "hold", "pin")


@dataclass(frozen=True)
class Change:
    """One thing that a user changed.

    Attributes
    ----------
    do : one of ACTIONS
        What.
    prompts : tuple of str
        Whom, see `addresses`.
    step, of : int
        At which step of how many; 0 for a pin.
    number : int
        Of a reroll; else 0.
    said : bool
        Whether a run has reported that some of its prompts are gone: the next does not say it again.
    """

    do: str
    prompts: tuple[str, ...]
    step: int = 0
    of: int = 0
    number: int = 0
    said: bool = False


@dataclass(frozen=True, eq=False)
class Kept:
    """A tree that is kept.

    Attributes
    ----------
    plan : Plan
        Of the run that it comes from, without the changes.
    digests : mapping of str to str
        Digests of its embeddings in hex digits, by those of the prompts' keys.
    anew : bool
        Whether all is to be planned anew but for pinned prompts.
    """

    plan: Plan
    digests: Mapping[str, str]
    anew: bool = False


@dataclass(frozen=True)
class Edits:
    """What `read_edits` finds.

    Attributes
    ----------
    kept : Kept or None
        The tree that is kept.
    changes : tuple of Change
        In the order in which they were made.
    """

    kept: Kept | None = None
    changes: tuple[Change, ...] = ()


def read_edits(text: str) -> Edits:
    """Edits from their JSON.

    Parameters
    ----------
    text : str
        Of the input `edits` of a sampler; empty: none.

    Returns
    -------
    edits : Edits
        Checked, but for whether their prompts are there.

    Raises
    ------
    ValueError
        If it is something else; it names the entry.

    Examples
    --------
    >>> from hierdiff_core.plan.edits import read_edits
    >>> changes = '[{"do": "split", "prompts": ["00000000000000ab"], "step": 8, "of": 40}]'
    >>> read_edits('{"version": 1, "kept": null, "changes": ' + changes + "}").changes[0].step
    8
    """
    if not isinstance(text, str):
        raise ValueError(f"edits must be a text; got {shown(text)}")
    if not text.strip():
        return Edits()
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"edits must have at most {MOST_CHARACTERS} characters; got {len(text)}")
    try:
        data = json.loads(text)
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"edits must be JSON, as the tree in the page writes it: {reason}") from None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError(f"edits must be an object of version {VERSION}; got {shortened(data)}")
    changes = data.get("changes", [])
    if not isinstance(changes, list) or len(changes) > MOST_CHANGES:
        raise ValueError(f"changes of edits must be a list of at most {MOST_CHANGES}; got {shortened(changes)}")
    kept = None if data.get("kept") is None else kept_of(data["kept"])
    return Edits(kept, tuple(change_of(change, place) for place, change in enumerate(changes)))


def change_of(data: Any, place: int) -> Change:
    """A checked change; `ValueError` that names it by its place."""
    name = f"change {place} of edits"
    if not isinstance(data, dict) or data.get("do") not in ACTIONS:
        raise ValueError(f"{name} must be an object whose do is one of {', '.join(ACTIONS)}; got {shortened(data)}")
    do, prompts = data["do"], data.get("prompts")
    if not isinstance(prompts, list) or not 0 < len(prompts) <= MOST_NAMED:
        raise ValueError(f"{name} ({do}) must name its prompts in a list; got {shortened(prompts)}")
    for prompt in prompts:
        if not isinstance(prompt, str) or not 0 < len(prompt) <= LONGEST_NAME:
            raise ValueError(f"prompts of {name} ({do}) must be keys; got {shortened(prompt)}")
    named = tuple(dict.fromkeys(prompts))
    if do == "pin":
        return Change(do, named)
    numbers = {"of": (1, MOST_STEPS), "step": (1 if do == "hold" else 0, MOST_STEPS)}
    if do == "reroll":
        numbers["number"] = (1, 2**32 - 1)
    for entry, (least, most) in numbers.items():
        value: Any = data.get(entry)
        if not (is_whole(value) and least <= value <= most):
            raise ValueError(f"{entry} of {name} ({do}) must be from {least} to {most}; got {shortened(value)}")
    if data["step"] >= data["of"]:
        raise ValueError(f"step of {name} ({do}) must be below its {data['of']} steps; got {shortened(data['step'])}")
    given = (int(data.get(entry) or 0) for entry in ("step", "of", "number"))
    return Change(do, named, *given, said=data.get("said") is True)


def kept_of(data: Any) -> Kept:
    """A kept tree, checked."""
    if not isinstance(data, dict):
        raise ValueError(f"kept of edits must be an object or null; got {shortened(data)}")
    try:
        plan = plan_of_data(of_page(data.get("plan")))
        if plan.Z is None or plan.prompt_keys is None:
            raise ValueError("it lacks Z or prompt_keys")
    except ValueError as error:
        raise ValueError(f"plan that edits keep: {error}") from error
    made_by, digests = data.get("made_by"), data.get("digests") or {}
    if not isinstance(digests, dict) or len(digests) > MOST_NAMED:
        raise ValueError(f"digests of edits must be an object of at most {MOST_NAMED}; got {shortened(digests)}")
    for value in digests.values():
        if not isinstance(value, str) or len(value) > LONGEST_NAME:
            raise ValueError(f"digests of edits must be hex digits; got {shortened(value)}")
    asked = plan.made_by if made_by is None else made_by_of(made_by)
    return Kept(replace(plan, made_by=asked), digests, data.get("anew") is True)


def told_text(plan: Plan | None, changes: Sequence[Change], digests: Mapping[str, str]) -> str:
    """The JSON that `read_edits` reads: with a plan that is kept, or without."""
    kept = None
    if plan is not None:
        made_by = None if plan.made_by is None else dict(plan.made_by)
        bare = replace(plan, sensitivity=None, guidance=None, advised=None, merge_errors=None, made_by=None)
        kept = {"plan": for_page(plan_data(bare)), "made_by": made_by, "digests": dict(digests)}
    return json.dumps({"version": VERSION, "kept": kept, "changes": [change_data(change) for change in changes]})


def for_page(data: Any) -> Any:
    """A plan's data with keys and seeds in hex digits: JavaScript reads larger numbers than 2**53 as others."""
    if not isinstance(data, dict):
        return data
    digits = {name: [v if v is None else hex(v) for v in data[name]] for name in LARGE if data.get(name) is not None}
    return {**data, **digits, "frozen": for_page(data.get("frozen"))} if "frozen" in data else {**data, **digits}


def of_page(data: Any) -> Any:
    """What `for_page` was given; whatever is no hex digits stays, for others to refuse."""
    if not isinstance(data, dict):
        return data
    whole = {name: [whole_of(v) for v in data[name]] for name in LARGE if isinstance(data.get(name), list)}
    return {**data, **whole, "frozen": of_page(data.get("frozen"))} if "frozen" in data else {**data, **whole}


def whole_of(value: Any) -> Any:
    """The number of hex digits; anything else as it is."""
    return int(value, 16) if isinstance(value, str) and DIGITS.fullmatch(value) else value


def change_data(change: Change) -> dict[str, Any]:
    """A change as JSON's types."""
    data: dict[str, Any] = {"do": change.do, "prompts": list(change.prompts)}
    if change.do != "pin":
        data |= {"step": change.step, "of": change.of}
    return data | ({"number": change.number} if change.do == "reroll" else {}) | ({"said": True} if change.said else {})
