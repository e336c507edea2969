"""The nodes in a real ComfyUI server, through its HTTP API."""

import asyncio
import io
import json
import time

import numpy as np
import pytest
from comfyui_host import HttpFailed, PromptFailed
from graphs import BUNDLED, messages_of, pictures, said, small_graph
from PIL import Image
from shared_runs import untimed
from workflow_api import to_api

from hierdiff_core import (
    build_plan,
    decode,
    embed_prompts,
    falling_shape,
    load_decoder,
    load_prior,
    sample,
    tau_for_saving,
    thresholds_at,
    ward_linkage,
)
from hierdiff_core.previews import to_pictures

pytestmark = pytest.mark.host


def text(entry, node):
    return entry["outputs"][node]["text"][0]


def cached_nodes(entry):
    return {
        node for event, data in entry["status"]["messages"] if event == "execution_cached" for node in data["nodes"]
    }


@pytest.fixture(scope="module")
def small_run(comfyui):
    return comfyui.run(small_graph())


# --- The contract ----------------------------------------------------------------------------------------------------


def test_nodes_are_the_public_contract(comfyui, repo_root):
    info = comfyui.object_info()
    contract = json.loads((repo_root / "tests" / "data" / "contract.json").read_text())
    assert {name for name in info if name.startswith("HierDiff")} == set(contract)
    for node_id, promised in contract.items():
        node = info[node_id]
        assert node["display_name"] == promised["display_name"]
        assert node["category"] == "HierDiff"
        optional = promised.get("optional", [])
        names = [name for name, _, _ in promised["inputs"]]
        assert node["input_order"]["required"] == [name for name in names if name not in optional]
        assert node["input_order"].get("optional", []) == optional
        for name, type_, default in promised["inputs"]:
            found, options = node["input"]["optional" if name in optional else "required"][name]
            assert found == type_, (node_id, name)
            assert default is None or options["default"] == default, (node_id, name)
        for name, choices in promised.get("options", {}).items():
            assert node["input"]["optional" if name in optional else "required"][name][1]["options"] == choices
        assert list(zip(node["output_name"], node["output"], strict=True)) == [tuple(o) for o in promised["outputs"]]
        assert node["output_is_list"] == promised.get("output_is_list", [False] * len(promised["outputs"]))


def test_every_input_and_output_has_a_tooltip(comfyui):
    for node_id, node in comfyui.object_info().items():
        if node_id.startswith("HierDiff"):
            for kind in ("required", "optional"):
                for name, (_, options) in node["input"].get(kind, {}).items():
                    assert options.get("tooltip"), (node_id, name)
            assert all(node["output_tooltips"]), node_id
            assert node["description"], node_id


def test_seeds_can_change_after_each_run(comfyui):
    info = comfyui.object_info()
    for node_id in ("HierDiffPriorEmbedding", "HierDiffBranchingSampler"):
        assert info[node_id]["input"]["required"]["seed"][1]["control_after_generate"] is True


def test_seed_of_a_calibration_stays(comfyui):
    info = comfyui.object_info()
    for node_id in ("HierDiffCalibrate", "HierDiffCalibrateModel"):  # left out, the browser would change it
        assert info[node_id]["input"]["required"]["seed"][1]["control_after_generate"] is False


def test_text_of_prompt_set_is_not_expanded_by_the_browser(comfyui):
    assert comfyui.object_info()["HierDiffPromptSet"]["input"]["required"]["text"][1]["dynamicPrompts"] is False


def test_bundled_model_is_the_first_choice(comfyui):
    info = comfyui.object_info()
    for node_id in ("HierDiffPriorLoader", "HierDiffDecoderLoader"):
        assert info[node_id]["input"]["required"]["model"][1]["options"][0] == BUNDLED


# --- The main job ----------------------------------------------------------------------------------------------------


def test_quickstart_makes_a_picture_per_prompt(comfyui, repo_root):
    workflow = json.loads((repo_root / "workflows" / "hierdiff_quickstart.json").read_text(encoding="utf-8"))
    prompt = to_api(workflow, comfyui.object_info())
    entry = comfyui.run(prompt)
    by_type = {node["class_type"]: node_id for node_id, node in prompt.items()}
    made = pictures(comfyui, entry, by_type["SaveImage"])
    assert len(made) == 30
    assert {picture.shape for picture in made} == {(128, 128, 3)}
    assert len({picture.tobytes() for picture in made}) == 30
    assert "480 instead of 1200, 60.0% saved" in text(entry, by_type["HierDiffBranchingSampler"])
    assert "⚠" not in json.dumps(entry["outputs"], ensure_ascii=False)
    for node in ("WardLinkage", "ThresholdSchedule", "BranchingSampler", "ContactSheet"):
        (picture,) = pictures(comfyui, entry, by_type[f"HierDiff{node}"])
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 5


