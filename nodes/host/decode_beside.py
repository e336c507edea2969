"""A decoder's MoVQ on the device beside its UNet, so that pictures are decoded while others are sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import comfy.model_management
import torch

from ...hierdiff_core.devices import SideStream, free_memory
from ...hierdiff_core.kandinsky.acceleration import ACCELERATIONS
from ...hierdiff_core.kandinsky.decoding import LARGEST_MOVQ, decode, movq_bytes_per_row, pictures_beside
from .vae import bytes_of_calls

if TYPE_CHECKING:
    from .models import LoadedModel

TINY = 8  # pixels of a latent


class Beside(NamedTuple):
    """Whether pictures are decoded during a run, and how.

    Attributes
    ----------
    fits : bool
        MoVQ is on the device beside the UNet; where it is not, nothing may be moved while the UNet samples.
    pictures : int
        Of a call of MoVQ while the UNet is at work; 0: the two take turns.
    """

    fits: bool
    pictures: int = 0


def load_beside(
    decoder: LoadedModel, width: int, height: int, rows: int, acceleration: str = ACCELERATIONS[0]
) -> Beside:
    """Bring a decoder's UNet and its MoVQ to the device, with room for both at work where there is so much.

    Parameters
    ----------
    decoder : LoadedModel
    width, height : int
        Pixels.
    rows : int
        Branches that the UNet is called with.
    acceleration : str
        Of these calls.
    """
    pipeline, f = decoder.pipeline, decoder.pipeline.movq_scale_factor
    taken = bytes_of_calls(decoder, width, height, rows, acceleration)
    picture = movq_bytes_per_row(pipeline.movq, height // f, width // f)
    required = taken + LARGEST_MOVQ * picture
    comfy.model_management.load_models_gpu(
        [decoder.patcher, decoder.vae.patcher], memory_required=required, force_full_load=True
    )
    device = pipeline.unet.device
    if pipeline.movq.device != device:
        decoder.load(memory_required=taken)
        return Beside(False)
    if device.type != "cuda":
        return Beside(True)
    return Beside(True, pictures_beside(free_memory(device), taken, picture))


def decoded_beside(decoder: LoadedModel, latents: torch.Tensor, pictures: int = 0) -> torch.Tensor:
    """(M, H, W, 3) images in 0 ... 1 of (M, C, h, w) latents, by a MoVQ that is on the device; 0: as many as fit."""
    return decode(decoder.pipeline, latents, pictures)


def side_stream(decoder: LoadedModel, beside: Beside) -> SideStream | None:
    """Where pictures are decoded while others are sampled; None where the two take turns."""
    if not beside.pictures:
        return None
    movq = decoder.pipeline.movq
    decoded_beside(decoder, torch.zeros(1, movq.config.latent_channels, TINY, TINY))  # sets up what a first call does
    return SideStream(movq.device, "HierDiff decoder")
