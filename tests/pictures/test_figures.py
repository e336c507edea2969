"""What the pictures show: the right things, in the right places, at a size that can be looked at."""

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw
from scipy.cluster.hierarchy import dendrogram

from hierdiff_core.pictures import contact_sheet as sheets
from hierdiff_core.pictures import dendrogram as dendrogram_figure
from hierdiff_core.pictures import fonts as lettering
from hierdiff_core.pictures import schedule as schedule_figure
from hierdiff_core.pictures import sensitivity as sensitivity_figure
from hierdiff_core.pictures import tree
from hierdiff_core.pictures.contact_sheet import contact_sheet
from hierdiff_core.pictures.dendrogram import draw_dendrogram
from hierdiff_core.pictures.schedule import draw_schedule
from hierdiff_core.pictures.sensitivity import draw_sensitivity
from hierdiff_core.pictures.tree import draw_tree
from hierdiff_core.plan.building import build_plan
from hierdiff_core.plan.linkage import flat_clusters, ward_linkage
from hierdiff_core.plan.profile import linear_thresholds
from hierdiff_core.plan.sensitivity import Sensitivity

MEASURED = Sensitivity(40, [11, 20, 30, 36, 39, 40], [1e-4, 1e-3, 1e-2, 0.2, 0.5, 1.0], {"model": "a small model"})


