"""Before anything is queued: servers that lack a node, a model or this pack, or have another version, are named."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .client import Refused, Server, ServerGone, as_dict, words
from .workflow import SHARD, missing_choices, shape_of


@dataclass(frozen=True)
class Known:
    """What a server says of itself.

    Attributes
    ----------
    server : Server
    code : str
        Of this pack: equal where the code is. "": it has none, or an old one.
    infos : mapping of str to dict
        Of the node types that the workflow has.
    system : str
        Versions of ComfyUI and PyTorch, and the device.
    """

    server: Server
    code: str
    infos: Mapping[str, Mapping[str, Any]]
    system: str


def ask(server: Server, classes: Sequence[str]) -> Known:
    """What a server says of itself; `ServerGone` where it does not answer."""
    stats = as_dict(server.get("/system_stats"))
    try:
        code = as_dict(server.get("/hierdiff/shards")).get("code")
    except (Refused, ServerGone):
        code = ""
    infos = {}
    for name in classes:
        try:
            found = as_dict(server.get(f"/object_info/{urllib.parse.quote(name, safe='')}")).get(name)
        except Refused:
            found = None
        if isinstance(found, dict):
            infos[name] = found
    system, devices = as_dict(stats.get("system")), stats.get("devices")
    device = as_dict(devices[0]).get("name") if isinstance(devices, list) and devices else "no device"
    said = f"ComfyUI {system.get('comfyui_version')}, PyTorch {system.get('pytorch_version')}, {device}"
    return Known(server, code if isinstance(code, str) else "", infos, words(said))


def ask_all(servers: Sequence[Server], classes: Sequence[str]) -> tuple[list[Known], dict[str, str]]:
    """All servers at once: those that answer, in their order, and why others do not."""

    def attempt(server: Server) -> Known | str:
        try:
            return ask(server, classes)
        except (ServerGone, Refused) as error:
            return str(error)

    with ThreadPoolExecutor(min(len(servers), 32)) as pool:
        found = list(pool.map(attempt, servers))
    silent = {server.name: each for server, each in zip(servers, found, strict=True) if isinstance(each, str)}
    return [each for each in found if isinstance(each, Known)], silent


def problems(known: Sequence[Known], prompt: Mapping[str, Any]) -> list[str]:
    """What keeps servers from drawing one set, a line for each: nodes, versions, models.

    Parameters
    ----------
    known : sequence of Known
        At least one.
    prompt : dict
        The workflow.
    """
    lines = []
    first = known[0]
    for each in known:
        name, lacking = each.server.name, [one for one in classes_in(prompt) if one not in each.infos]
        if not each.code or SHARD in lacking:
            lines.append(f"{name} has no HierDiff, or one without Plan Shard: install the version of the others")
        elif lacking:
            lines.append(f"{name} lacks the nodes {', '.join(lacking)}")
        elif each.code != first.code:
            lines.append(f"{name} has another version of HierDiff than {first.server.name}: update both")
        else:
            other = [one for one in first.infos if shape_of(each.infos.get(one, {})) != shape_of(first.infos[one])]
            if other:
                lines.append(f"{name} has another version of {', '.join(other)} than {first.server.name}")
            lines += [f"{name} cannot run it: {line}" for line in missing_choices(dict(prompt), each.infos)]
    return lines


def differences(known: Sequence[Known]) -> list[str]:
    """A line where servers differ in what changes pictures by rounding."""
    systems = {each.system for each in known}
    if len(systems) < 2:
        return []
    told = "; ".join(f"{each.server.name}: {each.system}" for each in known)
    return [f"⚠ the servers differ, and so may pictures, slightly ({told})"]


def classes_in(prompt: Mapping[str, Any]) -> list[str]:
    """Node types of a workflow."""
    return sorted({node["class_type"] for node in prompt.values()})
