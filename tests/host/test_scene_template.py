"""The template for any model in a real server: on the bundled scene model, and with a checkpoint in its place."""

import importlib
import json

import numpy as np
import pytest
from comfyui_host import ComfyServer, HttpFailed
from graphs import pictures
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
    for node in prompt.values():
        node["inputs"].update({name: value for name, value in changes.items() if name in node["inputs"]})
    return prompt, {node["class_type"]: node_id for node_id, node in prompt.items()}


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