def test_workflow_of_the_first_version_runs_as_before(comfyui, repo_root):
    path = repo_root / "tests" / "data" / "quickstart_0.1.0.json"
    workflow, info = json.loads(path.read_text(encoding="utf-8")), comfyui.object_info()
    prompt = to_api(workflow, info)
    added = {
        "shape": "linear",
        "power": 2.0,
        "rescale_means": False,
        "order": "breadth first",
        "acceleration": "auto",
        "guidance_start": 0.0,
        "guidance_end": 1.0,
    }
    before = {node_id: dict(node["inputs"]) for node_id, node in to_api(workflow, without(info, added)).items()}
    for node_id, node in prompt.items():
        new = {name: node["inputs"].pop(name) for name in added if name in node["inputs"]}
        assert new.items() <= added.items()
        assert node["inputs"] == before[node_id]
    small = {"steps": 6, "text": "{red|green} {apple|pear}"}
    for node in prompt.values():
        node["inputs"].update({name: value for name, value in small.items() if name in node["inputs"]})
    entry = comfyui.run(prompt)
    by_type = {node["class_type"]: node_id for node_id, node in prompt.items()}
    assert len(pictures(comfyui, entry, by_type["SaveImage"])) == 4


def without(info, names):
    """A server's description of its nodes, without optional inputs of these names."""
    old = json.loads(json.dumps(info))
    for node in old.values():
        for name in names:
            if node["input"].get("optional", {}).pop(name, None):
                node["input_order"]["optional"].remove(name)
    return old


def test_kandinsky_workflow_runs_on_folders_under_models(comfyui, repo_root):
    workflow = json.loads((repo_root / "workflows" / "hierdiff_kandinsky22.json").read_text(encoding="utf-8"))
    prompt = to_api(workflow, comfyui.object_info())
    diffusers = comfyui.base_dir / "models" / "diffusers"
    diffusers.mkdir(parents=True, exist_ok=True)
    for part in ("prior", "decoder"):
        name = f"kandinsky-2-2-{part}"
        with pytest.raises(
            HttpFailed, match=f"hf download kandinsky-community/{name} --local-dir models/diffusers/{name}"
        ):
            comfyui.queue(prompt)
        (diffusers / name).symlink_to(repo_root / "models" / "emoji-kandinsky" / part, target_is_directory=True)
    try:
        for node in prompt.values():  # the same graph, made small enough for a CPU
            small = {"steps": 4, "width": 128, "height": 128, "text": "{red|green} apple"}
            node["inputs"].update({name: value for name, value in small.items() if name in node["inputs"]})
        by_type = {node["class_type"]: node_id for node_id, node in prompt.items()}
        prompt[by_type["HierDiffPriorEmbedding"]]["inputs"]["guidance"] = 9
        entry = comfyui.run(prompt)
        assert len(pictures(comfyui, entry, by_type["SaveImage"])) == 2
        info = comfyui.object_info()["HierDiffPriorLoader"]["input"]["required"]["model"][1]["options"]
        assert info == [BUNDLED, "kandinsky-2-2-prior"]
        assert "guidance 9 does not suit kandinsky-2-2-prior: use 1 to 4" in text(
            entry, by_type["HierDiffPriorEmbedding"]
        )
        report = text(entry, by_type["HierDiffBranchingSampler"])
        assert "guidance 10 does not suit kandinsky-2-2-decoder: use 2 to 4" in report
    finally:
        for part in ("prior", "decoder"):
            (diffusers / f"kandinsky-2-2-{part}").unlink()


def test_workflow_for_any_model_of_the_first_version_only_lacks_its_checkpoint(comfyui, repo_root):
    path = repo_root / "tests" / "data" / "any_model_0.1.0.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    with pytest.raises(HttpFailed) as failure:
        comfyui.queue(to_api(workflow, comfyui.object_info()))
    errors = [error for node in failure.value.body["node_errors"].values() for error in node["errors"]]
    assert [error["extra_info"]["input_name"] for error in errors] == ["ckpt_name"]


