"""Share Steps, a patch of a MODEL: behind the host's own sampler and any guider; and what its runs tell."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shared_runs import (
    SEED,
    K,
    N,
    ksampler,
    one_noise,
    shared_model,
    sigmas_of,
    untimed,
)

from hierdiff_core import build_plan, linear_thresholds

pytestmark = pytest.mark.host


def rows_told(report):
    """(spent, standard) of a report."""
    line = next(line for line in report.splitlines() if line.startswith("model rows"))
    return tuple(int(word.rstrip(",")) for word in line.split() if word.rstrip(",").isdigit())


# --- The host's KSampler ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(host, model, plans, sides):
    """What the Hierarchical KSampler gives, by sampler."""

    def run(sampler, seed=SEED):
        node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        out = node.execute(model, *sides, latent, plans.shared, seed, 4.0, sampler, "normal", 1.0, micro_batch=0)
        return out.args[0]["samples"], out.args[1]

    return run


@pytest.mark.parametrize("rows", [1, N])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "euler_ancestral", "uni_pc", "ddim", "heun"])
def test_ksampler_behind_it_equals_the_hierarchical_ksampler(host, model, plans, sides, expected, sampler, rows):
    """With an empty latent for all, or one for each prompt, for which KSampler draws as many rows of noise."""
    patched, reports = shared_model(host, model, plans.shared)
    samples, report = expected(sampler)
    assert torch.equal(ksampler(host, patched, *sides, sampler, rows=rows), samples)
    assert [untimed(each) for each in reports] == [untimed(report)]


def test_the_first_rows_noise_is_everybodys(host, model, plans, sides):
    patched, _ = shared_model(host, model, plans.shared)
    noise = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    samples = ksampler(host, patched, *sides, rows=N, noise=noise)
    assert torch.equal(samples, ksampler(host, patched, *sides, noise=noise[:1]))
    assert not torch.equal(samples, ksampler(host, patched, *sides, noise=noise[1:2]))


def test_inpainting_takes_one_mask_for_all_or_one_for_each(host, model, plans, sides):
    """Newer hosts make the mask for the one latent that there is, before any wrapper is asked."""
    patched, reports = shared_model(host, model, plans.shared)
    latents, mask = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8)), torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    one = ksampler(host, patched, *sides, latents=latents, noise_mask=mask)
    torch.testing.assert_close(one[..., :4], latents[..., :4].expand(N, -1, -1, -1), atol=1e-4, rtol=1e-4)
    many = ksampler(host, patched, *sides, latents=latents.repeat(N, 1, 1, 1), noise_mask=mask.repeat(N, 1, 1, 1))
    assert torch.equal(one, many)
    masks = mask.repeat(N, 1, 1, 1)
    masks[1] = 1 - mask
    samples = ksampler(host, patched, *sides, latents=latents.repeat(N, 1, 1, 1), noise_mask=masks)
    torch.testing.assert_close(samples[1, ..., 4:], latents[0, ..., 4:], atol=1e-4, rtol=1e-4)
    assert "⚠ noise masks differ between prompts" in reports[-1]
    with pytest.raises(ValueError, match="the noise mask has 4 rows, but the plan is for 6 prompts"):
        ksampler(host, patched, *sides, latents=latents.repeat(N, 1, 1, 1), noise_mask=masks[:4])


def test_parts_of_a_run_are_parts_of_the_plan(host, model, plans, sides):
    """As KSampler (Advanced) makes them: the first steps leave noise, the last ones begin with it."""
    patched, reports = shared_model(host, model, plans.shared)
    whole = ksampler(host, patched, *sides)
    half = ksampler(host, patched, *sides, start_step=0, last_step=4, force_full_denoise=False)
    labels = plans.shared.steps[3].labels
    for c in range(labels.max() + 1):
        rows = half[torch.from_numpy(labels == c)]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    rest = {"latents": half, "noise": torch.zeros_like(half), "start_step": 4, "last_step": 10000}
    samples = ksampler(host, patched, *sides, **rest)
    torch.testing.assert_close(samples, whole, atol=1e-3, rtol=1e-3)
    first, second = (rows_told(report)[0] for report in reports[1:])
    assert (first, second) == tuple(plans.shared.clusters_per_step.reshape(2, 4).sum(axis=1))
    assert "steps 1 to 4 of the plan's 8" in reports[1]
    assert "steps 5 to 8 of the plan's 8" in reports[2]


def test_whoever_keeps_rows_is_told_of_splits(host, plans):
    """With the row that each cluster had before: what was kept of the clusters then is gathered by it."""
    current = host.clusters.CurrentClusters(plans.shared, torch.linspace(8, 0, K + 1))
    told, splits = [], 0
    current.followers.append(told.append)
    for sigma in range(8, 0, -1):
        before = current.clusters
        current.look_up(torch.tensor([float(sigma)]))
        if current.clusters is not before:
            rows, splits = told.pop(), splits + 1
            assert (before.labels == rows[current.clusters.labels]).all()  # each prompt's row before
    assert told == []
    assert splits >= 2


def test_part_from_the_middle_of_a_run_is_refused(host, silent_model, plans, sides):
    patched, _ = shared_model(host, silent_model, plans.shared)
    with pytest.raises(ValueError, match=r"a run of 4 steps that neither begins .* plan of 8 steps"):
        ksampler(host, patched, *sides, start_step=2, last_step=6, force_full_denoise=False)


def test_last_part_of_a_run_takes_latents_that_have_parted_earlier(host, model, plans, sides):
    patched, reports = shared_model(host, model, plans.shared)
    latents = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    samples = ksampler(host, patched, *sides, latents=latents, start_step=4, last_step=10000)
    alone, _ = shared_model(host, model, plans.none)
    assert torch.equal(samples, ksampler(host, alone, *sides, latents=latents, start_step=4, last_step=10000))
    assert rows_told(reports[0]) == (N * K // 2, N * K // 2)
    assert "⚠ start latents differ between prompts that the plan lets share, so none share" in reports[0]


def drawing_sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """As samplers of packs, and some nodes of the host, do: noise for each row, drawn inside. It is shared."""
    for i, sigma in enumerate(sigmas[:-1]):
        denoised = model(x, sigma * x.new_ones(len(x)), **(extra_args or {}))
        x = denoised + torch.randn_like(x) * sigmas[i + 1]
    return x


def raising_sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """It tells the model of more noise than there is, and so never comes to the last step."""
    for i in range(len(sigmas) - 1):
        sigma = torch.maximum(sigmas[i] * 1.3, sigmas[-3])
        x = x + (model(x, sigma * x.new_ones(len(x)), **(extra_args or {})) - x) * (1 - sigmas[i + 1] / sigmas[i])
    return x


@pytest.mark.parametrize(
    ("function", "said"),
    [(drawing_sampler, None), (raising_sampler, "have the same image"), (None, None)],
)
def test_sampler_that_cannot_share_is_told_of(host, model, plans, sides, function, said):
    patched, reports = shared_model(host, model, plans.shared)
    sampler = host.samplers.KSAMPLER(function) if function else host.samplers.sampler_object("euler")
    guider = host.samplers.CFGGuider(patched)
    guider.set_conds(*sides)
    guider.set_cfg(4.0)
    sigmas = sigmas_of(host, model, "euler")
    guider.sample(one_noise(host), torch.zeros(N, 4, 8, 8), sampler, sigmas, disable_pbar=True, seed=SEED)
    warnings = [line for line in reports[0].splitlines() if line.startswith("⚠")]
    assert [said in line for line in warnings] == ([True] if said else [])


def test_whole_run_of_another_number_of_steps_resamples_the_plan(host, model, plans, sides):
    patched, reports = shared_model(host, model, plans.shared.resampled(12))
    ksampler(host, patched, *sides)
    assert "the plan's 12 thresholds were resampled over the sampler's 8 steps" in reports[0]


# --- Any guider ------------------------------------------------------------------------------------------------------


def dual_cfg(model, positive, negative):
    guider = importlib.import_module("comfy_extras.nodes_custom_sampler").Guider_DualCFG(model)
    guider.set_conds(positive, [[torch.full((1, 5, 16), 0.2), {}]], negative)
    guider.set_cfg(4.0, 2.0)
    return guider


def basic(model, positive, negative):
    guider = importlib.import_module("comfy_extras.nodes_custom_sampler").Guider_Basic(model)
    guider.set_conds(positive)
    return guider


def perp_neg(model, positive, negative):
    guider = importlib.import_module("comfy_extras.nodes_perpneg").Guider_PerpNeg(model)
    guider.set_conds(positive, [[torch.full((1, 5, 16), 0.2), {}]], negative)
    guider.set_cfg(4.0, 1.0)
    return guider


def cfg(model, positive, negative):
    guider = importlib.import_module("comfy.samplers").CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(4.0)
    return guider


def run_guider(host, model, guider, sides, rows=1):
    euler, latents = host.samplers.sampler_object("euler"), torch.zeros(rows, 4, 8, 8)
    sigmas = sigmas_of(host, model, "euler")
    return guider(model, *sides).sample(one_noise(host, rows), latents, euler, sigmas, disable_pbar=True, seed=SEED)


@pytest.mark.parametrize("guider", [cfg, basic, dual_cfg, perp_neg])
def test_any_guider_shares(host, model, plans, sides, guider):
    """Without sharing each prompt has what the guider gives alone; Perp-Neg couples the rows of a batch by itself."""
    alone, _ = shared_model(host, model, plans.none)
    unshared = run_guider(host, alone, guider, sides)
    if guider is perp_neg:
        plain = run_guider(host, model, guider, sides, rows=N)
        torch.testing.assert_close(unshared, plain, atol=1e-4, rtol=1e-4)
    else:
        for i in (0, N - 1):
            own = [host.rows.rows_of(side, [i], N, "") for side in sides]
            assert torch.equal(unshared[i : i + 1], run_guider(host, model, guider, own))
    called = []

    def record(apply_model, args):
        called.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    recorded = model.clone()
    recorded.set_model_unet_function_wrapper(record)
    patched, reports = shared_model(host, recorded, plans.shared)
    samples = run_guider(host, patched, guider, sides)
    passes = {cfg: 2, basic: 1, dual_cfg: 3, perp_neg: 3}[guider]
    assert sum(called) == passes * plans.shared.nfe
    assert rows_told(reports[0]) == (plans.shared.nfe, N * K)
    assert samples.isfinite().all()
    assert len({row.numpy().tobytes() for row in samples}) == N


# --- A cached MODEL and its runs -------------------------------------------------------------------------------------


def test_runs_of_one_model_do_not_see_each_other(host, model, plans, sides):
    """Two samplers behind one Share Steps, one of them again, and one run inside of another."""
    reports = []
    sharing = host.sharing.Sharing(plans.shared, show_tree=False, tell=reports.append)
    # the host itself allows no run inside of another of the same weights
    patched, inner = (host.sharing.share_steps(each, sharing) for each in (model, host.native_models.unet_model()))
    before = sorted(patched.model_options["transformer_options"])
    euler, other = (ksampler(host, patched, *sides, sampler) for sampler in ("euler", "euler_ancestral"))
    nested = []

    def callback(step, *_):
        if step == 2:
            nested.append(ksampler(host, inner, *sides, "euler_ancestral"))

    assert torch.equal(ksampler(host, patched, *sides, callback=callback), euler)
    assert torch.equal(nested[0], other)
    assert [rows_told(report) for report in reports] == [(plans.shared.nfe, N * K)] * 4
    assert sorted(patched.model_options["transformer_options"]) == before


def test_the_model_itself_stays_as_it_was(host, model, plans, sides):
    before = ksampler(host, model, *sides, rows=N)
    shared_model(host, model, plans.shared)
    assert not host.sharing.shares_steps(model)
    assert torch.equal(ksampler(host, model, *sides, rows=N), before)


def test_later_plan_wins_and_the_node_says_so(host, model, plans, sides):
    expected = ksampler(host, shared_model(host, model, plans.none)[0], *sides)
    twice, reports = shared_model(host, shared_model(host, model, plans.shared)[0], plans.none)
    assert torch.equal(ksampler(host, twice, *sides), expected)
    assert rows_told(reports[0]) == (N * K, N * K)
    first = host.node.ShareSteps.execute(model, plans.shared)
    assert first.ui is None
    again = host.node.ShareSteps.execute(first.args[0], plans.none)
    assert again.ui["text"][0].startswith("⚠ the model shared the steps of another plan already")


def test_patches_after_it_keep_it(host, model, plans, sides):
    patched, _ = shared_model(host, model, plans.shared)
    expected = ksampler(host, patched, *sides)
    later = patched.clone()
    later.set_model_unet_function_wrapper(lambda apply, a: apply(a["input"], a["timestep"], **a["c"]))
    assert host.sharing.shares_steps(later)
    assert torch.equal(ksampler(host, later, *sides), expected)


# --- What is refused before any call of the model --------------------------------------------------------------------


def test_conditioning_of_one_row_is_refused(host, silent_model, plans, sides):
    positive, negative = sides
    patched, _ = shared_model(host, silent_model, plans.shared)
    with pytest.raises(ValueError, match=r"conditioning has one row, but the plan is for 6 prompts.*CLIP Embedding"):
        ksampler(host, patched, [[positive[0][0][:1], {}]], negative)
    with pytest.raises(ValueError, match=r"conditioning has one row, but the plan is for 6 prompts.*CLIP Embedding"):
        ksampler(host, patched, [[positive[0][0][:1], {}]], negative, rows=N)  # equal latents make no difference
    with pytest.raises(ValueError, match="conditioning is the same for all 6 prompts"):
        ksampler(host, patched, [[positive[0][0][:1].repeat(N, 1, 1), {}]], negative)
    with pytest.raises(ValueError, match=r"the positive conditioning has 4 rows .* the plan is for 6 prompts"):
        ksampler(host, patched, [[positive[0][0][:4], {}]], negative)


def test_one_prompt_needs_no_more_rows(host, model, sides):
    positive, negative = sides
    plan = build_plan(np.empty((0, 4)), linear_thresholds(K, 1.0))
    patched, _ = shared_model(host, model, plan)
    samples = ksampler(host, patched, [[positive[0][0][:1], {}]], negative)
    assert torch.equal(samples, ksampler(host, model, [[positive[0][0][:1], {}]], negative))


def test_latents_of_several_media_are_refused(host, silent_model, plans, sides):
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    latents = nested([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)])
    patched, _ = shared_model(host, silent_model, plans.shared)
    with pytest.raises(ValueError, match="several media in one"):
        ksampler(host, patched, *sides, latents=latents, noise=latents)


class TeaCache:
    """As the pack of this name attaches."""

    def apply_teacache(self, model):
        def unet_wrapper_function(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        model.model_options["transformer_options"]["rel_l1_thresh"] = 0.3
        model.set_model_unet_function_wrapper(unet_wrapper_function)


class MagCache:
    def apply_magcache(self, model):
        def unet_wrapper_function(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        model.set_model_unet_function_wrapper(unet_wrapper_function)


class ApplyFBCacheOnModel:
    def patch(self, model):
        def model_unet_function_wrapper(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        model.set_model_unet_function_wrapper(model_unet_function_wrapper)


class DeepCache:
    def apply(self, model):
        def apply_model(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        model.set_model_unet_function_wrapper(apply_model)


def by_a_module(model):
    """A wrapper that only its pack's module gives away."""

    def wrapper(model_function, kwargs):
        return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

    wrapper.__module__, wrapper.__qualname__ = "custom_nodes.ComfyUI-MagCache.nodes", "wrapper"
    model.set_model_unet_function_wrapper(wrapper)


