"""The growing tree and the plot of a schedule as a page gets them from a real server."""

import asyncio
import json
import math
import re
import threading
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from comfyui_host import HttpFailed
from graphs import guider_graph, messages_of, native_graph, pictures, small_graph
from PIL import Image
from trees import assert_forest, tiles_of

from hierdiff_core import Sensitivity, falling_shape

pytestmark = pytest.mark.host

EVENT = "hierdiff.tree"
PROGRESS_TEXT = 3  # the host's binary event
SUBJECTS, STYLES = ("cat face", "tiger face", "red apple"), ("noto", "flat")
GRAPHS = {"Branching Sampler": small_graph, "KSampler": native_graph, "SamplerCustomAdvanced": guider_graph}


def trees_of(comfyui, client):
    return comfyui.get(f"/hierdiff/trees?clientId={client}")


def tree_messages(events):
    return [event["data"] for event in events if event["type"] == EVENT]


# --- The messages of a run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=GRAPHS)
def heard(comfyui, request):
    """What the page heard of a run that nothing was cached of, what the server kept of it, and the history's entry."""
    graph = GRAPHS[request.param](**{"embed.seed": 40 + list(GRAPHS).index(request.param)})
    events, _ = asyncio.run(messages_of(comfyui, graph))
    entry = comfyui.wait(events[-1]["data"]["prompt_id"])
    return SimpleNamespace(tree=tree_messages(events), kept=trees_of(comfyui, "test"), entry=entry)


def test_run_begins_with_the_tree_of_the_prompts(heard):
    begin = heard.tree[0]
    assert (begin["kind"], begin["node"], begin["steps"]) == ("begin", "sample", 6)
    assert begin["prompt_id"] == heard.entry["prompt"][1]
    assert begin["prompts"] == [f"{subject}, {style} style" for subject in SUBJECTS for style in STYLES]
    assert_forest(begin)
    assert len(begin["branches"]) > 6


def test_progress_ends_with_the_numbers_of_the_plan(heard):
    plan = heard.entry["outputs"]["plan"]["text"][0]
    rows, standard = map(int, re.search(r"(\d+) rows instead of (\d+)", plan).groups())
    begin, *progress, end = heard.tree
    assert {message["run"] for message in heard.tree} == {begin["run"]}
    assert [message["kind"] for message in progress] == ["progress"] * len(progress)
    assert progress[0]["step"] == 1
    assert [message["step"] for message in progress] == sorted({message["step"] for message in progress})
    for message in progress:
        step = message["step"]
        lived = [start for start, stop, _, _ in begin["branches"] if start < step <= stop]
        assert (message["clusters"], message["standard"]) == (len(lived), 6 * step)
    assert (end["kind"], end["state"]) == ("end", "done")
    assert (end["step"], end["clusters"], end["rows"], end["standard"]) == (6, 6, rows, standard)
    assert progress[-1].items() >= {key: end[key] for key in ("step", "clusters", "rows", "standard")}.items()


def small(picture):
    return np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BOX), dtype=float)


def test_last_pictures_are_those_of_the_prompts(comfyui, heard):
    shown = {}
    for message in heard.tree[1:]:
        shown |= tiles_of(message["tiles"])
    begin = heard.tree[0]
    assert set(shown) == set(range(len(begin["branches"])))
    saved = [small(picture) for picture in pictures(comfyui, heard.entry, "save")]
    for index, (_, _, _, members) in enumerate(begin["branches"]):
        if members:
            differences = [abs(small(shown[index]) - picture).mean() for picture in saved]
            # linear colours tell the subjects apart, not yet the two styles of each
            assert np.argmin(differences) // 2 == members[0] // 2


def test_page_that_is_loaded_later_gets_the_whole_tree(heard):
    (snapshot,) = [tree for tree in heard.kept if tree["run"] == heard.tree[0]["run"]]
    assert snapshot["kind"] == "snapshot"
    begin, end = heard.tree[0], heard.tree[-1]
    assert (begin["share"], end["share"]) == (0, 1)
    assert begin["seconds"]["elapsed"] < end["seconds"]["elapsed"]
    assert all(snapshot[key] == begin[key] for key in begin if key not in ("kind", "tiles", "share", "seconds"))
    assert all(snapshot[key] == end[key] for key in end if key not in ("kind", "tiles"))
    assert set(tiles_of(snapshot["tiles"])) == set(range(len(snapshot["branches"])))


