"""How much of the prompt is in a finished picture, judged by the model that drew it: no other network is asked.

Legend: N pictures, L noise levels. A noise level is the share of noise in the latent, 0 ... 1: sigma of a flow model,
sigma / (1 + sigma) of others, which is the same signal-to-noise ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from ..sampling.noise import keyed_generator

if TYPE_CHECKING:
    import torch

# Below, the share tells how finely a picture is drawn rather than what is in it (docs/measurements/advice.md).
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ERROR = 1e-9  # of the latents' mean square: less is rounding, and no share of it says anything

# noised(latents, noise, level) -> noised latents
Noiser: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]"
# denoised(noised, level) -> (with the prompt, without it), clean latents both
DenoiseBoth: TypeAlias = "Callable[[torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]"


class Denoiser(Protocol):
    """A model with the prompts of N pictures, as `adherence` asks it: row i is of prompt i."""

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
        """The finished latents with noise up to a level."""
        ...

    def denoised(self, noised: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean latents that the model expects behind them, with the prompts and without, unguided both."""
        ...


def adherence(
    latents: torch.Tensor,
    noiser: Noiser,
    denoise: DenoiseBoth,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> np.ndarray:
    """The share by which the prompt lowers the model's own error of denoising each picture.

    Parameters
    ----------
    latents : (N, ...) tensor
        Finished latents, as a sampler hands them on.
    noiser : callable
        ``noiser(latents, noise, level)``: a `Denoiser`'s `noised`.
    denoise : callable
        ``denoise(noised, level) -> (with, without)``: its `denoised`.
    levels : L float in 0 ... 1
        Noise levels; of each a share is measured, and their mean is taken.
    seed : int
        Of the noise: all pictures of a level get the same, so that drawings of the same prompts can be compared.

    Returns
    -------
    shares : (N,) float64
        1: with the prompt the model knows the picture, without it nothing; 0: the prompt tells it nothing; -1: the
        picture is what the model expects without the prompt, and the prompt says something else.

    Raises
    ------
    ValueError
        If there is no level, one is not between 0 and 1, or latents or predictions are not finite.

    Notes
    -----
    The scale is the model's own: compare with full sampling of the same prompts (`relative_loss`). Where the prompt
    raises the error, the share is of the larger error, and negative: a ratio of errors has no lower bound, and a single
    picture that went wrong would outweigh all others. It costs `adherence_passes` evaluations of a row.

    Without a prompt is what the model's own guidance takes: the negative conditioning. A model that is used without
    guidance (cfg 1) is asked with the negative that stands beside its prompts all the same, empty as a rule; where that
    says the same as the prompts, there is nothing to measure.

    Examples
    --------
    A model that knows three pictures by their prompts, and without a prompt expects their mean:

    >>> import torch
    >>> from hierdiff_core.measure.adherence import adherence
    >>> known = torch.tensor([[3.0], [0.0], [-3.0]])
    >>> def denoised(noised, level):
    ...     return known, known.mean(dim=0).expand_as(known)
    >>> def noised(latents, noise, level):
    ...     return (1 - level) * latents + level * noise
    >>> adherence(torch.tensor([[3.0], [1.0], [-1.0]]), noised, denoised).tolist()
    [1.0, 0.0, -0.75]
    """
    check_levels(levels)
    size = latents.double().square().flatten(1).mean(dim=1).mean().item()
    if not np.isfinite(size):
        raise ValueError("the final latents hold NaN or infinity; load the model in fp32 or bf16")
    shares = []
    for place, level in enumerate(levels):
        noise = common_noise_of(latents, seed, place)
        errors = (squared_errors(found, latents) for found in denoise(noiser(latents, noise, float(level)), level))
        shares.append(share_of(*errors, floor=SMALLEST_ERROR * size))
    return np.mean(shares, axis=0)


def adherence_passes(num_pictures: int, levels: Sequence[float] = LEVELS) -> int:
    """Evaluations of a row of the network that `adherence` takes: with and without the prompt at each level."""
    return 2 * num_pictures * len(levels)


def check_levels(levels: Sequence[float]) -> None:
    """Raise `ValueError` unless there are noise levels, all between 0 and 1."""
    if not len(levels) or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels must be shares of noise between 0 and 1, one at least; got {list(levels)[:8]}")


def common_noise_of(latents: torch.Tensor, seed: int, place: int) -> torch.Tensor:
    """(N, ...) the same noise for each picture: a function of the seed and the level's place alone."""
    import torch

    row = torch.randn(latents.shape[1:], generator=keyed_generator(seed, 0, place), dtype=torch.float32)
    return row.to(latents.device).expand_as(latents)


def squared_errors(found: torch.Tensor, latents: torch.Tensor) -> np.ndarray:
    """(N,) float64 mean squares of what a prediction differs by."""
    difference = found.to(latents.device).double() - latents.double()
    errors = difference.square().flatten(1).mean(dim=1).cpu().numpy()
    if not np.isfinite(errors).all():
        raise ValueError("the model predicts NaN or infinity for noised pictures; load it in fp32 or bf16")
    return errors


def share_of(with_prompt: np.ndarray, without: np.ndarray, floor: float) -> np.ndarray:
    """(N,) in -1 ... 1: what the prompt takes off the error, of the larger of the two errors."""
    larger = np.maximum(with_prompt, without)
    return np.divide(without - with_prompt, larger, out=np.zeros_like(larger), where=larger > floor)