def by_options(model):
    model.model_options["transformer_options"]["teacache_settings"] = {"threshold": 0.2}


def by_an_object(model):
    model.add_object_patch("diffusion_model.some_block", DeepCache())


def by_a_key(model):
    model.add_wrapper_with_key("diffusion_model", "first_block_cache", lambda executor, *args: executor(*args))


@pytest.mark.parametrize(
    ("attach", "name"),
    [
        (TeaCache().apply_teacache, "TeaCache"),
        (MagCache().apply_magcache, "MagCache"),
        (ApplyFBCacheOnModel().patch, "First Block Cache"),
        (DeepCache().apply, "DeepCache"),
        (by_a_module, "MagCache"),
        (by_options, "TeaCache"),
        (by_an_object, "DeepCache"),
        (by_a_key, "First Block Cache"),
    ],
)
@pytest.mark.parametrize("first", ["cache", "sharing"])
def test_step_caches_of_packs_are_refused_by_name(host, model, plans, sides, attach, name, first):
    cached = model.clone()
    if first == "cache":
        attach(cached)
    patched, _ = shared_model(host, cached, plans.shared)
    if first == "sharing":
        attach(patched)
    with pytest.raises(ValueError, match=f"{name} keeps results of earlier steps.* remove the {name} node"):
        ksampler(host, patched, *sides)


