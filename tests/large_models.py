"""A checkpoint in the widths of a real model, with random weights: the host's loaders know models by their shapes."""

import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.openaimodel
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    # the first two of four levels, each with a block less: the host tells the model by its widths
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "legacy": False,
}
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def write_sd15_checkpoint(path):
    """Stable Diffusion 1.5's text encoder and VAE, and a UNet of its widths, in half precision; 0.6 GB."""
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(**UNET),
            "cond_stage_model.transformer.": CLIPTextModel(CLIPTextConfig(**CLIP)),
            "first_stage_model.": comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=4),
        }
    some = (0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))).half()
    weights = {}
    for prefix, network in parts.items():
        for name, shape in ((name, tensor.shape) for name, tensor in network.state_dict().items()):
            size = shape.numel()
            weights[prefix + name] = some.repeat(-(-size // len(some)))[:size].reshape(shape).clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
