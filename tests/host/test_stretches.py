"""A sampler that remembers earlier predictions begins anew where clusters split; one that does not runs as it is."""

import functools
import importlib
import types
from unittest import mock

import pytest
import torch
from shared_runs import (
    ENDS,
    SEED,
    K,
    N,
    ksampler,
    modules_of,
    one_negative,
    one_noise,
    plans_of,
    positive_of,
    shared_model,
    sigmas_of,
    vectors_of_prompts,
)

pytestmark = pytest.mark.host

MULTISTEP = ["dpmpp_2m", "dpmpp_2m_sde", "ipndm", "deis", "res_multistep_cfg_pp", "er_sde", "sa_solver", "uni_pc"]
PRESENT_STEP = ["euler", "euler_ancestral", "euler_cfg_pp", "ddpm", "lcm", "heun", "heunpp2", "dpm_fast", "seeds_2"]


@pytest.fixture(scope="module")
def host(pack):
    modules = modules_of(pack)
    for name in ("stretches", "dry_run"):
        setattr(modules, name, importlib.import_module(f"{pack.__name__}.nodes.host.{name}"))
    return modules


@pytest.fixture(scope="module")
def model(host):
    return host.native_models.unet_model(shape=host.native_models.SHALLOW)


@pytest.fixture(scope="module")
def plans():
    return plans_of(vectors_of_prompts())


def splits_of(plan):
    counts = plan.clusters_per_step
    return [k for k in range(1, K) if counts[k] > counts[k - 1]]


def run(host, model, plan, sampler, **options):
    """Samples, report, (step, x) of each callback, and (sigmas, x) of each call of the sampler's function."""
    reports, seen, calls = [], [], []
    made = sampler if not isinstance(sampler, str) else host.samplers.sampler_object(sampler)

    @functools.wraps(made.sampler_function)
    def function(model, x, sigmas, **settings):
        if x.numel() > 1:  # or it is a dry run
            calls.append((sigmas.clone(), x.clone()))
        return made.sampler_function(model, x, sigmas, **settings)

    recorded = host.samplers.KSAMPLER(function, made.extra_options)
    sides = positive_of(vectors_of_prompts()), one_negative()
    guider = host.guider.make_guider(model, *sides, 4.0, plan, 0, show_tree=False, tell=reports.append)
    sigmas = options.pop("sigmas", None)
    samples = guider.sample(
        one_noise(host),
        torch.zeros(1, 4, 8, 8),
        recorded,
        sigmas_of(host, model, sampler if isinstance(sampler, str) else "euler") if sigmas is None else sigmas,
        options.pop("mask", None),
        lambda step, x0, x, total: seen.append((step, total, x.clone())),
        True,
        SEED,
    )
    assert not options
    return samples, reports[0], seen, calls


@pytest.mark.parametrize("sampler", MULTISTEP)
def test_sampler_that_remembers_begins_anew_at_each_split_and_steps_are_numbered_through(host, model, plans, sampler):
    samples, _, seen, calls = run(host, model, plans.shared, sampler)
    splits = splits_of(plans.shared)
    assert splits[-1] == K - 1
    if sampler == "uni_pc":
        splits.pop()  # see test_no_stretch_is_too_short_for_its_sampler
    assert [K - len(sigmas) + 1 for sigmas, _ in calls] == [0, *splits]
    assert [(step, total) for step, total, _ in seen] == [(i, K) for i in range(K)]
    assert samples.isfinite().all()
    assert len({row.numpy().tobytes() for row in samples}) == N


@pytest.mark.parametrize("sampler", PRESENT_STEP)
def test_sampler_that_looks_at_the_present_step_only_runs_once(host, model, plans, sampler):
    samples, _, _, calls = run(host, model, plans.shared, sampler)
    assert len(calls) == 1
    with mock.patch.object(host.stretches, "split_steps", return_value=[]):
        assert torch.equal(run(host, model, plans.shared, sampler)[0], samples)


