"""Kandinsky 2.2 as MODEL: under the host's own samplers, in a real server and inside a host's process."""

import importlib
import itertools
import types

import numpy as np
import pytest
import torch
from comfyui_host import PromptFailed
from graphs import FULL_SIZE, pictures, small_graph

pytestmark = pytest.mark.host

STEPS = 12
MODEL = {"model": ["model", 0], "positive": ["model", 1], "negative": ["model", 2]}
UNCACHED = itertools.count()  # a node that the server finds in its cache puts no pictures into the history


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def sampler(latent, **changes):
    settings = {"seed": 1, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return node("KSampler", latent_image=latent, **{**MODEL, **settings, **changes})


def saved(latent):
    """Nodes that decode a latent and save it."""
    return {
        "host_decode": node("VAEDecode", samples=latent, vae=["load_decoder", 1]),
        "host_save": node("SaveImage", images=["host_decode", 0], filename_prefix=f"native{next(UNCACHED)}"),
    }


def native_graph(*extra, ours=False, batch=6, **changes):
    """The bundled model under KSampler; `changes` are its inputs, `extra` more nodes, `ours` our own sampler too."""
    every_step = {"plan.mode": "tau", "plan.value": 0.0, "plan.steps": STEPS, "sample.scheduler": "Euler"}
    ours_alone = {"embed.seed": 7, "save.filename_prefix": f"ours{next(UNCACHED)}", **FULL_SIZE}
    graph = small_graph(**ours_alone, **every_step)
    if not ours:
        for name in ("sample", "decode", "sheet", "save", "plan", "link"):
            del graph[name]
    graph["model"] = node("HierDiffKandinskyModel", decoder=["load_decoder", 0], embeddings=["embed", 0])
    graph["empty"] = node("EmptyLatentImage", width=128, height=128, batch_size=batch)
    graph["host"] = sampler(["empty", 0], **changes)
    graph |= saved(["host", 0])
    for nodes in extra:
        graph |= nodes
    return graph


def drawn(server, *extra, **changes):
    """(N, H, W, 3) float array of what the host's sampler draws."""
    return np.stack(pictures(server, server.run(native_graph(*extra, **changes)), "host_save")).astype(float)


def difference(one, other):
    return np.abs(one - other).mean()


@pytest.fixture(scope="module")
def first_run(comfyui):
    return comfyui.run(native_graph(ours=True))


@pytest.fixture(scope="module")
def ours(comfyui, first_run):
    """The prompts as the branching sampler draws them when nothing is shared."""
    return np.stack(pictures(comfyui, first_run, "save")).astype(float)


@pytest.fixture(scope="module")
def native(comfyui, first_run):
    """The prompts as KSampler draws them, Euler too."""
    return np.stack(pictures(comfyui, first_run, "host_save")).astype(float)


# --- Samplers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheduler"), [("euler", "normal"), ("dpmpp_2m", "karras"), ("ddpm", "normal"), ("uni_pc", "simple")]
)
def test_host_samplers_draw_a_picture_of_each_prompt(comfyui, ours, name, scheduler):
    made = drawn(comfyui, sampler_name=name, scheduler=scheduler)
    assert made.shape == ours.shape
    apart = np.array([[difference(one, other) for other in ours] for one in made])
    same, others = np.diag(apart), apart[~np.eye(len(apart), dtype=bool)]
    assert same.mean() < others.mean() / 3
    assert (apart.argmin(axis=1) == np.arange(len(ours))).all()


def test_node_says_which_batch_to_sample(first_run):
    text = first_run["outputs"]["model"]["text"][0]
    assert text.startswith("6 prompts: sample a batch of 6 latents, or one with shared steps")
    assert "guidance 3, steps 40, width 128, height 128" in text


def test_guider_under_custom_sampling_draws_the_same(comfyui, native):
    custom = {
        "host": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["euler", 0],
            sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("CFGGuider", cfg=3.0, **MODEL),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=STEPS, denoise=1.0),
    }
    assert np.array_equal(drawn(comfyui, custom), native)


