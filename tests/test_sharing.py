"""Step sharing with the host's own samplers: against its plain guider, and cluster by cluster.

Runs the host in this process, on small models with random weights.
"""

import contextlib
import functools
import importlib
import os
import re
import types
from unittest import mock

import numpy as np
import pytest
import torch

from hierdiff_core import build_plan, linear_thresholds, ward_linkage

pytestmark = pytest.mark.host

N, K, SEED = 6, 8, 7
REFUSED = {"dpm_adaptive": "chooses its steps from the error of all rows together"}


@pytest.fixture(scope="module")
def host(pack):
    """The host's modules and ours, once the host can be imported."""
    names = ("comfy.samplers", "comfy.sample", "comfy.hooks", "comfy.conds", "comfy.model_patcher", "node_helpers")
    modules = {name.rsplit(".", 1)[-1]: importlib.import_module(name) for name in names}
    modules["sharing"] = importlib.import_module(f"{pack.__name__}.nodes.sharing")
    modules["rows"] = importlib.import_module(f"{pack.__name__}.nodes.conditioning_rows")
    modules["guider"] = importlib.import_module(f"{pack.__name__}.nodes.guider")
    modules["native_models"] = importlib.import_module("native_models")
    return types.SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def model(host):
    return host.native_models.unet_model()


@pytest.fixture(scope="module")
def prompt_vectors():
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(3, 16, generator=generator)
    return torch.stack([centres[i % 3] for i in range(N)]) + 0.15 * torch.randn(N, 16, generator=generator)


@pytest.fixture(scope="module")
def positive(prompt_vectors):
    return [[prompt_vectors[:, None, :] * torch.linspace(0.5, 1.5, 5)[None, :, None], {}]]


@pytest.fixture(scope="module")
def negative():
    return [[torch.zeros(1, 5, 16), {}]]


@pytest.fixture(scope="module")
def plans(prompt_vectors):
    """tau = 0, and a tau at which clusters split in mid-run."""
    Z = ward_linkage(prompt_vectors)

    def plan(tau):
        return build_plan(Z, linear_thresholds(K, tau), range(100, 100 + N))

    shared = plan(float(Z[-1, 2]) * 2)
    assert len(set(shared.clusters_per_step)) > 2
    return types.SimpleNamespace(none=plan(0.0), shared=shared)


def one_noise(host, rows=N):
    return host.sample.prepare_noise(torch.zeros(1, 4, 8, 8), SEED).repeat(rows, 1, 1, 1)


def sigmas_of(host, model, sampler, steps=K, denoise=1.0):
    return host.samplers.KSampler(model, steps, "cpu", sampler, "normal", denoise).sigmas


def run_shared(host, model, positive, negative, plan, sampler="euler", cfg=4.0, **options):
    """Samples, report, and at every callback x and the step whose clusters x must show."""
    guider = host.guider.make_guider(model, positive, negative, cfg, plan, options.pop("micro_batch", 0))
    sigmas = options.pop("sigmas", None)
    sigmas = sigmas_of(host, model, sampler) if sigmas is None else sigmas
    latent = options.pop("latent", torch.zeros(1, 4, 8, 8))
    seen, looked_up = [], [0]
    look_up = host.sharing.SharingRun.look_up

    def recorded(run, x, timestep):
        look_up(run, x, timestep)
        looked_up.append(run.k)

    # the callback comes after a step's first call, with the x that the calls before it made; uni_pc's at its end
    last = -1 if sampler.startswith("uni_pc") else -2
    with mock.patch.object(host.sharing.SharingRun, "look_up", recorded):
        samples, report = guider.sample_with_report(
            options.pop("noise", one_noise(host)),
            latent,
            options.pop("sampler_object", None) or host.samplers.sampler_object(sampler),
            sigmas,
            options.pop("mask", None),
            lambda step, x0, x, total: seen.append((looked_up[last], x.clone())),
            True,
            options.pop("seed", SEED),
        )
    assert not options
    return samples, report, seen


