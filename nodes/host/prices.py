"""What another run with other edits would cost: asked by the page before anything runs, without a call of the model."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

from aiohttp import web

MOST_KEPT = 32  # runs
MOST_RATES = 64  # nodes
LONGEST_ERROR = 500
UNKNOWN = "this run is no longer known: run the workflow again"
Price: TypeAlias = Callable[[str], tuple[int, int, "float | None"]]  # edits -> rows, of these reused, seconds

_prices: OrderedDict[str, Price] = OrderedDict()
_rates: OrderedDict[str, float] = OrderedDict()
_lock = threading.Lock()
_one_at_a_time = threading.Lock()  # they are only asked, and the run that goes on matters more


def offer(run: str, price: Price) -> None:
    """Let the page ask what a run would cost with other edits.

    Parameters
    ----------
    run : str
        As the tree in the page calls it.
    price : callable
        ``price(edits) -> (rows, reused, seconds)``, from any thread; it must hold no model in memory. It raises
        `ValueError` for edits that cannot be drawn.
    """
    with _lock:
        _prices[run] = price
        _prices.move_to_end(run)
        while len(_prices) > MOST_KEPT:
            _prices.popitem(last=False)


def rate_of(owner: str, measured: float | None) -> float | None:
    """Seconds of a unit of work: as a run has measured it, or the owner's last one that had something to evaluate."""
    with _lock:
        if measured is not None:
            _rates[owner] = measured
            _rates.move_to_end(owner)
            while len(_rates) > MOST_RATES:
                _rates.popitem(last=False)
        return _rates.get(owner)


def priced(asked: Any) -> dict[str, Any]:
    """The answer to a question {run, edits}: {rows, reused, seconds}, or {error}."""
    asked = asked if isinstance(asked, dict) else {}
    run, edits = asked.get("run"), asked.get("edits")
    with _lock:
        price = _prices.get(run) if isinstance(run, str) else None
    if price is None:
        return {"error": UNKNOWN}
    if not isinstance(edits, str):
        return {"error": "edits must be a text"}
    try:
        with _one_at_a_time:
            rows, reused, seconds = price(edits)
    except ValueError as error:
        return {"error": str(error)[:LONGEST_ERROR]}
    except Exception as error:  # whatever it is, it must not be taken for a price
        logging.exception("HierDiff: a price could not be told")
        return {"error": f"the price could not be told ({type(error).__name__}); the log says more"}
    known = None if seconds is None or not math.isfinite(seconds) else round(seconds, 2)
    return {"rows": int(rows), "reused": int(reused), "seconds": known}


async def price_of_run(request: web.Request) -> web.Response:
    """POST /hierdiff/price {run, edits}: what the run would cost with these edits, see `priced`."""
    try:
        asked = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return web.json_response({"error": "the request is no JSON"}, status=400)
    answer = await asyncio.get_running_loop().run_in_executor(None, priced, asked)
    return web.json_response(answer)
