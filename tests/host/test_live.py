"""What the browser hears of a run, and what its plot of a schedule knows: in the host's own process."""

import asyncio
import contextlib
import importlib
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from trees import assert_forest, tiles_of

from hierdiff_core import Profile, Sensitivity, build_plan, falling_shape, linear_thresholds, ward_linkage

pytestmark = pytest.mark.host

PROMPTS = [f"prompt {i}" for i in range(9)]
# the first three channels are red, green and blue
COLOURS = torch.cat([torch.eye(4)[:, :3], torch.zeros(1, 3)])


@pytest.fixture(scope="module")
def plan():
    """Ten prompts, two of them equal, in clusters that split all along the way."""
    rows = np.random.default_rng(0).normal(size=(9, 5))
    rows = np.concatenate([rows, rows[4:5]])
    plan = build_plan(ward_linkage(rows), linear_thresholds(12, 2.0), prompts=[*PROMPTS, "prompt 4"])
    assert len(plan.branches) > 12
    return plan


class FakeServer:
    """What a run sends through the host's server, as the page would read it."""

    def __init__(self):
        self.client_id = "page"
        self.sent = []
        self.prompt_queue = SimpleNamespace(currently_running={}, get_history=lambda prompt_id: {})
        self.run_prompt("prompt", {"extra_pnginfo": {"workflow": {"id": "flow"}}})

    def run_prompt(self, prompt_id, extra_data, prompt=None):
        self.prompt_queue.currently_running = {0: (0, prompt_id, prompt or {}, extra_data, [])}

    def send_sync(self, event, data, client):
        assert event in ("hierdiff.tree", "hierdiff.result")
        assert client == self.client_id
        self.sent.append(json.loads(json.dumps(data, allow_nan=False)))

    def kinds(self):
        return [message["kind"] for message in self.sent]