def test_page_that_is_loaded_in_mid_run_gets_the_tree_so_far_and_hears_the_end(comfyui):
    graph = small_graph(**{"sample.seed": 50, "plan.steps": 500, "plan.mode": "root share", "plan.value": 1.0})
    snapshots = []

    def ask_then_stop(event):
        if event["type"] != EVENT or event["data"]["kind"] != "progress":
            return False
        snapshots.extend(trees_of(comfyui, "test"))
        return True

    events, _ = asyncio.run(messages_of(comfyui, graph, ask_then_stop))
    assert events[-1]["type"] == "execution_interrupted"
    messages = tree_messages(events)
    (snapshot,) = [tree for tree in snapshots if tree["run"] == messages[0]["run"]]
    assert snapshot["state"] == "running"
    assert snapshot["branches"] == messages[0]["branches"]
    assert 1 <= snapshot["step"] < 500
    assert {0} <= set(tiles_of(snapshot["tiles"])) < set(range(len(snapshot["branches"])))
    end = messages[-1]
    assert (end["kind"], end["state"]) == ("end", "stopped")
    assert snapshot["rows"] <= end["rows"] < end["standard"] < 6 * 500
    (kept,) = [tree for tree in trees_of(comfyui, "test") if tree["run"] == end["run"]]
    assert kept["state"] == "stopped"


async def heard_by(comfyui, client, graph, queued_by):
    """Types of the messages that a page hears until a prompt has run and it is still; of binary ones their numbers."""
    types = []
    url = f"ws://127.0.0.1:{comfyui.port}/ws?clientId={client}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        prompt_id = await asyncio.to_thread(comfyui.queue, graph, queued_by)
        run = asyncio.create_task(asyncio.to_thread(comfyui.wait, prompt_id))
        while True:
            was_done = run.done()
            try:
                message = await socket.receive(timeout=1)
            except asyncio.TimeoutError:
                if was_done:
                    return types, await run
                continue
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)
            binary = message.type == aiohttp.WSMsgType.BINARY
            types.append(int.from_bytes(message.data[:4], "big") if binary else json.loads(message.data)["type"])


@pytest.mark.parametrize(("queued_by", "hears"), [("page", True), ("another", False), (None, False)])
def test_only_the_page_that_queued_a_run_hears_of_it(comfyui, queued_by, hears):
    graph = small_graph(**{"sample.seed": 51 + ["page", "another", None].index(queued_by)})
    types, entry = asyncio.run(heard_by(comfyui, "page", graph, queued_by))
    assert "sample" in entry["outputs"]  # it did run
    assert (EVENT in types) == hears
    assert ("hierdiff.result" in types) == hears
    assert PROGRESS_TEXT not in types  # which goes to every page, and which one front end takes for HTML


def test_nobody_else_gets_the_tree(comfyui, heard):
    assert heard.kept
    assert trees_of(comfyui, "nobody") == trees_of(comfyui, "") == comfyui.get("/hierdiff/trees") == []


def test_page_that_finds_a_run_in_the_cache_gets_its_tree_and_texts(comfyui):
    graph = small_graph(**{"embed.seed": 55})
    entry = comfyui.wait(comfyui.queue(graph, "first"))
    prompt_id = comfyui.queue(graph, "second")
    cached = comfyui.wait(prompt_id)
    assert "sample" not in cached["outputs"]  # the host does not say it again
    assert trees_of(comfyui, "second") == []
    (first,) = trees_of(comfyui, "first")
    (tree,) = trees_of(comfyui, f"second&prompt_id={prompt_id}")
    assert (tree["run"], tree["tiles"], tree["state"]) == (first["run"], first["tiles"], "done")
    assert trees_of(comfyui, f"second&prompt_id={prompt_id}&known={tree['run']}") == []
    found = comfyui.get(f"/hierdiff/results?clientId=second&prompt_id={prompt_id}")
    said = {result["node"]: result for result in found}
    assert said["set"]["text"].startswith("6 prompts")
    for node in ("embed", "link", "plan", "sample"):
        assert said[node]["text"] == entry["outputs"][node]["text"][0]
    assert said["plan"]["data"]["hierdiff_schedule"] == entry["outputs"]["plan"]["hierdiff_schedule"]
    assert comfyui.get(f"/hierdiff/results?clientId=third&prompt_id={prompt_id}") == []


