"""A checkpoint in the shapes of a real model, with random weights: the host's loaders know models by their shapes."""

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
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
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
    """Stable Diffusion 1.5's UNet, text encoder and VAE in half precision, 2 GB."""
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(**UNET),
            "cond_stage_model.transformer.": CLIPTextModel(CLIPTextConfig(**CLIP)),
            "first_stage_model.": comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=4),
        }
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for prefix, network in parts.items():
        for name, shape in ((name, tensor.shape) for name, tensor in network.state_dict().items()):
            weights[prefix + name] = (0.02 * torch.randn(shape, generator=generator)).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
