"""A decoder's MoVQ on the device beside its UNet, so that pictures are decoded while others are sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
import torch

from ...hierdiff_core.kandinsky.decoder import unet_bytes_per_row
from ...hierdiff_core.kandinsky.decoding import LARGEST_MOVQ, decode, movq_bytes_per_row

if TYPE_CHECKING:
    from .models import LoadedModel


def load_beside(decoder: LoadedModel, width: int, height: int, rows: int) -> bool:
    """Bring a decoder's UNet and its MoVQ to the device, with room for both at work.

    Parameters
    ----------
    decoder : LoadedModel
    width, height : int
        Pixels.
    rows : int
        Branches that the UNet is called with.

    Returns
    -------
    bool
        Whether both are there. Where they do not fit, the UNet is: nothing may be moved while it samples.
    """
    f = decoder.pipeline.movq_scale_factor
    size = height // f, width // f
    pictures = LARGEST_MOVQ * movq_bytes_per_row(decoder.pipeline.movq, *size)
    required = rows * unet_bytes_per_row(decoder.pipeline.unet, *size) + pictures
    comfy.model_management.load_models_gpu(
        [decoder.patcher, decoder.vae.patcher], memory_required=required, force_full_load=True
    )
    if decoder.pipeline.movq.device == decoder.pipeline.unet.device:
        return True
    decoder.load(memory_required=required - pictures)
    return False


def decoded_beside(decoder: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
    """(M, H, W, 3) images in 0 ... 1 of (M, C, h, w) latents, by a MoVQ that is on the device."""
    return decode(decoder.pipeline, latents)
