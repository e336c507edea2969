"""Questions to the page that queued a run: the run waits for the answer, and goes on without one when its time is over.

The client gets events of the type `hierdiff.pick`:

- ``ask``: all of `Question.described`
- ``closed``: id, node, workflow; the question is answered, its time is over, or the run was stopped

A page that was loaded later asks for what is open. Only the client that was asked can see a question, or answer it.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management
from aiohttp import web

from .runs import running, send

EVENT = "hierdiff.pick"
ANSWERED, LATE, NOBODY = "answered", "time is over", "nobody to ask"
SECONDS_BETWEEN_LOOKS = 0.1  # at whether the user has cancelled
RELEASED_AFTER = 60.0  # seconds, after which somebody else may need the device's memory more

_open: dict[str, Question] = {}
_lock = threading.Lock()


class Question:
    """Which of some pictures go on.

    Parameters
    ----------
    pictures : list of dict
        Files as the host's pages know them: filename, subfolder, type.
    texts : list of str
        What each picture is of.
    seconds : float
        To wait for an answer.

    Attributes
    ----------
    id : str
        Nobody can guess it.
    chosen : tuple of int, or None
        The answer, rising.
    """

    def __init__(self, pictures: Sequence[dict[str, str]], texts: Sequence[str], seconds: float) -> None:
        self.id = secrets.token_hex(8)
        self.pictures, self.texts = list(pictures), list(texts)
        self.client, self.node, self.workflow, self.prompt_id, _ = running()
        self.until = time.monotonic() + seconds
        self.chosen: tuple[int, ...] | None = None
        self.answered = threading.Event()

    @property
    def left(self) -> float:
        """Seconds that are left for the answer."""
        return max(self.until - time.monotonic(), 0.0)

    @property
    def place(self) -> dict[str, Any]:
        """Where it is asked."""
        return {"id": self.id, "node": self.node, "workflow": self.workflow, "prompt_id": self.prompt_id}

    def described(self) -> dict[str, Any]:
        """All that a page needs to ask it; its own clock may differ from this one, so it is told what is left."""
        return {**self.place, "kind": "ask", "pictures": self.pictures, "texts": self.texts, "left": self.left}

    def answer(self, chosen: Any) -> str:
        """Take an answer; returns what is wrong with it, or ""."""
        count = len(self.pictures)
        if not isinstance(chosen, list) or len(chosen) > count:
            return f"chosen must be a list of at most {count} numbers"
        for number in chosen:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
                return f"chosen must be numbers from 0 to {count - 1}; got {repr(number)[:80]}"
        if not chosen:
            return "choose at least one picture, or cancel the run"
        self.chosen = tuple(sorted(set(chosen)))
        self.answered.set()
        return ""


def ask(question: Question, waits: Callable[[], None] = lambda: None) -> str:
    """Ask the page, and wait.

    Parameters
    ----------
    question : Question
        Of the node that calls.
    waits : callable
        Called once, when nobody has answered for a while.

    Returns
    -------
    how : ANSWERED, LATE or NOBODY
        `question.chosen` is None unless it was answered.

    Notes
    -----
    Where the user cancels the run, it ends with the host's own interruption.
    """
    if question.client is None or question.node is None:
        return NOBODY
    with asked(question):
        since = time.monotonic()
        while not question.answered.wait(min(SECONDS_BETWEEN_LOOKS, question.left)) and question.left:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if time.monotonic() - since > RELEASED_AFTER:
                since = math.inf
                waits()
        comfy.model_management.throw_exception_if_processing_interrupted()
    return ANSWERED if question.answered.is_set() else LATE  # nobody can answer any more


@contextlib.contextmanager
def asked(question: Question) -> Iterator[None]:
    """A question that is open within the block."""
    with _lock:
        _open[question.id] = question
    send(EVENT, question.described(), question.client)
    try:
        yield
    finally:
        with _lock:
            del _open[question.id]
        send(EVENT, {**question.place, "kind": "closed"}, question.client)


def release_memory() -> None:
    """Give the device's memory back while a run waits: the host loads its models again when they are needed."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def open_of(client: Any) -> list[Question]:
    """What this client is asked, the oldest first."""
    return [question for question in list(_open.values()) if client and question.client == client]


async def picks_of_client(request: web.Request) -> web.Response:
    """GET /hierdiff/picks?clientId=…: the questions that this client has not answered yet."""
    return web.json_response([question.described() for question in open_of(request.query.get("clientId"))])


async def pick_of_client(request: web.Request) -> web.Response:
    """POST /hierdiff/pick {clientId, id, chosen}: answer a question; the answer is {} or {error}."""
    try:
        given = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return web.json_response({"error": "the request is no JSON"}, status=400)
    error = answered_by(given if isinstance(given, dict) else {})
    return web.json_response({"error": error} if error else {}, status=400 if error else 200)


def answered_by(given: dict[str, Any]) -> str:
    """Take a client's answer; returns what is wrong with it, or ""."""
    with _lock:
        found = [question for question in open_of(given.get("clientId")) if question.id == given.get("id")]
        if not found or found[0].answered.is_set():
            return "this question is no longer open: it was answered, its time is over, or its run has ended"
        return found[0].answer(given.get("chosen"))
