"""The tree of prompts as a dendrogram.

Legend: N prompts, Z linkage matrix in SciPy's layout, tau = height up to which the first step shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import leaves_list

from ..plan.linkage import check_linkage, flat_clusters
from ..plan.seeds import within_trees
from .axes import PALETTE, WIDTH, as_picture, new_axes, new_figure, set_ticks, write_name, write_text, write_title
from .fonts import INK, choose_font, shorten

if TYPE_CHECKING:
    from PIL import Image

MAX_HEIGHT = 4000

NAME_WIDTH = 420

SMALLEST_NAMED_ROW = 11

FAR_TAU = 1.5  # times the root's height: a larger tau is named at the edge instead of stretching the axis


def draw_dendrogram(
    Z: np.ndarray | None, prompts: Iterable[str], tau: float | None = None, *, trees: int = 1
) -> Image.Image:
    """Draw the Ward tree on its side: the root at the left, the prompts at the right.

    Parameters
    ----------
    Z : (N-1, 4) float64
        Linkage matrix; (0, 4) for a single prompt.
    prompts : N str
        Labels of the leaves.
    tau : float >= 0, optional
        Draws this height and colours the flat clusters below it.
    trees : int
        How many trees `Z` joins by its last merges (`PromptTree.num_trees`): they are drawn side by side, unjoined.

    Returns
    -------
    picture : PIL.Image.Image
        RGB, 1000 pixels wide, at most 4000 high; without labels where N leaves no room.

    Raises
    ------
    ValueError
        If `Z` is no linkage matrix, `prompts` are not N, or `tau` is negative.

    Notes
    -----
    Leaves are in the order of SciPy's `dendrogram`, which is not called: it recurses once for each level, and
    a tree of 2000 leaves can have 1999 levels.
    """
    Z = check_linkage(np.asarray(Z))
    prompts = list(prompts)
    if len(prompts) != len(Z) + 1:
        raise ValueError(f"there must be one prompt for each of the leaves of Z ({len(Z) + 1}); got {len(prompts)}")
    if len(Z) == 0:
        return _single_prompt(prompts[0])
    order = leaves_list(Z)
    labels = None if tau is None else flat_clusters(Z, tau)
    row = _leaf_row(len(prompts))
    names = _leaf_names([prompts[i] for i in order], row)
    widest = max((face.getlength(text) for face, text in names), default=0)
    within = within_trees(Z, trees)
    root = float(within[-1, 2]) if len(within) else 0.0
    figure, axes = _dendrogram_axes(len(order), root, tau, row, column=math.ceil(1.03 * widest) + 34)
    _draw_merges(axes, within, order, labels)
    _write_names(axes, names, len(prompts))
    write_title(figure, _dendrogram_title(len(order), root, tau, labels, trees))
    if tau is not None:
        _mark_tau(axes, tau)
    return as_picture(figure)


def _single_prompt(prompt):
    figure = new_figure(WIDTH, 120)
    face, text = choose_font(prompt, 15)
    text = shorten(text, face, WIDTH - 60)
    write_name(figure, (WIDTH - face.getlength(text)) / 2, 76, text, face)
    write_text(figure, WIDTH / 2, 40, "one prompt: nothing to share", 13, ha="center")
    return as_picture(figure)


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


def _dendrogram_axes(leaves, root, tau, row, column):
    """Axes whose y is the place in the leaf order and whose x is the height, falling from left to right."""
    height = max(100, round(leaves * row))
    figure = new_figure(WIDTH, height + 130)
    far = tau is not None and FAR_TAU * root < tau and root > 0
    widest = max(root, 0.0 if tau is None or far else tau) or 1.0
    box = (40, 60, WIDTH - 40 - column, height)
    axes = new_axes(figure, box, (1.04 * widest, 0), (leaves - 0.5, -0.5))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([])
    set_ticks(axes.xaxis, 6)
    write_text(figure, 40 + box[2] / 2, 20, "height", 13, ha="center")
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
        write_text(axes, 1 + 18 / width, 0.5, note, 14, axes.transAxes, rotation=270, va="center", ha="center")
    for i, (face, text) in enumerate(names):
        write_name(axes, 1 + 10 / width, i, text, face, axes.get_yaxis_transform())


def _dendrogram_title(leaves, root, tau, labels, trees):
    title = f"{leaves} prompts, Ward linkage, root at {root:.4g}"
    if trees > 1:
        title = f"{leaves} prompts of {trees} seeds, a tree each, highest root at {root:.4g}"
    if tau is None:
        return title
    clusters = int(labels.max()) + 1
    return f"{title}; {clusters} cluster{'s' * (clusters > 1)} at τ = {tau:.4g}"


def _mark_tau(axes, tau):
    left, _ = axes.get_xlim()
    width, height = axes.get_window_extent().size
    if tau > left:
        write_text(axes, 0, 1 + 14 / height, f"← τ = {tau:.4g}", 13, axes.transAxes, color=INK)
        return
    axes.axvline(tau, ymax=1 + 4 / height, color=INK, linewidth=1.2, linestyle=(0, (5, 4)), marker="", clip_on=False)
    place = min(max(tau, left * 40 / width), left * (1 - 30 / width))
    write_text(axes, place, 1 + 14 / height, f"τ = {tau:.4g}", 13, axes.get_xaxis_transform(), ha="center", color=INK)
