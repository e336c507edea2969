"""What the page asks of a prompt table while it is written: the checks of the node, and files that are opened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..hierdiff_core.prompts.alternatives import shorten
from ..hierdiff_core.prompts.files import MOST_BYTES
from ..hierdiff_core.prompts.table import file_cells
from .prompt_table import check_table

if TYPE_CHECKING:
    from ..hierdiff_core.prompts.cells import Cells

LONGEST_NAME = 100


async def table_of_text(request: web.Request) -> web.Response:
    """POST /hierdiff/table: a table as text -> prompts, pictures, problems; with ?rows also its rows.

    Of a text that is no table the answer is an `error`.
    """
    return await answer(request, lambda body: checked(decoded(body), "rows" in request.query))


async def table_of_file(request: web.Request) -> web.Response:
    """POST /hierdiff/table/file?name=…: the bytes of a file -> rows, or an `error` where it holds none."""
    name = shorten(request.query.get("name", "the file"), LONGEST_NAME)
    return await answer(request, lambda body: {"rows": listed(file_cells(name, body))})


async def answer(request: web.Request, work: Callable[[bytes], dict[str, Any]]) -> web.Response:
    """What `work` makes of the body, as JSON; what is wrong with a text is an answer, and no failed request."""
    try:
        body = await bounded_body(request)
        return web.json_response(await asyncio.to_thread(work, body))
    except ValueError as error:
        return web.json_response({"error": str(error)})


async def bounded_body(request: web.Request) -> bytes:
    """The body, which is not read further once it is too long."""
    body = bytearray()
    async for chunk in request.content.iter_chunked(2**16):
        body += chunk
        if len(body) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes; split the table into several sets")
    return bytes(body)


def decoded(body: bytes) -> str:
    """The text of a request: a JSON text, which keeps halves of characters too."""
    try:
        text = json.loads(body)
    except (ValueError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise ValueError("the request holds no text")
    return text


def checked(text: str, with_rows: bool) -> dict[str, Any]:
    """What the node would say to a table."""
    cells, reader, problems = check_table(text)
    answer: dict[str, Any] = {
        "prompts": len({(row.text, row.negative) for row in reader.rows}),
        "pictures": len(reader.rows),
        "problems": [problem._asdict() for problem in problems],
    }
    return {**answer, "rows": listed(cells)} if with_rows else answer


def listed(cells: Sequence[Cells]) -> list[tuple[str, ...]]:
    """Rows in the order of the columns."""
    return [astuple(row) for row in cells]
