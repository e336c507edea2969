"""On a CUDA device: run with `make test ARGS="-m gpu"`. Left out elsewhere, since continuous integration has none."""

import copy
import gc
import importlib
import json

import numpy as np
import pytest
import torch
from comfyui_host import CPU_ARGS, ComfyServer
from graphs import native_graph, small_graph
from graphs import pictures as server_pictures
from scene_folders import pack_with_scenes
from scipy.cluster.hierarchy import is_isomorphic
from workflow_api import to_api

from hierdiff_core import (
    Budget,
    Profile,
    PromptEmbeddings,
    PromptTree,
    Store,
    build_plan,
    decode,
    embed_prompts,
    falling_shape,
    flat_clusters,
    load_decoder,
    load_prior,
    plan_for,
    sample,
    tau_for_saving,
    thresholds_at,
    ward_linkage,
)
from hierdiff_core.kandinsky import decoder as decoders
from hierdiff_core.kandinsky import shared
from hierdiff_core.kandinsky.acceleration import WAYS, movq_pixels
from hierdiff_core.kandinsky.decoding import BackgroundDecoder
from hierdiff_core.kandinsky.fused_kernels import DTYPES, FusedKernels, TorchKernels, last
from hierdiff_core.plan.algebra import edited
from hierdiff_core.plan.linkage import METRICS, linkage_bytes
from hierdiff_core.previews import BranchLatents, latents_to_rgb
from hierdiff_core.sampling.loop import ORDERS
from hierdiff_core.sampling.observer import Observer

pytestmark = pytest.mark.gpu

BETWEEN_PRECISIONS = 4  # levels of 255, on average
PROMPTS = [
    f"{name}, {style} style"
    for name in ("cat face", "tiger face", "red apple", "fire engine")
    for style in ("noto", "twemoji", "flat", "3d")
]


@pytest.fixture(scope="module")
def embeddings():
    return embed_prompts(load_prior(), PROMPTS, guidance=4.0)


@pytest.fixture(scope="module")
def plan(embeddings):
    Z = ward_linkage(embeddings.positive)
    shape = falling_shape(20)
    return build_plan(Z, thresholds_at(tau_for_saving(Z, shape, 0.5), shape))


def pictures(decoder, embeddings, plan, **options):
    latents = sample(decoder, embeddings, plan, guidance=3.0, width=128, height=128, **options)
    return decode(decoder, latents)


@pytest.fixture(scope="module")
def on_cpu(embeddings, plan):
    return pictures(load_decoder(), embeddings, plan)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 0.01), (torch.float16, 0.02), (torch.bfloat16, 0.05)], ids=str
)
def test_gpu_draws_the_pictures_of_the_cpu(embeddings, plan, on_cpu, dtype, bound):
    made = pictures(load_decoder(dtype=dtype, device="cuda"), embeddings, plan)
    assert (made - on_cpu).abs().mean() < bound


def test_two_runs_are_identical(embeddings, plan):
    decoder = load_decoder(dtype=torch.float16, device="cuda")
    assert torch.equal(pictures(decoder, embeddings, plan), pictures(decoder, embeddings, plan))


def test_micro_batch_changes_nothing_beyond_rounding(embeddings, plan):
    decoder = load_decoder(dtype=torch.float32, device="cuda")
    whole = pictures(decoder, embeddings, plan, micro_batch=16)
    for micro_batch in (1, 3):
        assert (pictures(decoder, embeddings, plan, micro_batch=micro_batch) - whole).abs().max() < 0.02


