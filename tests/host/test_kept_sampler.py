"""Branching Sampler with keep: what was evaluated is not evaluated again, and nobody's picture changes."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.host

TEXTS = ("cat face", "tiger face", "red apple", "green apple")
STEPS = 6


@pytest.fixture(scope="module")
def nodes(pack):
    return pack.nodes


@pytest.fixture(scope="module")
def module(pack):
    return lambda name: importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture(autouse=True)
def empty_store(module, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = module("hierdiff_core.sampling.store")
    monkeypatch.setattr(store, "_session", None)
    yield store.session_store()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(nodes):
    name = "emoji-kandinsky (bundled)"
    return nodes.DecoderLoader.execute(name, "fp32").args[0], nodes.PriorLoader.execute(name, "fp32").args[0]


@pytest.fixture(scope="module")
def planned(nodes, models):
    """Embeddings and plan of some texts."""

    def plan(texts=TEXTS, steps=STEPS, saving=0.4):
        inputs = {"steps": [2], "guidance": [4.0], "seed": [1], "noise": ["per prompt"]}
        embeddings = nodes.PriorEmbedding.execute([models[1]], [tuple(texts)], [""], **inputs).args[0][0]
        linkage = nodes.WardLinkage.execute(embeddings, "chord").args[0]
        return embeddings, nodes.ThresholdSchedule.execute(linkage, steps, "saving", saving, 1).args[0]

    return plan


@pytest.fixture(scope="module")
def draw(nodes, models):
    def run(embeddings, plan, seed=1, **inputs):
        out = nodes.BranchingSampler.execute(models[0], embeddings, plan, seed, 3.0, "DDPM", 64, 64, 0, **inputs)
        latents, _, report = out.args
        told = (out.ui.get("hierdiff_edits") or [{}])[0]
        return SimpleNamespace(latents=latents["samples"], report=report, told=told, ui=out.ui, plan=plan)

    return run


def reused(run):
    lines = [line for line in run.report.split("\n") if line.startswith("reused ")]
    return lines[0] if lines else ""


def edits_with(run, *changes):
    """The told edits with more changes, through the numbers of a page: JavaScript knows them as floats."""
    data = json.loads(run.told["edits"] or '{"version": 1, "kept": null, "changes": []}', parse_int=page_number)
    return json.dumps({**data, "changes": [*data["changes"], *changes]})


def page_number(digits):
    value = float(digits)
    return int(value) if abs(value) < 1e21 else value


def test_without_keep_nothing_is_kept_and_nothing_changes(draw, planned, empty_store):
    plain = draw(*planned())
    assert empty_store.rows == 0
    assert plain.told["edits"] == ""
    assert "reused" not in plain.report


def test_the_same_again_evaluates_nothing(draw, planned):
    plain, first, again = draw(*planned()), draw(*planned(), keep=True), draw(*planned(), keep=True)
    rows = first.plan.nfe
    assert reused(first) == ""
    assert reused(again) == f"reused {rows} of {rows} rows"
    assert torch.equal(first.latents, plain.latents)
    assert torch.equal(again.latents, plain.latents)
    assert (again.told["reused"], again.told["rows"]) == (rows, rows)


def test_one_edited_prompt_is_one_branch_and_the_others_stay(draw, planned):
    first = draw(*planned(), keep=True)
    texts = ("cat face", "lion face", "red apple", "green apple")
    edited = draw(*planned(texts), keep=True, edits=edits_with(first))
    others = [0, 2, 3]
    assert torch.equal(edited.latents[others], first.latents[others])
    assert not torch.equal(edited.latents[1], first.latents[1])
    assert 0 < edited.told["rows"] - edited.told["reused"] <= STEPS
    assert edited.told["names"] == list(texts)
    back = draw(*planned(), keep=True, edits=edits_with(edited))
    assert torch.equal(back.latents, first.latents)
    assert back.told["reused"] == back.told["rows"]


def test_it_is_the_same_where_nothing_is_in_the_store(draw, planned, empty_store):
    first = draw(*planned(), keep=True)
    texts = ("cat face", "red apple", "green apple", "bus")
    edits = edits_with(first)
    warm = draw(*planned(texts), keep=True, edits=edits)
    rows = dict(empty_store._branches)
    for branch in rows:
        empty_store._give_up(branch)
    cold = draw(*planned(texts), keep=True, edits=edits)
    assert torch.equal(warm.latents, cold.latents)
    assert warm.told["reused"] > cold.told["reused"] == 0


def test_a_reroll_changes_one_picture_and_its_price_is_what_it_then_costs(draw, planned, module):
    first = draw(*planned(), keep=True)
    keys = first.told["keys"]
    edits = edits_with(first, {"do": "reroll", "prompts": [keys[2]], "step": 3, "of": STEPS, "number": 1})
    price = offered(module, first)
    rows, known, seconds = price(edits)
    rerolled = draw(*planned(), keep=True, edits=edits)
    assert (rows, known) == (rerolled.told["rows"], rerolled.told["reused"])
    assert 0 < seconds < 60
    assert torch.equal(rerolled.latents[[0, 1, 3]], first.latents[[0, 1, 3]])
    assert not torch.equal(rerolled.latents[2], first.latents[2])
    assert price("")[:2] == (first.plan.nfe, first.plan.nfe)
    with pytest.raises(ValueError, match="edits must be JSON"):
        price("{")


def offered(module, run):
    """The price of a run, as the sampler offers it."""
    prices = module("nodes.host.prices")
    return next(reversed(prices._prices.values()))


def test_the_price_of_a_decoder_that_is_gone_says_so(draw, planned, module):
    draw(*planned(), keep=True)
    price = offered(module, None)
    price.known.clear()
    price.decoder = lambda: None
    with pytest.raises(ValueError, match="no longer loaded"):
        price("")


def test_what_changed_is_named_where_nothing_can_be_reused(draw, planned):
    draw(*planned(), keep=True)
    other = draw(*planned(), seed=2, keep=True)
    assert "the seed changed: nothing could be reused" in other.report
    assert reused(draw(*planned(), keep=True)) != ""


def test_a_store_that_is_too_small_says_so_and_the_run_goes_on(draw, planned, empty_store):
    empty_store.budget = 1000
    run = draw(*planned(), keep=True)
    assert "⚠ the store of 1000 bytes is too small" in run.report
    assert torch.equal(run.latents, draw(*planned()).latents)


def test_edits_that_are_none_are_refused_before_any_call(draw, planned):
    for edits, message in (("{", "edits must be JSON"), ('{"version": 7}', "version 1"), ("[]", "version 1")):
        with pytest.raises(ValueError, match=message):
            draw(*planned(), keep=True, edits=edits)


def test_a_trunk_without_keep_is_said_to_do_nothing(draw, planned, nodes, empty_store):
    trunk = nodes.KeepTrunks.execute("", 1.0, 0.0).args[0]
    run = draw(*planned(), trunk=trunk)
    assert "⚠ Keep Trunks is connected, but keep is off" in run.report
    assert empty_store.rows == 0
    assert reused(draw(*planned(), trunk=trunk, keep=True)) == ""
    assert empty_store.rows > 0


# --- Stopping, and going on with what was picked


def test_a_run_that_stops_gives_what_the_branches_head_for(draw, planned, models):
    half = draw(*planned(), stop_after=0.5)
    assert "stopped after 3 of 6 steps" in half.report
    assert half.latents.shape == draw(*planned()).latents.shape
    labels = half.plan.steps[2].labels
    for i, label in enumerate(labels):
        assert torch.equal(half.latents[i], half.latents[list(labels).index(label)])


@pytest.mark.parametrize("share", [0.0, -1, 1.5, float("nan")])
def test_shares_that_are_none_are_refused(draw, planned, share):
    with pytest.raises(ValueError, match="stop_after must"):
        draw(*planned(), stop_after=share)


def test_picked_at_a_split_goes_on_without_evaluating_anything_twice(draw, planned, nodes):
    embeddings, plan = planned()
    whole = draw(embeddings, plan)
    half = draw(embeddings, plan, keep=True, stop_after=0.5)
    shown = torch.rand(len(TEXTS), 8, 8, 3)
    picked = nodes.Pick.execute(
        shown, latent={"samples": half.latents}, plan=plan, embeddings=embeddings, choice="0, 2"
    )
    on = draw(picked.args[4], picked.args[2], keep=True)
    assert torch.equal(on.latents, whole.latents[[0, 2]])
    assert on.told["reused"] == int(picked.args[2].clusters_per_step[:3].sum())
    assert on.told["names"] == ["cat face", "red apple"]


def test_pictures_picked_from_the_whole_set_are_drawn_again_the_same_without_a_store(draw, planned, nodes):
    embeddings, plan = planned()
    whole = draw(embeddings, plan)
    picked = nodes.Pick.execute(torch.rand(len(TEXTS), 8, 8, 3), plan=plan, embeddings=embeddings, choice="1")
    assert torch.equal(draw(picked.args[4], picked.args[2]).latents, whole.latents[[1]])


# --- What the page is told


def test_the_tree_is_told_how_many_rows_were_reused(draw, planned, module, monkeypatch):
    live, heard = module("nodes.host.live_tree"), []
    monkeypatch.setattr(live, "send", lambda event, message, client: heard.append(message))
    draw(*planned(), keep=True)
    assert all("reused" not in message for message in heard)
    heard.clear()
    again = draw(*planned(), keep=True)
    last = heard[-1]
    assert (last["kind"], last["reused"], last["rows"]) == ("end", again.plan.nfe, again.plan.nfe)
    assert last["share"] == 1


def test_a_prompt_that_is_drawn_alone_is_told_nothing_of(draw, planned, nodes):
    embeddings, plan = planned()
    alone = nodes.UnsharedPrompt.execute(plan, 1).args[0]
    run = draw(embeddings, alone, keep=True)
    assert run.told == {}
    assert torch.equal(run.latents, draw(embeddings, alone).latents)


def test_two_nodes_two_pages_and_two_workflows_are_different_owners(module, monkeypatch):
    edited, runs = module("nodes.host.edited_run"), module("nodes.host.runs")
    owners = set()
    for place in (("a", "1", "w"), ("b", "1", "w"), ("a", "2", "w"), ("a", "1", "v"), (None, None, None)):
        run = runs.Run(*place)
        monkeypatch.setattr(edited, "running", lambda run=run: run)
        owners.add(edited.owner())
    assert len(owners) == 5


# --- On disk


def test_another_process_goes_on_from_what_is_on_disk(draw, planned, nodes, module, monkeypatch, tmp_path, empty_store):
    """One prompt was edited meanwhile: the branches that it founded are still made of it."""
    import folder_paths

    kept = module("nodes.host.kept")
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))

    def trunk():
        monkeypatch.setattr(kept, "_stores", {})  # as in a process of its own
        return nodes.KeepTrunks.execute("emoji", 1.0, 1.0).args[0]

    store = trunk()
    first = draw(*planned(), keep=True, trunk=store)
    store.flush()
    assert list((tmp_path / "hierdiff" / "trunks" / "emoji").rglob("*.safetensors"))
    again = draw(*planned(), keep=True, trunk=trunk())
    assert reused(again) == f"reused {first.plan.nfe} of {first.plan.nfe} rows"
    assert torch.equal(again.latents, first.latents)
    texts = ("lion face", *TEXTS[1:])
    edited = draw(*planned(texts), keep=True, trunk=trunk(), edits=edits_with(first))
    assert torch.equal(edited.latents[1:], first.latents[1:])
    assert edited.told["rows"] - edited.told["reused"] <= STEPS
    assert "not known any more" not in edited.report
    assert empty_store.rows == 0
