"""Save Pictures as They Finish: in this process and in a real ComfyUI, which is interrupted and killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_host import ComfyServer, PromptFailed
from graphs import node, small_graph
from PIL import Image

from hierdiff_core.plan.algebra import alone
from hierdiff_core.plan.one_prompt import one_unshared

PROMPTS = ("an apple", "a pear", "a plum")
SAVING = {"folder": "drawn", "format": "png", "captions": "txt", "name": "{index:04d}_{prompt}"}


@pytest.fixture
def saver(pack, tmp_path, monkeypatch):
    """Makes a `Saver` into a folder, whose decoder takes the first three channels for colours."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    module = sys.modules[f"{pack.__name__}.nodes.saving"]

    def make(at_once=True, prompts=PROMPTS, **changes):
        saving = pack.nodes.SaveAsDrawn.execute(prompts=prompts, **{**SAVING, **changes}).result[0]
        made = module.Saver(saving, lambda latents: latents.movedim(1, -1)[..., :3].clamp(0, 1), at_once)
        made.decoded = []
        decode = made.decode
        made.decode = lambda latents: made.decoded.append(len(latents)) or decode(latents)
        return made

    return make


@pytest.fixture
def latents():
    return torch.rand((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))


def saved(made, latents, *groups):
    for group in groups:
        made.on_finished(np.array(group), latents[group])
    made.end()
    return "\n".join(made.lines())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_pictures_are_saved_as_they_come_and_never_twice(saver, latents, tmp_path, format):
    first = saver(format=format)
    first.on_finished(np.array([1]), latents[[1]])
    first.close()
    assert names(tmp_path / "drawn") == sorted([f"0001_a pear.{format}", "0001_a pear.txt"])
    again = saver(format=format)
    text = saved(again, latents, [0, 2], [1])
    assert "2 of 3" in text
    assert "1 was saved already" in text
    assert again.decoded == [2]
    before = {path: path.read_bytes() for path in (tmp_path / "drawn").iterdir()}
    assert len(before) == 6
    assert "0 of 3" in saved(saver(format=format), latents, [0, 1, 2])
    assert {path: path.read_bytes() for path in (tmp_path / "drawn").iterdir()} == before


def test_another_picture_of_the_same_name_is_kept_and_both_are_known_again(saver, latents, tmp_path):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "0002_a plum.webp").write_bytes(b"mine")
    for images in (latents, 1 - latents, latents, 1 - latents):
        saved(saver(captions="none"), images, [0, 1, 2])
    stems = ("0000_an apple", "0000_an apple_2", "0001_a pear", "0001_a pear_2", "0002_a plum_2", "0002_a plum_3")
    assert names(tmp_path / "drawn") == sorted([*(f"{stem}.png" for stem in stems), "0002_a plum.webp"])
    assert (tmp_path / "drawn" / "0002_a plum.webp").read_bytes() == b"mine"


def test_decoder_that_does_not_fit_beside_the_sampler_decodes_at_the_end(saver, latents, tmp_path):
    made = saver(at_once=False)
    made.on_finished(np.array([0, 1]), latents[:2])
    assert (made.decoded, names(tmp_path / "drawn")) == ([], [])
    assert "3 of 3" in saved(made, latents, [2])
    assert made.decoded == [2, 1]


def test_full_disk_is_said_and_loses_nothing_that_was_saved(saver, latents, tmp_path, monkeypatch, pack):
    made = saver(captions="none")
    made.on_finished(np.array([0]), latents[[0]])
    made.jobs[0].result()

    @contextlib.contextmanager
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))
        yield

    monkeypatch.setattr(sys.modules[f"{pack.__name__}.hierdiff_core.files.image_set"], "written_aside", full)
    text = saved(made, latents, [1], [2])
    assert "1 of 3" in text
    assert "⚠ saving the pictures failed (OSError: No space left on device" in text
    assert "1 of 3 images were written" in text
    assert names(tmp_path / "drawn") == ["0000_an apple.png"]


def test_other_prompts_are_refused_before_anything_is_drawn(pack):
    module = sys.modules[f"{pack.__name__}.nodes.saving"]
    saving = SimpleNamespace(prompts=PROMPTS)
    module.check_prompts_of(saving, PROMPTS)
    with pytest.raises(ValueError, match="saving is for 3 prompts and the run for 2: connect the prompts that"):
        module.check_prompts_of(saving, PROMPTS[:2])
    with pytest.raises(ValueError, match="the run for 3, which are others"):
        module.check_prompts_of(saving, ("x", *PROMPTS[1:]))


def test_any_model_saves_the_pictures_of_its_plan_with_a_vae(pack):
    """Checked by the node before anything is drawn; a prompt that is drawn alone is no set."""
    module = sys.modules[f"{pack.__name__}.nodes.saving"]
    saving, vae = SimpleNamespace(prompts=PROMPTS), SimpleNamespace()
    plan = replace(alone(3, 2), prompts=PROMPTS)
    assert module.saving_in_run(None, vae, plan) is None
    assert module.saving_in_run(saving, vae, plan).vae.vae is vae
    assert module.saving_in_run(saving, vae, alone(3, 2)) is not None  # a plan without texts
    assert module.saving_in_run(saving, vae, one_unshared(plan, 1)) is None
    with pytest.raises(ValueError, match="saving needs a vae: connect the one that decodes the images"):
        module.saving_in_run(saving, None, plan)
    with pytest.raises(ValueError, match="saving is for 3 prompts and the run for 2"):
        module.saving_in_run(saving, vae, alone(2, 2))
    with pytest.raises(ValueError, match="the run for 3, which are others"):
        module.saving_in_run(saving, vae, replace(plan, prompts=("x", *PROMPTS[1:])))


