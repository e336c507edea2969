"""The method as pictures: the dendrogram, the schedule, the tree of branches, and sheets of images.

Legend: N prompts, K steps, Z linkage matrix in SciPy's layout, tau = height up to which the first step shares.
"""

import math

import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import leaves_list

from ..plan.linkage import check_linkage, flat_clusters
from .contact_sheet import contact_sheet
from .fonts import INK, MUTED, base_font, choose_font, shorten
from .tree import draw_tree

__all__ = ["contact_sheet", "draw_dendrogram", "draw_schedule", "draw_sensitivity", "draw_tree"]

LIGHT = "#d5dae1"
# Okabe and Ito's colours, which colour-blind people can tell apart, without black and the pale yellow
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")

WIDTH = 1000  # pixels
MAX_HEIGHT = 4000
NAME_WIDTH = 420
SMALLEST_NAMED_ROW = 11
LOWEST_DRAWN = 1e-6  # sensitivities below this share of the largest are cut off
FAR_TAU = 1.5  # times the root's height: a larger tau is named at the edge instead of stretching the axis


def draw_dendrogram(Z, prompts, tau=None):
    """Draw the Ward tree on its side: the root at the left, the prompts at the right.

    Parameters
    ----------
    Z : (N-1, 4) float64         linkage matrix; (0, 4) for a single prompt
    prompts : N str              labels of the leaves
    tau : float >= 0, optional   draws this height and colours the flat clusters below it

    Returns
    -------
    picture : PIL.Image.Image   RGB, 1000 pixels wide, at most 4000 high; without labels where N leaves no room

    Raises
    ------
    ValueError  if `Z` is no linkage matrix, `prompts` are not N, or `tau` is negative.

    Notes
    -----
    Leaves are in the order of SciPy's `dendrogram`, which is not called: it recurses once for each level, and
    a tree of 2000 leaves can have 1999 levels.
    """
    Z = check_linkage(Z)
    prompts = list(prompts)
    if len(prompts) != len(Z) + 1:
        raise ValueError(f"prompts must be as many as the leaves of Z ({len(Z) + 1}); got {len(prompts)}")
    if len(Z) == 0:
        return _single_prompt(prompts[0])
    order = leaves_list(Z)
    labels = None if tau is None else flat_clusters(Z, tau)
    row = _leaf_row(len(prompts))
    names = _leaf_names([prompts[i] for i in order], row)
    widest = max((face.getlength(text) for face, text in names), default=0)
    figure, axes = _dendrogram_axes(Z, tau, row, column=math.ceil(1.03 * widest) + 34)
    _draw_merges(axes, Z, order, labels)
    _write_names(axes, names, len(prompts))
    _title(figure, _dendrogram_title(Z, tau, labels))
    if tau is not None:
        _mark_tau(axes, tau)
    return _picture(figure)


def draw_schedule(plan):
    """Draw the threshold of each step over the clusters that it leaves.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    picture : PIL.Image.Image   RGB, 1000 x 640 pixels

    Notes
    -----
    The lower panel's area is computation: bars are UNet rows that are run, the shaded rest up to N rows a step
    is what separate runs would add. N counts prompts that differ.
    """
    figure = _figure(WIDTH, 640)
    edges = np.arange(plan.num_steps + 1) - 0.5
    upper = _axes(figure, (80, 392, WIDTH - 104, 160), (edges[0], edges[-1]), (0, 1.08 * plan.tau or 1.0))
    upper.stairs(plan.thresholds, edges, baseline=None, color=INK, linewidth=2, linestyle="-", clip_on=False)
    lower = _axes(figure, (80, 62, WIDTH - 104, 264), (edges[0], edges[-1]), (0, 1.05 * plan.num_distinct))
    clusters, rows = plan.clusters_per_step, np.full(plan.num_steps, plan.num_distinct)
    lower.stairs(rows, edges, baseline=clusters, fill=True, color="#cfe3f1", linewidth=0, label="saved")
    lower.stairs(clusters, edges, fill=True, color=PALETTE[0], linewidth=0, label="run")
    lower.plot(edges[[0, -1]], [plan.num_distinct] * 2, color=MUTED, linewidth=1, linestyle="--", marker="")
    _ticks(upper.yaxis, 4)
    _ticks(lower.yaxis, 5, whole=True)
    for axes in upper, lower:
        _ticks(axes.xaxis, 10, whole=True)
    _text(figure, 22, 572, "threshold φ", 14, color=INK)
    _text(figure, 22, 344, "clusters: UNet rows a step", 14, color=INK)
    legend = f"dashed: a row for each prompt ({plan.num_distinct}); shaded: saved"
    _text(figure, WIDTH - 24, 344, legend, 13, ha="right")
    _text(figure, WIDTH - 24, 22, "denoising step", 13, ha="right")
    whole = f"{plan.num_distinct} × {plan.num_steps} = {plan.nfe_standard}"
    _title(figure, f"NFE {plan.nfe} of N·K = {whole}: {100 * plan.saved:.1f} % saved")
    return _picture(figure)


