"""What newer versions of ComfyUI do otherwise: imitated by a few lines on any version, and with their own code where
the host has it.
"""

import copy
import importlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from shared_runs import (
    SEED,
    N,
    ksampler,
    one_noise,
    shared_model,
    sigmas_of,
    untimed,
)

pytestmark = pytest.mark.host

CARDS = torch.device("cpu"), torch.device("cpu", 0)  # two names of one device


def run(host, guider, model, rows=1):
    euler, latents = host.samplers.sampler_object("euler"), torch.zeros(rows, 4, 8, 8)
    sigmas = sigmas_of(host, model, "euler")
    return guider.sample(one_noise(host, rows), latents, euler, sigmas, disable_pbar=True, seed=SEED)


def guider_of(kind, sides, *models):
    guider = kind(*models)
    guider.set_conds(*sides)
    guider.set_cfg(4.0)
    return guider


def own_rows(host, sides, i):
    return [host.rows.rows_of(side, [i], N, "") for side in sides]


def assert_as_alone(host, samples, sides, draw):
    """The first and the last prompt have what the host draws for each alone."""
    for i in (0, N - 1):
        assert torch.equal(samples[i : i + 1], draw(own_rows(host, sides, i)))


# --- The guider ------------------------------------------------------------------------------------------------------


def test_shapes_of_the_latents_are_those_of_all_prompts(host, model, plans, sides):
    """Newer hosts hand them on, made before there was a row for each prompt."""
    shapes = []

    class Guider(host.samplers.CFGGuider):
        def outer_sample(self, *args, latent_shapes=None, **kwargs):
            shapes.append(latent_shapes)
            return super().outer_sample(*args, **kwargs)

    def hand_shapes_on(executor, noise, latents, *args, **kwargs):
        return executor(noise, latents, *args, **{**kwargs, "latent_shapes": [latents.shape]})

    newer = model.clone()
    newer.add_wrapper_with_key("outer_sample", "newer host", hand_shapes_on)
    patched, _ = shared_model(host, newer, plans.shared)
    samples = run(host, guider_of(Guider, sides, patched), model)
    assert shapes == [[torch.Size([N, 4, 8, 8])]]
    assert torch.equal(samples, run(host, guider_of(host.samplers.CFGGuider, sides, patched), model))


def test_latents_that_the_host_has_packed_are_refused(host, model, plans, sides):
    def pack(executor, noise, latents, *args, **kwargs):
        return executor(noise, latents, *args, **{**kwargs, "latent_shapes": [latents.shape, (1, 8, 4)]})

    newer = model.clone()
    newer.add_wrapper_with_key("outer_sample", "newer host", pack)
    patched, _ = shared_model(host, newer, plans.shared)
    with pytest.raises(ValueError, match="several media in one"):
        ksampler(host, patched, *sides)


def two_models(host):
    """A guider whose negative pass is another model's, as the host's Dual Model CFG Guider."""

    class TwoModels(host.samplers.CFGGuider):
        def __init__(self, model, other):
            super().__init__(model)
            self.other = other.model

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            inner = (self.inner_model, "positive"), (self.other, "negative")
            cond, uncond = (
                host.samplers.calc_cond_batch(model, [self.conds[side]], x, timestep, model_options)[0]
                for model, side in inner
            )
            return host.samplers.cfg_function(self.inner_model, cond, uncond, self.cfg, x, timestep, model_options)

    own = getattr(importlib.import_module("comfy_extras.nodes_custom_sampler"), "Guider_DualModel", None)
    return [TwoModels, *([own] if own else [])]


def test_guider_of_two_models_shares_the_calls_of_both(host, model, plans, sides):
    for kind in two_models(host):
        alone, _ = shared_model(host, model, plans.none)
        samples = run(host, guider_of(kind, sides, alone, model), model)
        assert_as_alone(
            host, samples, sides, lambda own, kind=kind: run(host, guider_of(kind, own, model, model), model)
        )
        called = []

        def record(apply_model, args, called=called):
            called.append(len(args["input"]))
            return apply_model(args["input"], args["timestep"], **args["c"])

        recorded = model.clone()
        recorded.set_model_unet_function_wrapper(record)
        patched, _ = shared_model(host, recorded, plans.shared)
        run(host, guider_of(kind, sides, patched, model), model)
        assert sum(called) == 2 * plans.shared.nfe


