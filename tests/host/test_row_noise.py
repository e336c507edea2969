"""Samplers that draw noise for all rows by themselves, as those of other packs do: rows of a cluster get the same."""

import functools
import importlib

import numpy as np
import pytest
import torch
from shared_runs import (
    SEED,
    K,
    N,
    one_negative,
    one_noise,
    positive_of,
    sigmas_of,
    vectors_of_prompts,
)

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def model(host):
    """A model whose rows cannot touch each other: a batch of N gives what N calls of one row give, bit-identical."""

    def call(apply_model, args):
        seen.append((float(args["timestep"][0]), len(args["input"])))
        return args["input"] * 0.5 + args["c"]["c_crossattn"][:, 0, :4, None, None] * 0.3

    seen = []
    call.heeds_hierdiff = True  # no questions: only the sampler's calls are seen
    model = host.native_models.unet_model()
    model.set_model_unet_function_wrapper(call)
    model.seen = seen
    return model


def run(host, model, plan, sampler):
    """Samples, report, and the latents at each callback."""
    reports, seen = [], []
    sides = positive_of(vectors_of_prompts()), one_negative()
    guider = host.guider.make_guider(model, *sides, 4.0, plan, 0, show_tree=False, tell=reports.append)
    torch.manual_seed(SEED)
    samples = guider.sample(
        one_noise(host),
        torch.zeros(1, 4, 8, 8),
        sampler,
        sigmas_of(host, model, "euler"),
        None,
        lambda step, x0, x, total: seen.append((step, x.clone())),
        True,
        SEED,
    )
    return samples, reports[0], seen


def run_plain(host, model, sampler):
    """The host's own guider on all prompts at once."""
    guider = host.samplers.CFGGuider(model)
    guider.set_conds(positive_of(vectors_of_prompts()), one_negative())
    guider.set_cfg(4.0)
    torch.manual_seed(SEED)
    sigmas = sigmas_of(host, model, "euler")
    latents = torch.zeros(N, 4, 8, 8)
    return guider.sample(one_noise(host), latents, sampler, sigmas, None, lambda *_: None, True, SEED)


def assert_shared(host, model, plan, sampler, ahead=0):
    """Rows of a cluster stay equal until it splits, and then part; `ahead` of its callback a sampler may look."""
    samples, report, seen = run(host, model, plan, sampler)
    assert "⚠" not in report
    assert samples.isfinite().all()
    for step, x in seen:
        labels = plan.steps[min(step + ahead, K - 1)].labels
        for c in range(labels.max() + 1):
            rows = x[torch.from_numpy(labels == c)]
            assert torch.equal(rows, rows[:1].expand_as(rows)), step
    assert len({row.numpy().tobytes() for row in samples}) == N
    return samples


# --- Samplers of other packs -----------------------------------------------------------------------------------------