def run_plain(host, model, positive, negative, sampler="euler", cfg=4.0, sampler_object=None, **options):
    """The host's own guider on N rows, without sharing."""
    guider = host.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    latent = options.get("latent", torch.zeros(1, 4, 8, 8))
    latent = latent.repeat(N // latent.shape[0], 1, 1, 1)
    sigmas = options.get("sigmas")
    sigmas = sigmas_of(host, model, sampler) if sigmas is None else sigmas
    sampler_object = sampler_object or host.samplers.sampler_object(sampler)
    return guider.sample(
        one_noise(host), latent, sampler_object, sigmas, options.get("mask"), disable_pbar=True, seed=SEED
    )


def sampler_with_our_noise(host, sampler, plan, sigmas):
    """The host's sampler drawing the noise that an unshared run would draw."""
    run = host.sharing.SharingRun(plan, sigmas, 0, SEED)
    run.row = torch.zeros(1, 4, 8, 8)
    return run.shared_sampler(host.samplers.sampler_object(sampler))


def assert_clusters_identical(seen, plan, samples):
    """Rows of a cluster are the same to the bit up to the step at which it splits, and differ in the end."""
    assert len(seen) >= 3  # dpm_fast reports once in three calls
    for step, x in seen:
        labels = plan.steps[step].labels
        for c in range(labels.max() + 1):
            rows = x[torch.from_numpy(labels == c)]
            assert torch.equal(rows, rows[:1].expand_as(rows)), (step, c)
    assert len({row.numpy().tobytes() for row in samples}) == N


def assert_right(host, model, positive, negative, plans, **options):
    """What every kind of conditioning must satisfy."""
    plain = run_plain(host, model, positive, negative, **options)
    assert plain.isfinite().all()
    alone, _, _ = run_shared(host, model, positive, negative, plans.none, **options)
    assert torch.equal(alone, plain)
    samples, _, seen = run_shared(host, model, positive, negative, plans.shared, **options)
    assert samples.isfinite().all()
    assert_clusters_identical(seen, plans.shared, samples)
    return samples


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral"])
def test_prompts_that_are_named_twice_change_no_picture_and_save_nothing(
    host, model, prompt_vectors, positive, negative, plans, sampler
):
    plan = plans.shared
    once, report, _ = run_shared(host, model, positive, negative, plan, sampler)
    rows = [*range(N), 0, 0, 1]
    Z = ward_linkage(prompt_vectors[rows])
    more = build_plan(Z, plan.thresholds, [plan.prompt_keys[i] for i in rows])
    cond, extra = positive[0]
    noise = one_noise(host, len(rows))
    twice, told, _ = run_shared(host, model, [[cond[rows], extra]], negative, more, sampler, noise=noise)
    assert torch.equal(twice, once[rows])
    spent = r"model rows: (\d+) instead of (\d+), (\S+) saved"
    assert re.search(spent, told).groups() == re.search(spent, report).groups()
    assert f"3 of {N + 3} prompts equal another" in told


# --- Every sampler, and the table of the docs ------------------------------------------------------------------------


# fmt: off
HOST_SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2",
    "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm",
    "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]
# fmt: on


def test_every_sampler_of_the_host_is_in_the_table(host):
    assert set(host.samplers.SAMPLER_NAMES) == set(HOST_SAMPLERS)


def calls_per_sigma(host, model, positive, negative, plan, sampler):
    """(rows, calls) of a shared run, and the rows that the lookup by sigma demands of its calls."""
    sigmas = sigmas_of(host, model, sampler)
    called = []

    def record(apply_model, args):
        called.append((float(args["timestep"][0]), args["input"].shape[0] // len(args["cond_or_uncond"])))
        return apply_model(args["input"], args["timestep"], **args["c"])

    recorded = model.clone()
    recorded.set_model_unet_function_wrapper(record)
    with mock.patch.object(host.sharing.SharingRun, "foresee", autospec=True) as foresee:
        run_shared(host, recorded, positive, negative, plan, sampler)  # foreseen sigmas are noted, and not used
    foreseen = foresee.call_args.args[1]
    assert foreseen == pytest.approx([sigma for sigma, _ in called], rel=1e-6), sampler
    expected, finest = [], 0
    for call, (sigma, _) in enumerate(called):
        k = max(i for i in range(K) if float(sigmas[i]) >= sigma * (1 - 1e-6))
        k = call if sampler == "dpm_fast" else k  # K calls, at sigmas of its own
        finest = max(finest, k)
        expected.append(plan.steps[finest].num_clusters)
    assert [rows for _, rows in called] == expected
    return sum(expected), len(called)


@pytest.fixture(scope="module")
def table(host, model, positive, negative, plans):
    """One row of facts for each sampler, each asserted as it is made."""
    rows = {}
    for name in HOST_SAMPLERS:
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]):
                run_shared(host, model, positive, negative, plans.shared, name)
            rows[name] = None
            continue
        rows[name] = facts_of(host, model, positive, negative, plans, name)
    return rows


def facts_of(host, model, positive, negative, plans, name):
    sigmas = sigmas_of(host, model, name)
    same_noise = sampler_with_our_noise(host, name, plans.none, sigmas)
    stochastic = "noise_sampler" in same_noise.extra_options
    alone, _, _ = run_shared(host, model, positive, negative, plans.none, name)
    plain = run_plain(host, model, positive, negative, name, sampler_object=same_noise)
    assert torch.equal(alone, plain), name
    if not stochastic:
        assert torch.equal(alone, run_plain(host, model, positive, negative, name)), name
    shared, _, seen = run_shared(host, model, positive, negative, plans.shared, name)
    assert_clusters_identical(seen, plans.shared, shared)
    again, _, _ = run_shared(host, model, positive, negative, plans.shared, name)
    assert torch.equal(shared, again), name
    batched, _, _ = run_shared(host, model, positive, negative, plans.shared, name, micro_batch=2)
    assert (batched - shared).abs().max() < 1e-4 * shared.abs().max(), name
    rows, calls = calls_per_sigma(host, model, positive, negative, plans.shared, name)
    return stochastic, calls, rows


def test_every_sampler_runs_or_is_refused(table):
    assert [name for name, facts in table.items() if facts is None] == list(REFUSED)


def test_samplers_with_one_call_a_step_spend_the_plans_rows(table, plans):
    single = {name: rows for name, (_, calls, rows) in ((n, f) for n, f in table.items() if f) if calls == K}
    assert len(single) > 25
    assert set(single.values()) == {plans.shared.nfe}


def test_table_in_the_docs_is_this_one(table, plans, repo_root):
    lines = [
        "| sampler | noise | model calls | rows, shared | rows, plain |",
        "|---|---|---|---|---|",
    ]
    for name, facts in table.items():
        if facts is None:
            lines.append(f"| `{name}` | | refused: {REFUSED[name]} | | |")
            continue
        stochastic, calls, rows = facts
        lines.append(f"| `{name}` | {'per cluster' if stochastic else 'none'} | {calls} | {rows} | {calls * N} |")
    page = repo_root / "docs" / "samplers.md"
    text = page.read_text(encoding="utf-8") if page.exists() else "<!-- table -->\n<!-- end of table -->\n"
    before, rest = text.split("<!-- table -->")
    written = (
        before
        + "<!-- table -->\n"
        + "\n".join(lines)
        + "\n<!-- end of table -->"
        + rest.split("<!-- end of table -->")[1]
    )
    if os.environ.get("HIERDIFF_WRITE_DOCS"):
        page.write_text(written, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == written


# --- What the browser hears ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded_trees(host):
    """The live trees of the runs meanwhile."""
    trees = []

    class Recorded(host.sharing.LiveTree):
        def __enter__(self):
            trees.append(self)
            return super().__enter__()

    with mock.patch.object(host.sharing, "LiveTree", Recorded):
        yield trees


# with callbacks after each step, at its end, after every other, every third, and a call after the last of them
@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "heunpp2", "dpm_fast", "sa_solver_pece"])
def test_tree_in_the_browser_ends_with_what_the_report_says(host, model, positive, negative, plans, sampler):
    with recorded_trees(host) as trees:
        _, report, _ = run_shared(host, model, positive, negative, plans.shared, sampler)
    (tree,) = trees
    progress = tree.progress
    assert tree.state == "done"
    assert f"model rows: {progress['rows']} instead of {progress['standard']}," in report
    assert (progress["step"], progress["clusters"]) == (K, N)
    assert set(tree.tiles) == set(range(len(plans.shared.branches)))


