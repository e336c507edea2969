"""The autoencoder of a folder in diffusers' format as the host's own VAE."""

from __future__ import annotations

from typing import Any

import comfy.diffusers_convert
import comfy.sd
import torch

from ...hierdiff_core.kandinsky.model_folder import title
from .scene_folder import SceneFolder, check_names, filling, widths

LEVELS = 4  # that the host converts: it makes latents of an eighth of a picture's sides
REFERENCE_WIDTH = 128  # of SD's autoencoder at its first level, on which the host's estimate of memory is made
QUANT = {"quant_conv": 2, "post_quant_conv": 1}  # with channels for mean and variance, and for the mean alone


def scene_vae(folder: SceneFolder) -> Any:
    """The host's VAE of a folder's AutoencoderKL."""
    first, multiples = widths(folder, "vae")
    if len(multiples) != LEVELS:
        raise folder.refuse("vae", "block_out_channels", f"those of {LEVELS} levels")
    channels = folder.setting("vae", "latent_channels")
    sizes = {
        "double_z": True,
        "z_channels": channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": first,
        "ch_mult": multiples,
        "num_res_blocks": folder.setting("vae", "layers_per_block", 2),
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    weights = vae_weights(folder, channels)
    where = f"{title(folder.path)}/vae"
    with filling(where):
        vae = comfy.sd.VAE(sd=dict(weights), config={"params": {"ddconfig": sizes, "embed_dim": channels}})
    check_names(vae.first_stage_model.state_dict(), weights, where)
    vae.latent_channels = channels
    scale_memory(vae, first / REFERENCE_WIDTH)
    return vae


def vae_weights(folder: SceneFolder, channels: int) -> dict[str, torch.Tensor]:
    """An autoencoder's tensors under the host's names.

    Some have no convolutions beside their latents, which the host's class always has: there they change nothing.
    """
    weights = comfy.diffusers_convert.convert_vae_state_dict(folder.weights("vae"))
    dtype = next(iter(weights.values())).dtype
    for name, times in QUANT.items():
        if not folder.setting("vae", f"use_{name}", True):
            size = times * channels
            weights[f"{name}.weight"] = torch.eye(size, dtype=dtype)[:, :, None, None]
            weights[f"{name}.bias"] = torch.zeros(size, dtype=dtype)
    return weights


def scale_memory(vae: Any, share: float) -> None:
    """Lower the host's estimate of memory, which is SD's, to that of a narrower network."""
    decode, encode = vae.memory_used_decode, vae.memory_used_encode
    vae.memory_used_decode = lambda *shape: decode(*shape) * share
    vae.memory_used_encode = lambda *shape: encode(*shape) * share
