"""Sheets with axes: which sets have them, and where pictures and headings stand."""

import numpy as np
import pytest
from PIL import Image

from hierdiff_core.pictures import grid_sheet as grids
from hierdiff_core.pictures.grid_sheet import grid_of, grid_sheet
from hierdiff_core.prompts.prompt_set import PromptReader

SIZE = (48, 32)


def rows_of(*lines):
    reader = PromptReader()
    reader.add_text("\n".join(lines))
    return reader.rows


def grid(rows, size=SIZE, seeds=None):
    return grid_of([row.factors for row in rows], seeds or [row.seed for row in rows], size)


def colour(i):
    return 40 + i, 200 - i, 90


def tiles(count, size=SIZE):
    return (Image.new("RGB", size, colour(i)) for i in range(count))


def corner(sheet, i):
    """(x, y) of the first pixel of a picture."""
    y, x = np.nonzero((np.asarray(sheet) == colour(i)).all(axis=2))
    return x.min(), y.min()


def names(factors):
    return [factor.values for factor in factors]


def test_two_factors_are_rows_and_columns():
    found = grid(rows_of("a {red|green|blue} {apple|pear}"))
    assert names(found.rows) == [("red", "green", "blue")]
    assert names(found.columns) == [("apple", "pear")]
    assert found.places == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))


def test_more_factors_fold_into_the_axis_that_keeps_the_sheet_in_shape():
    rows = rows_of("{a|b|c} {d|e} {f|g}")
    wide, tall = grid(rows, (100, 100)), grid(rows, (400, 100))
    assert (names(wide.rows), names(wide.columns)) == ([("a", "b", "c")], [("d", "e"), ("f", "g")])
    assert (names(tall.rows), names(tall.columns)) == ([("a", "b", "c"), ("d", "e")], [("f", "g")])
    assert [wide.places[i] for i in (0, 1, 2, 4)] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert [tall.places[i] for i in (0, 1, 2, 4)] == [(0, 0), (0, 1), (1, 0), (2, 0)]


def test_prompts_that_differ_in_the_seed_alone_have_it_as_a_factor():
    rows = [row for row in rows_of("{a|b} {c|d}") for _ in range(3)]
    found = grid(rows, seeds=[7, 8, 9] * 4)
    assert sorted(names([*found.rows, *found.columns])) == [("a", "b"), ("c", "d"), ("seed 7", "seed 8", "seed 9")]
    assert len(set(found.places)) == 12
    assert grid(rows, seeds=[7] * 12) is None
    assert grid(rows) is None
    one_factor = [row for row in rows_of("{a|b}") for _ in range(2)]
    assert grid(one_factor, seeds=[1, 2, 1, 2]).shape == (2, 2)


@pytest.mark.parametrize(
    "lines",
    [
        ("a", "b"),
        ("{a|b|c}",),
        ("{a|b} {c|d}", "{a|b} {c|d}"),
        ("{a|b} {c|d}", "e"),
        ("{a|b} {c|c}",),
        ("{a|b} {c|d}", "{e|f}"),
    ],
)
def test_other_sets_have_no_axes(lines):
    assert grid(rows_of(*lines)) is None


def test_places_may_be_empty_but_not_most_of_them():
    rows = rows_of("{a|b|c} {d|e|f}")
    found = grid(rows[:5] + rows[7:])
    assert found.shape == (3, 3)
    assert (1, 2) not in found.places
    assert grid([rows[0], rows[4], rows[8]]) is None


def test_pictures_stand_in_their_rows_and_columns_beside_the_headings():
    found = grid(rows_of("{a|b|c} {d|e}"))
    sheet = grid_sheet(tiles(6), found)
    corners = [corner(sheet, i) for i in range(6)]
    assert len({x for x, _ in corners}) == 2
    assert len({y for _, y in corners}) == 3
    assert corners == sorted(corners, key=lambda place: (place[1], place[0]))
    grey = np.asarray(sheet.convert("L"))
    left, top = corners[0]
    assert (grey[:top, left:] < 128).any()
    for row in range(3):
        y = corners[2 * row][1]
        assert (grey[y : y + SIZE[1], :left] < 128).any()


def test_picture_that_is_missing_leaves_its_place_white():
    rows = rows_of("{a|b} {c|d}")
    sheet = np.asarray(grid_sheet(tiles(3), grid(rows[:3])))
    whole = grid_sheet(tiles(4), grid(rows))
    x, y = corner(whole, 3)
    assert sheet.shape == np.asarray(whole).shape
    assert (sheet[y : y + SIZE[1], x : x + SIZE[0]] == 255).all()


def test_outer_blocks_are_further_apart():
    sheet = grid_sheet(tiles(12, (64, 64)), grid(rows_of("{a|b|c} {d|e} {f|g}"), (64, 64)))
    first, second, third = (corner(sheet, i)[0] for i in (0, 1, 2))
    assert third - second > second - first


@pytest.mark.parametrize("text", ["w" * 3000, "虎 " * 50, "\u202eabc", "a\x00b", ""])
def test_headings_of_any_text(text):
    factors = [[("x", a), ("y", b)] for a in (text, "b") for b in (f"{text}1", "d")]
    sheet = grid_sheet(tiles(4), grid_of(factors, [None] * 4, SIZE))
    assert max(sheet.size) < 1000


def test_large_grids_shrink(monkeypatch):
    monkeypatch.setattr(grids, "MAX_SIDE", 800)
    found = grid(rows_of("{" + "|".join(f"n{i}" for i in range(12)) + "} {a|b|c}"))
    sheet = grid_sheet(tiles(36, (300, 200)), found)
    assert max(sheet.size) <= 800
    assert all(corner(sheet, i) for i in range(36))


@pytest.mark.parametrize("count", [0, 3, 5])
def test_wrong_number_of_pictures(count):
    with pytest.raises(ValueError, match=f"as many images as prompts; got {count} images and 4 prompts"):
        grid_sheet(tiles(count), grid(rows_of("{a|b} {c|d}")))
