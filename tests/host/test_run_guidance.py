"""Guidance by the plan on the MODEL path: no negative pass outside an interval, more strength after a split."""

import importlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from attached_nodes import PAIRED, SIDES, pictures, plan_of_pairs, rows_by_contract, with_pictures
from shared_runs import SEED, K, N, ksampler, one_noise, rows_of, shared_model, sigmas_of

from hierdiff_core import GuidanceCourse

pytestmark = pytest.mark.host

CUT = GuidanceCourse(end=0.5)
MIDDLE = GuidanceCourse(start=0.25, end=0.75)
BOOST = GuidanceCourse(boost=2.0, boost_steps=2)
CFG = 4.0


def passes_of(report):
    """(spent, standard) of a report."""
    return tuple(int(number) for number in re.search(r"^passes: (\d+) instead of (\d+)", report, re.M).groups())


def with_course(plan, course):
    return replace(plan, guidance=course)


@pytest.fixture
def counted(model):
    """A model, and the rows of its calls."""
    rows, counting = [], model.clone()

    def count(apply_model, args):
        rows.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    counting.set_model_unet_function_wrapper(count)
    return counting, rows


@pytest.fixture(scope="module")
def scheduled(host):
    """A guider of the host's own whose strength falls to 1 outside some steps: what the host itself can do."""

    class Scheduled(host.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            sigmas = model_options["transformer_options"]["sample_sigmas"]
            step = int((sigmas[:-1] >= float(timestep[0]) * 0.999999).sum()) - 1
            strength = CFG if self.inside[step] else 1.0
            conds = self.conds["negative"], self.conds["positive"]
            return host.samplers.sampling_function(self.inner_model, x, timestep, *conds, strength, model_options, seed)

    return Scheduled


def run(host, guider, sides, sampler, rows=1):
    guider.set_conds(*sides)
    function, latents = host.samplers.sampler_object(sampler), torch.zeros(rows, 4, 8, 8)
    sigmas = sigmas_of(host, guider.model_patcher, sampler)
    return guider.sample(one_noise(host, rows), latents, function, sigmas, disable_pbar=True, seed=SEED)


def alone(host, scheduled, model, course, i, sides, sampler="euler"):
    """The host's picture of one prompt, with a guider that guides in the same steps."""
    guider = scheduled(model)
    guider.inside = course.inside(K)
    return run(host, guider, [host.rows.rows_of(side, [i], N, "") for side in sides], sampler)


# --- The interval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("course", "sampler"),
    [
        (CUT, "euler"),
        (MIDDLE, "euler"),
        (GuidanceCourse(0.5, 0.5), "euler"),
        (GuidanceCourse(start=0.5), "dpmpp_2m"),
        (CUT, "heun"),
        (MIDDLE, "euler_cfg_pp"),
    ],
)
def test_unshared_it_is_the_hosts_guider_with_the_same_strengths(host, scheduled, model, plans, course, sampler):
    """CFG++ samplers need the negative in every step: the host makes it for them at a strength of 1, too."""
    patched, _ = shared_model(host, model, with_course(plans.none, course))
    samples = ksampler(host, patched, *SIDES, sampler)
    for i in (0, N - 1):
        assert torch.equal(samples[i : i + 1], alone(host, scheduled, model, course, i, SIDES, sampler))
    assert not torch.equal(samples, ksampler(host, shared_model(host, model, plans.none)[0], *SIDES, sampler))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_equal_pairs_are_shared_without_loss(host, scheduled, model, sampler):
    patched, reports = shared_model(host, model, with_course(plan_of_pairs(), CUT))
    samples = ksampler(host, patched, *PAIRED, sampler)
    for i in (2, 3):
        assert torch.equal(samples[i : i + 1], alone(host, scheduled, model, CUT, i, PAIRED, sampler))
    assert rows_of(reports[0]) == 3 * K


