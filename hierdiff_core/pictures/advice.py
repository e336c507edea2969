"""What pays on a model, as a picture: how much is computed for each picture, and what is lost."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .axes import LIGHT, PALETTE, WIDTH, as_picture, new_axes, new_figure, set_ticks, write_text
from .fonts import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 700, 84, 84, 310, 156
LEAST_TOP, TIMES_ALLOWED = 10.0, 4.0  # of the axis of losses, in per cent and times what is allowed
WITHIN = "#e8f4ee"
TITLE_SIZE, LONGEST_LINE, MOST_LINES = 16, 116, 3
KEY_STEP, KEY_WIDTH = 46, 30  # pixels


def draw_advice(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    mixed: Sequence[tuple[float, float]],
    full: float,
    advised: tuple[float, float, float],
    allowed: float | None,
    measure: str,
    title: str,
) -> Image.Image:
    """Draw what each means saves and loses, alone and together, and what is advised; ``draw_advice(**advice.chart())``.

    Parameters
    ----------
    curves : mapping of str to sequence of (float, float)
        For each means its points: passes for each picture, and loss in per cent.
    mixed : sequence of (float, float)
        Points of several means together.
    full : float
        Passes of full sampling.
    advised : (float, float, float)
        Passes, loss, and the largest loss to be expected.
    allowed : float, optional
        Loss in per cent that was allowed.
    measure : str
        What the loss is of.
    title : str
        A sentence or two.

    Returns
    -------
    picture : PIL.Image.Image
        RGB, 1000 x 700 pixels. Losses above the axis are marked at its upper edge.
    """
    figure = new_figure(WIDTH, HEIGHT)
    top = _top(curves, advised, allowed)
    axes = new_axes(
        figure, (LEFT, BOTTOM, WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP), (0, 1.04 * full), (-0.04 * top, top)
    )
    set_ticks(axes.xaxis, 8)
    set_ticks(axes.yaxis, 6)
    if allowed is not None:
        axes.axhspan(-0.04 * top, min(allowed, top), color=WITHIN, linewidth=0, zorder=0)
    axes.axhline(0, color=LIGHT, linewidth=1, zorder=1)
    for (means, points), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        _curve(axes, [*points, (full, 0.0)], top, colour, dashed=means.startswith("stronger"))
    for passes, loss in mixed:
        marker = "D" if loss <= top else "^"
        place = min(max(loss, 0), top)
        axes.plot([passes], [place], marker=marker, markersize=6, color=MUTED, linestyle="", zorder=4, clip_on=False)
    _advised(axes, advised, top)
    _key(figure, list(curves), bool(len(mixed)), allowed, advised)
    _texts(figure, measure, title)
    return as_picture(figure)


def _top(
    curves: Mapping[str, Sequence[tuple[float, float]]], advised: tuple[float, float, float], allowed: float | None
) -> float:
    """Where the axis of losses ends: what is allowed and advised well inside, and no more than is lost anywhere."""
    most = max([loss for points in curves.values() for _, loss in points], default=LEAST_TOP)
    wanted = max(LEAST_TOP, TIMES_ALLOWED * (allowed or 0.0), 1.5 * advised[2])
    return min(wanted, max(1.1 * most, 1.5 * advised[2], 1.5 * (allowed or 0.0), 1.0))


def _curve(axes: Axes, points: Sequence[tuple[float, float]], top: float, colour: str, dashed: bool) -> None:
    """A means: a line through what was measured, up to where it leaves the axes."""
    passes, losses = np.array(sorted(points)).T
    losses = np.maximum(losses, 0)  # less than nothing is chance
    style = {"linewidth": 2, "linestyle": "--" if dashed else "-", "zorder": 2}
    axes.plot(passes, losses, color=colour, marker="", **style)
    seen = losses <= top
    dots = {"linestyle": "", "color": colour, "markersize": 7, "zorder": 3, "clip_on": False}
    axes.plot(passes[seen], losses[seen], marker="o", **dots)
    axes.plot(passes[~seen], np.full((~seen).sum(), top), marker="^", **dots)


def _advised(axes: Axes, advised: tuple[float, float, float], top: float) -> None:
    """The advised point, with a line up to the loss that is to be expected at most."""
    passes, loss, promised = advised
    loss = max(loss, 0.0)
    axes.plot([passes] * 2, [loss, min(promised, top)], color=INK, linewidth=1.5, linestyle="-", marker="", zorder=5)
    axes.plot([passes], [loss], marker="*", markersize=22, color=INK, linestyle="", zorder=6, clip_on=False)


def _colours(count: int) -> list[str]:
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


def _key(
    figure: Figure, means: Sequence[str], mixed: bool, allowed: float | None, advised: tuple[float, float, float]
) -> None:
    """What each line and mark stands for, at the right of the axes."""
    axes = new_axes(figure, (WIDTH - RIGHT + 24, 0, KEY_WIDTH, HEIGHT), (0, KEY_WIDTH), (0, HEIGHT))
    axes.set_axis_off()
    x, y = WIDTH - RIGHT + 24 + KEY_WIDTH + 10, HEIGHT - TOP - 12
    passes, loss, promised = advised
    middle = {"color": INK, "linestyle": "", "clip_on": False}
    axes.plot([KEY_WIDTH / 2], [y], marker="*", markersize=20, **middle)
    write_text(figure, x, y + 9, "advised", 14, color=INK)
    write_text(figure, x, y - 9, f"{f'{passes:.1f}'.removesuffix('.0')} passes, {max(loss, 0):.1f} % lost", 13)
    write_text(figure, x, y - 27, f"({promised:.1f} % at most)", 13)
    y -= KEY_STEP + 18
    for name, colour in zip(means, _colours(len(means)), strict=True):
        line = "--" if name.startswith("stronger") else "-"
        axes.plot([0, KEY_WIDTH], [y] * 2, color=colour, linewidth=2, linestyle=line, marker="")
        axes.plot([KEY_WIDTH / 2], [y], color=colour, marker="o", markersize=7, linestyle="")
        lines = textwrap.wrap(name, 24)[:2]
        for place, text in enumerate(lines):
            write_text(figure, x, y + 8 * (len(lines) - 1) - 16 * place, text, 13, color=INK)
        y -= KEY_STEP
    if mixed:
        axes.plot([KEY_WIDTH / 2], [y], marker="D", markersize=6, **{**middle, "color": MUTED})
        write_text(figure, x, y, "several of them together", 13, color=INK)
        y -= KEY_STEP
    if allowed is not None:
        axes.axvspan(0, KEY_WIDTH, ymin=(y - 8) / HEIGHT, ymax=(y + 8) / HEIGHT, color=WITHIN, linewidth=0)
        write_text(figure, x, y, f"allowed: {allowed:g} %", 13, color=INK)


def _texts(figure: Figure, measure: str, title: str) -> None:
    """Title, and what the axes are."""
    lines = textwrap.wrap(title, LONGEST_LINE, max_lines=MOST_LINES, placeholder=" …")
    for place, line in enumerate(lines):
        write_text(figure, 22, HEIGHT - 30 - 24 * place, line, TITLE_SIZE, color=INK)
    what = "what the prompts show, or fine detail" if measure == "looks as good" else "likeness to the same pictures"
    write_text(figure, 22, HEIGHT - TOP + 28, f"% lost against drawing every picture in full ({what})", 14, color=INK)
    write_text(
        figure,
        (WIDTH - RIGHT + LEFT) / 2,
        36,
        "passes of the model per picture: the fewer, the faster",
        14,
        color=INK,
        ha="center",
    )
    write_text(
        figure,
        (WIDTH - RIGHT + LEFT) / 2,
        14,
        "right end: every picture in full; ▲: more is lost than the axis shows",
        12,
        ha="center",
    )