def embeddings(n, seed=0, groups=None):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups or max(1, n // 4), 24))
    return rng.normal(size=24) + centres[rng.integers(len(centres), size=n)] + 0.4 * rng.normal(size=(n, 24))


def make_plan(n, num_steps=20, share=0.8, seed=0):
    Z = ward_linkage(embeddings(n, seed))
    return build_plan(Z, linear_thresholds(num_steps, share * Z[-1, 2] if n > 1 else 0))


def chain(n):
    """A tree as deep as it can be: each merge adds one leaf."""
    rows = [[0, 1, 1, 2]] + [[i + 1, n + i - 1, i + 1, i + 2] for i in range(1, n - 1)]
    return np.array(rows, dtype=np.float64)


def names(n):
    return [f"prompt {i}" for i in range(n)]


def colour(i):
    """Saturated, unlike any colour that the figures draw with, and different for every i below 4096."""
    return 255, 16 * (i // 256), i % 256


def tiles(count, size=(32, 32)):
    return [Image.new("RGB", size, colour(i)) for i in range(count)]


def where(picture, rgb):
    """(rows, columns) of the pixels of exactly this colour."""
    pixels = np.asarray(picture.convert("RGBA")).view(np.uint32)[..., 0]
    return np.nonzero(pixels == np.array([*rgb, 255], np.uint8).view(np.uint32))


def extent(picture, rgb):
    rows, columns = where(picture, rgb)
    assert len(rows), f"{rgb} is not in the picture"
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.fixture
def drawn(monkeypatch):
    """The Matplotlib figures that are drawn, in order."""
    figure_list, finish = [], dendrogram_figure.as_picture
    for module in (dendrogram_figure, schedule_figure, sensitivity_figure):
        monkeypatch.setattr(module, "as_picture", lambda figure: figure_list.append(figure) or finish(figure))
    return figure_list


def figure_texts(figure):
    return [text.get_text() for part in (figure, *figure.axes) for text in part.texts]


# --- dendrogram


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_leaves_are_named_in_scipys_order(n, seed):
    Z = ward_linkage(embeddings(n, seed))
    with pytest.MonkeyPatch.context() as patch:
        caught, finish = [], dendrogram_figure.as_picture
        patch.setattr(dendrogram_figure, "as_picture", lambda figure: caught.append(figure) or finish(figure))
        draw_dendrogram(Z, names(n))
    axes = caught[0].axes[0]
    top_first = sorted(axes.texts, key=lambda text: -text.get_window_extent().y0)
    assert [text.get_text() for text in top_first] == [f"prompt {i}" for i in dendrogram(Z, no_plot=True)["leaves"]]


def test_colours_below_tau_are_the_flat_clusters(drawn):
    n = 40
    Z = ward_linkage(embeddings(n))
    tau = (Z[-8, 2] + Z[-7, 2]) / 2  # 8 clusters
    draw_dendrogram(Z, names(n), tau)
    lines = drawn[0].axes[0].collections[0]
    colours = [matplotlib.colors.to_hex(c) for c in lines.get_edgecolor()]
    assert [c == lettering.INK for c in colours] == (Z[:, 2] > tau).tolist()
    labels = flat_clusters(Z, tau)
    order = dendrogram(Z, no_plot=True)["leaves"]
    shown = {}
    for (a, b, height, _), c in zip(Z, colours, strict=True):
        if height <= tau and a < n and b < n:
            assert shown.setdefault(labels[int(a)], c) == c
    in_order = [shown[c] for c in dict.fromkeys(labels[order].tolist()) if c in shown]
    assert all(a != b for a, b in pairwise(in_order))


def test_tau_is_a_dashed_line_at_its_height(drawn):
    Z = ward_linkage(embeddings(12))
    tau = float(Z[-3, 2])
    draw_dendrogram(Z, names(12), tau)
    draw_dendrogram(Z, names(12))
    marked, plain = (figure.axes[0] for figure in drawn)
    assert [line.get_xdata()[0] for line in marked.lines] == [tau]
    assert marked.lines[0].is_dashed()
    assert not plain.lines
    assert any("τ = " in text for text in figure_texts(drawn[0]))


def test_a_huge_tau_does_not_squash_the_tree(drawn):
    Z = ward_linkage(embeddings(12))
    draw_dendrogram(Z, names(12), 1000 * Z[-1, 2])
    axes = drawn[0].axes[0]
    assert axes.get_xlim()[0] < 1.2 * Z[-1, 2]
    assert any(text.startswith("← τ") for text in figure_texts(drawn[0]))


@pytest.mark.parametrize("n", [2, 24, 60, 300, 700, 2000, 5000])
def test_dendrogram_size_and_names(n, drawn):
    picture = draw_dendrogram(chain(n), names(n), tau=n / 2)
    assert picture.mode == "RGB"
    assert picture.width == 1000
    assert 100 < picture.height <= 4000
    texts = figure_texts(drawn[0])
    if n <= 300:
        assert sum(text.startswith("prompt ") for text in texts) == n
    if n >= 700:
        assert not any(text.startswith("prompt ") for text in texts)
        assert f"{n} prompts: too many to name" in texts


def test_long_names_keep_their_ends_and_stay_inside(drawn):
    Z = ward_linkage(embeddings(5))
    prompts = [f"{i}: " + "a very long prompt " * 20 + f"(variant {i})" for i in range(5)]
    draw_dendrogram(Z, prompts)
    shown = [text for text in drawn[0].axes[0].texts if "…" in text.get_text()]
    assert len(shown) == 5
    for text in shown:
        i = text.get_text()[0]
        assert text.get_text().endswith(f"(variant {i})")
        assert text.get_window_extent().x1 <= 1000


def test_one_prompt_has_nothing_to_share(drawn):
    picture = draw_dendrogram(np.empty((0, 4)), ["a lonely cat"], tau=1.0)
    assert figure_texts(drawn[0]) == ["a lonely cat", "one prompt: nothing to share"]
    assert len(picture.getcolors(10**6)) > 2


def test_equal_prompts_and_zero_heights(drawn):
    Z = ward_linkage(np.ones((4, 3)))
    draw_dendrogram(Z, ["same"] * 4, tau=0)
    assert figure_texts(drawn[0]).count("same") == 4


def test_dollars_are_not_mathematics(drawn):
    draw_dendrogram(ward_linkage(embeddings(2)), [r"$\frac{$", "costs 5$ or 6$"])
    assert {r"$\frac{$", "costs 5$ or 6$"} <= set(figure_texts(drawn[0]))


def test_dendrogram_errors():
    Z = ward_linkage(embeddings(4))
    with pytest.raises(ValueError, match=r"leaves of Z \(4\); got 3"):
        draw_dendrogram(Z, names(3))
    with pytest.raises(ValueError, match="height >= 0"):
        draw_dendrogram(Z, names(4), tau=-1)
    with pytest.raises(ValueError, match="linkage"):
        draw_dendrogram(np.zeros((3, 3)), names(4))


def test_others_matplotlib_defaults_change_nothing():
    Z, plan = ward_linkage(embeddings(6)), make_plan(6)
    plain = [draw_dendrogram(Z, names(6), 0.1), draw_schedule(plan), draw_sensitivity(MEASURED)]
    theirs = {
        "text.usetex": True,
        "font.size": 30,
        "axes.grid": True,
        "grid.color": "red",
        "figure.dpi": 300,
        "figure.autolayout": True,
        "lines.linewidth": 9,
    }
    with matplotlib.style.context("dark_background"), matplotlib.rc_context(theirs):
        styled = [draw_dendrogram(Z, names(6), 0.1), draw_schedule(plan), draw_sensitivity(MEASURED)]
    for a, b in zip(plain, styled, strict=True):
        assert a.size == b.size
        assert a.tobytes() == b.tobytes()


def test_threads_draw_what_one_thread_draws():
    plans = [make_plan(5 + i, seed=i) for i in range(4)]
    alone = [draw_schedule(plan).tobytes() for plan in plans]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda plan: draw_schedule(plan).tobytes(), plans * 3))
    assert together == alone * 3


