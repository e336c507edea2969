"""What a user changed in a set, as JSON that a workflow keeps: the kept tree, rerolls, splits, holds and pins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checks import shown
from .sensitivity import is_whole, shortened

if TYPE_CHECKING:
    from .plan import Plan

VERSION = 1
MOST_CHARACTERS = 1 << 24
MOST_CHANGES, MOST_NAMED = 10_000, 200_000
LONGEST_NAME = 80
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
    """

    do: str
    prompts: tuple[str, ...]
    step: int = 0
    of: int = 0
    number: int = 0


@dataclass(frozen=True)
class Edits:
    """What `read_edits` finds.

    Attributes
    ----------
    kept : dict or None
        The tree that is kept: its plan, what that was made by, and digests of its embeddings.
    changes : tuple of Change
        In the order in which they were made.
    """

    kept: dict[str, Any] | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, eq=False)
class Edited:
    """A plan that edits were applied to.

    Attributes
    ----------
    plan : Plan
        To be drawn.
    notes : list of str
        What a user should know; warnings begin with "⚠ ".
    told : str
        The JSON that gives this plan again; "" where nothing was edited or kept.
    """

    plan: Plan
    notes: list[str]
    told: str


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
    kept = data.get("kept")
    if kept is not None and not isinstance(kept, dict):
        raise ValueError(f"kept of edits must be an object or null; got {shortened(kept)}")
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
    return Change(do, named, *(int(data.get(entry) or 0) for entry in ("step", "of", "number")))


def apply_edits(plan: Plan, edits: Edits, keep: bool = False, leaves: Any = None) -> Edited:
    """The plan of a run: today's prompts, on the tree that is kept, with what the user changed.

    Parameters
    ----------
    plan : Plan
        The fresh plan of today's prompts.
    edits : Edits
        From `read_edits`.
    keep : bool
        Hang new prompts onto the kept tree.
    leaves : object with ``get(digest)``, optional
        Where the embeddings of prompts that are gone are found.

    Returns
    -------
    edited : Edited
        A function of these inputs alone.

    Raises
    ------
    ValueError
        If edits contradict each other, or the plan cannot be edited.
    """
    if not keep and not edits.changes:
        return Edited(plan, [], "")
    raise ValueError("edits cannot be applied yet; clear them")
