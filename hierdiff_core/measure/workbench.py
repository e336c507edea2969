"""What a model gives to those who measure it: the one seam between the advisor and Kandinsky, or a host's MODEL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..plan.plan import Plan
    from ..plan.tree import PromptTree
    from .ways import Way


@dataclass(frozen=True, eq=False)
class Drawn:
    """What came out of one way of drawing the sampled prompts.

    Attributes
    ----------
    latents : (S, ...) tensor
        Finished latents, in the order of the prompts.
    pictures : (S, H, W, 3) tensor, or None
        Decoded, in 0 ... 1; None where nothing decodes them: detail is not measured then.
    passes : float, or None
        Evaluations of rows of the network that were made; None: those of the plan. A step cache makes fewer.
    """

    latents: torch.Tensor
    pictures: torch.Tensor | None = None
    passes: float | None = None


class Workbench(Protocol):
    """A model, its settings, and a few of the user's prompts, ready to be drawn in many ways.

    Whatever it raises stops the measurement, which keeps what is done: the place to cancel.

    Attributes
    ----------
    tree : PromptTree
        Of the S sampled prompts alone (see `sampled_prompts`): clustered again from their embeddings, in the metric of
        the whole set's tree.
    steps : int
        Of full sampling, K.
    guided : bool
        Whether there is an unconditional pass. Without one, guidance is neither cut nor raised.
    caches : tuple of str
        Names of step caches that `Way.cache` may take; often none.
    fingerprint : str
        Of the weights.
    settings : mapping
        What else the result holds for: short texts and numbers, such as sampler, scheduler, steps, cfg, width, height.
    adherence_passes : int
        Passes for each picture that `adherence` takes.
    """

    tree: PromptTree
    steps: int
    guided: bool
    caches: Sequence[str]
    fingerprint: str
    settings: Mapping[str, Any]
    adherence_passes: int

    def levels(self, steps: int) -> np.ndarray:
        """Noise levels that the steps of a run begin at.

        Parameters
        ----------
        steps : int
            Of the run.

        Returns
        -------
        levels : (steps,) float64
            Shares of noise in the latents, 0 ... 1, falling.
        """
        ...

    def draw(self, way: Way, plan: Plan, repeat: int = 0) -> Drawn:
        """Draw the sampled prompts.

        Parameters
        ----------
        way : Way
            Its `cache` is the workbench's to switch on; all else is in the plan.
        plan : Plan
            Of the sampled prompts, `way.plan(tree)`: its steps, clusters and `plan.guidance`.
        repeat : int
            Which noise: 0 the user's seed, 1 the one after it, and so on. Ways with the same noise are compared.

        Returns
        -------
        drawn : Drawn
        """
        ...

    def adherence(self, latents: torch.Tensor) -> np.ndarray:
        """How much each finished latent owes to its prompt, see `measure.adherence`.

        Parameters
        ----------
        latents : (S, ...) tensor
            As `draw` gives them.

        Returns
        -------
        adherence : (S,) float64
        """
        ...