# --- schedule


@pytest.mark.parametrize("share", [0, 0.4, 1])
def test_shaded_area_is_the_share_saved(share):
    plan = make_plan(30, num_steps=25, share=share)
    picture = draw_schedule(plan)
    run = len(where(picture, (0x00, 0x72, 0xB2))[0])
    saved = len(where(picture, (0xCF, 0xE3, 0xF1))[0])
    assert saved / (run + saved) == pytest.approx(plan.saved, abs=0.01)


def test_schedule_title_and_thresholds(drawn):
    plan = make_plan(24, num_steps=40)
    draw_schedule(plan)
    title = f"NFE {plan.nfe} of N·K = 24 × 40 = 960: {100 * plan.saved:.1f} % saved"
    assert title in figure_texts(drawn[0])
    curve = drawn[0].axes[0].patches[0].get_data()
    np.testing.assert_array_equal(curve.values, plan.thresholds)


@pytest.mark.parametrize("num_steps", [1, 2, 1000])
def test_schedule_of_any_length_has_whole_ticks(num_steps, drawn):
    draw_schedule(make_plan(3, num_steps=num_steps))
    for axes in drawn[0].axes:
        ticks = axes.get_xticks()
        assert len(ticks) >= 1
        assert (ticks == ticks.round()).all()


# --- sensitivity


def test_sensitivity_shows_what_was_measured_and_what_each_step_adds(drawn):
    picture = draw_sensitivity(MEASURED)
    assert (picture.mode, picture.size) == ("RGB", (1000, 640))
    upper, lower = drawn[0].axes
    curve, dots = upper.lines
    np.testing.assert_array_equal(dots.get_xydata(), np.stack([MEASURED.shared_steps, MEASURED.change], axis=1))
    np.testing.assert_array_equal(curve.get_ydata(), MEASURED.cumulative(40)[1:])
    np.testing.assert_array_equal(lower.patches[0].get_data().values, MEASURED.weights(40))
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "log")
    assert "Sensitivity of a small model, 40 steps" in figure_texts(drawn[0])


def test_sensitivity_of_one_step_is_named_so(drawn):
    draw_sensitivity(Sensitivity(1, [1], [1.0]))
    assert "Sensitivity of the model, 1 step" in figure_texts(drawn[0])


def test_measurements_that_fall_are_drawn_inside_the_axes(drawn):
    draw_sensitivity(Sensitivity(4, [1, 2, 3, 4], [0.1, 20.0, 1.0, 0.5]))
    _, dots = drawn[0].axes[0].lines
    assert len(dots.get_ydata()) == 4
    low, high = drawn[0].axes[0].get_ylim()
    assert low <= min(dots.get_ydata()) <= max(dots.get_ydata()) <= high


def test_dot_of_the_last_step_is_whole():
    picture = draw_sensitivity(Sensitivity(2, [2], [1.0])).crop((0, 0, 1000, 300))
    left, top, right, bottom = extent(picture, (0x00, 0x72, 0xB2))
    assert right - left == pytest.approx(7, abs=2)
    assert bottom - top == pytest.approx(7, abs=2)


