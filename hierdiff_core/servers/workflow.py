"""A workflow in API format, split by Plan Shard: one prompt for each shard."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHARD, PLAN, PROMPTS = "HierDiffPlanShard", "HIERDIFF_PLAN", "HIERDIFF_PROMPTS"
SAVERS = ("HierDiffSaveSet", "HierDiffSaveAsDrawn")
AT_WORK = "HierDiffSaveAsDrawn"  # it is connected to a sampler, and not behind it
FOLDER = "hierdiff_shards"  # below a server's output folder; nodes/host/shard_files.py lists what is in it
SET_FILES, OTHER_FILES = "set", "other"
MOST_NODES = 10_000
HOW_TO_EXPORT = "in ComfyUI, save it by Workflow > Export (API), which older pages have once Dev mode is on"

Prompt = dict[str, dict[str, Any]]
Infos = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SplitWorkflow:
    """A workflow whose Plan Shard nodes can be set.

    Attributes
    ----------
    prompt : dict
        In API format, with a Plan Shard.
    notes : tuple of str
        What was put into it.
    """

    prompt: Prompt
    notes: tuple[str, ...] = ()

    def shard(self, index: int, count: int, run: str) -> Prompt:
        """The prompt of a shard, whose files go into a folder of its own.

        Parameters
        ----------
        index, count : int
            Of the shard.
        run : str
            Name of the folder, below `FOLDER`.
        """
        made = copy.deepcopy(self.prompt)
        for node in made.values():
            inputs = node["inputs"]
            if node["class_type"] == SHARD:
                inputs.update(index=index, count=count)
            if node["class_type"] in SAVERS:
                inputs["folder"] = f"{FOLDER}/{run}/{SET_FILES}/{inputs.get('folder', 'set')}"
            elif isinstance(inputs.get("filename_prefix"), str):
                inputs["filename_prefix"] = f"{FOLDER}/{run}/{OTHER_FILES}/{inputs['filename_prefix']}"
        return made

    @property
    def digest(self) -> str:
        """What tells the set from others, in hexadecimal digits; the numbers of a Plan Shard are none of it."""
        plain = self.shard(1, 1, "")
        return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=8).hexdigest()


def check_prompt(workflow: Any) -> Prompt:
    """A workflow that is in API format; `ValueError` says how it is exported."""
    nodes = list(workflow.values()) if isinstance(workflow, dict) else []
    fits = all(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        for node in nodes
    )
    if not nodes or not fits:
        raise ValueError(f"this is no workflow in API format: {HOW_TO_EXPORT}")
    if len(nodes) > MOST_NODES:
        raise ValueError(f"the workflow has more than {MOST_NODES} nodes")
    for number, node in workflow.items():
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] not in workflow:
                raise ValueError(f"input {name} of node {number} comes from node {value[0]}, which is not there")
    return workflow


def is_link(value: Any) -> bool:
    """Whether an input's value is an output of another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def split(prompt: Prompt, infos: Infos) -> SplitWorkflow:
    """Find the Plan Shards of a workflow, or put one in.

    Parameters
    ----------
    prompt : dict
        From `check_prompt`.
    infos : mapping of str to dict
        What /object_info says of each node type.

    Raises
    ------
    ValueError
        If there is no plan, or several, and where files would get one name.
    """
    notes: tuple[str, ...] = ()
    if not any(node["class_type"] == SHARD for node in prompt.values()):
        prompt, note = with_shard(prompt, infos)
        notes = (note,)
    check_savers(prompt, infos)
    return SplitWorkflow(prompt, notes)


def check_savers(prompt: Prompt, infos: Infos) -> None:
    """Refuse a workflow that saves nothing, or whose shards could give two pictures one name."""
    saves = False
    for number, node in prompt.items():
        inputs = node["inputs"]
        prefix = infos.get(node["class_type"], {}).get("output_node") and "filename_prefix" in inputs
        saves |= bool(prefix) or node["class_type"] in SAVERS
        name = "folder" if node["class_type"] in SAVERS else "filename_prefix" if prefix else None
        if name and not isinstance(inputs.get(name, ""), str):
            raise ValueError(f"{name} of node {number} ({node['class_type']}) is connected; type it in")
        pattern = inputs.get("name", "{index}") if node["class_type"] in SAVERS else "{index}"
        if not isinstance(pattern, str) or "{index" not in pattern:
            raise ValueError(
                f"name of node {number} ({node['class_type']}) must have {{index}}, such as {{index:04d}}_{{prompt}}: "
                "files of two shards could have one name without it"
            )
    if not saves:
        raise ValueError("the workflow saves nothing: add Save Image Set, behind the decoder")


