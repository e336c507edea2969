"""What fewer steps take from pictures that no prompt speaks of: fine detail and clean surfaces; and how far they moved.

Legend: N pictures, B scales, Q parts of a distribution.
"""

from __future__ import annotations

import numpy as np
import torch

SCALES = 3  # details of about 2, 4 and 8 pixels
PARTS = 16
MOST_VALUES = 2**18  # of a scale and picture that are sorted: more do not change the result
BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
FAINTEST = 1e-3  # mean contrast of a scale, a quarter of a level of 255: of less, a share says nothing


def detail_loss(pictures: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """How far the fine contrasts of pictures are from those of full sampling, wherever in the picture they are.

    Parameters
    ----------
    pictures : (N, H, W, C) float tensor
        In 0 ... 1.
    reference : (N, H, W, C) float tensor
        Full sampling of the same prompts.

    Returns
    -------
    losses : (N,) float64
        Their mean is the loss: 0 the same contrasts, 1 as far from them as pictures without any. Single values may be
        negative: such a picture is nearer to full sampling than the others are.

    Raises
    ------
    ValueError
        If the shapes differ, or the pictures are too small.

    Notes
    -----
    At each scale the absolute contrasts (a picture less a blurred copy) are sorted, so that only how many there are of
    each size matters, not where: a shifted, mirrored or newly laid out picture has the same. Blur takes strong ones
    away, noise that was left makes weak ones stronger: a power spectrum, which edges rule, shows the second less than
    a new layout. Means over all pictures are compared (distance of Wasserstein, relative to the mean contrast of the
    reference), since two good pictures of one prompt differ too, but not all in the same direction. Chance alone gives
    a mean a little above 0, about its standard error.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core.measure.detail import detail_loss
    >>> reference = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    >>> [float(detail_loss(pictures, reference).mean().round(6)) for pictures in (reference.flip(2), reference / 2)]
    [0.0, 0.5]
    """
    check_same_shape(pictures, reference)
    losses = []
    for mine, theirs in zip(contrasts(pictures), contrasts(reference), strict=True):
        off = mine - theirs  # (N, Q)
        losses.append((off * np.sign(off.mean(axis=0))).mean(axis=1) / max(theirs.mean(), FAINTEST))
    return np.mean(losses, axis=0)


def contrasts(pictures: torch.Tensor) -> list[np.ndarray]:
    """For each scale (N, Q) float64: mean absolute contrast of each of Q equal parts of the pixels, rising."""
    pixels = pictures.detach().float().movedim(-1, 1)
    found = []
    for _ in range(SCALES):
        if min(pixels.shape[2:]) < 2 * len(BLUR):
            break
        soft = blurred(pixels)
        found.append(parts_of((pixels - soft).abs().flatten(1)))
        pixels = torch.nn.functional.avg_pool2d(soft, 2)
    if not found:
        raise ValueError(f"pictures must be at least {2 * len(BLUR)} pixels wide and high; got {tuple(pictures.shape)}")
    return found


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) after a binomial filter of five pixels, with the borders mirrored."""
    kernel = pixels.new_tensor(BLUR)
    width = len(BLUR) // 2
    channels = pixels.shape[1]
    for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
        pad = (width, width, 0, 0) if shape[3] == -1 else (0, 0, width, width)
        padded = torch.nn.functional.pad(pixels, pad, mode="reflect")
        weight = kernel.reshape(shape).expand(channels, *(-1,) * 3)
        pixels = torch.nn.functional.conv2d(padded, weight, groups=channels)
    return pixels


def parts_of(values: torch.Tensor) -> np.ndarray:
    """(N, M) -> (N, Q) float64 means of Q parts of equal size, from the smallest values to the largest."""
    values = values[:, :: -(-values.shape[1] // MOST_VALUES)].sort(dim=1).values.double()
    return torch.stack([part.mean(dim=1) for part in values.tensor_split(PARTS, dim=1)], dim=1).cpu().numpy()


def fidelity_loss(latents: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Squared distance of each picture from full sampling's, as a share of that between pictures of two prompts.

    Parameters
    ----------
    latents : (N, ...) tensor
        Final latents.
    reference : (N, ...) tensor
        Of full sampling: the same prompts and noise.

    Returns
    -------
    losses : (N,) float64
        0 the same picture, 1 as far from it as the picture of another prompt.

    Raises
    ------
    ValueError
        If the shapes differ, or the reference has fewer than two different pictures.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core.measure.detail import fidelity_loss
    >>> reference = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    >>> fidelity_loss(torch.tensor([[0.0, 1.0], [1.0, -1.0]]), reference).tolist()
    [0.0, 0.25]
    """
    check_same_shape(latents, reference)
    count = len(reference)
    rows, theirs = (values.detach().cpu().double().reshape(count, -1) for values in (latents, reference))
    between = 2 * (theirs - theirs.mean(dim=0)).square().sum().item() / max(1, count - 1)
    if not between > 0:
        raise ValueError("full sampling gives the same picture for all prompts; compare prompts that differ")
    return ((rows - theirs).square().sum(dim=1) / between).numpy()


def check_same_shape(values: torch.Tensor, reference: torch.Tensor) -> None:
    """Raise `ValueError` unless two stacks of pictures or latents can be compared."""
    if values.shape != reference.shape or not len(reference):
        raise ValueError(
            "pictures and those of full sampling must be as many and of the same size; "
            f"got shapes {tuple(values.shape)} and {tuple(reference.shape)}"
        )
    if not (torch.isfinite(values).all() and torch.isfinite(reference).all()):
        raise ValueError("pictures hold NaN or infinity; load the model in fp32 or bf16")
