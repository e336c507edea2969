"""Step sharing with the host's own samplers: against its plain guider, and cluster by cluster.

Runs the host in this process, on small models with random weights.
"""

import contextlib
import dataclasses
import functools
import importlib
import os
import re
from unittest import mock

import numpy as np
import pytest
import torch
from shared_runs import (
    ENDS,
    SEED,
    K,
    N,
    ksampler,
    modules_of,
    one_negative,
    one_noise,
    plans_of,
    positive_of,
    shared_model,
    sigmas_of,
    vectors_of_prompts,
)

from hierdiff_core import build_plan, linear_thresholds, ward_linkage
from hierdiff_core.plan.keys import text_key

pytestmark = pytest.mark.host

REFUSED = {"dpm_adaptive": "chooses its steps from the error of all rows together"}


@pytest.fixture(scope="module")
def host(pack):
    """The host's modules and ours, once the host can be imported."""
    return modules_of(pack)


@pytest.fixture(scope="module")
def model(host):
    return host.native_models.unet_model(shape=host.native_models.SHALLOW)


@pytest.fixture(scope="module")
def prompt_vectors():
    return vectors_of_prompts()


@pytest.fixture(scope="module")
def positive(prompt_vectors):
    return positive_of(prompt_vectors)


@pytest.fixture(scope="module")
def negative():
    return one_negative()


@pytest.fixture(scope="module")
def plans(prompt_vectors):
    return plans_of(prompt_vectors)


