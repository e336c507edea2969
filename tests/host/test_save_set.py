"""Save Image Set in this process and in a real ComfyUI."""

import asyncio
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_host import HttpFailed
from graphs import node, pictures, small_graph
from PIL import Image

from hierdiff_core.prompts.rows import PromptRow, PromptRows

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
        "unknown field {seeds}": {"images": images, "name": "{seeds}"},
        "caption has the unknown field": {"images": images, "caption": "{x}"},
        "plain name before and after": {"images": images, "name": "../{index}"},
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
    own = 'hierdiff:{"prompt": "an apple", "negative": null, "seed": null, "index": 0}'
    assert dict(exif) == {0x0110: 'prompt:{"1": 2}', 0x010F: "workflow:[]", 0x010E: own}
    save(format="jpg", images=images, folder="jpg")
    assert dict(Image.open(tmp_path / "jpg" / "0000_an apple.jpg").getexif()) == {0x010F: own}
    monkeypatch.setattr(module, "texts", lambda cls: [])
    monkeypatch.setattr(args, "disable_metadata", True)
    for format in ("png", "webp", "jpg"):
        save(format=format, images=images, folder=f"bare {format}")
        bare = Image.open(tmp_path / f"bare {format}" / f"0000_an apple.{format}")
        assert not bare.getexif()
        assert "hierdiff" not in bare.info
    monkeypatch.undo()
    monkeypatch.setattr(args, "disable_metadata", True)
    assert module.texts(SimpleNamespace(hidden=SimpleNamespace(prompt={"1": 2}, extra_pnginfo={"workflow": []}))) == []


ROWS = PromptRows(
    [
        PromptRow("a (red:1.2) cat, <lora:x:1>", negative="blurry", seed=7),
        PromptRow("a dog", seed=8, caption="the (dog:2)"),
        PromptRow("a pig"),
    ]
)
GRAPH = {
    "1": {"class_type": "HierDiffSaveSet", "inputs": {"images": ["2", 0], "prompts": ["9", 0]}},
    "2": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["8", 0]}},
    "3": {"class_type": "KSampler", "inputs": {"seed": ["4", 0], "negative": ["5", 0], "model": ["8", 0]}},
    "4": {"class_type": "PrimitiveInt", "inputs": {"value": 99}},
    "5": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["8", 0]}},
    "8": {"class_type": "Loader", "inputs": {"seed": 1, "name": ["1", 0]}},
}


def test_files_say_what_is_their_own_and_captions_follow_a_pattern(pack, save, tmp_path, monkeypatch):
    hidden = SimpleNamespace(prompt=GRAPH, extra_pnginfo=None, unique_id="1")
    monkeypatch.setattr(pack.nodes.SaveSet, "hidden", hidden, raising=False)
    images = torch.rand(3, 8, 8, 3)
    names = {"name": "{count}/{seed}/{index:02d} {prompt}", "caption": "ohwx, {prompt}", "captions": "txt"}
    save(images=images, prompts=ROWS, start=5, strip_tags=True, **names)
    folder = tmp_path / "set" / "3"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}
    assert sorted(found) == ["7/05 a red cat.png", "8/06 a dog.png", "99/07 a pig.png"]
    own = [json.loads(Image.open(found[name]).info["hierdiff"]) for name in sorted(found)]
    assert own == [
        {"prompt": "a (red:1.2) cat, <lora:x:1>", "negative": "blurry", "seed": 7, "index": 5},
        {"prompt": "a dog", "negative": "ugly", "seed": 8, "index": 6},
        {"prompt": "a pig", "negative": "ugly", "seed": 99, "index": 7},
    ]
    captions = [found[name].with_suffix(".txt").read_text() for name in sorted(found)]
    assert captions == ["ohwx, a red cat", "ohwx, the dog", "ohwx, a pig"]
    save(images=images, prompts=ROWS, folder="as it is", **names | {"name": "{index}"})
    assert (tmp_path / "as it is" / "1.txt").read_text() == "ohwx, the (dog:2)"