def test_an_image_is_decoded_once_for_the_tree_and_for_its_file(pack, saver, latents, tmp_path):
    """Also where it is needed in other company; whatever was decoded is given up afterwards."""
    decoded = []
    vae = SimpleNamespace(decode=lambda latents: decoded.append(len(latents)) or latents.movedim(1, -1)[..., :3])
    once = sys.modules[f"{pack.__name__}.nodes.host.finishing"].DecodedOnce(vae)
    first = once.decode(latents[[0, 2]])
    assert torch.equal(once.decode(latents)[[0, 2]], first)
    assert decoded == [1, 1, 1]
    once.forget()
    made = saver()
    made.decode = once.decode
    assert "3 of 3" in saved(made, latents, [0, 1, 2])
    assert sum(decoded) == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"name": "{seeds}"}, "seeds"), ({"folder": "../x"}, "folder must"), ({"caption": "{x}"}, "unknown field")],
)
def test_wrong_inputs_are_refused(pack, changes, said):
    with pytest.raises(ValueError, match=said):
        pack.nodes.SaveAsDrawn.execute(prompts=PROMPTS, **{**SAVING, **changes})


@pytest.mark.parametrize("made", [{}, {"key": 3}, []])
def test_files_of_others_say_nothing(pack, tmp_path, made):
    module = sys.modules[f"{pack.__name__}.nodes.saving"]
    (tmp_path / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    data = module.encode(Image.new("RGB", (8, 8)), "png", [("hierdiff", json.dumps(made))])
    (tmp_path / "c.png").write_bytes(data)
    found = [module.is_saved(tmp_path / name, "png", "3") for name in "abc"]
    assert found == [False, False, False]


# --- a real server


def drawn_graph(folder, **changes):
    """Few prompts depth first, saved as they finish, and the same by Save Image Set after all are drawn."""
    saving = {**SAVING, "folder": f"{folder}/drawn"}
    graph = small_graph(
        **{"set.text": "{cat face|tiger face|red apple|dog|owl|car|bus|sun|moon|key}, {noto|flat} style"}
    )
    graph["saving"] = node("HierDiffSaveAsDrawn", prompts=["set", 0], **saving)
    graph["sample"]["inputs"] |= {"saving": ["saving", 0], "order": "depth first"}
    for name in ("sheet", "save", "decode"):
        del graph[name]
    latent, vae = {"latent": ["sample", 0]}, {"vae": ["load_decoder", 1]}
    graph["saved"] = node(
        "HierDiffSaveSet", prompts=["set", 0], **saving | {"folder": f"{folder}/after"}, **latent, **vae
    )
    for place, value in changes.items():
        name, key = place.split(".")
        graph[name]["inputs"][key] = value
    return graph


def whole_pictures(folder):
    """Pixels by name; of files that are damaged, an error."""
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


@pytest.mark.host
def test_killed_server_leaves_whole_pictures_and_the_next_run_saves_the_others(comfyui, tmp_path):
    own = tmp_path.name  # other tests save in the server's folder too
    with ComfyServer(base_dir=tmp_path) as server:
        killed = tmp_path / "output" / own / "drawn"
        server.queue(drawn_graph(own))
        until(lambda: len(list(killed.glob("*.png"))) >= 3)
        os.kill(server.pid, signal.SIGKILL)
    before = {path.name: path.read_bytes() for path in killed.glob("*.png")}
    assert 3 <= len(before) < 20
    assert len(whole_pictures(killed)) == len(before)
    assert {path.stem for path in killed.glob("*.txt")} >= {name.removesuffix(".png") for name in before}

    folder, graph = comfyui.base_dir / "output" / own / "drawn", drawn_graph(own)
    shutil.copytree(killed, folder)
    graph["text"] = node("PreviewAny", source=["sample", 2])
    text = comfyui.run(graph)["outputs"]["text"]["text"][0]
    assert f"saved in output/{own}/drawn: {20 - len(before)} of 20" in text
    assert f"{len(before)} were saved already" in text
    assert {name: (folder / name).read_bytes() for name in before} == before
    found, others = whole_pictures(folder), whole_pictures(folder.with_name("after"))
    assert found.keys() == others.keys()
    assert all(np.array_equal(found[name], others[name]) for name in found)
    check_metadata(*(Image.open(place / next(iter(found))).info for place in (folder, folder.with_name("after"))))
    cancel(comfyui, drawn_graph(own, **{"sample.seed": 2}), lambda: len(list(folder.glob("*_2.png"))) >= 2)
    assert 22 <= len(whole_pictures(folder)) < 40
    left = {path.name for path in killed.glob(".hierdiff-*")}  # whoever is killed leaves one; for a while it stays
    assert {path.name for path in folder.glob(".hierdiff-*")} <= left


def check_metadata(one, other):
    """What Save Image Set says, and the key."""
    own = json.loads(one.pop("hierdiff"))
    assert re.fullmatch("[0-9a-f]{32}", own.pop("key"))
    assert own == json.loads(other.pop("hierdiff"))
    assert own["seed"] == 1
    assert one.keys() == other.keys()


def cancel(server, graph, when):
    prompt_id = server.queue(graph)
    until(when)
    server.interrupt()
    with pytest.raises(PromptFailed, match="interrupted"):
        server.wait(prompt_id)


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