def test_it_is_two_guiders_of_the_host_one_after_the_other(host, model, plans):
    """As Split Sigmas makes them: the second without a negative."""
    patched, _ = shared_model(host, model, with_course(plans.none, CUT))
    samples, sigmas = ksampler(host, patched, *SIDES), sigmas_of(host, model, "euler")
    own = [host.rows.rows_of(side, [2], N, "") for side in SIDES]
    latents, noise = torch.zeros(1, 4, 8, 8), one_noise(host, 1)
    for cfg, part in ((CFG, sigmas[: K // 2 + 1]), (1.0, sigmas[K // 2 :])):
        guider = host.samplers.CFGGuider(model)
        guider.set_conds(*own)
        guider.set_cfg(cfg)
        euler = host.samplers.sampler_object("euler")
        latents = guider.sample(noise, latents, euler, part, disable_pbar=True, seed=SEED)
        noise = torch.zeros_like(noise)
    torch.testing.assert_close(samples[2:3], latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("course", [CUT, MIDDLE, GuidanceCourse(0.5, 0.5)])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_outside_no_negative_pass_is_evaluated(host, counted, plans, course, sampler):
    model, rows = counted
    plan = with_course(plans.shared, course)
    patched, reports = shared_model(host, model, plan)
    ksampler(host, patched, *SIDES, sampler)
    assert sum(rows) == course.passes(plan) < 2 * plan.nfe
    # the guard's, which asks the function that counts here, are counted apart
    checked = sum(int(n) for n in re.findall(r"and (\d+) rows to check", reports[0]))
    assert passes_of(reports[0]) == (sum(rows) - 2 * checked, 2 * N * K)


def test_samplers_with_two_calls_a_step_are_counted_by_call(host, model, plans):
    patched, reports = shared_model(host, model, with_course(plans.none, CUT))
    ksampler(host, patched, *SIDES, "heun")
    # the second call of a step is at the sigma of the next, and is guided as that one is
    guided, calls = 2 * (K // 2) - 1, 2 * K - 1
    assert passes_of(reports[0]) == (N * (calls + guided), 2 * N * calls)


def test_without_a_negative_there_is_nothing_to_cut(host, model, plans):
    plan = with_course(plans.shared, CUT)
    patched, reports = shared_model(host, model, plan)
    options = {"disable_pbar": True, "seed": SEED}
    noise, latents = one_noise(host, 1), torch.zeros(1, 4, 8, 8)
    inputs = noise, K, 1.0, "euler", "normal", *SIDES, latents
    samples = host.sample.sample(patched, *inputs, **options)
    plain, _ = shared_model(host, model, plans.shared)
    assert torch.equal(samples, host.sample.sample(plain, *inputs, **options))
    assert "no negative pass in this run: the plan's guidance leaves nothing out" in reports[0]


def test_reports_say_where_it_guides(host, model, plans):
    course = GuidanceCourse(0.25, 0.75, 1.5, 2, 0.3)
    patched, reports = shared_model(host, model, with_course(plans.shared, course))
    ksampler(host, patched, *SIDES)
    assert "guidance in steps 3 to 6 of 8" in reports[0]
    assert "guidance × 1.5 for 2 steps after each split, above noise level 0.3" in reports[0]
    again, reports = shared_model(host, model, with_course(plans.shared, GuidanceCourse()))
    ksampler(host, again, *SIDES)
    assert "passes:" not in reports[0]
    assert "guidance" not in reports[0]


def test_plans_without_a_course_run_as_ever(host, model, plans):
    plain = ksampler(host, shared_model(host, model, plans.shared)[0], *SIDES)
    for course in (GuidanceCourse(), GuidanceCourse(boost=2), GuidanceCourse(boost_steps=3)):
        assert torch.equal(
            ksampler(host, shared_model(host, model, with_course(plans.shared, course))[0], *SIDES), plain
        )
    nothing = GuidanceCourse(boost=2, boost_steps=3, boost_above=1)
    assert torch.equal(ksampler(host, shared_model(host, model, with_course(plans.shared, nothing))[0], *SIDES), plain)


def test_parts_of_a_run_are_guided_by_the_steps_of_the_plan(host, model, plans):
    course = GuidanceCourse(end=0.625, boost=2, boost_steps=2)
    patched, reports = shared_model(host, model, with_course(plans.shared, course))
    whole = ksampler(host, patched, *SIDES)
    half = ksampler(host, patched, *SIDES, start_step=0, last_step=4, force_full_denoise=False)
    rest = {"latents": half, "noise": torch.zeros_like(half), "start_step": 4, "last_step": 10000}
    torch.testing.assert_close(ksampler(host, patched, *SIDES, **rest), whole, atol=1e-3, rtol=1e-3)
    spent, first, second = (passes_of(report)[0] for report in reports)
    assert spent == first + second == course.passes(plans.shared)


def test_all_nodes_of_the_pack_obey(host, model, plans):
    plan = with_course(plans.shared, GuidanceCourse(end=0.6, boost=2, boost_steps=2))
    expected = ksampler(host, shared_model(host, model, plan)[0], *SIDES)
    node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    out = node.execute(model, *SIDES, latent, plan, SEED, CFG, "euler", "normal", 1.0, micro_batch=0)
    assert torch.equal(out.args[0]["samples"], expected)
    assert passes_of(out.args[1])[0] == plan.guidance.passes(plan)
    guider = host.guider.Guider.execute(model, *SIDES, CFG, plan, 0).args[0]
    euler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, model, "euler")
    samples = guider.sample(one_noise(host), latent["samples"], euler, sigmas, disable_pbar=True, seed=SEED)
    assert torch.equal(samples, expected)


# --- After a split ----------------------------------------------------------------------------------------------------


def levels_of(host, model):
    sigmas = sigmas_of(host, model, "euler")[:-1].numpy()
    return sigmas / (1 + sigmas)


def by_a_function(host, model, plan, course):
    """Guidance by a function that knows the strength of each prompt in each step, told by its own path: (K, N)."""
    levels, strengths = levels_of(host, model), np.full((K, N), CFG)
    for i in range(N):
        sizes = [int((step.labels == step.labels[i]).sum()) for step in plan.steps]
        for k in range(K):
            splits = [j for j in range(1, k + 1) if sizes[j] < sizes[j - 1]]
            if splits and k - splits[-1] < course.boost_steps and levels[k] > course.boost_above:
                strengths[k, i] = CFG * course.boost
    sigmas = sigmas_of(host, model, "euler")

    def guide(args):
        k = int((sigmas[:-1] >= float(args["sigma"][0]) * 0.999999).sum()) - 1
        own = torch.from_numpy(strengths[k]).float().view(-1, 1, 1, 1)
        return args["uncond"] + own * (args["cond"] - args["uncond"])

    patched = model.clone()
    patched.set_model_sampler_cfg_function(guide)
    assert (strengths != CFG).any()
    return patched


@pytest.mark.parametrize(
    "course",
    [
        BOOST,
        GuidanceCourse(boost=1.5, boost_steps=4, boost_above=0.4),
        GuidanceCourse(boost=0.5, boost_steps=3),
        GuidanceCourse(boost=0.25, boost_steps=2),  # where it applies the strength is 1
    ],
)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_strengths_are_those_of_each_prompts_path(host, model, plans, course, sampler):
    patched, reports = shared_model(host, model, with_course(plans.shared, course))
    samples = ksampler(host, patched, *SIDES, sampler)
    own = by_a_function(host, model, plans.shared, course)
    expected = ksampler(host, shared_model(host, own, plans.shared)[0], *SIDES, sampler)
    plain = ksampler(host, shared_model(host, model, plans.shared)[0], *SIDES, sampler)
    assert (samples - expected).abs().max() < 0.005 * (samples - plain).abs().max()
    assert rows_of(reports[0]) == plans.shared.nfe


def test_it_takes_no_further_pass(host, counted, plans):
    model, rows = counted
    patched, reports = shared_model(host, model, with_course(plans.shared, BOOST))
    ksampler(host, patched, *SIDES)
    assert sum(rows) == 2 * plans.shared.nfe == passes_of(reports[0])[0]


def test_rows_evaluated_together_get_what_they_get_alone(host, model, plans, all_at_once, monkeypatch):
    plan = with_course(plans.shared, GuidanceCourse(end=0.8, boost=2, boost_steps=2))
    together = ksampler(host, shared_model(host, model, plan)[0], *SIDES)
    monkeypatch.undo()
    one = ksampler(host, shared_model(host, model, plan)[0], *SIDES)
    torch.testing.assert_close(together, one, rtol=1e-3, atol=1e-3)


def test_equal_pairs_are_raised_as_the_unshared_would_be(host, model):
    """Pairs that split late stay bit-identical, and a branch that splits off nothing is never raised."""
    unshared = ksampler(host, shared_model(host, model, with_course(plan_of_pairs(), BOOST))[0], *PAIRED)
    assert torch.equal(unshared, ksampler(host, shared_model(host, model, plan_of_pairs())[0], *PAIRED))
    samples = ksampler(host, shared_model(host, model, with_course(plan_of_pairs(2.0), BOOST))[0], *PAIRED)
    assert all(torch.equal(samples[i], samples[i + 1]) for i in (0, 2, 4))


# --- Any guider -------------------------------------------------------------------------------------------------------


def dual(model, nested=False):
    guider = importlib.import_module("comfy_extras.nodes_custom_sampler").Guider_DualCFG(model)
    guider.set_conds(SIDES[0], [[torch.full((1, 5, 16), 0.2), {}]], SIDES[1])
    guider.set_cfg(CFG, 2.0, nested)
    return guider


def perp_neg(model):
    guider = importlib.import_module("comfy_extras.nodes_perpneg").Guider_PerpNeg(model)
    guider.set_conds(SIDES[0], [[torch.full((1, 5, 16), 0.2), {}]], SIDES[1])
    guider.set_cfg(CFG, 1.0)
    return guider


def basic(model):
    guider = importlib.import_module("comfy_extras.nodes_custom_sampler").Guider_Basic(model)
    guider.set_conds(SIDES[0])
    return guider


def guided_run(host, guider):
    model, latents = guider.model_patcher, torch.zeros(1, 4, 8, 8)
    euler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, model, "euler")
    return guider.sample(one_noise(host, 1), latents, euler, sigmas, disable_pbar=True, seed=SEED)


@pytest.mark.parametrize("make", [dual, lambda model: dual(model, nested=True), perp_neg])
def test_guiders_with_three_passes_take_one_outside(host, counted, plans, make):
    model, rows = counted
    patched, reports = shared_model(host, model, with_course(plans.none, CUT))
    samples = guided_run(host, make(patched))
    assert sum(rows) == 4 * N * K // 2
    assert passes_of(reports[0]) == (4 * N * K // 2, 3 * N * K)
    never, _ = shared_model(host, model, with_course(plans.none, GuidanceCourse(0.5, 0.5)))
    unguided = guided_run(host, basic(shared_model(host, model, plans.none)[0]))
    assert torch.equal(guided_run(host, make(never)), unguided)
    assert not torch.equal(samples, unguided)


def test_perp_neg_is_raised_after_a_split(host, model, plans):
    plain = guided_run(host, perp_neg(shared_model(host, model, plans.shared)[0]))
    raised = guided_run(host, perp_neg(shared_model(host, model, with_course(plans.shared, BOOST))[0]))
    assert (raised - plain).abs().max() > 0.01


def test_what_cannot_be_raised_is_refused_before_any_call(host, silent_model, scheduled, plans):
    patched, _ = shared_model(host, silent_model, with_course(plans.shared, BOOST))
    with pytest.raises(ValueError, match=r"raises guidance after each split \(boost\), but DualCFGGuider has two"):
        guided_run(host, dual(patched))
    with pytest.raises(ValueError, match=r"\(boost\), but this run has none: cfg is 1, or there is no negative"):
        guided_run(host, basic(patched))
    plain = host.samplers.CFGGuider(patched)
    plain.set_conds(*SIDES)
    with pytest.raises(ValueError, match=r"\(boost\), but this run has none: cfg is 1"):
        guided_run(host, plain)
    for course in (BOOST, CUT):
        patched, _ = shared_model(host, silent_model, with_course(plans.shared, course))
        own = scheduled(patched)
        own.set_conds(*SIDES)
        with pytest.raises(ValueError, match=r"Scheduled.* guides in a way of its own.*use CFGGuider, or a plan"):
            guided_run(host, own)


# --- Functions of other nodes around the guidance ---------------------------------------------------------------------


def patched_by(module, node, model, *inputs):
    made = getattr(importlib.import_module(f"comfy_extras.{module}"), node)
    made = made.execute if hasattr(made, "execute") else getattr(made(), made.FUNCTION)
    result = made(model, *inputs)
    return getattr(result, "args", result)[0]


FUNCTIONS = [
    ("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0),
    ("nodes_pag", "PerturbedAttentionGuidance", 2.0),
    ("nodes_slg", "SkipLayerGuidanceDiT", 3.0, 0.01, 0.9, "0", "0", 0.0),
    ("nodes_tcfg", "TCFG"),
    ("nodes_model_advanced", "RescaleCFG", 0.7),
    ("nodes_fresca", "FreSca", 1.0, 1.25, 2),
    ("nodes_cfg", "CFGZeroStar"),
    ("nodes_cfg", "CFGNorm", 1.0),
]


@pytest.mark.parametrize("node", FUNCTIONS, ids=lambda node: node[1])
def test_beside_functions_of_the_host_the_interval_is_the_hosts_at_cfg_1(host, scheduled, model, plans, node):
    module, name, *inputs = node
    patched = patched_by(module, name, model, *inputs)
    samples = ksampler(host, shared_model(host, patched, with_course(plans.none, CUT))[0], *SIDES)
    for i in (0, N - 1):
        assert torch.equal(samples[i : i + 1], alone(host, scheduled, patched, CUT, i, SIDES))


def test_whoever_needs_the_negative_keeps_it_and_is_named(host, model, plans):
    patched = patched_by("nodes_sag", "SelfAttentionGuidance", model, 0.5, 2.0)
    shared, reports = shared_model(host, patched, with_course(plans.none, CUT))
    ksampler(host, shared, *SIDES)
    assert re.search(
        "⚠ SelfAttentionGuidance .*needs the negative pass: it was made outside the guided steps", reports[0]
    )
    shared, reports = shared_model(host, model, with_course(plans.none, CUT))
    ksampler(host, shared, *SIDES, "euler_cfg_pp")
    assert re.search("⚠ sample_euler_ancestral_cfg_pp .*needs the negative pass", reports[0])
    assert passes_of(reports[0]) == (2 * N * K, 2 * N * K)


@pytest.mark.parametrize("node", FUNCTIONS, ids=lambda node: node[1])
def test_beside_functions_of_the_host_each_row_has_its_strength(host, counted, plans, node):
    """A run in which every row is raised, or none, from some step on gives what mixed calls give for these rows."""
    module, name, *inputs = node
    model, rows = counted
    patched = patched_by(module, name, model, *inputs)
    plain, reports = shared_model(host, patched, plans.shared)
    ksampler(host, plain, *SIDES)
    usual = sum(rows)
    rows.clear()
    seen = []

    def note(args):
        seen.append((float(args["sigma"][0]), args["cond_scale"]))
        return args["denoised"]

    patched.set_model_sampler_post_cfg_function(note)
    shared, reports = shared_model(host, patched, with_course(plans.shared, BOOST))
    ksampler(host, shared, *SIDES)
    assert sum(rows) <= usual + 12  # those of the guard, which asks about one more function
    assert {scale for _, scale in seen} == {CFG, 2 * CFG}
    # beside functions that read what the model recorded, a call is for one cluster, which has one strength
    assert ("called once for each strength of guidance" in reports[0]) == (name != "SelfAttentionGuidance")
    assert rows_of(reports[0]) == plans.shared.nfe
    third = name in ("SelfAttentionGuidance", "PerturbedAttentionGuidance")  # a pass of their own for each row
    if name != "SkipLayerGuidanceDiT":  # that has one in some of the steps
        assert passes_of(reports[0]) == ((2 + third) * plans.shared.nfe, (2 + third) * N * K)


def test_functions_that_remember_their_calls_are_refused_where_strengths_differ(host, model, plans):
    def with_momentum():
        kept, patched = {}, model.clone()

        def momentum(args):
            rows = args["denoised"]
            kept["mean"] = rows if "mean" not in kept else 0.6 * kept["mean"] + 0.4 * rows
            return kept["mean"]

        patched.set_model_sampler_post_cfg_function(momentum)
        return patched

    shared, _ = shared_model(host, with_momentum(), with_course(plans.shared, BOOST))
    with pytest.raises(ValueError, match=r"\(momentum\) of .*keeps something from call to call, or draws"):
        ksampler(host, shared, *SIDES)
    shared, _ = shared_model(host, with_momentum(), with_course(plans.shared, CUT))
    assert ksampler(host, shared, *SIDES).isfinite().all()


def test_wrappers_around_a_samplers_call_see_one_call(host, model, plans):
    def seen_by(course):
        seen, patched = [], model.clone()
        for kind in ("predict_noise", "calc_cond_batch"):
            patched.add_wrapper_with_key(
                kind, "aaa", lambda executor, *args, kind=kind, **kwargs: seen.append(kind) or executor(*args, **kwargs)
            )
        plan = with_course(plans.shared, course)
        for first in (True, False):
            shared = shared_model(host, patched, plan)[0] if first else shared_model(host, model, plan)[0]
            ksampler(host, shared, *SIDES)
        return seen

    assert seen_by(BOOST) == seen_by(None)


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_beside_the_hosts_step_caches(host, model, plans, node):
    """Rows that a cache answers are no passes; unshared, the interval is the host's at cfg 1."""
    caches = importlib.import_module("comfy_extras.nodes_easycache")
    cached = getattr(caches, node).execute(model, 3.0, 0.1, 1.0, False).args[0]
    for course in (CUT, BOOST):
        shared, reports = shared_model(host, cached, with_course(plans.shared, course))
        assert ksampler(host, shared, *SIDES).isfinite().all()
        answered = int(re.search(r"answered (\d+) further rows", reports[0])[1])
        assert rows_of(reports[0]) + answered == plans.shared.nfe
        assert 0 < passes_of(reports[0])[0] <= 2 * rows_of(reports[0])
        if course is BOOST:
            assert passes_of(reports[0])[0] == 2 * rows_of(reports[0])


@pytest.mark.parametrize("begins", [math.inf, 2.0])
def test_prompts_that_a_patch_parts_in_the_first_call_have_not_split(host, model, plans, begins):
    """Pictures in pairs, from the first step on or later: a run begins with the pairs, whatever the plan lets share."""
    patched = with_pictures(model, pictures(), rows_by_contract, begins=begins)
    course = GuidanceCourse(end=0.75, boost=2.0, boost_steps=2)
    shared, reports = shared_model(host, patched, with_course(plans.shared, course))
    samples = ksampler(host, shared, *SIDES)
    assert samples.isfinite().all()
    apart, _ = shared_model(host, patched, with_course(plans.none, course))
    plain, _ = shared_model(host, patched, with_course(plans.none, GuidanceCourse(end=0.75)))
    assert torch.equal(ksampler(host, apart, *SIDES), ksampler(host, plain, *SIDES))
    passes, standard = passes_of(reports[0])
    assert rows_of(reports[0]) < passes < 2 * rows_of(reports[0])
    assert standard == 2 * N * K


# --- Noise levels -----------------------------------------------------------------------------------------------------


def test_noise_levels_are_one_number_for_every_kind_of_model(host, pack):
    levels = importlib.import_module(f"{pack.__name__}.nodes.host.noise_levels").noise_levels
    sampling = importlib.import_module("comfy.model_sampling")

    class Flow(sampling.ModelSamplingDiscreteFlow, sampling.CONST):
        pass

    class Eps(sampling.ModelSamplingDiscrete, sampling.EPS):
        pass

    class Velocity(sampling.ModelSamplingDiscrete, sampling.V_PREDICTION):
        pass

    times = torch.linspace(0.99, 0.01, 9)
    assert levels(Flow(), times) == pytest.approx(times.double().numpy(), rel=1e-6)
    for kind in (Eps, Velocity):
        assert levels(kind(), times / (1 - times)) == pytest.approx(times.double().numpy(), rel=1e-5)
    assert levels(Eps(), torch.tensor([14.6146])) == pytest.approx([0.93596], rel=1e-4)
    assert not math.isnan(levels(Flow(), torch.tensor([1.0]))[0])