def with_shard(prompt: Prompt, infos: Infos) -> tuple[Prompt, str]:
    """The workflow with a Plan Shard behind its plan, and what was done in words."""
    feeds = links_of(prompt, infos, PLAN)
    drawn = {tuple(prompt[n]["inputs"][name]) for n, name in feeds if PLAN not in outputs_of(prompt[n], infos)}
    if not drawn:
        raise ValueError(
            "the workflow has no plan that can be split: put a Plan Shard between Threshold Schedule and the sampler "
            "(HierDiff Set makes its plan by itself: its menu has Unpack into nodes)"
        )
    if len(drawn) > 1:
        raise ValueError(
            f"the workflow draws {len(drawn)} plans (of nodes {', '.join(sorted(source for source, _ in drawn))}): put "
            "a Plan Shard behind the one that is to be split"
        )
    (source,) = drawn
    made, number = copy.deepcopy(prompt), free_number(prompt)
    own: dict[str, Any] = {"plan": list(source), "index": 0, "count": 1}
    for n, name in feeds:
        if tuple(prompt[n]["inputs"][name]) == source:
            made[n]["inputs"][name] = [number, 0]
    made[number] = {"class_type": SHARD, "inputs": own, "_meta": {"title": "Plan Shard"}}
    named = [(n, name) for n, name in links_of(prompt, infos, PROMPTS) if shows_pictures(made, n, number)]
    sets = {tuple(prompt[n]["inputs"][name]) for n, name in named}
    if len(sets) > 1:
        raise ValueError("the nodes behind the sampler take prompts of several sets: put a Plan Shard in by hand")
    for n, name in named:
        own["prompts"] = list(prompt[n]["inputs"][name])
        made[n]["inputs"][name] = [number, 1]
    takers = ", ".join(sorted({f"{prompt[n]['class_type']} ({n})" for n, _ in named})) or "no node"
    return (
        made,
        f"put a Plan Shard behind node {source[0]} ({prompt[source[0]]['class_type']}); {takers} takes its prompts",
    )


def links_of(prompt: Prompt, infos: Infos, kind: str) -> list[tuple[str, str]]:
    """Inputs, as (node, name), that an output of a type is connected to."""
    found = []
    for number, node in prompt.items():
        for name, value in node["inputs"].items():
            if is_link(value):
                outputs = outputs_of(prompt[value[0]], infos)
                if value[1] < len(outputs) and outputs[value[1]] == kind:
                    found.append((number, name))
    return found


def outputs_of(node: Mapping[str, Any], infos: Infos) -> list[Any]:
    """Types of a node's outputs."""
    found = infos.get(node["class_type"], {}).get("output")
    return found if isinstance(found, list) else []


def shows_pictures(prompt: Prompt, number: str, source: str) -> bool:
    """Whether a node has to do with the pictures of a plan: it is behind it, or saves what the sampler draws."""
    return prompt[number]["class_type"] == AT_WORK or source in before(prompt, number)


def before(prompt: Prompt, number: str) -> set[str]:
    """All nodes that a node depends on."""
    found: set[str] = set()
    waiting = [number]
    while waiting:
        for value in prompt[waiting.pop()]["inputs"].values():
            if is_link(value) and value[0] not in found:
                found.add(value[0])
                waiting.append(value[0])
    return found


def free_number(prompt: Prompt) -> str:
    """A number that no node has."""
    number = len(prompt) + 1
    while str(number) in prompt:
        number += 1
    return str(number)


def classes_of(prompt: Prompt) -> list[str]:
    """Node types of a workflow, and the one that is put in."""
    return sorted({*(node["class_type"] for node in prompt.values()), SHARD})


def missing_choices(prompt: Prompt, infos: Infos) -> list[str]:
    """Choices of a workflow, such as models, that a server does not have."""
    lines = []
    for number, node in prompt.items():
        specs = infos.get(node["class_type"], {}).get("input", {})
        for name, value in node["inputs"].items():
            options = options_of({**(specs.get("required") or {}), **(specs.get("optional") or {})}.get(name))
            if isinstance(value, str) and options is not None and value not in options:
                lines.append(f"{name} of node {number} ({node['class_type']}): no {value[:80]!r}")
    return lines


def options_of(spec: Any) -> list[Any] | None:
    """The choices of an input, as servers of any version say them; None for one that has none, or asks elsewhere."""
    if not isinstance(spec, list) or not spec:
        return None
    more = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if "remote" in more:
        return None
    options = spec[0] if isinstance(spec[0], list) else more.get("options") if spec[0] == "COMBO" else None
    return options if isinstance(options, list) and options else None


def shape_of(info: Mapping[str, Any]) -> str:
    """What must be the same on all servers of a node type: names and types of inputs and outputs, not choices."""
    specs = info.get("input") if isinstance(info.get("input"), dict) else {}
    inputs: dict[str, Any] = {}
    for kind in ("required", "optional"):
        for name, spec in ((specs or {}).get(kind) or {}).items():
            first = spec[0] if isinstance(spec, list) and spec else None
            inputs[name] = [kind, "COMBO" if isinstance(first, list) else first]
    return json.dumps([inputs, info.get("output"), info.get("output_node")], sort_keys=True)