def ancestral(draw):
    """Euler's ancestral steps, with noise from ``draw(x, step)``."""

    def sample_theirs(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
            callback({"i": i, "denoised": denoised, "x": x})
            x = denoised + draw(x, i) * sigmas[i + 1]
        return x

    return sample_theirs


def generator_of(step):
    return torch.Generator().manual_seed(step)


DRAWS = {
    "randn_like": lambda x, i: torch.randn_like(x),
    "randn": lambda x, i: torch.randn(x.size(), dtype=x.dtype, device=x.device),
    "randn with a generator": lambda x, i: torch.randn(x.shape, generator=generator_of(i)),
    "rand": lambda x, i: torch.rand(x.shape) - torch.rand_like(x),
    "normal_": lambda x, i: torch.empty_like(x).normal_(generator=generator_of(i)),
    "normal": lambda x, i: torch.normal(torch.zeros_like(x), 1.0),
    "out": lambda x, i: torch.randn(x.shape, out=torch.empty_like(x)),
    "a number for each row": lambda x, i: torch.randn(len(x))[:, None, None, None] * torch.ones_like(x),
    "one draw for all": lambda x, i: torch.randn(x.shape[1:], generator=generator_of(i)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_noise_that_a_sampler_draws_for_every_row_is_shared(host, model, plans, draw):
    theirs = host.samplers.KSAMPLER(ancestral(draw))
    alone, _, _ = run(host, model, plans.none, theirs)
    assert torch.equal(alone, run_plain(host, model, theirs))
    assert_shared(host, model, plans.shared, theirs)


@pytest.mark.parametrize("wrapped", ["euler_ancestral", "dpmpp_2m_sde", "lcm", "heun"])
def test_sampler_around_another_one_that_hands_on_no_noise(host, model, plans, wrapped):
    """As Detail Daemon: the host's sampler then draws by itself, white noise or a Brownian path."""
    inner = host.samplers.sampler_object(wrapped).sampler_function

    def sample_around(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return inner(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)

    theirs = host.samplers.KSAMPLER(sample_around)
    alone, _, _ = run(host, model, plans.none, theirs)
    assert torch.equal(alone, run_plain(host, model, theirs))
    assert_shared(host, model, plans.shared, theirs)


def test_lcm_upscale_of_the_host_is_shared(host, model, plans):
    nodes = importlib.import_module("comfy_extras.nodes_advanced_samplers")
    theirs = nodes.SamplerLCMUpscale.execute(2.0, 3, "nearest-exact").args[0]
    alone, _, _ = run(host, model, plans.none, theirs)
    assert torch.equal(alone, run_plain(host, model, theirs))
    assert_shared(host, model, plans.shared, theirs)


def test_model_draws_for_itself(host, plans):
    """What the model draws is no noise of the sampler's: it keeps its rows."""
    drawn, told = [], []

    def call(apply_model, args):
        drawn.append(torch.randn(N, 4, 8, 8))
        return args["input"] * 0.5

    model = host.native_models.unet_model()
    model.set_model_unet_function_wrapper(call)
    theirs = host.samplers.KSAMPLER(ancestral(lambda x, i: torch.randn_like(x)))
    guider = host.guider.make_guider(
        model,
        positive_of(vectors_of_prompts()),
        one_negative(),
        4.0,
        plans.shared,
        0,
        show_tree=False,
        tell=told.append,
    )

    def callback(*_):
        drawn.append(torch.randn(N, 4, 8, 8))

    latent, sigmas = torch.zeros(1, 4, 8, 8), sigmas_of(host, model, "euler")
    guider.sample(one_noise(host), latent, theirs, sigmas, None, callback, True, SEED)
    assert len(drawn) > K
    assert all(len({row.numpy().tobytes() for row in rows}) == N for rows in drawn)


# --- Churn -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"s_churn": 3.0}, {"s_churn": 100.0, "s_tmin": 0.5, "s_noise": 1.1}])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "heunpp2"])
def test_churn_is_shared_and_comes_to_the_last_step(host, model, plans, sampler, options):
    churned = host.samplers.ksampler(sampler, options)
    alone, _, _ = run(host, model, plans.none, churned)
    assert torch.equal(alone, run_plain(host, model, churned))
    without, _, _ = run(host, model, plans.none, host.samplers.ksampler(sampler))
    assert not torch.equal(alone, without)
    assert_shared(host, model, plans.shared, churned, ahead=1 if sampler == "heunpp2" else 0)


def test_churn_refines_at_the_steps_of_the_plan(host, model, plans):
    model.seen.clear()
    run(host, model, plans.shared, host.samplers.ksampler("euler", {"s_churn": 100.0}))
    sigmas = sorted({sigma for sigma, _ in model.seen}, reverse=True)
    rows = [sum(1 for sigma, _ in model.seen if sigma == s) for s in sigmas]
    assert rows == list(plans.shared.clusters_per_step)
    assert sigmas[1] > float(sigmas_of(host, model, "euler")[1])  # raised


def test_churn_of_another_pack_comes_to_the_last_step(host, model, plans):
    def sample_theirs(model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.0):
        gamma = min(s_churn / (len(sigmas) - 1), 2**0.5 - 1)
        for i in range(len(sigmas) - 1):
            raised = sigmas[i] * (gamma + 1)
            x = x + torch.randn_like(x) * (raised**2 - sigmas[i] ** 2) ** 0.5
            denoised = model(x, raised * x.new_ones(len(x)), **extra_args)
            callback({"i": i, "denoised": denoised, "x": x})
            x = x + (x - denoised) / raised * (sigmas[i + 1] - raised)
        return x

    theirs = host.samplers.KSAMPLER(sample_theirs, {"s_churn": 2.0})
    alone, _, _ = run(host, model, plans.none, theirs)
    assert torch.equal(alone, run_plain(host, model, theirs))
    samples, report, _ = run(host, model, plans.shared, theirs)
    assert "⚠" not in report
    assert len({row.numpy().tobytes() for row in samples}) == N


# --- What cannot be shared -------------------------------------------------------------------------------------------


UNLIKE = {
    "a generator for each row": lambda x, i: torch.stack(
        [torch.randn(row.shape, generator=generator_of(10 * i + j)) for j, row in enumerate(x)]
    ),
    "NumPy": lambda x, i: torch.from_numpy(np.random.default_rng(i).standard_normal(x.shape)).float(),
}


@pytest.mark.parametrize("draw", UNLIKE.values(), ids=UNLIKE)
def test_sampler_whose_rows_part_is_stopped_at_the_second_call_of_the_model(host, model, plans, draw):
    model.seen.clear()
    theirs = host.samplers.KSAMPLER(ancestral(draw))
    with pytest.raises(ValueError, match="theirs gave prompts of one cluster different latents"):
        run(host, model, plans.shared, theirs)
    assert len({sigma for sigma, _ in model.seen}) == 1
    nameless = host.samplers.KSAMPLER(functools.partial(ancestral(draw)))
    with pytest.raises(ValueError, match="the sampler gave prompts of one cluster different latents"):
        run(host, model, plans.shared, nameless)
    alone, _, _ = run(host, model, plans.none, theirs)  # nothing is shared
    assert torch.equal(alone, run_plain(host, model, theirs))


def test_samplers_that_couple_rows_are_refused_by_name_before_any_call(host, model, plans):
    def sample_ar_video(model, x, sigmas, extra_args=None, callback=None, disable=None, num_frame_per_block=1):
        pytest.fail("the sampler ran")

    def sample_rk_adaptive(model, x, sigmas, extra_args=None, callback=None, disable=None):
        pytest.fail("the sampler ran")

    for function, told in (
        (sample_ar_video, "ar_video draws a video in blocks"),
        (sample_rk_adaptive, "rk_adaptive chooses its steps from the error of all rows together"),
    ):
        with pytest.raises(ValueError, match=told):
            run(host, model, plans.shared, host.samplers.KSAMPLER(function))