@pytest.fixture
def clock():
    """Stands still until a test moves it."""
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def runs(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.runs")


@pytest.fixture
def live(pack, runs, monkeypatch, clock):
    """nodes/host/live_tree.py without the trees of other tests."""
    module = importlib.import_module(f"{pack.__name__}.nodes.host.live_tree")
    monkeypatch.setattr(module, "_kept", runs.Kept(16))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    return module


@pytest.fixture
def in_node(live):
    """A context in which a node of a prompt runs."""
    from comfy_execution.utils import CurrentNodeContext

    return lambda node="7": CurrentNodeContext("prompt", node)


@pytest.fixture
def server(runs, monkeypatch, in_node):
    """The host's server while node 7 of a prompt runs."""
    fake = FakeServer()
    monkeypatch.setattr(runs, "PromptServer", SimpleNamespace(instance=fake))
    with in_node():
        yield fake


def latents_of(plan, k, size=(8, 8)):
    """The clean latents of step k: red says which step it is, green which prompt is the cluster's first."""
    step = plan.steps[k]
    latents = torch.full((step.num_clusters, 4, *size), 0.5)
    latents[:, 0] = k / plan.num_steps
    latents[:, 1] = torch.from_numpy(step.first / plan.num_prompts)[:, None, None]
    return latents


def run_through(tree, plan, latents=latents_of):
    """A whole run."""
    spent = plan.clusters_per_step.cumsum()
    with tree:
        for k in range(plan.num_steps):
            tree.step(k, latents(plan, k), spent[k], plan.num_distinct * (k + 1))


def pictures_in(messages):
    """The pictures that a page has after these messages."""
    found = {}
    for message in messages:
        found |= tiles_of(message.get("tiles", []))
    return found


def assert_colours(pictures, plan, branch, k):
    """A branch's picture is of step k."""
    wanted = np.array([k / plan.num_steps, plan.branches[branch].members[0] / plan.num_prompts, 0.5]) * 255
    assert abs(pictures[branch].mean(axis=(0, 1)) - wanted).max() < 6  # JPEG


def ask(live, client):
    request = SimpleNamespace(query={} if client is None else {"clientId": client})
    return json.loads(asyncio.run(live.trees_of_client(request)).text)


# --- The messages of a run -------------------------------------------------------------------------------------------


def test_run_begins_with_the_branches_of_the_plan(live, server, plan):
    run_through(live.LiveTree(plan), plan)
    begin = server.sent[0]
    assert begin["kind"] == "begin"
    assert_forest(begin)
    for told, branch in zip(begin["branches"], plan.branches, strict=True):
        members = branch.members.tolist() if branch.stop == plan.num_steps else []
        assert told == [branch.start, branch.stop, -1 if branch.parent is None else branch.parent, members]
    assert begin["prompts"] == [*PROMPTS, "prompt 4"]
    known = {"node": "7", "workflow": "flow", "prompt_id": "prompt", "steps": plan.num_steps}
    assert begin.items() >= known.items()


def test_progress_is_that_of_the_plan(live, server, clock, plan):
    tree = live.LiveTree(plan)
    spent = plan.clusters_per_step.cumsum()
    with tree:
        for k in range(plan.num_steps):
            clock.now += 1
            tree.step(k, latents_of(plan, k), spent[k], plan.num_distinct * (k + 1))
    assert server.kinds() == ["begin", *["progress"] * plan.num_steps, "end"]
    assert {message["run"] for message in server.sent} == {tree.run}
    progress = server.sent[1:-1]
    assert [message["step"] for message in progress] == list(range(1, plan.num_steps + 1))
    assert [message["clusters"] for message in progress] == plan.clusters_per_step.tolist()
    assert [message["rows"] for message in progress] == spent.tolist()
    end = server.sent[-1]
    assert (end["state"], end["step"], end["rows"]) == ("done", plan.num_steps, plan.nfe)
    assert 1 - end["rows"] / end["standard"] == pytest.approx(plan.saved)


def test_quick_steps_share_a_message(live, server, clock, plan):
    tree = live.LiveTree(plan)
    with tree:
        for k in range(plan.num_steps):
            tree.step(k, latents_of(plan, k), 1, 1)
            clock.now += 0.2 if k < 6 else 0
    # at once, after more than 0.3 s, and at last
    assert [m["step"] for m in server.sent if m["kind"] == "progress"] == [1, 3, 5, 7, plan.num_steps]


def test_runs_have_names_of_their_own(live, server, plan):
    assert live.LiveTree(plan).run != live.LiveTree(plan).run


def test_plan_without_texts_has_empty_ones(live, server, plan):
    run_through(live.LiveTree(build_plan(plan.Z, plan.thresholds)), plan)
    assert_forest(server.sent[0])
    assert server.sent[0]["prompts"] == [""] * 10


def test_single_prompt(live, server):
    plan = build_plan(np.empty((0, 4)), linear_thresholds(3, 1.0), prompts=["alone"])
    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan)
    assert server.sent[0]["branches"] == [[0, 3, -1, [0]]]
    assert list(pictures_in(server.sent)) == [0]


# --- Pictures --------------------------------------------------------------------------------------------------------


def test_every_branch_ends_with_its_last_picture(live, server, plan):
    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan)
    assert server.kinds() == ["begin", "progress", "progress", "end"]  # most branches came and went in between
    found = pictures_in(server.sent)
    assert sorted(found) == list(range(len(plan.branches)))
    for index, branch in enumerate(plan.branches):
        assert found[index].shape == (8, 8, 3)
        assert_colours(found, plan, index, branch.stop - 1)


