"""MoVQ behind the host's own VAE nodes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import torch

from ...hierdiff_core.kandinsky.acceleration import ACCELERATIONS, movq_pixels, way_on
from ...hierdiff_core.kandinsky.call_memory import unet_bytes
from ...hierdiff_core.kandinsky.decoding import LARGEST_MOVQ, movq_bytes_per_row
from ...hierdiff_core.sampling.microbatch import MicroBatches
from .device import main_device
from .known_embeddings import Known
from .models import make_patcher

if TYPE_CHECKING:
    from .models import LoadedModel


def load_unet(decoder: LoadedModel, width: int, height: int, rows: int, acceleration: str = ACCELERATIONS[0]) -> None:
    """Bring a decoder's UNet to the device, with room for calls of `rows` branches of this size in pixels."""
    decoder.load(memory_required=bytes_of_calls(decoder, width, height, rows, acceleration))


def bytes_of_calls(decoder: LoadedModel, width: int, height: int, rows: int, acceleration: str) -> int:
    """What a decoder's UNet takes on the device, beside its weights, for such calls."""
    unet, f = decoder.pipeline.unet, decoder.pipeline.movq_scale_factor
    return unet_bytes(unet, rows, height // f, width // f, way_on(unet, acceleration, main_device()))


class MoVQ(torch.nn.Module):
    """The VQModel of diffusers with the encode and decode that the host's VAE calls."""

    def __init__(self, movq: Any) -> None:
        super().__init__()
        self.movq = movq

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.movq.encode(pixels, return_dict=False)[0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        # one at a time on a CPU, where a picture must be bit-identical whatever the others are; where memory runs out
        # fewer, since the host would go over to tiles, whose pictures are others
        batches = MicroBatches(1 if latents.device.type == "cpu" else LARGEST_MOVQ)
        return batches.map(lambda z: movq_pixels(self.movq, latents[z]), len(latents))


class KandinskyVAE(comfy.sd.VAE):
    """The host's VAE, which decodes no latent again whose picture was saved while others were sampled.

    Attributes
    ----------
    saved : Known
        (H, W, 3) float32 images by `latent_key`, as many as its memory holds; each is given once.
    """

    saved: Known

    def decode(self, samples_in: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, H, W, 3) images of (B, C, h, w) latents."""
        if args or kwargs or not self.saved.held:
            return super().decode(samples_in, *args, **kwargs)
        return self._images(samples_in, self.saved.take)

    def shown(self, samples: torch.Tensor) -> torch.Tensor:
        """The same images, which `decode` gives once more."""
        return self._images(samples, self.saved.get)

    def _images(self, samples, find):
        known = [find(latent_key(row)) for row in samples.cpu()]
        new = [row for row, image in enumerate(known) if image is None]
        if len(new) == len(known):
            return super().decode(samples)
        made = iter(super().decode(samples[new]) if new else ())
        return torch.stack([(next(made) if image is None else image).to(self.output_device) for image in known])


def latent_key(latent: torch.Tensor) -> bytes:
    """What tells a picture from all others: its latent, number for number."""
    data = latent.detach().float().cpu().contiguous().numpy()
    return hashlib.blake2b(repr(data.shape).encode() + data.tobytes(), digest_size=16).digest()


def movq_vae(movq: Any) -> Any:
    """The host's VAE around a MoVQ.

    The host builds a VAE from weights that it knows. It gets a tiny one of its own, which is then replaced: every
    attribute that the VAE class has in this and later versions is there, and its decode, tiling and batching work.
    """
    channels = movq.config.latent_channels
    stand_in = comfy.taesd.taesd.TAESD(latent_channels=channels).state_dict()
    vae = KandinskyVAE(sd=stand_in, dtype=movq.dtype)
    vae.saved = Known()
    factor = 2 ** (len(movq.config.block_out_channels) - 1)
    vae.first_stage_model = MoVQ(movq).eval().requires_grad_(False)
    vae.patcher = make_patcher(vae.first_stage_model)
    vae.device = vae.patcher.load_device
    vae.downscale_ratio = vae.upscale_ratio = factor
    vae.latent_channels, vae.output_channels = channels, 3
    vae.disable_offload = True  # diffusers layers cannot run while half of them are on another device
    vae.size = None
    bytes_per_latent = movq_bytes_per_row(movq, 1, 1)
    vae.memory_used_decode = lambda shape, dtype: shape[-2] * shape[-1] * bytes_per_latent
    vae.memory_used_encode = lambda shape, dtype: shape[-2] * shape[-1] * bytes_per_latent / factor**2
    return vae