def test_pictures_are_those_of_the_library(comfyui, small_run):
    prompts = small_run["outputs"]["set"]["prompts"]
    embeddings = embed_prompts(load_prior(), prompts, num_steps=5, guidance=4.0, seed=1)
    Z = ward_linkage(embeddings.positive)
    shape = falling_shape(6)
    plan = build_plan(Z, thresholds_at(tau_for_saving(Z, shape, 0.4), shape))
    decoder = load_decoder()
    latents = sample(decoder, embeddings, plan, seed=1, guidance=3.0, width=64, height=64)
    expected = [np.asarray(picture, dtype=int) for picture in to_pictures(decode(decoder, latents))]
    for made, wanted in zip(pictures(comfyui, small_run, "save"), expected, strict=True):
        assert abs(made - wanted).max() <= 1  # the host rounds down


def test_nodes_show_what_they_computed(small_run):
    assert text(small_run, "set").startswith("6 prompts\n0  cat face, noto style\n1  cat face, flat style")
    assert "6 embeddings, 128 numbers each" in text(small_run, "embed")
    assert "root" in text(small_run, "link")
    assert "saves 4" in text(small_run, "plan")
    assert "(2) red apple, noto style, red apple, flat style" in text(small_run, "plan")
    assert "UNet rows: " in text(small_run, "sample")


def test_second_run_comes_from_the_cache(comfyui, small_run):
    entry = comfyui.run(small_graph())
    assert cached_nodes(entry) >= {"set", "load_prior", "embed", "link", "plan", "load_decoder", "sample", "decode"}


def test_new_seed_of_the_sampler_keeps_the_plan(comfyui, small_run):
    entry = comfyui.run(small_graph(**{"sample.seed": 2}))
    assert cached_nodes(entry) == {"set", "load_prior", "embed", "link", "plan", "load_decoder"}
    old, new = pictures(comfyui, small_run, "save"), pictures(comfyui, entry, "save")
    assert not any(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


def test_pictures_survive_eviction_of_the_models(comfyui, small_run):
    comfyui.run(small_graph())
    comfyui.free()  # the server unloads every model and drops cached results once it is idle
    deadline = time.monotonic() + 30
    entry = comfyui.run(small_graph())
    while cached_nodes(entry) and time.monotonic() < deadline:
        entry = comfyui.run(small_graph())
    assert not cached_nodes(entry)
    for before, after in zip(pictures(comfyui, small_run, "save"), pictures(comfyui, entry, "save"), strict=True):
        assert np.array_equal(before, after)


def test_rescaled_means_change_the_pictures_of_a_shared_run(comfyui, small_run):
    rescaled = comfyui.run(small_graph(**{"sample.rescale_means": True}))
    pairs = list(zip(pictures(comfyui, small_run, "save"), pictures(comfyui, rescaled, "save"), strict=True))
    assert any(not np.array_equal(one, other) for one, other in pairs)
    assert all(abs(one.astype(int) - other).mean() < 20 for one, other in pairs)  # and leave them what they are
    alone = {"plan.mode": "tau", "plan.value": 0.0}
    plain, unshared = (
        comfyui.run(small_graph(**alone, **{"sample.rescale_means": rescale})) for rescale in (False, True)
    )
    for one, other in zip(pictures(comfyui, plain, "save"), pictures(comfyui, unshared, "save"), strict=True):
        assert np.array_equal(one, other)


def test_depth_first_draws_the_same_pictures_and_the_same_tree(comfyui, small_run):
    deep = comfyui.run(small_graph(**{"sample.order": "depth first", "sample.acceleration": "torch.compile"}))
    assert untimed(text(deep, "sample")) == untimed(text(small_run, "sample"))
    for one, other in zip(pictures(comfyui, small_run, "save"), pictures(comfyui, deep, "save"), strict=True):
        assert np.array_equal(one, other)  # on a CPU acceleration has no effect


def test_guidance_for_a_part_of_the_steps(comfyui, small_run):
    part = comfyui.run(small_graph(**{"sample.guidance_end": 0.5}))
    assert "guidance in steps 1 to 3 only" in text(part, "sample")
    assert "guidance in steps" not in text(small_run, "sample")
    pairs = list(zip(pictures(comfyui, small_run, "save"), pictures(comfyui, part, "save"), strict=True))
    assert any(not np.array_equal(one, other) for one, other in pairs)
    assert all(abs(one.astype(int) - other).mean() < 40 for one, other in pairs)
    with pytest.raises(PromptFailed, match="guidance must start and end between 0 and 1"):
        comfyui.run(small_graph(**{"sample.guidance_start": 0.6, "sample.guidance_end": 0.5}))


@pytest.mark.parametrize("scheduler", ["DDIM", "Euler", "Euler ancestral", "DPM++ 2M", "UniPC"])
def test_every_scheduler_runs(comfyui, scheduler):
    entry = comfyui.run(small_graph(**{"sample.scheduler": scheduler}))
    assert len(pictures(comfyui, entry, "save")) == 6
    assert f"6 {scheduler} steps" in text(entry, "sample")


def test_list_of_texts_from_another_node_is_taken_as_it_is(comfyui):
    graph = {
        "a": {"class_type": "HierDiffPromptSet", "inputs": {"text": "{one|two} \\{x\\}"}},
        "b": {"class_type": "HierDiffPromptSet", "inputs": {"text": "zero", "prompts": ["a", 1]}},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["b", 2]}},
    }
    entry = comfyui.run(graph)
    assert entry["outputs"]["b"]["prompts"] == ["zero", "one {x}", "two {x}"]
    assert text(entry, "show") == "3"


