"""Figures by matplotlib: their size, axes, ticks and texts, the same for all pictures of the method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from PIL import Image

from .fonts import INK, MUTED, base_font

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

    from .fonts import Typeface

LIGHT = "#d5dae1"

WIDTH = 1000  # pixels


# --- Matplotlib without pyplot: other threads draw in this process, and its defaults may be anyone's


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")  # 1 point = 1 pixel
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    return figure


def new_axes(
    figure: Figure, box: tuple[float, float, float, float], xlim: tuple[float, float], ylim: tuple[float, float]
) -> Axes:
    """Axes at `box` = (left, bottom, width, height) in pixels, without the upper and right edges."""
    width, height = figure.get_size_inches() * 72
    left, bottom, wide, high = box
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height), facecolor="white")
    axes.set(xlim=xlim, ylim=ylim, axisbelow=True)
    axes.grid(False)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=LIGHT, linewidth=1)
    sides: dict[str, Any] = {"bottom": True, "left": True, "top": False, "right": False}
    names: dict[str, Any] = {"labelbottom": True, "labelleft": True, "labeltop": False, "labelright": False}
    axes.tick_params(which="major", direction="out", length=4, width=1, pad=4, color=LIGHT, **sides, **names)
    axes.minorticks_off()
    return axes


def set_ticks(axis: Axis, count: int, whole: bool = False) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(axis.get_view_interval())
    values = MaxNLocator(count, integer=whole, steps=[1, 2, 5, 10]).tick_values(low, high)
    values = [float(v) for v in values if low <= v <= high and not (whole and v % 1)]
    names = [f"{v:.10g}" for v in values]
    font = FontProperties(fname=base_font(), size=12)
    axis.set_ticks(values, labels=names, fontproperties=font, color=MUTED, parse_math=False, usetex=False)


def set_decades(axis: Axis, low: float, high: float) -> None:
    """Ticks at powers of ten of a logarithmic axis, every second one where they are many."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.ticker import NullLocator

    powers = range(round(math.log10(low)), round(math.log10(high)) + 1, 2)
    font = FontProperties(fname=base_font(), size=12)
    names = [f"{10.0**power:g}" for power in powers]
    axis.set_minor_locator(NullLocator())
    axis.set_ticks(
        [10.0**power for power in powers],
        labels=names,
        fontproperties=font,
        color=MUTED,
        parse_math=False,
        usetex=False,
    )


def write_text(
    artist: Figure | Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    transform: Transform | None = None,
    path: str | None = None,
    color: str = MUTED,
    **options: Any,
) -> None:
    """Text at `x`, `y` in pixels from the lower left corner, or in the units of `transform`."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.transforms import IdentityTransform

    artist.text(
        x,
        y,
        text,
        transform=transform or IdentityTransform(),
        fontproperties=FontProperties(fname=path or base_font(), size=size),
        color=color,
        parse_math=False,
        usetex=False,
        **{"va": "center_baseline", **options},
    )


def write_name(
    artist: Figure | Axes, x: float, y: float, text: str, face: Typeface, transform: Transform | None = None
) -> None:
    """A prompt's text from `x` on, in as many fonts as it takes, with its middle at `y`."""
    from matplotlib.transforms import Affine2D, IdentityTransform

    right = 0
    for font, piece in face.pieces(text):
        place = (transform or IdentityTransform()) + Affine2D().translate(right, -0.36 * face.size)
        write_text(artist, x, y, piece, face.size, place, str(font.path), INK, va="baseline")
        right += font.getlength(piece)


def write_title(figure: Figure, text: str) -> None:
    write_text(figure, 22, figure.get_size_inches()[1] * 72 - 26, text, 16, color=INK)


def as_picture(figure: Figure) -> Image.Image:
    canvas: Any = figure.canvas  # the one that `new_figure` made
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


# Okabe and Ito's colours, which colour-blind people can tell apart, without black and the pale yellow
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