def test_smaller_batch_draws_the_first_prompts_and_a_larger_one_repeats_them(comfyui, native):
    for batch in (2, 8):
        made = drawn(comfyui, batch=batch)
        assert len(made) == batch
        assert difference(made[:2], native[:2]) < 1
        for one, prompt in zip(made, range(batch), strict=True):
            assert min(range(6), key=lambda i: difference(one, native[i])) == prompt % 6


def test_one_negative_serves_all_prompts(comfyui, native):
    one = {
        "other": node("HierDiffPromptSet", text="blue car"),
        "embed_one": node("HierDiffPriorEmbedding", **native_graph()["embed"]["inputs"] | {"prompts": ["other", 0]}),
        "negative": node("HierDiffKandinskyModel", decoder=["load_decoder", 0], embeddings=["embed_one", 0]),
    }
    # without a negative prompt all have the same one: that of a black picture
    assert np.array_equal(drawn(comfyui, one, negative=["negative", 2]), native)


# --- Image to image, inpainting --------------------------------------------------------------------------------------


def other_prompts():
    """Nodes for the same six prompts, each two places further: `redrawn` has another prompt in each row."""
    embed = native_graph()["embed"]["inputs"]
    return {
        "moved": node("HierDiffPromptSet", text="{red apple|cat face|tiger face}, {noto|flat} style"),
        "embed_moved": node("HierDiffPriorEmbedding", **embed | {"prompts": ["moved", 0]}),
        "redrawn": node("HierDiffKandinskyModel", decoder=["load_decoder", 0], embeddings=["embed_moved", 0]),
        "first": sampler(["empty", 0]),
    }


def redraw(latent, **changes):
    return {"host": sampler(latent, positive=["redrawn", 1], negative=["redrawn", 2], **changes)}


def test_image_to_image_begins_at_its_source(comfyui, native):
    source = {
        "source": node("VAEDecode", samples=["first", 0], vae=["load_decoder", 1]),
        "encoded": node("VAEEncode", pixels=["source", 0], vae=["load_decoder", 1]),
    }
    whole = drawn(comfyui, other_prompts() | redraw(["empty", 0]))
    assert difference(whole, np.roll(native, 2, axis=0)) < 3  # the prompts did move
    # the bundled model knows its pictures by heart: with much noise it draws the prompt's, whatever the source
    much = drawn(comfyui, other_prompts() | source | redraw(["encoded", 0], denoise=0.6))
    assert 0 < difference(much, whole) < 3
    little = drawn(comfyui, other_prompts() | source | redraw(["encoded", 0], denoise=0.05, cfg=1.0))
    assert 1 < difference(little, native) < difference(little, whole)


def test_inpainting_keeps_the_rest(comfyui, native):
    masked = {
        "none": node("SolidMask", value=0.0, width=128, height=128),
        "half": node("SolidMask", value=1.0, width=64, height=128),
        "right": node("MaskComposite", destination=["none", 0], source=["half", 0], x=64, y=0, operation="add"),
        "masked": node("SetLatentNoiseMask", samples=["first", 0], mask=["right", 0]),
    }
    made = drawn(comfyui, other_prompts() | masked | redraw(["masked", 0]))
    left, right = np.s_[:, :, :40], np.s_[:, :, 72:]  # MoVQ sees a little across the border
    assert difference(made[left], native[left]) < 3
    assert difference(made[right], native[right]) > 20


# --- One set of weights for both samplers ----------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [{"unload_models": True}, {"unload_models": True, "free_memory": True}])
def test_both_samplers_work_in_turn_and_after_an_eviction(comfyui, ours, native, forget):
    assert np.array_equal(drawn(comfyui), native)
    comfyui.post("/free", forget)
    # a run by the decoder's patcher, then one by the MODEL's, on the same weights; a new seed leaves the cache
    for micro_batch in (1, 2):
        graph = native_graph(ours=True, seed=3 + micro_batch)
        graph["sample"]["inputs"]["micro_batch"] = micro_batch
        again = np.stack(pictures(comfyui, comfyui.run(graph), "save"))
        assert np.array_equal(again, ours)
        comfyui.post("/free", forget)
    assert np.array_equal(drawn(comfyui), native)


# --- What does not fit -----------------------------------------------------------------------------------------------


