"""The chart of an advice: every means has a line, and whoever reads it is told what the axes are."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from hierdiff_core.pictures import advice as figure_module
from hierdiff_core.pictures.advice import draw_advice
from hierdiff_core.pictures.axes import PALETTE

CHART = {
    "curves": {"fewer steps": [(20.0, 0.4), (10.0, 6.0)], "first steps shared by all": [(30.0, 0.1), (25.0, 140.0)]},
    "mixed": [(12.0, 0.9), (8.0, 300.0)],
    "full": 40.0,
    "advised": (12.0, 0.9, 2.1),
    "allowed": 3.0,
    "measure": "looks as good",
    "title": "Sharing pays up to 20 % of the steps; 12 instead of 40 passes per picture, no measurable loss.",
}


@pytest.fixture
def drawn(monkeypatch):
    figures, finish = [], figure_module.as_picture
    monkeypatch.setattr(figure_module, "as_picture", lambda figure: figures.append(figure) or finish(figure))
    return figures


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_each_means_has_a_line_from_full_sampling_and_losses_above_the_axis_are_marked_at_its_edge(drawn):
    picture = draw_advice(**CHART)
    assert picture.size == (1000, 700)
    axes = drawn[0].axes[0]
    lines = {to_hex(line.get_color()): line for line in axes.lines if line.get_linestyle() == "-"}
    for colour, points in zip(PALETTE, CHART["curves"].values(), strict=False):
        assert sorted(zip(*lines[colour].get_data(), strict=True)) == sorted([*points, (40.0, 0.0)])
    top = axes.get_ylim()[1]
    assert 10 < top < 20
    edge = [line for line in axes.lines if line.get_marker() == "^" and len(line.get_xdata())]
    assert sorted(float(x) for line in edge for x in line.get_xdata()) == [8, 25]
    assert all(np.allclose(line.get_ydata(), top) for line in edge)


def test_advised_point_and_axes_are_told_in_words(drawn):
    draw_advice(**CHART)
    star = next(line for line in drawn[0].axes[0].lines if line.get_marker() == "*")
    assert star.get_data() == ([12.0], [0.9])
    said = texts(drawn[0])
    for part in (
        "12 passes, 0.9 % lost",
        "(2.1 % at most)",
        "allowed: 3 %",
        "passes of the model per picture",
        "% lost against drawing every picture in full",
        "fewer steps",
        "Sharing pays up to 20 % of the steps",
    ):
        assert part in said
    assert "NFE" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"curves": {}, "mixed": [], "allowed": None, "advised": (40.0, 0.0, 0.0)},
        {"curves": {"fewer steps": [(20.0, -5.0)]}, "advised": (20.0, -5.0, 0.0)},
        {"allowed": 100.0, "advised": (3.0, 90.0, 400.0)},
        {"full": 0.5, "advised": (0.2, 0.0, 1.0), "title": "word " * 200, "measure": "looks the same"},
    ],
)
def test_odd_advice_is_drawn_too(change):
    assert draw_advice(**{**CHART, **change}).size == (1000, 700)
