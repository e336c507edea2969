"""What the messages of a growing tree must be, and the pictures in them."""

import base64
import io
import math

import numpy as np
import torch
from PIL import Image

from hierdiff_core import build_plan, falling_shape, tau_for_saving, thresholds_at, ward_linkage
from hierdiff_core.previews import tile_sheet


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


def synthetic_run(leaves, steps, node, workflow, side=48):
    """Messages of a run with many leaves, as nodes/host/live_tree.py sends them: begin, progress …, end.

    The tree is a real plan of random embeddings; the pictures are one colour each.
    """
    plan = plan_of(np.random.default_rng(0).standard_normal((leaves, 16)), steps)
    branches = [
        [
            int(branch.start),
            int(branch.stop),
            -1 if branch.parent is None else int(branch.parent),
            branch.members.tolist() if branch.stop == steps else [],
        ]
        for branch in plan.branches
    ]
    known = {"node": node, "run": f"synthetic {workflow}", "workflow": workflow}
    prompts = [f"prompt number {i} of many, in a style" for i in range(leaves)]
    begin = {"kind": "begin", **known, "prompt_id": "synthetic", "steps": steps, "prompts": prompts}
    messages, spent = [{**begin, "branches": branches}], plan.clusters_per_step.cumsum()
    for k in range(steps):
        alive = [i for i, branch in enumerate(plan.branches) if branch.start <= k < branch.stop]
        numbers = {"step": k + 1, "clusters": len(alive), "rows": int(spent[k]), "standard": leaves * (k + 1)}
        messages.append({"kind": "progress", **known, **numbers, "tiles": [coloured_sheet(alive, side)]})
    return [*messages, {**messages[-1], "kind": "end", "state": "done", "tiles": []}]


def plan_of(points, steps):
    Z = ward_linkage(points, "chord")
    shape = falling_shape(steps)
    return build_plan(Z, thresholds_at(tau_for_saving(Z, shape, 0.5), shape))


def coloured_sheet(branches, side):
    colours = torch.tensor([[branch * 37 % 256, branch * 91 % 256, branch * 151 % 256] for branch in branches])
    tiles = colours.to(torch.uint8)[:, None, None].expand(-1, side, side, -1)
    file = io.BytesIO()
    Image.fromarray(tile_sheet(tiles).numpy()).save(file, "JPEG")
    image = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    columns = math.ceil(math.sqrt(len(branches)))
    return {"branches": branches, "width": side, "height": side, "columns": columns, "image": image}
