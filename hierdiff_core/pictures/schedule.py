"""The schedule as a picture: how the threshold falls, and how many clusters each step denoises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .axes import PALETTE, WIDTH, as_picture, new_axes, new_figure, set_ticks, write_text, write_title
from .fonts import INK, MUTED

if TYPE_CHECKING:
    from PIL import Image

    from ..plan.plan import Plan


def draw_schedule(plan: Plan) -> Image.Image:
    """Draw the threshold of each step over the clusters that it leaves.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    picture : PIL.Image.Image
        RGB, 1000 x 640 pixels.

    Notes
    -----
    The lower panel's area is computation: bars are UNet rows that are run, the shaded rest up to N rows a step
    is what separate runs would add. N counts prompts that differ.
    """
    figure = new_figure(WIDTH, 640)
    edges = np.arange(plan.num_steps + 1) - 0.5
    upper = new_axes(figure, (80, 392, WIDTH - 104, 160), (edges[0], edges[-1]), (0, 1.08 * plan.tau or 1.0))
    upper.stairs(plan.thresholds, edges, baseline=None, color=INK, linewidth=2, linestyle="-", clip_on=False)
    lower = new_axes(figure, (80, 62, WIDTH - 104, 264), (edges[0], edges[-1]), (0, 1.05 * plan.num_distinct))
    clusters, rows = plan.clusters_per_step, np.full(plan.num_steps, plan.num_distinct)
    lower.stairs(rows, edges, baseline=clusters, fill=True, color="#cfe3f1", linewidth=0, label="saved")
    lower.stairs(clusters, edges, fill=True, color=PALETTE[0], linewidth=0, label="run")
    lower.plot(edges[[0, -1]], [plan.num_distinct] * 2, color=MUTED, linewidth=1, linestyle="--", marker="")
    set_ticks(upper.yaxis, 4)
    set_ticks(lower.yaxis, 5, whole=True)
    for axes in upper, lower:
        set_ticks(axes.xaxis, 10, whole=True)
    write_text(figure, 22, 572, "threshold φ", 14, color=INK)
    write_text(figure, 22, 344, "clusters: UNet rows a step", 14, color=INK)
    legend = f"dashed: a row for each prompt ({plan.num_distinct}); shaded: saved"
    write_text(figure, WIDTH - 24, 344, legend, 13, ha="right")
    write_text(figure, WIDTH - 24, 22, "denoising step", 13, ha="right")
    whole = f"{plan.num_distinct} × {plan.num_steps} = {plan.nfe_standard}"
    write_title(figure, f"NFE {plan.nfe} of N·K = {whole}: {100 * plan.saved:.1f} % saved")
    return as_picture(figure)
