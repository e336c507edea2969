"""The tree of branches as it grew, with a picture of each branch where there is room."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .fonts import MUTED, choose_font, shorten, wrap

if TYPE_CHECKING:
    from ..plan.plan import Plan

LINE, FRAME, GRID = "#52606d", "#c3cad3", "#eceff3"
MAX_HEIGHT = 4096
HEADER, FOOTER, LEFT, MARGIN = 76, 16, 64, 16
STEPS_WIDTH = 1000
STEP_WIDTH = 120  # for schedules of a few steps
SMALLEST_STEPS_WIDTH = 480
TEXT_WIDTH = 320
LARGEST_ROW, PLEASANT_ROW, PLEASANT_HEIGHT = 108, 60, 1800
PICTURE_SIDES = (96, 72, 56, 40, 28)
SMALLEST_LEAF_PICTURE = 24
SMALLEST_TEXT_ROW = 11
GAP = 4
SHORTEST_NAME = 90  # pixels of the name of a latent that branches start from


@dataclass(frozen=True, eq=False)
class TreeLayout:
    """Where everything is, in pixels. Made by `tree_layout`.

    Attributes
    ----------
    size : (int, int)
    row : float
        Height of a leaf branch.
    spans : (B, 2) float64
        Top and bottom of each branch's leaves; its line runs in the middle.
    lines : (B, 2) float64
        Left and right end of each branch's line.
    boxes : dict of int to (left, top, right, bottom)
        Squares for pictures, by branch.
    text : (float, float)
        Left end and width of the prompts' column; the width is 0 where none fits.
    """

    size: tuple[int, int]
    row: float
    spans: np.ndarray
    lines: np.ndarray
    boxes: dict[int, tuple[int, int, int, int]]
    text: tuple[float, float]

    @property
    def middles(self) -> np.ndarray:
        return self.spans.mean(axis=1)


def draw_tree(plan: Plan, prompts: Iterable[str], render: Callable[[list[int]], Iterable[Image.Image]]) -> Image.Image:
    """Draw every branch as a line over the steps that it lives, with pictures of the latents.

    Parameters
    ----------
    plan : Plan
    prompts : N str
    render : callable (list of int) -> list of PIL.Image.Image
        Called once, with the indices into `plan.branches` that get a picture (maybe none). Gives a picture for
        each, in that order: what the branch's latent shows after its last step.

    Returns
    -------
    picture : PIL.Image.Image
        RGB, at most 4096 pixels high; many leaves lose first their pictures, then their texts.

    Raises
    ------
    ValueError
        If `prompts` are not N or `render` gives another number of pictures than it was asked for.
    """
    prompts = list(prompts)
    if len(prompts) != plan.num_prompts:
        raise ValueError(f"there must be as many prompts as in the plan ({plan.num_prompts}); got {len(prompts)}")
    texts = {i: _joined([prompts[m] for m in plan.branches[i].members]) for i in leaf_branches(plan)}
    widest = max(face.getlength(text) for face, text in (choose_font(text, 13) for text in texts.values()))
    layout = tree_layout(plan, math.ceil(widest))
    asked = list(layout.boxes)
    pictures = list(render(asked))
    if len(pictures) != len(asked):
        raise ValueError(f"render must give a picture for each of {len(asked)} branches; got {len(pictures)}")
    canvas = Image.new("RGB", layout.size, "white")
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, plan, layout)
    _draw_origin(canvas, draw, plan, layout)
    _draw_branches(draw, plan, layout)
    for i, picture in zip(asked, pictures, strict=True):
        _paste(canvas, draw, layout.boxes[i], picture, leaf=i in texts)
    _draw_texts(draw, layout, texts)
    return canvas


def leaf_branches(plan: Plan) -> list[int]:
    """Indices of the branches that live to the end, in the order of `plan.branches`."""
    return [i for i, branch in enumerate(plan.branches) if branch.stop == plan.num_steps]


def tree_layout(plan: Plan, text_width: float = TEXT_WIDTH) -> TreeLayout:
    """Lay the branches out without crossings.

    Parameters
    ----------
    plan : Plan
    text_width : float
        Pixels that the longest text wants; it gets 320 at most.

    Returns
    -------
    layout : TreeLayout

    Notes
    -----
    Siblings take disjoint rows, so boxes of different subtrees cannot meet; a box keeps within its branch's own
    steps, so it cannot meet an ancestor's or a descendant's.
    """
    branches, leaves = plan.branches, leaf_branches(plan)
    pleasant = min(LARGEST_ROW, max(PLEASANT_ROW, PLEASANT_HEIGHT / len(leaves)))
    row = min(pleasant, (MAX_HEIGHT - HEADER - FOOTER) / len(leaves))
    row = math.floor(row) or row  # whole pixels: fractions would show as stripes
    spans = HEADER + row * _leaf_ranges(branches, leaves)
    steps = max(SMALLEST_STEPS_WIDTH, min(STEPS_WIDTH, STEP_WIDTH * plan.num_steps))
    lines = LEFT + np.array([[b.start, b.stop] for b in branches]) * (steps / plan.num_steps)
    leaf_side = min(PICTURE_SIDES[0], int(row) - GAP)
    boxes, right, ends = {}, LEFT + steps, set(leaves)
    for i, ((top, bottom), (start, stop)) in enumerate(zip(spans, lines, strict=True)):
        if i in ends:
            side, edge = (leaf_side if leaf_side >= SMALLEST_LEAF_PICTURE else 0), right + 2 * GAP + leaf_side
        else:
            room = min(bottom - top - GAP, stop - start - 4 * GAP)
            side, edge = next((side for side in PICTURE_SIDES if side <= room), 0), stop - 2 * GAP
        if side:
            corner = round(edge) - side, round((top + bottom - side) / 2)
            boxes[i] = (*corner, corner[0] + side, corner[1] + side)
    right += 2 * GAP + (leaf_side + 3 * GAP if leaf_side >= SMALLEST_LEAF_PICTURE else 0)
    width = min(TEXT_WIDTH, text_width) if row >= SMALLEST_TEXT_ROW else 0
    size = round(right + width) + MARGIN, math.ceil(spans.max()) + FOOTER
    return TreeLayout(size, row, spans, lines, boxes, (right, width))


def _joined(texts):
    """All texts of a leaf, each once: "a / b", or "a ×3 / b"."""
    return " / ".join(text if n == 1 else f"{text} ×{n}" for text, n in Counter(texts).items())


def _leaf_ranges(branches, leaves):
    """(B, 2) int64: the first row of each branch's leaves, and the one after its last."""
    count = np.zeros(len(branches), dtype=np.int64)
    count[leaves] = 1
    for i in range(len(branches) - 1, -1, -1):  # children come after parents
        if branches[i].parent is not None:
            count[branches[i].parent] += count[i]
    first = np.zeros_like(count)
    taken, top = np.zeros_like(count), 0
    for i, branch in enumerate(branches):
        if branch.parent is None:
            first[i], top = top, top + count[i]
        else:
            first[i] = first[branch.parent] + taken[branch.parent]
            taken[branch.parent] += count[i]
    return np.stack([first, first + count], axis=1)


