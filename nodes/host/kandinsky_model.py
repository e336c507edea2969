"""Kandinsky 2.2's UNet as one of the host's models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from ...hierdiff_core.kandinsky.call_memory import unet_bytes_per_row
from .models import whole_patcher

# The host's names for diffusers' beta schedules: its "linear" is linear in the square root.
BETA_SCHEDULES = {"linear": "sqrt_linear", "scaled_linear": "linear", "squaredcos_cap_v2": "squaredcos_cap_v2"}


def conditioning(rows: torch.Tensor) -> list[Any]:
    """(N, D) embeddings as the host's conditioning: N sequences of one token."""
    return [[rows[:, None], {"pooled_output": rows}]]


def native_patcher(pipeline: Any, latent_rgb: torch.Tensor) -> Any:
    """A decoder pipeline's UNet as the host's MODEL, under its memory management.

    Parameters
    ----------
    pipeline : KandinskyV22Pipeline
    latent_rgb : (C + 1, 3) tensor
        From `fit_latent_rgb`, for the host's previews.
    """
    return whole_patcher(NativeKandinsky(pipeline, latent_rgb))


class NativeKandinsky(comfy.model_base.BaseModel):
    """What a MODEL holds: the UNet with its noise schedule, latent format and memory estimate."""

    def __init__(self, pipeline: Any, latent_rgb: torch.Tensor) -> None:
        super().__init__(model_config(pipeline, latent_rgb), comfy.model_base.ModelType.EPS)
        self.diffusion_model = NativeUNet(pipeline.unet)
        signal = pipeline.scheduler.alphas_cumprod
        self.model_sampling.set_sigmas(((1 - signal) / signal).sqrt())
        self.eval().requires_grad_(False)

    def memory_required(self, input_shape: Sequence[int], *args: Any, **kwargs: Any) -> float:
        rows, height, width = input_shape[0], *input_shape[-2:]
        return rows * unet_bytes_per_row(self.diffusion_model.unet, height, width) / 2  # that counts a pair as one

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        check_conditioning(kwargs, self.diffusion_model.unet.config.encoder_hid_dim)
        return super().extra_conds(**kwargs)


def check_conditioning(cond: Any, width: int) -> None:
    """Raise `ValueError` for a conditioning entry that this UNet cannot take.

    Parameters
    ----------
    cond : dict
        One entry, as the host hands it to `BaseModel.extra_conds`.
    width : int
        Of the image embeddings that the UNet takes.
    """
    if cond.get("control") is not None:
        raise ValueError(
            "Kandinsky 2.2 as MODEL does not support ControlNets: ComfyUI's are made for other UNets. "
            "Remove the Apply ControlNet node from its conditioning"
        )
    embeddings = cond.get("cross_attn")
    shape = None if embeddings is None else tuple(embeddings.shape)
    if shape is None or shape[1:] != (1, width):
        raise ValueError(
            f"Kandinsky 2.2 as MODEL needs its own positive and negative conditioning, of shape "
            f"(N, 1, {width}); got {shape or 'none'}. A text encoder's conditioning does not fit it"
        )


def model_config(pipeline: Any, latent_rgb: torch.Tensor) -> Any:
    """The configuration that the host reads off a MODEL."""
    unet, betas = pipeline.unet, pipeline.scheduler.config
    config = comfy.supported_models_base.BASE(
        {
            "disable_unet_model_creation": True,
            "in_channels": unet.config.in_channels,
            "model_channels": unet.config.block_out_channels[0],  # read by nodes that patch blocks, such as FreeU
            "dtype": unet.dtype,
        }
    )
    # not for NativeKandinsky, which sets its sigmas, but for nodes that make a new model_sampling from a config
    config.sampling_settings = {
        "beta_schedule": BETA_SCHEDULES.get(betas.beta_schedule, "linear"),
        "linear_start": betas.beta_start,
        "linear_end": betas.beta_end,
        "timesteps": betas.num_train_timesteps,
    }
    config.latent_format = latent_format(unet.config.in_channels, latent_rgb)
    return config


def latent_format(channels: int, latent_rgb: torch.Tensor) -> Any:
    """MoVQ's latents: not scaled, with colours for the host's previews."""
    latents = comfy.latent_formats.LatentFormat()
    latents.latent_channels = channels
    # ours map to 0 ... 1, the host's to -1 ... 1
    latents.latent_rgb_factors = (2 * latent_rgb[:-1]).tolist()
    latents.latent_rgb_factors_bias = (2 * latent_rgb[-1] - 1).tolist()
    return latents


class NativeUNet(torch.nn.Module):
    """The UNet of diffusers with the call that the host makes."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.ignored_patches = set()

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        context: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        options = transformer_options or {}
        self.warn_of_patches({*options.get("patches", {}), *options.get("patches_replace", {})})
        # nodes such as EasyCache wrap the network's call
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self.predict, self, wrappers)
        return executor.execute(x, t, context, control, options, **kwargs)

    def predict(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Noise prediction of (B, C, h, w) latents; the UNet's variance channels have no use in the host's samplers."""
        output = self.unet(x, t, encoder_hidden_states=None, added_cond_kwargs={"image_embeds": context[:, 0]})
        return output.sample[:, : x.shape[1]]

    def warn_of_patches(self, names: set[str]) -> None:
        """Say once that patches of the host's own attention and blocks have no place in this UNet."""
        new = names - self.ignored_patches
        if new:
            self.ignored_patches |= new
            logging.warning("Kandinsky 2.2 as MODEL ignores these patches of a UNet: %s", ", ".join(sorted(new)))
