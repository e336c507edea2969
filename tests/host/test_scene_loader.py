"""Load Scene Model: the networks of a folder in diffusers' format compute the same in the host's classes."""

import importlib
import json
import re
import shutil
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scene_folders import LENGTH, diffusers_parts, tokenizer_of, write_scene_folder

pytestmark = pytest.mark.host
OURS = ("model", "folder", "unet", "clip", "vae")
PROMPT = "a red apple to the left of a green cat face, noto style"
LONG = ", ".join(["a red apple to the left of a cat face"] * 5)  # several windows
# Each differs from the plain folder in something that a config.json may say.
UNETS = {
    "plain": {},
    "SD 1.5's own form": {
        "block_out_channels": (32, 64, 64, 96),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    },
    "heads of one width": {"attention_head_dim": (2, 4, 4)},
    "linear projections": {"use_linear_projection": True},
    "one block a level": {"layers_per_block": 1},
    "deeper transformers": {"transformer_layers_per_block": (1, 2, 3)},
    "16 channels, text of another width": {"in_channels": 16, "out_channels": 16, "cross_attention_dim": 64},
}


@pytest.fixture(scope="module")
def loader(pack):
    """Our module and the host's nodes."""
    return types.SimpleNamespace(
        **{name: importlib.import_module(f"{pack.__name__}.nodes.host.scene_{name}") for name in OURS},
        nodes=importlib.import_module("nodes"),
        node=pack.nodes.SceneLoader,
    )


@pytest.fixture(scope="module")
def path(pack, tmp_path_factory):
    return write_scene_folder(tmp_path_factory.mktemp("scenes") / "emoji-scenes")


@pytest.fixture(scope="module")
def loaded(loader, path):
    """MODEL, CLIP and VAE."""
    return loader.model.load_scene_folder(path)


@pytest.fixture(scope="module")
def reference(path):
    """The same parts in diffusers' and transformers' classes."""
    return diffusers_parts(path)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- The same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNETS)
def test_unet_is_that_of_diffusers(loader, tmp_path, name):
    path = write_scene_folder(tmp_path / "scenes", unet=UNETS[name])
    theirs = diffusers_parts(path).unet
    ours = loader.unet.scene_model(loader.folder.read_scene_folder(path)).model.diffusion_model
    x, text = random(3, theirs.config.in_channels, 16, 16), random(3, 7, theirs.config.cross_attention_dim, seed=2)
    times = torch.tensor([1000.0, 500.5, 3.0])
    expected = theirs(x, times, encoder_hidden_states=text).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, times, context=text), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("prompt", ["", PROMPT, "words that it does not know"])
