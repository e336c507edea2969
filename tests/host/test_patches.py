"""Patches of the host's own nodes and of others behind Share Steps: each works as it does for a prompt alone."""

import collections
import functools
import importlib
import weakref

import pytest
import torch
from attached_nodes import PAIRED, SIDES, alone, plan_of_pairs, shared, together
from shared_runs import SEED, K, N, one_noise, shared_model, sigmas_of

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def plain(host, model, plans):
    """Of the model without patches, unshared."""
    return shared(host, model, plans.none)[0]


def assert_works(host, model, plans, sampler="euler"):
    """Without sharing as each prompt alone; equal pairs without loss; clusters save what the plan says."""
    samples, _ = shared(host, model, plans.none, sampler=sampler)
    for i in (0, N - 1):
        assert torch.equal(samples[i : i + 1], alone(host, model, i, sampler=sampler))
    in_pairs, _ = shared(host, model, plan_of_pairs(), PAIRED, sampler)
    for i in (2, 3):
        assert torch.equal(in_pairs[i : i + 1], alone(host, model, i, PAIRED, sampler))
    clusters, report = shared(host, model, plans.shared, sampler=sampler)
    if sampler != "heun":  # with two calls a step
        assert f"model rows: {plans.shared.nfe} instead of {N * K}" in report
    warnings = [line for line in report.splitlines() if "⚠" in line]
    assert all("carries the shared steps into the images" in line for line in warnings)  # CFG++
    assert len({row.numpy().tobytes() for row in clusters}) == N
    return samples


# --- The host's nodes -------------------------------------------------------------------------------------------------


def patched_by(module, node, model, *inputs):
    """What a node of the host gives for a model."""
    made = getattr(importlib.import_module(f"comfy_extras.{module}"), node)
    made = made.execute if hasattr(made, "execute") else getattr(made(), made.FUNCTION)
    result = made(model, *inputs)
    return getattr(result, "args", result)[0]


