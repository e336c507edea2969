"""What the command ``hierdiff shard`` asks a server for: which pack this is, and which files a shard has written."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from aiohttp import web

from .folders import output_folder

FOLDER = "hierdiff_shards"  # below the output folder: nothing else is listed
RUN = re.compile(r"[0-9a-z-]{1,80}")
DIGEST_SIZE = 16
MOST_FILES = 200_000
ROOT = Path(__file__).resolve().parents[2]


async def shards_of_client(request: web.Request) -> web.Response:
    """Answer GET /hierdiff/shards: the pack, and with ``?run=name`` the files of a shard, with sizes and digests."""
    run = request.query.get("run")
    if run is None:
        code = await asyncio.get_running_loop().run_in_executor(None, code_digest)
        return web.json_response({"pack": "hierdiff", "code": code})
    if not RUN.fullmatch(run):
        return web.json_response({"error": "run must be a name of a shard"}, status=400)
    files = await asyncio.get_running_loop().run_in_executor(None, files_of_run, run)
    return web.json_response({"files": files})


def files_of_run(run: str) -> list[dict[str, Any]]:
    """The files below a shard's folder; links lead nowhere, hidden files are being written."""
    folder, found = Path(os.path.abspath(output_folder())) / FOLDER / run, []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or path.is_symlink() or len(found) >= MOST_FILES:
                continue
            size, digest = digest_of(path)
            found.append({"path": path.relative_to(folder).as_posix(), "size": size, "digest": digest})
    return found


def digest_of(path: Path) -> tuple[int, str]:
    """Size of a file, and what tells it from any other."""
    hashed, size = hashlib.blake2b(digest_size=DIGEST_SIZE), 0
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            size += len(data)
            hashed.update(data)
    return size, hashed.hexdigest()


@functools.cache
def code_digest() -> str:
    """What tells this version of the pack from any other: a digest of all its Python files."""
    hashed = hashlib.blake2b(digest_size=8)
    for path in sorted(file for top in ("nodes", "hierdiff_core") for file in (ROOT / top).rglob("*.py")):
        hashed.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return hashed.hexdigest()
