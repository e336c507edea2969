"""Kandinsky 2.2 as MODEL: the decoder's UNet behind the host's own samplers and guiders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..hierdiff_core.embeddings import check_image_embeddings
from . import types
from .host.cond_rows import PROMPTS
from .host.decoration import Decorations
from .host.kandinsky_model import conditioning
from .host.search import search_words

if TYPE_CHECKING:
    from ..hierdiff_core.embeddings import PromptEmbeddings
    from .host.models import LoadedModel


class KandinskyModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffKandinskyModel",
            display_name="Kandinsky 2.2 as MODEL",
            category="HierDiff",
            **search_words("kandinsky", "kandinsky to model"),
            description="Lets ComfyUI's own samplers and guiders use the decoder, with the embeddings as conditioning.",
            inputs=[
                types.Decoder.Input("decoder", tooltip="From Load Kandinsky 2.2 Decoder."),
                types.Embeddings.Input("embeddings", tooltip="From Prior Embedding, for N prompts."),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For KSampler, CFGGuider and so on. It shares its weights with the decoder.",
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="One row per prompt: row i steers image i of a latent batch of N.",
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The negative embeddings, in the order of the prompts."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, decoder: LoadedModel, embeddings: PromptEmbeddings) -> io.NodeOutput:
        check_image_embeddings(embeddings, decoder.pipeline.unet.config.encoder_hid_dim)
        count = len(embeddings)
        lines = [f"{count} prompts: sample a batch of {count} latents, or one with shared steps"]
        if decoder.suitable:
            lines.append(f"{decoder.name}: " + ", ".join(f"{k} {v:g}" for k, (_, v, _) in decoder.suitable.items()))
        positive, negative = conditioning(embeddings.positive), conditioning(embeddings.negative)
        positive[0][1][PROMPTS] = embeddings.prompts
        return io.NodeOutput(decoder.patcher.clone(), positive, negative, ui=Decorations().show(cls, "\n".join(lines)))