def test_steps_that_add_next_to_nothing_have_no_bar():
    picture = draw_sensitivity(Sensitivity(4, [1, 2, 3, 4], [0, 0, 0, 1.0])).crop((0, 340, 1000, 640))
    left, _, right, _ = extent(picture, (0x00, 0x72, 0xB2))
    assert left > 740
    assert right <= 980


@pytest.mark.parametrize("num_steps", [1, 2, 1000])
def test_sensitivity_of_any_length_has_whole_steps_and_powers_of_ten(num_steps, drawn):
    draw_sensitivity(Sensitivity(num_steps, [num_steps], [3e-5]))
    for axes in drawn[0].axes:
        ticks, powers = axes.get_xticks(), np.log10(axes.get_yticks())
        assert len(ticks) >= 1
        assert (ticks == ticks.round()).all()
        np.testing.assert_allclose(powers, powers.round(), atol=1e-9)
        assert len(powers) >= 3


# --- tree


class Render:
    """Gives a tile of its own colour for each branch and remembers what it was asked for."""

    def __init__(self, size=(32, 32)):
        self.calls, self.size = [], size

    def __call__(self, branches):
        self.calls.append(branches)
        return [Image.new("RGB", self.size, colour(i)) for i in branches]


@pytest.mark.parametrize(
    ("n", "num_steps", "share"), [(1, 5, 0), (2, 1, 1), (7, 20, 0), (24, 40, 0.7), (60, 20, 9), (500, 40, 1)]
)
def test_every_rendered_branch_is_in_the_tree(n, num_steps, share):
    plan, render = make_plan(n, num_steps, share), Render()
    picture = draw_tree(plan, names(n), render)
    assert len(render.calls) == 1
    asked = render.calls[0]
    assert len(asked) == len(set(asked))
    assert set(asked) <= set(range(len(plan.branches)))
    seen = {rgb for _, rgb in picture.getcolors(10**7)}
    assert {colour(i) for i in asked} <= seen
    assert picture.mode == "RGB"
    assert picture.height <= 4096
    assert picture.width <= 1600


