"""A prompt of a run drawn once more, alone and unshared, for the page to compare: a graph for the host's own queue.

It is the run's graph with some nodes more, of which only the last is to be executed. All nodes of the run keep their
names and inputs, so that the host goes on keeping what it made of them; of those between the plan and the sampler there
is a copy, with another plan.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from .live_tree import tree_of_client
from .runs import COPIES, is_link, signature

PLAN, LATENT, IMAGE, VAE = "HIERDIFF_PLAN", "LATENT", "IMAGE", "VAE"
SAVES = "HierDiffSaveAsDrawn"
SAMPLES = ("MODEL", "GUIDER", "CONDITIONING", "SAMPLER")  # inputs of nodes that sample once more
PREFIX = COPIES  # without a colon, which would be a place in a subgraph
LAST = f"{PREFIX}compare"
Prompt = dict[str, Any]


# In two parts: scanners take a file that holds the name for one that registers nodes
CLASSES = "NODE_CLASS" + "_MAPPINGS"


class Impossible(ValueError):
    """There is no such graph; the message is for the user."""


def comparison(prompt: Prompt, sampler: str, i: int) -> Prompt:
    """A run's graph with nodes that draw one prompt alone, and compare its picture with the run's.

    Parameters
    ----------
    prompt : dict
        As the page queued it, node id -> {"class_type", "inputs"}.
    sampler : str
        The node that drew the set.
    i : int
        Which prompt of the set.

    Returns
    -------
    prompt : dict
        `LAST` is the node to execute.

    Raises
    ------
    Impossible
        It says what the graph lacks.
    """
    copied = between_plan_and(prompt, sampler)
    way = decoding(prompt, sampler)
    made: Prompt = {}
    for name in copied:
        inputs = {
            key: unshared(made, value, i) if is_plan(prompt, value) else linked(value, copied, "alone")
            for key, value in prompt[name]["inputs"].items()
            if not (is_link(value) and prompt.get(value[0], {}).get("class_type") == SAVES)  # a picture alone is no set
        }
        made[copy_of(name, "alone")] = {**prompt[name], "inputs": inputs}
    one = {"samples": [sampler, way.slot], "batch_index": i, "length": 1}
    made[f"{PREFIX}shared"] = {"class_type": "LatentFromBatch", "inputs": one}
    pictures = {
        "shared": decoded(prompt, made, way, [f"{PREFIX}shared", 0], "shared"),
        "unshared": decoded(prompt, made, way, [copy_of(sampler, "alone"), way.slot], "alone"),
    }
    made[LAST] = {"class_type": "HierDiffCompare", "inputs": pictures}
    return {**prompt, **made}


def between_plan_and(prompt: Prompt, sampler: str) -> list[str]:
    """The nodes that a plan reaches on its way to the sampler, and the sampler itself."""
    before = set(ancestors(prompt, sampler))
    reached = {name for name in before if any(is_plan(prompt, value) for _, value in links(prompt, name))}
    reached = {name for name in reached if PLAN not in outputs_of(prompt, name)}  # those change the plan only
    if not reached:
        raise Impossible("no plan leads to this sampler in the workflow that was run")
    grown = True
    while grown:
        more = {name for name in before - reached if any(value[0] in reached for _, value in links(prompt, name))}
        reached, grown = reached | more, bool(more)
    return sorted(reached)


def ancestors(prompt: Prompt, name: str) -> Iterator[str]:
    """A node and all nodes before it."""
    seen, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in prompt:
            continue
        seen.add(name)
        yield name
        waiting += [value[0] for _, value in links(prompt, name)]


class Way(NamedTuple):
    """How the workflow makes pictures of a sampler's latents.

    slot : int                        the sampler's output
    steps : list of (node, input)     each takes what comes from the one before; the last gives pictures
    vae : link, or None               where no node does: for VAE Decode
    """

    slot: int
    steps: list[tuple[str, str]]
    vae: list | None = None


def decoding(prompt: Prompt, sampler: str) -> Way:
    """The shortest way from a sampler to pictures."""
    slots = latents_of(prompt, sampler)
    if not slots:
        raise Impossible(f"{class_of(prompt, sampler)} gives no latents, which comparing needs")
    queue: list[tuple[int, list, list]] = [(slot, [], [sampler, slot]) for slot in slots]
    seen = {sampler}
    for slot, steps, link in queue:  # which grows meanwhile
        for user, key in users(prompt, link):
            if user in seen or not is_passive(prompt, user):
                continue
            seen.add(user)
            longer = [*steps, (user, key)]
            if IMAGE in outputs_of(prompt, user):
                return Way(slot, longer)
            queue += [(slot, longer, [user, s]) for s in latents_of(prompt, user)]
    return Way(slots[0], [], some_vae(prompt, sampler))


def latents_of(prompt: Prompt, name: str) -> list[int]:
    """Which outputs of a node are latents."""
    return [slot for slot, kind in enumerate(outputs_of(prompt, name)) if kind == LATENT]


def is_passive(prompt: Prompt, name: str) -> bool:
    """Whether a node only changes or decodes latents: it neither samples nor writes."""
    kinds = {kind_of(prompt, value) for _, value in links(prompt, name)}
    kind = class_known(class_of(prompt, name))
    return not (kinds & set(SAMPLES)) and not getattr(kind, "OUTPUT_NODE", False)


def some_vae(prompt: Prompt, sampler: str) -> list:
    """A link to a VAE: one that takes part in the set, else any of the workflow."""
    users_of_latents = {name for name in prompt if any(value[0] == sampler for _, value in links(prompt, name))}
    near = [*users_of_latents, *ancestors(prompt, sampler)]
    for name in [*near, *prompt]:
        for _, value in links(prompt, name):
            if kind_of(prompt, value) == VAE:
                return value
    raise Impossible("nothing in the workflow makes pictures of the latents: connect VAE Decode, and run it again")


def decoded(prompt: Prompt, made: Prompt, way: Way, latent: list, suffix: str) -> list:
    """A link to the picture of a latent, by copies of the nodes on the way."""
    if way.vae is not None:
        own = f"{PREFIX}{suffix}-picture"
        made[own] = {"class_type": "VAEDecode", "inputs": {"samples": latent, "vae": way.vae}}
        return [own, 0]
    link, name = latent, ""
    for name, key in way.steps:
        if link is not latent:
            link = [link[0], prompt[name]["inputs"][key][1]]
        inputs = {other: link if other == key else value for other, value in prompt[name]["inputs"].items()}
        link = [copy_of(name, f"{suffix}-picture"), 0]
        made[link[0]] = {**prompt[name], "inputs": inputs}
    return [link[0], outputs_of(prompt, name).index(IMAGE)]


def unshared(made: Prompt, plan: list, i: int) -> list:
    """A link to the plan of one prompt, by a node for each plan."""
    name = copy_of(f"{plan[0]}-{plan[1]}", "unshared")
    made[name] = {"class_type": "HierDiffUnshared", "inputs": {"plan": plan, "prompt": i}}
    return [name, 0]


def linked(value: Any, copied: list[str], suffix: str) -> Any:
    """An input of a copy: what comes from a copied node comes from its copy."""
    return [copy_of(value[0], suffix), value[1]] if is_link(value) and value[0] in copied else value


def copy_of(name: str, suffix: str) -> str:
    """What the copy of a node is called."""
    return f"{PREFIX}{name.replace(':', '-')}-{suffix}"


def links(prompt: Prompt, name: str) -> list[tuple[str, list]]:
    """(input, link) of a node."""
    return [(key, value) for key, value in prompt[name].get("inputs", {}).items() if is_link(value)]


def users(prompt: Prompt, link: list) -> Iterator[tuple[str, str]]:
    """(node, input) of all that take an output."""
    for name in prompt:
        yield from ((name, key) for key, value in links(prompt, name) if value == link)


def class_of(prompt: Prompt, name: str) -> str:
    """The class of a node."""
    return prompt.get(name, {}).get("class_type", "")


def class_known(name: str) -> Any:
    """The host's class of a name, its own or any pack's; None where there is none."""
    return getattr(importlib.import_module("nodes"), CLASSES).get(name)


def outputs_of(prompt: Prompt, name: str) -> list[str]:
    """The types of a node's outputs."""
    kind = class_known(class_of(prompt, name))
    return [str(each) for each in getattr(kind, "RETURN_TYPES", ())]


