"""Adherence of any MODEL: on models that are known, whatever they predict, it is the number that it must be."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shared_runs import N, ksampler, shared_model

from hierdiff_core.measure.adherence import LEVELS, adherence, adherence_passes, common_noise_of

pytestmark = pytest.mark.host

SHAPE = (4, 2, 2)
KINDS = ("EPS", "V_PREDICTION", "V_PREDICTION_EDM", "EDM", "FLOW", "FLUX", "STABLE_CASCADE", "FLOW_COSMOS")
KINDS += ("V_PREDICTION_CONTINUOUS",)


@pytest.fixture(scope="module")
def ours(pack):
    names = {"adherence": "host.adherence", "samplers": "host.samplers", "sharing": "host.share_steps"}
    found = {name: importlib.import_module(f"{pack.__name__}.nodes.{place}") for name, place in names.items()}
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def set_of_three():
    """Texts as large as latents; pictures, of which the first is what its text says, the second half of it."""
    generator = torch.Generator().manual_seed(3)
    texts = torch.randn(3, *SHAPE, generator=generator)
    pictures = torch.stack([texts[0], texts[1] / 2, texts[0] - texts[2]])
    return SimpleNamespace(texts=texts, pictures=pictures, positive=[[texts.reshape(3, 1, -1), {}]])


NEGATIVE = [[torch.zeros(1, 1, int(np.prod(SHAPE))), {}]]


def expected(texts, pictures, levels, seed):
    """By hand: with the prompt the text is predicted, without it the noised latent, scaled as the picture."""
    with_prompt = (texts - pictures).double().square().flatten(1).mean(dim=1)
    shares = []
    for place, level in enumerate(levels):
        noise = common_noise_of(pictures, seed, place).double() * level / (1 - level)
        without = noise.square().flatten(1).mean(dim=1)
        shares.append((without - with_prompt) / torch.maximum(without, with_prompt))
    return torch.stack(shares).mean(dim=0).numpy()


def asked(ours, model, positive, negative=None, count=3, **options):
    return ours.adherence.ModelDenoiser(model, positive, NEGATIVE if negative is None else negative, count, **options)


def measured(denoiser, latents, **options):
    return adherence(latents, denoiser.noised, denoiser.denoised, **options)


# --- the number ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_known_models_give_the_known_number_whatever_they_predict(host, ours, set_of_three, kind):
    model = host.native_models.known_model(kind)
    latents = model.model.process_latent_out(set_of_three.pictures)  # as a sampler hands them on
    found = measured(asked(ours, model, set_of_three.positive), latents, seed=5)
    np.testing.assert_allclose(found, expected(set_of_three.texts, set_of_three.pictures, LEVELS, 5), atol=2e-3)
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[0] > found[1] > found[2]


def test_latents_are_scaled_and_moved_as_the_models_own(host, ours, set_of_three):
    formats = importlib.import_module("comfy.latent_formats")
    model = host.native_models.known_model("FLOW", formats.SD3())
    denoiser = asked(ours, model, set_of_three.positive)
    latents = model.model.process_latent_out(set_of_three.pictures)
    assert not torch.allclose(latents, set_of_three.pictures, atol=0.1)
    wanted = expected(set_of_three.texts, set_of_three.pictures, LEVELS, 0)
    np.testing.assert_allclose(measured(denoiser, latents), wanted, atol=1e-4)


def test_a_shifted_schedule_is_asked_at_the_same_noise_levels(host, ours, set_of_three):
    nodes = importlib.import_module("comfy_extras.nodes_model_advanced")
    model = host.native_models.known_model("FLOW")
    shifted = nodes.ModelSamplingSD3().patch(model, 5.0)[0]
    shifted.model.diffusion_model.sampling = [shifted.get_model_object("model_sampling")]
    latents = model.model.process_latent_out(set_of_three.pictures)
    found = measured(asked(ours, shifted, set_of_three.positive), latents)
    np.testing.assert_allclose(found, measured(asked(ours, model, set_of_three.positive), latents), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_is_the_share_of_noise_in_what_the_model_sees(host, ours, kind):
    sampling = host.native_models.known_model(kind).get_model_object("model_sampling")
    for level in LEVELS:
        sigma = torch.tensor(ours.adherence.sigma_of_level(sampling, level))
        picture = sampling.noise_scaling(sigma, torch.zeros(1), torch.ones(1), False)
        noise = sampling.noise_scaling(sigma, torch.ones(1), torch.zeros(1), False)
        assert float(noise / (picture + noise)) == pytest.approx(level, abs=1e-5)


def test_a_level_that_a_model_does_not_know_is_its_nearest(host, ours):
    sampling = host.native_models.known_model("EPS").get_model_object("model_sampling")
    assert ours.adherence.sigma_of_level(sampling, 0.999) == pytest.approx(float(sampling.sigma_max))
    assert ours.adherence.sigma_of_level(sampling, 0.001) == pytest.approx(float(sampling.sigma_min))


# --- the calls -------------------------------------------------------------------------------------------------------


def test_it_takes_the_passes_that_it_says_with_and_without_sharing_patches(host, ours, set_of_three, plans):
    model = host.native_models.known_model("EPS")
    network = model.model.diffusion_model
    plain = measured(asked(ours, model, set_of_three.positive), set_of_three.pictures)
    assert sum(network.rows) == adherence_passes(3) == 2 * 3 * len(LEVELS)
    network.rows.clear()
    patched, reports = shared_model(host, model, plans.shared)  # a plan for another number of prompts
    assert np.array_equal(measured(asked(ours, patched, set_of_three.positive), set_of_three.pictures), plain)
    assert sum(network.rows) == adherence_passes(3)
    assert reports == []
    assert ours.sharing.shares_steps(patched)  # the user's model is as it was


def test_functions_around_the_guidance_are_left_out(host, ours, set_of_three):
    model = host.native_models.known_model("EPS")
    plain = measured(asked(ours, model, set_of_three.positive), set_of_three.pictures)
    guided = model.clone()
    for attach in ("cfg_function", "post_cfg_function", "pre_cfg_function", "calc_cond_batch_function"):
        getattr(guided, f"set_model_sampler_{attach}")(lambda args: pytest.fail("it was called"))
    assert np.array_equal(measured(asked(ours, guided, set_of_three.positive), set_of_three.pictures), plain)
    assert len(guided.model_options["sampler_post_cfg_function"]) == 1


@pytest.mark.parametrize("micro_batch", [1, 2, 32])
def test_calls_of_several_pictures_as_on_a_gpu_give_what_single_ones_give(
    host, ours, set_of_three, micro_batch, monkeypatch
):
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    model = host.native_models.known_model("FLOW")
    latents = model.model.process_latent_out(set_of_three.pictures)
    found = measured(asked(ours, model, set_of_three.positive, micro_batch=micro_batch), latents)
    assert max(model.model.diffusion_model.rows) == 2 * min(micro_batch, 3)  # with the prompt and without
    wanted = expected(set_of_three.texts, set_of_three.pictures, LEVELS, 0)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_step_caches_of_the_host_skip_nothing_of_it(host, ours, set_of_three):
    nodes = importlib.import_module("comfy_extras.nodes_easycache")
    model = host.native_models.known_model("EPS")
    plain = measured(asked(ours, model, set_of_three.positive), set_of_three.pictures)
    for node in (nodes.EasyCacheNode, nodes.LazyCacheNode):
        cached = node.execute(model, 10.0, 0.0, 1.0, False).args[0]
        assert np.array_equal(measured(asked(ours, cached, set_of_three.positive), set_of_three.pictures), plain)


def test_a_picture_does_not_depend_on_its_neighbours(host, ours, set_of_three):
    model = host.native_models.known_model("EPS")
    all_three = measured(asked(ours, model, set_of_three.positive), set_of_three.pictures)
    positive = [[set_of_three.texts[[2, 0]].reshape(2, 1, -1), {}]]
    two = measured(asked(ours, model, positive, count=2), set_of_three.pictures[[2, 0]])
    np.testing.assert_allclose(two, all_three[[2, 0]], rtol=1e-12)


def test_a_cancelled_run_stops_before_its_next_call(host, ours, set_of_three, monkeypatch):
    model = host.native_models.known_model("EPS")
    management = importlib.import_module("comfy.model_management")
    denoiser = asked(ours, model, set_of_three.positive)
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        measured(denoiser, set_of_three.pictures)
    assert model.model.diffusion_model.rows == []
    management.interrupt_current_processing(False)


# --- real samplers and networks, and what cannot be measured ---------------------------------------------------------


def test_a_network_of_the_hosts_own_is_measured_on_what_it_drew(host, ours, model, plans, sides):
    """And shared pictures have another number: random weights say no more than that."""
    denoiser = asked(ours, model, *sides, count=N)
    full = measured(denoiser, ksampler(host, shared_model(host, model, plans.none)[0], *sides))
    shared = measured(denoiser, ksampler(host, shared_model(host, model, plans.shared)[0], *sides))
    assert full.shape == (N,)
    assert (np.abs(full) <= 1).all()
    assert not np.array_equal(full, shared)


@pytest.mark.parametrize("name", ["Lumina 2", "Qwen-Image", "HunyuanVideo", "PixArt"])
def test_networks_of_texts_and_of_videos_are_asked(ours, name):
    text_models = importlib.import_module("text_models")
    model, shape = text_models.text_model(name)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(3, 7, text_models.WIDTH, generator=generator)
    more = {"attention_mask": torch.ones(1, 7), "num_tokens": 7} if name == "Lumina 2" else {}
    more |= {"pooled_output": torch.zeros(1, 24)} if name == "HunyuanVideo" else {}
    sides = [[texts[:2], more]], [[texts[2:], more]]
    latents = torch.randn(2, *shape[1:], generator=generator)
    found = measured(asked(ours, model, *sides, count=2), latents, levels=[0.5, 0.8])
    assert found.shape == (2,)
    assert np.isfinite(found).all()
    assert (found != 0).any()


def test_a_negative_that_says_the_same_is_refused(host, ours, set_of_three):
    model = host.native_models.known_model("EPS")
    same = asked(ours, model, set_of_three.positive, negative=set_of_three.positive)
    with pytest.raises(ValueError, match="connect an empty CLIP Text Encode as negative"):
        measured(same, set_of_three.pictures)
