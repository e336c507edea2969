"""How different two pictures look, in a number and in words."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .detail import blurred, check_same_shape

# Differences of colour in CIELAB (Delta E of 1976): of less than this nobody tells two colours apart that lie side by
# side (Mahy et al. 1994).
JUST_SEEN = 2.3
FEW = 0.01  # of the pixels: a difference in so few is not found without looking for it
SLIGHT = 6.0  # mean Delta E: beyond it shapes or colours are others at first sight
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


class Difference(NamedTuple):
    """How two pictures differ.

    Attributes
    ----------
    word : str
        "none visible", "slight" or "visible".
    mean : float
        Mean difference of colour, Delta E; 100 from black to white.
    share : float
        Of the pixels that visibly differ, 0 ... 1.
    """

    word: str
    mean: float
    share: float


def visible_difference(picture: torch.Tensor, reference: torch.Tensor) -> Difference:
    """How different two pictures look.

    Parameters
    ----------
    picture : (H, W, 3) or (B, H, W, 3) float tensor
        In sRGB, 0 ... 1.
    reference : tensor of the same shape

    Returns
    -------
    difference : Difference

    Raises
    ------
    ValueError
        If the sizes differ, or values are not finite.

    Notes
    -----
    The pictures are blurred a little before, by five pixels, since the eye does not see single pixels' noise. What is
    compared is pixels: a picture in which the same thing stands elsewhere is visibly different.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core.measure.difference import visible_difference
    >>> grey = torch.full((16, 16, 3), 0.5)
    >>> [visible_difference(grey, grey + lighter).word for lighter in (0.001, 0.03, 0.3)]
    ['none visible', 'slight', 'visible']
    """
    check_same_shape(picture, reference)
    mine, theirs = (
        lab(blurred(pixels.detach().float().cpu().reshape(-1, *pixels.shape[-3:]).movedim(-1, 1)))
        for pixels in (picture, reference)
    )
    off = (mine - theirs).square().sum(dim=1).sqrt()
    mean, share = float(off.mean()), float((off > JUST_SEEN).float().mean())
    word = "none visible" if share < FEW else "slight" if mean < SLIGHT else "visible"
    return Difference(word, mean, share)


def lab(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) sRGB in 0 ... 1 -> CIELAB, white point D65."""
    linear = torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    matrix = pixels.new_tensor(TO_XYZ)
    white = matrix.sum(dim=1)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / white[:, None], linear)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=0) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