def test_tree_in_the_browser_ends_with_the_pictures_of_the_samples(host, model, positive, negative, plans):
    with recorded_trees(host) as trees:
        samples, _, _ = run_shared(host, model, positive, negative, plans.shared, "dpm_fast")
    latents = model.model.process_latent_in(samples)
    expected = host.sharing.host_colours(model.model.latent_format)(latents, 64)
    ends = {int(b.members[0]): i for i, b in enumerate(plans.shared.branches) if b.stop == K}
    for prompt, branch in ends.items():
        assert torch.equal(trees[0].tiles[branch], expected[prompt])


def test_failing_run_ends_the_tree_and_is_not_hidden(host, model, positive, negative, plans):
    def fail(apply_model, args):
        raise RuntimeError("broken weights")

    failing = model.clone()
    failing.set_model_unet_function_wrapper(fail)
    with recorded_trees(host) as trees, pytest.raises(RuntimeError, match="broken weights"):
        run_shared(host, failing, positive, negative, plans.shared)
    assert [tree.state for tree in trees] == ["stopped"]


def test_calibration_has_no_tree_in_the_browser(host, model, positive, negative, plans):
    guider = host.guider.make_guider(model, positive, negative, 4.0, plans.shared, 0, show_tree=False)
    euler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, model, "euler")
    with recorded_trees(host) as trees:
        guider.sample(one_noise(host), torch.zeros(1, 4, 8, 8), euler, sigmas, disable_pbar=True, seed=SEED)
    assert trees == []