def run_shared(host, model, positive, negative, plan, sampler="euler", cfg=4.0, **options):
    """Samples, report, and at every callback x and the step whose clusters x must show."""
    reports = []
    micro_batch = options.pop("micro_batch", 0)
    guider = host.guider.make_guider(model, positive, negative, cfg, plan, micro_batch, tell=reports.append)
    sigmas = options.pop("sigmas", None)
    sigmas = sigmas_of(host, model, sampler) if sigmas is None else sigmas
    latent = options.pop("latent", torch.zeros(1, 4, 8, 8))
    seen, looked_up = [], [0]
    look_up = host.clusters.CurrentClusters.look_up

    def recorded(current, timestep):
        look_up(current, timestep)
        looked_up.append(current.k)

    # the callback comes after a step's first call, with the x that the calls before it made; uni_pc's at its end
    last = -1 if sampler.startswith("uni_pc") else -2
    with mock.patch.object(host.clusters.CurrentClusters, "look_up", recorded):
        samples = guider.sample(
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
    (report,) = reports
    return samples, report, seen


def run_plain(host, model, positive, negative, sampler="euler", cfg=4.0, sampler_object=None, **options):
    """The host's own guider on the first prompt alone and on the last one alone."""
    sigmas = options.get("sigmas")
    sigmas = sigmas_of(host, model, sampler) if sigmas is None else sigmas
    latent = options.get("latent", torch.zeros(1, 4, 8, 8))[:1]
    samples = []
    for i in ENDS:
        guider = host.samplers.CFGGuider(model)
        guider.set_conds(*(host.rows.rows_of(side, [i], N, "") for side in (positive, negative)))
        guider.set_cfg(cfg)
        made = sampler_object(i) if sampler_object else host.samplers.sampler_object(sampler)
        noise = one_noise(host, 1)
        samples.append(guider.sample(noise, latent, made, sigmas, options.get("mask"), disable_pbar=True, seed=SEED))
    return torch.cat(samples)


def sampler_with_our_noise(host, sampler, sigmas, prompt):
    """The host's sampler drawing the noise that an unshared run would draw for a prompt."""
    plan = build_plan(np.empty((0, 4)), linear_thresholds(K, 0.0), [100 + prompt])
    noise = host.noise.SamplerNoise(host.clusters.CurrentClusters(plan, sigmas), SEED)
    noise.row = torch.zeros(1, 4, 8, 8)
    return noise.shared_sampler(host.samplers.sampler_object(sampler))


def assert_clusters_identical(seen, plan, samples):
    """Rows of a cluster are bit-identical up to the step at which it splits, and differ in the end."""
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
    assert torch.equal(alone[ENDS], plain)
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


DOCUMENTED_ON = "0.3.75"  # whose samplers docs/samplers.md lists; docs/hosts.md has those that newer versions add
TABLE = "<!-- table -->\n", "\n<!-- end of table -->"


def version_of_host():
    return importlib.import_module("comfyui_version").__version__


def page_with_table(repo_root, name):
    """Path of a page of the docs, and its text before, in and after the table."""
    page = repo_root / "docs" / name
    before, rest = page.read_text(encoding="utf-8").split(TABLE[0])
    return page, before, *rest.split(TABLE[1])


def names_in(table):
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_every_sampler_of_the_host_is_in_the_table(host, repo_root):
    offered = host.samplers.SAMPLER_NAMES
    documented, newer = (names_in(page_with_table(repo_root, name)[2]) for name in ("samplers.md", "hosts.md"))
    if version_of_host() == DOCUMENTED_ON:
        assert documented == offered
    assert [name for name in offered if name not in newer] == documented
    assert set(newer).isdisjoint(documented)


def calls_per_sigma(host, model, positive, negative, plan, sampler):
    """(rows, calls) of the host's KSampler behind Share Steps, and the rows that the lookup by sigma demands."""
    sigmas = sigmas_of(host, model, sampler)
    called = []

    def record(apply_model, args):
        called.append((float(args["timestep"][0]), args["input"].shape[0] // len(args["cond_or_uncond"])))
        return apply_model(args["input"], args["timestep"], **args["c"])

    recorded, _ = shared_model(host, model, plan)
    recorded.set_model_unet_function_wrapper(record)
    with (
        mock.patch.object(host.clusters.CurrentClusters, "know_sigmas", autospec=True) as know_sigmas,
        mock.patch.object(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch),
    ):
        ksampler(host, recorded, positive, negative, sampler)  # the dry run's sigmas are noted, and not used
    known = know_sigmas.call_args.args[1]
    assert known == pytest.approx([sigma for sigma, _ in called], rel=1e-6), sampler
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
    for name in host.samplers.SAMPLER_NAMES:
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]):
                run_shared(host, model, positive, negative, plans.shared, name)
            rows[name] = None
            continue
        rows[name] = facts_of(host, model, positive, negative, plans, name)
    return rows


def facts_of(host, model, positive, negative, plans, name):
    sigmas = sigmas_of(host, model, name)
    same_noise = functools.partial(sampler_with_our_noise, host, name, sigmas)
    stochastic = "noise_sampler" in same_noise(0).extra_options
    ends = [host.rows.rows_of(side, ENDS, N, "") for side in (positive, negative)]
    alone, _, _ = run_shared(host, model, *ends, plans.ends, name, noise=one_noise(host, len(ENDS)))
    plain = run_plain(host, model, positive, negative, name, sampler_object=same_noise if stochastic else None)
    assert torch.equal(alone, plain), name
    shared, report, seen = run_shared(host, model, positive, negative, plans.shared, name)
    # it parts no cluster, and comes to the last step
    known = "is unstable on this schedule", "carries the shared steps into the images"
    assert not [line for line in report.splitlines() if "⚠" in line and not any(words in line for words in known)]
    assert_clusters_identical(seen, plans.shared, shared)
    patched, _ = shared_model(host, model, plans.shared, micro_batch=2)
    assert torch.equal(shared, ksampler(host, patched, positive, negative, name)), name
    rows, calls = calls_per_sigma(host, model, positive, negative, plans.shared, name)
    return stochastic, calls, rows


def test_every_sampler_runs_or_is_refused(table):
    assert [name for name, facts in table.items() if facts is None] == list(REFUSED)


def test_samplers_with_one_call_a_step_spend_the_plans_rows(table, plans):
    single = {name: rows for name, (_, calls, rows) in ((n, f) for n, f in table.items() if f) if calls == K}
    assert len(single) > 25
    assert set(single.values()) == {plans.shared.nfe}


def lines_of(table):
    """{sampler: its line in the docs}"""
    lines = {}
    for name, facts in table.items():
        if facts is None:
            lines[name] = f"| `{name}` | | refused: {REFUSED[name]} | | |"
            continue
        stochastic, calls, rows = facts
        noise = "per cluster" if stochastic else "none"
        lines[name] = f"| `{name}` | {noise} | {calls} | {rows} | {calls * N} |"
    return lines


def test_table_in_the_docs_is_this_one(table, repo_root):
    """On a newer host its additional samplers are those of docs/hosts.md; that page may know of still newer ones."""
    lines = lines_of(table)
    page, before, text, after = page_with_table(repo_root, "samplers.md")
    head = "| sampler | noise | model calls | rows, shared | rows, plain |\n|---|---|---|---|---|\n"
    if version_of_host() == DOCUMENTED_ON:
        made = head + "\n".join(lines.values())
        if os.environ.get("HIERDIFF_WRITE_DOCS"):
            page.write_text(before + TABLE[0] + made + TABLE[1] + after, encoding="utf-8")
            text = made
        assert text == made
    newer = page_with_table(repo_root, "hosts.md")[2]
    assert text.startswith(head)
    assert newer.startswith(head)
    rows = [row for row in (text + "\n" + newer).splitlines() if row not in head]
    documented = dict(zip(names_in("\n".join(rows)), rows, strict=True))
    assert {name: documented.get(name) for name in lines} == lines


# --- What the browser hears ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded_trees(host):
    """The live trees of the runs meanwhile."""
    trees = []

    class Recorded(host.run.LiveTree):
        def __enter__(self):
            trees.append(self)
            return super().__enter__()

    with mock.patch.object(host.run, "LiveTree", Recorded):
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
    expected = host.run.host_colours(model.model.latent_format)(latents, 64)
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
    assert torch.equal(other, samples[order])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_clusters_in_batches_agree_with_one_at_a_time(host, model, positive, negative, plans, sampler):
    for plan in (plans.none, plans.shared):
        one_by_one, _, _ = run_shared(host, model, positive, negative, plan, sampler)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
            for micro_batch in (0, 2):
                some, _, _ = run_shared(host, model, positive, negative, plan, sampler, micro_batch=micro_batch)
                assert not torch.equal(some, one_by_one)  # or this test would compare a thing with itself
                assert (some - one_by_one).abs().max() < 1e-4 * one_by_one.abs().max()


# --- Prompts that are one leaf of the tree ---------------------------------------------------------------------------


def equal_pair(prompt_vectors, tau):
    """A set whose first and last prompt are equal to the tree, and its plan."""
    vectors = torch.cat([prompt_vectors[:-1], prompt_vectors[:1]])
    Z = ward_linkage(vectors)
    return vectors, build_plan(Z, linear_thresholds(K, tau * float(Z[-1, 2])), range(100, 100 + N))


@pytest.mark.parametrize("tau", [0, 2])
@pytest.mark.parametrize("differ", ["positive", "negative", "pooled", "latent"])
def test_equal_embeddings_share_no_picture_where_anything_else_differs(host, prompt_vectors, negative, tau, differ):
    """The plan may come from another pooling, or another encoder, than the conditioning."""
    vectors, plan = equal_pair(prompt_vectors, tau)
    rows = vectors[:, None, :].repeat(1, 5, 1)
    pooled, latent = torch.ones(N, host.native_models.POOLED), torch.zeros(1, 4, 8, 8)
    model = host.native_models.unet_model(host.native_models.PooledModel)
    empty = torch.zeros(N, 5, 16)
    if differ == "latent":
        latent = latent.repeat(N, 1, 1, 1)
    one = {"positive": rows, "negative": empty, "pooled": pooled, "latent": latent}[differ]
    one[-1] += 0.5
    positive, negative = [[rows, {"pooled_output": pooled}]], [[empty, {"pooled_output": torch.zeros(1, 24)}]]
    samples, report, _ = run_shared(host, model, positive, negative, plan, latent=latent)
    assert not torch.equal(samples[0], samples[-1])
    assert "⚠ prompt 0 (" in report
    assert "have equal embeddings, but different conditioning" in report
    if tau == 0:
        alone = run_plain(host, model, positive, negative, latent=latent) if differ != "latent" else samples[ENDS]
        assert torch.equal(samples[ENDS], alone)


def test_equal_prompts_with_equal_conditioning_are_evaluated_once(host, model, prompt_vectors, negative):
    vectors, plan = equal_pair(prompt_vectors, 0)
    samples, report, _ = run_shared(host, model, [[vectors[:, None, :].repeat(1, 5, 1), {}]], negative, plan)
    assert torch.equal(samples[0], samples[-1])
    assert f"model rows: {K * (N - 1)} instead" in report
    assert "⚠" not in report


def test_prompts_of_2_3_and_5_chunks_are_drawn_as_alone(host, model, negative, plans):
    """Chunks of seven tokens; the host joins none of these with the negative's five."""
    merge = importlib.import_module(f"{host.sharing.__package__}.encode_set").merge
    generator = torch.Generator().manual_seed(11)
    conds = [torch.randn(1, 7 * chunks, 16, generator=generator) for chunks in (2, 3, 5, 2, 3, 5)]
    together, _, _ = run_shared(
        host, model, [merge([(c, {}) for c in conds], "abcdef", "repeat")], negative, plans.none
    )
    for i in ENDS:
        guider = host.samplers.CFGGuider(model)
        guider.set_conds([[conds[i], {}]], negative)
        guider.set_cfg(4.0)
        euler, latent = host.samplers.sampler_object("euler"), torch.zeros(1, 4, 8, 8)
        alone = guider.sample(one_noise(host, 1), latent, euler, sigmas_of(host, model, "euler"), disable_pbar=True)
        assert (together[i] - alone[0]).abs().max() < 1e-4 * alone.abs().max()


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
    control = host.native_models.control_net(shape=host.native_models.SHALLOW).set_cond_hint(hint, 0.8, (0.0, 1.0))
    with_control = [[positive[0][0], {"control": control, "control_apply_to_uncond": True}]]
    samples = assert_right(host, model, with_control, negative, plans)
    without, _, _ = run_shared(host, model, positive, negative, plans.shared)
    assert not torch.equal(samples, without)


def test_controlnet_takes_one_hint_or_one_for_each_prompt(host, silent_model, model, positive, negative, plans):
    def hinted(count):
        control = host.native_models.control_net(shape=host.native_models.SHALLOW).set_cond_hint(
            torch.rand(count, 3, 64, 64), 0.8, (0.0, 1.0)
        )
        above = host.native_models.control_net(shape=host.native_models.SHALLOW).set_cond_hint(
            torch.rand(1, 3, 64, 64), 0.8, (0.0, 1.0)
        )
        return [[positive[0][0], {"control": above.set_previous_controlnet(control)}]]

    samples, report, _ = run_shared(host, model, hinted(N), negative, plans.shared)
    assert samples.isfinite().all()
    assert "⚠ ControlNet images of the positive conditioning differ between prompts" in report
    with pytest.raises(ValueError, match=r"ControlNet of the positive conditioning has a batch of 4 .* for 6 prompts"):
        run_shared(host, silent_model, hinted(4), negative, plans.shared)


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
    clusters = host.clusters.in_prompt_order(plans.shared.steps[0])
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


def test_rows_that_fit_neither_one_nor_n_are_refused(host, silent_model, positive, negative, plans):
    four = [[positive[0][0][:4], {}]]
    with pytest.raises(ValueError, match=r"the positive conditioning has 4 rows .* the plan is for 6 prompts"):
        run_shared(host, silent_model, four, negative, plans.shared)
    with pytest.raises(ValueError, match="the negative conditioning has 4 rows"):
        run_shared(host, silent_model, positive, four, plans.shared)
    with pytest.raises(ValueError, match="the latent batch has 2 rows, but the plan is for 6 prompts"):
        run_shared(host, silent_model, positive, negative, plans.shared, latent=torch.zeros(2, 4, 8, 8))


def with_prompts(host, conditioning, prompts):
    return [[conditioning[0][0], {host.rows.PROMPTS: prompts}]]


def test_plan_of_other_prompts_is_refused(host, silent_model, model, positive, negative, prompt_vectors):
    prompts = [f"prompt {i}" for i in range(N)]
    Z = ward_linkage(prompt_vectors)
    plan = build_plan(Z, linear_thresholds(K, 0.0), [text_key(prompt) for prompt in prompts], prompts=prompts)
    theirs = with_prompts(host, positive, (*prompts[:2], "a cat", *prompts[3:]))
    with pytest.raises(ValueError, match='other prompts: prompt 2 is "prompt 2" in the plan, but "a cat" here'):
        run_shared(host, silent_model, theirs, negative, plan)
    with pytest.raises(ValueError, match="these prompts in another order: prompt 0 is"):
        run_shared(host, silent_model, with_prompts(host, positive, tuple(prompts[::-1])), negative, plan)
    # a negative's prompts are other ones; of several positive entries one has to be the plan's
    ours = with_prompts(host, positive, tuple(prompts))
    theirs = with_prompts(host, [[torch.ones(N, 5, 16), {}]], ("other",) * N)
    samples, _, _ = run_shared(host, model, [*theirs, *ours], theirs, plan)
    assert samples.isfinite().all()


def test_noise_that_differs_within_a_cluster_is_refused(host, silent_model, positive, negative, plans):
    with pytest.raises(ValueError, match=r"the noise differs between prompts .*; use Shared Noise"):
        run_shared(host, silent_model, positive, negative, plans.shared, noise=torch.randn(N, 4, 8, 8))


def test_rows_that_differ_within_a_cluster_are_drawn_apart(host, model, positive, negative, plans):
    """See test_per_prompt.py."""
    generator = torch.Generator().manual_seed(12)
    masks = torch.rand(N, 8, 8, generator=generator)
    masked = [[positive[0][0], {"mask": masks}]]
    for side, options, what in (
        (positive, {"latent": torch.randn(N, 4, 8, 8, generator=generator)}, "start latents"),
        (positive, {"mask": masks[:, None]}, "noise masks"),
        (masked, {}, "masks of the positive conditioning"),
    ):
        samples, report, _ = run_shared(host, model, side, negative, plans.shared, **options)
        assert torch.equal(samples, run_shared(host, model, side, negative, plans.none, **options)[0])
        assert f"⚠ {what} differ between prompts that the plan lets share, so none share: 48 model rows" in report


def test_rising_sigmas_are_refused(host, silent_model, positive, negative, plans):
    with pytest.raises(ValueError, match="sigmas must fall"):
        run_shared(host, silent_model, positive, negative, plans.shared, sigmas=torch.tensor([0.0, 1.0, 2.0]))


# --- Memory, overflow, and what only decorates -----------------------------------------------------------------------


def fails_beyond(model, rows, elementwise):
    """A model that runs out of memory for more rows than these; with `elementwise`, rows cannot touch each other."""
    called = []

    def call(apply_model, args):
        if len(args["input"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        called.append(len(args["input"]))
        if elementwise:
            return args["input"] * 0.9 + args["c"]["c_crossattn"][:, 0, :4, None, None] * 0.1
        return apply_model(args["input"], args["timestep"], **args["c"])

    failing = model.clone()
    failing.set_model_unet_function_wrapper(call)
    return failing, called


@pytest.mark.parametrize("cfg", [4.0, 1.0])
@pytest.mark.parametrize("elementwise", [True, False])
def test_calls_are_halved_when_memory_runs_out_even_where_all_prompts_are_alone(
    host, model, positive, negative, plans, monkeypatch, cfg, elementwise
):
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    per_row = 1 if cfg == 1.0 else 2  # the host puts a cluster's positive and negative into one call
    for plan in (plans.none, plans.shared):
        enough, _ = fails_beyond(model, 100, elementwise)
        expected, _, _ = run_shared(host, enough, positive, negative, plan, cfg=cfg)
        failing, called = fails_beyond(model, 2 * per_row, elementwise)
        samples, _, _ = run_shared(host, failing, positive, negative, plan, cfg=cfg)
        assert max(called) <= 2 * per_row
        if elementwise:
            assert torch.equal(samples, expected)
        else:
            assert (samples - expected).abs().max() < 1e-4 * expected.abs().max()


def test_halved_calls_stay_halved(host, model, positive, negative, plans, monkeypatch):
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    tries = []

    def call(apply_model, args):
        tries.append(len(args["input"]))
        if tries[-1] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return apply_model(args["input"], args["timestep"], **args["c"])

    failing = model.clone()
    failing.set_model_unet_function_wrapper(call)
    run_shared(host, failing, positive, negative, plans.none)
    assert tries == [2 * N] + [6] * 2 * K


def test_single_row_that_does_not_fit_is_an_error_in_our_words(host, model, positive, negative, plans):
    failing, _ = fails_beyond(model, 0, False)
    with pytest.raises(torch.OutOfMemoryError, match="a single latent does not fit in memory; lower width and height"):
        run_shared(host, failing, positive, negative, plans.none)


def overflowing(model, prompts):
    """A model that gives NaN for these rows, told by their conditioning."""
    marks = [prompt[0, 0] for prompt in prompts]

    def call(apply_model, args):
        output = apply_model(args["input"], args["timestep"], **args["c"])
        for row, cond in zip(output, args["c"]["c_crossattn"], strict=True):
            if any(torch.equal(cond[0, 0], mark) for mark in marks):
                row[0, 0, 0] = torch.nan
        return output

    broken = model.clone()
    broken.set_model_unet_function_wrapper(call)
    return broken


def test_latents_that_overflow_are_named_and_the_others_kept(host, model, positive, negative, plans, caplog):
    rows = positive[0][0]
    broken = overflowing(model, rows[[1, 4]])
    named = with_prompts(host, positive, tuple(f"text {i}" for i in range(N)))
    plan = dataclasses.replace(plans.none, prompt_keys=None)
    samples, report, _ = run_shared(host, broken, named, negative, plan)
    assert samples[[0, 2, 3, 5]].isfinite().all()
    line = next(line for line in report.splitlines() if "NaN" in line)
    assert line.startswith("⚠ 2 of 6 latents hold NaN or infinity")
    assert 'prompts 1 ("text 1"), 4 ("text 4"); load the model in another precision' in line
    guider = host.guider.make_guider(broken, named, negative, 4.0, plan, 0)
    euler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, model, "euler")
    guider.sample(one_noise(host), torch.zeros(1, 4, 8, 8), euler, sigmas, disable_pbar=True, seed=SEED)
    assert "2 of 6 latents hold NaN" in caplog.text


def test_run_without_a_finite_latent_is_an_error(host, model, positive, negative, plans):
    broken = overflowing(model, positive[0][0])
    with pytest.raises(ValueError, match="all 6 latents hold NaN or infinity; load the model in another precision"):
        run_shared(host, broken, positive, negative, plans.none)


@pytest.mark.parametrize("fault", ["__init__", "__enter__", "step", "__exit__"])
def test_tree_that_fails_loses_no_latents(host, model, positive, negative, plans, monkeypatch, caplog, fault):
    expected, report, _ = run_shared(host, model, positive, negative, plans.shared)
    assert "⚠" not in report

    def fail(*_, **__):
        raise RuntimeError(f"broken {fault}")

    monkeypatch.setattr(host.run.LiveTree, fault, fail)
    samples, report, _ = run_shared(host, model, positive, negative, plans.shared)
    assert torch.equal(samples, expected)
    assert f"(RuntimeError: broken {fault}); the result is not affected" in report
    assert report.count("⚠") == 1  # not once a step
    assert "Traceback" in caplog.text


def test_report_that_fails_loses_no_latents(host, model, positive, negative, plans, monkeypatch):
    monkeypatch.setattr(host.run, "distortion", lambda plan: 1 / 0)
    samples, report, _ = run_shared(host, model, positive, negative, plans.shared)
    assert samples.isfinite().all()
    assert "⚠ the report failed (ZeroDivisionError" in report


def test_interruption_passes_the_tree(host, model, positive, negative, plans, monkeypatch):
    import comfy.model_management as management

    def interrupt(*_, **__):
        raise management.InterruptProcessingException()

    monkeypatch.setattr(host.run.LiveTree, "step", interrupt)
    with pytest.raises(management.InterruptProcessingException):
        run_shared(host, model, positive, negative, plans.shared)


# --- The nodes -------------------------------------------------------------------------------------------------------


def run_node(host, model, positive, negative, plan, **changes):
    """The Hierarchical KSampler's latents and text."""
    settings = {"seed": SEED, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, **changes}
    latent = settings.pop("latent_image", {"samples": torch.zeros(1, 4, 8, 8)})
    node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
    out = node.execute(model, positive, negative, latent, plan, micro_batch=0, **settings)
    assert out.args[1] == out.ui["text"][0]
    return out.args[0]["samples"], out.args[1]


def test_node_without_denoising_gives_a_latent_for_each_prompt(host, silent_model, positive, negative, plans):
    latent = torch.randn(1, 4, 8, 8)
    given = {"latent_image": {"samples": latent}, "denoise": 0.0}
    samples, report = run_node(host, silent_model, positive, negative, plans.shared, **given)
    assert torch.equal(samples, latent.expand(N, -1, -1, -1))
    assert "⚠ no steps (denoise 0)" in report


@pytest.mark.parametrize("fault", ["prepare_callback", "the callback"])
def test_preview_that_fails_loses_no_latents(host, model, positive, negative, plans, monkeypatch, fault):
    expected, report = run_node(host, model, positive, negative, plans.shared)
    assert "⚠" not in report

    def fail(*_):
        raise RuntimeError("broken")

    made = fail if fault == "prepare_callback" else lambda *_: fail
    monkeypatch.setattr(host.host_samplers.latent_preview, "prepare_callback", made)
    samples, report = run_node(host, model, positive, negative, plans.shared)
    assert torch.equal(samples, expected)
    assert report.count("⚠ the preview failed (RuntimeError: broken)") == 1


def test_list_of_negatives_is_said(host, model, positive, plans, caplog):
    from comfy_execution.utils import CurrentNodeContext

    negatives = [[[torch.full((1, 5, 16), value), {}]] for value in (0.0, 0.1, 0.2)]
    seeds = [1, 2, 3]
    rest = {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "denoise": 0.0}

    def reports(node, negatives, seeds):
        for i, (one, seed) in enumerate(zip(negatives, seeds, strict=True)):
            with CurrentNodeContext("job", node, i):
                yield run_node(host, model, positive, one, plans.shared, seed=seed, **rest)[1]

    said = [f"run {i} for a list of negatives" in text for i, text in enumerate(reports("a", negatives, [7] * 3), 1)]
    assert said == [False, True, True]
    assert not any("negatives" in text for text in reports("b", negatives, seeds))
    assert not any("negatives" in text for text in reports("c", negatives[:1] * 3, seeds))
    for i, one in enumerate(negatives):
        with CurrentNodeContext("job", "guider", i):
            host.guider.Guider.execute(model, positive, one, 4.0, plans.shared, 0)
    assert caplog.text.count("for a list of negatives: each negative gives another set of 6 pictures") == 2


# --- Steps, noise, reports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, N])
def test_no_steps_hand_on_a_latent_for_each_prompt(host, silent_model, positive, negative, plans, rows):
    latent = torch.randn(rows, 4, 8, 8)
    for sigmas in (torch.FloatTensor([]), torch.tensor([1.0])):
        samples, report, _ = run_shared(
            host, silent_model, positive, negative, plans.shared, latent=latent, sigmas=sigmas
        )
        assert torch.equal(samples, latent.expand(N, -1, -1, -1))
        assert report.startswith("⚠ no steps (denoise 0): nothing was sampled")
    with pytest.raises(ValueError, match="the latent batch has 2 rows, but the plan is for 6 prompts"):
        run_shared(
            host, silent_model, positive, negative, plans.shared, latent=latent[:1].repeat(2, 1, 1, 1), sigmas=sigmas
        )


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
    """No dry run tells of it: its sigmas may depend on what the model predicts."""
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
