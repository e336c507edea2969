"""Runs of any MODEL that keep what it evaluated: the same pictures, for the rows that are new."""

import importlib

import pytest
import torch
from shared_runs import (
    ksampler,
    modules_of,
    one_negative,
    plans_of,
    positive_of,
    shared_model,
    vectors_of_prompts,
)

from hierdiff_core.sampling.store import Store

pytestmark = pytest.mark.host
REFUSED = {"dpm_adaptive"}


@pytest.fixture(scope="module")
def host(pack):
    found = modules_of(pack)
    for name in ("keeping", "run_parts", "made_of"):
        setattr(found, name, importlib.import_module(f"{pack.__name__}.nodes.host.{name}"))
    return found


@pytest.fixture(scope="module")
def model(host):
    return host.native_models.unet_model()


@pytest.fixture(scope="module")
def sides():
    return positive_of(vectors_of_prompts()), one_negative()


@pytest.fixture(scope="module")
def plans():
    return plans_of(vectors_of_prompts())


def kept(host, store, **options):
    return host.keeping.Keeping(store, owner="node", **options)


def calls_of(model):
    """A model, and the number of rows of each of its calls."""
    called = []

    def record(apply_model, args):
        called.append(len(args["input"]) // len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    recorded = model.clone()
    recorded.set_model_unet_function_wrapper(record)
    return recorded, called


def test_every_sampler_draws_the_same_from_the_store(host, model, sides, plans):
    for name in host.samplers.SAMPLER_NAMES:
        if name in REFUSED:
            continue
        plain, _ = shared_model(host, model, plans.shared)
        expected = ksampler(host, plain, *sides, name)
        store = Store(2**24)
        keeping, reports = shared_model(host, model, plans.shared, keeping=kept(host, store))
        assert torch.equal(ksampler(host, keeping, *sides, name), expected), name
        rows = store.rows
        assert torch.equal(ksampler(host, keeping, *sides, name), expected), name
        print(name, rows, store.rows, reports[-1].splitlines()[2:6])
        assert store.rows == rows, name
