"""Load Kandinsky 2.2 Decoder: the UNet, and MoVQ behind the host's own VAE nodes."""

import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import torch
from comfy_api.latest import io

from ..hierdiff_core.kandinsky.decoding import movq_bytes_per_row
from ..hierdiff_core.kandinsky.kandinsky import unet_bytes_per_row
from ..hierdiff_core.kandinsky.loading import load_decoder
from ..hierdiff_core.kandinsky.model_folder import DECODER_CLASS, suitable_settings
from ..hierdiff_core.previews import colour_patches, fit_latent_rgb
from . import types
from .host.models import (
    PRECISIONS,
    LoadedModel,
    choose_dtype,
    make_patcher,
    model_folder,
    model_names,
    size_on_disk,
    validate_model,
)
from .host.search import found_as
from .host.ui import telling
from .native_model import native_patcher


class DecoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffDecoderLoader",
            display_name="Load Kandinsky 2.2 Decoder",
            category="HierDiff",
            **found_as("kandinsky", "movq", "load unet"),
            description="Loads the UNet (embeddings to latents) and MoVQ (latents to pictures).",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_names(DECODER_CLASS),
                    tooltip="The small bundled model, or a folder in diffusers layout under models/diffusers. "
                    "It must belong to the prior.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip="Precision of the weights. auto: what ComfyUI takes on this device (fp32 on a CPU).",
                ),
            ],
            outputs=[
                types.Decoder.Output(display_name="decoder", tooltip="For Hierarchical Branching Sampler."),
                io.Vae.Output(display_name="vae", tooltip="MoVQ, for VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model):
        return validate_model(model, DECODER_CLASS)

    @classmethod
    def execute(cls, model, precision):
        folder = model_folder(model, DECODER_CLASS)
        with telling(cls, f"Loading the decoder from disk, {size_on_disk(folder)} …"):
            pipeline = load_decoder(folder, choose_dtype(precision))
        vae = movq_vae(pipeline.movq)
        patches = colour_patches()
        latent_rgb = fit_latent_rgb(patches, vae.encode(patches))
        settings = suitable_settings(folder)
        # the patcher of a MODEL from the start: were there two, the host would count the same weights twice
        decoder = LoadedModel(pipeline, native_patcher(pipeline, latent_rgb), model, settings, vae, latent_rgb)
        return io.NodeOutput(decoder, vae)


def load_unet(decoder, width, height, rows):
    """Bring a decoder's UNet to the device, with room for `rows` branches of this size in pixels."""
    f = decoder.pipeline.movq_scale_factor
    decoder.load(memory_required=rows * unet_bytes_per_row(decoder.pipeline.unet, height // f, width // f))


class MoVQ(torch.nn.Module):
    """diffusers' VQModel with the encode and decode that the host's VAE calls."""

    def __init__(self, movq):
        super().__init__()
        self.movq = movq

    def encode(self, pixels):
        return self.movq.encode(pixels, return_dict=False)[0]

    def decode(self, latents):
        # one at a time on a CPU, where a picture must not depend on the others to the bit
        batches = latents.split(1) if latents.device.type == "cpu" else (latents,)
        return torch.cat([self.movq.decode(z, force_not_quantize=True, return_dict=False)[0] for z in batches])


def movq_vae(movq):
    """The host's VAE around a MoVQ.

    The host builds a VAE from weights that it knows. It gets a tiny one of its own, which is then replaced: every
    attribute that the VAE class has in this and later versions is there, and its decode, tiling and batching work.
    """
    channels = movq.config.latent_channels
    stand_in = comfy.taesd.taesd.TAESD(latent_channels=channels).state_dict()
    vae = comfy.sd.VAE(sd=stand_in, dtype=movq.dtype)
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