def draw_sensitivity(sensitivity):
    """Draw how much the final latents change when the first steps are shared, and what each step adds.

    Parameters
    ----------
    sensitivity : Sensitivity

    Returns
    -------
    picture : PIL.Image.Image   RGB, 1000 x 640 pixels; both axes of values are logarithmic
    """
    steps = sensitivity.num_steps
    G, weights = sensitivity.cumulative(steps), sensitivity.weights(steps)
    top = 10 ** math.ceil(math.log10(max(G[-1], sensitivity.change.max())))  # G is smoothed
    edges, limits = np.arange(steps + 1), (top * LOWEST_DRAWN, top)
    figure = _figure(WIDTH, 640)
    upper = _axes(figure, (80, 362, WIDTH - 104, 200), (0, steps), limits)
    lower = _axes(figure, (80, 62, WIDTH - 104, 200), (0, steps), limits)
    for axes in upper, lower:
        axes.set_yscale("log")
        _decades(axes.yaxis, *limits)
        _ticks(axes.xaxis, 10, whole=True)
    upper.plot(edges[1:], G[1:], color=INK, linewidth=2, linestyle="-", marker="")
    seen = sensitivity.change >= limits[0]
    dots = {"color": PALETTE[0], "linestyle": "", "marker": "o", "markersize": 7, "clip_on": False}
    upper.plot(sensitivity.shared_steps[seen], sensitivity.change[seen], **dots)
    lower.stairs(np.maximum(weights, limits[0]), edges, baseline=limits[0], fill=True, color=PALETTE[0], linewidth=0)
    _text(figure, 22, 582, "change of the final latent when the first steps are shared; dots: measured", 14, color=INK)
    _text(figure, 22, 282, "sensitivity w of each step", 14, color=INK)
    _text(figure, WIDTH - 24, 22, "denoising step", 13, ha="right")
    length = "1 step" if steps == 1 else f"{steps} steps"
    _title(figure, f"Sensitivity of {sensitivity.settings.get('model', 'the model')}, {length}")
    return _picture(figure)


# --- the dendrogram's parts


def _single_prompt(prompt):
    figure = _figure(WIDTH, 120)
    face, text = choose_font(prompt, 15)
    text = shorten(text, face, WIDTH - 60)
    _name(figure, (WIDTH - face.getlength(text)) / 2, 76, text, face)
    _text(figure, WIDTH / 2, 40, "one prompt: nothing to share", 13, ha="center")
    return _picture(figure)


def _leaf_row(leaves):
    """Pixels for a leaf: enough for its name, or a few where names do not fit."""
    room = (MAX_HEIGHT - 130) / leaves
    return min(24.0, room) if room >= SMALLEST_NAMED_ROW else min(3.0, room)


def _leaf_names(prompts, row):
    """The typeface and the shortened text of each prompt; none where rows are too narrow."""
    if row < SMALLEST_NAMED_ROW:
        return []
    faces = [choose_font(prompt, min(14, round(0.75 * row))) for prompt in prompts]
    return [(face, shorten(text, face, NAME_WIDTH)) for face, text in faces]


def _dendrogram_axes(Z, tau, row, column):
    """Axes whose y is the place in the leaf order and whose x is the height, falling from left to right."""
    leaves, root = len(Z) + 1, Z[-1, 2]
    height = max(100, round(leaves * row))
    figure = _figure(WIDTH, height + 130)
    far = tau is not None and FAR_TAU * root < tau and root > 0
    widest = max(root, 0.0 if tau is None or far else tau) or 1.0
    box = (40, 60, WIDTH - 40 - column, height)
    axes = _axes(figure, box, (1.04 * widest, 0), (leaves - 0.5, -0.5))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([])
    _ticks(axes.xaxis, 6)
    _text(figure, 40 + box[2] / 2, 20, "height", 13, ha="center")
    return figure, axes


def _draw_merges(axes, Z, order, labels):
    """One bracket for each merge, in its flat cluster's colour where it lies below tau."""
    from matplotlib.collections import LineCollection

    leaves, pairs = len(order), Z[:, :2].astype(np.int64)
    height = np.concatenate([np.zeros(leaves), Z[:, 2]])
    place = np.empty(2 * leaves - 1)
    place[order] = np.arange(leaves)
    member = np.arange(2 * leaves - 1)  # some leaf below each node
    for node, (a, b) in enumerate(pairs, start=leaves):
        place[node] = (place[a] + place[b]) / 2
        member[node] = member[a]
    ends = np.stack([height[pairs], place[pairs]], axis=-1)  # (N-1, 2, 2): two children, (x, y)
    corners = ends.copy()
    corners[:, :, 0] = Z[:, 2:3]
    brackets = np.stack([ends[:, 0], corners[:, 0], corners[:, 1], ends[:, 1]], axis=1)
    colours = [INK] * len(Z)
    if labels is not None:
        turns = _turns(labels, order)
        for i, (left, right) in enumerate(labels[member[pairs]]):
            if left == right:
                colours[i] = PALETTE[turns[left] % len(PALETTE)]
    width = 1.6 if leaves <= 350 else 0.8
    axes.add_collection(
        LineCollection(list(brackets), colors=colours, linewidths=width, capstyle="projecting"), autolim=False
    )


