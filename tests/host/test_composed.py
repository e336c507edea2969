"""What other nodes attach, two things at once: each is supported alone, and so are the two, or they are refused."""

import importlib

import pytest
import torch
from attached_nodes import (
    PAIRED,
    PAIRS,
    SIDES,
    alone,
    pictures,
    plan_of_pairs,
    rows_by_contract,
    rows_by_window,
    shared,
    with_pictures,
)
from shared_runs import SEED, K, N, ksampler, plans_of, shared_model, vectors_of_prompts

pytestmark = pytest.mark.host
FIRST = "first prompt's while shared"


def node_of(module, name, model, *settings):
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute(model, *settings).args[0]


def with_self_attention_guidance(model):
    return node_of("nodes_sag", "SelfAttentionGuidance", model, 0.5, 2.0)


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_recorders_do_not_go_with_caches(host, model, plans, cache):
    cached = node_of("nodes_easycache", f"{cache}Node", with_self_attention_guidance(model), 0.2, 0.15, 0.95, False)
    with pytest.raises(ValueError, match=rf"nodes_sag reads what the model has recorded.*; {cache} would take"):
        shared(host, cached, plans.none)


def test_recorders_do_not_go_with_wrappers_of_the_guidance(host, model, plans):
    def keeps_a_mean(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    patched = with_self_attention_guidance(model)
    patched.add_wrapper_with_key("predict_noise", "other", keeps_a_mean)
    with pytest.raises(ValueError, match=r"reads what the model has recorded.*keeps_a_mean.* would take these calls"):
        shared(host, patched, plans.none)


@pytest.mark.usefixtures("all_at_once")
def test_recorders_where_prompts_cannot_be_in_one_call(host, model, pack):
    """Prompts of different lengths are evaluated one after the other, whatever fits into one call."""
    merge = importlib.import_module(f"{pack.__name__}.nodes.host.encode_set")
    rows = [torch.randn(1, n, 16, generator=torch.Generator().manual_seed(n)) for n in (5, 5, 5, 7, 7, 7)]
    rows = [row + 0.1 * i for i, row in enumerate(rows)]
    texts = [f"prompt {i}" for i in range(N)]
    positive = [merge.merge([[row, {}] for row in rows], texts, merge.NO_MASK)]
    patched = with_self_attention_guidance(model)
    samples, _ = shared(host, patched, plans_of(vectors_of_prompts()).none, (positive, SIDES[1]))
    for i in (0, N - 1):
        own = ksampler(host, patched, [[rows[i], {}]], SIDES[1])
        torch.testing.assert_close(samples[i : i + 1], own, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("pick", [rows_by_window, rows_by_contract])
def test_pictures_of_equal_prompts_differ_where_nothing_is_shared(host, model, plans, pick):
    """With the first prompt's while shared, too: at tau = 0 nothing is."""
    patched = with_pictures(model, pictures(), pick)
    own, report = shared(host, patched, plans.none, per_prompt=FIRST)
    expected, _ = shared(host, patched, plans.none)
    assert torch.equal(own, expected)
    assert "the data of a cluster's first prompt were taken" not in report
    _, report = shared(host, patched, plans.shared, per_prompt=FIRST)
    assert "the data of a cluster's first prompt were taken" in report


def test_rows_are_counted_after_pictures_parted_the_prompts(host, model, plans):
    patched = with_pictures(model, pictures(range(N)), rows_by_window)
    _, report = shared(host, patched, plans.shared)
    assert f"model rows: {N * K} instead of {N * K}, 0.0% saved" in report


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lms", "uni_pc", "deis"])
def test_samplers_that_remember_go_on_where_pictures_keep_the_prompts_apart(host, model, plans, sampler):
    """The prompts part at the first call, so that nothing splits where the plan has a split."""
    patched = with_pictures(model, pictures(range(N)), rows_by_window)
    samples, _ = shared(host, patched, plans.shared, sampler=sampler)
    assert torch.equal(samples, shared(host, patched, plans.none, sampler=sampler)[0])


@pytest.mark.parametrize("choice", ["share only if equal", FIRST])
def test_packs_are_told_of_splits_where_there_is_a_mask(host, model, plans, choice):
    """The host asks for a mask before it calls the model: the split is that call's."""
    told = []

    def listens(apply_model, options):
        values = options["c"]["transformer_options"].get("hierdiff")
        if values and not values.get("guard"):
            told.append((values["step"], values["split"], tuple(values["parents"])))
        return apply_model(options["input"], options["timestep"], **options["c"])

    def run(mask):
        told.clear()
        listens.heeds_hierdiff = True
        patched = model.clone()
        patched.set_model_unet_function_wrapper(listens)
        patched, _ = shared_model(host, patched, plans.shared, per_prompt=choice)
        ksampler(host, patched, *SIDES, noise_mask=mask)
        return list(told)

    without, with_mask = run(None), run(torch.ones(1, 1, 8, 8))
    assert any(split for _, split, _ in without)
    assert with_mask == without


def test_masks_of_ddim_keep_the_noise_that_the_host_gives_them(host, model, plans):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    patched, _ = shared_model(host, model, plans.none)
    samples = ksampler(host, patched, *SIDES, "ddim", latents=latents, noise_mask=mask)
    for i in (0, N - 1):
        own = [host.rows.rows_of(side, [i], N, "") for side in SIDES]
        expected = ksampler(host, model, *own, "ddim", latents=latents, noise_mask=mask)
        assert torch.equal(samples[i : i + 1], expected)


def test_all_that_takes_part_in_a_question_is_named(host, model, plans):
    def harmless(q, k, v, options):
        return q, k * 1.01, v

    patched = with_pictures(model, pictures(), lambda count, options: list(range(count)))
    patched.set_model_attn1_patch(harmless)
    with pytest.raises(ValueError, match=r"harmless.*|.*with_pictures") as refused:
        shared(host, patched, plans.shared)
    assert "harmless" in str(refused.value)
    assert "with_pictures" in str(refused.value)


def test_draws_begin_again_where_a_picture_parts_the_prompts(host, model):
    """A unet function that draws at each call, and has data for each prompt."""

    def draws(apply_model, options):
        inner = options["c"]["transformer_options"]
        out = apply_model(options["input"], options["timestep"], **options["c"])
        count = len(options["input"]) // len(options["cond_or_uncond"])
        rows = pictures()[rows_by_window(count, inner)]
        noise = torch.randn(1, *out.shape[1:])
        return out + rows.repeat(len(options["cond_or_uncond"]), 1, 1, 1) + 0.1 * noise

    patched = model.clone()
    patched.set_model_unet_function_wrapper(draws)
    torch.manual_seed(SEED)
    samples, _ = shared(host, patched, plan_of_pairs(1.5), PAIRED)
    torch.manual_seed(SEED)
    assert torch.equal(samples[:1], alone(host, patched, 0, PAIRED))
    assert all(torch.equal(samples[i], samples[i + 1]) for i in (0, 2, 4))
    assert PAIRS[0] == PAIRS[1]
