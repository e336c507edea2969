"""Every combo and number of every node: refused when queued and when a link brings it, whatever the host checks."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from comfyui_host import HttpFailed
from graphs import node

ESCAPE = "x/../../../../escaped"
# None of these is a choice of any combo, or a value of any number.
NO_CHOICES = [ESCAPE, "", 10**30, 0.5, ["png"], {"a": 1}, math.nan, "x" * 10_000]
NO_NUMBERS = [math.nan, math.inf, -math.inf, 1e300, -1e300, "many", [1], {"a": 1}]
WRONG_WIDGETS = {
    "COMBO": [ESCAPE, "", "x" * 1000, 7],
    "FLOAT": [math.nan, "NaN", math.inf, -1e9, 1e9],
    "INT": [10**30, -(10**30)],
}
# a loader says how to get the missing one
MISSING = "must be one of|there is no (folder|sensitivity|checkpoint|advice)"


def kind(entry):
    return {"COMBO": "combo", "FLOAT": "number", "INT": "number"}.get(entry.get_io_type())


def inputs_to_check(node_class):
    return [entry for entry in node_class.define_schema().inputs if kind(entry)]


def good_values(node_class):
    """Values that pass: the defaults, and something for each socket."""
    schema, values = node_class.define_schema(), {}
    for entry in schema.inputs:
        value = getattr(entry, "default", None)
        if value is None:
            value = entry.options[0] if kind(entry) == "combo" else "text"
        values[entry.id] = [value] if schema.is_input_list else value
    return values


def test_every_combo_and_number_that_a_link_brings_is_checked_before_a_node_runs(pack):
    tried = 0
    for node_class in pack.nodes.NODES:
        for entry in inputs_to_check(node_class):
            for value in NO_CHOICES if kind(entry) == "combo" else NO_NUMBERS:
                wrapped = [value] if node_class.define_schema().is_input_list else value
                wanted = MISSING if kind(entry) == "combo" else f"^{entry.id} must (be a|lie between)"
                with pytest.raises(ValueError, match=wanted) as failure:
                    node_class.execute(**good_values(node_class) | {entry.id: wrapped})
                assert len(str(failure.value)) < 600 or "hf download" in str(failure.value)
                tried += 1
    assert tried > 400


def test_numbers_have_bounds_and_defaults_pass(pack):
    for node_class in pack.nodes.NODES:
        schema = node_class.define_schema()
        for entry in inputs_to_check(node_class):
            if kind(entry) == "number":
                assert entry.min is not None, (schema.node_id, entry.id)
                assert entry.max is not None, (schema.node_id, entry.id)
                assert entry.min <= entry.default <= entry.max
                if entry.get_io_type() == "FLOAT":
                    assert math.nan < entry.min  # what the host asks
                    assert not entry.default < entry.min
                    assert json.dumps(entry.min) == repr(float(entry.min))


def test_numbers_of_other_kinds_are_numbers(pack):
    checks = sys.modules[f"{pack.__name__}.nodes.host.checks"]
    check = checks.fault_of_value
    schema = pack.nodes.BranchingSampler.define_schema()
    guidance, width = (next(entry for entry in schema.inputs if entry.id == name) for name in ("guidance", "width"))
    for value in (3, 3.0, np.float32(3), torch.tensor(3.0)):
        assert check(guidance, value, True) is None
    for value in (512, np.int64(512), torch.tensor(512)):
        assert check(width, value, True) is None
    assert check(width, 512.5, True) == "width must be a whole number; got 512.5"
    assert check(width, 10**5000, True) == "width must lie between 64 and 4096; got a number of thousands of digits"
    values = checks.plain_numbers(schema, {"guidance": np.float32(3.5), "width": torch.tensor(512)})
    assert json.dumps(values) == '{"guidance": 3.5, "width": 512}'


@pytest.mark.host
def test_server_refuses_every_wrong_widget_when_queued(comfyui):
    """One graph with a node for each wrong value of each input; all other inputs are missing."""
    graph, wanted = {}, {}
    for node_id, info in comfyui.object_info().items():
        for required in ("required", "optional") if node_id.startswith("HierDiff") else ():
            for name, (type_, _) in info["input"].get(required, {}).items():
                for value in WRONG_WIDGETS.get(type_, []):
                    key = f"wrong {len(wanted)}"
                    graph[key] = node(node_id, **{name: value})
                    graph[f"show {key}"] = node("PreviewAny", source=[key, 0])
                    wanted[key] = name
    assert len(wanted) > 150
    with pytest.raises(HttpFailed) as failure:
        comfyui.queue(graph)
    errors = failure.value.body["node_errors"]
    for key, name in wanted.items():
        texts = [f"{error['message']}: {error['details']}" for error in errors[key]["errors"]]
        assert any(name in text and "is missing" not in text for text in texts), (graph[key], texts)