NODES = [
    ("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0),
    ("nodes_pag", "PerturbedAttentionGuidance", 2.0),
    ("nodes_slg", "SkipLayerGuidanceDiT", 3.0, 0.01, 0.9, "0", "0", 0.0),
    ("nodes_freelunch", "FreeU", 1.1, 1.2, 0.9, 0.2),
    ("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    ("nodes_tomesd", "TomePatchModel", 0.3),
    ("nodes_hypertile", "HyperTile", 32, 4, 0, False),
    ("nodes_model_downscale", "PatchModelAddDownscale", 1, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"),
    ("nodes_model_downscale", "PatchModelAddDownscale", 1, 2.0, 0.1, 0.5, False, "bilinear", "area"),
    ("nodes_apg", "APG", 1.0, 5.0, 0.5),
    ("nodes_tcfg", "TCFG"),
    ("nodes_model_advanced", "RescaleCFG", 0.7),
    ("nodes_fresca", "FreSca", 1.0, 1.25, 2),
    ("nodes_cfg", "CFGZeroStar"),
    ("nodes_cfg", "CFGNorm", 1.0),
    ("nodes_eps", "EpsilonScaling", 1.005),
    ("nodes_attention_multiply", "UNetTemporalAttentionMultiply", 1.0, 1.1, 1.0, 1.0),
    ("nodes_attention_multiply", "UNetSelfAttentionMultiply", 1.0, 1.1, 1.0, 0.9),
    ("nodes_model_advanced", "ModelSamplingDiscrete", "v_prediction", False),
    ("nodes_model_advanced", "ModelSamplingContinuousEDM", "v_prediction", 120.0, 0.002),
    ("nodes_context_windows", "ContextWindowsManualNode", 32, 8, "standard_static", 1, False, "pyramid", 2),
]
IDLE = {"UNetTemporalAttentionMultiply", "ContextWindowsManualNode"}  # with this model
# They take means and sums over the whole batch, with or without us: compared with the host's batch.
COUPLING = [
    ("nodes_mahiro", "Mahiro"),
    ("nodes_perpneg", "PerpNeg", [[torch.full((1, 5, 16), 0.2), {}]], 1.0),
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: f"{node[1]}-{node[-1]}")
def test_nodes_of_the_host(host, model, plans, plain, node):
    module, name, *inputs = node
    patched = patched_by(module, name, model, *inputs)
    samples = assert_works(host, patched, plans)
    assert torch.equal(samples, plain) == (name in IDLE)


@pytest.mark.parametrize("node", COUPLING, ids=lambda node: node[1])
def test_nodes_of_the_host_that_couple_the_batch(host, model, plans, node):
    module, name, *inputs = node
    patched = patched_by(module, name, model, *inputs)
    for plan, sides in ((plans.none, SIDES), (plan_of_pairs(), PAIRED)):
        samples, _ = shared(host, patched, plan, sides)
        plain = together(host, patched, sides)
        assert (samples - plain).abs().max() < 1e-4 * plain.abs().max()


def test_node_of_the_host_that_takes_no_batch_is_named(host, model, plans):
    patched = patched_by("nodes_lumina2", "RenormCFG", model, 100.0, 1.0)
    alone(host, patched, 0)
    with pytest.raises(RuntimeError, match="ambiguous"):
        together(host, patched)
    with pytest.raises(ValueError, match=r"RenormCFG \(renorm_cfg_func\) of comfy_extras.nodes_lumina2 fails for 6"):
        shared(host, patched, plans.shared)


# --- State that is kept from call to call -----------------------------------------------------------------------------


def keeps_in_options(options):
    kept = options.setdefault("kept by a pack", collections.Counter())
    kept["calls"] += 1
    return kept["calls"]


def momentum(kept, rows):
    """A running mean of each row, as momentum guidance keeps it."""
    kept["mean"] = rows if "mean" not in kept else 0.6 * kept["mean"] + 0.4 * rows
    return kept["mean"]


def by_post_cfg(model, kept):
    model.set_model_sampler_post_cfg_function(lambda args: momentum(kept, args["denoised"]))


def by_pre_cfg(model, kept):
    model.set_model_sampler_pre_cfg_function(
        lambda args: [momentum(kept, args["conds_out"][0]), *args["conds_out"][1:]]
    )


def by_cfg(model, kept):
    model.set_model_sampler_cfg_function(
        lambda args: momentum(kept, args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"])
    )


def by_batch_function(model, kept):
    samplers = importlib.import_module("comfy.samplers")

    def calls(args):
        out = samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        )
        return [momentum(kept, out[0]), *out[1:]]

    model.set_model_sampler_calc_cond_batch_function(calls)


def by_predict_noise(model, kept, key="aaa"):
    model.add_wrapper_with_key(
        "predict_noise", key, lambda executor, *args, **kwargs: momentum(kept, executor(*args, **kwargs))
    )


def by_calc_cond_batch(model, kept):
    def wrapper(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        return [momentum(kept, out[0]), *out[1:]]

    model.add_wrapper_with_key("calc_cond_batch", "aaa", wrapper)


PLACES = [by_post_cfg, by_pre_cfg, by_cfg, by_batch_function, by_predict_noise, by_calc_cond_batch]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral_cfg_pp"])
def test_what_is_kept_for_each_row(host, model, plans, place, sampler):
    """Momentum of every kind: the rows of all prompts are there at each call, and split as the prompts do."""

    def attached():
        patched = model.clone()
        place(patched, {})
        return patched

    if sampler == "euler":
        samples, _ = shared(host, attached(), plans.none)
        for i in (0, N - 1):
            assert torch.equal(samples[i : i + 1], alone(host, attached(), i))
        assert not torch.equal(samples, shared(host, model, plans.none)[0])
    samples, report = shared(host, attached(), plan_of_pairs(), PAIRED, sampler)
    assert all(torch.equal(samples[i], samples[i + 1]) for i in (0, 2, 4))
    assert "⚠" not in report


def counts_in_post_cfg(model, seen):
    def count(args):
        seen.append(keeps_in_options(args["model_options"]["transformer_options"]))
        return args["denoised"] * (1 + 0.01 * seen[-1])

    model.set_model_sampler_post_cfg_function(count)


def counts_in_model_options(model, seen):
    def count(args):
        seen.append(keeps_in_options(args["model_options"]))
        return args["denoised"] * (1 + 0.01 * seen[-1])

    model.set_model_sampler_post_cfg_function(count)


def counts_in_predict_noise(model, seen):
    def count(executor, x, timestep, model_options, *args, **kwargs):
        seen.append(keeps_in_options(model_options["transformer_options"]))
        return executor(x, timestep, model_options, *args, **kwargs) * (1 + 0.01 * seen[-1])

    model.add_wrapper_with_key("predict_noise", "aaa", count)


def counts_in_sampler(model, seen):
    """A SAMPLER_SAMPLE wrapper sees the options that all calls of the run will have."""

    def wrapper(executor, guider, sigmas, extra_args, *args, **kwargs):
        out = executor(guider, sigmas, extra_args, *args, **kwargs)
        seen.extend(range(1, 1 + extra_args["model_options"]["transformer_options"]["kept by a pack"]["calls"]))
        return out

    counts_in_post_cfg(model, [])
    model.add_wrapper_with_key("sampler_sample", "aaa", wrapper)


@pytest.mark.parametrize(
    "attach", [counts_in_post_cfg, counts_in_model_options, counts_in_predict_noise, counts_in_sampler]
)
def test_what_is_kept_in_the_options_of_a_run(host, model, plans, attach):
    def attached(seen):
        patched = model.clone()
        attach(patched, seen)
        return patched

    for plan in (plans.none, plans.shared):
        seen = []
        samples, _ = shared(host, attached(seen), plan)
        assert seen == list(range(1, K + 1))
        seen.clear()
        shared(host, attached(seen), plan)
        assert seen == list(range(1, K + 1))  # a run of its own
        if plan is plans.none:
            assert torch.equal(samples[:1], alone(host, attached([]), 0))


def test_outer_wrappers_and_callbacks(host, model, plans):
    heard = collections.Counter()

    def around(name, executor, *args, **kwargs):
        heard[name] += 1
        return executor(*args, **kwargs)

    patched = model.clone()
    for kind in ("outer_sample", "sampler_sample", "prepare_sampling"):
        patched.add_wrapper_with_key(kind, "aaa", functools.partial(around, kind))
    for kind in ("on_pre_run", "on_cleanup"):
        patched.add_callback_with_key(kind, "aaa", lambda *_, kind=kind: heard.update([kind]))
    samples, _ = shared(host, patched, plans.shared)
    assert set(heard.values()) == {1}
    assert len(heard) == 5
    assert torch.equal(samples, shared(host, model, plans.shared)[0])


# --- Functions that read what the model recorded ----------------------------------------------------------------------


def recorder_in_a_variable(model):
    scores = None

    def record(q, k, v, options):
        nonlocal scores
        scores = v.mean(dim=(1, 2)).chunk(len(options["cond_or_uncond"]))[0]
        return v

    def read(args):
        return args["denoised"] * (1 + 0.1 * scores[:, None, None, None])

    model.set_model_attn1_replace(record, "middle", 0, 0)
    model.set_model_sampler_post_cfg_function(read)


def recorder_in_a_dict(model):
    kept = {}

    def record(h, options):
        kept["h"] = h.mean(dim=(1, 2, 3)).chunk(len(options["cond_or_uncond"]))[0]
        return h

    def read(args):
        cond, *others = args["conds_out"]
        return [cond * (1 + 0.1 * kept["h"][:, None, None, None]), *others]

    model.set_model_input_block_patch(record)
    model.set_model_sampler_pre_cfg_function(read)


class Recorder:
    """Methods of one object, one of which is a step away from what is attached."""

    def __init__(self):
        self.rows = []

    def record(self, apply_model, args):
        out = apply_model(args["input"], args["timestep"], **args["c"])
        self.note(out, len(args["cond_or_uncond"]))
        return out

    def note(self, out, sides):
        self.rows = out.mean(dim=(1, 2, 3)).chunk(sides)[0]

    def read(self, args):
        cond, uncond = args["cond"], args["uncond"]
        return uncond + (cond - uncond) * args["cond_scale"] * (1 + 0.1 * self.rows[:, None, None, None])


def recorder_in_an_object(model):
    recorder = Recorder()
    model.set_model_unet_function_wrapper(recorder.record)
    model.set_model_sampler_cfg_function(recorder.read)


def recorder_in_a_partial(model):
    recorder = Recorder()
    model.set_model_unet_function_wrapper(functools.partial(Recorder.record, recorder))
    model.set_model_sampler_cfg_function(functools.partial(Recorder.read, recorder))


RECORDED = {}


def recorder_in_the_module(model):
    def record(executor, x, *args, **kwargs):
        out = executor(x, *args, **kwargs)
        RECORDED.update(rows=out.mean(dim=(1, 2, 3)).chunk(2)[0])
        return out

    def read(args):
        return args["denoised"] * (1 + 0.1 * RECORDED["rows"][:, None, None, None])

    model.add_wrapper_with_key("apply_model", "aaa", record)
    model.set_model_sampler_post_cfg_function(read)


RECORDERS = [
    recorder_in_a_variable,
    recorder_in_a_dict,
    recorder_in_an_object,
    recorder_in_a_partial,
    recorder_in_the_module,
]


@pytest.mark.parametrize("attach", RECORDERS)
def test_functions_get_the_rows_that_were_recorded(host, model, plans, attach):
    patched = model.clone()
    attach(patched)
    assert_works(host, patched, plans)


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "heun", "dpmpp_2m_sde"])
def test_a_samplers_own_functions_get_all_rows(host, model, plans, sampler):
    """CFG++ samplers take the unguided prediction of every row from a function after the guidance."""
    patched = patched_by("nodes_sag", "SelfAttentionGuidance", model, 0.5, 2.0)
    if sampler == "dpmpp_2m_sde":
        samples, _ = shared(host, patched, plan_of_pairs(), PAIRED, sampler)
        assert all(torch.equal(samples[i], samples[i + 1]) for i in (0, 2, 4))
    else:
        assert_works(host, patched, plans, sampler)


def test_momentum_after_a_recorder_has_all_rows(host, model, plans):
    def attached():
        patched = model.clone()
        recorder_in_a_variable(patched)
        by_post_cfg(patched, {})
        return patched

    samples, _ = shared(host, attached(), plans.none)
    assert torch.equal(samples[N - 1 :], alone(host, attached(), N - 1))


def test_momentum_before_a_recorder_is_refused_by_name(host, model, plans):
    patched = model.clone()
    by_post_cfg(patched, {})
    recorder_in_a_variable(patched)
    with pytest.raises(ValueError, match=r"by_post_cfg .*keeps something from one call"):
        shared(host, patched, plans.shared)


def test_what_two_functions_only_read_is_no_recorder(host, model, plans):
    """Settings that a patch and a function share: the function has all rows."""
    settings, seen = {"scale": 0.9}, []

    def scale(h, options):
        return h * settings["scale"]

    def after(args):
        seen.append(len(args["denoised"]))
        return args["denoised"] * settings["scale"]

    patched = model.clone()
    patched.set_model_input_block_patch(scale)
    patched.set_model_sampler_post_cfg_function(after)
    shared(host, patched, plans.shared)
    assert seen == [N] * K


# --- Conditioning that is made anew at each call ----------------------------------------------------------------------


@pytest.mark.parametrize("kept_on_device", [False, True])
def test_conditioning_of_each_call_is_not_kept(host, model, plans, monkeypatch, kept_on_device):
    """As the deprecated Perp-Neg node encodes its own conditioning at each call, here for each prompt."""
    samplers, made, living = host.samplers, [], []
    if kept_on_device:
        monkeypatch.setattr(host.calls.ModelCalls, "_kept_on", kept_on_cpu(host.calls))
    for name in ("reduced_cond", "cond_on_device"):
        monkeypatch.setattr(host.calls, name, noting(getattr(host.calls, name), made))

    def after(args):
        living.append(sum(ref() is not None for ref in made))
        raw = samplers.comfy.sampler_helpers.convert_cond([[torch.randn(N, 7, 16), {}]])
        cond = samplers.encode_model_conds(args["model"].extra_conds, raw, args["input"], args["input"].device, "other")
        (other,) = samplers.calc_cond_batch(args["model"], [cond], args["input"], args["sigma"], args["model_options"])
        return args["denoised"] + 0.0 * other

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(after)
    shared(host, patched, plan_of_pairs(), PAIRED)
    assert len(living) == K
    assert living[-1] == living[3] > 0
    assert len(made) > K


def noting(make, made):
    """A function whose results' tensors are noted without being held."""

    def note(*args):
        entry = make(*args)
        made.append(weakref.ref(entry["model_conds"]["c_crossattn"].cond))
        return entry

    return note


def kept_on_cpu(calls):
    """`ModelCalls._kept_on`, as on a GPU with memory to spare."""
    original = calls.ModelCalls._kept_on

    def kept_on(self, conds, device, model):
        self._stays = True
        return original(self, conds, device, model)

    return kept_on


def test_conditioning_that_stays_is_made_once(host, model, plans, monkeypatch):
    made = []
    reduced = host.calls.reduced_cond

    def counted(entry, clusters, *args):
        made.append(len(clusters.first))
        return reduced(entry, clusters, *args)

    monkeypatch.setattr(host.calls, "reduced_cond", counted)
    shared(host, model, plans.shared)
    sizes = sorted({count for count in plans.shared.clusters_per_step if count < N})
    assert sorted(made) == [count for count in sizes for _ in range(2)]  # for each side


# --- Rows that another node has changed -------------------------------------------------------------------------------


def test_who_changes_the_rows_is_named(host, model, plans):
    def halves(executor, model, conds, x, timestep, options, *args, **kwargs):
        parts = [
            executor(model, conds, x[rows], timestep[rows], options, *args, **kwargs)
            for rows in (slice(0, 3), slice(3, 6))
        ]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    patched = model.clone()
    patched.add_wrapper_with_key("calc_cond_batch", "aaa", halves)
    with pytest.raises(ValueError, match=r"called with 3 rows.*changes the rows \(\S+ \(halves\) of \S+test_patches\)"):
        shared(host, patched, plans.shared)


def test_a_guider_that_calls_the_model_twice(host, model, plans):
    """As the newer host's guider of two models does, each with conditioning of its own."""

    class TwoCalls(host.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            calls = [
                host.samplers.calc_cond_batch(self.inner_model, [self.conds[side]], x, timestep, model_options)[0]
                for side in ("positive", "negative")
            ]
            return host.samplers.cfg_function(self.inner_model, *calls, self.cfg, x, timestep, model_options)

    def run(model, sides, rows=1):
        guider = TwoCalls(model)
        guider.set_conds(*sides)
        guider.set_cfg(4.0)
        euler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, model, "euler")
        return guider.sample(one_noise(host, 1), torch.zeros(1, 4, 8, 8), euler, sigmas, disable_pbar=True, seed=SEED)

    samples = run(shared_model(host, model, plans.none)[0], SIDES)
    for i in (0, N - 1):
        own = [host.rows.rows_of(side, [i], N, "") for side in SIDES]
        assert torch.equal(samples[i : i + 1], run(model, own))
    recorded = model.clone()
    recorder_in_a_variable(recorded)
    samples = run(shared_model(host, recorded, plans.none)[0], SIDES)
    assert torch.equal(samples[:1], run(recorded, [host.rows.rows_of(side, [0], N, "") for side in SIDES]))