# --- A prompt's picture is its own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"])
def test_order_of_the_prompts_changes_no_picture(host, model, negative, positive, prompt_vectors, plans, sampler):
    order = [3, 0, 5, 1, 4, 2]
    thresholds = plans.shared.thresholds
    moved = build_plan(ward_linkage(prompt_vectors[order]), thresholds, [100 + i for i in order])
    samples, _, _ = run_shared(host, model, positive, negative, plans.shared, sampler)
    other, _, _ = run_shared(host, model, [[positive[0][0][order], {}]], negative, moved, sampler)
    assert (other - samples[order]).abs().max() < 1e-4 * samples.abs().max()


def test_without_sharing_a_prompt_gets_what_a_plain_run_of_it_alone_gives(host, model, positive, negative, plans):
    samples, _, _ = run_shared(host, model, positive, negative, plans.none, "dpmpp_2m")
    guider = host.samplers.CFGGuider(model)
    guider.set_conds([[positive[0][0][2:3], {}]], negative)
    guider.set_cfg(4.0)
    sampler = host.samplers.sampler_object("dpmpp_2m")
    alone = guider.sample(
        one_noise(host, 1),
        torch.zeros(1, 4, 8, 8),
        sampler,
        sigmas_of(host, model, "dpmpp_2m"),
        disable_pbar=True,
        seed=SEED,
    )
    assert (alone - samples[2:3]).abs().max() < 1e-4 * samples.abs().max()


# --- Conditioning ----------------------------------------------------------------------------------------------------


def test_negative_with_a_row_for_each_prompt(host, model, positive, plans):
    negative = [[torch.randn(N, 5, 16, generator=torch.Generator().manual_seed(5)), {}]]
    assert_right(host, model, positive, negative, plans)


def test_negative_with_another_number_of_tokens(host, model, positive, plans):
    assert_right(host, model, positive, [[torch.ones(1, 10, 16) * 0.1, {}]], plans)


@pytest.mark.parametrize("sampler", ["euler", "euler_cfg_pp"])
def test_cfg_1_has_no_negative_pass(host, model, positive, negative, plans, sampler):
    assert_right(host, model, positive, negative, plans, cfg=1.0, sampler=sampler)


def test_pooled_output_and_sizes_as_in_sdxl(host, positive, negative, plans):
    model = host.native_models.unet_model(host.native_models.PooledModel)
    pooled = torch.randn(N, host.native_models.POOLED, generator=torch.Generator().manual_seed(3))
    positive = [[positive[0][0], {"pooled_output": pooled, "width": 512}]]
    negative = [[negative[0][0], {"pooled_output": torch.zeros(1, host.native_models.POOLED), "width": 512}]]
    assert_right(host, model, positive, negative, plans)


