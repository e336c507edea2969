"""Load Kandinsky 2.2 Decoder: the UNet, and MoVQ behind the host's own VAE nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..hierdiff_core.kandinsky.loading import load_decoder
from ..hierdiff_core.kandinsky.model_folder import DECODER_CLASS, suitable_settings
from ..hierdiff_core.previews import colour_patches, fit_latent_rgb
from . import types
from .host.kandinsky_model import native_patcher
from .host.models import (
    PRECISIONS,
    LoadedModel,
    choose_dtype,
    model_folder,
    model_names,
    size_on_disk,
    validate_model,
)
from .host.search import search_words
from .host.ui import telling
from .host.vae import movq_vae


class DecoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffDecoderLoader",
            display_name="Load Kandinsky 2.2 Decoder",
            category="HierDiff",
            **search_words("kandinsky", "movq", "load unet"),
            description="Loads the UNet (embeddings to latents) and MoVQ (latents to images).",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_names(DECODER_CLASS),
                    tooltip="The small bundled model, or a folder in diffusers format under models/diffusers. "
                    "It must match the prior.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip="Precision of the weights. auto: ComfyUI's choice for this device (fp32 on a CPU).",
                ),
            ],
            outputs=[
                types.Decoder.Output(
                    display_name="decoder",
                    tooltip="For Hierarchical Branching Sampler, Kandinsky 2.2 as MODEL and Calibrate Schedule.",
                ),
                io.Vae.Output(display_name="vae", tooltip="MoVQ, for VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return validate_model(model, DECODER_CLASS)

    @classmethod
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
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