def test_conditioning_of_another_kind_is_refused(comfyui):
    joined = {"joined": node("ConditioningConcat", conditioning_to=["model", 1], conditioning_from=["model", 1])}
    with pytest.raises(PromptFailed, match=r"of shape \(N, 1, 128\); got \(6, 2, 128\)") as failure:
        drawn(comfyui, joined, positive=["joined", 0])
    assert failure.value.exception_type == "ValueError"


def test_patches_of_other_unets_change_nothing(comfyui, native):
    patched = {
        "free_u": node("FreeU_V2", model=["model", 0], b1=1.3, b2=1.4, s1=0.9, s2=0.2),
        "tile": node("HyperTile", model=["free_u", 0], tile_size=256, swap_size=2, max_depth=0, scale_depth=False),
    }
    assert np.array_equal(drawn(comfyui, patched, model=["tile", 0]), native)
    assert "ignores these patches of a UNet" in comfyui.log_text()


def test_wrappers_of_the_network_apply(comfyui, native):
    cache = {
        "cache": node(
            "EasyCache", model=["model", 0], reuse_threshold=0.3, start_percent=0.15, end_percent=0.95, verbose=False
        )
    }
    made = drawn(comfyui, cache, model=["cache", 0])
    assert "EasyCache - skipped" in comfyui.log_text()
    assert 0 < difference(made, native) < 20


# --- Inside the host's process ---------------------------------------------------------------------------------------


@pytest.fixture
def inside(pack, monkeypatch):
    """The host's memory management, which knows of no model yet, and the bundled model as MODEL."""
    mm = importlib.import_module("comfy.model_management")
    monkeypatch.setattr(mm, "current_loaded_models", [])
    names = (
        "nodes.host.models",
        "nodes.host.kandinsky_model",
        "hierdiff_core.kandinsky.loading",
        "hierdiff_core.kandinsky.schedulers",
    )
    names += ("hierdiff_core.kandinsky.call_memory", "hierdiff_core.previews")
    ours = {name.rsplit(".", 1)[-1]: importlib.import_module(f"{pack.__name__}.{name}") for name in names}
    pipeline = ours["loading"].load_decoder()
    latent_rgb = torch.linspace(-0.2, 0.5, 15).reshape(5, 3)
    patcher = ours["kandinsky_model"].native_patcher(pipeline, latent_rgb)
    return types.SimpleNamespace(mm=mm, pipeline=pipeline, latent_rgb=latent_rgb, patcher=patcher, **ours)


