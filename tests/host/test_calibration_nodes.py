"""Calibrate Schedule, for MODEL too, and Load Sensitivity: in a real server, and inside a host's own process."""

import asyncio
import errno
import importlib
import re
import types

import numpy as np
import pytest
import torch
from comfyui_host import HttpFailed, PromptFailed
from graphs import (
    BUNDLED,
    PROMPTS,
    calibration_graph,
    messages_of,
    native_calibration_graph,
    native_graph,
    node,
    pictures,
    said,
    small_graph,
)

from hierdiff_core import (
    PromptEmbeddings,
    Sensitivity,
    calibrate,
    embed_prompts,
    load_decoder,
    load_prior,
    read_sensitivity,
    ward_linkage,
)
from hierdiff_core.prompts.prompt_set import parse_prompts

pytestmark = pytest.mark.host

FILE = "small_00001_.json"
SAMPLES, STEPS, SHARED = 3, 6, (4, 5, 6)
# a trunk over all steps, and a row of each prompt from each number of shared steps on
ROWS = STEPS + sum(SAMPLES * (STEPS - shared) for shared in (0, *SHARED))


def text(entry, name):
    return entry["outputs"][name]["text"][0]


def folder(server):
    return server.base_dir / "output" / "hierdiff_sensitivity"


def written(server):
    return {path.name: path.read_bytes() for path in folder(server).glob("*")}


def choices(server):
    return server.object_info()["HierDiffSensitivityLoader"]["input"]["required"]["sensitivity"][1]["options"]


# --- Kandinsky -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(comfyui):
    """Texts that were shown while it ran, and the history's entry."""
    before = len(written(comfyui))
    events, _ = asyncio.run(messages_of(comfyui, calibration_graph()))
    assert events[-1]["type"] == "execution_success"
    prompt_id = events[-1]["data"]["prompt_id"]
    assert len(written(comfyui)) == before + 1
    shown = said(events, "calibrate")
    steps = [e["data"] for e in events if e["type"] == "progress" and e["data"]["node"] == "calibrate"]
    return types.SimpleNamespace(shown=shown, steps=steps, entry=comfyui.wait(prompt_id))


@pytest.fixture(scope="module")
def embeddings():
    return embed_prompts(load_prior(), parse_prompts(PROMPTS), num_steps=5, guidance=4.0, seed=1)


@pytest.fixture(scope="module")
def measured(comfyui, small_run):
    return read_sensitivity(folder(comfyui) / FILE)


def test_cost_is_said_before_it_is_spent_and_the_result_after(small_run):
    cost = f"calibration takes {ROWS} UNet rows: as many as {ROWS / STEPS:.0f} pictures of 6 steps"
    before, after = (i for i, words in enumerate(small_run.shown) if cost in words or "measured with" in words)
    assert cost in small_run.shown[before]
    assert text(small_run.entry, "calibrate") == small_run.shown[after]
    assert small_run.steps[-1]["value"] == small_run.steps[-1]["max"] == ROWS


def test_result_is_shown_and_saved(comfyui, small_run, measured):
    result = text(small_run.entry, "calibrate")
    assert re.match(r"6 steps; 90 % of the sensitivity lies in the last \d\n", result)
    assert f"measured with: model {BUNDLED}, width 128, height 128, prompts 3, rows {ROWS}, scheduler DDPM," in result
    assert "guidance 3.0, seed 1" in result
    assert f"saved as {FILE}" in result
    (plot,) = pictures(comfyui, small_run.entry, "calibrate")
    assert plot.std() > 5
    assert measured.num_steps == STEPS
    assert tuple(measured.shared_steps) == SHARED
    assert (np.diff(measured.change) > 0).all()


def test_result_is_the_librarys(measured, embeddings):
    expected = calibrate(
        load_decoder(), embeddings, 6, seed=1, guidance=3.0, samples=3, resolution=3, width=128, height=128
    )
    np.testing.assert_allclose(measured.change, expected.change, rtol=1e-3)
    assert measured.settings == {"model": BUNDLED, "width": 128, "height": 128, **expected.settings}