def test_text_encoder_is_that_of_transformers(loaded, reference, path, prompt):
    ids = tokenizer_of(path)(prompt, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    clip = loaded[1]
    tokens = clip.tokenize(prompt)
    assert [token for token, _ in tokens["l"][0]] == ids[0].tolist()
    expected = reference.text_encoder(ids, output_hidden_states=True)
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    torch.testing.assert_close(cond, expected.last_hidden_state, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=2e-5, rtol=1e-4)


def test_last_layers_of_the_text_encoder_are_left_out_as_of_any_clip(loader, loaded, reference, path):
    (clip,) = loader.nodes.CLIPSetLastLayer().set_last_layer(loaded[1], -2)
    cond = clip.encode(PROMPT)
    ids = tokenizer_of(path)(PROMPT, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    hidden = reference.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    norms = dict(reference.text_encoder.named_modules())
    norm = next(module for name, module in norms.items() if name.endswith("final_layer_norm"))
    torch.testing.assert_close(cond, norm(hidden), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(cond, loaded[1].encode(PROMPT))


@pytest.mark.parametrize(
    "changes", [{}, {"use_quant_conv": False, "use_post_quant_conv": False}, {"latent_channels": 16}]
)
def test_vae_is_that_of_diffusers(loader, tmp_path, changes):
    path = write_scene_folder(tmp_path / "scenes", vae=changes)
    theirs = diffusers_parts(path).vae
    ours = loader.vae.scene_vae(loader.folder.read_scene_folder(path))
    pictures = torch.rand(2, 64, 128, 3, generator=torch.Generator().manual_seed(3))
    latents = theirs.encode(2 * pictures.movedim(-1, 1) - 1).latent_dist.mode()
    decoded = (theirs.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert decoded.std() > 0.01
    torch.testing.assert_close(ours.encode(pictures), latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.decode(latents), decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vae", [{}, {"scaling_factor": 1.3, "shift_factor": 0.4}])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_is_that_of_diffusers_scheduler(loader, tmp_path, vae, shift):
    """Euler with guidance, from scaled noise to unscaled latents, written out with diffusers' scheduler and UNet."""
    path = write_scene_folder(tmp_path / "scenes", vae=vae, scheduler={"shift": shift})
    model, clip, _ = loader.model.load_scene_folder(path)
    parts, steps = diffusers_parts(path), 5
    sides = [loader.nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "")]
    latents = {"samples": torch.zeros(1, 4, 16, 16)}
    (made,) = loader.nodes.KSampler().sample(model, 7, steps, 3.0, "euler", "simple", *sides, latents)

    x = torch.randn((1, 8, 16, 16), generator=torch.manual_seed(7))
    parts.scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])  # which it shifts
    texts = torch.cat([side[0][0] for side in sides])
    for time in parts.scheduler.timesteps:
        with_text, without = parts.unet(x.repeat(2, 1, 1, 1), time, encoder_hidden_states=texts).sample.split(1)
        x = parts.scheduler.step(without + 3.0 * (with_text - without), time, x).prev_sample
    expected = x / parts.vae.config.scaling_factor + (parts.vae.config.shift_factor or 0.0)
    torch.testing.assert_close(made["samples"], expected, atol=5e-4, rtol=5e-4)


# --- Whatever takes a model of the host ------------------------------------------------------------------------------


def sides_of(loader, clip, *texts):
    return [loader.nodes.CLIPTextEncode().encode(clip, text)[0] for text in texts]


def drawn(loader, model, clip, steps=3, sampler="euler", scheduler="simple", cfg=3.0, batch=1):
    """What the host's KSampler draws of the prompt, on its own empty latent."""
    (latents,) = loader.nodes.EmptyLatentImage().generate(128, 128, batch)
    sides = sides_of(loader, clip, PROMPT, "")
    (made,) = loader.nodes.KSampler().sample(model, 7, steps, cfg, sampler, scheduler, *sides, latents)
    return made["samples"]


def extra(module, name, *args, **inputs):
    """The first output of one of the host's newer nodes."""
    node = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
    made = (
        node.execute(*args, **inputs) if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(*args, **inputs)
    )
    return getattr(made, "args", made)[0]


def test_an_empty_latent_of_128_pixels_is_one_of_16(loader, loaded):
    assert drawn(loader, *loaded[:2], batch=2).shape == (2, 8, 16, 16)


def test_every_sampler_draws(loader, loaded):
    samplers = importlib.import_module("comfy.samplers").KSampler.SAMPLERS
    assert len(samplers) > 30
    plain = drawn(loader, *loaded[:2])
    for name in samplers:
        made = drawn(loader, *loaded[:2], sampler=name)
        assert made.isfinite().all(), name
        assert (made - plain).abs().mean() < 2 * plain.abs().mean(), name


def test_every_scheduler_draws(loader, loaded):
    schedulers = importlib.import_module("comfy.samplers").KSampler.SCHEDULERS
    assert len(schedulers) > 5
    made = {name: drawn(loader, *loaded[:2], scheduler=name) for name in schedulers}
    assert [name for name, latents in made.items() if not latents.isfinite().all()] == []


PATCHES = {
    "FreeU": ("freelunch", "FreeU", (1.1, 1.2, 0.9, 0.2)),
    "FreeU_V2": ("freelunch", "FreeU_V2", (1.3, 1.4, 0.9, 0.2)),
    "PatchModelAddDownscale": (
        "model_downscale",
        "PatchModelAddDownscale",
        (2, 2.0, 0.0, 0.5, True, "bicubic", "bicubic"),
    ),
    "PerturbedAttentionGuidance": ("pag", "PerturbedAttentionGuidance", (3.0,)),
    "SelfAttentionGuidance": ("sag", "SelfAttentionGuidance", (0.5, 2.0)),
    "ModelSamplingSD3": ("model_advanced", "ModelSamplingSD3", (3.0,)),
    "ModelSamplingAuraFlow": ("model_advanced", "ModelSamplingAuraFlow", (1.73,)),
    "RescaleCFG": ("model_advanced", "RescaleCFG", (0.7,)),
    "UNetSelfAttentionMultiply": ("attention_multiply", "UNetSelfAttentionMultiply", (1.5, 1.0, 1.0, 1.0)),
    "EasyCache": ("easycache", "EasyCacheNode", (9.0, 0.1, 0.95, False)),
    "LazyCache": ("easycache", "LazyCacheNode", (9.0, 0.1, 0.95, False)),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches_of_a_model_take_effect(loader, loaded, name):
    module, node, settings = PATCHES[name]
    patched = extra(module, node, loaded[0], *settings)
    made = drawn(loader, patched, loaded[1], steps=6)
    assert made.isfinite().all()
    assert not torch.equal(made, drawn(loader, *loaded[:2], steps=6))


def test_hypertile_tiles_the_attention(loader, loaded):
    """In the blocks of more than a tile, which this small picture has at its first levels only."""
    seen = []
    patched = extra("hypertile", "HyperTile", loaded[0], 8, 2, 1, False)
    patched.set_model_attn1_patch(lambda q, k, v, options: seen.append(len(q)) or (q, k, v))
    assert drawn(loader, patched, loaded[1]).isfinite().all()
    assert max(seen) > 2  # more than the rows with and without the prompt


# --- LoRAs -----------------------------------------------------------------------------------------------------------

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
WORDS = "text_model.encoder.layers.1.self_attn.q_proj"
NAMES = {
    "kohya": (f"lora_unet_{ATTENTION.replace('.', '_')}", f"lora_te_{WORDS.replace('.', '_')}", "lora_down", "lora_up"),
    "diffusers": (f"unet.{ATTENTION.replace('.to_', '.processor.to_')}", f"text_encoder.{WORDS}", "lora_A", "lora_B"),
}


def low_rank(unet, words, down, up):
    """A LoRA of two layers of the tiny networks, and the change of each layer's weights at strength 1."""
    halves = [(random(4, 48, seed=5), random(64, 4, seed=6)), (random(4, 48, seed=7), random(48, 4, seed=8))]
    tensors = {}
    for name, (first, second) in zip((unet, words), halves, strict=True):
        tensors |= {f"{name}.{down}.weight": 0.2 * first, f"{name}.{up}.weight": 0.2 * second}
    return tensors, [0.04 * second @ first for first, second in halves]


@pytest.mark.parametrize("form", NAMES)
def test_a_lora_changes_the_layers_that_it_names(loader, loaded, path, form):
    """As if the changes had been added to the folder's own weights."""
    model, clip, _ = loaded
    tensors, (of_unet, of_words) = low_rank(*NAMES[form])
    patched = importlib.import_module("comfy.sd").load_lora_for_models(model, clip, tensors, 0.8, 0.6)
    parts = diffusers_parts(path)
    parts.unet.get_submodule(ATTENTION).weight += 0.8 * of_unet
    words = dict(parts.text_encoder.named_modules())
    words.get(WORDS, words.get(WORDS.removeprefix("text_model."))).weight += 0.6 * of_words
    ids = tokenizer_of(path)(PROMPT, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    expected = parts.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(patched[1].encode(PROMPT), expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(expected, clip.encode(PROMPT), atol=1e-3)

    sides = [[[expected, {}]], [[parts.text_encoder(ids * 0).last_hidden_state, {}]]]
    (made,) = loader.nodes.KSampler().sample(
        patched[0], 7, 1, 1.0, "euler", "simple", *sides, {"samples": torch.zeros(1, 8, 16, 16)}
    )
    noise = torch.randn((1, 8, 16, 16), generator=torch.manual_seed(7))
    velocity = parts.unet(noise, torch.tensor([1000.0]), encoder_hidden_states=expected).sample
    torch.testing.assert_close(made["samples"], (noise - velocity) / 0.6, atol=2e-4, rtol=2e-4)


def test_every_layer_has_a_name_that_loras_of_sd15_use(loaded):
    lora = importlib.import_module("comfy.lora")
    networks = loaded[0].model, loaded[1].cond_stage_model
    names = [set(lora.model_lora_keys_unet(networks[0], {}).values()), set(lora.model_lora_keys_clip(networks[1], {}))]
    matrices = {
        name for name, value in networks[0].state_dict().items() if value.ndim > 1 and "diffusion_model" in name
    }
    assert matrices <= names[0]
    kinds = ("mlp_fc1", "mlp_fc2", *(f"self_attn_{kind}_proj" for kind in ("q", "k", "v", "out")))
    assert {f"lora_te_text_model_encoder_layers_{i}_{kind}" for i in range(3) for kind in kinds} <= names[1]


# --- Memory, precision, previews -------------------------------------------------------------------------------------


def test_networks_are_under_the_hosts_memory_management(loader, loaded):
    management = importlib.import_module("comfy.model_management")
    drawn(loader, *loaded[:2])
    loaded[2].decode(torch.zeros(1, 8, 16, 16))
    held = {id(entry.model.model) for entry in management.current_loaded_models if entry.model is not None}
    networks = [loaded[0].model, loaded[1].cond_stage_model, loaded[2].first_stage_model]
    assert {id(network) for network in networks} <= held
    management.unload_all_models()
    assert not management.current_loaded_models
    assert drawn(loader, *loaded[:2]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_in_the_precision_that_the_host_chooses(loader, path, monkeypatch, dtype):
    management = importlib.import_module("comfy.model_management")
    monkeypatch.setattr(management, "unet_dtype", lambda **_: dtype)
    model = loader.unet.scene_model(loader.folder.read_scene_folder(path))
    assert {value.dtype for value in model.model.diffusion_model.parameters()} == {dtype}
    assert model.model.manual_cast_dtype == management.unet_manual_cast(dtype, model.load_device)


def test_estimates_of_memory_follow_the_widths(loader, tmp_path, loaded):
    wide = write_scene_folder(
        tmp_path / "wide", unet={"block_out_channels": (64, 64, 64)}, vae={"block_out_channels": (64,) * 4}
    )
    wider, _, vae = loader.model.load_scene_folder(wide)
    rows = [1, 8, 16, 16]
    assert wider.model.memory_required(rows) == 2 * loaded[0].model.memory_required(rows) > 0
    for estimate in ("memory_used_decode", "memory_used_encode"):
        one, two = (getattr(made, estimate)((1, 8, 16, 16), torch.float32) for made in (loaded[2], vae))
        assert two == 2 * one > 0


def test_the_estimate_covers_what_a_call_of_the_network_takes(loader, loaded):
    """Of tensors that are alive at once, by torch's own count."""
    unet, x = loaded[0].model.diffusion_model, random(8, 8, 16, 16)
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        unet(x, torch.full((8,), 500.0), context=random(8, LENGTH, 48))
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    taken = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    assert 0 < taken.max() < loaded[0].model.memory_required([8, 8, 16, 16])


def test_previews_show_the_colours_that_the_autoencoder_decodes(loader, pack, loaded):
    """As near as a linear map can: the sum of squares is the least that there is for the patches it was fitted on."""
    model, _, vae = loaded
    previews = importlib.import_module(f"{pack.__name__}.hierdiff_core.previews")
    patches = previews.colour_patches()
    latents = model.model.process_latent_in(vae.encode(patches))
    shown = importlib.import_module("latent_preview").Latent2RGBPreviewer(
        model.model.latent_format.latent_rgb_factors, model.model.latent_format.latent_rgb_factors_bias
    )
    picture = torch.from_numpy(np.array(shown.decode_latent_to_preview(latents))) / 255
    wanted = patches[0].unflatten(0, (32, 8)).unflatten(2, (32, 8)).mean((1, 3))
    flat = wanted.flatten(0, 1).std()
    assert (picture - wanted).square().mean().sqrt() < flat
    own = previews.latents_to_rgb(latents, previews.fit_latent_rgb(patches, latents))[0] / 255
    assert (picture - own).abs().max() < 0.02


# --- With this pack's own nodes --------------------------------------------------------------------------------------

TEXTS = ("a red apple", "a green apple, flat style", "a cat face", "a rocket to the left of a cat face, noto style")


def embedded(pack, clip, texts=TEXTS):
    """Conditioning with a row for each prompt, embeddings, and what the node says."""
    made = pack.nodes.ClipEmbedding.execute(clip, texts, "auto")
    positive, embeddings, _ = made.args
    return positive, embeddings, made.ui["text"][0]


def planned(pack, embeddings, mode, value):
    tree = pack.nodes.WardLinkage.execute(embeddings, "chord").args[0]
    return pack.nodes.ThresholdSchedule.execute(tree, 4, mode, value, 1).args[0]


def shared_steps(loader, pack, loaded, plan, positive):
    """What KSampler behind Share Steps draws from one latent."""
    patched = pack.nodes.ShareSteps.execute(loaded[0], plan).args[0]
    (negative,) = sides_of(loader, loaded[1], "")
    latents = {"samples": torch.zeros(1, 4, 16, 16)}
    (made,) = loader.nodes.KSampler().sample(patched, 7, 4, 3.0, "euler", "simple", positive, negative, latents)
    return made["samples"]


def test_prompts_are_drawn_as_alone_where_nothing_is_shared(loader, pack, loaded):
    positive, embeddings, said = embedded(pack, loaded[1])
    assert f"tokens: {LENGTH} (4 prompts)" in said
    assert "embeddings: pooled, 48 numbers each" in said
    assert "⚠" not in said
    made = shared_steps(loader, pack, loaded, planned(pack, embeddings, "tau", 0.0), positive)
    noise = torch.zeros(1, 4, 16, 16)
    for i, text in enumerate(TEXTS):
        sides = sides_of(loader, loaded[1], text, "")
        (alone,) = loader.nodes.KSampler().sample(loaded[0], 7, 4, 3.0, "euler", "simple", *sides, {"samples": noise})
        assert torch.equal(made[i : i + 1], alone["samples"])


def test_steps_are_shared(loader, pack, loaded):
    positive, embeddings, _ = embedded(pack, loaded[1])
    plan = planned(pack, embeddings, "saving", 0.4)
    assert 0.3 < plan.saved < 0.6
    made = shared_steps(loader, pack, loaded, plan, positive)
    assert made.shape == (4, 8, 16, 16)
    assert made.isfinite().all()
    assert len({row.numpy().tobytes() for row in made}) == len(TEXTS)


def test_prompts_longer_than_the_window_are_read_in_chunks(loader, pack, loaded):
    positive, embeddings, said = embedded(pack, loaded[1], (*TEXTS, LONG))
    chunks = len(loaded[1].tokenize(LONG)["l"])
    assert chunks > 1
    assert positive[0][0].shape == (5, chunks * LENGTH, 48)
    assert f"⚠ longer than the {LENGTH - 2} tokens that this encoder reads at once" in said
    made = shared_steps(loader, pack, loaded, planned(pack, embeddings, "tau", 0.0), positive)
    sides = sides_of(loader, loaded[1], LONG, "")
    (alone,) = loader.nodes.KSampler().sample(
        loaded[0], 7, 4, 3.0, "euler", "simple", *sides, {"samples": torch.zeros(1, 4, 16, 16)}
    )
    torch.testing.assert_close(made[4:], alone["samples"], atol=1e-4, rtol=1e-4)


def test_words_in_brackets_weigh_more(loaded):
    plain, weighted = (loaded[1].encode(text) for text in ("a red apple", "a (red:1.4) apple"))
    assert plain.shape == weighted.shape
    assert not torch.allclose(plain, weighted, atol=1e-3)


# --- The widget ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundled(loader, path, monkeypatch):
    """The tiny folder in place of the bundled one."""
    monkeypatch.setattr(loader.model, "BUNDLED_SCENES", path)


@pytest.fixture
def checkpoints(monkeypatch, tmp_path):
    """A folder of checkpoints with one file."""
    places = importlib.import_module("folder_paths").folder_names_and_paths
    monkeypatch.setitem(places, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    (tmp_path / "mine.safetensors").touch()
    return tmp_path


@pytest.mark.usefixtures("checkpoints")
def test_the_bundled_model_is_the_first_choice_and_checkpoints_follow(loader):
    (widget,) = loader.node.define_schema().inputs
    assert (widget.id, widget.default) == ("model_name", "emoji-scenes (bundled)")
    assert widget.options == ["emoji-scenes (bundled)", "mine.safetensors"]


@pytest.mark.usefixtures("bundled")
def test_the_node_loads_the_bundled_model(loader):
    assert loader.node.validate_inputs(model_name="emoji-scenes (bundled)") is True
    model, clip, vae = loader.node.execute("emoji-scenes (bundled)").args
    latents = drawn(loader, model, clip)
    assert loader.nodes.VAEDecode().decode(vae, {"samples": latents})[0].shape == (1, 128, 128, 3)


def test_a_checkpoint_is_loaded_as_load_checkpoint_does(loader, checkpoints, monkeypatch):
    calls = []
    monkeypatch.setattr(
        importlib.import_module("comfy.sd"),
        "load_checkpoint_guess_config",
        lambda *args, **options: calls.append((args, options)) or ("model", "clip", "vae", "vision"),
    )
    assert loader.node.validate_inputs(model_name="mine.safetensors") is True
    ours = loader.node.execute("mine.safetensors").args
    assert tuple(ours) == tuple(loader.nodes.CheckpointLoaderSimple().load_checkpoint("mine.safetensors"))
    assert calls[0] == calls[1]
    assert calls[0][0] == (str(checkpoints / "mine.safetensors"),)


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("name", ["gone.safetensors", "x" * 500])
def test_a_missing_checkpoint_is_named_when_it_is_queued_and_when_a_link_brings_it(loader, name):
    message = loader.node.validate_inputs(model_name=name)
    assert message.startswith(f"there is no checkpoint '{name[:80]}")
    assert "choose emoji-scenes (bundled)" in message
    assert len(message) < 250
    with pytest.raises(ValueError, match="there is no checkpoint"):
        loader.node.execute(name)


# --- A folder that is not as it should be ----------------------------------------------------------------------------

FILES = [
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
]
ADVICE = r"The bundled scene model in models/emoji-scenes is incomplete or damaged: install HierDiff again"


@pytest.fixture
def copy(path, tmp_path, loader, monkeypatch):
    """A copy of the folder, in place of the bundled one."""
    folder = tmp_path / "emoji-scenes"
    shutil.copytree(path, folder)
    monkeypatch.setattr(loader.model, "BUNDLED_SCENES", folder)
    return folder


def fault_of(loader):
    """The error of the node; when queued, the configs alone are read."""
    with pytest.raises(ValueError, match=ADVICE) as raised:
        loader.node.execute(loader.model.SCENES_NAME)
    return str(raised.value)


def test_without_the_folder_the_first_file_is_named(loader, copy):
    shutil.rmtree(copy)
    message = "emoji-scenes/unet/config.json is missing"
    assert message in loader.node.validate_inputs(model_name=loader.model.SCENES_NAME)
    assert message in fault_of(loader)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(loader, copy, name):
    (copy / name).unlink()
    place = name.split("/")[0] if name.endswith(".safetensors") else name
    assert f"emoji-scenes/{place}" in fault_of(loader)


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".txt")])
def test_a_file_that_was_cut_off_is_named(loader, copy, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    assert f"emoji-scenes/{name}" in fault_of(loader)


SETTINGS = [
    ("unet/config.json", "block_out_channels", [32, 48, 64], "whole multiples of the first"),
    ("unet/config.json", "block_out_channels", [], "whole multiples of the first"),
    ("unet/config.json", "down_block_types", ["DownBlock2D"], "3 of CrossAttnDownBlock2D and DownBlock2D"),
    ("unet/config.json", "up_block_types", ["UpBlock2D"] * 3, "the way down reversed"),
    ("unet/config.json", "attention_head_dim", [3, 4, 5], "one number of heads"),
    ("unet/config.json", "attention_head_dim", 7, "one number of heads"),
    ("unet/config.json", "transformer_layers_per_block", [1, 1], "one for each of 3 levels"),
    ("unet/config.json", "flip_sin_to_cos", False, "must be True; got False"),
    ("unet/config.json", "class_embed_type", "timestep", "must be None; got 'timestep'"),
    ("vae/config.json", "block_out_channels", [32, 64], "those of 4 levels"),
    ("vae/config.json", "layers_per_block", 1, "must be 2; got 1"),
    ("text_encoder/config.json", "hidden_act", "relu", "one of quick_gelu, gelu"),
    ("text_encoder/config.json", "vocab_size", 5, "at least the"),
    ("text_encoder/config.json", "hidden_size", None, "has no hidden_size"),
    ("scheduler/scheduler_config.json", "_class_name", "DDPMScheduler", "must be 'FlowMatchEulerDiscreteScheduler'"),
    ("tokenizer/tokenizer_config.json", "pad_token", "<pad>", "vocab.json does not have the pad_token, '<pad>'"),
]


@pytest.mark.parametrize(("name", "key", "value", "needed"), SETTINGS)
def test_a_config_of_another_network_is_named_with_what_is_needed(loader, copy, name, key, value, needed):
    settings = json.loads((copy / name).read_text(encoding="utf-8"))
    (copy / name).write_text(json.dumps({**settings, key: value}), encoding="utf-8")
    message = fault_of(loader)
    assert needed in message
    assert f"emoji-scenes/{name.split('/')[0]}" in message
    assert key in message


def renamed(tensors):
    tensors["mine"] = tensors.pop(sorted(tensors)[0])


def shortened(tensors):
    name = max(tensors, key=lambda name: tensors[name].ndim)
    tensors[name] = tensors[name][:-1].contiguous()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
@pytest.mark.parametrize("damage", [renamed, shortened])
def test_weights_of_another_network_are_named(loader, copy, name, damage):
    tensors = load_file(copy / name)
    damage(tensors)
    save_file(tensors, copy / name)
    assert re.search(rf"emoji-scenes/{name.split('/')[0]}\b", fault_of(loader))


# --- Newer hosts, imitated -------------------------------------------------------------------------------------------


def test_newer_hosts_that_keep_the_files_tensors_are_given_them(loader, path, loaded, monkeypatch):
    """With dynamic VRAM they take the place of the network's own, and CLIP is filled while it is made."""
    patchers, base, sd = (importlib.import_module(f"comfy.{name}") for name in ("model_patcher", "model_base", "sd"))
    made, assigned = sd.CLIP.__init__, []

    class Dynamic(patchers.ModelPatcher):
        def is_dynamic(self):
            return True

    def load_model_weights(self, weights, prefix="", assign=False):
        assigned.append((assign, {value.dtype for value in weights.values()}))
        self.diffusion_model.load_state_dict(weights, assign=assign)

    def init(self, target=None, state_dict=(), **options):
        made(self, target, **options)
        self.cond_stage_model.load_state_dict(state_dict, strict=False, assign=True)

    monkeypatch.setattr(patchers, "CoreModelPatcher", Dynamic, raising=False)
    monkeypatch.setattr(base.BaseModel, "load_model_weights", load_model_weights)
    monkeypatch.setattr(sd.CLIP, "__init__", init)
    folder = loader.folder.read_scene_folder(path)
    model, clip = loader.unet.scene_model(folder), loader.clip.scene_clip(folder)
    assert type(model) is Dynamic
    assert assigned == [(True, {torch.float16})]
    torch.testing.assert_close(clip.encode(PROMPT), loaded[1].encode(PROMPT))
    ours, theirs = (m.model.diffusion_model.state_dict() for m in (model, loaded[0]))
    assert all(torch.equal(ours[name].float(), theirs[name].float()) for name in theirs)
