"""Compare with unshared, through the host's own queue: the graph that the server gives, and what comes of it."""

import importlib
import uuid

import numpy as np
import pytest
from comfyui_host import HttpFailed
from graphs import guider_graph, native_graph, node, pictures, share_steps_graph, small_graph

pytestmark = pytest.mark.host

I = 3  # noqa: E741
GRAPHS = {
    "Branching Sampler": small_graph,
    "Hierarchical KSampler": native_graph,
    "Hierarchical Guider": guider_graph,
    "Share Steps": share_steps_graph,
}


def drawn(comfyui, graph, **extra):
    """The entry of a run of a client of its own, and the id of its tree."""
    client = uuid.uuid4().hex
    entry = comfyui.wait(comfyui.queue(graph, client, extra or None))
    (tree,) = comfyui.get(f"/hierdiff/trees?clientId={client}")
    return client, tree, entry


def ask(comfyui, client, tree, prompt=I):
    return comfyui.post("/hierdiff/compare", {"clientId": client, "run": tree["run"], "prompt": prompt})


def compared(comfyui, client, told):
    """The entry of a comparison that the page queues."""
    asked = {"prompt": told["prompt"], "client_id": client, "partial_execution_targets": told["targets"]}
    return comfyui.wait(comfyui.post("/prompt", asked)["prompt_id"])


def cached(entry):
    """Nodes that a run took from the host's cache."""
    (told,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_cached"]
    return set(told["nodes"])


@pytest.mark.parametrize("name", GRAPHS)
def test_the_prompt_is_drawn_as_full_sampling_draws_it_and_nothing_else_changes(comfyui, name):
    seed = 300 + list(GRAPHS).index(name)  # nothing of this is cached
    graph = GRAPHS[name](**{"embed.seed": seed})
    client, tree, entry = drawn(comfyui, graph)
    told = ask(comfyui, client, tree)
    assert told["kept"]
    assert told["text"] == tree["prompts"][I]
    assert {key: told["prompt"][key] for key in graph} == graph
    comparison = compared(comfyui, client, told)
    shared, unshared = pictures(comfyui, comparison, "hierdiff-compare")
    assert list(comparison["outputs"]) != list(entry["outputs"])
    assert "save" not in comparison["outputs"]  # the user's own outputs were not asked for
    assert {"sample", "plan"} <= cached(comparison)
    assert np.array_equal(shared, pictures(comfyui, entry, "save")[I])
    assert not np.array_equal(unshared, shared)
    again = comfyui.run(graph)
    assert set(graph) - {"save", "sheet"} <= cached(again)  # and the host goes on keeping all that it kept
    full = comfyui.run(GRAPHS[name](**{"embed.seed": seed, "plan.value": 0.0}))
    assert np.array_equal(unshared, pictures(comfyui, full, "save")[I])
    # a page that asks now, after another run, is told that the set would have to be drawn again
    assert not ask(comfyui, client, tree)["kept"]


@pytest.fixture(scope="module")
def run(comfyui):
    """(client, tree) of a run that was just drawn."""
    return drawn(comfyui, small_graph(**{"embed.seed": 310}))[:2]


def test_words_tell_how_different_the_pictures_are(comfyui, run):
    client, tree = run
    outputs = compared(comfyui, client, ask(comfyui, *run))["outputs"]["hierdiff-compare"]
    said, (told,) = outputs["text"][0], outputs["hierdiff_compare"]
    assert said.startswith(f"difference: {told['word']}\n")
    assert 0 < told["mean"] < 100
    (tree_now,) = comfyui.get(f"/hierdiff/trees?clientId={client}")
    assert tree_now["run"] == tree["run"]  # the prompt that was drawn alone has left no tree


@pytest.mark.parametrize("prompt", [-1, 6, "0", True, None])
def test_prompts_that_there_are_not_are_refused(comfyui, run, prompt):
    with pytest.raises(HttpFailed, match="there is no such prompt: the run has prompts 0 to 5"):
        ask(comfyui, *run, prompt)


def test_runs_of_others_are_not_told(comfyui, run):
    for client, tree in (("somebody", run[1]), (None, run[1]), (run[0], {"run": None})):
        with pytest.raises(HttpFailed, match="this run is no longer known"):
            ask(comfyui, client, tree)


# --- The graph, without a server -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(pack):
    """nodes/host/comparison.py where the host knows the nodes that it needs."""
    host = importlib.import_module("nodes")
    ours = {kind.define_schema().node_id: kind for kind in importlib.import_module(f"{pack.__name__}.nodes").NODES}
    samplers = importlib.import_module("comfy_extras.nodes_custom_sampler")
    known = {"SamplerCustomAdvanced": samplers.SamplerCustomAdvanced, **ours}
    for kind in known.values():
        getattr(kind, "GET_SCHEMA", lambda: None)()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "NODE_CLASS_MAPPINGS", {**host.NODE_CLASS_MAPPINGS, **known})
        yield importlib.import_module(f"{pack.__name__}.nodes.host.comparison")