def test_movq_serves_the_hosts_vae_nodes(comfyui, repo_root, small_run):
    source = pictures(comfyui, small_run, "save")[0]
    path = comfyui.base_dir / "input" / "movq.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(source).save(path)
    loader = {"class_type": "HierDiffDecoderLoader", "inputs": {"model": BUNDLED, "precision": "fp32"}}
    graph = {
        "load": loader,
        "image": {"class_type": "LoadImage", "inputs": {"image": "movq.png"}},
        "encode": {"class_type": "VAEEncode", "inputs": {"pixels": ["image", 0], "vae": ["load", 1]}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["encode", 0], "vae": ["load", 1]}},
        "tiled": {
            "class_type": "VAEDecodeTiled",
            "inputs": {
                "samples": ["encode", 0],
                "vae": ["load", 1],
                "tile_size": 64,
                "overlap": 16,
                "temporal_size": 64,
                "temporal_overlap": 8,
            },
        },
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
        "save_tiled": {"class_type": "PreviewImage", "inputs": {"images": ["tiled", 0]}},
    }
    entry = comfyui.run(graph)
    (restored,) = pictures(comfyui, entry, "save")
    (tiled,) = pictures(comfyui, entry, "save_tiled")
    assert restored.shape == tiled.shape == source.shape
    assert abs(restored.astype(int) - source).mean() < 12
    assert abs(tiled.astype(int) - source).mean() < 40


# --- Sets that are special -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "count", "distinct"),
    [("red apple, flat style", 1, 1), ("cat face\ncat face\ncat face", 3, 1), ("cat face\nred apple\ncat face", 3, 2)],
    ids=["one prompt", "all equal", "some equal"],
)
def test_single_and_equal_prompts(comfyui, prompts, count, distinct):
    entry = comfyui.run(small_graph(**{"set.text": prompts, "plan.mode": "tau", "plan.value": 1.0}))
    made = pictures(comfyui, entry, "save")
    assert len(made) == count
    assert len({picture.tobytes() for picture in made}) == distinct


def test_one_step_shares_nothing_and_says_so(comfyui):
    entry = comfyui.run(small_graph(**{"plan.steps": 1, "plan.mode": "tau", "plan.value": 1.0}))
    assert "one step leaves nothing to share" in text(entry, "plan")
    assert "UNet rows: 6 instead of 6" in text(entry, "sample")


# --- Bad input: refused before any UNet call -------------------------------------------------------------------------

RUN_ERRORS = {
    "no prompts": ({"set.text": " \n# nothing"}, "set", "there are no prompts"),
    "unshared steps": (
        {"plan.private_steps": 7},
        "plan",
        r"private_steps must lie between 1 and the number of steps \(6\)",
    ),
    "width": ({"sample.width": 100}, "sample", "width must be a multiple of 64 pixels; got 100, use 64 or 128"),
    "height": ({"sample.height": 500}, "sample", "height must be a multiple of 64 pixels; got 500, use 448 or 512"),
}