def test_guidance_and_attention_masks_as_in_flux_and_qwen_image(host, positive, negative, plans):
    model = host.native_models.unet_model(host.native_models.GuidedModel)
    lengths = torch.tensor([5, 4, 3, 5, 4, 5])
    mask = (torch.arange(5)[None] < lengths[:, None]).float()
    positive = [[positive[0][0] * mask[..., None], {"attention_mask": mask, "guidance": 2.0}]]
    negative = [[negative[0][0], {"attention_mask": torch.ones(1, 5), "guidance": 2.0}]]
    assert_right(host, model, positive, negative, plans)


def test_several_entries_with_areas_masks_and_times(host, model, positive, negative, plans):
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    entries = [
        [positive[0][0], {"area": (4, 8, 0, 0), "strength": 1.0}],
        [positive[0][0] * 0.5, {"mask": mask, "mask_strength": 0.7}],
        [torch.ones(1, 5, 16) * 0.3, {"start_percent": 0.0, "end_percent": 0.5}],
    ]
    assert_right(host, model, entries, negative, plans)


def test_controlnet_with_one_hint(host, model, positive, negative, plans):
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    control = host.native_models.control_net().set_cond_hint(hint, 0.8, (0.0, 1.0))
    with_control = [[positive[0][0], {"control": control, "control_apply_to_uncond": True}]]
    samples = assert_right(host, model, with_control, negative, plans)
    without, _, _ = run_shared(host, model, positive, negative, plans.shared)
    assert not torch.equal(samples, without)


def test_controlnet_with_many_hints_is_refused(host, model, positive, negative, plans):
    control = host.native_models.control_net().set_cond_hint(torch.rand(N, 3, 64, 64), 0.8, (0.0, 1.0))
    with pytest.raises(ValueError, match="ControlNet of the positive conditioning has a batch of 6 hint images"):
        run_shared(host, model, [[positive[0][0], {"control": control}]], negative, plans.shared)


def test_lora_through_hooks(host, model, positive, negative, plans):
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    generator = torch.Generator().manual_seed(4)
    lora = {f"{key}.lora_up.weight": torch.randn(64, 4, generator=generator) * 0.5}
    lora[f"{key}.lora_down.weight"] = torch.randn(4, 16, generator=generator) * 0.5
    hooks = host.hooks.create_hook_lora(lora, 1.0, 0.0)
    hooked = [[positive[0][0], {"hooks": hooks}]]
    samples = assert_right(host, model, hooked, negative, plans)
    without, _, _ = run_shared(host, model, positive, negative, plans.shared)
    assert not torch.equal(samples, without)


def test_inpainting_with_one_mask(host, model, positive, negative, plans):
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    for sampler in ("dpmpp_2m", "euler"):
        samples = assert_right(host, model, positive, negative, plans, sampler=sampler, latent=latent, mask=mask)
        torch.testing.assert_close(samples[..., :4], latent[..., :4].expand(N, -1, -1, -1), atol=1e-4, rtol=1e-4)
    samples, _, seen = run_shared(host, model, positive, negative, plans.shared, "ddim", latent=latent, mask=mask)
    assert_clusters_identical(seen, plans.shared, samples)


def test_image_to_image(host, model, positive, negative, plans):
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    sigmas = sigmas_of(host, model, "euler", denoise=0.5)
    assert len(sigmas) == K + 1
    assert_right(host, model, positive, negative, plans, latent=latent, sigmas=sigmas)
    assert_right(host, model, positive, negative, plans, latent=latent.repeat(N, 1, 1, 1), sigmas=sigmas)


def test_perturbed_attention_patch_is_shared_too(host, model, positive, negative, plans):
    nodes_pag = importlib.import_module("comfy_extras.nodes_pag")
    patched = nodes_pag.PerturbedAttentionGuidance.execute(model, 2.0).args[0]
    samples = assert_right(host, patched, positive, negative, plans)
    without, _, _ = run_shared(host, model, positive, negative, plans.shared)
    assert not torch.equal(samples, without)


def test_model_function_wrapper_and_cfg_function(host, model, positive, negative, plans):
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(lambda apply, a: apply(a["input"], a["timestep"], **a["c"]) * 0.9)
    wrapped.set_model_sampler_cfg_function(lambda a: a["uncond"] + (a["cond"] - a["uncond"]) * a["cond_scale"] * 0.5)
    assert_right(host, wrapped, positive, negative, plans)


