"""A node that the host runs as a graph of other nodes: from a description that the page reads too (web/set_parts.json).

A part has a type; `inputs`, by the part's input the name of one of the whole node's, or [part, output]; `values` of
inputs that the whole node does not have; `unless`, the name of an input in whose place the part stands; `if`, an input
and the value that it must have; `marks` of inputs that follow one of the whole node: the input, and pairs of a value
up to which the next holds. Inputs that nothing is known for are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.graph_utils import GraphBuilder

Parts = Mapping[str, Mapping[str, Any]]


def expanded(parts: Parts, given: Mapping[str, Any], outputs: list[tuple[str, int]]) -> tuple[list[Any], dict]:
    """The graph of a node.

    Parameters
    ----------
    parts : mapping
        The description, each part after those that it takes from.
    given : mapping
        Values of the whole node's inputs; None for one that nothing is connected to.
    outputs : list of (str, int)
        Where the whole node's outputs come from.

    Returns
    -------
    results, graph
        For `io.NodeOutput(*results, expand=graph)`.
    """
    graph, made = GraphBuilder(), {}
    for name, part in parts.items():
        if is_there(part, given):
            made[name] = graph.node(part["type"], name, **inputs_of(part, parts, given, made))
    return [source_of(output, parts, given, made) for output in outputs], graph.finalize()


def is_there(part: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether a part belongs to the graph with these inputs."""
    wanted, value = part.get("if", (None, None))
    return given.get(part.get("unless", "")) is None and (wanted is None or given.get(wanted) == value)


def inputs_of(part: Mapping[str, Any], parts: Parts, given: Mapping[str, Any], made: Mapping[str, Any]) -> dict:
    """Inputs of a part that something is known for."""
    found = {name: source_of(source, parts, given, made) for name, source in part["inputs"].items()}
    marked = {name: value_at(given[of], marks) for name, (of, marks) in part.get("marks", {}).items()}
    every = {**part.get("values", {}), **marked, **found}
    return {name: value for name, value in every.items() if value is not None}


def value_at(position: float, marks: list[list[float]]) -> float:
    """The value of the first mark that a position does not lie beyond; that of the last for one beyond all."""
    return next((value for mark, value in marks if position <= mark), marks[-1][1])


def source_of(source: Any, parts: Parts, given: Mapping[str, Any], made: Mapping[str, Any]) -> Any:
    """A value of the whole node, or a link to a part; None for what is not there."""
    if isinstance(source, str):
        return given.get(source)
    name, output = source
    if name in made:
        return made[name].out(output)
    return given.get(parts[name].get("unless", ""))