def test_second_run_never_overwrites(comfyui, small_run):
    before = written(comfyui)
    comfyui.run(calibration_graph(**{"calibrate.seed": 2}))
    after = written(comfyui)
    assert set(after) - set(before) == {"small_00002_.json"}
    assert {name: after[name] for name in before} == before
    assert after["small_00002_.json"] != after[FILE]


def test_empty_name_saves_nothing(comfyui, small_run):
    before = written(comfyui)
    entry = comfyui.run(calibration_graph(**{"calibrate.name": "  ", "calibrate.resolution": 1}))
    assert "90 % of the sensitivity" in text(entry, "calibrate")
    assert "saved as" not in text(entry, "calibrate")
    assert written(comfyui) == before


def test_settings_that_do_not_suit_the_model_are_named_before_the_cost_is_spent(comfyui, small_run):
    graph = calibration_graph(**{"calibrate.guidance": 9.0, "calibrate.resolution": 1, "calibrate.name": ""})
    events, _ = asyncio.run(messages_of(comfyui, graph))
    (first,) = [words for words in said(events, "calibrate") if "calibration takes" in words]
    assert "guidance 9 does not suit emoji-kandinsky" in first


def test_cancel_stops_it_and_writes_nothing(comfyui, small_run):
    before = written(comfyui)

    def sampling(event):
        return event["type"] == "progress" and event["data"]["node"] == "calibrate" and event["data"]["value"] > 4

    graph = calibration_graph(**{"calibrate.steps": 500, "calibrate.name": "cancelled"})
    events, _ = asyncio.run(messages_of(comfyui, graph, sampling))
    assert events[-1]["type"] == "execution_interrupted"
    assert written(comfyui) == before


# --- Load Sensitivity, and what a schedule makes of it ---------------------------------------------------------------


def schedule_graph(name, **changes):
    graph = small_graph(**{"link.metric": "chord", "save.filename_prefix": "calibrated"})
    graph["load_sensitivity"] = node("HierDiffSensitivityLoader", sensitivity=name)
    graph["plan"]["inputs"] |= {"sensitivity": ["load_sensitivity", 0], "shape": "calibrated"}
    for place, value in changes.items():
        where, key = place.split(".")
        graph[where]["inputs"][key] = value
    return graph


def expected_distortions(words):
    """Of the plan and of the straight line, from a report."""
    own = float(re.search(r"expected distortion (\S+) per picture", words)[1])
    line, times = re.search(r"the straight line with \d+ rows: (\S+), (\S+) times as much", words).groups()
    return own, float(line), float(times)


def test_saved_file_is_offered_and_shapes_a_schedule(comfyui, small_run, measured, embeddings):
    assert choices(comfyui)[0] == BUNDLED
    assert FILE in choices(comfyui)
    entry = comfyui.run(schedule_graph(FILE))
    assert len(pictures(comfyui, entry, "save")) == 6
    assert text(entry, "load_sensitivity").splitlines() == text(small_run.entry, "calibrate").splitlines()[:2]
    (plot,) = pictures(comfyui, entry, "load_sensitivity")
    assert np.array_equal(plot, pictures(comfyui, small_run.entry, "calibrate")[0])
    own, line, times = expected_distortions(text(entry, "sample"))
    assert 0 < own < line
    assert times == pytest.approx(line / own, rel=0.1)
    assert expected_distortions(text(entry, "plan")) == (own, line, times)


