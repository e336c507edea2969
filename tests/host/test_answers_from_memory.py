"""Whoever answers the model's calls from memory beside shared steps: refused by name, or by what it does."""

import importlib
import types

import pytest
import torch
from shared_runs import (
    K,
    N,
    ksampler,
    one_noise,
    shared_model,
    vectors_of_prompts,
)

from hierdiff_core import build_plan, ward_linkage

pytestmark = pytest.mark.host


@pytest.fixture
def silent_model(model):
    """A model that must not be called."""
    silent = model.clone()
    silent.add_wrapper_with_key("apply_model", "silent", lambda *_: pytest.fail("the model was called"))
    return silent


def passed_on(model_function, kwargs):
    return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])


def renamed(function, module, qualname):
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, closure=function.__closure__)
    copy.__module__, copy.__qualname__ = module, qualname
    return copy


def as_wrapper_of_the_model_function(module, qualname):
    return lambda model: model.set_model_unet_function_wrapper(renamed(passed_on, module, qualname))


def as_cache_dit(model):
    """Settings and wrappers by key, as its node for any model; those for WAN and LTX-2 have keys of their own."""
    model.model_options["transformer_options"]["cache_dit_turbo"] = object()
    model.add_wrapper_with_key("outer_sample", "cache_dit_turbo", lambda executor, *args, **kw: executor(*args, **kw))


def as_wan_cache(model):
    model.add_wrapper_with_key("outer_sample", "wan_cache", lambda executor, *args, **kw: executor(*args, **kw))


def as_spectrum_for_flux(model):
    model.model_options["transformer_options"]["spectrum_runtime"] = object()
    model.add_wrapper_with_key("predict_noise", None, lambda executor, *args, **kw: executor(*args, **kw))


def as_spectrum_for_sdxl(model):
    kind = type("_SpectrumOuterStepController", (), {"__call__": lambda self, args: None})
    kind.__module__ = "custom_nodes.ComfyUI-Spectrum-SDXL-Proper.comfyui_spectrum_sdxl.sdxl"
    model.model_options["sampler_calc_cond_batch_function"] = kind()


def as_tgate(model):
    kind = type("TGateProxy", (), {"__call__": lambda self, model_function, kwargs: passed_on(model_function, kwargs)})
    kind.__qualname__, kind.__module__ = "TGateProxy", "/custom_nodes/ComfyUI_TGate.TGate"
    model.set_model_unet_function_wrapper(kind())


def as_meancache(model):
    model.model_options["meancache"] = {"config": {}}


def as_teacache_of_lightning(model):
    model.model_options["transformer_options"]["rel_l1_threshold"] = 0.4


def as_a_pack_s_easycache(model):
    """The name of the host's, but not what it keeps."""
    model.model_options["transformer_options"]["easycache"] = types.SimpleNamespace(threshold=0.2)


@pytest.mark.parametrize(
    ("attach", "name"),
    [
        (
            as_wrapper_of_the_model_function("nodes", "TaylorSeerLite.apply.<locals>.unet_wrapper_function"),
            "TaylorSeer",
        ),
        (as_wrapper_of_the_model_function("patch.model_patch", "f.<locals>.meancache_wrapper_function"), "MeanCache"),
        (as_wrapper_of_the_model_function("spectrum_node", "SpectrumSDXL.patch.<locals>.wrapper"), "Spectrum"),
        (as_wrapper_of_the_model_function("custom_nodes.Pack.spectrum", "wrapper"), "Spectrum"),
        (as_cache_dit, "Cache-DiT"),
        (as_wan_cache, "Cache-DiT"),
        (as_spectrum_for_flux, "Spectrum"),
        (as_spectrum_for_sdxl, "Spectrum"),
        (as_tgate, "T-GATE"),
        (as_meancache, "MeanCache"),
        (as_teacache_of_lightning, "TeaCache"),
        (as_a_pack_s_easycache, "EasyCache"),
    ],
)
def test_caches_of_packs_are_refused_by_name(host, silent_model, plans, sides, attach, name):
    cached = silent_model.clone()
    attach(cached)
    with pytest.raises(ValueError, match=f"{name} keeps results of earlier steps.* remove the {name} node"):
        ksampler(host, shared_model(host, cached, plans.shared)[0], *sides)


