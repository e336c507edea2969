"""Opens a folder of the output folder in the file manager, for a page on the server's own machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from ...hierdiff_core.files.names import check_subfolder
from .folders import output_folder

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
SAME_SITE = ("same-origin", "none", None)
LARGEST_QUESTION = 10_000  # bytes


async def open_folder(request: web.Request) -> web.Response:
    """POST /hierdiff/open {"folder": "sets/one"}: {"opened", "path"}; only for a page on the server's own machine."""
    if not from_this_machine(request):
        return web.json_response({"error": "folders can be opened on the server's own machine only"}, status=403)
    try:
        path = folder_of(await question_of(request))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    if not path.is_dir():
        return web.json_response({"error": "there is no such folder any more"}, status=404)
    return web.json_response({"opened": show_in_file_manager(path), "path": str(path)})


async def question_of(request: web.Request) -> Any:
    """The folder that is asked for; `ValueError` for what is no small JSON object with one."""
    if request.content_type != "application/json" or (request.content_length or 0) > LARGEST_QUESTION:
        raise ValueError("the question must be a small JSON object")
    question = await request.json()
    if not isinstance(question, dict):
        raise ValueError("the question must be a JSON object")
    return question.get("folder")


def from_this_machine(request: web.Request) -> bool:
    """Whether a page on this machine asks: no other address, no proxy between, no other site, no name of another host.

    A site that gives its own name this machine's address has its name in `Host`.
    """
    host = request.host.rsplit(":", 1)[0].strip("[]") if request.host else ""
    return (
        is_loopback(request.remote)
        and (host == "localhost" or is_loopback(host))
        and not any(name in request.headers for name in FORWARDED)
        and request.headers.get("Sec-Fetch-Site") in SAME_SITE
    )


def is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def folder_of(folder: Any) -> Path:
    """Path of a folder of the output folder; `ValueError` for one that leads elsewhere."""
    root = os.path.realpath(output_folder())
    path = os.path.realpath(os.path.join(root, *check_subfolder(folder)))
    if os.path.commonpath([root, path]) != root:
        raise ValueError("folder must lie in the output folder")
    return Path(path)


def show_in_file_manager(path: Path) -> bool:
    """Open a folder; False on a machine without a desktop."""
    if sys.platform == "win32":
        os.startfile(path)
        return True
    desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    opener = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if not desktop or opener is None:
        return False
    quiet = subprocess.DEVNULL
    subprocess.Popen([opener, str(path)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    return True