@pytest.mark.parametrize("sampler", MULTISTEP)
def test_nothing_begins_anew_where_nothing_splits(host, model, plans, sampler):
    assert len(run(host, model, plans.none, sampler)[3]) == 1


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "deis", "ipndm", "res_multistep_cfg_pp"])
def test_after_the_last_split_it_is_the_hosts_sampler_on_each_prompt_alone(host, model, plans, sampler):
    samples, _, _, calls = run(host, model, plans.shared, sampler)
    sigmas, x = calls[-1]
    assert plans.shared.clusters_per_step[K - len(sigmas) + 1] == N
    function = host.samplers.sampler_object(sampler).sampler_function
    for i in ENDS:
        guider = host.samplers.CFGGuider(model)
        sides = positive_of(vectors_of_prompts()), one_negative()
        guider.set_conds(*(host.rows.rows_of(side, [i], N, "") for side in sides))
        guider.set_cfg(4.0)

        def go_on(model, noise, all_sigmas, i=i, **settings):
            return function(model, x[[i]], sigmas.clone(), **settings)

        made = host.samplers.KSAMPLER(go_on)
        whole = sigmas_of(host, model, sampler)
        alone = guider.sample(one_noise(host, 1), torch.zeros(1, 4, 8, 8), made, whole, disable_pbar=True, seed=SEED)
        assert torch.equal(alone[0], samples[i])


def test_noise_is_asked_for_at_the_same_steps_and_draws_as_without_a_new_beginning(host, model, plans):
    for sampler in ("dpmpp_2m_sde", "er_sde"):
        asked = []

        def noise(sigma, sigma_next, asked=asked):
            asked.append((float(sigma), float(sigma_next)))
            return torch.zeros(N, 4, 8, 8)

        made = host.samplers.ksampler(sampler, {"noise_sampler": noise})
        _, _, _, calls = run(host, model, plans.shared, made)
        assert len(calls) > 1
        begun_anew, asked[:] = list(asked), []
        with mock.patch.object(host.stretches, "split_steps", return_value=[]):
            run(host, model, plans.shared, made)
        assert asked == begun_anew


def test_functions_that_a_sampler_adds_to_the_options_do_not_pile_up(host, model, plans):
    listening = []
    counted = model.clone()
    counted.add_wrapper_with_key(
        "predict_noise",
        "count",
        lambda executor, x, timestep, options, *args, **kwargs: (
            listening.append(len(options.get("sampler_post_cfg_function", ()))),
            executor(x, timestep, options, *args, **kwargs),
        )[1],
    )
    run(host, counted, plans.shared, "res_multistep_cfg_pp")
    assert set(listening) == {1}


def test_extra_options_masks_and_parts_of_a_run(host, model, plans):
    lms = host.samplers.ksampler("lms", {"order": 2})
    samples, _, _, calls = run(host, model, plans.shared, lms)
    assert len(calls) == 1 + len(splits_of(plans.shared))
    assert not torch.equal(samples, run(host, model, plans.shared, "lms")[0])
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    samples, _, _, _ = run(host, model, plans.shared, "dpmpp_2m", mask=mask)
    assert samples[..., :4].abs().max() < 1e-3  # the latent image there
    for first in (2, 3):  # the host's start_at_step
        patched, reports = shared_model(host, model, plans.shared)
        sides = positive_of(vectors_of_prompts()), one_negative()
        with mock.patch.object(host.stretches, "run", wraps=host.stretches.run) as begun:
            ksampler(host, patched, *sides, "dpmpp_2m", start_step=first, disable_noise=False)
        later = [k - first for k in splits_of(plans.shared) if k > first]
        steps = [K - first + 1 - len(call.args[3]) for call in begun.call_args_list]  # by the sigmas that were left
        assert steps == ([0, *later] if later else [])
        assert f"steps {first + 1} to {K} of the plan's {K}" in reports[0]


# --- Dry runs --------------------------------------------------------------------------------------------------------


def dry_run(host, model, sampler, steps=K, scheduler="normal"):
    sigmas = host.samplers.KSampler(model, steps, "cpu", sampler, scheduler, 1.0).sigmas
    function = host.samplers.sampler_object(sampler).sampler_function
    inner = types.SimpleNamespace(model_sampling=model.get_model_object("model_sampling"))
    denoiser = types.SimpleNamespace(inner_model=types.SimpleNamespace(inner_model=inner, model_patcher=model))
    options = {"noise_sampler": None} if "sde" in sampler else {}
    return host.dry_run.DryRun(function, denoiser, torch.zeros(N, 4, 8, 8), sigmas, {"denoise_mask": None}, options)


