"""What a prompt says of the nodes before one, such as the seed of its pictures, and whether one comes after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

SEEDS = ("seed", "noise_seed")
NEGATIVES = ("negative_prompt", "negative")
TEXTS = ("text", "text_g", "clip_l", "t5xxl")
VALUE = "value"  # of the host's primitive nodes


def seed_before(prompt: Mapping[str, Any] | None, node: str, inputs: Iterable[str]) -> int | None:
    """Seed of the nearest node before some inputs of a node, or None.

    Parameters
    ----------
    prompt : dict or None
        As a page queues it, node id -> {"class_type", "inputs"}.
    node : str
    inputs : iterable of str
        Names of the node's inputs that bring the pictures.
    """
    for found in nodes_before(prompt, node, inputs):
        for name in SEEDS:
            value = found.get(name)
            if is_link(value):
                value = inputs_of(prompt, value[0]).get(VALUE)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def negative_before(prompt: Mapping[str, Any] | None, node: str, inputs: Iterable[str]) -> str | None:
    """Negative text of the nearest node before some inputs of a node that has one; None where it is no plain text."""
    for found in nodes_before(prompt, node, inputs):
        for name in NEGATIVES:
            value = found.get(name)
            if isinstance(value, str):
                return value
            if is_link(value):
                texts = (texts[name] for texts in nodes_of(prompt, [value[0]]) for name in TEXTS if name in texts)
                return next((text for text in texts if isinstance(text, str)), None)
    return None


def is_taken(prompt: Mapping[str, Any] | None, node: str | None, output: int) -> bool:
    """Whether another node takes an output of a node; where the prompt does not know the node, yes."""
    if node is None or node not in (prompt or {}):
        return True
    values = (value for other in prompt or {} for value in inputs_of(prompt, other).values())
    return any(is_link(value) and [*value] == [node, output] for value in values)


def nodes_before(prompt: Mapping[str, Any] | None, node: str, inputs: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of the nodes that lead to some inputs of a node, the nearest first."""
    own = inputs_of(prompt, node)
    yield from nodes_of(prompt, [own[name][0] for name in inputs if is_link(own.get(name))])


def nodes_of(prompt: Mapping[str, Any] | None, ids: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of some nodes, and of those that lead to them."""
    waiting = list(map(str, ids))
    seen = set(waiting)
    for node in waiting:  # which grows
        found = inputs_of(prompt, node)
        yield found
        for value in found.values():
            if is_link(value) and value[0] not in seen:
                seen.add(value[0])
                waiting.append(value[0])


def inputs_of(prompt: Mapping[str, Any] | None, node: str) -> Mapping[str, Any]:
    entry = (prompt or {}).get(str(node))
    return entry.get("inputs") or {} if isinstance(entry, Mapping) else {}


def is_link(value: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)