@pytest.mark.parametrize(("changes", "node", "message"), RUN_ERRORS.values(), ids=RUN_ERRORS)
def test_bad_input_is_refused_with_the_fix(comfyui, changes, node, message):
    with pytest.raises(PromptFailed, match=message) as failure:
        comfyui.run(small_graph(**changes))
    assert failure.value.node_id == node
    assert failure.value.exception_type == "ValueError"


def test_negative_tau_is_refused_when_queued(comfyui):
    with pytest.raises(HttpFailed, match="value"):
        comfyui.queue(small_graph(**{"plan.mode": "tau", "plan.value": -0.5}))


def test_plan_of_another_set_is_refused(comfyui):
    graph = small_graph()
    graph["other"] = {"class_type": "HierDiffPromptSet", "inputs": {"text": "cat face\nred apple"}}
    graph["embed2"] = {"class_type": "HierDiffPriorEmbedding", "inputs": {**graph["embed"]["inputs"]}}
    graph["embed2"]["inputs"]["prompts"] = ["other", 0]
    graph["sample"]["inputs"]["embeddings"] = ["embed2", 0]
    with pytest.raises(PromptFailed, match="the plan is for 6 prompts, but there are 2 embeddings"):
        comfyui.run(graph)


def test_sheet_of_another_number_of_prompts_is_refused(comfyui):
    graph = small_graph()
    graph["other"] = {"class_type": "HierDiffPromptSet", "inputs": {"text": "cat face\nred apple"}}
    graph["sheet"]["inputs"]["prompts"] = ["other", 0]
    with pytest.raises(PromptFailed, match=r"6.*2|2.*6") as failure:
        comfyui.run(graph)
    assert failure.value.node_id == "sheet"


def make_folder(comfyui, name, class_name, files=()):
    folder = comfyui.base_dir / "models" / "diffusers" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"not a model")
    return name


def test_folder_of_another_model_is_refused_by_name(comfyui):
    name = make_folder(comfyui, "some-sd15", "StableDiffusionPipeline")
    with pytest.raises(HttpFailed, match="some-sd15 holds a StableDiffusionPipeline, not a KandinskyV22Pipeline"):
        comfyui.queue(small_graph(**{"load_decoder.model": name}))


def test_pickle_only_folder_is_refused(comfyui):
    files = ["unet/diffusion_pytorch_model.bin", "movq/diffusion_pytorch_model.bin"]
    name = make_folder(comfyui, "pickled", "KandinskyV22Pipeline", files)
    with pytest.raises(HttpFailed, match=r"pickled/unet has only pickle files .*safetensors only"):
        comfyui.queue(small_graph(**{"load_decoder.model": name}))


@pytest.mark.parametrize("name", ["../../../etc", "/etc", "no-such-model"])
def test_folder_outside_of_models_is_refused_without_its_path(comfyui, name):
    with pytest.raises(HttpFailed, match="hf download kandinsky-community/kandinsky-2-2-prior") as failure:
        comfyui.queue(small_graph(**{"load_prior.model": name}))
    assert str(comfyui.base_dir) not in str(failure.value)


# --- Progress, previews, cancel --------------------------------------------------------------------------------------


def test_sampler_reports_progress_and_previews(comfyui):
    events, binary = asyncio.run(messages_of(comfyui, small_graph(**{"sample.seed": 10})))
    rows = [e["data"]["value"] for e in events if e["type"] == "progress" and e["data"]["node"] == "sample"]
    assert rows == sorted(rows)
    assert rows[-1] == next(
        e["data"]["max"] for e in events if e["type"] == "progress" and e["data"]["node"] == "sample"
    )
    previews = [data for _, data in binary]
    assert previews
    grid = Image.open(io.BytesIO(previews[0][previews[0].index(b"\xff\xd8") :]))
    assert max(grid.size) <= 512
    assert any("UNet rows" in words for words in said(events, "sample"))


def test_cancel_is_answered_within_a_micro_batch(comfyui):
    graph = small_graph(**{"sample.seed": 11, "plan.steps": 500, "plan.mode": "tau", "plan.value": 0.0})
    began = {}

    def sampling(event):
        if event["type"] == "progress" and event["data"]["node"] == "sample" and event["data"]["value"] > 6:
            began["at"] = time.monotonic()
            return True
        return False

    events, _ = asyncio.run(messages_of(comfyui, graph, sampling))
    assert events[-1]["type"] == "execution_interrupted"
    assert time.monotonic() - began["at"] < 5  # 3000 rows would take minutes
    assert len(pictures(comfyui, comfyui.run(small_graph()), "save")) == 6