def test_no_stretch_is_too_short_for_its_sampler(host, model):
    """uni_pc takes no step at all where it is given the last one only."""
    last = K - 1
    firsts = [stretch.first for stretch in host.stretches.stretches_of(dry_run(host, model, "dpmpp_2m"), [3, last])]
    assert firsts == [0, 3, last]
    firsts = [stretch.first for stretch in host.stretches.stretches_of(dry_run(host, model, "uni_pc"), [3, last])]
    assert firsts == [0, 3]


def test_dry_run_leaves_the_sigmas_and_the_generator_as_they_are(host, model):
    for sampler in ("uni_pc", "euler"):
        dry = dry_run(host, model, sampler)
        before, state = dry.sigmas.clone(), torch.get_rng_state()
        assert dry(host.stretches.restless).sigmas == pytest.approx(before[:-1].tolist())
        assert torch.equal(dry.sigmas, before)
        assert torch.equal(torch.get_rng_state(), state)


def test_newer_samplers_of_the_host_are_known_beforehand_whatever_of_guidance_they_read(host, model, plans):
    """As cfgpp_ud10_ab, which takes the conditional prediction where there is no negative."""

    def sample_newer(model, x, sigmas, extra_args=None, callback=None, disable=None):
        heard = []
        listening = {**extra_args["model_options"], "sampler_post_cfg_function": [lambda args: hear(args)]}

        def hear(args):
            heard.append(args["uncond_denoised"] if args["uncond"] is not None else args["cond_denoised"])
            return args["denoised"]

        for i in range(len(sigmas) - 1):
            ones = x.new_ones(len(x))
            denoised = model(x, sigmas[i] * ones, **{**extra_args, "model_options": listening})
            slope = (x - heard[-1]) / sigmas[i] + (0.1 * (heard[-1] - heard[-2]) if i else 0)
            callback and callback({"i": i, "denoised": denoised, "x": x})
            x = denoised + slope * sigmas[i + 1]
        return x

    sample_newer.__module__ = "comfy.k_diffusion.sampling"
    samples, _, _, calls = run(host, model, plans.shared, host.samplers.KSAMPLER(sample_newer))
    assert len(calls) == 1 + len(splits_of(plans.shared))
    assert samples.isfinite().all()


@pytest.mark.parametrize("sampler", ["lms", "ipndm", "ipndm_v", "dpmpp_3m_sde"])
def test_unstable_sampler_remembers_nothing_after_the_first_split_and_is_told_of(host, model, sampler):
    """On the steep end of the schedule normal, at 40 steps; on karras it is as good as another."""
    dry = dry_run(host, model, sampler, 40)
    assert [stretch.first for stretch in host.stretches.stretches_of(dry, [24, 30])] == [0, *range(24, 40)]
    assert host.stretches.is_unstable(dry)
    assert not host.stretches.is_unstable(dry_run(host, model, sampler, 40, "karras"))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "res_multistep", "er_sde", "dpmpp_2m_sde"])
def test_stable_sampler_keeps_its_order_between_splits(host, model, sampler):
    dry = dry_run(host, model, sampler, 40)
    assert [stretch.first for stretch in host.stretches.stretches_of(dry, [24, 30])] == [0, 24, 30]
    assert not host.stretches.is_unstable(dry)


def test_unstable_sampler_is_told_of_in_the_report_only_where_it_shares(host, model, plans):
    sigmas = host.samplers.KSampler(model, 40, "cpu", "lms", "normal", 1.0).sigmas
    told = "⚠ lms is unstable on this schedule"
    assert told in run(host, model, plans.shared, "lms", sigmas=sigmas)[1]
    assert told not in run(host, model, plans.none, "lms", sigmas=sigmas)[1]
    report = run(host, model, plans.shared, "sa_solver", sigmas=sigmas)[1]
    assert "sa_solver is sensitive on this schedule: from the first split on each step begins anew" in report
    assert "is unstable" not in report


@pytest.mark.parametrize("sampler", ["lcm", "euler_cfg_pp", "sa_solver"])
def test_sampler_that_was_measured_far_off_is_told_of_only_where_it_shares(host, model, plans, sampler):
    told = f"⚠ {sampler} carries the shared steps into the images"
    assert told in run(host, model, plans.shared, sampler)[1]
    assert "⚠" not in run(host, model, plans.none, sampler)[1]
    karras = host.samplers.KSampler(model, 40, "cpu", sampler, "karras", 1.0).sigmas
    assert "⚠" not in run(host, model, plans.shared, sampler, sigmas=karras)[1]