def test_node_shows_all_pictures_and_knows_their_folders(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    inputs = {"folder": ["a/b"], "format": ["png"], "captions": ["none"], "name": ["{index}/x"]}
    prompts = tuple(f"p{i}" for i in range(40))
    output = pack.nodes.SaveSet.execute(prompts=[prompts], images=[torch.rand(40, 4, 4, 3)], **inputs)
    assert len(output.ui["images"]) == 40
    assert output.ui["images"][39] == {"filename": "x.png", "subfolder": "a/b/39", "type": "output"}
    assert output.ui["hierdiff_folder"] == ["a/b"]
    assert output.ui["text"][0].startswith("output/a/b\n40 images")
    monkeypatch.setattr(sys.modules[f"{pack.__name__}.nodes.save_set"], "PICTURES_SHOWN", 3)
    output = pack.nodes.SaveSet.execute(prompts=[prompts], images=[torch.rand(40, 4, 4, 3)], **inputs)
    assert len(output.ui["images"]) == 3
    assert output.ui["text"][0].endswith("the node shows the first 3; all are in the folder")


# --- Opening the folder -----------------------------------------------------------------------------------------------


@pytest.fixture
def opener(pack, tmp_path, monkeypatch):
    """Asks to open a folder, as a page does; returns (status, answer), and what was started."""
    import folder_paths

    module = sys.modules[f"{pack.__name__}.nodes.host.open_folder"]
    started = []
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module.subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    (tmp_path / "output" / "sets" / "one").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output" / "link").symlink_to(tmp_path / "elsewhere")

    def ask(folder="sets/one", remote="127.0.0.1", host="localhost:8188", kind="application/json", **headers):
        async def question():
            return {"folder": folder}

        request = SimpleNamespace(
            remote=remote, host=host, headers=headers, content_type=kind, content_length=30, json=question
        )
        response = asyncio.run(module.open_folder(request))
        return response.status, json.loads(response.body), started

    return ask


def test_folder_opens_on_the_servers_own_machine(opener, tmp_path, monkeypatch):
    path = str(tmp_path / "output" / "sets" / "one")
    for more in ({}, {"remote": "::1", "host": "[::1]:8188"}, {"host": "127.0.0.1", "Sec-Fetch-Site": "same-origin"}):
        status, answer, started = opener(**more)
        assert (status, answer) == (200, {"opened": True, "path": path})
        assert started.pop() == ["/usr/bin/xdg-open", path]
    monkeypatch.delenv("DISPLAY")
    assert opener() == (200, {"opened": False, "path": path}, [])


@pytest.mark.parametrize(
    "asked",
    [
        {"remote": "192.168.1.7"},
        {"remote": None},
        {"host": "evil.example:8188"},
        {"host": ""},
        {"X-Forwarded-For": "1.2.3.4"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_folder_opens_for_nobody_else(opener, asked):
    status, _, started = opener(**asked)
    assert (status, started) == (403, [])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"folder": "../elsewhere"}, 400),
        ({"folder": "/etc"}, 400),
        ({"folder": "link"}, 400),
        ({"folder": None}, 400),
        ({"folder": ["sets"]}, 400),
        ({"folder": "sets/two"}, 404),
        ({"kind": "text/plain"}, 400),
    ],
)
def test_only_folders_of_the_output_folder_open(opener, asked, expected):
    status, answer, started = opener(**asked)
    assert (status, started) == (expected, [])
    assert "/etc" not in answer["error"] or asked["folder"] == "/etc"


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
        own = json.loads(one.info.pop("hierdiff"))
        assert one.info == other.info
        assert set(one.info) == {"prompt", "workflow"}
        assert own["seed"] == graph["sample"]["inputs"]["seed"]
    assert np.array_equal(*(pictures(comfyui, {"outputs": outputs}, name) for name in ("sheet", "list_sheet")))
    assert "6 images, 64 × 64" in outputs["set_saved"]["text"][0]
    graph["set_saved"]["inputs"]["name"] = "{seeds}"
    with pytest.raises(HttpFailed, match="seeds"):
        comfyui.queue(graph)
    with pytest.raises(HttpFailed, match="there is no such folder"):  # one that there is would open here
        comfyui.post("/hierdiff/open", {"folder": "sets/none"})
    with pytest.raises(HttpFailed, match="inside the output folder"):
        comfyui.post("/hierdiff/open", {"folder": "../input"})