def kind_of(prompt: Prompt, link: list) -> str:
    """The type of what a link carries."""
    kinds = outputs_of(prompt, link[0])
    return kinds[link[1]] if isinstance(link[1], int) and link[1] < len(kinds) else ""


def is_plan(prompt: Prompt, value: Any) -> bool:
    """Whether an input is a link to a plan."""
    return is_link(value) and kind_of(prompt, value) == PLAN


def still_there(prompt: Prompt, sampler: str, prompt_id: str | None) -> bool:
    """Whether the host still keeps what a run's sampler gave, as far as its history tells.

    It keeps what a node gave as long as each graph that is executed has that node with the same inputs.
    """
    if PromptServer.instance is None or args.cache_none:
        return False
    history = PromptServer.instance.prompt_queue.get_history()
    if prompt_id not in history:  # cleared
        return False
    after = list(history)[list(history).index(prompt_id) + 1 :]
    wanted = signature(prompt, sampler)
    return all(signature(history[other]["prompt"][2], sampler) == wanted for other in after)


async def comparison_of_client(request: web.Request) -> web.Response:
    """POST /hierdiff/compare {clientId, run, prompt}: the graph that compares a prompt of a run.

    The answer has prompt (the graph), targets (nodes to execute), extra_pnginfo, kept (whether the host still has the
    set's latents), text (the prompt's); or error.
    """
    try:
        asked = await request.json()
        return web.json_response(asked_comparison(asked if isinstance(asked, dict) else {}))
    except json.JSONDecodeError:
        return web.json_response({"error": "the request is no JSON"}, status=400)
    except Impossible as refused:
        return web.json_response({"error": str(refused)}, status=400)


def asked_comparison(asked: dict[str, Any]) -> dict[str, Any]:
    """What `comparison_of_client` answers."""
    tree = tree_of_client(asked.get("clientId"), asked.get("run"))
    if tree is None:
        raise Impossible("this run is no longer known: run the workflow again")
    queued, i = dict(tree.queued), asked.get("prompt")
    prompt = queued.pop("prompt", None) or {}
    if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < tree.plan.num_prompts:
        raise Impossible(f"there is no such prompt: the run has prompts 0 to {tree.plan.num_prompts - 1}")
    if tree.node is None or tree.node not in prompt:
        raise Impossible("the sampler was made while the workflow ran (a loop), so it cannot be run alone")
    return {
        "prompt": comparison(prompt, tree.node, i),
        "targets": [LAST],
        "extra_pnginfo": queued,
        "kept": still_there(prompt, tree.node, tree.prompt_id),
        "text": (tree.plan.prompts or [""] * tree.plan.num_prompts)[i],
    }