def test_expected_distortion_is_the_sum_of_the_errors_times_the_sensitivity(comfyui, measured, embeddings):
    entry = comfyui.run(schedule_graph(FILE, **{"plan.shape": "power", "plan.power": 3.0}))
    saved = float(re.search(r"saves (\S+)%", text(entry, "plan"))[1]) / 100
    unit = torch.nn.functional.normalize(embeddings.positive, dim=1).double().numpy()
    Z = ward_linkage(embeddings.positive, "chord")
    from scipy.cluster.hierarchy import fcluster

    rest = np.linspace(1, 0, 6) ** 3
    for tau in np.geomspace(Z[0, 2] / 2, 100 * Z[-1, 2], 4000):
        labels = [fcluster(Z, tau * s, "distance") for s in rest]
        if 1 - sum(map(max, labels)) / 36 >= 0.4:
            break
    squares = [sum(((unit[label == c] - unit[label == c].mean(0)) ** 2).sum() for c in set(label)) for label in labels]
    assert 1 - sum(map(max, labels)) / 36 == pytest.approx(saved, abs=1e-3)
    own, _, _ = expected_distortions(text(entry, "plan"))
    assert own == pytest.approx(measured.weights(6) @ squares / 6, rel=0.01)


def test_report_of_the_ksampler_says_it_too(comfyui, small_run):
    graph = native_graph(**{"link.metric": "chord"})
    graph["load_sensitivity"] = node("HierDiffSensitivityLoader", sensitivity=FILE)
    graph["plan"]["inputs"] |= {"sensitivity": ["load_sensitivity", 0], "shape": "calibrated"}
    own, line, _ = expected_distortions(text(comfyui.run(graph), "sample"))
    assert 0 < own < line


def test_sensitivity_of_the_bundled_model_comes_with_the_pack(comfyui):
    entry = comfyui.run(schedule_graph(BUNDLED, **{"save.filename_prefix": "bundled"}))
    assert f"model {BUNDLED}" in text(entry, "load_sensitivity")
    own, line, _ = expected_distortions(text(entry, "plan"))
    assert 0 < own < line


def test_measuring_and_drawing_fit_into_one_graph(comfyui, small_run):
    graph = {**schedule_graph(FILE), "calibrate": calibration_graph()["calibrate"]}
    del graph["load_sensitivity"]
    graph["plan"]["inputs"]["sensitivity"] = ["calibrate", 0]
    assert "expected distortion" in text(comfyui.run(graph), "plan")


OTHER_STEPS = "⚠ the sensitivity was measured with 40 steps, not 6: calibrate with as many"


@pytest.mark.parametrize("shape", ["calibrated", "power"])
def test_sensitivity_of_another_number_of_steps_is_warned_of(comfyui, small_run, shape):
    same, other = (
        text(comfyui.run(schedule_graph(name, **{"plan.shape": shape})), "plan").splitlines()
        for name in (FILE, BUNDLED)
    )
    assert OTHER_STEPS in other
    assert not [line for line in same if line.startswith("⚠ the sensitivity")]


def test_sensitivity_of_another_scheduler_is_warned_of(comfyui, small_run):
    ddpm, euler = (
        text(comfyui.run(schedule_graph(FILE, **{"sample.scheduler": name})), "sample") for name in ("DDPM", "Euler")
    )
    warning = "⚠ the plan's sensitivity was measured with DDPM, not Euler: calibrate with the same scheduler"
    assert warning in euler.splitlines()
    assert "sensitivity was measured" not in ddpm


def test_sensitivity_that_names_no_scheduler_is_not_warned_of(pack):
    plan = types.SimpleNamespace(sensitivity=Sensitivity(6, [6], [1.0], {"model": "another"}))
    assert pack.nodes.sampler.other_scheduler(plan, "Euler") == []


@pytest.mark.parametrize("name", ["missing.json", "../../no.json", "/etc/passwd"])
def test_missing_sensitivity_is_refused_when_queued(comfyui, name):
    with pytest.raises(HttpFailed, match="measure one with Calibrate Schedule, or put the file there") as failure:
        comfyui.queue(schedule_graph(name))
    assert str(comfyui.base_dir) not in str(failure.value)


