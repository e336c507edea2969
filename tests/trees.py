"""What the messages of a growing tree must be, and the pictures in them."""

import base64
import io
import math

import numpy as np
from PIL import Image


def tiles_of(sheets):
    """{branch: (h, w, 3) uint8 array} of the `tiles` of a message."""
    found = {}
    for sheet in sheets:
        kind, data = sheet["image"].split(",")
        assert kind == "data:image/jpeg;base64"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        width, height, columns = sheet["width"], sheet["height"], sheet["columns"]
        assert picture.shape == (math.ceil(len(sheet["branches"]) / columns) * height, columns * width, 3)
        for i, branch in enumerate(sheet["branches"]):
            top, left = i // columns * height, i % columns * width
            found[branch] = picture[top : top + height, left : left + width]
    return found


def assert_forest(message):
    """Parents come before children, children begin where parents stop, and the last branches share out the prompts."""
    branches, steps = message["branches"], message["steps"]
    for i, (start, stop, parent, members) in enumerate(branches):
        assert 0 <= start < stop <= steps
        assert parent < i
        assert start == (branches[parent][1] if parent >= 0 else 0)
        assert bool(members) == (stop == steps)
    for i, (_, stop, _, _) in enumerate(branches):
        children = [parent for _, _, parent, _ in branches].count(i)
        assert children == 0 if stop == steps else children > 1
    assert sorted(member for branch in branches for member in branch[3]) == list(range(len(message["prompts"])))
