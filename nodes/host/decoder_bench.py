"""A Kandinsky decoder of the host as the advisor asks it: its networks come to the device when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...hierdiff_core.kandinsky.decoder import sample
from ...hierdiff_core.kandinsky.workbench import DecoderWorkbench
from ...hierdiff_core.measure.workbench import Drawn
from ...hierdiff_core.sampling.microbatch import LARGEST_AUTO
from .device import stop_if_cancelled
from .vae import load_unet

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ...hierdiff_core.embeddings import PromptEmbeddings
    from ...hierdiff_core.measure.ways import Way
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.plan.tree import PromptTree
    from .models import LoadedModel


class HostDecoderWorkbench(DecoderWorkbench):
    """`DecoderWorkbench` under the host's memory management: UNet and MoVQ may take turns on the device.

    Parameters
    ----------
    loaded : LoadedModel
        A decoder.
    embeddings : PromptEmbeddings
        Of the whole set.
    tree : PromptTree
        Of the whole set.
    num_steps : int
        Of full sampling.
    **settings
        As in `DecoderWorkbench`.
    """

    def __init__(
        self, loaded: LoadedModel, embeddings: PromptEmbeddings, tree: PromptTree, num_steps: int, **settings: Any
    ):
        super().__init__(loaded.pipeline, embeddings, tree, num_steps, before_call=stop_if_cancelled, **settings)
        self.loaded = loaded

    def draw(self, way: Way, plan: Plan, repeat: int = 0) -> Drawn:
        """The sampled prompts, decoded by the host's VAE."""
        self._load()
        settings = {**self.sampler, **self.size, **self.options, "before_call": self.before_call}
        latents = sample(self.decoder, self.embeddings, plan, seed=(self.seed + repeat) % 2**64, **settings).cpu()
        return Drawn(latents, self.loaded.vae.decode(latents).float().cpu())

    def adherence(self, latents: torch.Tensor) -> np.ndarray:
        """How much each finished latent owes to its prompt: (S,) float64."""
        self._load()
        return super().adherence(latents)

    def _load(self) -> None:
        rows = min(LARGEST_AUTO, self.tree.num_prompts)
        load_unet(self.loaded, self.size["width"], self.size["height"], rows)