# --- What a run tells ------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(pack, monkeypatch):
    """What the page of a run hears, which a node with the id 7 is part of."""
    from comfy_execution.utils import CurrentNodeContext

    modules = {
        name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in ("runs", "results", "live_tree")
    }
    messages = []
    queue = SimpleNamespace(currently_running={0: (0, "job", {"7": {"class_type": "KSampler"}}, {}, [])})
    server = SimpleNamespace(
        client_id="page", prompt_queue=queue, send_sync=lambda event, data, client: messages.append((event, data))
    )
    monkeypatch.setattr(modules["runs"], "PromptServer", SimpleNamespace(instance=server))
    for name, most in (("results", 128), ("live_tree", 16)):
        monkeypatch.setattr(modules[name], "_kept", modules["runs"].Kept(most))
    with CurrentNodeContext("job", "7"):
        yield messages


def test_tree_and_report_go_to_the_node_that_samples(host, model, plans, sides, sent):
    patched = host.node.ShareSteps.execute(model, plans.shared).args[0]
    expected, reports = shared_model(host, model, plans.shared)
    samples = ksampler(host, patched, *sides)
    assert torch.equal(samples, ksampler(host, expected, *sides))
    kinds = [data["kind"] for event, data in sent if event == "hierdiff.tree"]
    assert (kinds[0], kinds[-1]) == ("begin", "end")
    end = next(data for event, data in sent if event == "hierdiff.tree" and data["kind"] == "end")
    assert (end["rows"], end["standard"], end["state"]) == (plans.shared.nfe, N * K, "done")
    assert {data["node"] for _, data in sent} == {"7"}
    ((_, result),) = [message for message in sent if message[0] == "hierdiff.result"]
    assert (result["state"], untimed(result["text"])) == ("done", untimed(reports[0]))