def test_node_in_a_subgraph_has_its_path_and_the_workflow_its_id(comfyui):
    graph = json.loads(json.dumps(small_graph(**{"sample.seed": 54})).replace('"sample"', '"3:5"'))
    workflow = {"extra_pnginfo": {"workflow": {"id": "flow"}}}
    comfyui.wait(comfyui.queue(graph, "subgraph", workflow))
    (tree,) = trees_of(comfyui, "subgraph")
    assert (tree["node"], tree["workflow"], tree["state"]) == ("3:5", "flow", "done")


# --- The plot of a schedule ------------------------------------------------------------------------------------------

SETTINGS = {"steps": 12, "shape": "linear", "private_steps": 2, "power": 3.0, "metric": "chord", "sensitivity": None}
MEASURED = {"num_steps": 8, "shared_steps": [2, 5, 8], "change": [0.01, 0.2, 1.0]}


def shape(comfyui, **changes):
    return comfyui.post("/hierdiff/shape", {**SETTINGS, **changes})


def test_plot_of_a_run_is_in_its_history(heard):
    (data,) = heard.entry["outputs"]["plan"]["hierdiff_schedule"]
    assert data["heights"] == sorted(data["heights"])
    assert len(data["heights"]) == len(data["errors"]) == 5
    assert data["falling"] == falling_shape(6).tolist()
    assert (data["metric"], data["sensitivity"], data["weights"]) == ("cosine", None, None)


@pytest.mark.parametrize("name", ["linear", "cosine", "power"])
def test_falling_shapes_are_those_of_the_node(comfyui, name):
    expected = falling_shape(12, name, 2, power=3.0).tolist()
    assert shape(comfyui, shape=name) == {"falling": expected, "weights": None}
    weights = Sensitivity(**MEASURED).weights(12).tolist()
    assert shape(comfyui, shape=name, sensitivity=MEASURED) == {"falling": expected, "weights": weights}


@pytest.mark.parametrize("metric", ["chord", "cosine"])
def test_calibrated_shape_is_that_of_the_node(comfyui, metric):
    weights = Sensitivity(**MEASURED).weights(12)
    expected = falling_shape(12, "calibrated", 2, weights=weights, metric=metric)
    made = shape(comfyui, shape="calibrated", metric=metric, sensitivity=MEASURED)
    assert made == {"falling": expected.tolist(), "weights": weights.tolist()}


def refused(request, *args, **kwargs):
    """The error of an answer with status 400."""
    with pytest.raises(HttpFailed) as failure:
        request(*args, **kwargs)
    assert failure.value.status == 400
    return failure.value.body["error"]