def test_other_files_are_not_offered_and_refused_by_name(comfyui, small_run):
    (folder(comfyui) / "notes.txt").write_text("not a sensitivity")
    (folder(comfyui) / "other.json").write_text('{"nodes": []}')
    assert "notes.txt" not in choices(comfyui)
    with pytest.raises(HttpFailed, match=r"other\.json is not a sensitivity") as failure:
        comfyui.queue(schedule_graph("other.json"))
    assert str(comfyui.base_dir) not in str(failure.value)


def test_calibrated_shape_without_a_sensitivity_is_refused(comfyui):
    with pytest.raises(PromptFailed, match="measure it with Calibrate Schedule or load one with Load Sensitivity") as f:
        comfyui.run(small_graph(**{"plan.shape": "calibrated"}))
    assert f.value.node_id == "plan"
    assert f.value.exception_type == "ValueError"


@pytest.mark.parametrize("shape", ["linear", "cosine", "power"])
def test_other_shapes_need_no_sensitivity(comfyui, shape):
    entry = comfyui.run(small_graph(**{"plan.shape": shape, "plan.power": 2.5}))
    assert "saves 4" in text(entry, "plan")
    assert "distortion" not in text(entry, "plan")


RUN_ERRORS = {
    "name above": ({"calibrate.name": "../x"}, r"name must be a plain file name.*'\.\./x'"),
    "name in a folder": ({"calibrate.name": "a/b"}, r"name must be a plain file name.*'a/b'"),
    "hidden name": ({"calibrate.name": ".x"}, r"name must be a plain file name"),
    "long name": ({"calibrate.name": "x" * 300}, r"name must be"),
    "one prompt": ({"set.text": "cat face"}, "needs two with different embeddings; add prompts"),
    "equal prompts": ({"set.text": "cat face\ncat face"}, "needs two with different embeddings; add prompts"),
    "width": ({"calibrate.width": 100}, "width must be a multiple of 64 pixels; got 100"),
}


@pytest.mark.parametrize(("changes", "message"), RUN_ERRORS.values(), ids=RUN_ERRORS)
def test_bad_input_is_refused_with_the_fix(comfyui, changes, message):
    before = written(comfyui)
    with pytest.raises(PromptFailed, match=message) as failure:
        comfyui.run(calibration_graph(**changes))
    assert failure.value.node_id == "calibrate"
    assert failure.value.exception_type == "ValueError"
    assert written(comfyui) == before


# --- Any MODEL -------------------------------------------------------------------------------------------------------


def test_kandinsky_as_model_is_measured_as_by_the_librarys_euler(comfyui, embeddings):
    entry = comfyui.run(native_calibration_graph(**{"calibrate.resolution": 6}))
    result = text(entry, "calibrate")
    assert "model NativeKandinsky" in result
    assert "sampler euler, scheduler normal" in result
    found = read_sensitivity(folder(comfyui) / "small native_00001_.json")
    expected = calibrate(
        load_decoder(),
        embeddings,
        6,
        seed=1,
        guidance=3.0,
        scheduler="Euler",
        samples=3,
        resolution=6,
        width=128,
        height=128,
    )
    assert found.shared_steps.tolist() == expected.shared_steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.settings["rows"] == expected.settings["rows"]
    # other noise, and sigmas from 25 instead of 10 on: the first steps are not the same steps
    np.testing.assert_allclose(np.log(found.change[2:]), np.log(expected.change[2:]), atol=np.log(2))
    for change in (found.change, expected.change):
        assert change[0] < change[1] < change[2] < change[-1] / 5


def test_cancel_of_any_model_stops_it_and_writes_nothing(comfyui, small_run):
    before = written(comfyui)

    def sampling(event):
        return event["type"] == "progress" and event["data"]["node"] == "calibrate" and event["data"]["value"] > 1

    graph = native_calibration_graph(**{"calibrate.steps": 300, "calibrate.name": "cancelled"})
    events, _ = asyncio.run(messages_of(comfyui, graph, sampling))
    assert events[-1]["type"] == "execution_interrupted"
    assert written(comfyui) == before