def test_patcher_that_is_exchanged_with_the_conditioning_keeps_the_sharing(host, model, plans, sides, monkeypatch):
    """Newer hosts do so where the conditioning has hooks and weights are moved piece by piece."""
    expected = ksampler(host, shared_model(host, model, plans.shared)[0], *sides)
    exchanged = []
    set_conds = host.samplers.CFGGuider.inner_set_conds

    def inner_set_conds(guider, conds):
        guider.model_patcher = guider.model_patcher.clone()
        exchanged.append(guider.model_patcher)
        set_conds(guider, conds)

    monkeypatch.setattr(host.samplers.CFGGuider, "inner_set_conds", inner_set_conds)
    patched, reports = shared_model(host, model, plans.shared)
    assert torch.equal(ksampler(host, patched, *sides), expected)
    strict = host.guider.make_guider(model, *sides, 4.0, plans.shared, 0, tell=reports.append)
    assert torch.equal(run(host, strict, model, rows=N), expected)
    assert len(exchanged) == len(reports) == 2


# --- Options, cards and memory ---------------------------------------------------------------------------------------


def test_options_that_are_copied_at_every_call_mean_the_same_run(host, model, plans, sides):
    def copy_options(executor, x, timestep, model_options, *args, **kwargs):
        return executor(x, timestep, copy.deepcopy(model_options), *args, **kwargs)

    expected, told = shared_model(host, model, plans.shared)
    samples = ksampler(host, expected, *sides, "dpmpp_2m_sde")
    copying = model.clone()
    copying.add_wrapper_with_key("predict_noise", "another pack", copy_options)
    patched, reports = shared_model(host, copying, plans.shared)
    assert torch.equal(ksampler(host, patched, *sides, "dpmpp_2m_sde"), samples)
    assert list(map(untimed, reports)) == list(map(untimed, told))


def test_model_that_is_copied_shares_as_before(host, model, plans, sides):
    patched, _ = shared_model(host, model, plans.shared)
    expected = ksampler(host, patched, *sides)
    copied = patched.clone()
    copied.model_options, copied.wrappers = copy.deepcopy((patched.model_options, patched.wrappers))
    assert torch.equal(ksampler(host, copied, *sides), expected)


def dealt_to_threads(host, monkeypatch):
    """Each side of the conditioning in a thread of its own, as hosts with several cards do it."""
    calc_cond_batch = host.samplers._calc_cond_batch

    def deal(model, conds, *args):
        with ThreadPoolExecutor(len(conds)) as threads:
            results = threads.map(lambda entries: calc_cond_batch(model, [entries], *args)[0], conds)
            return list(results)

    monkeypatch.setattr(host.samplers, "_calc_cond_batch", deal)


def test_sides_that_are_evaluated_in_threads_are_shared(host, model, plans, sides, monkeypatch):
    dealt_to_threads(host, monkeypatch)
    alone, _ = shared_model(host, model, plans.none)
    assert_as_alone(host, ksampler(host, alone, *sides), sides, lambda own: ksampler(host, model, *own))
    patched, _ = shared_model(host, model, plans.shared, micro_batch=2)
    assert len({row.numpy().tobytes() for row in ksampler(host, patched, *sides)}) == N


def with_two_cards(model):
    """The model with a copy for another card, as MultiGPU Work Units makes it; None on hosts without that."""
    if not hasattr(model, "match_multigpu_clones"):
        return None
    cards, copied = model.clone(), model.clone()
    copied.load_device = CARDS[1]
    copied.is_multigpu_base_clone = True
    cards.set_additional_models("multigpu", [copied])
    cards.model_options["multigpu_options"] = {card: {"relative_speed": 1.0} for card in CARDS}
    return cards


