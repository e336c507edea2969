"""A ComfyUI server, over its ordinary HTTP API. What it answers is bounded, and believed in nothing."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

LARGEST_ANSWER = 256 * 2**20  # bytes of JSON
LARGEST_FILE = 2**36
CHUNK = 2**20
SECONDS = 20.0  # until a request has failed
LONGEST_WORDS = 500  # characters of what a server says that are shown
DIGEST_SIZE = 16  # bytes, as nodes/host/shard_files.py has them


class ServerGone(OSError):
    """A server does not answer, or not as ComfyUI does."""


class Refused(ValueError):
    """A server answered that it will not; the message is its own, shortened."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server does not choose which others are asked."""

    def redirect_request(self, *_: Any) -> None:
        """None: the answer is an error."""


# never through a proxy that the environment names: these are servers of one's own network
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirects())


class Server:
    """A server by its address.

    Parameters
    ----------
    address : str
        ``host``, ``host:port`` or ``http://host:port/path``; without a port 8188, ComfyUI's own.

    Attributes
    ----------
    url : str
        Without a slash at its end.

    Raises
    ------
    ValueError
        If it is no such address.
    """

    def __init__(self, address: str) -> None:
        self.url = url_of(address)
        self.name = self.url.partition("://")[2]

    def get(self, path: str, **query: str) -> Any:
        """The parsed JSON that a GET gives.

        Raises
        ------
        ServerGone
            If there is no answer, or it is no JSON.
        Refused
            For an HTTP error.
        """
        text = "?" + urllib.parse.urlencode(query) if query else ""
        return parsed(self.name, self._asked(urllib.request.Request(self.url + path + text)))

    def post(self, path: str, value: Any) -> Any:
        """The parsed JSON that a POST of a value as JSON gives, None where it is empty; errors as for `get`."""
        request = urllib.request.Request(self.url + path, json.dumps(value).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        answer = self._asked(request)
        return parsed(self.name, answer) if answer.strip() else None

    def _asked(self, request: urllib.request.Request) -> bytes:
        with self._opened(request) as response:
            data = self._read(response, LARGEST_ANSWER + 1)
            if len(data) > LARGEST_ANSWER:
                raise ServerGone(f"{self.name} answers with more than {LARGEST_ANSWER >> 20} MB")
            return data

    def _opened(self, request: urllib.request.Request) -> Any:
        try:
            return OPENER.open(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(said(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._gone(error) from None

    def _read(self, response: Any, most: int) -> bytes:
        """Bytes of an answer; apart from whatever is done with them, so that a full disk is not the server's fault."""
        try:
            return response.read(most)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._gone(error) from None

    def _gone(self, error: Exception) -> ServerGone:
        return ServerGone(f"{self.name} does not answer ({words(str(error) or type(error).__name__)})")

    def queue(self, prompt: dict[str, Any], prompt_id: str, extra: dict[str, Any] | None = None) -> str:
        """Queue a prompt in API format; the id that it got, which old servers choose by themselves.

        Raises
        ------
        Refused
            If a part of it cannot run; nothing is queued then.
        """
        message = {"prompt": prompt, "prompt_id": prompt_id, **({"extra_data": extra} if extra else {})}
        answer = self.post("/prompt", message)
        own = answer.get("prompt_id") if isinstance(answer, dict) else None
        if not isinstance(own, str) or len(own) > 200:
            raise ServerGone(f"{self.name} does not say what it has queued")
        if answer.get("node_errors"):
            self.cancel(own)
            raise Refused(refusal(answer))
        return own

    def ended(self, prompt_id: str) -> bool:
        """Whether a queued prompt has ended well; `Refused`, with the reason, if it has failed."""
        entry = as_dict(self.get(f"/history/{urllib.parse.quote(prompt_id)}")).get(prompt_id)
        if entry is None:
            return False
        status = as_dict(as_dict(entry).get("status"))
        if status.get("status_str") == "success":
            return True
        raise Refused(failure(status))

    def has_queued(self, prompt_id: str) -> bool:
        """Whether a prompt waits or runs."""
        queues = as_dict(self.get("/queue"))
        jobs = [job for name in ("queue_running", "queue_pending") for job in queues.get(name) or ()]
        return any(isinstance(job, list) and len(job) > 1 and job[1] == prompt_id for job in jobs)

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and stop it if it runs; another's run goes on."""
        with contextlib.suppress(ServerGone, Refused):
            self.post("/queue", {"delete": [prompt_id]})
            if self.has_queued(prompt_id):
                self.post("/interrupt", {"prompt_id": prompt_id})

    def download(self, query: dict[str, str], path: Path, size: int, digest: str) -> None:
        """Write a file of the server to a new path.

        Raises
        ------
        ServerGone
            If it is not of this size and digest; a part of it may be there.
        """
        request = urllib.request.Request(f"{self.url}/view?{urllib.parse.urlencode(query)}")
        hashed, left = hashlib.blake2b(digest_size=DIGEST_SIZE), size
        with self._opened(request) as response, open(path, "xb") as file:
            while data := self._read(response, min(CHUNK, left + 1)):
                left -= len(data)
                if left < 0:
                    break
                hashed.update(data)
                file.write(data)
        if left or hashed.hexdigest() != digest:
            raise ServerGone(f"{self.name} sent another file than it said: {words(query.get('filename', ''))}")


def url_of(address: str) -> str:
    """The URL of an address; `ValueError` for what is none."""
    text = address.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = None, None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"servers must be addresses such as 10.0.0.5:8188 or http://name:8188; got {address[:80]!r}")
    if re.search(r"[\s@\\]|[^\x21-\x7e]", text.partition("://")[2]):
        raise ValueError(f"servers must be addresses without names, passwords or spaces; got {address[:80]!r}")
    default = ":8188" if port is None and parts.scheme == "http" else ""
    return f"{parts.scheme}://{parts.netloc}{default}{parts.path}".rstrip("/")


def parsed(name: str, data: bytes) -> Any:
    """JSON; `ServerGone` for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ServerGone(
            f"{name} does not answer as ComfyUI does: {words(data[:80].decode(errors='replace'))}"
        ) from None


def as_dict(value: Any) -> dict[str, Any]:
    """A dict as it is; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def words(text: Any) -> str:
    """What a server says, for a terminal: one line of what can be printed, shortened."""
    kept = "".join(char if char.isprintable() else " " for char in str(text)[: 4 * LONGEST_WORDS])
    kept = " ".join(kept.split())
    return kept if len(kept) <= LONGEST_WORDS else kept[:LONGEST_WORDS] + " …"


def said(error: urllib.error.HTTPError) -> str:
    """Why a server answered with an HTTP error."""
    try:
        body = error.read(LARGEST_ANSWER)
    except (OSError, http.client.HTTPException):
        body = b""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    detail = refusal(found) if isinstance(found, dict) else words(body[:200].decode(errors="replace"))
    return f"HTTP {error.code}: {detail}" if detail else f"HTTP {error.code}"


def refusal(answer: dict[str, Any]) -> str:
    """What a server says is wrong with a prompt."""
    error = answer.get("error")
    lines = [f"{as_dict(error).get('message', '')} {as_dict(error).get('details', '')}" if error else ""]
    for number, node in as_dict(answer.get("node_errors")).items():
        for each in as_dict(node).get("errors") or ():
            one = as_dict(each)
            lines.append(
                f"node {number} ({as_dict(node).get('class_type')}): {one.get('message')}: {one.get('details')}"
            )
    return words("; ".join(filter(str.strip, lines)) or answer)


def failure(status: dict[str, Any]) -> str:
    """Why a run has failed, by its history."""
    for message in status.get("messages") or ():
        event, details = message if isinstance(message, list) and len(message) == 2 else (None, None)
        if event == "execution_interrupted":
            return "the run was interrupted"
        if event == "execution_error":
            own = as_dict(details)
            return words(f"node {own.get('node_id')} ({own.get('node_type')}): {own.get('exception_message')}")
    return words(f"the run ended with {status.get('status_str')!r}")
