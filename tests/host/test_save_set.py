"""Save Image Set in this process and in a real ComfyUI."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_host import HttpFailed
from graphs import node, pictures, small_graph
from PIL import Image

PROMPTS = ("an apple", "a pear")


@pytest.fixture
def save(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))

    def run(prompts=PROMPTS, format="png", captions="none", name="{index:04d}_{prompt}", folder="set", **sources):
        """With lists of inputs, as the host gives them; a source that is no list becomes one."""
        inputs = {"prompts": prompts, "folder": folder, "format": format, "captions": captions, "name": name, **sources}
        return pack.nodes.SaveSet.execute(**{k: v if isinstance(v, list) else [v] for k, v in inputs.items()}).result

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


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    "split",
    [
        lambda images: list(images.split(1)),
        lambda images: list(images),  # without a batch dimension
        lambda images: [list(images)],
        lambda images: [images[:1], images[1:]],
    ],
    ids=["batches of one", "single pictures", "a list in the list", "two batches"],
)
def test_list_of_images_is_a_set_as_a_batch_is(save, tmp_path, split):
    images, prompts = torch.rand(3, 8, 16, 3), ("a", "b", "c")
    assert save(images=images, prompts=prompts) == (str(tmp_path / "set"), 3)
    assert save(images=split(images), prompts=prompts, folder="list") == (str(tmp_path / "list"), 3)
    for name in ("0000_a.png", "0001_b.png", "0002_c.png"):
        assert np.array_equal(pixels(tmp_path / "set" / name), pixels(tmp_path / "list" / name))


def test_images_of_a_list_may_differ_in_size(save, tmp_path):
    assert save(images=[torch.rand(1, 8, 16, 3), torch.rand(1, 24, 8, 3)]) == (str(tmp_path / "set"), 2)
    assert [pixels(path).shape for path in sorted((tmp_path / "set").iterdir())] == [(8, 16, 3), (24, 8, 3)]


def test_list_of_latents_is_decoded_one_after_the_other(save, tmp_path):
    vae = SimpleNamespace(device=torch.device("cpu"), decode=lambda z: z.movedim(1, -1).clamp(0, 1)[..., :3])
    latents = [torch.rand(1, 4, 8, 8), torch.rand(2, 4, 4, 4)]
    save(latent=[{"samples": z} for z in latents], vae=vae, prompts=("a", "b", "c"))
    assert [pixels(path).shape for path in sorted((tmp_path / "set").iterdir())] == [(8, 8, 3), (4, 4, 3), (4, 4, 3)]


def test_lists_of_whole_sets_are_saved_one_after_the_other_as_the_host_did(save, tmp_path):
    first, second = torch.rand(2, 8, 8, 3), torch.rand(2, 8, 8, 3)
    assert save(images=[first, second], captions="txt") == (str(tmp_path / "set"), 4)
    assert (tmp_path / "set" / "0001_a pear_2.txt").read_text() == "a pear"
    assert np.array_equal(pixels(tmp_path / "set" / "0001_a pear_2.png"), (second[1] * 255).to(torch.uint8).numpy())
    save(images=[first, second], prompts=[("a", "b"), ("c", "d")], folder=["one", "two"])
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["0000_c.png", "0001_d.png"]


def test_count_of_a_list_that_does_not_fit_is_that_of_all(save):
    with pytest.raises(ValueError, match="as many images as prompts; got 3 images and 2 prompts"):
        save(images=[torch.rand(1, 8, 8, 3)] * 3)
    with pytest.raises(ValueError, match="images is an empty list"):
        save(images=[])
    for other in (None, "cat", {"samples": torch.zeros(1, 4, 8, 8)}, torch.zeros(8, 8)):
        with pytest.raises(ValueError, match="images must come from a node such as VAE Decode or Load Image; got "):
            save(images=[other])
    with pytest.raises(ValueError, match="folder must have at most 500 characters; got 1000"):
        save(images=[torch.rand(2, 8, 8, 3)], folder="a/" * 500)


@pytest.fixture
def sheet(pack):
    def run(images, prompts=PROMPTS, columns=0):
        prompts = prompts if isinstance(prompts, list) else [prompts]
        return pack.nodes.ContactSheet.execute(images=images, prompts=prompts, columns=[columns]).result[0]

    return run


def test_sheet_of_a_list_is_that_of_the_batch(sheet, images):
    whole = sheet([images])
    assert whole.shape[0] == 1
    for listed in (list(images.split(1)), list(images)):
        assert torch.equal(sheet(listed), whole)
    assert sheet([images[:1], torch.rand(1, 64, 8, 3)]).shape == whole.shape
    assert sheet([images, images]).shape == (2, *whole.shape[1:])
    assert sheet([images, images[:1]], prompts=[PROMPTS, PROMPTS[:1]]).shape[0] == 2
    with pytest.raises(ValueError, match="got 3 images and 2 prompts"):
        sheet(list(torch.rand(3, 8, 8, 3)))


def test_sheet_of_combinations_has_axes_unless_the_workflow_is_older(pack):
    prompts = pack.nodes.PromptSet.execute(["{a|b} {c|d|e}"]).result[0]
    images = torch.rand(6, 16, 32, 3)

    def sheet(columns=0, **axes):
        output = pack.nodes.ContactSheet.execute(images=[images], prompts=[prompts], columns=[columns], **axes)
        return output.result[0], output.ui["text"][0]

    plain, said = sheet()
    assert said == "6 images"
    gridded, said = sheet(axes=["automatic"])
    assert said == "6 images, 2 × 3\nrows: a, b\ncolumns: c, d, e"
    assert gridded.shape != plain.shape
    assert torch.equal(sheet(axes=["off"])[0], plain)
    assert torch.equal(sheet(3, axes=["automatic"])[0], sheet(3)[0])
    with pytest.raises(ValueError, match="axes must be one of automatic, off"):
        sheet(axes=["on"])
    with pytest.raises(ValueError, match="got 1 images and 6 prompts"):
        pack.nodes.ContactSheet.execute(images=[images[:1]], prompts=[prompts], columns=[0], axes=["automatic"])


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


def listed(saved, **source):
    kept = {name: value for name, value in saved["inputs"].items() if name not in ("latent", "vae", "folder")}
    return kept | {"folder": "sets/list"} | source | ({"vae": ["load_decoder", 1]} if "latent" in source else {})


@pytest.mark.host
def test_server_saves_what_vae_decode_and_save_image_do(comfyui):
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
    graph["singles"] = node("RebatchImages", images=["decode", 0], batch_size=1)
    graph["single_latents"] = node("RebatchLatents", latents=["sample", 0], batch_size=1)
    graph["list_saved"] = node("HierDiffSaveSet", **listed(graph["set_saved"], images=["singles", 0]))
    graph["latents_saved"] = node("HierDiffSaveSet", **listed(graph["set_saved"], latent=["single_latents", 0]))
    graph["list_sheet"] = node("HierDiffContactSheet", **graph["sheet"]["inputs"] | {"images": ["singles", 0]})
    prompt_id = comfyui.queue(graph, extra_data={"extra_pnginfo": {"workflow": {"nodes": []}}})
    outputs = comfyui.wait(prompt_id)["outputs"]
    output = comfyui.base_dir / "output"
    pairs = list(zip(outputs["set_saved"]["images"], outputs["save"]["images"], strict=True))
    pairs += zip(outputs["list_saved"]["images"], outputs["save"]["images"], strict=True)
    pairs += zip(outputs["latents_saved"]["images"], outputs["save"]["images"], strict=True)
    assert len(pairs) == 18
    for ours, theirs in pairs:
        one, other = (Image.open(output / ref["subfolder"] / ref["filename"]) for ref in (ours, theirs))
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert one.info == other.info
        assert set(one.info) == {"prompt", "workflow"}
    assert np.array_equal(*(pictures(comfyui, {"outputs": outputs}, name) for name in ("sheet", "list_sheet")))
    assert "6 images, 128 × 128" in outputs["set_saved"]["text"][0]
    graph["set_saved"]["inputs"]["name"] = "{seed}"
    with pytest.raises(HttpFailed, match="seed"):
        comfyui.queue(graph)
