"""Load Scene Model: the networks of a folder in diffusers' format compute the same in the host's classes."""

import importlib
import types

import pytest
import torch
from scene_folders import LENGTH, diffusers_parts, tokenizer_of, write_scene_folder

pytestmark = pytest.mark.host
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


OURS = ("model", "folder", "unet", "clip", "vae")


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
