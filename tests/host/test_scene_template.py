"""Templates for any model in a real server, on the bundled scene model and with a checkpoint; HierDiff Set."""

import asyncio
import importlib
import json

import numpy as np
import pytest
from comfyui_host import ComfyServer, HttpFailed
from graphs import messages_of, node, pictures
from scene_folders import pack_with_scenes
from workflow_api import to_api

pytestmark = pytest.mark.host
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"


@pytest.fixture(scope="module")
def server(repo_root, tmp_path_factory):
    """With a tiny scene model of random weights in place of the bundled one."""
    folder = tmp_path_factory.mktemp("scenes")
    pack = pack_with_scenes(folder / "pack", repo_root)
    with ComfyServer(base_dir=folder / "base", pack_dir=pack) as running:
        yield running


@pytest.fixture(scope="module")
def checkpoint(pack, server):
    """Random weights in SD 1.5's shapes."""
    path = server.base_dir / "models" / "checkpoints" / CHECKPOINT
    importlib.import_module("large_models").write_sd15_checkpoint(path)
    yield path
    path.unlink()


def prompt_of(server, path, **changes):
    """A workflow for the server, with other inputs of any node, and its nodes by type."""
    prompt = to_api(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    for part in prompt.values():
        part["inputs"].update({name: value for name, value in changes.items() if name in part["inputs"]})
    return prompt, {part["class_type"]: node_id for node_id, part in prompt.items()}


def drawn(server, prompt, nodes):
    entry = server.run(prompt)
    return np.stack(pictures(server, entry, nodes["SaveImage"])), entry["outputs"][nodes["HierDiffKSampler"]]["text"][0]


@pytest.fixture(scope="module")
def template(repo_root):
    return repo_root / "workflows" / "hierdiff_any_model.json"


@pytest.fixture(scope="module")
def first_run(server, template):
    prompt, nodes = prompt_of(server, template)
    return drawn(server, prompt, nodes)


def test_template_runs_as_it_is(first_run):
    made, report = first_run
    assert made.shape == (12, 128, 128, 3)
    assert len({picture.tobytes() for picture in made}) == 12
    assert "instead of 240" in report


def test_pictures_survive_an_eviction_of_the_models(server, template, first_run):
    server.free()
    prompt, nodes = prompt_of(server, template, filename_prefix="again")
    assert np.array_equal(drawn(server, prompt, nodes)[0], first_run[0])


def test_one_widget_takes_the_users_checkpoint(server, template, checkpoint):
    """With the pictures of the same graph behind the host's own loader."""
    small = {"text": "a {red|green} mug", "width": 64, "height": 64, "steps": 4}
    assert CHECKPOINT in server.object_info()["HierDiffSceneLoader"]["input"]["required"]["model_name"][1]["options"]
    prompt, nodes = prompt_of(server, template, model_name=CHECKPOINT, **small)
    ours, _ = drawn(server, prompt, nodes)
    loader = prompt[nodes["HierDiffSceneLoader"]]
    loader.update(class_type="CheckpointLoaderSimple", inputs={"ckpt_name": CHECKPOINT})
    assert ours.shape == (2, 64, 64, 3)
    assert np.array_equal(drawn(server, prompt, nodes)[0], ours)


def test_template_of_the_first_version_runs_as_before(server, repo_root, checkpoint):
    path = repo_root / "tests" / "data" / "any_model_0.1.0.json"
    prompt, nodes = prompt_of(server, path, text="a {red|green} mug", width=64, height=64, steps=4)
    assert prompt[nodes["CheckpointLoaderSimple"]]["inputs"] == {"ckpt_name": CHECKPOINT}
    assert prompt[nodes["HierDiffKSampler"]]["inputs"]["cfg"] == 7.0
    assert drawn(server, prompt, nodes)[0].shape == (2, 64, 64, 3)


def test_what_is_missing_is_said_when_it_is_queued(server, template):
    path = server.pack_dir / "models" / "emoji-scenes" / "vae" / "config.json"
    kept = path.rename(path.with_suffix(".kept"))
    try:
        for name, message in [
            ("emoji-scenes (bundled)", "emoji-scenes/vae/config.json is missing"),
            ("gone.safetensors", "there is no checkpoint 'gone.safetensors' in models/checkpoints"),
        ]:
            prompt, nodes = prompt_of(server, template, model_name=name)
            with pytest.raises(HttpFailed) as failure:
                server.queue(prompt)
            (error,) = failure.value.body["node_errors"][nodes["HierDiffSceneLoader"]]["errors"]
            assert message in error["details"]
    finally:
        kept.rename(path)


# --- The templates around HierDiff Set, and the node itself: they share this server

TINY = {"text": "a {red|green} cat", "width": 64, "height": 64, "steps": 5}


@pytest.mark.parametrize(("name", "sheets"), [("lora_set", 1), ("compare", 2), ("upscale", 1)])
def test_templates_around_a_set_run(server, repo_root, name, sheets):
    prompt, nodes = prompt_of(server, repo_root / "workflows" / f"hierdiff_{name}.json", **TINY)
    outputs = server.run(prompt)["outputs"]
    drawn = [node_id for node_id, part in prompt.items() if part["class_type"] == "HierDiffContactSheet"]
    assert [outputs[node_id]["text"] for node_id in drawn] == [["2 images"]] * sheets
    if name == "lora_set":
        (folder,) = {file["subfolder"] for file in outputs[nodes["HierDiffSaveSet"]]["images"]}
        written = sorted((server.base_dir / "output" / folder).glob("*.txt"))
        assert [path.read_text() for path in written] == ["a red cat", "a green cat"]
    if name == "upscale":
        found = pictures(server, {"outputs": outputs}, nodes["SaveImage"])
        assert [picture.shape for picture in found] == [(96, 96, 3)] * 2


def test_models_that_users_may_choose_are_offered_for_download(repo_root):
    for path in sorted((repo_root / "workflows").glob("*.json")):
        for part in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            offered = part["properties"].get("models", [])
            assert bool(offered) == (part["type"] == "HierDiffSceneLoader")
            for model in offered:
                assert set(model) == {"name", "url", "directory"}
                assert model["url"].startswith("https://huggingface.co/")
                assert model["url"].endswith(f"/{model['name']}")
                assert model["directory"] == "checkpoints"


SAMPLING = {"cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}


def set_graph(**changes):
    inputs = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "negative": "", "seed": 3, **SAMPLING}
    return {
        "load": node("HierDiffSceneLoader", model_name="emoji-scenes (bundled)"),
        "set": node("HierDiffSet", **inputs, **{**TINY, **changes}),
        "save": node("SaveImage", images=["set", 0], filename_prefix="set"),
        "show": node("PreviewAny", source=["set", 3]),
    }


def chain_graph():
    """What a set stands for, as a user would wire it."""
    run = {"model": ["load", 0], "latent_image": ["latent", 0], **SAMPLING}
    return {
        "load": node("HierDiffSceneLoader", model_name="emoji-scenes (bundled)"),
        "prompts": node("HierDiffPromptSet", text=TINY["text"]),
        "positive": node("HierDiffClipEmbedding", clip=["load", 1], prompts=["prompts", 0], pooling="auto"),
        "negative": node("CLIPTextEncode", clip=["load", 1], text=""),
        "linkage": node("HierDiffWardLinkage", embeddings=["positive", 1], metric="chord"),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "plan": node("HierDiffSavingPlan", linkage=["linkage", 0], steps=5, **run),
        "sampler": node(
            "HierDiffKSampler",
            **{"positive": ["positive", 0], "negative": ["negative", 0], "plan": ["plan", 0], "seed": 3},
            **{"denoise": 1.0, "micro_batch": 0, **run},
        ),
        "decoded": node("VAEDecode", samples=["sampler", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decoded", 0], filename_prefix="chain"),
    }


def test_a_set_heeds_the_negatives_and_seeds_of_a_table(server):
    def drawn(second):
        table = f"prompt\tnegative\tseed\na cat, a bus\t\t\na cat, a bus, flat style{second}"
        graph = set_graph(prompts=["table", 0]) | {"table": node("HierDiffPromptTable", table=table)}
        return pictures(server, server.run(graph), "save")

    plain, avoided, seeded = drawn(""), drawn("\twhite background\t"), drawn("\t\t77")
    assert len(plain) == len(avoided) == len(seeded) == 2
    assert not np.array_equal(plain[1], avoided[1])
    assert not np.array_equal(plain[1], seeded[1])


@pytest.fixture(scope="module")
def heard(server):
    """What the page heard of a set's run, and the history's entry."""
    events, _ = asyncio.run(messages_of(server, set_graph()))
    return events, server.wait(events[-1]["data"]["prompt_id"])


def test_a_set_draws_what_its_nodes_draw(server, heard):
    ours, theirs = pictures(server, heard[1], "save"), pictures(server, server.run(chain_graph()), "save")
    assert len(ours) == 2
    assert np.array_equal(ours, theirs)


def test_tree_and_report_are_those_of_the_node_in_the_users_graph(server, heard):
    events, entry = heard
    trees = [event["data"] for event in events if event["type"] == "hierdiff.tree"]
    assert trees[0]["prompts"] == ["a red cat", "a green cat"]
    assert {tree["node"] for tree in trees} == {"set"}
    said = [event["data"] for event in events if event["type"] == "hierdiff.result" and event["data"]["text"]]
    assert {result["node"] for result in said} - {"load"} == {"set"}  # a loader that is not cached says what it loaded
    last = [result for result in said if result["node"] == "set"][-1]["text"].splitlines()
    assert last[0].startswith("saving 1 (safe): the first 1 of 5 steps are shared")
    assert sum("not measured for this model" in line for line in last) == 1
    assert entry["outputs"]["show"]["text"][0].splitlines() == last


def test_a_set_refuses_bad_prompts_when_it_is_queued(server):
    with pytest.raises(HttpFailed) as failure:
        server.queue(set_graph(text="a {b"))
    errors = failure.value.body["node_errors"]["set"]["errors"]
    assert errors
    assert all("'{' is not closed" in error["details"] for error in errors)


def test_a_set_that_is_kept_draws_only_what_is_new(server):
    def drawn(text, edits=""):
        entry = server.run(set_graph(text=text, keep=True, edits=edits))
        (told,) = [told for output in entry["outputs"].values() for told in output.get("hierdiff_edits", [])]
        return pictures(server, entry, "save"), told

    before, told = drawn("a red cat, a bus\na green cat, a bus\na koala, a teapot")
    after, now = drawn("a red cat, a bus\na green cat, a bus\na rocket, a teapot", told["edits"])
    assert told["reused"] == 0
    assert 0 < now["rows"] - now["reused"] <= TINY["steps"]
    assert np.array_equal(before[:2], after[:2])
    assert not np.array_equal(before[2], after[2])


def test_a_set_draws_variants(server):
    prompts = {"prompts": node("HierDiffPromptSet", text="a red cat\na bus", seed=0, count=8)}
    varied = {"varied": node("HierDiffVariants", prompts=["prompts", 0], which="0", count=2, part_at=0.4)}
    made = pictures(server, server.run(set_graph(prompts=["varied", 0]) | prompts | varied), "save")
    assert len(made) == 4
    assert len({picture.tobytes() for picture in made}) == 4