WHOLE = "must be a whole number from 1 to"
BAD_SETTINGS = [
    ({"steps": 0}, f"steps {WHOLE} 1000"),
    ({"steps": -3}, f"steps {WHOLE} 1000"),
    ({"steps": 1001}, f"steps {WHOLE} 1000"),
    ({"steps": 10**9}, f"steps {WHOLE} 1000"),
    ({"steps": 10**9, "shape": "calibrated", "sensitivity": MEASURED}, f"steps {WHOLE} 1000"),
    ({"steps": 10**400}, "steps must be a number"),
    ({"steps": 2.5}, f"steps {WHOLE} 1000"),
    ({"steps": True}, "steps must be a number"),
    ({"steps": "12"}, "steps must be a number"),
    ({"steps": math.nan}, "steps must be a number"),
    ({"steps": math.inf}, "steps must be a number"),
    ({"steps": None}, "steps must be a number"),
    ({"steps": [4]}, "steps must be a number"),
    ({"private_steps": 0}, f"private_steps {WHOLE} 12"),
    ({"private_steps": 13}, f"private_steps {WHOLE} 12"),
    ({"private_steps": math.inf}, "private_steps must be a number"),
    ({"shape": "round"}, "shape must be one of linear, cosine, power, calibrated"),
    ({"shape": ["linear"]}, "shape must be one of"),
    ({"shape": "calibrated"}, "shape calibrated needs a sensitivity"),
    ({"shape": "calibrated", "metric": "taxi", "sensitivity": MEASURED}, "metric must be one of cosine, chord"),
    ({"shape": "power", "power": 0}, "power must be above 0"),
    ({"shape": "power", "power": math.nan}, "power must be a number"),
    ({"power": 1e101}, "power must be a number"),
    ({"shape": "power", "power": "much"}, "power must be a number"),
    ({"sensitivity": "much"}, "the request holds no shared_steps"),
    ({"sensitivity": [1, 2]}, "the request holds no shared_steps"),
    ({"sensitivity": {"num_steps": 8}}, "the request holds no shared_steps"),
    ({"sensitivity": {**MEASURED, "change": [1]}}, "the sensitivity does not fit together"),
    ({"sensitivity": {**MEASURED, "change": [0.1, math.nan, 1]}}, "each point of the sensitivity must be a number"),
    ({"sensitivity": {**MEASURED, "change": [0.1, [2], 1]}}, "each point of the sensitivity must be a number"),
    ({"sensitivity": {**MEASURED, "change": "abc"}}, "the sensitivity must hold lists"),
    ({"sensitivity": {**MEASURED, "shared_steps": [5, 2, 8]}}, "the sensitivity does not fit together"),
    ({"sensitivity": {**MEASURED, "shared_steps": [2, 5, 10**30]}}, "the sensitivity does not fit together"),
    ({"sensitivity": {**MEASURED, "num_steps": 8.5}}, f"num_steps {WHOLE} 1000000"),
    ({"sensitivity": {**MEASURED, "change": [0, 0, 0]}}, "the sensitivity does not fit together"),
    ({"sensitivity": {**MEASURED, "change": [0.1] * 1_000_000}}, "the request is too long"),
    ({"more": "x" * 600_000}, "the request is too long"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_settings_that_make_no_shape_are_refused_by_name(comfyui, changes, message):
    assert refused(shape, comfyui, **changes).startswith(message)


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_must_be_complete(comfyui, key):
    assert key in refused(comfyui.post, "/hierdiff/shape", {k: v for k, v in SETTINGS.items() if k != key})


# fmt: off
GARBAGE = [
    b"", b"steps=12", b"{", b"[]", b"null", b"12", b'"text"', b"\xff\xfe", b"[" * 100_000,
    b'{"steps": ' + b"9" * 10_000 + b"}", b'{"a":' * 80_000, b'{"steps": NaN}', b"[" * 10_000_000,
]
# fmt: on


@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=none-such"])
def test_garbage_is_refused_at_once(comfyui, body, kind):
    error = refused(comfyui._request, "POST", "/hierdiff/shape", body, kind, timeout=10)
    assert error.startswith(("the request ", "steps must be"))  # words of our own, no exception's


TINY = {**MEASURED, "change": [0, 1e-322, 1e-30]}  # nearly no numbers at all


@pytest.mark.parametrize(
    ("name", "sensitivity"), [("power", None), ("calibrated", MEASURED), ("calibrated", TINY), ("linear", TINY)]
)
def test_answers_of_extreme_settings_are_finite(comfyui, name, sensitivity):
    for steps, power in ((1000, 1e100), (1000, 1e-100), (1, 2.0)):
        sent = {"shape": name, "steps": steps, "private_steps": 1, "power": power, "sensitivity": sensitivity}
        answer = shape(comfyui, **sent)
        assert np.isfinite(answer["falling"]).all()
        assert answer["weights"] is None or np.isfinite(answer["weights"]).all()


def test_shapes_are_not_made_in_the_event_loop(pack, monkeypatch):
    """Nothing else of the server is answered while the loop works."""
    plot, threads = pack.nodes.schedule_plot, []
    whole = plot.answer_to
    monkeypatch.setattr(plot, "answer_to", lambda body: threads.append(threading.current_thread()) or whole(body))
    content = SimpleNamespace(iter_chunked=lambda _: chunks(json.dumps(SETTINGS).encode()))
    response = asyncio.run(plot.shape_of_settings(SimpleNamespace(content=content)))
    assert response.status == 200
    assert threads[0] is not threading.main_thread()


async def chunks(body):
    yield body
