"""A Kandinsky decoder as the advisor asks it: `measure.workbench.Workbench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..embeddings import PromptEmbeddings
from ..measure.adherence import adherence, adherence_passes
from ..measure.sampled import sampled_prompts, sampled_tree
from ..measure.workbench import Drawn
from ..plan.tree import PromptTree
from .adherence import DecoderDenoiser
from .decoder import sample
from .decoding import decode
from .fingerprint import decoder_fingerprint
from .schedulers import make_scheduler, noise_levels

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..measure.ways import Way
    from ..plan.plan import Plan


class DecoderWorkbench:
    """A decoder, its settings and a few prompts of a set.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Of the whole set.
    tree : PromptTree
        Of the whole set.
    num_steps : int
        Of full sampling.
    samples : int
        Prompts that are drawn, see `sampled_prompts`.
    seed : int
        Of the noise, and of the choice of prompts.
    guidance : float
        As in `sample`.
    scheduler : str
        As in `sample`.
    width, height : int
        As in `sample`.
    fingerprint : str, optional
        Of the decoder's weights; `decoder_fingerprint` when empty.
    before_call : callable, optional
        Called before each call of a network; may raise to stop.
    **options
        Of `sample`: `micro_batch`, `acceleration`, `rescale_means`.

    Raises
    ------
    ValueError
        If the inputs do not fit each other, or there is nothing to sample from.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import PromptEmbeddings, PromptTree, load_decoder
    >>> from hierdiff_core.kandinsky.workbench import DecoderWorkbench
    >>> decoder = load_decoder()
    >>> rows = torch.eye(4, decoder.unet.config.encoder_hid_dim)
    >>> embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), ["a cat", "a dog", "a bus", "a car"])
    >>> bench = DecoderWorkbench(decoder, embeddings, PromptTree.of(rows, "chord", embeddings.prompts), 4)
    >>> bench.tree.num_prompts, len(bench.levels(4)), bench.settings["scheduler"]
    (4, 4, 'DDPM')
    """

    def __init__(
        self,
        decoder: KandinskyV22Pipeline,
        embeddings: PromptEmbeddings,
        tree: PromptTree,
        num_steps: int = 40,
        *,
        samples: int = 8,
        seed: int = 0,
        guidance: float = 4.0,
        scheduler: str = "DDPM",
        width: int = 512,
        height: int = 512,
        fingerprint: str = "",
        before_call: Callable[[], Any] | None = None,
        **options: Any,
    ):
        self.rows = sampled_prompts(tree, samples, seed)
        self.tree = sampled_tree(tree, self.rows)
        self.embeddings = chosen_embeddings(embeddings, self.rows)
        self.decoder, self.steps, self.seed = decoder, num_steps, seed
        self.before_call, self.options = before_call, options
        self.size = {"width": width, "height": height}
        self.sampler = {"scheduler": scheduler, "guidance": guidance}
        self.settings: Mapping[str, Any] = {**self.sampler, "steps": num_steps, **self.size}
        self.guided = guidance > 1
        self.caches: Sequence[str] = ()
        self.fingerprint = fingerprint or decoder_fingerprint(decoder)
        self.adherence_passes = adherence_passes(1)
        self.denoiser = DecoderDenoiser(decoder, self.embeddings, options.get("micro_batch", 0), before_call)
        self.levels(num_steps)  # a scheduler that cannot make them is refused before anything is drawn

    def levels(self, steps: int) -> np.ndarray:
        """Noise levels that the steps of a run begin at: (steps,) float64, falling."""
        return noise_levels(make_scheduler(self.sampler["scheduler"], self.decoder.scheduler.config, steps))

    def draw(self, way: Way, plan: Plan, repeat: int = 0) -> Drawn:
        """The sampled prompts, by `sample`; their seed is the user's and `repeat`.

        Parameters
        ----------
        way : Way
            Not asked: there is no step cache.
        plan : Plan
            Of the sampled prompts.
        repeat : int
            Which noise.

        Returns
        -------
        drawn : Drawn
            With pictures.
        """
        seed = (self.seed + repeat) % 2**64
        settings = {**self.sampler, **self.size, **self.options, "before_call": self.before_call}
        latents = sample(self.decoder, self.embeddings, plan, seed=seed, **settings)
        return Drawn(latents.cpu(), decode(self.decoder, latents, before_call=self.before_call))

    def adherence(self, latents: torch.Tensor) -> np.ndarray:
        """How much each finished latent owes to its prompt: (S,) float64."""
        return adherence(latents, self.denoiser.noised, self.denoiser.denoised, seed=self.seed % 2**32)


def chosen_embeddings(embeddings: PromptEmbeddings, rows: np.ndarray) -> PromptEmbeddings:
    """The embeddings of some prompts.

    Parameters
    ----------
    embeddings : PromptEmbeddings
        Of the whole set.
    rows : (S,) int64
        Prompts.

    Returns
    -------
    embeddings : PromptEmbeddings
        In the order of `rows`.
    """
    prompts = [str(embeddings.prompts[int(row)]) for row in rows]
    return PromptEmbeddings(embeddings.positive[rows], embeddings.negative[rows], prompts, embeddings.kind)
