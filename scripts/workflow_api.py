"""Convert a workflow that ComfyUI's front end saved into the prompt that its server runs.

ComfyUI saves workflows in UI format (nodes, links, widget values by position) and runs them in API format (inputs by
name). Only the front end converts, in the browser; this is the same conversion for scripts and tests. The rules are
those of `graphToPrompt` in ComfyUI's front end, for format version 0.4 without subgraphs.
"""

from __future__ import annotations

from typing import NamedTuple

MUTED, BYPASSED = 2, 4
NOTE_TYPES = {"Note", "MarkdownNote"}
FRONT_END_TYPES = {*NOTE_TYPES, "Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEED_NAMES = {"seed", "noise_seed"}
UPLOAD_OPTIONS = ("image_upload", "animated_image_upload", "video_upload")


class WorkflowError(ValueError):
    """The workflow cannot be converted; the message names the node and what is wrong with it."""


class Link(NamedTuple):
    """A link of the workflow: output `from_slot` of `from_node` feeds an input of type `type`."""

    from_node: int | str
    from_slot: int
    type: str


class Constant(NamedTuple):
    """What a PrimitiveNode feeds into an input: a value, not a node."""

    value: object


def to_api(workflow: dict, object_info: dict) -> dict:
    """Convert a UI-format workflow into an API-format prompt.

    Parameters
    ----------
    workflow : the parsed JSON that the front end saves (format version 0.4)
    object_info : the server's answer to GET /object_info

    Returns
    -------
    `{node id: {"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}}`, as POST /prompt takes it. Muted and
    bypassed nodes, notes, reroutes and primitives are not in it.

    Raises
    ------
    WorkflowError  if a node type is unknown to the server, or a node's widget values or links do not fit its inputs.
    """
    graph = _Graph(workflow)
    prompt = {}
    for node in graph.nodes.values():
        if node["type"] in FRONT_END_TYPES or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        info = _node_info(node, object_info)
        title = node.get("title") or info.get("display_name") or node["type"]
        inputs = {**_widget_inputs(node, info), **_linked_inputs(graph, node, info)}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    _drop_dangling(prompt)
    return prompt


def _node_info(node: dict, object_info: dict) -> dict:
    info = object_info.get(node["type"])
    if info is None:
        raise WorkflowError(
            f"{_name(node)}: the server knows no node type {node['type']!r}. "
            "Is the pack that defines it installed, and did it import? (Subgraphs are not supported.)"
        )
    return info


def _name(node: dict) -> str:
    return f"node {node['id']} ({node['type']})"


# --- Widgets -------------------------------------------------------------------------------------------------------


def widget_places(info: dict) -> list[str | None]:
    """The input that each position of a node's `widgets_values` belongs to; None for the front end's own widgets.

    Parameters
    ----------
    info : the node type's entry in /object_info
    """
    places: list[str | None] = []
    for section in ("required", "optional"):
        specs = info["input"].get(section) or {}
        for name in info.get("input_order", {}).get(section, specs):
            places += _places_of_input(name, specs[name])
        # The upload button, for which the front end appends an input to the required ones.
        if section == "required" and any(_options(spec).get(key) for spec in specs.values() for key in UPLOAD_OPTIONS):
            places.append(None)
    return places


def _options(spec: list) -> dict:
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def _places_of_input(name: str, spec: list) -> list[str | None]:
    options = _options(spec)
    kind = "COMBO" if isinstance(spec[0], list) else options.get("widgetType", spec[0])
    if kind not in WIDGET_TYPES or options.get("forceInput"):
        return []
    # "fixed", "randomize", ...: asked for by the node, and by older convention given to every seed.
    if kind == "INT" and options.get("control_after_generate", name in SEED_NAMES):
        return [name, None]
    if kind == "COMBO" and options.get("control_after_generate"):
        return [name, None, None]  # and a filter for the list
    return [name]


def _widget_inputs(node: dict, info: dict) -> dict:
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        named = {name: values[name] for name in widget_places(info) if name is not None and name in values}
        return {name: _wrapped(value) for name, value in named.items()}
    places = widget_places(info)
    if not places:
        return {}  # values of widgets that only show something
    while len(values) > len(places) and values[-1] is None:
        values = values[:-1]  # a widget that is not saved leaves a hole
    values = [*values, *_later_defaults(places[len(values) :], info)]
    if len(values) != len(places):
        expected = ", ".join(name or "(front end)" for name in places)
        raise WorkflowError(
            f"{_name(node)}: {len(values)} widget values, but the server's node has {len(places)} ({expected}). "
            "The workflow was saved with another version of the node: open it in ComfyUI, check it and save it again."
        )
    return {name: _wrapped(value) for name, value in zip(places, values, strict=True) if name is not None}


def _later_defaults(places: list[str | None], info: dict) -> list:
    """Defaults of the last widgets where all of these are optional inputs with a default, as later versions add them.

    The front end then keeps each widget's default, too.
    """
    optional = info["input"].get("optional") or {}
    known = [name is not None and "default" in _options(optional.get(name, [])) for name in places]
    return [_options(optional[name])["default"] for name in places if name is not None] if all(known) else []


def _wrapped(value: object) -> object:
    """A list among the inputs would be read as a link; the server unwraps this."""
    return {"__value__": value} if isinstance(value, list) else value


# --- Links ---------------------------------------------------------------------------------------------------------


class _Graph:
    """The workflow's nodes and links by id, and where a link really comes from."""

    def __init__(self, workflow: dict):
        if not isinstance(workflow.get("nodes"), list):
            raise WorkflowError(
                "The workflow has no list of nodes: this is not ComfyUI's UI format (is it API format already?)."
            )
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[int, Link] = {}
        for link in workflow.get("links") or []:
            if not isinstance(link, list) or len(link) < 6:
                raise WorkflowError(
                    f"Link {link!r} is not [id, from node, from slot, to node, to slot, type]; format 0.4 is expected."
                )
            self.links[link[0]] = Link(link[1], link[2], link[5])

    def source(self, node: dict, slot: dict, visited: frozenset = frozenset()) -> list | Constant | None:
        """What feeds an input slot: `[node id, output slot]`, a Constant, or None where nothing does.

        A muted node counts as a source here; its links are dropped at the end, as the front end does.
        """
        link_id = slot.get("link")
        if link_id is None:
            return None
        link = self.links.get(link_id)
        origin = self.nodes.get(link.from_node) if link else None
        if link is None or origin is None:
            raise WorkflowError(f"{_name(node)}: input {slot['name']!r} names link {link_id}, which has no origin.")
        if (origin["id"], link.from_slot) in visited:
            raise WorkflowError(f"{_name(node)}: input {slot['name']!r} is fed by a circle of links.")
        if origin.get("mode", 0) == BYPASSED:
            through = _bypass_input(origin, link.from_slot, slot.get("type") or link.type)
        elif origin["type"] == "Reroute":
            through = (origin.get("inputs") or [None])[0]
        elif origin["type"] == "PrimitiveNode":
            return _primitive_value(origin)
        else:
            return [str(origin["id"]), link.from_slot]
        return self.source(origin, through, visited | {(origin["id"], link.from_slot)}) if through else None


def _primitive_value(node: dict) -> Constant:
    values = node.get("widgets_values") or []
    if not values:
        raise WorkflowError(f"{_name(node)}: it feeds an input, but holds no value.")
    return Constant(values[0])


def _bypass_input(node: dict, slot: int, wanted: str) -> dict | None:
    """The input that a bypassed node passes through to its output `slot`.

    The front end's order: the input in the same place, then one of exactly this type, then any that would connect.
    """
    inputs = node.get("inputs") or []
    outputs = node.get("outputs") or []
    offered = outputs[slot]["type"] if slot < len(outputs) else wanted
    same_place = inputs[slot] if slot < len(inputs) else None
    if wanted in ("*", ""):
        return same_place or (inputs[0] if inputs else None)
    fitting = [item for item in inputs if _connects(item["type"], wanted) and _connects(item["type"], offered)]
    if same_place in fitting:
        return same_place
    exact = [item for item in inputs if item["type"] == wanted]
    return next(iter(exact + fitting), None)


def _connects(one: str, other: str) -> bool:
    if "*" in (one, other):
        return True
    return bool(set(str(one).upper().split(",")) & set(str(other).upper().split(",")))


def _linked_inputs(graph: _Graph, node: dict, info: dict) -> dict:
    linked = {}
    for slot in node.get("inputs") or []:
        source = graph.source(node, slot)
        if source is None:
            continue
        _check_known(node, slot["name"], info)
        linked[slot["name"]] = _wrapped(source.value) if isinstance(source, Constant) else source
    return linked


def _check_known(node: dict, name: str, info: dict) -> None:
    specs = {**(info["input"].get("required") or {}), **(info["input"].get("optional") or {})}
    # Inputs of such types grow further inputs, whose names the server does not list.
    grows = any(str(spec[0]).startswith("COMFY_") for spec in specs.values())
    if name not in specs and not grows:
        raise WorkflowError(
            f"{_name(node)}: input {name!r} is linked, but the server's node has no such input, "
            f"only {', '.join(specs) or 'none'}. The workflow was saved with another version of the node."
        )


def _drop_dangling(prompt: dict) -> None:
    """Remove links to nodes that do not run, so that the server can name the missing input."""
    for node in prompt.values():
        links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
        for name, (source, _) in links.items():
            if source not in prompt:
                del node["inputs"][name]
