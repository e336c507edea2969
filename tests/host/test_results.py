"""What nodes say of their results, whom it reaches and how long it is kept: in the host's own process."""

import asyncio
import importlib
import json
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.host

PROMPT = {
    "1": {"class_type": "HierDiffPromptSet", "inputs": {"text": "a cat\n<b>"}},
    "2": {"class_type": "HierDiffWardLinkage", "inputs": {"embeddings": ["1", 0], "metric": "chord"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 1]}},
}


def changed(node, **inputs):
    return {**PROMPT, node: {**PROMPT[node], "inputs": {**PROMPT[node]["inputs"], **inputs}}}


class FakeServer:
    """The host's server while a client's prompt runs; the earlier ones are in its history."""

    def __init__(self):
        self.sent = []
        self.history = {}
        self.prompt_queue = SimpleNamespace(currently_running={}, get_history=self.get_history)
        self.queue("p1", "page")

    def get_history(self, prompt_id):
        return {key: entry for key, entry in self.history.items() if key == prompt_id}

    def queue(self, prompt_id, client, prompt=PROMPT, workflow="flow"):
        for item in self.prompt_queue.currently_running.values():
            self.history[item[1]] = {"prompt": item}
        extra = {"client_id": client, "extra_pnginfo": {"workflow": {"id": workflow}}}
        self.client_id = client
        self.prompt_queue.currently_running = {0: (0, prompt_id, prompt, extra, [])}

    def send_sync(self, event, data, client):
        self.sent.append((event, json.loads(json.dumps(data)), client))


@pytest.fixture
def module(pack):
    return lambda name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}")


@pytest.fixture
def server(module, monkeypatch):
    fake = FakeServer()
    monkeypatch.setattr(module("runs"), "PromptServer", SimpleNamespace(instance=fake))
    monkeypatch.setattr(module("results"), "_kept", module("runs").Kept(128))
    return fake


@pytest.fixture
def run(module, server):
    """Call `show` or `tell` as a node of the prompt that runs."""
    from comfy_execution.utils import CurrentNodeContext

    def call(name, *args, node="2", **kwargs):
        (item,) = server.prompt_queue.currently_running.values()
        with CurrentNodeContext(item[1], node):
            return getattr(module("ui"), name)(None, *args, **kwargs)

    return call


@pytest.fixture
def ask(module):
    def results(client, **query):
        request = SimpleNamespace(query={"clientId": client, **query} if client is not None else query)
        return json.loads(asyncio.run(module("results").results_of_client(request)).text)

    return results


def test_text_goes_to_the_page_that_queued_the_run_as_it_is(server, run):
    shown = run("show", "<img src=x onerror=alert(1)> [[a|javascript:b]]\n⚠ a < b", hierdiff_schedule=[{"a": 1}])
    assert shown == {"text": (shown["text"][0],), "hierdiff_schedule": [{"a": 1}]}
    ((event, message, client),) = server.sent
    assert (event, client) == ("hierdiff.result", "page")
    known = {"node": "2", "workflow": "flow", "prompt_id": "p1", "state": "done"}
    assert message == {**known, "text": "<img src=x onerror=alert(1)> [[a|javascript:b]]\n⚠ a < b"}


def test_run_without_a_page_tells_nobody(server, run, ask):
    server.queue("p2", None)
    run("show", "text")
    assert server.sent == []
    assert ask(None) == ask("") == ask("None") == []


def test_node_that_runs_outside_of_a_server_still_gives_its_text(module):
    assert module("ui").show(None, "text") == {"text": ("text",)}


def test_page_that_is_loaded_later_gets_what_was_said_last(server, run, ask):
    run("tell", "Embedding …", node="1")
    run("show", "old")
    run("show", "new", hierdiff_schedule=[{"heights": [1]}], prompts=["left out"])
    first, second = ask("page")
    assert (first["node"], first["text"], first["state"]) == ("1", "Embedding …", "running")
    assert (second["node"], second["text"], second["state"]) == ("2", "new", "done")
    assert second["data"] == {"hierdiff_schedule": [{"heights": [1]}]}
    assert ask("another") == []


def test_what_a_node_said_on_the_way_does_not_outlive_its_run(server, run, ask):
    run("tell", "Loading …", node="1")
    run("show", "result")
    server.queue("p2", "page")
    assert [result["text"] for result in ask("page")] == ["result"]


def test_loading_says_so_and_then_nothing_even_where_it_fails(server, module):
    from comfy_execution.utils import CurrentNodeContext

    with CurrentNodeContext("p1", "1"), pytest.raises(OSError, match="disk"), module("ui").telling(None, "Loading …"):
        raise OSError("disk")
    assert [(message["state"], message["text"]) for _, message, _ in server.sent] == [
        ("running", "Loading …"),
        ("done", ""),
    ]


def test_cached_nodes_say_to_another_page_what_they_said(server, run, ask):
    run("show", "the tree", hierdiff_schedule=[1])
    run("show", "two prompts", node="1")
    server.queue("p2", "other", workflow="its flow")  # the same graph: all of it comes out of the host's cache
    found = {result["node"]: result for result in ask("other", prompt_id="p2")}
    assert found["1"]["text"] == "two prompts"
    assert (found["2"]["text"], found["2"]["workflow"], found["2"]["data"]) == (
        "the tree",
        "its flow",
        {"hierdiff_schedule": [1]},
    )
    server.queue("p3", "page", prompt=changed("1", text="else"))
    assert len(ask("other")) == 2  # kept for its next reload too
    assert len(ask("other", prompt_id="p2")) == 2  # out of the history
    assert ask("nobody", prompt_id="p2") == ask("other", prompt_id="p1") == ask("other", prompt_id="no") == []


def test_only_the_same_inputs_all_the_way_up_give_the_same_text(server, run, ask):
    run("show", "the tree")
    for number, (prompt, known) in enumerate(
        [(changed("3", other=1), True), (changed("2", metric="cosine"), False), (changed("1", text="dog"), False)]
    ):
        server.queue(f"q{number}", f"page {number}", prompt)
        assert bool(ask(f"page {number}", prompt_id=f"q{number}")) == known


def test_what_was_said_on_the_way_is_no_result_for_others(server, run, ask):
    run("tell", "Loading …")
    server.queue("p2", "other")
    assert ask("other", prompt_id="p2") == []


def test_long_chains_and_circles_have_signatures(module):
    signature = module("runs").signature
    chain = {str(i): {"class_type": "A", "inputs": {"x": [str(i + 1), 0]}} for i in range(5000)}
    assert len(signature(chain, "0")) == 64
    circle = {"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}, "2": {"class_type": "A", "inputs": {"x": ["1", 0]}}}
    assert signature(circle, "1") != signature(circle, "2")
    assert signature(circle, "3") is None
    assert signature({"1": {"inputs": {"text": "\ud800"}}}, "1")