@pytest.mark.parametrize("acceleration", WAYS)
def test_accelerated_runs_draw_the_same_pictures(embeddings, plan, acceleration, monkeypatch):
    decoder, recorded, record = load_decoder(dtype=torch.float16, device="cuda"), [], WAYS[acceleration].record

    def recording(calls, *arguments):
        record(calls, *arguments)
        recorded.append(len(calls.graphs))

    monkeypatch.setattr(WAYS[acceleration], "record", recording)
    plain = pictures(decoder, embeddings, plan, acceleration="none")
    made = pictures(decoder, embeddings, plan, acceleration=acceleration)
    again = pictures(decoder, embeddings, plan, acceleration=acceleration)
    calls = decoder.unet.__dict__["_hierdiff_calls"][acceleration]
    assert any(recorded)
    assert type(calls) is WAYS[acceleration]
    assert getattr(calls, "works", True)
    assert torch.equal(made, again)
    assert (made - plain).abs().mean() < 0.01
    decoder.unet.to("cpu").to("cuda")  # as the host does with what is not in use
    assert (pictures(decoder, embeddings, plan, acceleration=acceleration) - plain).abs().mean() < 0.01
    assert calls.records
    assert torch.equal(pictures(decoder, embeddings, plan, acceleration="none"), plain)  # in the layout that it had
    copied = copy.deepcopy(decoder)
    assert (pictures(copied, embeddings, plan, acceleration=acceleration) - plain).abs().mean() < 0.01


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "channels", "others", "side", "width"),
    [(1, 96, 64, 16, 1), (2, 384, 0, 64, 4), (3, 768, 384, 32, 4), (2, 1536, 1536, 8, 4), (40, 160, 0, 8, 1)],
)
def test_fused_kernels_do_what_torch_does(dtype, rows, channels, others, side, width):
    torch.manual_seed(0)
    whole = channels + others
    x, more, small, shifts = (
        last(torch.randn(rows, count, size, size, device="cuda", dtype=dtype) + 5) if count else None
        for count, size in ((channels, side), (others, side), (channels, side // 4), (channels, side // 4))
    )
    norm, bias = torch.nn.GroupNorm(32, whole, device="cuda", dtype=dtype), torch.randn(whole).to("cuda", dtype)
    modulation = torch.randn(rows, 2 * whole, device="cuda", dtype=dtype)
    norm.weight.normal_(), norm.bias.normal_()
    exact, fused, plain = copy.deepcopy(norm).float(), FusedKernels(width), TorchKernels()
    calls = [("group_norm", (x, more, bias, modulation, True, resize)) for resize in (-1, 0, 1)]
    calls += [("group_norm", (x, more, None, None, False))]
    if not others:
        calls += [("spatial_norm", (x, small, shifts, bias))]
    for name, arguments in calls:
        made = getattr(fused, name)(norm, *arguments)
        wanted = getattr(plain, name)(exact, *(a.float() if isinstance(a, torch.Tensor) else a for a in arguments))
        assert ((made - wanted).abs() / (1 + wanted.abs())).max() < 2 * torch.finfo(dtype).eps
        assert torch.equal(made, getattr(fused, name)(norm, *arguments))
        first = [a[:1] if isinstance(a, torch.Tensor) and a.ndim > 1 else a for a in arguments]
        assert torch.equal(getattr(fused, name)(norm, *first), made[:1])  # whatever rows are beside it
    own = bias[:channels].contiguous()
    for resize, size in ((-1, 2 * side), (0, side), (1, side // 2)):
        other = last(torch.randn(rows, channels, size, size, device="cuda", dtype=dtype))
        wanted = plain.add_bias(x.float(), own.float(), other.float(), resize)
        made = fused.add_bias(x.clone(), own, other, resize)
        assert ((made - wanted).abs() / (1 + wanted.abs())).max() < torch.finfo(dtype).eps


@torch.no_grad()
def test_fused_movq_draws_the_same_pictures(embeddings, plan):
    decoder = load_decoder(dtype=torch.float16, device="cuda")
    z = torch.randn(3, 4, 16, 24, device="cuda", dtype=torch.float16)
    plain = decoder.movq.decode(z, force_not_quantize=True, return_dict=False)[0]
    made = movq_pixels(decoder.movq, z)
    assert any(decoder.movq.__dict__["_hierdiff_calls"].values())
    assert (made - plain).abs().mean() < 0.002


def test_acceleration_that_fails_is_said_and_left_out(embeddings, plan, monkeypatch, caplog):
    decoder = load_decoder(dtype=torch.float16, device="cuda")
    plain = pictures(decoder, embeddings, plan, acceleration="none")

    def broken(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda unet: broken)
    made = pictures(decoder, embeddings, plan, acceleration="torch.compile")
    assert [r.message for r in caplog.records if "torch.compile is off" in r.message]
    assert (made - plain).abs().mean() < 0.01


def test_depth_first_draws_the_same_pictures(embeddings, plan):
    decoder = load_decoder(dtype=torch.float32, device="cuda")
    broad = pictures(decoder, embeddings, plan, micro_batch=4)
    assert (pictures(decoder, embeddings, plan, micro_batch=4, order="depth first") - broad).abs().max() < 0.02


@pytest.mark.parametrize("order", ORDERS)
def test_unconditional_rows_are_shared_at_splits(embeddings, plan, monkeypatch, order):
    """In fp32, where rounding is small; calls are as large as they are, so that passes can be counted."""
    decoder = load_decoder(dtype=torch.float32, device="cuda")
    monkeypatch.setattr(decoders, "few_call_sizes", lambda counts: ())
    made, rows, forward = [], [], decoder.unet.forward

    def counted(x, *args, **kwargs):
        rows.append(len(x))
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(decoder.unet, "forward", counted)
    for shares in (True, False):
        monkeypatch.setattr(shared, "shares_rows", lambda device, shares=shares: shares)
        made.append(pictures(decoder, embeddings, plan, order=order))
        rows.append(0)
    passes = [sum(rows[: rows.index(0)]), sum(rows[rows.index(0) :])]
    assert passes == [2 * plan.nfe - (len(PROMPTS) - 1), 2 * plan.nfe]
    assert (made[0] - made[1]).abs().max() < 0.02


@pytest.mark.parametrize("scheduler", ["DDPM", "DDIM", "Euler ancestral"])
@pytest.mark.parametrize(("order", "kept"), [(order, kept) for order in ORDERS for kept in (False, True)])
def test_nothing_between_the_first_and_the_last_unet_call_waits_for_the_device(
    embeddings, plan, scheduler, order, kept
):
    decoder, calls, rows = load_decoder(dtype=torch.float16, device="cuda"), [], []

    class Watch(Observer):
        def before_call(self):
            calls.append(1)
            torch.cuda.set_sync_debug_mode("error")

        def on_rows(self, k, clusters, x0):
            rows.extend(clusters)
            if len(rows) == plan.nfe:  # what comes now, such as the look for NaN, may wait
                torch.cuda.set_sync_debug_mode("default")

    options = {"guidance": 3.0, "width": 128, "height": 128, "scheduler": scheduler, "order": order}
    sample(decoder, embeddings, plan, **options)  # loads the device's libraries
    try:
        sample(decoder, embeddings, plan, observer=Watch(), store=Store(2**30) if kept else None, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) >= plan.num_steps
    assert len(rows) == plan.nfe


def test_what_a_store_has_is_not_evaluated_again_and_draws_the_same_pictures(embeddings, plan):
    decoder, store = load_decoder(dtype=torch.float16, device="cuda"), Store(2**30)
    plain = pictures(decoder, embeddings, plan)
    assert torch.equal(pictures(decoder, embeddings, plan, store=store), plain)
    assert store.rows == plan.nfe

    class Refusal(Observer):
        def before_call(self):
            raise AssertionError("the model was called")

    assert torch.equal(pictures(decoder, embeddings, plan, store=store, observer=Refusal()), plain)


def test_pictures_of_prompts_that_are_not_edited_differ_by_rounding(embeddings):
    decoder, store = load_decoder(dtype=torch.float32, device="cuda"), Store(2**30)
    tree = PromptTree.of(embeddings.positive, "chord", PROMPTS)
    plan = plan_for(tree, Budget("saving", 0.5), Profile(20))
    other = embed_prompts(load_prior(), ["lion face, noto style"], guidance=4.0)
    changed = edited(plan, 0, embeddings.positive, other.positive[0], other.keys[0], other.prompts[0])
    positive = torch.cat([other.positive, embeddings.positive[1:]])
    negative = torch.cat([other.negative, embeddings.negative[1:]])
    now = PromptEmbeddings(positive, negative, (other.prompts[0], *PROMPTS[1:]))
    before = pictures(decoder, embeddings, plan, store=store)
    after = pictures(decoder, now, changed, store=store, leaves=embeddings)
    assert (after[1:] - before[1:]).abs().max() < 0.02
    assert (after[0] - before[0]).abs().mean() > 0.01
    assert store.rows < plan.nfe + changed.num_steps


@pytest.mark.parametrize("acceleration", ["auto", "none", "CUDA graphs"])
def test_pictures_of_a_running_set_do_not_keep_the_device_waiting(embeddings, plan, pack, monkeypatch, acceleration):
    """What the sampler node shows: events are waited for while the next call is on the device, nothing else is."""
    live = importlib.import_module(f"{pack.__name__}.nodes.host.live_tree")
    show = importlib.import_module(f"{pack.__name__}.nodes.host.ui")
    monkeypatch.setattr(live, "SECONDS_BETWEEN_UPDATES", -1)  # each step
    monkeypatch.setattr(show, "SECONDS_BETWEEN_PREVIEWS", -1)
    decoder, factors = load_decoder(dtype=torch.float16, device="cuda"), torch.rand(5, 3)
    sent, kept = [], BranchLatents(plan)
    progress, tree = show.Progress(plan.nfe), live.LiveTree(plan, live.linear_colours(factors))
    monkeypatch.setattr(tree, "send", lambda kind, **data: sent.append(kind))

    def on_branches(k, clusters, x0):
        torch.cuda.set_sync_debug_mode("error")
        kept.on_rows(k, clusters, x0)
        tree.step(k, x0, 0, 0, clusters)
        progress.advance(len(clusters), lambda: latents_to_rgb(x0, factors))
        if progress.value == plan.nfe:  # what comes now, such as the look for NaN, may wait
            torch.cuda.set_sync_debug_mode("default")

    options = {"guidance": 3.0, "width": 128, "height": 128, "acceleration": acceleration}
    sample(decoder, embeddings, plan, **options)  # loads the device's libraries, records graphs
    try:
        with tree:
            latents = sample(decoder, embeddings, plan, on_branches=on_branches, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sent.count("progress") == plan.num_steps
    ends = [i for i, branch in enumerate(plan.branches) if branch.stop == plan.num_steps]
    last = latents[[plan.branches[i].members[0] for i in ends]]
    assert (kept.stacked(ends) - last.float().cpu()).abs().max() < 1e-3
    colours = latents_to_rgb(last.float(), factors).cpu().int()
    assert (torch.stack([tree.tiles[i] for i in ends]).int() - colours).abs().max() <= 1


def test_decoding_in_the_background_changes_no_picture(embeddings, plan):
    decoder, made = load_decoder(dtype=torch.float16, device="cuda"), {}

    def on_pictures(prompts, images):
        made.update(zip(prompts.tolist(), images, strict=True))

    options = {"guidance": 3.0, "width": 128, "height": 128, "micro_batch": 2, "order": "depth first"}
    with BackgroundDecoder(decoder, on_pictures) as on_finished:
        latents = sample(decoder, embeddings, plan, on_finished=on_finished, **options)
    made = torch.stack([made[i] for i in range(len(PROMPTS))])
    assert (made - decode(decoder, latents)).abs().max() < 0.02


def test_decoding_in_the_background_that_fails_stops_the_run(embeddings, plan):
    decoder = load_decoder(dtype=torch.float16, device="cuda")

    def on_pictures(prompts, images):
        raise OSError("no space left")

    options = {"guidance": 3.0, "width": 128, "height": 128, "micro_batch": 1, "order": "depth first"}
    with pytest.raises(OSError, match="no space left"), BackgroundDecoder(decoder, on_pictures) as on_finished:
        sample(decoder, embeddings, plan, on_finished=on_finished, **options)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("most_tree", "most_chain"), [(5000, 50_000), (100, 50_000), (100, 200)], ids=["distances", "chain", "pairs"]
)
def test_clusters_of_the_gpu_are_those_of_scipy(monkeypatch, metric, most_tree, most_chain):
    monkeypatch.setattr("hierdiff_core.plan.linkage.MOST_TREE_ON_CPU", most_tree)
    monkeypatch.setattr("hierdiff_core.plan.linkage.MOST_IN_CHAIN", most_chain)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 64))
    x = np.concatenate([x, x[rng.integers(2000, size=200)]])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    Z, expected = ward_linkage(x, metric, "cuda"), ward_linkage(x, metric)
    assert torch.cuda.max_memory_allocated() - before < linkage_bytes(*x.shape, metric, "cuda")
    np.testing.assert_allclose(Z[:, 2], expected[:, 2], rtol=0, atol=1e-5)
    for t in np.quantile(expected[:, 2], np.linspace(0.1, 1, 25)) * (1 + 1e-9) + 1e-12:
        assert is_isomorphic(flat_clusters(Z, t), flat_clusters(expected, t))


def test_prior_in_half_precision_keeps_the_clusters(embeddings):
    made = embed_prompts(load_prior(dtype=torch.float16, device="cuda"), PROMPTS, guidance=4.0)
    assert torch.cosine_similarity(made.positive, embeddings.positive).min() > 0.99


def test_out_of_memory_halves_the_batch(embeddings, plan):
    decoder = load_decoder(dtype=torch.float32, device="cuda")
    expected = pictures(decoder, embeddings, plan, micro_batch=1)
    gc.collect()  # graphs of other tests keep memory of their own
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    one_row = peak_of_one_row(decoder, embeddings, plan)
    allowed = torch.cuda.memory_allocated() + 6 * one_row  # 16 rows do not fit
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        made = sample(decoder, embeddings, plan, guidance=3.0, width=128, height=128, micro_batch=16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (decode(decoder, made) - expected).abs().max() < 0.02


def peak_of_one_row(decoder, embeddings, plan):
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    sample(decoder, embeddings, plan, guidance=3.0, width=128, height=128, micro_batch=1)
    torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated() - before


def test_host_evicts_our_models_for_others_and_reloads_them(tmp_path):
    """Runs, fills the device with other models through the host's memory management, and runs again."""
    hog = tmp_path / "custom_nodes" / "hog"
    hog.mkdir(parents=True)
    (hog / "__init__.py").write_text(HOG)
    fill = {"fill": {"class_type": "FillDevice", "inputs": {"after": ["sheet", 0]}}}
    with ComfyServer(base_dir=tmp_path, device_args=[]) as server:
        first = server.run(small_graph() | fill)
        loaded_before, *loaded_after = first["outputs"]["fill"]["loaded"]
        assert any("ModuleList" in name for name in loaded_before), loaded_before
        assert loaded_after == ["Linear"]
        again = server.run(small_graph(**{"plan.value": 0.41}) | fill)  # the same plan; loaders come from the cache
        assert any("ModuleList" in name for name in again["outputs"]["fill"]["loaded"][0])
        pairs = zip(server_pictures(server, first, "save"), server_pictures(server, again, "save"), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde_gpu", "dpmpp_2m"])
def test_ksampler_with_shared_steps_on_the_gpu(tmp_path, sampler):
    with ComfyServer(base_dir=tmp_path, device_args=[]) as server:
        settings = {"sample.sampler_name": sampler, "load_decoder.precision": "fp32"}
        one = server.run(native_graph(**settings))
        server.free()
        other = server.run(native_graph(**settings, **{"sample.micro_batch": 2}))
        pairs = zip(server_pictures(server, one, "save"), server_pictures(server, other, "save"), strict=True)
        assert max(np.abs(a.astype(int) - b).mean() for a, b in pairs) < 0.5
        assert "% saved" in one["outputs"]["sample"]["text"][0]


def test_scene_model_draws_on_the_gpu_what_it_draws_on_the_cpu(tmp_path, repo_root):
    """In the precision that the host chooses for each: fp32 on a CPU."""
    scenes, drawn = pack_with_scenes(tmp_path / "pack", repo_root), {}
    workflow = json.loads((repo_root / "workflows" / "hierdiff_any_model.json").read_text(encoding="utf-8"))
    for name, device in (("cpu", CPU_ARGS), ("gpu", [])):
        with ComfyServer(base_dir=tmp_path / name, pack_dir=scenes, device_args=device) as server:
            prompt = to_api(workflow, server.object_info())
            (save,) = (node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage")
            drawn[name] = np.stack(server_pictures(server, server.run(prompt), save)).astype(int)
    assert drawn["cpu"].std() > 4 * BETWEEN_PRECISIONS
    assert np.abs(drawn["gpu"] - drawn["cpu"]).mean() < BETWEEN_PRECISIONS


@pytest.mark.parametrize("acceleration", WAYS)
def test_accelerated_sampler_in_the_host(tmp_path, acceleration):
    """The server is told to free its memory in between: graphs must not outlive the weights that they read."""
    with ComfyServer(base_dir=tmp_path, device_args=[]) as server:
        plain = server.run(small_graph(**{"sample.acceleration": "none"}))
        runs = []
        for order in ORDERS:
            runs.append(server.run(small_graph(**{"sample.acceleration": acceleration, "sample.order": order})))
            server.free()
        for run in runs:
            pairs = zip(server_pictures(server, plain, "save"), server_pictures(server, run, "save"), strict=True)
            assert max(np.abs(a.astype(int) - b).mean() for a, b in pairs) < 4
        assert "is off" not in server.log_text()


HOG = '''
import comfy.model_management as mm
import comfy.model_patcher
import torch

class FillDevice:
    """Loads a model that needs all the memory there is, as a large checkpoint of another pack does."""
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"after": ("IMAGE",)}}
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "fill", True, "test"

    def fill(self, after):
        names = lambda: [m.model.model.__class__.__name__ for m in mm.current_loaded_models]
        before = names()
        device = mm.get_torch_device()
        free = mm.get_free_memory(device)
        model = torch.nn.Linear(1024, 1024)
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
        mm.load_models_gpu([patcher], memory_required=free * 2)
        return {"ui": {"loaded": [before, *names()]}}

NODE_CLASS_MAPPINGS = {"FillDevice": FillDevice}
'''
