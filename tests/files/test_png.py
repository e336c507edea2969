"""PNG files of our own making, read by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hierdiff_core.files.png import png_bytes

TEXTS = {"prompt": '{"a": 1}', "parameters": "日本語\nzażółć"}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (64, 96)])
def test_pillow_reads_the_same_pixels_and_texts(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    info = PngInfo()
    for key, text in TEXTS.items():
        info.add_text(key, text)
    with Image.open(io.BytesIO(png_bytes(pixels, [chunk[:2] for chunk in info.chunks]))) as picture:
        picture.load()
        assert (picture.mode, picture.format) == ("RGB", "PNG")
        assert np.array_equal(np.asarray(picture), pixels)
        assert picture.text == TEXTS
    with Image.open(io.BytesIO(png_bytes(pixels[:, ::-1]))) as picture:
        assert np.array_equal(np.asarray(picture), pixels[:, ::-1])


def test_pictures_are_compressed():
    slope = np.add.outer(np.arange(256), np.arange(256))[..., None].repeat(3, 2).astype(np.uint8)
    assert len(png_bytes(slope)) < slope.nbytes / 50
