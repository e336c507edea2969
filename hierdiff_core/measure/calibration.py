"""The sensitivity of whatever draws a plan: a Kandinsky decoder, or a model of a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

    from ..plan.plan import Plan
    from ..plan.sensitivity import Sensitivity
    from .probe import Probe

# draw(plan, leaves) -> latents
Draw: TypeAlias = "Callable[[Plan, np.ndarray], torch.Tensor]"


def calibrate_with(draw: Draw, probe: Probe, **settings: Any) -> Sensitivity:
    """Measure the sensitivity of a model by drawing a probe's plan once.

    Parameters
    ----------
    draw : callable
        ``draw(plan, leaves) -> latents``: draws a plan for L prompts, of which leaf i is prompt ``leaves[i]`` of those
        that the probe was made from, and gives the (L, ...) final latents. All branches must have the same noise.
    probe : Probe
        Which prompts share how many steps; ``probe.plan.nfe`` is the cost in rows of the model.
    **settings
        What the result is for (scheduler, guidance, seed), kept with it.

    Returns
    -------
    Sensitivity
        Of the model that has drawn.

    Raises
    ------
    ValueError
        If the latents are not finite, or sharing changed none of them.

    Examples
    --------
    A model that adds a tenth of the embedding in each step. Late errors are mended by no later step:

    >>> import torch
    >>> from hierdiff_core.measure.probe import Probe
    >>> from hierdiff_core.sampling.loop import denoise_plan
    >>> from hierdiff_core.sampling.state import State
    >>> prompts = torch.eye(3)
    >>> def step(rows, k, clusters, means, state):
    ...     return rows + 0.1 * means[0], state
    >>> def draw(plan, leaves):
    ...     embeddings = torch.stack([prompts[leaves], prompts[leaves]])
    ...     return denoise_plan(plan, torch.zeros(1, 3), State(), step, embeddings)
    >>> measured = calibrate_with(draw, Probe(prompts, 4, samples=3, resolution=4))
    >>> measured.shared_steps.tolist(), (1000 * measured.change).round(1).tolist()
    ([1, 2, 3, 4], [3.3, 13.3, 30.0, 53.3])
    """
    return probe.sensitivity(draw(probe.plan, probe.rows), **settings)
