"""The guider and the KSampler with shared steps in a real server, on the bundled model as MODEL."""

import asyncio
import re

import numpy as np
import pytest
from comfyui_host import ComfyServer, HttpFailed, PromptFailed
from graphs import custom_sampling, guider_graph, messages_of, native_graph, node, pictures, said, share_steps_graph
from shared_runs import untimed

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def shared_run(comfyui):
    return comfyui.run(native_graph())


def test_ksampler_draws_a_picture_per_prompt_and_reports_the_rows(comfyui):
    # a seed of its own: the server leaves nodes that it finds in its cache out of the outputs
    entry = comfyui.run(native_graph(**{"embed.seed": 31}))
    made = pictures(comfyui, entry, "save")
    assert len(made) == 6
    assert len({picture.tobytes() for picture in made}) == 6
    report = entry["outputs"]["sample"]["text"][0]
    spent, standard = map(int, re.search(r"model rows: (\d+) instead of (\d+)", report).groups())
    plan = entry["outputs"]["plan"]["text"][0]
    assert standard == 36
    assert f"{spent} rows instead of 36" in plan


def test_without_sharing_a_prompt_has_the_picture_of_the_hosts_sampler_for_it_alone(comfyui):
    graph = native_graph(**{"plan.mode": "tau", "plan.value": 0.0})
    graph["only"] = node("HierDiffPromptSet", text="cat face, noto style")
    graph["only_embed"] = node("HierDiffPriorEmbedding", **{**graph["embed"]["inputs"], "prompts": ["only", 0]})
    graph["only_model"] = node("HierDiffKandinskyModel", decoder=["load_decoder", 0], embeddings=["only_embed", 0])
    sides = {name: ["only_model", i] for i, name in enumerate(("model", "positive", "negative"))}
    graph["guider"] = node("CFGGuider", **sides, cfg=graph["sample"]["inputs"]["cfg"])
    graph |= custom_sampling("plain", latent=["empty", 0])
    graph["one"] = node("RandomNoise", noise_seed=1)
    graph["plain_decode"] = node("VAEDecode", samples=["plain", 0], vae=["load_decoder", 1])
    graph["plain_save"] = node("SaveImage", images=["plain_decode", 0], filename_prefix="plain")
    entry = comfyui.run(graph)
    (alone,) = pictures(comfyui, entry, "plain_save")
    assert np.array_equal(pictures(comfyui, entry, "save")[0], alone)


def test_guider_under_sampler_custom_advanced_equals_the_ksampler(comfyui, shared_run):
    entry = comfyui.run(guider_graph())
    for one, other in zip(pictures(comfyui, shared_run, "save"), pictures(comfyui, entry, "save"), strict=True):
        assert np.array_equal(one, other)


def test_ksampler_behind_share_steps_equals_the_hierarchical_ksampler_and_tells_as_much(comfyui, shared_run):
    """Pictures, tree and report; the page finds the last two by the id of the KSampler."""
    events, _ = asyncio.run(messages_of(comfyui, share_steps_graph()))
    entry = comfyui.wait(events[-1]["data"]["prompt_id"])
    for one, other in zip(pictures(comfyui, shared_run, "save"), pictures(comfyui, entry, "save"), strict=True):
        assert np.array_equal(one, other)
    report = shared_run["outputs"]["sample"]["text"][0]
    assert [untimed(text) for text in said(events, "sample")] == [untimed(report)]
    trees = [event["data"] for event in events if event["type"] == "hierdiff.tree"]
    assert {message["node"] for message in trees} == {"sample"}
    spent = re.search(r"model rows: (\d+) instead of (\d+)", report).groups()
    assert (trees[0]["kind"], trees[-1]["kind"], trees[-1]["state"]) == ("begin", "end", "done")
    assert (str(trees[-1]["rows"]), str(trees[-1]["standard"])) == spent
    kept = comfyui.get("/hierdiff/results?clientId=test")
    assert [result["text"] for result in kept if result["node"] == "sample"] == said(events, "sample")


def test_share_steps_of_prompts_that_are_not_conditioned_apart_is_refused(comfyui):
    graph = share_steps_graph()
    graph["only"] = node("HierDiffPromptSet", text="cat face, noto style")
    graph["only_embed"] = node("HierDiffPriorEmbedding", **{**graph["embed"]["inputs"], "prompts": ["only", 0]})
    graph["only_model"] = node("HierDiffKandinskyModel", decoder=["load_decoder", 0], embeddings=["only_embed", 0])
    graph["sample"]["inputs"] |= {"positive": ["only_model", 1], "negative": ["only_model", 2]}
    with pytest.raises(PromptFailed, match="no entry of the positive conditioning is for prompt 1 ") as failure:
        comfyui.run(graph)
    assert failure.value.node_id == "sample"


def cancel_job(server, prompt_id):
    """As pages of newer hosts cancel a run; older hosts know of no jobs."""
    try:
        server.post(f"/api/jobs/{prompt_id}/cancel", {})
    except HttpFailed as error:
        if error.status not in (404, 405):
            raise
        server.interrupt(prompt_id)


@pytest.mark.parametrize("cancel", [ComfyServer.interrupt, cancel_job])
def test_cancel_is_answered_within_a_model_call(comfyui, cancel):
    import threading
    import time

    graph = native_graph(**{"plan.steps": 400, "plan.mode": "tau", "plan.value": 0.0})
    prompt_id = comfyui.queue(graph)
    stop = threading.Timer(6, cancel, [comfyui, prompt_id])
    stop.start()
    began = time.monotonic()
    with pytest.raises(PromptFailed, match="interrupted"):
        comfyui.wait(prompt_id)
    assert time.monotonic() - began < 20  # 2400 rows would take far longer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample.sampler_name": "dpm_adaptive"}, "dpm_adaptive chooses its steps"),
        ({"empty.batch_size": 4}, "the latent batch has 4 rows, but the plan is for 6 prompts"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(comfyui, changes, message):
    with pytest.raises(PromptFailed, match=message) as failure:
        comfyui.run(native_graph(**changes))
    assert failure.value.node_id == "sample"
    assert failure.value.exception_type == "ValueError"
