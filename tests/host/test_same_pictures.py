"""Conditioning with one row, or equal rows, for a plan of different prompts: each way that a run can take it."""

import pytest
import torch
from shared_runs import ENDS, SEED, K, N, one_negative, one_noise, plans_of, positive_of, vectors_of_prompts
from shared_runs import sigmas_of as sigmas_for

pytestmark = pytest.mark.host
SAME = r"the conditioning is the same for all 6 prompts: all pictures would be; connect the conditioning of CLIP Embed"


@pytest.fixture(scope="module")
def vectors():
    return vectors_of_prompts()


@pytest.fixture(scope="module")
def plans(vectors):
    return plans_of(vectors)


def run(host, model, positive, negative, plan, sampler="euler", cfg=4.0, **options):
    """Latents and report of the Hierarchical Guider."""
    reports = []
    guider = host.host_samplers.make_guider(model, positive, negative, cfg, plan, 0, False, tell=reports.append)
    noise = options.pop("noise", one_noise(host))
    latents = options.pop("latents", torch.zeros(N, 4, 8, 8))
    sampler = host.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    sigmas = sigmas_for(host, model, "euler")
    return guider.sample(noise, latents, sampler, sigmas, disable_pbar=True, seed=SEED, **options), reports[0]


def one_row(vectors):
    return [[positive_of(vectors)[0][0][:1], {}]]


def equal_rows(vectors):
    return [[positive_of(vectors)[0][0][:1].repeat(N, 1, 1), {"pooled_output": torch.ones(N, 4), "guidance": 3.5}]]


def several_entries(vectors):
    return [*one_row(vectors), [positive_of(vectors)[0][0][1:2], {"strength": 0.5, "area": (4, 4, 0, 0)}]]


def zeroed(vectors):
    return [[torch.zeros(N, 5, 16), {}]]


@pytest.mark.parametrize("make", [one_row, equal_rows, several_entries, zeroed])
@pytest.mark.parametrize("tau", ["none", "shared"])
def test_run_in_which_nothing_differs_is_refused_before_the_first_call(
    host, model, vectors, plans, make, tau, monkeypatch
):
    silent = model.clone()
    silent.add_object_patch("model_sampling", model.get_model_object("model_sampling"))  # as many models have
    monkeypatch.setattr(silent.model, "apply_model", lambda *_, **__: pytest.fail("the model was called"))
    with pytest.raises(ValueError, match=SAME):
        run(host, silent, make(vectors), one_negative(), getattr(plans, tau))


def rows(vectors, negative=False):
    return [[positive_of(vectors)[0][0] * (0.3 if negative else 1), {}]]


def noises(host):
    return host.sample.prepare_noise(torch.zeros(N, 4, 8, 8), SEED)


DIFFERENT = {
    "negative": lambda host, v: {"negative": rows(v, negative=True)},
    "latents": lambda host, v: {"latents": torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(3))},
    "noise": lambda host, v: {"noise": noises(host)},
    "mask": lambda host, v: {
        "denoise_mask": (torch.arange(64).reshape(1, 1, 8, 8) >= 9 * torch.arange(N).reshape(N, 1, 1, 1)).float(),
        "latents": torch.ones(N, 4, 8, 8),
    },
    "noise of the sampler": lambda host, v: {"sampler": "euler_ancestral"},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_draws_different_pictures_is_drawn(host, model, vectors, plans, what):
    options = {"negative": one_negative(), **DIFFERENT[what](host, vectors)}
    samples, report = run(host, model, one_row(vectors), options.pop("negative"), plans.none, **options)
    assert len({row.numpy().tobytes() for row in samples}) == N
    assert ("only noise or patches make the images differ" in report) == (what == "noise of the sampler")
    assert "different image" not in report


