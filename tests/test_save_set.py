"""Save Image Set in this process and in a real ComfyUI."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_host import HttpFailed
from graphs import node, small_graph
from PIL import Image

PROMPTS = ("an apple", "a pear")


@pytest.fixture
def save(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))

    def run(prompts=PROMPTS, format="png", captions="none", name="{index:04d}_{prompt}", folder="set", **sources):
        return pack.nodes.SaveSet.execute(prompts, folder, format, captions, name, **sources).result

    return run


@pytest.fixture
def images():
    return torch.rand((2, 24, 32, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_files_open_and_are_never_overwritten(save, images, tmp_path, format):
    assert save(format=format, images=images) == (str(tmp_path / "set"), 2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert set(before) == {f"0000_an apple.{format}", f"0001_a pear.{format}"}
    save(format=format, images=1 - images)
    after = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert len(after) == 4
    assert before.items() <= after.items()
    assert {Image.open(path).size for path in (tmp_path / "set").iterdir()} == {(32, 24)}


def test_captions(save, images, tmp_path):
    save(captions="txt", images=images, name="{prompt}", prompts=("pear", "pear"))
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"pear.png", "pear.txt", "pear_2.png", "pear_2.txt"}
    assert (tmp_path / "set" / "pear_2.txt").read_text() == "pear"
    for _ in range(2):
        save(captions="metadata.jsonl", images=images, folder="other")
    lines = [json.loads(line) for line in (tmp_path / "other" / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [*PROMPTS, *PROMPTS]
    assert all((tmp_path / "other" / line["file_name"]).exists() for line in lines)


def test_wrong_inputs_are_refused_before_anything_is_written(save, images, tmp_path):
    latent = {"samples": torch.zeros(2, 4, 4, 4)}
    for wanted, changes in {
        "seed": {"images": images, "name": "{seed}"},
        "folder must": {"images": images, "folder": "../set"},
        "3 prompts": {"images": images, "prompts": ("a", "b", "c")},
        "connect vae": {"latent": latent},
        "nothing to save": {},
        "not both": {"latent": latent, "images": images},
    }.items():
        with pytest.raises(ValueError, match=wanted):
            save(**changes)
    assert list(tmp_path.iterdir()) == []


def test_workflow_goes_into_webp_as_exif_and_nowhere_when_metadata_is_off(pack, images, tmp_path, monkeypatch, save):
    from comfy.cli_args import args

    module = sys.modules[f"{pack.__name__}.nodes.save_set"]
    monkeypatch.setattr(module, "texts", lambda cls: [("prompt", '{"1": 2}'), ("workflow", "[]")])
    save(format="webp", images=images)
    exif = Image.open(tmp_path / "set" / "0000_an apple.webp").getexif()
    assert dict(exif) == {0x0110: 'prompt:{"1": 2}', 0x010F: "workflow:[]"}
    monkeypatch.undo()
    monkeypatch.setattr(args, "disable_metadata", True)
    assert module.texts(SimpleNamespace(hidden=SimpleNamespace(prompt={"1": 2}, extra_pnginfo={"workflow": []}))) == []


@pytest.mark.host
def test_server_saves_what_vae_decode_and_save_image_do(comfy):
    graph = small_graph(**{"embed.seed": 32})  # of its own: the server leaves cached nodes out of the outputs
    graph["set_saved"] = node(
        "HierDiffSaveSet",
        prompts=["set", 0],
        folder="sets/one",
        format="png",
        captions="none",
        name="{index}",
        latent=["sample", 0],
        vae=["load_decoder", 1],
    )
    prompt_id = comfy.queue(graph, extra_data={"extra_pnginfo": {"workflow": {"nodes": []}}})
    outputs = comfy.wait(prompt_id)["outputs"]
    output = comfy.base_dir / "output"
    pairs = list(zip(outputs["set_saved"]["images"], outputs["save"]["images"], strict=True))
    assert len(pairs) == 6
    for ours, theirs in pairs:
        one, other = (Image.open(output / ref["subfolder"] / ref["filename"]) for ref in (ours, theirs))
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert one.info == other.info
        assert set(one.info) == {"prompt", "workflow"}
    assert "6 images, 128 × 128" in outputs["set_saved"]["text"][0]
    graph["set_saved"]["inputs"]["name"] = "{seed}"
    with pytest.raises(HttpFailed, match="seed"):
        comfy.queue(graph)
