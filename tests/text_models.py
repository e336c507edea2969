"""Small models of the host's own classes, with random weights, that read prompts of any number of tokens."""

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import torch
from native_models import CPU, fill

WIDTH = 48  # of a token
# Those whose text encoders always give a mask; the others leave one without padding out, or know none.
ALWAYS_MASKED = {"OmniGen 2", "LTX-Video", "Lumina 2", "Z-Image"}
NETWORKS = {
    "Lumina 2": (
        comfy.supported_models.Lumina2,
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 96,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 4,
            "n_kv_heads": 2,
            "multiple_of": 32,
            "qk_norm": True,
            "cap_feat_dim": WIDTH,
            "axes_dims": [8, 8, 8],
            "axes_lens": [300, 64, 64],
        },
    ),
    "Qwen-Image": (
        comfy.supported_models.QwenImage,
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "attention_head_dim": 24,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (8, 8, 8),
        },
    ),
    "OmniGen 2": (
        comfy.supported_models.Omnigen2,
        {
            "image_model": "omnigen2",
            "hidden_size": 96,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 32,
            "axes_dim_rope": (8, 8, 8),
            "text_feat_dim": WIDTH,
            "timestep_scale": 1000.0,
        },
    ),
    "LTX-Video": (
        comfy.supported_models.LTXV,
        {
            "image_model": "ltxv",
            "in_channels": 128,
            "cross_attention_dim": 64,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "caption_channels": WIDTH,
            "num_layers": 2,
        },
    ),
    "PixArt": (
        comfy.supported_models.PixArtAlpha,
        {
            "image_model": "pixart_alpha",
            "hidden_size": 64,
            "depth": 2,
            "num_heads": 4,
            "caption_channels": WIDTH,
            "model_max_length": 120,
            "micro_condition": False,
            "input_size": 16,
            "pe_interpolation": 1.0,
        },
    ),
    "Chroma": (
        comfy.supported_models.Chroma,
        {
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "context_in_dim": WIDTH,
            "hidden_size": 96,
            "mlp_ratio": 2.0,
            "num_heads": 4,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [8, 8, 8],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "in_dim": 64,
            "out_dim": 96,
            "hidden_dim": 96,
            "n_layers": 1,
        },
    ),
    "HunyuanVideo": (
        comfy.supported_models.HunyuanVideo,
        {
            "image_model": "hunyuan_video",
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": [1, 2, 2],
            "hidden_size": 96,
            "mlp_ratio": 2.0,
            "num_heads": 4,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [8, 8, 8],
            "theta": 256,
            "qkv_bias": True,
            "guidance_embed": False,
            "context_in_dim": WIDTH,
            "vec_in_dim": 24,
            "byt5": False,
            "meanflow": False,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
        },
    ),
}
Z_IMAGE = {"dim": 256, "axes_dims": [16, 24, 24], "z_image_modulation": True, "pad_tokens_multiple": 32}
NETWORKS["Z-Image"] = (comfy.supported_models.Lumina2, {**NETWORKS["Lumina 2"][1], **Z_IMAGE})


def text_model(name):
    """ModelPatcher of a tiny network, and the shape of a latent for it."""
    kind, settings = NETWORKS[name]
    config = kind(dict(settings))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    fill(model.diffusion_model)
    size = {"PixArt": (64, 64), **dict.fromkeys(("LTX-Video", "HunyuanVideo", "Qwen-Image"), (1, 8, 8))}.get(
        name, (8, 8)
    )
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)
    return patcher, (1, model.latent_format.latent_channels, *size)