@pytest.mark.parametrize(
    ("method", "code", "name"),
    [
        ("forward_orig", "mbcache_skip_forward_orig", "MBCache"),
        ("forward_orig", "fbcache_skip_forward_orig", "First Block Cache"),
        ("forward", "ComfyUI-CacheDiT.nodes_boogu._enable_boogu_cache.<locals>.cached_forward", "Cache-DiT"),
    ],
)
def test_methods_that_packs_put_into_the_network_are_found(
    host, silent_model, plans, sides, monkeypatch, method, code, name
):
    network = silent_model.model.diffusion_model
    replaced = types.MethodType(renamed(lambda self, *args: self.out(*args), "nodes", code), network)
    monkeypatch.setitem(network.__dict__, method, replaced)
    with pytest.raises(ValueError, match=f"{name} keeps results .* and restart ComfyUI"):
        ksampler(host, shared_model(host, silent_model, plans.shared)[0], *sides)


def test_other_patches_of_such_a_pack_are_not_caches(host, model, plans, sides):
    """Its folder is named for the cache, what it attaches is not."""
    module = "/custom_nodes/ComfyUI-Spectrum-KSampler.mod_guidance"
    patched = model.clone()
    patched.set_model_unet_function_wrapper(renamed(passed_on, module, "guide"))
    samples = ksampler(host, shared_model(host, patched, plans.shared)[0], *sides)
    assert torch.equal(samples, ksampler(host, shared_model(host, model, plans.shared)[0], *sides))


def memory(compute, period=3):
    """Every third call is computed, those between are answered with what it gave."""
    state = types.SimpleNamespace(calls=0, kept=None)

    def call(*args):
        state.calls += 1
        if state.calls % period == 1:
            state.kept = compute(*args)
        return state.kept

    return call


def below_the_rows(model):
    """As most packs: around the model's function."""
    unnamed = memory(passed_on)
    model.set_model_unet_function_wrapper(lambda function, kwargs: unnamed(function, kwargs))


def in_a_wrapper(model):
    unnamed = memory(lambda executor, *args: executor(*args))
    model.add_wrapper_with_key("apply_model", "quick", lambda executor, *args, **kwargs: unnamed(executor, *args))


def above_the_rows(model):
    unnamed = memory(lambda executor, *args: executor(*args))
    model.add_wrapper_with_key("predict_noise", "quick", lambda executor, *args: unnamed(executor, *args))


def in_the_place_of_the_host(model):
    samplers = importlib.import_module("comfy.samplers")
    unnamed = memory(
        lambda args: samplers.calc_cond_batch(*(args[k] for k in ("model", "conds", "input", "sigma", "model_options")))
    )
    model.set_model_sampler_calc_cond_batch_function(lambda args: unnamed(args))


def patched_by(host, model, plan, attach, order):
    """A model and the reports of its runs, with somebody's patch before Share Steps or behind it."""
    if order == "sharing first":
        patched, reports = shared_model(host, model, plan)
        attach(patched)
        return patched, reports
    patched = model.clone()
    attach(patched)
    return shared_model(host, patched, plan)


@pytest.mark.usefixtures("all_at_once")
@pytest.mark.parametrize("attach", [below_the_rows, in_a_wrapper, above_the_rows, in_the_place_of_the_host])
@pytest.mark.parametrize("order", ["patch first", "sharing first"])
def test_unknown_memory_is_found_where_clusters_split(host, model, sides, attach, order):
    """By what it does: it answers for rows that are no longer those of the call before."""
    Z = ward_linkage(vectors_of_prompts())
    plan = build_plan(Z, [float(Z[-1, 2]) * 2] * 4 + [0.0] * (K - 4), range(100, 100 + N))
    patched, _ = patched_by(host, model, plan, attach, order)
    name = attach.__name__
    told = rf"answered from memory.*patches of the model: [\w.]*{name}|{name}.*(keeps something|does not work)"
    with pytest.raises(ValueError, match=told):
        ksampler(host, patched, *sides)