def test_without_vae_decode_a_vae_of_the_set_decodes(comparison):
    graph = small_graph()
    graph["save"] = node("HierDiffSaveSet", prompts=["set", 0], latent=["sample", 0], vae=["load_decoder", 1])
    for name in ("decode", "sheet"):
        del graph[name]
    made = comparison.comparison(graph, "sample", I)
    decoders = [item for item in made.values() if item["class_type"] == "VAEDecode"]
    assert [item["inputs"]["vae"] for item in decoders] == [["load_decoder", 1]] * 2
    assert sum(item["class_type"] == "HierDiffSaveSet" for item in made.values()) == 1  # nothing is saved again
    del graph["save"], graph["load_decoder"]
    with pytest.raises(comparison.Impossible, match="connect VAE Decode"):
        comparison.comparison(graph, "sample", I)


def test_what_saves_pictures_as_they_finish_is_for_the_set(comparison):
    graph = native_graph()
    graph["saving"] = node("HierDiffSaveAsDrawn", prompts=["set", 0])
    graph["sample"]["inputs"] |= {"saving": ["saving", 0], "vae": ["load_decoder", 1]}
    made = comparison.comparison(graph, "sample", I)
    assert "saving" in made["sample"]["inputs"]
    assert "saving" not in made["hierdiff-sample-alone"]["inputs"]
    assert "vae" in made["hierdiff-sample-alone"]["inputs"]


def test_a_second_pass_is_not_taken_for_decoding(comparison):
    """Two passes: latents of the first go through an upscaler into a second sampler, which has rows for all prompts."""
    graph = native_graph()
    graph["larger"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method="bislerp", scale_by=2.0)
    graph["second"] = node("KSampler", **{**graph["sample"]["inputs"], "latent_image": ["larger", 0], "steps": 6})
    graph["decode"]["inputs"]["samples"] = ["second", 0]
    made = comparison.comparison(graph, "sample", I)
    assert sum(item["class_type"] == "KSampler" for item in made.values()) == 1
    assert sum(item["class_type"] == "VAEDecode" for item in made.values()) == 3


def test_nodes_between_plan_and_sampler_are_copied_in_subgraphs_too(comparison):
    graph = {name.replace("share", "3:5"): item for name, item in share_steps_graph().items()}
    graph["shift"] = node("ModelSamplingDiscrete", model=["3:5", 0], sampling="eps", zsnr=False)
    graph["sample"]["inputs"]["model"] = ["shift", 0]
    made = comparison.comparison(graph, "sample", I)
    new = set(made) - set(graph)
    assert not any(":" in name for name in new)  # would be places in subgraphs of the page
    assert made["hierdiff-shift-alone"]["inputs"]["model"] == ["hierdiff-3-5-alone", 0]
    assert made["hierdiff-3-5-alone"]["inputs"]["plan"] == ["hierdiff-plan-0-unshared", 0]
    assert made["hierdiff-sample-alone"]["inputs"]["positive"] == ["model", 1]  # all else is the set's own


def test_a_sampler_without_a_plan_is_refused(comparison):
    graph = share_steps_graph()
    graph["sample"]["inputs"]["model"] = ["model", 0]
    with pytest.raises(comparison.Impossible, match="no plan leads to this sampler"):
        comparison.comparison(graph, "sample", I)
