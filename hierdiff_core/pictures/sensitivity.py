"""A model's sensitivity as a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .axes import PALETTE, WIDTH, as_picture, new_axes, new_figure, set_decades, set_ticks, write_text, write_title
from .fonts import INK

if TYPE_CHECKING:
    from PIL import Image

    from ..plan.sensitivity import Sensitivity

LOWEST_DRAWN = 1e-6  # sensitivities below this share of the largest are cut off


def draw_sensitivity(sensitivity: Sensitivity) -> Image.Image:
    """Draw how much the final latents change when the first steps are shared, and what each step adds.

    Parameters
    ----------
    sensitivity : Sensitivity

    Returns
    -------
    picture : PIL.Image.Image
        RGB, 1000 x 640 pixels; both axes of values are logarithmic.
    """
    steps = sensitivity.num_steps
    G, weights = sensitivity.cumulative(steps), sensitivity.weights(steps)
    top = 10 ** math.ceil(math.log10(max(G[-1], sensitivity.change.max())))  # G is smoothed
    edges, limits = np.arange(steps + 1), (top * LOWEST_DRAWN, top)
    figure = new_figure(WIDTH, 640)
    upper = new_axes(figure, (80, 362, WIDTH - 104, 200), (0, steps), limits)
    lower = new_axes(figure, (80, 62, WIDTH - 104, 200), (0, steps), limits)
    for axes in upper, lower:
        axes.set_yscale("log")
        set_decades(axes.yaxis, *limits)
        set_ticks(axes.xaxis, 10, whole=True)
    upper.plot(edges[1:], G[1:], color=INK, linewidth=2, linestyle="-", marker="")
    seen = sensitivity.change >= limits[0]
    dots = {"color": PALETTE[0], "linestyle": "", "marker": "o", "markersize": 7, "clip_on": False}
    upper.plot(sensitivity.shared_steps[seen], sensitivity.change[seen], **dots)
    lower.stairs(np.maximum(weights, limits[0]), edges, baseline=limits[0], fill=True, color=PALETTE[0], linewidth=0)
    write_text(
        figure, 22, 582, "change of the final latent when the first steps are shared; dots: measured", 14, color=INK
    )
    write_text(figure, 22, 282, "sensitivity w of each step", 14, color=INK)
    write_text(figure, WIDTH - 24, 22, "denoising step", 13, ha="right")
    length = "1 step" if steps == 1 else f"{steps} steps"
    write_title(figure, f"Sensitivity of {sensitivity.settings.get('model', 'the model')}, {length}")
    return as_picture(figure)