def test_unknown_memory_is_found_where_it_serves_several_calls(host, model, plans, sides):
    """With one row in each call, also without any split, what it gave for a prompt would be another's."""
    cached = model.clone()
    below_the_rows(cached)
    with pytest.raises(ValueError, match=r"answered from memory|below_the_rows.*does not work"):
        ksampler(host, shared_model(host, cached, plans.none)[0], *sides)


@pytest.mark.usefixtures("all_at_once")
@pytest.mark.parametrize("attach", [below_the_rows, above_the_rows])
def test_unknown_memory_may_answer_for_the_same_rows(host, model, plans, sides, attach):
    cached = model.clone()
    attach(cached)
    samples = ksampler(host, shared_model(host, cached, plans.none)[0], *sides)
    again = model.clone()
    attach(again)
    expected = ksampler(host, again, *sides, rows=N, noise=one_noise(host))
    torch.testing.assert_close(samples, expected, atol=1e-4, rtol=1e-4)


def test_steps_without_any_conditioning_are_no_memory(host, model, plans, sides):
    """Nobody is asked at sigmas where no prompt is in force."""
    patched = model.clone()
    patched.set_model_unet_function_wrapper(passed_on)
    half = [
        host.node_helpers.conditioning_set_values(side, {"start_percent": 0.0, "end_percent": 0.4}) for side in sides
    ]
    assert ksampler(host, shared_model(host, patched, plans.shared)[0], *half).isfinite().all()


def test_a_patch_that_follows_is_told_of_each_split(host, model, plans, sides):
    """Whatever has a method of this name in the transformer_options."""
    told = []

    class Following:
        def follow_rows(self, rows):
            told.append(rows.tolist())

    patched = model.clone()
    patched.model_options["transformer_options"]["somebody"] = Following()
    ksampler(host, shared_model(host, patched, plans.shared)[0], *sides)
    counts = list(dict.fromkeys(plans.shared.clusters_per_step))
    assert [len(rows) for rows in told] == counts[1:]
    assert all(sorted(set(rows)) == list(range(before)) for rows, before in zip(told, counts, strict=False))


# --- Wrappers that answer, repeat or shift calls ---------------------------------------------------------------------


def repeats(executor, x, timestep, *args):
    executor(x, timestep, *args)
    return executor(x, timestep, *args)


def answers_once(executor, x, timestep, *args):
    """A wrapper that needs no model at one sigma, where no cluster splits."""
    if 2.0 < float(timestep[0]) < 3.5:
        return x * 0.9
    return executor(x, timestep, *args)


@pytest.mark.parametrize("wrapper", [repeats, answers_once])
@pytest.mark.parametrize("order", ["patch first", "sharing first"])
def test_clusters_are_those_of_the_samplers_own_sigma(host, model, plans, sides, monkeypatch, wrapper, order):
    """A wrapper before ours used to make us count its calls as the sampler's, and split too early or too late."""
    patched, reports = patched_by(host, model, plans.shared, lambda m: m.add_wrapper("predict_noise", wrapper), order)
    seen = []
    look_up = host.clusters.CurrentClusters.look_up

    def recorded(current, timestep):
        look_up(current, timestep)
        seen.append(current.k)

    monkeypatch.setattr(host.clusters.CurrentClusters, "look_up", recorded)
    samples = ksampler(host, patched, *sides)
    assert seen == list(range(K))
    assert len({row.numpy().tobytes() for row in samples}) == N
    assert (" answered " in reports[0]) == (wrapper is answers_once)


def test_rows_that_a_wrapper_parts_are_still_told(host, model, plans, sides):
    """Behind ours somebody may give the rows of a cluster different latents, of which the model sees only one."""

    def noisy(executor, x, timestep, *args):
        return executor(x + 0.01 * torch.arange(N)[:, None, None, None], timestep, *args)

    patched, reports = shared_model(host, model, plans.shared)
    patched.add_wrapper_with_key("predict_noise", "theirs", noisy)
    ksampler(host, patched, *sides)
    assert "gave prompts of one cluster different latents" in reports[0]
