"""The sensitivity of a Kandinsky decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..measure.calibration import calibrate_with
from ..measure.probe import Probe
from ..sampling.noise import common_noise
from .decoder import sample

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan
    from ..plan.sensitivity import Sensitivity


def calibrate(
    decoder: KandinskyV22Pipeline,
    embeddings: PromptEmbeddings,
    num_steps: int = 40,
    *,
    seed: int = 0,
    guidance: float = 4.0,
    scheduler: str = "DDPM",
    samples: int = 8,
    resolution: int = 12,
    **options: Any,
) -> Sensitivity:
    """Measure the sensitivity of a Kandinsky decoder.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Prompts like those that will be drawn; two or more.
    num_steps : int
        As in `sample`; the result is for this number of steps, and a guess for others.
    seed : int
        Of the noise, and of the choice of prompts.
    guidance : float
        As in `sample`.
    scheduler : str
        As in `sample`; the result is for this scheduler.
    samples, resolution : int
        See `Probe`; ``Probe(...).plan.nfe`` is the cost in UNet rows.
    **options
        Of `sample`: `width`, `height`, `micro_batch`, `observer`, `on_step`, `before_call`.

    Returns
    -------
    Sensitivity
        What sharing steps changes.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import PromptEmbeddings, calibrate, load_decoder
    >>> decoder = load_decoder()
    >>> rows = torch.eye(2, decoder.unet.config.encoder_hid_dim)
    >>> embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), ["a cat", "a dog"])
    >>> calibrate(decoder, embeddings, 2, samples=2, resolution=2, width=64, height=64).shared_steps.tolist()
    [1, 2]
    """
    probe = Probe(embeddings.positive, num_steps, samples, resolution, seed)
    return run_probe(probe, decoder, embeddings, seed, guidance, scheduler, **options)


def run_probe(
    probe: Probe,
    decoder: KandinskyV22Pipeline,
    embeddings: PromptEmbeddings,
    seed: int,
    guidance: float,
    scheduler: str,
    **options: Any,
) -> Sensitivity:
    """Draw a probe's plan with a Kandinsky decoder, all of its branches with the same noise; as in `calibrate`."""

    def draw(plan: Plan, leaves: np.ndarray) -> torch.Tensor:
        settings = {"seed": seed, "guidance": guidance, "scheduler": scheduler, "noise": common_noise(seed)}
        return sample(decoder, probe.leaves(embeddings), plan, **settings, **options)

    return calibrate_with(draw, probe, scheduler=scheduler, guidance=guidance, seed=seed)