def test_all_leaves_and_long_lived_branches_of_24_prompts_have_pictures():
    plan, render = make_plan(24, 40, 0.9), Render()
    picture = draw_tree(plan, names(24), render)
    asked = set(render.calls[0])
    assert set(tree.leaf_branches(plan)) <= asked
    assert {i for i, branch in enumerate(plan.branches) if branch.stop - branch.start >= 8} <= asked
    leaves = [extent(picture, colour(i)) for i in tree.leaf_branches(plan)]
    assert len({left for left, *_ in leaves}) == 1  # in one column


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 90),
    num_steps=st.integers(1, 60),
    share=st.floats(0, 1.5),
    seed=st.integers(0, 10**6),
    equal=st.integers(0, 5),
)
def test_layout_has_no_crossings_and_no_overlaps(n, num_steps, share, seed, equal):
    vectors = embeddings(n, seed)
    vectors[: min(equal, n)] = vectors[0]
    Z = ward_linkage(vectors)
    plan = build_plan(Z, linear_thresholds(num_steps, share * Z[-1, 2] if n > 1 else 0))
    layout, branches = tree.tree_layout(plan), plan.branches
    for i in range(len(branches)):
        children = [j for j, other in enumerate(branches) if other.parent == i]
        if children:  # in rows of their own that make up the parent's
            spans = sorted(layout.spans[children].tolist())
            assert [spans[0][0], spans[-1][1]] == layout.spans[i].tolist()
            assert all(a[1] == b[0] for a, b in pairwise(spans))
        if i in layout.boxes:
            left, top, right, bottom = layout.boxes[i]
            assert layout.spans[i][0] <= top
            assert bottom <= layout.spans[i][1]
            assert right - left == bottom - top >= 24
            if children:
                assert layout.lines[i][0] < left
                assert right < layout.lines[i][1]
            else:
                assert layout.lines[i][1] < left
                assert right < layout.size[0]
    for a, b in combinations(layout.boxes.values(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    roots = sorted(layout.spans[[i for i, branch in enumerate(branches) if branch.parent is None]].tolist())
    assert all(a[1] == b[0] for a, b in pairwise(roots))
    assert roots[-1][1] <= layout.size[1]


def test_pictures_keep_their_shape():
    plan, render = make_plan(6), Render(size=(64, 32))
    picture = draw_tree(plan, names(6), render)
    for i in render.calls[0]:
        left, top, right, bottom = extent(picture, colour(i))
        assert right - left == pytest.approx(2 * (bottom - top), abs=1)


@pytest.mark.parametrize("n", [500, 2000, 5000])
def test_crowded_trees_stay_small_and_drop_texts(n, monkeypatch):
    monkeypatch.setattr(tree, "wrap", lambda *_: pytest.fail("there is no room for texts"))
    plan, render = build_plan(chain(n), linear_thresholds(10, n)), Render()
    picture = draw_tree(plan, names(n), render)
    assert picture.height <= 4096
    assert picture.width <= 1600
    assert not set(render.calls[0]) & set(tree.leaf_branches(plan))
    if n <= 4000:  # an even distance of the lines: no stripes
        middles = tree.tree_layout(plan).middles[tree.leaf_branches(plan)]
        assert len(set(np.diff(np.sort(middles.round())))) == 1
    assert len(render.calls) == 1


def test_equal_prompts_share_a_leaf_that_names_them_all(monkeypatch):
    vectors = embeddings(5)
    vectors[3] = vectors[4] = vectors[0]
    plan = build_plan(ward_linkage(vectors), linear_thresholds(20, 0.1))
    texts, wrap = [], tree.wrap
    monkeypatch.setattr(tree, "wrap", lambda text, *rest: texts.append(text) or wrap(text, *rest))
    render = Render()
    draw_tree(plan, ["a", "x", "y", "b", "a"], render)
    assert sorted(texts) == ["a ×2 / b", "x", "y"]
    assert len(tree.leaf_branches(plan)) == 3


def test_tree_errors():
    plan = make_plan(4)
    with pytest.raises(ValueError, match=r"\(4\); got 5"):
        draw_tree(plan, names(5), Render())
    asked = len(tree.tree_layout(plan).boxes)
    with pytest.raises(ValueError, match=f"each of {asked} branches; got 1"):
        draw_tree(plan, names(4), lambda branches: tiles(1))


# --- contact sheet


def test_sheet_is_in_reading_order_with_captions_below():
    sheet = contact_sheet(tiles(7, (128, 96)), names(7), columns=3)
    boxes = [extent(sheet, colour(i)) for i in range(7)]
    assert all((right - left, bottom - top) == (128, 96) for left, top, right, bottom in boxes)
    assert [(box[1], box[0]) for box in boxes] == sorted((box[1], box[0]) for box in boxes)
    assert len({box[0] for box in boxes}) == 3
    assert len({box[1] for box in boxes}) == 3
    below = np.asarray(sheet.convert("L"))[boxes[0][3] : boxes[3][1], boxes[0][0] : boxes[0][2]]
    assert (below < 128).any()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 12, 24, 100])
def test_automatic_columns_make_a_pleasing_sheet(n):
    sheet = contact_sheet(tiles(n, (80, 80)), names(n))
    assert all(len(where(sheet, colour(i))[0]) == 80 * 80 for i in range(n))
    if n >= 5:
        assert 0.8 < sheet.width / sheet.height < 2.2


def test_sheet_sizes_of_pictures():
    tiny = contact_sheet(tiles(1, (16, 16)), ["tiny"])
    left, _, right, _ = extent(tiny, colour(0))
    assert tiny.width >= 96
    assert left == tiny.width - right
    left, top, right, bottom = extent(contact_sheet(tiles(1, (1500, 750)), ["large"]), colour(0))
    assert (right - left, bottom - top) == (512, 256)
    one_line = contact_sheet(tiles(1, (200, 200)), ["short"])
    many_lines = contact_sheet(tiles(1, (200, 200)), ["word " * 500])
    assert one_line.height < many_lines.height < 200 + 80


@pytest.mark.parametrize(("n", "columns", "side"), [(600, 1, 64), (300, 300, 128), (300, 0, 512)])
def test_huge_sheets_shrink_but_keep_every_picture(n, columns, side):
    sheet = contact_sheet((tile for tile in tiles(n, (side, side))), names(n), columns)
    assert max(sheet.size) <= 16384
    assert sheet.width * sheet.height <= sheets.MAX_PIXELS
    seen = {rgb for _, rgb in sheet.getcolors(sheet.width * sheet.height)}
    assert {colour(i) for i in range(n)} <= seen


