"""How different two pictures look: in words that mean what the eye sees."""

import pytest
import torch

from hierdiff_core.measure.difference import lab, visible_difference

GREY = torch.full((32, 32, 3), 0.5)


def test_colours_are_those_of_the_norm():
    """CIELAB of white, black, red and a grey, by the CIE's formulas."""
    colours = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0.5, 0.5, 0.5]]).float()
    found = lab(colours.T[None, :, :, None])[0, :, :, 0].T
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [53.39, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: p, "none visible"),
        (lambda p: p + 0.005, "none visible"),
        (lambda p: p + 0.04, "slight"),
        (lambda p: 1 - p.roll(1, 0) * 0.2, "visible"),
    ],
)
def test_words(change, word):
    assert visible_difference(change(GREY.clone()), GREY).word == word


def test_one_pixel_is_not_seen_and_a_corner_is():
    spot, corner = GREY.clone(), GREY.clone()
    spot[5, 5] = 0.55
    corner[:12, :12] = 0.8
    assert visible_difference(spot, GREY).word == "none visible"
    found = visible_difference(corner, GREY)
    assert found.word == "slight"
    assert 0.1 < found.share < 0.2


def test_black_and_white_are_a_hundred_apart_either_way():
    white, black = torch.ones(1, 16, 16, 3), torch.zeros(1, 16, 16, 3)
    for pair in ((white, black), (black, white)):
        word, mean, share = visible_difference(*pair)
        assert (word, share) == ("visible", 1)
        assert mean == pytest.approx(100, abs=0.1)


def test_pictures_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="of the same size"):
        visible_difference(GREY, GREY[:16])
    with pytest.raises(ValueError, match="NaN"):
        visible_difference(GREY * float("nan"), GREY)
