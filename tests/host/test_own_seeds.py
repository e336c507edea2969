"""Prompts with seeds of their own behind the host's samplers: each as if drawn with that seed alone."""

import importlib
from dataclasses import replace

import pytest
import torch
from shared_runs import SEED, K, N, ksampler, shared_model, sigmas_of, vectors_of_prompts

from hierdiff_core import Budget, Profile, PromptTree, build_plan, plan_for

pytestmark = pytest.mark.host

SEEDS = (None, 31, None, 32, 31, None)
GROUPS = {None: [0, 2, 5], 31: [1, 4], 32: [3]}
TEXTS = [f"prompt {i}" for i in range(N)]


@pytest.fixture(scope="module")
def plan():
    tree = PromptTree.of(vectors_of_prompts(), "chord", TEXTS, seeds=SEEDS)
    plan = plan_for(tree, Budget("saving", 0.3), Profile(K))
    assert plan.steps[0].num_clusters == 3 < plan.steps[-1].num_clusters == N
    return plan


def plan_of(plan, rows):
    """The part of a plan that is of some prompts: their tree at the same thresholds, without seeds."""
    tree = PromptTree.of(vectors_of_prompts()[rows], "chord", [TEXTS[i] for i in rows])
    return build_plan(tree.Z, plan.thresholds, tree.keys, prompts=tree.prompts)


def of_rows(sides, rows):
    return [[[cond[rows] if len(cond) > 1 else cond, values] for cond, values in side] for side in sides]


def hierarchical(host, model, sides, plan, sampler, seed, mask=None):
    node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
    latent = {"samples": torch.zeros(1, 4, 8, 8), **({} if mask is None else {"noise_mask": mask})}
    if mask is not None:
        latent["samples"] = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    out = node.execute(model, *sides, latent, plan, seed, 4.0, sampler, "normal", 1.0, micro_batch=0)
    return out.args[0]["samples"]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_each_seed_is_drawn_as_if_it_were_alone(host, model, sides, plan, sampler):
    """Also in Share Steps, with the noise of the host's own KSampler."""
    samples = hierarchical(host, model, sides, plan, sampler, SEED)
    for seed, rows in GROUPS.items():
        own = SEED if seed is None else seed
        alone = hierarchical(host, model, of_rows(sides, rows), plan_of(plan, rows), sampler, own)
        assert torch.equal(samples[rows], alone)
    patched, reports = shared_model(host, model, plan)
    for rows in (1, N):
        assert torch.equal(ksampler(host, patched, *sides, sampler, rows=rows), samples)
    assert "3 seeds" in reports[-1]


@pytest.mark.parametrize("sampler", ["uni_pc", "dpmpp_2m_sde"])
def test_a_seed_of_its_own_is_what_the_samplers_seed_would_be(host, model, sides, plan, sampler):
    """Of samplers that round a batch otherwise than a single latent: in a batch of the same size."""
    samples = hierarchical(host, model, sides, plan, sampler, SEED)
    for seed, rows in GROUPS.items():
        of_seed = hierarchical(host, model, sides, replace(plan, seeds=None), sampler, SEED if seed is None else seed)
        assert torch.equal(samples[rows], of_seed[rows])


def test_a_prompt_alone_with_its_seed_is_what_the_hosts_ksampler_draws(host, model, sides, plan):
    patched, _ = shared_model(host, model, plan)
    samples = ksampler(host, patched, *sides, "heun")
    latents = torch.zeros(1, 4, 8, 8)
    noise = host.sample.prepare_noise(latents, 32)
    one = of_rows(sides, [3])
    assert torch.equal(samples[3:4], ksampler(host, model, *one, "heun", noise=noise, latents=latents, seed=32))


def test_the_noise_that_a_mask_keeps_is_of_the_prompts_seed_too(host, model, sides, plan):
    """ddim draws another noise for what a mask keeps."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    samples = hierarchical(host, model, sides, plan, "ddim", SEED, mask)
    for seed, rows in GROUPS.items():
        own = SEED if seed is None else seed
        alone = hierarchical(host, model, of_rows(sides, rows), plan_of(plan, rows), "ddim", own, mask)
        assert torch.equal(samples[rows], alone)


def test_the_same_prompt_with_several_seeds_is_a_set(host, model):
    """Nothing but the noise differs, which is enough: such runs are not refused as pictures that are all the same."""
    vectors = torch.ones(3, 16)
    positive, negative = [[vectors[:, None].repeat(1, 5, 1), {}]], [[torch.zeros(1, 5, 16), {}]]
    tree = PromptTree.of(vectors, "chord", ["a cat"] * 3, seeds=[1, 2, 1])
    plan = plan_for(tree, Budget("saving", 0.5, clamp=True), Profile(K))
    assert plan.nfe == 2 * K
    patched, reports = shared_model(host, model, plan)
    samples = ksampler(host, patched, positive, negative)
    assert torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(hierarchical(host, model, [positive, negative], plan, "euler", SEED), samples)
    assert "⚠" not in reports[-1]


def test_without_added_noise_nobody_has_any(host, model, sides, plan):
    """As the second sampler of a run in two parts: it goes on from latents."""
    patched, _ = shared_model(host, model, plan)
    sigmas, nothing = sigmas_of(host, model, "euler"), torch.zeros(1, 4, 8, 8)
    half = ksampler(host, patched, *sides, rows=1, start_step=0, last_step=K // 2, force_full_denoise=False)
    rest = ksampler(
        host, patched, *sides, noise=nothing.repeat(N, 1, 1, 1), latents=half, start_step=K // 2, last_step=K
    )
    assert len(sigmas) == K + 1
    torch.testing.assert_close(rest, ksampler(host, patched, *sides), atol=1e-5, rtol=1e-5)


def test_shared_noise_has_the_seeds_of_the_prompts(host, plan):
    guider = importlib.import_module(host.guider.__name__)
    noise = guider.SharedNoise.execute(SEED, plan).args[0].generate_noise({"samples": torch.zeros(1, 4, 8, 8)})
    for i, seed in enumerate(SEEDS):
        own = SEED if seed is None else seed
        assert torch.equal(noise[i : i + 1], host.sample.prepare_noise(torch.zeros(1, 4, 8, 8), own))


def test_noise_that_a_sampler_draws_by_itself_is_told_of(host, model, sides, plan):
    """It comes from one generator for all rows: such a prompt is not as if drawn alone."""
    sampler = host.samplers.ksampler("euler", {"s_churn": 1.0})
    guider = host.host_samplers.make_guider(model, *sides, 4.0, plan, 0, show_tree=False, tell=(told := []).append)
    noise = host.noise.OneNoise(SEED, N, plan.seeds).generate_noise({"samples": torch.zeros(1, 4, 8, 8)})
    guider.sample(noise, torch.zeros(1, 4, 8, 8), sampler, sigmas_of(host, model, "euler"), seed=SEED)
    assert "⚠ euler draws noise by itself: a prompt's own seed decides what it starts from" in told[0]
