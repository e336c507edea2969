"""Runs of any MODEL that end in the middle: what they evaluated is kept, and the next run goes on from it."""

import errno
import importlib
import os
from types import SimpleNamespace

import pytest
import torch
from shared_runs import SEED, K, ksampler, modules_of, one_negative, positive_of, sigmas_of, vectors_of_prompts

from hierdiff_core import build_plan, linear_thresholds, ward_linkage
from hierdiff_core.files import whole_files
from hierdiff_core.sampling.store import Store
from hierdiff_core.sampling.trunk_files import TrunkFolder

pytestmark = pytest.mark.host

VECTORS = vectors_of_prompts()[[0, 3, 1]]
SAMPLER = "dpmpp_2m"  # remembers steps: what it does with rows that it is given must be what it did
WAYS = ["Share Steps", "Hierarchical Guider"]  # which Hierarchical KSampler is too


@pytest.fixture(scope="module")
def host(pack):
    ours = {name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in ("keeping",)}
    interrupted = importlib.import_module("comfy.model_management").InterruptProcessingException
    return SimpleNamespace(**vars(modules_of(pack)), **ours, interrupted=interrupted)


@pytest.fixture(scope="module")
def plan():
    Z = ward_linkage(VECTORS)
    return build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 2), (100, 101, 102))


@pytest.fixture(scope="module")
def whole(host, model, plan):
    return {way: drawn(host, model, plan, None, way)[0] for way in WAYS}


def drawn(host, model, plan, store, way):
    """Latents, and the report."""
    told = []
    known = {"show_tree": False, "tell": lambda report, **data: told.append(report)}
    known["keeping"] = host.keeping.Keeping(store, owner="node", fresh=plan)
    sides = positive_of(VECTORS), one_negative()
    if way == "Share Steps":
        patched = host.sharing.share_steps(model, host.sharing.Sharing(plan, **known))
        return ksampler(host, patched, *sides, SAMPLER), told[0]
    guider = host.host_samplers.make_guider(model, *sides, 4.0, plan, 0, **known)
    sigmas = sigmas_of(host, model, SAMPLER)
    return host.host_samplers.sample(guider, torch.zeros(1, 4, 8, 8), SAMPLER, sigmas, SEED), told[0]


class Breaks:
    """A forward hook that ends a run at a call of the network."""

    def __init__(self, error, calls=9):
        self.error, self.left = error, calls

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            raise self.error


def broken(host, model, plan, store, way, error):
    handle = model.model.diffusion_model.register_forward_pre_hook(Breaks(error))
    try:
        with pytest.raises(type(error)):
            drawn(host, model, plan, store, way)
    finally:
        handle.remove()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["cancelled", "out of memory", "an error"])
def test_the_next_run_goes_on(host, model, plan, whole, way, what):
    error = {"cancelled": host.interrupted(), "out of memory": torch.OutOfMemoryError("x"), "an error": KeyError("x")}
    store = Store(2**24)
    broken(host, model, plan, store, way, error[what])
    rows = store.rows
    assert 0 < rows < plan.nfe
    samples, report = drawn(host, model, plan, store, way)
    assert f"reused {rows} of {plan.nfe} rows" in report
    assert torch.equal(samples, whole[way])


def test_another_process_goes_on_from_the_disk(host, model, plan, whole, tmp_path):
    """All that was evaluated is on the disk when the run has ended, by whatever."""
    store = Store(2**24, TrunkFolder(tmp_path / "trunk", 2**30))
    broken(host, model, plan, store, WAYS[0], host.interrupted())
    tomorrow = Store(2**24, TrunkFolder(tmp_path / "trunk", 2**30))
    samples, report = drawn(host, model, plan, tomorrow, WAYS[0])
    assert f"reused {store.rows} of {plan.nfe} rows" in report
    assert torch.equal(samples, whole[WAYS[0]])


def test_a_disk_that_is_full_costs_only_what_is_not_on_it(host, model, plan, whole, tmp_path, monkeypatch):
    """The run goes on and says so; what was stored before is reused by the next process."""
    store = Store(2**24, TrunkFolder(tmp_path / "trunk", 2**30))
    broken(host, model, plan, store, WAYS[0], host.interrupted())
    rows = store.rows

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    samples, report = drawn(host, model, plan, store, WAYS[0])
    assert torch.equal(samples, whole[WAYS[0]])
    assert (
        f"⚠ nothing more of this run is kept in the folder trunk ({os.strerror(errno.ENOSPC)}); the run goes on"
        in report
    )
    monkeypatch.undo()
    tomorrow = Store(2**24, TrunkFolder(tmp_path / "trunk", 2**30))
    again, report = drawn(host, model, plan, tomorrow, WAYS[0])
    assert f"reused {rows} of {plan.nfe} rows" in report
    assert torch.equal(again, samples)
