"""What another run would cost with other edits: told without a call of the model, and right."""

import asyncio
import importlib
import json
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.host


@pytest.fixture
def prices(pack, monkeypatch):
    module = importlib.import_module(f"{pack.__name__}.nodes.host.prices")
    monkeypatch.setattr(module, "_prices", type(module._prices)())
    return module


def ask(prices, body):
    async def asked():
        if isinstance(body, Exception):
            raise body
        return body

    response = asyncio.run(prices.price_of_run(SimpleNamespace(json=asked)))
    return response.status, json.loads(response.text)


def test_a_price_is_told_by_run_and_edits(prices):
    heard = []
    prices.offer("r1", lambda edits: heard.append(edits) or (96, 84, 4.321))
    assert ask(prices, {"run": "r1", "edits": "some"}) == (200, {"rows": 96, "reused": 84, "seconds": 4.32})
    assert heard == ["some"]


@pytest.mark.parametrize("seconds", [None, float("nan"), float("inf")])
def test_seconds_that_are_not_known_are_null(prices, seconds):
    prices.offer("r1", lambda edits: (1, 0, seconds))
    assert ask(prices, {"run": "r1", "edits": ""})[1]["seconds"] is None


def test_edits_that_cannot_be_drawn_say_why(prices):
    def refuse(edits):
        raise ValueError(f"edits contradict: {edits}" + "x" * 2000)

    prices.offer("r1", refuse)
    status, answer = ask(prices, {"run": "r1", "edits": "<b>"})
    assert status == 200
    assert answer["error"].startswith("edits contradict: <b>")
    assert len(answer["error"]) == 500


def test_a_failure_is_no_price(prices, caplog):
    prices.offer("r1", lambda edits: 1 / 0)
    assert "ZeroDivisionError" in ask(prices, {"run": "r1", "edits": ""})[1]["error"]
    assert "a price could not be told" in caplog.text


@pytest.mark.parametrize("body", [{}, [], None, 5, {"run": "r2", "edits": ""}, {"run": ["r1"], "edits": ""}])
def test_runs_that_are_not_known_are_said_to_be_so(prices, body):
    prices.offer("r1", lambda edits: (1, 0, None))
    assert ask(prices, body) == (200, {"error": prices.UNKNOWN})


def test_edits_must_be_a_text_and_the_request_json(prices):
    prices.offer("r1", lambda edits: pytest.fail("asked"))
    assert ask(prices, {"run": "r1", "edits": {}})[1] == {"error": "edits must be a text"}
    assert ask(prices, json.JSONDecodeError("no", "", 0))[0] == 400


def test_the_oldest_runs_are_forgotten(prices):
    for i in range(prices.MOST_KEPT + 1):
        prices.offer(f"r{i}", lambda edits, i=i: (i, 0, None))
    assert ask(prices, {"run": "r0", "edits": ""})[1] == {"error": prices.UNKNOWN}
    assert ask(prices, {"run": "r1", "edits": ""})[1]["rows"] == 1