def test_loaded_whole_or_not_at_all_however_little_memory_there_is(inside, monkeypatch):
    meta, cpu = torch.device("meta"), torch.device("cpu")  # meta stands for a GPU: shows what moves, costs nothing
    mm, load_decoder = inside.mm, inside.loading.load_decoder

    def places(patcher):
        return {parameter.device.type for parameter in patcher.model.parameters()}

    def plain_patcher():  # the host's own, to show that the test can tell
        model = inside.kandinsky_model.NativeUNet(load_decoder().unet)
        host_patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
        return host_patcher(model, load_device=meta, offload_device=cpu)

    def whole_patcher():
        patcher = inside.kandinsky_model.native_patcher(load_decoder(), inside.latent_rgb)
        patcher.load_device = meta
        return patcher

    plain = plain_patcher()
    plain.partially_load(meta, plain.model_size() // 2)
    assert places(plain) == {"meta", "cpu"}
    for memory in (0.1, plain.model_size() // 2, 1e32):  # 0.1: --novram
        whole = whole_patcher()
        whole.partially_load(meta, memory)
        assert places(whole) == {"meta"}
        assert whole.loaded_size() == whole.model_size()
        assert whole.clone().partially_load(meta, -whole.model_size() // 2) == 0  # less memory than before: stays
        assert whole.partially_unload(cpu, 1000) == 0
        assert places(whole) == {"meta"}

    # through the host's loader, as KSampler calls it, with half of the memory that the weights need
    free = mm.minimum_inference_memory() + plain.model_size() // 2
    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(mm, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(
        mm, "get_free_memory", lambda device=None, torch_free_too=False: (free, 0) if torch_free_too else free
    )
    for patcher, expected in ((plain_patcher(), {"meta", "cpu"}), (whole_patcher(), {"meta"})):
        mm.current_loaded_models.clear()
        mm.load_models_gpu([patcher], memory_required=0, minimum_memory_required=0)
        assert places(patcher) == expected
    # asked for a few bytes, the host unloads all of it and strikes it off its list
    unloaded = []
    patcher.detach = lambda unpatch_all=True: unloaded.append(unpatch_all)
    assert mm.current_loaded_models[0].model_unload(1000)
    assert unloaded == [True]


def test_host_counts_the_weights_once(inside):
    mm, pipeline, patcher = inside.mm, inside.pipeline, inside.patcher
    decoder = inside.models.LoadedModel(pipeline, patcher, "bundled")
    one, other = patcher.clone(), patcher.clone()
    for load in (decoder.load, lambda: mm.load_models_gpu([one]), decoder.load, lambda: mm.load_models_gpu([other])):
        load()
        assert len(mm.current_loaded_models) == 1
    assert one.model is decoder.patcher.model
    assert one.model.diffusion_model.unet is pipeline.unet
    size = mm.module_size(pipeline.unet)
    assert size < patcher.model_size() < size + 20_000  # the noise schedule beside it
    # a LoRA on a MODEL is gone again when the decoder runs
    key = "diffusion_model.unet.conv_in.weight"
    before = pipeline.unet.conv_in.weight.clone()
    assert one.add_patches({key: ("diff", (torch.ones_like(before),))}) == [key]
    mm.load_models_gpu([one])
    assert torch.allclose(pipeline.unet.conv_in.weight, before + 1)
    decoder.load()
    assert torch.equal(pipeline.unet.conv_in.weight, before)


def test_model_predicts_what_our_sampler_predicts(inside):
    generator = torch.Generator().manual_seed(0)
    x, rows = torch.randn((2, 4, 16, 16), generator=generator), torch.randn((2, 128), generator=generator)
    scheduler, unet = inside.pipeline.scheduler, inside.pipeline.unet
    for t in (0, 500, 999):
        signal = scheduler.alphas_cumprod[t]
        sigma = ((1 - signal) / signal).sqrt()
        with torch.no_grad():
            made = inside.patcher.model.apply_model(x / signal.sqrt(), sigma.repeat(2), c_crossattn=rows[:, None])
            noise = unet(x, t, None, added_cond_kwargs={"image_embeds": rows}).sample[:, :4]
        expected = inside.schedulers.predicted_original(scheduler, x, t, noise)
        assert torch.allclose(made, expected, rtol=1e-3, atol=1e-3), (t, (made - expected).abs().max())


def test_what_the_host_reads_off_the_model(inside):
    patcher, model = inside.patcher, inside.patcher.model
    previews = importlib.import_module("latent_preview")
    model_sampling = importlib.import_module("comfy.model_sampling")
    # previews: the host's map from its factors is ours
    latents = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    form = patcher.get_model_object("latent_format")
    previewer = previews.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    shown = torch.tensor(list(previewer.decode_latent_to_preview(latents).tobytes())).reshape(16, 16, 3)
    assert (shown - inside.previews.latents_to_rgb(latents, inside.latent_rgb)[0].long()).abs().max() <= 1
    assert torch.equal(form.process_out(form.process_in(latents)), latents)
    # nodes that rebuild the noise schedule from the config, such as ModelSamplingDiscrete, find the same one
    rebuilt = model_sampling.ModelSamplingDiscrete(model.model_config)
    assert torch.allclose(rebuilt.sigmas, model.model_sampling.sigmas, rtol=1e-3)
    assert patcher.memory_required([2, 4, 16, 24]) == inside.call_memory.unet_bytes_per_row(
        inside.pipeline.unet, 16, 24
    )
    assert patcher.model_dtype() == torch.float32
    # a ControlNet is refused before it runs
    with pytest.raises(ValueError, match="does not support ControlNets"):
        model.extra_conds(control=object(), cross_attn=torch.zeros(1, 1, 128))
    for wrong in (None, torch.zeros(1, 77, 768), torch.zeros(1, 1, 768)):
        with pytest.raises(ValueError, match=r"\(N, 1, 128\)"):
            inside.kandinsky_model.check_conditioning({"cross_attn": wrong}, 128)