def _draw_header(draw, plan, layout):
    title = (
        f"{plan.num_prompts} prompt{'s' * (plan.num_prompts > 1)}, {plan.num_steps} step{'s' * (plan.num_steps > 1)}: "
        f"{plan.nfe} of {plan.nfe_standard} UNet rows, {100 * plan.saved:.1f} % saved"
    )
    face, title = choose_font(title, 16)
    face.draw(draw, MARGIN, 20, shorten(title, face, layout.size[0] - 2 * MARGIN))
    face, _ = choose_font("", 12)
    left, right = LEFT, layout.lines[:, 1].max()
    every = _tick_distance(plan.num_steps, (right - left) / 70)
    for k in range(0, plan.num_steps + 1, every):
        x = round(left + (right - left) * k / plan.num_steps)
        draw.line([(x, HEADER - 12), (x, layout.size[1] - FOOTER)], fill=GRID)
        face.draw(draw, x, HEADER - 20, str(k), MUTED, centred=True)
    face.draw(draw, MARGIN, HEADER - 20, "steps", MUTED)


def _tick_distance(num_steps, most):
    """The smallest of 1, 2, 5, 10, 20 ... that needs at most `most` ticks."""
    distances = (m * 10**e for e in range(9) for m in (1, 2, 5))
    return next(d for d in distances if num_steps / d <= most)