def test_each_message_has_the_branches_that_live(live, server, clock, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with tree:
        for k in range(plan.num_steps):
            clock.now += 1
            tree.step(k, latents_of(plan, k), 1, 1)
            found = tiles_of(server.sent[-1]["tiles"])
            assert sorted(found) == [i for i, b in enumerate(plan.branches) if b.start <= k < b.stop]
            for index in found:
                assert_colours(found, plan, index, k)
    assert server.sent[-1]["tiles"] == []


@pytest.mark.parametrize("seconds", [0, 1])
def test_steps_that_a_sampler_does_not_report_leave_no_branch_without_a_picture(live, server, clock, plan, seconds):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with tree:
        for k in (0, 4, 8, 11):
            clock.now += seconds
            tree.step(k, latents_of(plan, k), 1, 1)
    found = pictures_in(server.sent)
    assert sorted(found) == list(range(len(plan.branches)))
    for index, branch in enumerate(plan.branches):
        if branch.stop == plan.num_steps:
            assert_colours(found, plan, index, 11)


def test_step_that_a_sampler_reports_twice_is_drawn_twice(live, server, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    last = plan.num_steps - 1
    with tree:
        tree.step(last, torch.zeros(plan.steps[last].num_clusters, 4, 8, 8), 1, 1)
        tree.step(last, latents_of(plan, last), 2, 2)
    for index, branch in enumerate(plan.branches):
        if branch.stop == plan.num_steps:
            assert_colours(tiles_of(server.sent[2]["tiles"]), plan, index, last)


@pytest.mark.parametrize(("size", "tile"), [((8, 8), (8, 8)), ((64, 100), (41, 64)), ((256, 32), (64, 8))])
def test_large_latents_make_small_tiles(live, server, plan, size, tile):
    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan, latents=lambda *at: latents_of(*at, size))
    assert {picture.shape for picture in pictures_in(server.sent).values()} == {(*tile, 3)}


@pytest.mark.parametrize(
    ("branches", "side"), [(1, 64), (256, 64), (257, 63), (1999, 22), (7281, 12), (7282, 0), (0, 64)]
)
def test_tiles_of_all_branches_fit_into_a_message(live, branches, side):
    assert live.tile_side(branches) == side
    assert branches * side**2 <= 2**20


def test_better_pictures_take_the_place_of_the_first(live, server, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with tree:
        tree.step(0, latents_of(plan, 0), 1, 1)
        tree.show([2, 0], [Image.new("RGB", (160, 320), colour) for colour in ("red", "blue")])
    found = tiles_of(server.sent[-1]["tiles"])
    assert {index: picture.shape for index, picture in found.items()} == {0: (64, 32, 3), 2: (64, 32, 3)}
    assert found[2].mean(axis=(0, 1)).argmax() == 0
    assert found[0].mean(axis=(0, 1)).argmax() == 2


def test_pictures_keep_no_others_in_memory(live, server, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    run_through(tree, plan)
    assert {tile.untyped_storage().nbytes() for tile in tree.tiles.values()} == {8 * 8 * 3}


def test_first_frame_of_a_video_is_shown(live, server, plan):
    def video(plan, k):
        frames = latents_of(plan, k)[:, :, None].repeat(1, 1, 3, 1, 1)
        frames[:, :, 1:] = -1
        return frames

    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan, latents=video)
    found = pictures_in(server.sent)
    for index, branch in enumerate(plan.branches):
        assert_colours(found, plan, index, branch.stop - 1)


@pytest.mark.parametrize("shape", [(16, 8, 8), (4, 20), (4,)])
def test_latents_that_are_no_pictures_are_not_shown(live, server, plan, shape):
    def odd(plan, k):
        return torch.zeros(plan.steps[k].num_clusters, *shape)

    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan, latents=odd)
    assert pictures_in(server.sent) == {}
    assert server.sent[-1]["state"] == "done"


@pytest.mark.parametrize(("limit", "branches"), [("MOST_PROMPTS", False), ("ALL_PIXELS", True)])
def test_tree_that_is_too_large_is_numbers_only(live, server, plan, monkeypatch, limit, branches):
    monkeypatch.setattr(live, limit, 9)
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    run_through(tree, plan)
    begin, end = server.sent[0], server.sent[-1]
    assert (bool(begin["branches"]), bool(begin["prompts"])) == (branches, branches)
    assert (end["rows"], end["clusters"]) == (plan.nfe, plan.steps[-1].num_clusters)
    assert all(message["tiles"] == [] for message in [*server.sent[1:], tree.snapshot()])


@pytest.mark.parametrize(("kind", "frames"), [("SD15", 0), ("SDXL", 0), ("Flux", 0), ("Flux2", 0), ("Wan21", 3)])
def test_colours_are_those_of_the_hosts_previews(live, kind, frames):
    import comfy.latent_formats
    from latent_preview import Latent2RGBPreviewer

    chosen = getattr(comfy.latent_formats, kind)()
    factors = chosen.latent_rgb_factors, chosen.latent_rgb_factors_bias, chosen.latent_rgb_factors_reshape
    shape = (3, chosen.latent_channels, *([frames] if frames else []), 10, 16)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = live.host_colours(chosen)(latents, 64).numpy().astype(int)
    for picture, latent in zip(made, latents, strict=True):
        theirs = np.asarray(Latent2RGBPreviewer(*factors).decode_latent_to_preview(latent[None]))
        assert theirs.std() > 5
        assert abs(picture - theirs).max() <= 1


def test_model_without_previews_has_a_tree_without_pictures(live, server, plan):
    import comfy.latent_formats

    colours = live.host_colours(comfy.latent_formats.StableAudio1())
    assert colours is None
    run_through(live.LiveTree(plan, colours), plan)
    assert pictures_in(server.sent) == {}
    assert server.sent[0]["branches"]


# --- Pictures that a busy device has not drawn yet --------------------------------------------------------------------


@pytest.fixture
def late(live, monkeypatch):
    """Pictures are there when somebody waits for them, and not before."""

    class Late(live.AsyncHostCopy):
        here = False

    monkeypatch.setattr(live, "AsyncHostCopy", Late)


def test_message_waits_for_its_pictures_until_the_next_step(live, server, clock, late, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with tree:
        for k in range(plan.num_steps):
            clock.now += 1
            tree.step(k, latents_of(plan, k), k, 2 * k)
            assert len(server.sent) == 1 + k
    progress = [message for message in server.sent if message["kind"] == "progress"]
    assert [(message["step"], message["rows"]) for message in progress] == [(k + 1, k) for k in range(plan.num_steps)]
    for k, message in enumerate(progress):
        found = tiles_of(message["tiles"])
        assert sorted(found) == [i for i, b in enumerate(plan.branches) if b.start <= k < b.stop]
        for index in found:
            assert_colours(found, plan, index, k)


@pytest.mark.parametrize("fails", [False, True])
def test_end_of_a_run_waits_for_the_last_pictures(live, server, late, plan, fails):
    def latents(plan, k):
        if fails and k == 5:
            raise RuntimeError("out of memory")
        return latents_of(plan, k)

    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan, latents)
    found = pictures_in(server.sent)
    assert sorted(found) == [i for i, b in enumerate(plan.branches) if not fails or b.stop <= 5 or b.start == 0]
    for index, branch in enumerate(plan.branches):
        if not fails or branch.stop <= 5:
            assert_colours(found, plan, index, branch.stop - 1)


def test_pictures_that_never_come_do_not_hide_the_end_of_a_run(live, server, monkeypatch, plan):
    class Lost(live.AsyncHostCopy):
        here = False

        def wait(self):
            raise RuntimeError("the device is gone")

    monkeypatch.setattr(live, "AsyncHostCopy", Lost)
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with pytest.raises(RuntimeError, match="the device is gone"):
        run_through(tree, plan)
    assert (server.sent[-1]["kind"], server.sent[-1]["state"]) == ("end", "stopped")


@pytest.mark.parametrize("here", [True, False])
def test_preview_in_the_progress_bar_is_drawn_when_it_is_there(pack, monkeypatch, here):
    show = importlib.import_module(f"{pack.__name__}.nodes.host.ui")
    monkeypatch.setattr(show.AsyncHostCopy, "here", here)
    monkeypatch.setattr(show, "SECONDS_BETWEEN_PREVIEWS", -1)  # each is due
    progress, seen = show.Progress(3), []
    progress.bar = SimpleNamespace(update_absolute=lambda value, total, preview: seen.append((value, preview)))
    for red in (50, 100, 150):
        progress.advance(1, lambda red=red: torch.full((1, 16, 16, 3), red, dtype=torch.uint8))
    reds = [preview and preview[1].getpixel((8, 8))[0] for _, preview in seen]
    assert [value for value, _ in seen] == [1, 2, 3]
    assert reds == ([50, 100, 150] if here else [None, 50, 150])  # the last is waited for


# --- Runs that end early, and those without a page -------------------------------------------------------------------


def test_run_that_fails_ends_as_stopped(live, server, plan):
    def failing(plan, k):
        if k == 4:
            raise RuntimeError("out of memory")
        return latents_of(plan, k)

    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with pytest.raises(RuntimeError, match="out of memory"):
        run_through(tree, plan, latents=failing)
    end = server.sent[-1]
    assert (end["kind"], end["state"]) == ("end", "stopped")
    assert (end["step"], end["rows"], end["standard"]) == (4, plan.clusters_per_step[:4].sum(), 4 * plan.num_distinct)
    assert tree.snapshot()["state"] == "stopped"


def test_run_that_fails_before_its_first_step_has_spent_nothing(live, server, plan):
    with pytest.raises(KeyError), live.LiveTree(plan):
        raise KeyError
    assert server.kinds() == ["begin", "end"]
    assert (server.sent[-1]["step"], server.sent[-1]["rows"]) == (0, 0)


def test_run_without_a_client_sends_nothing_and_nobody_can_ask_for_it(live, server, plan):
    server.client_id = None
    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan)
    assert server.sent == []
    assert ask(live, None) == ask(live, "") == ask(live, "None") == []


