"""The UNet of a folder in diffusers' format as the host's own MODEL."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch

from ...hierdiff_core.kandinsky.model_folder import title
from .scene_folder import SceneFolder, check_names, widths

# SD 1.5's network, whose use of memory the host's estimate counts as 1, is as wide at its first level.
REFERENCE_WIDTH = 320


class SceneLatents(comfy.latent_formats.LatentFormat):
    """Latents of a small autoencoder: scaled and shifted as diffusers does it."""

    def __init__(self, channels: int, scale: float, shift: float) -> None:
        self.latent_channels = channels
        self.scale_factor = scale
        self.shift_factor = shift

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - self.shift_factor) * self.scale_factor

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        return latent / self.scale_factor + self.shift_factor

    def show_colours(self, latent_rgb: torch.Tensor) -> None:
        """Give the host's previews their colours, from `fit_latent_rgb` on scaled latents."""
        # ours map to 0 ... 1, the host's to -1 ... 1
        self.latent_rgb_factors = (2 * latent_rgb[:-1]).tolist()
        self.latent_rgb_factors_bias = (2 * latent_rgb[-1] - 1).tolist()


class SceneConfig(comfy.supported_models_base.BASE):
    """What the host reads off a MODEL: a UNet as SD 1.5 has one, for flow matching."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012  the host's own form

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.FLOW

    def inpaint_model(self) -> bool:
        return False  # the host takes more than four channels for those of an inpainting model


def scene_model(folder: SceneFolder) -> Any:
    """ModelPatcher of a folder's UNet, its weights in the host's precision and under its memory management."""
    weights = folder.weights("unet")
    config = model_config(folder)
    choose_precision(config, weights)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"{title(folder.path)}/unet has weights that its config.json does not describe: {unknown[0]}")
    named = {names[name]: value for name, value in weights.items()}
    patcher = patcher_of(config.get_model(named, ""))
    check_names(patcher.model.diffusion_model.state_dict(), named, f"{title(folder.path)}/unet")
    load = patcher.model.load_model_weights
    # newer hosts keep the file's tensors until they are needed
    dynamic = "assign" in inspect.signature(load).parameters
    load(named, "", **({"assign": patcher.is_dynamic()} if dynamic else {}))
    return patcher


def patcher_of(model: Any) -> Any:
    """A model under the host's memory management, on its offload device."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    offload = comfy.model_management.unet_offload_device()
    model.to(offload)
    return kind(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)


def choose_precision(config: Any, weights: dict[str, torch.Tensor]) -> None:
    """Set a config's precision as the host's loader does for a checkpoint."""
    supported = config.supported_inference_dtypes
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device, supported))


def model_config(folder: SceneFolder) -> SceneConfig:
    """The host's configuration of a folder's UNet, schedule and latents."""
    config = SceneConfig(unet_config(folder))
    config.sampling_settings = {
        "shift": folder.setting("scheduler", "shift", 1.0),
        "multiplier": folder.setting("scheduler", "num_train_timesteps", 1000),
    }
    config.memory_usage_factor = config.unet_config["model_channels"] / REFERENCE_WIDTH
    config.latent_format = SceneLatents(
        folder.setting("vae", "latent_channels"),
        folder.setting("vae", "scaling_factor", 0.18215),  # diffusers' own default
        folder.setting("vae", "shift_factor", 0.0),
    )
    return config


def unet_config(folder: SceneFolder) -> dict[str, Any]:
    """Arguments of the host's UNetModel for what a config.json of diffusers describes."""
    first, multiples = widths(folder, "unet")
    blocks = folder.setting("unet", "layers_per_block", 2)
    depths = per_level(folder, "transformer_layers_per_block", 1, len(multiples))
    crossed = attention_levels(folder, len(multiples))
    levels = [depth if cross else 0 for depth, cross in zip(depths, crossed, strict=True)]
    return {
        "image_size": 32,
        "in_channels": folder.setting("unet", "in_channels"),
        "out_channels": folder.setting("unet", "out_channels"),
        "model_channels": first,
        "num_res_blocks": [blocks] * len(multiples),
        "channel_mult": multiples,
        "transformer_depth": [depth for depth in levels for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in levels for _ in range(blocks + 1)],
        "transformer_depth_middle": depths[-1],
        "context_dim": folder.setting("unet", "cross_attention_dim"),
        **heads(folder, [first * n for n in multiples]),
        "use_spatial_transformer": True,
        "use_linear_in_transformer": folder.setting("unet", "use_linear_projection", False),
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "legacy": False,
    }


def attention_levels(folder: SceneFolder, levels: int) -> list[bool]:
    """Which levels attend to the text, from the first: the way up must be the way down."""
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    down = folder.setting("unet", "down_block_types")
    if not isinstance(down, list) or len(down) != levels or not set(down) <= kinds.keys():
        raise folder.refuse("unet", "down_block_types", f"{levels} of CrossAttnDownBlock2D and DownBlock2D")
    mirrored = [kind.replace("Down", "Up") for kind in reversed(down)]
    if folder.setting("unet", "up_block_types") != mirrored:
        raise folder.refuse("unet", "up_block_types", f"{mirrored}, the way down reversed")
    return [kinds[kind] for kind in down]


def heads(folder: SceneFolder, channels: Sequence[int]) -> dict[str, int]:
    """Either the same number of attention heads at all levels, or the same width of each."""
    name = "attention_head_dim"  # in spite of its name, diffusers takes it for their number
    counts = per_level(folder, name, 8, len(channels))
    if len(set(counts)) == 1 and not any(n % counts[0] for n in channels):
        return {"num_heads": counts[0], "num_head_channels": -1}
    sizes = {n / count for n, count in zip(channels, counts, strict=True)}
    if len(sizes) == 1 and (size := sizes.pop()).is_integer():
        return {"num_heads": -1, "num_head_channels": int(size)}
    raise folder.refuse("unet", name, "one number of heads, or heads of one width, that divide the channels")


def per_level(folder: SceneFolder, name: str, default: int, levels: int) -> list[int]:
    """A whole number for each level, where the config may hold one for all."""
    value = folder.setting("unet", name, default)
    values = [value] * levels if isinstance(value, int) else value
    if not isinstance(values, list) or len(values) != levels or not all(isinstance(n, int) and n > 0 for n in values):
        raise folder.refuse("unet", name, f"a whole number, or one for each of {levels} levels")
    return values