def test_the_hosts_own_cards_get_the_clusters(host, model, plans, sides, monkeypatch):
    """As in threads, where the host has no cards of its own."""
    cards = with_two_cards(model)
    if cards is None:
        dealt_to_threads(host, monkeypatch)
    rows, places = {"positive": 0, "negative": 0}, set()

    def record(apply_model, args):
        rows["positive" if args["c"]["c_crossattn"].any() else "negative"] += len(args["input"])
        places.add(args["c"]["transformer_options"].get("multigpu_thread_device"))
        return apply_model(args["input"], args["timestep"], **args["c"])

    recorded = cards or model.clone()
    recorded.set_model_unet_function_wrapper(record)
    alone, _ = shared_model(host, recorded, plans.none)
    assert_as_alone(host, ksampler(host, alone, *sides), sides, lambda own: ksampler(host, recorded, *own))
    rows.update(positive=0, negative=0)
    patched, reports = shared_model(host, recorded, plans.shared)
    assert ksampler(host, patched, *sides).isfinite().all()
    assert rows == {"positive": plans.shared.nfe, "negative": plans.shared.nfe}
    assert places == (set(CARDS) if cards else {None})
    assert "⚠" not in reports[0]


def test_free_memory_is_what_the_host_could_make_free(pack):
    device = importlib.import_module(f"{pack.__name__}.nodes.host.device")
    management = importlib.import_module("comfy.model_management")
    cpu = torch.device("cpu")
    newer = SimpleNamespace(current_patcher=SimpleNamespace(get_free_memory=lambda device: 7 if device == cpu else 0))
    assert device.free_memory_beside(newer, cpu) == 7
    older = SimpleNamespace(current_patcher=SimpleNamespace())
    for model in (older, SimpleNamespace()):
        assert device.free_memory_beside(model, cpu) == pytest.approx(management.get_free_memory(cpu), rel=0.2)


# --- Samplers --------------------------------------------------------------------------------------------------------


def video_samplers(host):
    """A sampler that draws a video block by block, and the host's own where it has one."""

    def sample_blocks(model, x, sigmas, extra_args=None, callback=None, disable=None, num_frame_per_block=1):
        pytest.fail("the sampler was called")

    samplers = [host.samplers.KSAMPLER(sample_blocks, {"num_frame_per_block": 3})]
    if hasattr(host.samplers.k_diffusion_sampling, "sample_ar_video"):
        samplers.append(host.samplers.ksampler("ar_video", {"num_frame_per_block": 3}))
    return samplers


def test_sampler_that_begins_anew_with_each_block_of_frames_is_refused(host, model, plans, sides):
    patched, _ = shared_model(host, model, plans.shared)
    sigmas = sigmas_of(host, model, "euler")
    for sampler in video_samplers(host):
        name = sampler.sampler_function.__name__.removeprefix("sample_")
        guider = guider_of(host.samplers.CFGGuider, sides, patched)
        with pytest.raises(ValueError, match=rf"^{name} draws a video in blocks, .* use another sampler"):
            guider.sample(one_noise(host, 1), torch.zeros(1, 4, 8, 8), sampler, sigmas, disable_pbar=True, seed=SEED)


def test_sampler_that_asks_for_what_guidance_was_given_is_known_before_it_runs(pack, host, model):
    """As cfgpp_ud10_ab, which takes the conditional prediction where there is no negative."""
    dry_run = importlib.import_module(f"{pack.__name__}.nodes.host.dry_run")

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen = []
        options = {"sampler_post_cfg_function": [seen.append]}
        for sigma in sigmas[:-1]:
            x = x - model(x, sigma * x.new_ones([x.shape[0]]), **{**extra_args, "model_options": options})
            asked = ("denoised", "cond", "uncond", "cond_scale", "model", "uncond_denoised", "cond_denoised", "sigma")
            assert all(key in seen[-1] for key in (*asked, "model_options", "input"))
        return x

    sample.__module__ = "comfy.k_diffusion.sampling"
    sigmas = sigmas_of(host, model, "euler")
    dry = dry_run.DryRun(sample, None, torch.zeros(N, 4, 8, 8), sigmas, {}, {})
    passed = dry(lambda x, sigma, call: 0.0)
    assert passed.sigmas == pytest.approx(sigmas[:-1].tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_of_half_precision_latents_is_the_hosts_of_this_version(host, dtype):
    """Newer hosts draw it in float32: the same seed is another noise than before."""
    latents = torch.zeros(N, 4, 8, 8, dtype=dtype)
    noise = host.noise.OneNoise(SEED, N).generate_noise({"samples": latents})
    assert torch.equal(noise, host.sample.prepare_noise(latents[:1], SEED).repeat(N, 1, 1, 1))
    assert noise.dtype == dtype