def test_run_outside_of_a_server_has_no_names(live, plan):
    assert live.running() == (None, None, None, None, None)
    run_through(live.LiveTree(plan, live.linear_colours(COLOURS)), plan)


def test_node_in_a_subgraph_is_named_with_its_path(live, server, in_node):
    with in_node("3:5"):
        assert live.running()[:4] == ("page", "3:5", "flow", "prompt")


# fmt: off
STRANGE = [
    None, [], "text", {}, {"extra_pnginfo": None}, {"extra_pnginfo": ["text"]}, {"extra_pnginfo": {"workflow": "text"}},
    {"extra_pnginfo": {"workflow": None}}, {"extra_pnginfo": {"workflow": {"id": {"no": "id"}}}},
]
# fmt: on


@pytest.mark.parametrize("extra_data", STRANGE, ids=str)
def test_run_that_a_program_queued_has_no_workflow(live, server, plan, extra_data):
    server.run_prompt("prompt", extra_data)
    run_through(live.LiveTree(plan), plan)
    assert {message.get("workflow") for message in server.sent} == {None}


def test_workflow_is_that_of_the_prompt_that_runs(live, server):
    server.run_prompt("another", {"extra_pnginfo": {"workflow": {"id": "other"}}})
    assert live.running()[:4] == ("page", "7", None, "prompt")


