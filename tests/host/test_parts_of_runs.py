"""Runs that go on with latents which have parted: Split Sigmas, an upscale pass, KSampler (Advanced) in two stages."""

import pytest
import torch
from shared_runs import (
    SEED,
    K,
    N,
    ksampler,
    one_noise,
    rows_of,
    shared_model,
    sigmas_of,
)

from hierdiff_core import build_plan

pytestmark = pytest.mark.host


def custom(host, guider, sigmas, latents, noise=None):
    """SamplerCustomAdvanced with Shared Noise, or with Disable Noise."""
    noise = torch.zeros_like(latents) if noise is None else noise
    return guider.sample(noise, latents, host.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=SEED)


def guider_of(host, model, plan, sides, choice="share only if equal"):
    """Hierarchical Guider, and the reports of its runs."""
    reports = []
    return host.guider.make_guider(model, *sides, 4.0, plan, 0, False, reports.append, choice), reports


@pytest.mark.parametrize("choice", ["share only if equal", "first prompt's while shared"])
@pytest.mark.parametrize("at", [1, 3, 5, 7])
def test_both_parts_of_split_sigmas_are_one_run_of_the_guider(host, model, plans, sides, at, choice):
    """At the first of these no cluster has split yet. The host itself rounds latents between two runs."""
    guider, reports = guider_of(host, model, plans.shared, sides, choice)
    sigmas = sigmas_of(host, model, "euler")
    whole = custom(host, guider, sigmas, torch.zeros(N, 4, 8, 8), one_noise(host))
    high = custom(host, guider, sigmas[: at + 1], torch.zeros(1, 4, 8, 8), one_noise(host))
    low = custom(host, guider, sigmas[at:], high)
    torch.testing.assert_close(low, whole, atol=1e-3, rtol=1e-3)
    per_step = plans.shared.clusters_per_step
    assert [rows_of(report) for report in reports] == [per_step.sum(), per_step[:at].sum(), per_step[at:].sum()]
    assert "⚠" not in "".join(reports)


def test_without_sharing_both_parts_are_the_hosts(host, model, plans, sides):
    guider, _ = guider_of(host, model, plans.none, sides)
    sigmas = sigmas_of(host, model, "euler")
    high = custom(host, guider, sigmas[:4], torch.zeros(N, 4, 8, 8), one_noise(host))
    low = custom(host, guider, sigmas[3:], high)
    for i in (0, N - 1):
        plain = host.samplers.CFGGuider(model)
        plain.set_conds(*(host.rows.rows_of(side, [i], N, "") for side in sides))
        plain.set_cfg(4.0)
        half = custom(host, plain, sigmas[:4], torch.zeros(1, 4, 8, 8), one_noise(host, 1))
        assert torch.equal(high[i : i + 1], half)
        assert torch.equal(low[i : i + 1], custom(host, plain, sigmas[3:], half))


def test_last_part_from_one_latent_begins_with_the_plan(host, model, plans, sides):
    """A start that another node made: nothing has split yet."""
    guider, reports = guider_of(host, model, plans.shared, sides)
    sigmas = sigmas_of(host, model, "euler")[3:]
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    custom(host, guider, sigmas, latents.expand(1, -1, -1, -1), torch.zeros(N, 4, 8, 8))
    assert "the plan's 8 thresholds were resampled over the sampler's 5 steps" in reports[0]


def test_part_from_the_middle_goes_on_from_the_splits_there_are(host, model, plans, sides):
    guider, reports = guider_of(host, model, plans.shared, sides)
    sigmas = sigmas_of(host, model, "euler")
    high = custom(host, guider, sigmas[:4], torch.zeros(1, 4, 8, 8), one_noise(host))
    middle = custom(host, guider, sigmas[3:6], high)
    assert middle.isfinite().all()
    assert rows_of(reports[1]) >= 2 * plans.shared.steps[2].num_clusters


@pytest.mark.parametrize("strict", [False, True])
def test_upscale_pass_over_finished_images_runs_each_apart(host, model, plans, sides, strict):
    """With noise added, as img2img does; images that are equal stay together."""
    patched, reports = shared_model(host, model, plans.shared, strict=strict)
    images = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    images[3] = images[0]  # the plan's first clusters are of 0 and 3, 1 and 4, 2 and 5
    noise = one_noise(host)
    samples = ksampler(host, patched, *sides, latents=images, noise=noise, denoise=0.5)
    plain = host.rows.rows_of(sides[0], [1], N, "")
    alone = ksampler(host, model, plain, sides[1], latents=images[1:2], noise=noise[:1], denoise=0.5)
    assert torch.equal(samples[1:2], alone)
    together = int(sum(step.labels[0] == step.labels[3] for step in plans.shared.steps))
    assert rows_of(reports[0]) == N * K - together < N * K
    assert "⚠ start latents differ between prompts that the plan lets share, so fewer share" in reports[0]
    images[3] = images[0] + 1
    ksampler(host, patched, *sides, latents=images, noise=noise, denoise=0.5)
    assert rows_of(reports[1]) == N * K
    assert "so none share: 48 model rows a pass instead of" in reports[1]


def test_first_prompts_latent_is_taken_where_noise_is_added(host, model, plans, sides):
    """And never where a run goes on: the images that were begun would be lost."""
    patched, reports = shared_model(host, model, plans.shared, per_prompt="first prompt's while shared")
    images = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    noise = one_noise(host)
    samples = ksampler(host, patched, *sides, latents=images, noise=noise, denoise=0.5)
    firsts = plans.shared.steps[0].first[plans.shared.steps[0].labels]
    assert torch.equal(samples, ksampler(host, patched, *sides, latents=images[firsts], noise=noise, denoise=0.5))
    assert [rows_of(report) for report in reports] == [plans.shared.nfe] * 2
    assert "⚠" not in reports[0] + reports[1]
    going_on = {"noise": torch.zeros_like(images), "start_step": 4, "last_step": 10000}
    ksampler(host, patched, *sides, latents=images, **going_on)
    assert rows_of(reports[2]) == N * K // 2
    assert "They come from a run that parted them" in reports[2]
    assert "per_prompt_inputs" not in reports[2]  # it would change nothing


def test_whole_run_that_looks_like_a_last_part_is_told_of(host, model, plans, sides):
    patched, reports = shared_model(host, model, plans.shared)
    sigmas = host.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "ddim_uniform", 4)
    assert len(sigmas) == 5
    ksampler(host, patched, *sides, sigmas=sigmas)
    assert "⚠ the schedule begins below the model's largest sigma" in reports[0]
    images = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ksampler(host, patched, *sides, sigmas=sigmas, latents=images)  # image to image is a last part
    assert "⚠" not in reports[1]


def test_second_stage_with_more_steps_than_the_plan(host, model, sides):
    """KSampler (Advanced) with 16 steps in two stages, a plan of 8: each takes the whole plan, so all have parted."""
    plan = build_plan([[0, 1, 1, 2], [2, 3, 1, 2], [4, 5, 1, 2], [6, 7, 2, 4], [8, 9, 2, 6]], [2] * 4 + [1] * 3 + [0])
    patched, reports = shared_model(host, model, plan)
    sigmas = sigmas_of(host, model, "euler", 16)
    first = ksampler(host, patched, *sides, sigmas=sigmas[:9])
    ksampler(host, patched, *sides, sigmas=sigmas[8:], latents=first, noise=torch.zeros_like(first))
    assert [rows_of(report) for report in reports] == [plan.nfe, N * K]
