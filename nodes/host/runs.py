"""Which run a node belongs to, and what is kept of runs for pages that are loaded later or hit the host's cache."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from comfy_execution.utils import get_executing_context
from server import PromptServer

COPIES = "hierdiff-"  # names of nodes that the page does not have begin so, see `comparison`


class Run(NamedTuple):
    """What runs now; each is None where it is not known.

    Attributes
    ----------
    client : the page that queued the run
    node : as the host calls it; in a subgraph with its path, such as "3:5"
    workflow : id that the page gave the workflow
    prompt_id : of the run
    signature : see `signature`
    """

    client: str | None = None
    node: str | None = None
    workflow: str | None = None
    prompt_id: str | None = None
    signature: str | None = None


def running() -> Run:
    """The `Run` of the node that calls."""
    context, server = get_executing_context(), PromptServer.instance
    if context is None or server is None:
        return Run()
    node = str(context.node_id)
    for _, prompt_id, prompt, extra_data, *_ in list(server.prompt_queue.currently_running.values()):
        if prompt_id == context.prompt_id:
            node = expanded_node(prompt, node)
            return Run(server.client_id, node, id_of_workflow(extra_data), prompt_id, signature(prompt, node))
    return Run(server.client_id, node, None, context.prompt_id)


def sent_along() -> dict[str, Any]:
    """What the host's nodes write into pictures of the run that calls: its prompt, and what the page sent with it."""
    context, server = get_executing_context(), PromptServer.instance
    items = list(server.prompt_queue.currently_running.values()) if context and server else []
    for _, prompt_id, prompt, extra_data, *_ in items:
        if context and prompt_id == context.prompt_id:
            more = extra_data.get("extra_pnginfo") if isinstance(extra_data, dict) else None
            return {"prompt": prompt, **(more if isinstance(more, dict) else {})}
    return {}


def running_part() -> str | None:
    """Of a node that the host runs as a graph of its own, the node in there that calls; None of any other node."""
    context, run = get_executing_context(), running()
    return None if context is None or str(context.node_id) == run.node else str(context.node_id)


def expanded_node(prompt: Mapping[str, Any], node: str) -> str:
    """The node of a prompt that the host runs as a graph of its own, of a node in there: "5" of "5.0.0.sampler"."""
    parts = node.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in prompt), node)


def is_running(prompt_id: str | None) -> bool:
    server = PromptServer.instance
    items = list(server.prompt_queue.currently_running.values()) if server is not None else []
    return any(item[1] == prompt_id for item in items)


def id_of_workflow(extra_data: Any) -> str | None:
    """The id that the page gave the workflow; None for whatever else a program queued."""
    for key in ("extra_pnginfo", "workflow", "id"):
        extra_data = extra_data.get(key) if isinstance(extra_data, dict) else None
    return extra_data if isinstance(extra_data, str) else None


def send(event: str, message: dict[str, Any], client: str | None) -> None:
    """Send to the page that queued a run, and to nobody else."""
    if PromptServer.instance is not None and client is not None:
        PromptServer.instance.send_sync(event, message, client)


def signature(prompt: Mapping[str, Any], node: str) -> str | None:
    """Hash of all that a node's result follows from: its class and inputs, and those of all nodes before it.

    Parameters
    ----------
    prompt : dict
        As a page queues it, node id -> {"class_type", "inputs"}.
    node : str

    Returns
    -------
    str, or None for a node that is not in the prompt
    """
    if node not in prompt:
        return None
    found, waiting = {}, [node]
    while waiting:
        name = waiting.pop()
        if name in found or name not in prompt:
            continue
        inputs = prompt[name].get("inputs", {})
        found[name] = [prompt[name].get("class_type"), inputs]
        waiting += [value[0] for value in inputs.values() if is_link(value)]
    text = json.dumps([node, found], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class Kept:
    """The latest of each node, by the page and the workflow that it ran in; the oldest are forgotten first.

    What is kept has `signature` and `state`, which is "done" once it can be found by its signature.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.lock = threading.Lock()
        self.items: OrderedDict[tuple, Any] = OrderedDict()  # (client, workflow, node) -> item

    def keep(self, client: str | None, workflow: str | None, node: str | None, item: Any) -> None:
        with self.lock:
            self.items.pop((client, workflow, node), None)
            self.items[client, workflow, node] = item
            while len(self.items) > self.most:
                self.items.popitem(last=False)

    def of_client(self, client: str | None) -> list[tuple[str | None, str, Any]]:
        """(workflow, node, item) of all runs that this client queued, oldest first."""
        with self.lock:
            found = list(self.items.items())
        return [(workflow, node, item) for (who, workflow, node), item in found if client and who == client]

    def of_prompt(self, client: str | None, prompt_id: str) -> list[tuple[str | None, str, Any]]:
        """(workflow, node, item) for the nodes of a prompt that this client queued, by what they follow from.

        A node that the host takes from its cache says nothing: whoever ran the same before, its item is the same. It is
        kept for this client from now on.
        """
        prompt, workflow = queued_by(client, prompt_id)
        with self.lock:
            done = [(key[2], item) for key, item in self.items.items() if item.state == "done" and key[2] in prompt]
        present = {node: signature(prompt, node) for node, _ in done}
        found = {node: item for node, item in done if item.signature == present[node]}  # the latest of each
        for node, item in found.items():
            self.keep(client, workflow, node, item)
        return [(workflow, node, item) for node, item in found.items()]

    def asked(self, query: Mapping[str, str]) -> list[tuple[str | None, str, Any]]:
        """What a page asks for: `clientId`, and `prompt_id` where it wants what its cached nodes said before."""
        client, prompt_id = query.get("clientId"), query.get("prompt_id")
        return self.of_prompt(client, prompt_id) if prompt_id else self.of_client(client)


def queued_by(client: str | None, prompt_id: str) -> tuple[dict[str, Any], str | None]:
    """(prompt, workflow) of a run if this client queued it, else ({}, None)."""
    server = PromptServer.instance
    if server is None or not client:
        return {}, None
    items = list(server.prompt_queue.currently_running.values())
    ended = server.prompt_queue.get_history(prompt_id=prompt_id).get(prompt_id)
    for _, found, prompt, extra_data, *_ in [*items, *([ended["prompt"]] if ended else [])]:
        if found == prompt_id and isinstance(extra_data, dict) and extra_data.get("client_id") == client:
            return prompt, id_of_workflow(extra_data)
    return {}, None
