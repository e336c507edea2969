"""Saving Plan on a small model in this process: what was measured counts, for its model and settings alone."""

import importlib
import types

import pytest
import torch
from shared_runs import PROMPTS, N, one_negative, positive_of, vectors_of_prompts

from hierdiff_core import PromptTree
from hierdiff_core.measure.marks import allowed_loss

pytestmark = pytest.mark.host
K = 8
SETTINGS = {"sampler_name": "euler", "scheduler": "normal", "steps": K, "cfg": 1.5}


@pytest.fixture(scope="module")
def nodes(pack):
    names = {"advisor": "advisor", "saving": "saving_plan", "set": "set", "expansion": "host.expansion"}
    found = {name: importlib.import_module(f"{pack.__name__}.nodes.{place}") for name, place in names.items()}
    return types.SimpleNamespace(**found)


@pytest.fixture(scope="module")
def model(following):
    return following.following_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("output")


@pytest.fixture(autouse=True)
def output(output_folder, folder):
    """An output folder for this file."""
    return output_folder(folder)


LATENT = {"samples": torch.zeros(1, 4, 16, 16)}


def planned(nodes, model, tree, saving=1.0, **changes):
    """(plan, report) of the node."""
    settings = {**SETTINGS, "latent_image": LATENT, "linkage": tree, "saving": saving, **changes}
    return nodes.saving.SavingPlan.execute(model, **settings)


def measure(nodes, model, tree, mark):
    """What Pays Here? for a mark; it saves its result."""
    asked = {"goal": "no visible loss", "value": allowed_loss(mark, "looks as good"), "measure": "looks as good"}
    sides = {"positive": positive_of(vectors_of_prompts()), "negative": one_negative()}
    more = {**SETTINGS, **asked, **sides, "latent_image": LATENT, "linkage": tree, "seed": 7, "samples": 4}
    return nodes.advisor.Advisor.execute(model, **more).result[1]


def test_without_a_measurement_the_first_steps_are_shared_and_it_says_so(nodes, model, tree):
    safe, draft, off = (planned(nodes, model, tree, saving) for saving in (1.0, 3.0, 0.0))
    plan, report = safe.result
    shared = [step.num_clusters < plan.num_distinct for step in plan.steps]
    assert 0 < sum(shared) < K / 2
    assert shared == sorted(shared, reverse=True)
    assert plan.advised is None
    assert f"saving 1 (safe): the first {sum(shared)} of {K} steps are shared" in report
    assert "not measured for this model: run What Pays Here? (about " in safe.ui["text"][0]
    assert draft.result[0].clusters_per_step.tolist() == plan.clusters_per_step.tolist()
    assert "more than safe takes a measurement" in draft.result[1]
    assert off.result[0].saved == 0
    assert "saving 0 (off)" in off.result[1]


def test_saved_measurements_of_this_model_and_these_settings_count(nodes, model, tree, output):
    before = nodes.saving.SavingPlan.fingerprint_inputs()
    advice = [measure(nodes, model, tree, mark) for mark in (1, 3)]
    assert nodes.saving.SavingPlan.fingerprint_inputs() != before
    plans = [planned(nodes, model, tree, saving).result for saving in (1.0, 2.0, 3.0)]
    passes = [plan.advised.passes for plan, _ in plans]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] < advice[0].full.passes
    assert [plan.advised.model for plan, _ in plans] == [advice[0].model] * 3
    assert "saving 1 (safe): " in plans[0][1]
    assert "passes per picture" in plans[0][1]
    for changes in ({"cfg": 2.0}, {"steps": 12}, {"sampler_name": "heun"}, {"scheduler": "karras"}):
        assert planned(nodes, model, tree, **changes).result[0].advised is None, changes
    larger = {"samples": torch.zeros(1, 4, 24, 24)}
    assert planned(nodes, model, tree, latent_image=larger).result[0].advised is None
    patched = model.clone()
    patched.set_model_sampler_cfg_function(lambda args: args["cond"])
    assert planned(nodes, patched, tree).result[0].advised is None


def test_connected_advice_of_another_run_is_refused_by_name(nodes, model, tree):
    advice = measure(nodes, model, tree, 1)  # found again: nothing is drawn
    assert planned(nodes, model, tree, advice=advice).result[0].advised is not None
    with pytest.raises(ValueError, match="cfg is 4"):
        planned(nodes, model, tree, advice=advice, cfg=4.0)


def test_damaged_files_are_passed_over(nodes, model, tree, output):
    (output / "broken.json").write_text("{")
    assert planned(nodes, model, tree).result[0].num_prompts == N
    (output / "broken.json").unlink()


def test_single_prompt_has_a_plan_with_nothing_shared(nodes, model):
    plan, _ = planned(nodes, model, PromptTree.of(vectors_of_prompts()[:1], "chord", PROMPTS[:1])).result
    assert plan.num_prompts == 1


@pytest.mark.parametrize("saving", [-1, 3.5, float("nan")])
def test_positions_outside_of_the_slider_are_refused(nodes, model, tree, saving):
    with pytest.raises(ValueError, match=r"saving must lie between 0(\.0)? and 3"):
        planned(nodes, model, tree, saving)


# --- The graph of HierDiff Set


def expanded(nodes, **changes):
    """Types of the graph's nodes by their names, and the inputs of these."""
    given = {entry.id: getattr(entry, "default", None) for entry in nodes.set.Set.define_schema().inputs}
    given.update(model="model", clip="clip", vae="vae", sampler_name="euler", scheduler="normal", **changes)
    results, graph = nodes.expansion.expanded(nodes.set.PARTS, given, nodes.set.OUTPUTS)
    return results, {name.rpartition(".")[2]: part for name, part in graph.items()}


def test_graph_of_a_set_gives_our_nodes_what_they_need(nodes, pack):
    ours = {node.define_schema().node_id: node for node in importlib.import_module(f"{pack.__name__}.nodes").NODES}
    results, graph = expanded(nodes, measure="measure first", saving=2.5)
    assert [result[0].rpartition(".")[2] for result in results] == ["decoded", "prompts", "plan", "report"]
    assert set(graph) == set(nodes.set.PARTS)
    checked = [part for part in graph.values() if part["class_type"] in ours]
    assert len(checked) == 6
    for part in checked:
        inputs = ours[part["class_type"]].define_schema().inputs
        assert {entry.id for entry in inputs if not entry.optional} <= set(part["inputs"]), part["class_type"]
        assert set(part["inputs"]) <= {entry.id for entry in inputs}, part["class_type"]


@pytest.mark.parametrize(("saving", "value"), [(0, 1), (1, 1), (1.5, 2), (2, 2), (3, 3)])
def test_measuring_first_measures_for_the_mark_at_hand(nodes, saving, value):
    graph = expanded(nodes, measure="measure first", saving=saving)[1]
    assert graph["advisor"]["inputs"]["value"] == allowed_loss(value, "looks as good")
    assert "advisor" not in expanded(nodes, saving=saving)[1]
    assert "advice" not in expanded(nodes, saving=saving)[1]["plan"]["inputs"]


def test_connected_prompts_and_latents_take_the_place_of_their_parts(nodes):
    results, graph = expanded(nodes, prompts=("a", "b"), latent_image={"samples": None})
    assert not {"prompts", "latent"} & set(graph)
    assert results[1] == ("a", "b")
    assert graph["positive"]["inputs"]["prompts"] == ("a", "b")
    assert graph["sampler"]["inputs"]["latent_image"] == {"samples": None}