# --- Pages that are loaded later -------------------------------------------------------------------------------------


def test_snapshot_in_mid_run_is_all_that_was_sent(live, server, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with tree:
        for k in range(5):
            tree.step(k, latents_of(plan, k), k, 2 * k)
        (snapshot,) = ask(live, "page")
    begin = server.sent[0]
    assert snapshot["kind"] == "snapshot"
    assert {key: snapshot[key] for key in begin if key != "kind"} == {key: begin[key] for key in begin if key != "kind"}
    assert (snapshot["state"], snapshot["step"], snapshot["rows"], snapshot["standard"]) == ("running", 5, 4, 8)
    assert snapshot["clusters"] == plan.steps[4].num_clusters
    lived = [i for i, branch in enumerate(plan.branches) if branch.stop <= 5 or branch.start == 0]
    assert sorted(tiles_of(snapshot["tiles"])) == lived


def test_snapshot_takes_no_pictures_from_the_messages(live, server, plan):
    tree = live.LiveTree(plan, live.linear_colours(COLOURS))
    with tree:
        for k in range(plan.num_steps):
            tree.step(k, latents_of(plan, k), 1, 1)
            ask(live, "page")
    everything = list(range(len(plan.branches)))
    assert sorted(pictures_in(server.sent)) == everything
    (snapshot,) = ask(live, "page")
    assert snapshot["state"] == "done"
    assert sorted(tiles_of(snapshot["tiles"])) == everything


def test_only_the_client_that_queued_a_run_can_ask_for_it(live, server, plan):
    run_through(live.LiveTree(plan), plan)
    assert len(ask(live, "page")) == 1
    assert ask(live, "another") == ask(live, "") == ask(live, None) == []


def test_new_run_of_a_node_takes_the_place_of_the_old(live, server, plan):
    for _ in range(3):
        last = live.LiveTree(plan)
        run_through(last, plan)
    assert [snapshot["run"] for snapshot in ask(live, "page")] == [last.run]


def test_latest_runs_are_kept(live, server, in_node, plan):
    for number in (0, *range(1, 20), 3, 5):
        with in_node(str(number)):
            run_through(live.LiveTree(plan), plan)
    kept = [snapshot["node"] for snapshot in ask(live, "page")]
    assert kept == [str(n) for n in (4, *range(6, 20), 3, 5)][-16:]


# --- The plot of a schedule ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linkage(pack):
    rows = np.random.default_rng(0).normal(size=(9, 5))
    return pack.hierdiff_core.plan.tree.PromptTree.of(rows, "chord", PROMPTS)


@pytest.fixture(scope="module")
def sensitivity():
    return Sensitivity(6, [2, 4, 6], [0.1, 0.3, 1.0])


def test_plot_knows_tree_shape_and_weights(pack, linkage, sensitivity):
    falling, profile = falling_shape(8, "cosine"), Profile(8, "cosine", sensitivity=sensitivity)
    data = json.loads(json.dumps(pack.nodes.schedule_plot.plot_data(linkage, profile)))
    assert data["heights"] == linkage.Z[:, 2].tolist()
    assert data["errors"] == linkage.errors.tolist()
    assert data["falling"] == falling.tolist()
    assert data["weights"] == sensitivity.weights(8).tolist()
    assert data["metric"] == "chord"
    again = Sensitivity(**data["sensitivity"])
    assert again.weights(8).tolist() == data["weights"]


def test_plot_without_sensitivity_has_no_weights(pack, linkage):
    data = pack.nodes.schedule_plot.plot_data(linkage, Profile(8))
    assert data["sensitivity"] is data["weights"] is None


def test_plot_of_a_huge_tree_is_left_out(pack, linkage, monkeypatch):
    monkeypatch.setattr(pack.nodes.schedule_plot, "MOST_PROMPTS", 8)
    assert pack.nodes.schedule_plot.plot_data(linkage, Profile(8)) == {}


def test_plot_has_as_many_steps_as_the_node(pack):
    schema = pack.nodes.schedule.ThresholdSchedule.define_schema()
    (steps,) = [entry for entry in schema.inputs if entry.id == "steps"]
    assert (steps.min, steps.max) == (1, pack.nodes.schedule_plot.MOST_STEPS)


# --- Depth first -----------------------------------------------------------------------------------------------------


def piece(plan, k, part):
    """Clusters of step k whose first prompt is among `part`."""
    return np.array([c for c, first in enumerate(plan.steps[k].first) if first in part])


def test_work_depth_first_tells_how_far_each_branch_is(live, server, clock, plan):
    """The first prompts' piece is done before the others', which have the last steps to go."""
    split = next(k for k in range(12) if plan.steps[k].num_clusters > 3)
    first = {int(i) for i in plan.steps[split].first[:2]}
    members = {int(i) for c in range(2) for i in np.flatnonzero(plan.steps[split].labels == c)}
    assert first <= members
    others = set(range(plan.num_prompts)) - members
    tree = live.LiveTree(plan)
    with tree:
        for part in (members, others):
            for k in range(0 if part is members else split, 12):
                clusters = np.arange(plan.steps[k].num_clusters) if k < split else piece(plan, k, part)
                clock.now += 1
                tree.step(k, latents_of(plan, k)[clusters], 1, 2, clusters)
    progress = [message for message in server.sent if message["kind"] == "progress"]
    assert all("reached" not in message for message in progress[:split])  # nothing but what `step` says
    inside = [members >= set(branch.members.tolist()) for branch in plan.branches]
    stops = [int(branch.stop) for branch in plan.branches]
    done = progress[11]["reached"]
    assert [n for n, mine in zip(done, inside, strict=True) if mine] == [
        n for n, m in zip(stops, inside, strict=True) if m
    ]
    late = [
        n for n, b in zip(done, plan.branches, strict=True) if others >= set(b.members.tolist()) and b.start >= split
    ]
    assert late
    assert set(late) == {0}
    assert server.sent[-1]["reached"] == tree.snapshot()["reached"] == stops


def test_work_breadth_first_needs_no_numbers_for_each_branch(live, server, clock, plan):
    with live.LiveTree(plan) as tree:
        for k in range(12):
            clock.now += 1
            tree.step(k, latents_of(plan, k), 1, 2, np.arange(plan.steps[k].num_clusters))
    assert all("reached" not in message for message in server.sent)
