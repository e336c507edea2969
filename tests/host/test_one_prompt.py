"""One prompt of a set, drawn alone and unshared: it is what full sampling of the set makes of it."""

import importlib
from dataclasses import replace

import pytest
import torch
from shared_runs import SEED, K, N, ksampler, one_noise, positive_of, shared_model, sigmas_of, vectors_of_prompts

from hierdiff_core import GuidanceCourse, PromptEmbeddings, build_plan, load_decoder, sample, ward_linkage
from hierdiff_core.plan.one_prompt import one_unshared, set_of

pytestmark = pytest.mark.host

I = 4  # noqa: E741
SAMPLERS = ["euler", "dpmpp_2m_sde", "euler_ancestral", "uni_pc", "heun", "lcm"]


@pytest.fixture(scope="module")
def alone(plans):
    """The plan of one prompt, out of a plan that shares."""
    return one_unshared(plans.shared, I)


@pytest.fixture
def own_negative():
    """A negative for each prompt."""
    return positive_of(-vectors_of_prompts())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ksampler_behind_share_steps_draws_what_full_sampling_draws(host, model, plans, alone, sides, sampler):
    full = ksampler(host, shared_model(host, model, plans.none)[0], *sides, sampler)
    patched, reports = shared_model(host, model, alone)
    one = ksampler(host, patched, *sides, sampler)
    assert one.shape == (1, 4, 8, 8)
    assert torch.equal(one, full[I : I + 1])
    assert not any(line.startswith("⚠") for line in reports[-1].splitlines())
    shared = ksampler(host, shared_model(host, model, plans.shared)[0], *sides, sampler)
    assert not torch.equal(one, shared[I : I + 1])


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_hierarchical_ksampler_draws_what_full_sampling_draws(host, model, plans, alone, sides, own_negative, sampler):
    """With a negative, a latent and a mask for each prompt."""
    generator = torch.Generator().manual_seed(3)
    latent = {"samples": torch.randn(N, 4, 8, 8, generator=generator), "noise_mask": torch.rand(N, 1, 8, 8).round()}

    def run(plan):
        node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
        out = node.execute(model, sides[0], own_negative, latent, plan, SEED, 4.0, sampler, "normal", 0.8, 0)
        return out.args[0]

    one = run(alone)
    assert torch.equal(one["samples"], run(plans.none)["samples"][I : I + 1])
    assert one["noise_mask"].shape[0] == 1


def test_hierarchical_guider_draws_what_full_sampling_draws(host, model, plans, alone, sides, own_negative):
    sampler = host.samplers.sampler_object("euler_ancestral")

    def run(plan, noise):
        guider = host.host_samplers.make_guider(model, sides[0], own_negative, 4.0, plan, 0, show_tree=False)
        sigmas = sigmas_of(host, model, "euler_ancestral")
        return guider.sample(noise, torch.zeros(1, 4, 8, 8), sampler, sigmas, disable_pbar=True, seed=SEED)

    assert torch.equal(run(alone, one_noise(host, 1)), run(plans.none, one_noise(host))[I : I + 1])


def test_the_course_of_guidance_that_a_plan_has_does_not_count(host, model, plans, alone, sides):
    """Full sampling is guided in each step."""
    cut = one_unshared(replace(plans.shared, guidance=GuidanceCourse(end=0.5)), I)
    one, other = (ksampler(host, shared_model(host, model, plan)[0], *sides) for plan in (alone, cut))
    assert torch.equal(one, other)


def test_a_run_of_another_number_of_steps(host, model, plans, sides):
    """The host's node has other steps than the plan."""
    short = one_unshared(build_plan(ward_linkage(vectors_of_prompts()), [0.0] * 3, range(100, 100 + N)), I)
    one = ksampler(host, shared_model(host, model, short)[0], *sides)
    assert torch.equal(one, ksampler(host, shared_model(host, model, plans.none)[0], *sides)[I : I + 1])


def test_inputs_that_fit_neither_the_set_nor_one_prompt_are_refused(host, model, alone, sides):
    positive = [[sides[0][0][0][:4], {}]]
    with pytest.raises(ValueError, match=r"positive conditioning has 4 rows .* but the plan is for 6 prompts"):
        ksampler(host, shared_model(host, model, alone)[0], positive, sides[1])


def test_entries_for_other_prompts_are_left_out(host, plans):
    """Of conditionings that were combined, and values with a row for each prompt in every form that there is."""
    module = importlib.import_module(host.sharing.__name__.rsplit(".", 1)[0] + ".one_prompt")
    texts = tuple(f"text {i}" for i in range(N))
    plan = one_unshared(build_plan(ward_linkage(vectors_of_prompts()), [0.0] * K, prompts=texts), I)
    rows = torch.arange(N, dtype=torch.float32)[:, None, None].expand(N, 5, 16)
    control = type("Control", (), {"previous_controlnet": None, "cond_hint_original": rows, "extra_concat_orig": []})()
    seen = type("Seen", (), {})()
    seen.last_hidden_state = rows
    here = {
        "cross_attn": rows[[1, I]],
        "hierdiff_prompts": (texts[1], texts[I]),
        "pooled_output": rows[[1, I], 0],
        "own": [rows[[1, I]], "word"],
    }
    there = {"cross_attn": rows[[0, 2, 3, 5]], "hierdiff_prompts": tuple(texts[i] for i in (0, 2, 3, 5))}
    (entry,) = module.conds_of_prompt({"positive": [here, there]}, plan)["positive"]
    assert entry["cross_attn"].shape == (1, 5, 16)
    assert all((rows == I).all() for rows in (entry["cross_attn"], entry["pooled_output"], entry["own"][0]))
    whole = {"cross_attn": rows, "control": control, "clip_vision_output": seen, "hierdiff_prompts": texts}
    (entry,) = module.conds_of_prompt({"positive": [whole]}, plan)["positive"]
    assert entry["hierdiff_prompts"] == (texts[I],)
    assert torch.equal(entry["control"].cond_hint_original, rows[I : I + 1])
    assert (entry["clip_vision_output"].last_hidden_state == I).all()
    assert len(control.cond_hint_original) == len(seen.last_hidden_state) == N  # what the host keeps stays whole
    assert module.conds_of_prompt({"positive": [whole]}, set_of(plan))["positive"][0] is whole


@pytest.mark.parametrize("scheduler", ["DDPM", "Euler"])
def test_branching_sampler_draws_what_full_sampling_draws(scheduler):
    decoder = load_decoder()
    width = decoder.unet.config.encoder_hid_dim
    rows = torch.randn(4, width, generator=torch.Generator().manual_seed(1))
    embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), ["a", "b", "c", "d"])
    Z = ward_linkage(rows)
    shared, none = (
        build_plan(Z, [tau, tau, 0, 0], embeddings.keys, prompts=embeddings.prompts) for tau in (2 * Z[-1, 2], 0)
    )
    plan = one_unshared(shared, 2)
    how = {"seed": 5, "guidance": 3.0, "scheduler": scheduler, "width": 64, "height": 64}
    one = sample(decoder, embeddings.of_prompt(plan), plan, **how)
    assert torch.equal(one, sample(decoder, embeddings, none, **how)[2:3])
    assert not torch.equal(one, sample(decoder, embeddings, shared, **how)[2:3])
    assert embeddings.of_prompt(shared) is embeddings