def _draw_origin(canvas, draw, plan, layout):
    """The latents that the branches of step 0 start from: one for all, or one for each seed."""
    groups, seeds = plan.groups()
    roots = [(i, groups[branch.members[0]]) for i, branch in enumerate(plan.branches) if branch.parent is None]
    for group, seed in enumerate(seeds):
        ys = [layout.middles[i] for i, own in roots if own == group]
        _draw_noise(canvas, draw, ys, "shared noise" if seed is None else f"seed {seed}")


def _draw_noise(canvas, draw, ys, name):
    """A dot for a latent, with lines to the branches at these heights."""
    x = LEFT - 14
    _line(draw, x, ys[0], x, ys[-1], 1)
    for y in ys:
        _line(draw, x, y, LEFT, y, 1)
    middle = round((ys[0] + ys[-1]) / 2)
    dot = Image.new("L", (72, 72), 0)
    ImageDraw.Draw(dot).ellipse([0, 0, 71, 71], fill=255)
    canvas.paste(LINE, (x - 4, middle - 4), dot.resize((9, 9), Image.Resampling.LANCZOS))
    face, text = choose_font(name, 12)
    text = shorten(text, face, max(SHORTEST_NAME, abs(ys[-1] - ys[0])))
    label = Image.new("L", (math.ceil(face.getlength(text)) + 2, 18), 0)
    face.draw(ImageDraw.Draw(label), 1, 9, text, fill="white")
    label = label.rotate(90, expand=True)
    canvas.paste(MUTED, (MARGIN - 8, middle - label.height // 2), label)


def _draw_branches(draw, plan, layout):
    middles = layout.middles
    reach = GAP if layout.row >= SMALLEST_TEXT_ROW else 0  # of leaves, towards their pictures or texts
    for i, branch in enumerate(plan.branches):
        width = _thickness(len(branch.members), layout.spans[i])
        left, right = layout.lines[i]
        right += reach if branch.stop == plan.num_steps else 0
        _line(draw, left, middles[i], right, middles[i], width)
        if branch.parent is not None:
            _line(draw, left, middles[branch.parent], left, middles[i], min(width, 2))


def _thickness(members, span):
    """2 pixels for one prompt, one more for each doubling or so; less where the branch's own rows are narrow."""
    return int(max(1, min(2 + 0.75 * math.log2(members), 7, (span[1] - span[0]) / 4)))


def _line(draw, x0, y0, x1, y1, width):
    """A straight or upright line, both ends included, `width` pixels thick across its direction."""
    (x0, x1), (y0, y1) = sorted((round(x0), round(x1))), sorted((round(y0), round(y1)))
    before, after = (width - 1) // 2, width // 2
    across, along = (before, after), (0, 0)
    (left, right), (up, down) = (across, along) if x0 == x1 else (along, across)
    draw.rectangle([x0 - left, y0 - up, x1 + right, y1 + down], fill=LINE)


def _paste(canvas, draw, box, picture, leaf):
    left, top, right, bottom = box
    scale = (right - left) / max(picture.size)
    size = [max(1, round(n * scale)) for n in picture.size]
    x = left if leaf else right - size[0]  # against the end of the line
    y = (top + bottom - size[1]) // 2
    draw.rectangle([x - 1, y - 1, x + size[0], y + size[1]], outline=FRAME)
    canvas.paste(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), (x, y))


def _draw_texts(draw, layout, texts):
    left, width = layout.text
    if not width:
        return
    size = min(13, int(layout.row) - 2)
    pitch = round(1.3 * size)
    lines = max(1, min(4, int(layout.row) // pitch))
    for i, text in texts.items():
        face, text = choose_font(text, size)
        rows = wrap(text, face, width, lines)
        top = layout.middles[i] - pitch * (len(rows) - 1) / 2
        for j, line in enumerate(rows):
            face.draw(draw, left, top + j * pitch, line)