def test_rows_that_are_constant_masks_lists_or_whole_numbers(host, plans):
    clusters = host.rows.in_prompt_order(plans.shared.steps[0])
    n, c = N, len(clusters.first)
    guidance = torch.tensor([3.5])
    assert host.rows.reduced_rows(guidance, clusters, "guidance") is guidance
    mask = (torch.arange(4)[None] < torch.tensor([1, 2, 3, 4, 2, 1])[:, None]).float()
    reduced = host.rows.reduced_rows(mask, clusters, "attention_mask")
    for i in range(c):
        assert torch.equal(reduced[i], mask[torch.from_numpy(clusters.labels == i)].amax(dim=0))
    values = torch.randn(n, 3, dtype=torch.bfloat16)
    assert host.rows.reduced_rows(values, clusters, "y").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="conditioning 'ids' differs between prompts of a cluster"):
        host.rows.reduced_rows(torch.arange(n)[:, None], clusters, "ids")
    with pytest.raises(ValueError, match="conditioning 'y' has 4 rows; step sharing needs 1 or 6"):
        host.rows.reduced_rows(torch.zeros(4, 2), clusters, "y")
    entry = {"model_conds": {"a": host.conds.CONDList([values, guidance]), "b": host.conds.CONDConstant(7)}}
    conds = host.rows.reduced_cond(entry, clusters)["model_conds"]
    assert [len(item) for item in conds["a"].cond] == [c, 1]
    assert conds["b"].cond == 7


# --- What is refused, before any model call --------------------------------------------------------------------------


@pytest.fixture
def silent_model(model):
    """A model that must not be called."""
    silent = model.clone()
    silent.set_model_unet_function_wrapper(lambda *_: pytest.fail("the model was called"))
    return silent


def test_rows_that_fit_neither_one_nor_n_are_refused(host, silent_model, positive, negative, plans):
    four = [[positive[0][0][:4], {}]]
    with pytest.raises(ValueError, match=r"the positive conditioning has 4 rows .* the plan is for 6 prompts"):
        run_shared(host, silent_model, four, negative, plans.shared)
    with pytest.raises(ValueError, match="the negative conditioning has 4 rows"):
        run_shared(host, silent_model, positive, four, plans.shared)
    with pytest.raises(ValueError, match="the latent batch has 2 rows, but the plan is for 6 prompts"):
        run_shared(host, silent_model, positive, negative, plans.shared, latent=torch.zeros(2, 4, 8, 8))


def test_rows_that_differ_within_a_cluster_are_refused(host, silent_model, positive, negative, plans):
    rows = torch.randn(N, 4, 8, 8)
    with pytest.raises(ValueError, match=r"the noise differs between prompts .*; use Shared Noise"):
        run_shared(host, silent_model, positive, negative, plans.shared, noise=rows)
    with pytest.raises(ValueError, match="the latent batch differs between prompts"):
        run_shared(host, silent_model, positive, negative, plans.shared, latent=rows)
    with pytest.raises(ValueError, match="the noise mask differs between prompts"):
        run_shared(host, silent_model, positive, negative, plans.shared, mask=torch.rand(N, 1, 8, 8))
    masked = [[positive[0][0], {"mask": torch.rand(N, 8, 8)}]]
    with pytest.raises(ValueError, match="the mask of the positive conditioning differs"):
        run_shared(host, silent_model, masked, negative, plans.shared)


def test_step_caches_are_refused(host, silent_model, positive, negative, plans):
    nodes_easycache = importlib.import_module("comfy_extras.nodes_easycache")
    for node in (nodes_easycache.EasyCacheNode, nodes_easycache.LazyCacheNode):
        cached = node.execute(silent_model, 0.2, 0.15, 0.95, False).args[0]
        with pytest.raises(ValueError, match="EasyCache and LazyCache"):
            run_shared(host, cached, positive, negative, plans.shared)