# --- Any MODEL, on a small one in this process -----------------------------------------------------------------------

N, K, SEED = 6, 8, 7


@pytest.fixture(scope="module")
def host(pack):
    """The host's modules and ours, once the host can be imported."""
    names = ("comfy.samplers", "comfy.sample", "native_models", f"{pack.__name__}.nodes.calibration")
    return types.SimpleNamespace(**{name.rsplit(".", 1)[-1]: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def vectors():
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(3, 16, generator=generator)
    return torch.stack([centres[i % 3] for i in range(N)]) + 0.3 * torch.randn(N, 16, generator=generator)


@pytest.fixture(scope="module")
def prompts(vectors):
    return PromptEmbeddings(vectors, torch.zeros_like(vectors), [f"prompt {i}" for i in range(N)])


@pytest.fixture(scope="module")
def positive(vectors):
    return [[vectors[:, None, :] * torch.linspace(0.5, 1.5, 5)[None, :, None], {}]]


@pytest.fixture(scope="module")
def negative():
    return [[torch.zeros(1, 5, 16), {}]]


def counted(host, model):
    """A clone of a model, and a list that gathers the rows of its calls."""
    rows = []

    def record(apply_model, args):
        rows.append(args["input"].shape[0] / len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(record)
    return clone, rows


def run_node(host, model, positive, negative, prompts, **changes):
    return output_of_node(host, model, positive, negative, prompts, **changes).result[0]


def output_of_node(host, model, positive, negative, prompts, **changes):
    settings = {
        "latent_image": {"samples": torch.zeros(3, 4, 8, 8)},
        "steps": K,
        "seed": SEED,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "samples": 3,
        "resolution": 4,
        "name": "",
    }
    return host.calibration.CalibrateModel.execute(
        model, positive, negative, embeddings=prompts, **{**settings, **changes}
    )


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
def test_model_rows_are_those_of_the_plan_and_a_second_run_is_the_same(host, positive, negative, prompts, sampler):
    model, rows = counted(host, host.native_models.unet_model())
    found = run_node(host, model, positive, negative, prompts, sampler_name=sampler)
    trunk, counts = K, (0, *found.shared_steps)
    assert sum(rows) == found.settings["rows"] == trunk + sum(3 * (K - shared) for shared in counts)
    assert found.settings["prompts"] == 3
    assert (found.change > 0).all()
    again = run_node(host, model, positive, negative, prompts, sampler_name=sampler)
    assert np.array_equal(found.change, again.change)


def plain_run(host, model, cond, negative):
    """The host's own guider on one row."""
    guider = host.samplers.CFGGuider(model)
    guider.set_conds([cond], negative)
    guider.set_cfg(4.0)
    sampler, zeros = host.samplers.sampler_object("euler"), torch.zeros(1, 4, 8, 8)
    sigmas = host.samplers.KSampler(model, K, "cpu", "euler", "normal").sigmas
    return guider.sample(host.sample.prepare_noise(zeros, SEED), zeros, sampler, sigmas, disable_pbar=True, seed=SEED)


@pytest.mark.parametrize("many", [False, True], ids=["one negative", "a negative for each"])
def test_change_is_that_of_runs_made_one_by_one(host, positive, prompts, many):
    """Conditioned as SDXL is: rows of tokens and of pooled outputs are gathered together."""
    model = host.native_models.unet_model(host.native_models.PooledModel)
    generator = torch.Generator().manual_seed(3)
    cond, pooled = positive[0][0], torch.randn(N, host.native_models.POOLED, generator=generator)
    count = N if many else 1
    against = torch.randn(count, 5, 16, generator=generator), torch.randn(count, *pooled.shape[1:], generator=generator)

    def entry(rows, tensors):
        tokens, summary = (tensor[rows].mean(0, keepdim=True) if len(tensor) > 1 else tensor for tensor in tensors)
        return [tokens, {"pooled_output": summary, "width": 512}]

    def run(rows):
        return plain_run(host, model, entry(rows, (cond, pooled)), [entry(rows, against)])

    both = (
        [[cond, {"pooled_output": pooled, "width": 512}]],
        [[against[0], {"pooled_output": against[1], "width": 512}]],
    )
    found = run_node(host, model, *both, prompts, resolution=1)
    chosen = host.calibration.Probe(prompts.positive, K, 3, 1, SEED).prompts.tolist()
    unit = torch.nn.functional.normalize(prompts.positive[chosen], dim=1)
    shared = run(chosen)
    change = sum((shared - run([i])).square().mean() for i in chosen)
    distance = (unit.mean(0) - unit).square().sum()
    assert len(chosen) == 3
    assert found.change == pytest.approx([float(change / distance)], rel=1e-3)


@pytest.fixture
def silent_model(host):
    """A model that must not be called."""
    model = host.native_models.unet_model()
    model.set_model_unet_function_wrapper(lambda *_: pytest.fail("the model was called"))
    return model


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (4, r"the positive conditioning has 4 rows, but there are 6 embeddings; make both with one CLIP Embedding"),
        (1, r"the positive conditioning has one row for all prompts; connect the one of CLIP Embedding"),
    ],
)
def test_conditioning_of_other_prompts_is_refused(host, silent_model, positive, negative, prompts, rows, message):
    with pytest.raises(ValueError, match=message):
        run_node(host, silent_model, [[positive[0][0][:rows], {}]], negative, prompts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../x"}, "name must be a plain file name"),
        (
            {"name": "虎" * 99},
            r"no file can be written in output/hierdiff_sensitivity \(File name too long\)",
        ),
        ({"samples": 1}, "samples must lie between 2 and 1000; got 1"),
        ({"sampler_name": "dpm_adaptive"}, "dpm_adaptive chooses its steps"),
    ],
)
def test_bad_settings_are_refused_before_any_call(host, silent_model, positive, negative, prompts, changes, message):
    with pytest.raises(ValueError, match=message):
        run_node(host, silent_model, positive, negative, prompts, **changes)


