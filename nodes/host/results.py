"""What nodes say of their results: told to the page that queued the run, and kept for pages that are loaded later.

The page shows it in a panel of this pack. The host's own progress texts are not used: a front end of its time puts them
into the page as HTML, newer ones drop them at the end of a run, and they go to every page that is open.

Events of the type `hierdiff.result` have node, workflow, prompt_id, state (running or done) and text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .runs import Kept, Run, is_running, running, running_part, send

EVENT = "hierdiff.result"
MOST_KEPT = 128  # nodes

_kept = Kept(MOST_KEPT)


@dataclass(frozen=True)
class Result:
    """What a node said last; `data` are entries of its history beside the text."""

    text: str
    state: str
    prompt_id: str | None
    signature: str | None
    data: dict = field(default_factory=dict)


def say(text: str, state: str = "running", now: bool = False, once: bool = False, **data: Any) -> None:
    """Show a text in the node that calls, and keep it.

    Parameters
    ----------
    text : str
        Plain; a line that begins with "⚠ " is a warning.
    state : str
        "running", or "done" for what stays until the node runs again.
    now : bool
        Send the data with the text: no output of the node will bring them.
    once : bool
        Another run with the same inputs may say something else: nobody else is told this in its place.
    **data : any
        More for pages that are loaded later; those that are there get it with the node's output.
    """
    run = running()
    if run.node is None:
        return
    text = _headlines.over(run, running_part(), text)
    signature = None if once else run.signature
    _kept.keep(run.client, run.workflow, run.node, Result(text, state, run.prompt_id, signature, data))
    message = {"node": run.node, "workflow": run.workflow, "prompt_id": run.prompt_id, "state": state, "text": text}
    send(EVENT, {**message, "data": data} if now and data else message, run.client)


def headline(text: str) -> None:
    """Let a text stand above whatever other parts of the node that calls say after it in this run.

    Of a node that is drawn as a graph of its own the page shows one text: that of the part which spoke last.
    """
    run, part = running(), running_part()
    if run.node is not None and part is not None:
        _headlines.keep(run, part, text)


class Headlines:
    """The headline of each node in the latest run of its workflow."""

    def __init__(self) -> None:
        self.known: dict[tuple, tuple[str | None, str, str]] = {}

    def keep(self, run: Run, part: str, text: str) -> None:
        """Take the headline of a node."""
        if len(self.known) >= MOST_KEPT:
            self.known.pop(next(iter(self.known)))
        self.known[run.client, run.workflow, run.node] = run.prompt_id, part, text

    def over(self, run: Run, part: str | None, text: str) -> str:
        """A text with the headline above it, where another part of the node has left one in this run."""
        prompt_id, spoke, above = self.known.get((run.client, run.workflow, run.node), (None, "", ""))
        if part in (None, spoke) or prompt_id != run.prompt_id or not text:
            return text
        return f"{above}\n{text}"


_headlines = Headlines()


async def results_of_client(request: web.Request) -> web.Response:
    """GET /hierdiff/results?clientId=…[&prompt_id=…]: what nodes said in the runs that this client queued."""
    found = [entry for entry in _kept.asked(request.query) if still_true(entry[2])]
    return web.json_response([described(*entry) for entry in found])


def still_true(result: Result) -> bool:
    """Whether a node came to an end with what it said, or is at it now."""
    return result.state == "done" or is_running(result.prompt_id)


def described(workflow: str | None, node: str, result: Result) -> dict[str, Any]:
    known = {"node": node, "workflow": workflow, "prompt_id": result.prompt_id}
    return {**known, "state": result.state, "text": result.text, "data": result.data}
