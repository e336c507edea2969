"""Rows go to all devices of the host's MultiGPU CFG Split: imitated where it is missing, else on its own code."""

import importlib

import numpy as np
import pytest
import torch
from shared_runs import SEED, K, N, one_noise, shared_model

pytestmark = pytest.mark.host
CARDS = [torch.device("cpu"), *(torch.device("cpu", i) for i in range(3))]  # four names of one device
DEVICE_CALLS = ("_calc_cond_batch_multigpu", "_calc_cond_batch")


@pytest.fixture
def clones(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.row_clones")


def with_cards(model, count):
    """The model with copies for more devices, as MultiGPU Work Units makes it, or as if it had."""
    cards = model.clone()
    if not hasattr(model, "match_multigpu_clones"):
        cards.model_options["multigpu_clones"] = dict.fromkeys(CARDS[:count], cards)
        cards.model_options["multigpu_thread_pool"] = "imitated"
        return cards
    copies = []
    for card in CARDS[1:count]:
        copied = model.clone()
        copied.load_device, copied.is_multigpu_base_clone = card, True
        copies.append(copied)
    cards.set_additional_models("multigpu", copies)
    cards.model_options["multigpu_options"] = {card: {"relative_speed": 1.0} for card in CARDS[:count]}
    return cards


@pytest.fixture
def calls(host, monkeypatch):
    """Devices and rows of each call of the host's function."""
    name = next(name for name in DEVICE_CALLS if hasattr(host.samplers, name))
    real, found = getattr(host.samplers, name), []

    def recorded(model, conds, x, t, options):
        found.append((tuple(options.get("multigpu_clones", ())), len(x)))
        return real(model, conds, x, t, options)

    monkeypatch.setattr(host.samplers, name, recorded)
    return found


def drawn(host, model, sides, cfg):
    noise = one_noise(host)
    options = {"disable_pbar": True, "seed": SEED}
    return host.sample.sample(model, noise, K, cfg, "euler", "normal", *sides, torch.zeros_like(noise), **options)


@pytest.mark.parametrize(("count", "cfg"), [(2, 1.0), (4, 4.0), (3, 4.0)])
def test_all_devices_have_rows_and_the_pictures_stay(host, model, plans, sides, all_at_once, calls, count, cfg):
    expected = drawn(host, shared_model(host, model, plans.shared)[0], sides, cfg)
    calls.clear()
    cards, reports = shared_model(host, with_cards(model, count), plans.shared)
    samples = drawn(host, cards, sides, cfg)
    torch.testing.assert_close(samples, expected, atol=1e-4, rtol=1e-4)
    assert "⚠" not in reports[0]
    assert sum(rows for _, rows in calls) == plans.shared.nfe
    last = calls[-min(count, N) :]  # of the last step, which has six clusters
    assert sorted(str(device) for devices, _ in last for device in devices) == sorted(map(str, CARDS[:count]))
    assert sorted(rows for _, rows in last) == [len(part) for part in np.array_split(np.arange(N), count)][::-1]


def test_what_others_attach_sees_all_rows_in_one_call(host, model, plans, sides, all_at_once, calls):
    """A patch may look at its rows: they are not divided behind its back."""
    patched = with_cards(model, 4)
    patched.set_model_attn2_patch(lambda q, k, v, extra_options: (q, k, v))
    drawn(host, shared_model(host, patched, plans.shared)[0], sides, 4.0)
    assert {len(devices) for devices, _ in calls} == {4}


def test_rows_are_dealt_evenly_and_only_where_devices_would_wait(clones):
    devices = {name: object() for name in "abcd"}
    options = {"multigpu_clones": devices, "multigpu_thread_pool": object(), "transformer_options": {"x": 1}, "y": 2}
    rows = [4, 5, 6, 7, 9]
    parts = clones.dealt(options, rows, 2)
    assert [part.rows for part in parts] == [[4, 5], [6], [7], [9]]
    assert [list(part.options["multigpu_clones"]) for part in parts] == [["a"], ["b"], ["c"], ["d"]]
    assert all(part.options["y"] == 2 for part in parts)
    assert all(part.options["transformer_options"] is not options["transformer_options"] for part in parts)
    two = clones.dealt(options, rows[:2], 2)
    assert [list(part.options["multigpu_clones"]) for part in two] == [["a", "b"], ["c", "d"]]
    for same in (clones.dealt(options, rows, 4), clones.dealt(options, rows[:1], 2), clones.dealt({}, rows, 1)):
        assert len(same) == 1
    (whole,) = clones.dealt({"multigpu_clones": devices}, rows, 1)  # a host that works them off in one thread
    assert (whole.rows, whole.options) == (rows, {"multigpu_clones": devices})


def test_what_fails_on_a_device_is_said(clones):
    parts = [clones.PartOfRows([0], {}), clones.PartOfRows([1], {})]

    def call(part):
        if part.rows == [1]:
            raise torch.OutOfMemoryError("out of memory")
        return torch.zeros(1, 2)

    with pytest.raises(torch.OutOfMemoryError):
        clones.evaluated(parts, call)
    made = clones.evaluated(parts, lambda part: torch.full((1, 2), float(part.rows[0])))
    assert made[:, 0].tolist() == [0.0, 1.0]