def _turns(labels, order):
    """(C,) int64 for each cluster with two prompts or more, its place among them in leaf order."""
    counts = np.bincount(labels)
    turns = np.zeros(len(counts), dtype=np.int64)
    shared = dict.fromkeys(c for c in labels[order].tolist() if counts[c] > 1)
    turns[list(shared)] = np.arange(len(shared))
    return turns


def _write_names(axes, names, leaves):
    width = axes.get_window_extent().width
    if not names:
        note = f"{leaves} prompts: too many to name"
        _text(axes, 1 + 18 / width, 0.5, note, 14, axes.transAxes, rotation=270, va="center", ha="center")
    for i, (face, text) in enumerate(names):
        _name(axes, 1 + 10 / width, i, text, face, axes.get_yaxis_transform())


def _dendrogram_title(Z, tau, labels):
    title = f"{len(Z) + 1} prompts, Ward linkage, root at {Z[-1, 2]:.4g}"
    if tau is None:
        return title
    clusters = int(labels.max()) + 1
    return f"{title}; {clusters} cluster{'s' * (clusters > 1)} at τ = {tau:.4g}"


def _mark_tau(axes, tau):
    left, _ = axes.get_xlim()
    width, height = axes.get_window_extent().size
    if tau > left:
        _text(axes, 0, 1 + 14 / height, f"← τ = {tau:.4g}", 13, axes.transAxes, color=INK)
        return
    axes.axvline(tau, ymax=1 + 4 / height, color=INK, linewidth=1.2, linestyle=(0, (5, 4)), marker="", clip_on=False)
    place = min(max(tau, left * 40 / width), left * (1 - 30 / width))
    _text(axes, place, 1 + 14 / height, f"τ = {tau:.4g}", 13, axes.get_xaxis_transform(), ha="center", color=INK)


# --- Matplotlib without pyplot: other threads draw in this process, and its defaults may be anyone's


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")  # 1 point = 1 pixel
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    return figure


def _axes(figure, box, xlim, ylim):
    """Axes at `box` = (left, bottom, width, height) in pixels, without the upper and right edges."""
    width, height = figure.get_size_inches() * 72
    left, bottom, wide, high = box
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height), facecolor="white")
    axes.set(xlim=xlim, ylim=ylim, axisbelow=True)
    axes.grid(False)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=LIGHT, linewidth=1)
    sides = {"bottom": True, "left": True, "top": False, "right": False}
    names = {"labelbottom": True, "labelleft": True, "labeltop": False, "labelright": False}
    axes.tick_params(which="major", direction="out", length=4, width=1, pad=4, color=LIGHT, **sides, **names)
    axes.minorticks_off()
    return axes


def _ticks(axis, count, whole=False):
    from matplotlib.font_manager import FontProperties
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(axis.get_view_interval())
    values = MaxNLocator(count, integer=whole, steps=[1, 2, 5, 10]).tick_values(low, high)
    values = [float(v) for v in values if low <= v <= high and not (whole and v % 1)]
    names = [f"{v:.10g}" for v in values]
    font = FontProperties(fname=base_font(), size=12)
    axis.set_ticks(values, labels=names, fontproperties=font, color=MUTED, parse_math=False, usetex=False)


def _decades(axis, low, high):
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


def _text(artist, x, y, text, size, transform=None, path=None, color=MUTED, **options):
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


def _name(artist, x, y, text, face, transform=None):
    """A prompt's text from `x` on, in as many fonts as it takes, with its middle at `y`."""
    from matplotlib.transforms import Affine2D, IdentityTransform

    right = 0
    for font, piece in face.pieces(text):
        place = (transform or IdentityTransform()) + Affine2D().translate(right, -0.36 * face.size)
        _text(artist, x, y, piece, face.size, place, font.path, INK, va="baseline")
        right += font.getlength(piece)


def _title(figure, text):
    _text(figure, 22, figure.get_size_inches()[1] * 72 - 26, text, 16, color=INK)


def _picture(figure):
    figure.canvas.draw()
    size = figure.canvas.get_width_height()
    return Image.frombytes("RGBA", size, bytes(figure.canvas.buffer_rgba())).convert("RGB")