def test_churn_and_rising_sigmas_are_refused(host, silent_model, positive, negative, plans):
    churned = host.samplers.ksampler("euler", {"s_churn": 1.0})
    with pytest.raises(ValueError, match="s_churn > 0 draws noise for every row alone"):
        run_shared(host, silent_model, positive, negative, plans.shared, sampler_object=churned)
    with pytest.raises(ValueError, match="sigmas must fall"):
        run_shared(host, silent_model, positive, negative, plans.shared, sigmas=torch.tensor([0.0, 1.0, 2.0]))


# --- Steps, noise, reports -------------------------------------------------------------------------------------------


def test_another_number_of_sigmas_resamples_the_thresholds(host, model, positive, negative, plans):
    sigmas = sigmas_of(host, model, "euler", steps=14)
    _, report, _ = run_shared(host, model, positive, negative, plans.shared, sigmas=sigmas)
    assert "the plan's 8 thresholds were resampled over the sampler's 14 steps" in report
    resampled = plans.shared.resampled(14)
    assert resampled.num_steps == 14
    assert resampled.thresholds[0] == plans.shared.thresholds[0]
    assert resampled.thresholds[-1] == 0
    assert f"model rows: {resampled.nfe} instead of {14 * N}" in report


def test_shared_noise_is_the_hosts_noise_of_one_latent(host, plans):
    noise = host.guider.OneNoise(SEED, N).generate_noise({"samples": torch.zeros(1, 4, 8, 8)})
    assert torch.equal(noise, one_noise(host))
    assert torch.equal(host.guider.OneNoise(SEED, N).generate_noise({"samples": torch.zeros(N, 4, 8, 8)}), noise)


def test_guider_keeps_no_state_between_runs(host, model, positive, negative, plans):
    guider = host.guider.make_guider(model, positive, negative, 4.0, plans.shared, 0)
    before = set(vars(guider))
    sampler = host.samplers.sampler_object("euler_ancestral")
    sigmas = sigmas_of(host, model, "euler_ancestral")
    runs = [guider.sample(one_noise(host), torch.zeros(1, 4, 8, 8), sampler, sigmas, seed=SEED) for _ in range(2)]
    assert torch.equal(*runs)
    assert set(vars(guider)) == before


def test_seed_decides_the_noise_of_stochastic_samplers(host, model, positive, negative, plans):
    one, _, _ = run_shared(host, model, positive, negative, plans.shared, "euler_ancestral", seed=1)
    two, _, _ = run_shared(host, model, positive, negative, plans.shared, "euler_ancestral", seed=2)
    assert not torch.equal(one, two)


def test_noise_of_another_pack_is_repeated_within_clusters(host, model, positive, negative, plans):
    generator = torch.Generator().manual_seed(9)
    theirs = host.samplers.ksampler(
        "euler_ancestral", {"noise_sampler": lambda s, t: torch.randn(N, 4, 8, 8, generator=generator)}
    )
    samples, _, seen = run_shared(host, model, positive, negative, plans.shared, sampler_object=theirs)
    assert_clusters_identical(seen, plans.shared, samples)


def test_sampler_of_another_pack_runs_once_and_without_a_name(host, model, positive, negative, plans):
    """Nothing is foreseen of it: its sigmas may depend on what the model predicts."""
    batches = []

    def theirs(model, x, sigmas, extra_args, callback, disable):
        batches.append(len(x))
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
            callback({"i": i, "denoised": denoised, "x": x})
            x = denoised + (x - denoised) * sigmas[i + 1] / sigmas[i]
        return x

    nameless = host.samplers.KSAMPLER(functools.partial(theirs))
    samples, report, seen = run_shared(host, model, positive, negative, plans.shared, sampler_object=nameless)
    assert batches == [N]
    assert_clusters_identical(seen, plans.shared, samples)
    assert f"model rows: {plans.shared.nfe} instead" in report
    euler, _, _ = run_shared(host, model, positive, negative, plans.shared)
    assert (samples - euler).abs().max() < 1e-4 * euler.abs().max()


def test_single_prompt(host, model, positive, negative):
    plan = build_plan(np.empty((0, 4)), linear_thresholds(K, 1.0))
    noise = one_noise(host, 1)
    samples, report, _ = run_shared(host, model, [[positive[0][0][:1], {}]], negative, plan, noise=noise)
    assert samples.shape == (1, 4, 8, 8)
    assert "model rows: 8 instead of 8" in report
