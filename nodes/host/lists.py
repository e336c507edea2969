"""Lists at the inputs of nodes that take some of them as a whole, and run once for each item of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def runs(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The inputs of each run, as the host makes them for a node that takes no lists.

    Parameters
    ----------
    lists : dict of name -> list

    Returns
    -------
    inputs : list of dict
        As many as the longest list has values; of shorter ones the last value is repeated.

    Raises
    ------
    ValueError
        If a list is empty.
    """
    for name, values in lists.items():
        if len(values) == 0:
            raise ValueError(f"{name} is an empty list; connect a node that gives at least one value")
    most = max(map(len, lists.values()))
    return [{name: values[min(i, len(values) - 1)] for name, values in lists.items()} for i in range(most)]


def runs_of(inputs: Mapping[str, Any], count: Callable[[Any], int], sources: Iterable[str]) -> list[dict[str, Any]]:
    """The inputs of each run of a node that takes a set's pictures as one batch, or as a list of single ones.

    Batches (or single pictures) in a list are one source, unless each is a source by itself: as many as there are
    prompts, or with a set of prompts for each. Then, and for lists of other things, there is a run for each item, with
    the last one of shorter lists again, as the host maps a node over lists.

    Parameters
    ----------
    inputs : dict of name -> list, or None where nothing is connected; with a list of one or more sets `prompts`
    count : callable
        How many pictures an item of a source has.
    sources : names of the inputs that bring pictures

    Returns
    -------
    runs : list of dict
        Name -> value, of a source a list; None where nothing is connected.

    Raises
    ------
    ValueError
        If a list is empty.
    """
    given = {name: values for name, values in inputs.items() if values is not None}
    prompts = given["prompts"]
    for name in sources:
        if given.get(name):
            items = given[name]
            sizes, wanted = [count(item) for item in items], len(prompts[0])
            each_is_a_set = len(prompts) > 1 or (wanted in sizes and sum(sizes) != wanted)
            given[name] = [[item] for item in items] if each_is_a_set else [items]
    return [{name: run.get(name) for name in inputs} for run in runs(given)]


def batches(images: Iterable[Any]) -> list[Any]:
    """(B, H, W, C) batches of a list of IMAGE; some packs give single pictures without B, or lists within the list."""
    found = []
    for image in images:
        if isinstance(image, (list, tuple)):
            found += batches(image)
        elif getattr(image, "ndim", 0) not in (3, 4):
            raise ValueError(f"images must come from a node such as VAE Decode or Load Image; got {kind_of(image)}")
        else:
            found.append(image[None] if image.ndim == 3 else image)
    return found


def kind_of(value: object) -> str:
    """What arrived where pictures belong, for a message."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")