def test_sheet_errors():
    with pytest.raises(ValueError, match=r"got 2 images and 3 prompts\. Give the prompts"):
        contact_sheet(tiles(2), names(3))
    with pytest.raises(ValueError, match="got 3 images and 2 prompts"):
        contact_sheet(tiles(3), names(2))
    with pytest.raises(ValueError, match=r"columns must be 0 .* got -1"):
        contact_sheet(tiles(2), names(2), columns=-1)
    with pytest.raises(ValueError, match="images must contain at least one"):
        contact_sheet([], [])


# --- fonts


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """An empty folder as the only one that is searched for fonts."""
    monkeypatch.setattr(lettering, "FONT_FOLDERS", (str(tmp_path),))
    lettering._system_fonts.cache_clear()
    yield tmp_path
    lettering._system_fonts.cache_clear()


def save_font(path, characters):
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 700), (500, 700), (500, 0)):
        (pen.lineTo if point != (0, 0) else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    glyphs = [".notdef", *(f"g{ord(c)}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(c): f"g{ord(c)}" for c in characters})
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def fonts_of(text):
    face, text = lettering.choose_font(text, 14)
    return [(Path(font.path).name, piece) for font, piece in face.pieces(text)]


def test_characters_that_no_font_has_become_question_marks(fonts):
    assert fonts_of("a cat 猫 \U0001f98a\ufe0f!\nnew line") == [("DejaVuSans.ttf", "a cat ? ?! new line")]


def test_system_fonts_have_what_dejavu_lacks(fonts):
    (fonts / "msyh.ttc").write_bytes(b"not a font")
    save_font(fonts / "simhei.ttf", "猫")
    (fonts / "deep").mkdir()
    save_font(fonts / "deep" / "WQY-ZenHei.ttc", "猫猪")
    assert fonts_of("two cats") == [("DejaVuSans.ttf", "two cats")]
    assert fonts_of("猫 cat") == [("simhei.ttf", "猫"), ("DejaVuSans.ttf", " cat")]
    assert fonts_of("猫猪兔") == [("simhei.ttf", "猫"), ("WQY-ZenHei.ttc", "猪"), ("DejaVuSans.ttf", "?")]


def test_names_in_several_fonts_are_drawn_on_one_line(fonts, drawn):
    save_font(fonts / "simhei.ttf", "猫")
    draw_dendrogram(ward_linkage(embeddings(2)), ["two 猫猫 cats", "x"])
    pieces = [text for text in drawn[0].axes[0].texts if text.get_text() != "x"]
    assert [piece.get_text() for piece in pieces] == ["two ", "猫猫", " cats"]
    boxes = [piece.get_window_extent() for piece in pieces]
    assert boxes[1].x0 == pytest.approx(boxes[0].x1, abs=5)
    assert boxes[1].x1 == pytest.approx(boxes[2].x0, abs=5)
    white = Image.new("L", (200, 40), 255)
    face, text = lettering.choose_font("猫two猫", 20)
    assert face.getlength(text) > 50
    face.draw(ImageDraw.Draw(white), 100, 20, text, centred=True)
    left, top, right, bottom = ImageChops.invert(white).getbbox()
    assert (left + right) / 2 == pytest.approx(100, abs=3)
    assert right - left == pytest.approx(face.getlength(text), abs=5)
    assert 0 < top < 20 < bottom < 40


@given(st.text(max_size=300), st.integers(20, 400), st.integers(1, 4))
def test_wrapped_text_fits_and_loses_nothing_unmarked(text, width, lines):
    face, text = lettering.choose_font(text, 12)
    rows = lettering.wrap(text, face, width, lines)
    assert 1 <= len(rows) <= lines
    assert all(face.getlength(row) <= width for row in rows)
    if "…" not in rows[-1]:
        assert "".join(rows).replace(" ", "") == text.replace(" ", "")


def test_text_is_broken_between_words():
    face, text = lettering.choose_font("one two three four five", 14)
    rows = lettering.wrap(text, face, face.getlength("one two th"), 3)
    assert rows == ["one two", "three four", "five"]