def test_values_in_lists_and_dicts_count(host, vectors, plans):
    same = host.pictures.is_same_for_all
    one = {"cross_attn": positive_of(vectors)[0][0][:1], "uuid": None}
    latents = [torch.zeros(N, 4, 8, 8), None]
    assert same({"positive": [one]}, latents, plans.shared)
    for value in ([torch.arange(N)], {"a": {"b": (torch.arange(N),)}}, object(), host.hooks.HookGroup()):
        assert not same({"positive": [{**one, "of another pack": value}]}, latents, plans.shared)
    control = host.native_models.control_net()
    control.set_cond_hint(torch.zeros(1, 3, 64, 64))
    assert same({"positive": [{**one, "control": control}]}, latents, plans.shared)
    control.set_cond_hint(torch.rand(N, 3, 64, 64))
    assert not same({"positive": [{**one, "control": control}]}, latents, plans.shared)


def by_prompt(apply_model, options):
    """A patch that has something of its own for each prompt, and heeds whose rows a call has."""
    out, told = apply_model(options["input"], options["timestep"], **options["c"]), options["c"]["transformer_options"]
    own = torch.tensor(told["hierdiff"]["rows"] * len(options["cond_or_uncond"]))
    return out + 0.01 * own[:, None, None, None]


by_prompt.heeds_hierdiff = True


def test_patches_of_others_are_left_to_differ_and_told_of(host, model, vectors, plans):
    patched = model.clone()
    patched.set_model_unet_function_wrapper(by_prompt)
    samples, report = run(host, patched, one_row(vectors), one_negative(), plans.none)
    assert len({row.numpy().tobytes() for row in samples}) > 1
    assert "⚠ the conditioning is the same for all prompts, and only noise or patches make the images differ" in report


def test_single_prompt_and_equal_prompts_need_one_row(host, model, vectors, plans):
    samples, report = run(
        host,
        model,
        [[positive_of(vectors)[0][0][ENDS], {}]],
        one_negative(),
        plans.ends,
        noise=one_noise(host, 2),
        latents=torch.zeros(1, 4, 8, 8),
    )
    assert len(samples) == 2
    assert "different image" not in report


def test_conditioning_that_ends_before_the_plan_splits_is_told_of(host, model, vectors, plans):
    """All prompts' texts for the first steps, one text for the rest."""
    early = host.node_helpers.conditioning_set_values(rows(vectors), {"start_percent": 0.0, "end_percent": 0.3})
    late = host.node_helpers.conditioning_set_values(one_row(vectors), {"start_percent": 0.3, "end_percent": 1.0})
    samples, report = run(host, model, early + late, one_negative(), plans.shared)
    found = len({row.numpy().tobytes() for row in samples})
    assert 0 < found < N
    assert f"⚠ {found} different image{'s' * (found > 1)} for 6 prompts: prompt " in report
    assert "ConditioningSetTimestepRange" in report
    samples, report = run(host, model, early + late, one_negative(), plans.none)
    assert len({row.numpy().tobytes() for row in samples}) == N
    assert "different image" not in report


def test_texts_that_have_no_effect_are_told_of(host, model, vectors, plans):
    """Negatives for each prompt, and no negative pass."""
    _, report = run(host, model, one_row(vectors), rows(vectors), plans.none, cfg=1.0)
    assert "⚠ 1 different image for 6 prompts: prompt 0" in report


def test_share_steps_counts_a_mask_for_each_prompt(host, model, vectors, plans):
    """With one text for all, as an inpainting of another part of the picture for each prompt."""
    options = DIFFERENT["mask"](host, vectors)
    patched = host.sharing.share_steps(model, host.sharing.Sharing(plans.none, show_tree=False, tell=lambda _: None))
    noise = one_noise(host)
    samples = host.sample.sample(
        patched, noise, K, 4.0, "euler", "normal", one_row(vectors), one_negative(), options["latents"],
        noise_mask=options["denoise_mask"], disable_pbar=True, seed=SEED,
    )  # fmt: skip
    assert len({row.numpy().tobytes() for row in samples}) == N