def test_run_that_fails_tells_of_no_result(host, model, plans, sides, sent):
    def fail(*_):
        raise RuntimeError("broken weights")

    failing = model.clone()
    failing.set_model_unet_function_wrapper(fail)
    with pytest.raises(RuntimeError, match="broken weights"):
        ksampler(host, host.node.ShareSteps.execute(failing, plans.shared).args[0], *sides)
    assert [data["state"] for event, data in sent if event == "hierdiff.tree" and data["kind"] == "end"] == ["stopped"]
    assert not [event for event, _ in sent if event == "hierdiff.result"]


def test_cancel_stops_before_the_next_call_of_the_model(host, model, plans, sides, sent):
    management = importlib.import_module("comfy.model_management")
    calls = []

    def interrupt(apply_model, args):
        calls.append(len(args["input"]))
        if len(calls) == 3:
            management.interrupt_current_processing()
        return apply_model(args["input"], args["timestep"], **args["c"])

    interrupted = model.clone()
    interrupted.set_model_unet_function_wrapper(interrupt)
    with pytest.raises(management.InterruptProcessingException):
        ksampler(host, host.node.ShareSteps.execute(interrupted, plans.shared).args[0], *sides)
    assert len(calls) == 3


def test_without_steps_the_host_hands_the_latents_on(host, silent_model, plans, sides):
    """With no sigma at all no wrapper is asked; with one, each prompt has a latent."""
    patched, reports = shared_model(host, silent_model, plans.shared)
    latents = torch.randn(1, 4, 8, 8)
    handed_on = ksampler(host, patched, *sides, latents=latents, sigmas=torch.tensor([1.0]))
    assert torch.equal(handed_on, latents.expand(N, -1, -1, -1))
    assert reports[0].startswith("⚠ no steps")