def test_result_that_cannot_be_saved_after_all_is_handed_on_with_a_warning(
    pack, host, monkeypatch, positive, negative, prompts
):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(importlib.import_module(f"{pack.__name__}.nodes.sensitivity"), "write_new", full)
    output = output_of_node(host, host.native_models.unet_model(), positive, negative, prompts, name="full")
    assert output.result[0].num_steps == K
    assert "\n⚠ not saved (No space left on device): only connected nodes get the result" in output.ui["text"][0]


def test_negative_of_other_prompts_and_single_prompts_are_refused(host, silent_model, positive, prompts):
    with pytest.raises(ValueError, match="the negative conditioning has 4 rows, but there are 6 embeddings"):
        run_node(host, silent_model, positive, [[positive[0][0][:4], {}]], prompts)
    one = PromptEmbeddings(prompts.positive[:1], prompts.negative[:1], ["prompt"])
    with pytest.raises(ValueError, match="needs two with different embeddings"):
        run_node(host, silent_model, [[positive[0][0][:1], {}]], [[positive[0][0][:1], {}]], one)


def test_embeddings_of_another_width_are_refused(pack, prompts):
    decoder = pack.nodes.DecoderLoader.execute(BUNDLED, "fp32").result[0]
    with pytest.raises(ValueError, match=r"embeddings are 16 wide, but this decoder takes 128; use the prior that"):
        pack.nodes.Calibrate.execute(decoder, prompts, 4, 0, 3.0, "DDPM", 2, 2, 128, 128, "")
