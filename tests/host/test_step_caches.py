"""The host's two step caches beside shared steps: EasyCache and LazyCache follow the branches."""

import contextlib
import importlib
import math
import re
import types

import numpy as np
import pytest
import torch
from shared_runs import (
    ENDS,
    SEED,
    N,
    one_negative,
    one_noise,
    positive_of,
    shared_model,
    vectors_of_prompts,
)

from hierdiff_core import build_plan, linear_thresholds, ward_linkage

pytestmark = pytest.mark.host

STEPS = 12


@pytest.fixture(scope="module")
def caches(host):
    return importlib.import_module("comfy_extras.nodes_easycache")


@pytest.fixture(scope="module")
def vectors():
    return vectors_of_prompts()


@pytest.fixture(scope="module")
def sides(vectors):
    return positive_of(vectors), one_negative()


def plan_of(vectors, tau):
    """A plan for all steps; `tau` in heights of the root."""
    Z = ward_linkage(vectors)
    return build_plan(Z, linear_thresholds(STEPS, tau * float(Z[-1, 2])), range(100, 100 + len(vectors)))


@pytest.fixture(scope="module")
def plans(vectors):
    found = types.SimpleNamespace(none=plan_of(vectors, 0), shared=plan_of(vectors, 1.2))
    assert len(set(found.shared.clusters_per_step)) > 3
    return found


def easy(caches, model, threshold=0.2, end=0.95):
    return caches.EasyCacheNode.execute(model, threshold, 0.1, end, False).args[0]


def lazy(caches, model, threshold=0.2, end=0.95):
    return caches.LazyCacheNode.execute(model, threshold, 0.1, end, False).args[0]


def both_orders(caches, cache, host, model, plan, order, **options):
    """A cache before Share Steps, or behind it."""
    if order == "cache first":
        return shared_model(host, cache(caches, model), plan, **options)
    patched, reports = shared_model(host, model, plan, **options)
    return cache(caches, patched), reports


def sample(host, model, sides, sampler="euler", cfg=4.0, rows=1):
    positive, negative = sides
    options = {"disable_pbar": True, "seed": SEED}
    latents = torch.zeros(rows, 4, 8, 8)
    noise = one_noise(host, rows)
    return host.sample.sample(model, noise, STEPS, cfg, sampler, "normal", positive, negative, latents, **options)


def alone(host, model, sides, i, **options):
    """The host's result for one prompt."""
    return sample(host, model, [host.rows.rows_of(side, [i], N, "") for side in sides], **options)


def answered(report, name):
    """Rows that a report says a cache answered; 0 where it says nothing."""
    found = re.search(rf"{name} answered (\d+) further rows without the model", report)
    return int(found[1]) if found else 0


def rows_of_report(report):
    return int(re.search(r"model rows: (\d+) instead", report)[1])


class Counted:
    """A model that counts the rows that its network evaluates: innermost, where no cache of the host is in the way."""

    def __init__(self, model):
        self.model = model.clone()
        self.rows = []
        self.model.set_model_unet_function_wrapper(self)
        network = self.model.model.diffusion_model
        self.network, self.forward = network, network._forward

    def __enter__(self):
        def counting(x, *args, **kwargs):
            self.rows.append(len(x))
            return self.forward(x, *args, **kwargs)

        self.network._forward = counting
        return self

    def __exit__(self, *_):
        del self.network._forward

    def __call__(self, apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"])


def row_by_row(model, change=None):
    """The host's batch, the network called for one prompt at a time: no bit of a row depends on the others.

    ``change(args)`` may put other conditioning into the call.
    """

    def call(apply_model, args):
        x, t, c, sides = args["input"], args["timestep"], dict(args["c"]), len(args["cond_or_uncond"])
        context = change(args) if change else c["c_crossattn"]
        n = len(x) // sides
        out = torch.empty_like(x)
        for i in range(n):
            rows = torch.arange(sides) * n + i
            out[rows] = apply_model(x[rows], t[rows], **{**c, "c_crossattn": context[rows]})
        return out

    patched = model.clone()
    patched.set_model_unet_function_wrapper(call)
    return patched


# --- EasyCache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "cfg", "order"),
    [
        ("euler", 4.0, "cache first"),
        ("euler", 4.0, "sharing first"),
        ("euler", 1.0, "cache first"),
        ("dpmpp_2m", 4.0, "cache first"),
        ("heun", 4.0, "sharing first"),
    ],
)
def test_easycache_without_sharing_is_the_hosts_for_each_prompt(host, caches, model, plans, sides, sampler, cfg, order):
    """Also with CFG 1, where there is no negative pass."""
    patched, reports = both_orders(caches, easy, host, model, plans.none, order)
    samples = sample(host, patched, sides, sampler=sampler, cfg=cfg)
    (report,) = reports
    assert answered(report, "EasyCache") > 0 < rows_of_report(report)
    cached = easy(caches, model)
    for i in ENDS:
        assert torch.equal(samples[i : i + 1], alone(host, cached, sides, i, sampler=sampler, cfg=cfg))


def test_prompts_skip_each_their_own_steps(host, caches, model, plans, sides, caplog):
    """A prompt that changes fast computes where the others skip; else the test above would say little."""
    caplog.set_level("INFO")
    counts = []
    for i in range(N):
        caplog.clear()
        alone(host, easy(caches, model), sides, i)
        counts.append(re.search(r"skipped (\d+)/", caplog.text)[1])
    assert len(set(counts)) > 1


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_pairs_of_equal_prompts_are_shared_without_loss(host, caches, model, vectors, sampler):
    twice = vectors[[0, 0, 1, 1, 2, 2]]
    sides = positive_of(twice), one_negative()
    plan = plan_of(twice, 0)
    assert plan.clusters_per_step[0] == 3
    patched, reports = shared_model(host, easy(caches, model), plan)
    samples = sample(host, patched, sides, sampler=sampler)
    for i in range(N):
        assert torch.equal(samples[i : i + 1], alone(host, easy(caches, model), sides, i, sampler=sampler))
    assert answered(reports[0], "EasyCache") > 0


def means_of(host, plan, vectors, k):
    """The conditioning of each prompt in a step: the mean of its cluster."""
    clusters = host.clusters.in_prompt_order(plan.steps[k])
    return host.rows.reduced_rows(positive_of(vectors)[0][0], clusters, "")[clusters.labels]


def split_at(plan, k, i):
    """Whether the cluster of a prompt is smaller than in the step before."""
    sizes = [int((plan.steps[step].labels == plan.steps[step].labels[i]).sum()) for step in (max(k - 1, 0), k)]
    return sizes[0] > sizes[1]


def step_now(host, model, args):
    """The step of a call, of a sampler that calls the model once for each."""
    sigmas = host.samplers.KSampler(model, STEPS, "cpu", "euler", "normal", 1.0).sigmas
    return int((sigmas >= float(args["timestep"][0]) * 0.999999).sum()) - 1


def must_compute(holder, split):
    """The next call computes where a cluster splits, and no later one for that reason."""
    if split:
        holder.cumulative_change_rate = math.inf
    elif holder.cumulative_change_rate == math.inf:
        holder.cumulative_change_rate = 0.0


def branch_alone(host, caches, model, plan, vectors, sides, i):
    """The host's result for one prompt that is given the means of its clusters, and where the cache must compute."""

    def change(args):
        k, c = step_now(host, model, args), args["c"]
        context = c["c_crossattn"].clone()
        context[args["cond_or_uncond"].index(0)] = means_of(host, plan, vectors, k)[i]
        must_compute(c["transformer_options"]["easycache"], split_at(plan, k, i))
        return context

    return alone(host, row_by_row(easy(caches, model), change), sides, i)


def test_easycache_follows_the_branches(host, caches, model, plans, vectors, sides):
    """Each picture is what the host makes of its branch alone: of no other row, and with what the trunk remembered."""
    patched, reports = shared_model(host, easy(caches, model), plans.shared)
    samples = sample(host, patched, sides)
    for i in range(N):
        assert torch.equal(samples[i : i + 1], branch_alone(host, caches, model, plans.shared, vectors, sides, i)), i
    assert answered(reports[0], "EasyCache") > 0
    assert len({row.numpy().tobytes() for row in samples}) == N


def test_a_split_in_the_last_step_is_computed(host, caches, model, vectors, sides):
    """A cache that skips whatever it may must not leave two prompts with one picture."""
    Z = ward_linkage(vectors)
    plan = build_plan(Z, [float(Z[-1, 2]) * 2] * (STEPS - 1) + [0.0], range(100, 100 + N))
    assert list(plan.clusters_per_step) == [1] * (STEPS - 1) + [N]
    for cache in (easy, lazy):
        patched, _ = shared_model(host, cache(caches, model, threshold=3.0, end=1.0), plan)
        samples = sample(host, patched, sides)
        assert len({row.numpy().tobytes() for row in samples}) == N


# --- Micro-batches ---------------------------------------------------------------------------------------------------


def micro_batches(host, monkeypatch, rows):
    """As on a GPU: several rows in a call."""
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    return {"micro_batch": rows}


def test_all_rows_in_one_call_are_the_hosts_batch(host, caches, model, plans, sides, monkeypatch):
    options = micro_batches(host, monkeypatch, 0)
    patched, reports = shared_model(host, easy(caches, model), plans.none, **options)
    samples = sample(host, patched, sides)
    assert torch.equal(samples, sample(host, easy(caches, model), sides, rows=N))
    assert answered(reports[0], "EasyCache") % N == 0 != answered(reports[0], "EasyCache")


@pytest.mark.parametrize("rows", [2, 4, 5, 0])
def test_micro_batches_agree_with_one_row_at_a_time(host, caches, model, vectors, sides, monkeypatch, rows):
    """All clusters split at once and the cache skips whatever it may: then it decides the same for every grouping."""
    Z = ward_linkage(vectors)
    heights = Z[:, 2]
    middle = float(heights[2] + heights[3]) / 2
    plan = build_plan(Z, [middle] * 6 + [0.0] * (STEPS - 6), range(100, 100 + N))
    assert list(plan.clusters_per_step) == [3] * 6 + [N] * (STEPS - 6)
    expected = sample(host, shared_model(host, easy(caches, model, 3.0), plan)[0], sides)
    patched, reports = shared_model(host, easy(caches, model, 3.0), plan, **micro_batches(host, monkeypatch, rows))
    torch.testing.assert_close(sample(host, patched, sides), expected, atol=1e-4, rtol=1e-4)
    assert answered(reports[0], "EasyCache") > plan.nfe / 2


@pytest.mark.parametrize("where", ["before the cache", "behind the cache"])
def test_calls_that_failed_for_memory_leave_no_trace(host, caches, model, plans, sides, monkeypatch, where):
    """They are halved until one row fits, and then it is as if there had been one from the first."""
    expected = sample(host, shared_model(host, easy(caches, model), plans.none)[0], sides)
    failing, failed = model.clone(), []

    def fail(x):
        if len(x) > 2:  # with the negative
            failed.append(len(x) // 2)
            raise torch.OutOfMemoryError("out of memory")

    def before(apply_model, args):
        fail(args["input"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    def behind(executor, x, *args, **kwargs):
        fail(x)
        return executor(x, *args, **kwargs)

    if where == "before the cache":
        failing.set_model_unet_function_wrapper(before)
    failing = easy(caches, failing)
    if where == "behind the cache":
        failing.add_wrapper_with_key("diffusion_model", "fails", behind)
    options = micro_batches(host, monkeypatch, 0)
    assert torch.equal(sample(host, shared_model(host, failing, plans.none, **options)[0], sides), expected)
    assert failed == [6, 3]


class Holder:
    """What a cache keeps, with a row for each cluster but for the numbers."""

    def __init__(self, rows, rate=0.0):
        self.rows = None if rows is None else torch.tensor(rows)[:, None]
        self.by_uuid = {} if rows is None else {"a": self.rows * 10}
        self.cumulative_change_rate, self.norm, self.skip_current_step = rate, torch.tensor(1.0), True


def test_rows_of_several_calls_come_together(host, pack):
    states = importlib.import_module(f"{pack.__name__}.nodes.host.row_states").RowStates(Holder(None), 3)
    for rows, found in (([0, 1], [1, 2]), ([2], [3])):
        with states.of_call(rows) as state:
            assert state.rows is None
            assert not state.skip_current_step
            vars(state).update(vars(Holder(found, rate=0.5)))
    states.follow(np.array([0, 0, 1, 2]))  # the first splits
    with states.of_call([0, 1]) as state:
        assert state.rows[:, 0].tolist() == [1, 1]
        assert state.by_uuid["a"][:, 0].tolist() == [10, 10]
        assert math.isinf(state.cumulative_change_rate)  # it must compute
        state.cumulative_change_rate = 0.25
    with states.of_call([2, 3]) as state:  # of two calls
        assert state.rows[:, 0].tolist() == [2, 3]
        assert math.isinf(state.cumulative_change_rate)
    with states.of_call([0, 1]) as state:  # again, now as it is
        assert state.cumulative_change_rate == 0.25
    with contextlib.suppress(torch.OutOfMemoryError), states.of_call([0, 1]) as state:
        state.norm += 1
        state.rows, state.cumulative_change_rate = None, 7.0
        raise torch.OutOfMemoryError
    with states.of_call([1]) as state:  # the failed call has left no trace
        assert state.rows[:, 0].tolist() == [1]
        assert (state.cumulative_change_rate, float(state.norm)) == (0.25, 1.0)


# --- LazyCache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["cache first", "sharing first"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_lazycache_without_sharing_is_the_hosts_batch(host, caches, model, plans, sides, sampler, order):
    """It decides for the whole batch, with or without sharing."""
    patched, reports = both_orders(caches, lazy, host, model, plans.none, order)
    samples = sample(host, patched, sides, sampler=sampler)
    assert torch.equal(samples, sample(host, lazy(caches, row_by_row(model)), sides, sampler=sampler, rows=N))
    assert answered(reports[0], "LazyCache") > 0


def test_lazycache_of_one_prompt_is_the_hosts(host, caches, model, vectors, sides):
    one = [host.rows.rows_of(side, [2], N, "") for side in sides]
    plan = build_plan(np.empty((0, 4)), linear_thresholds(STEPS, 0.0), [1])
    samples = sample(host, shared_model(host, lazy(caches, model), plan)[0], one)
    assert torch.equal(samples, alone(host, lazy(caches, model), sides, 2))


def test_lazycache_shares_pairs_without_loss(host, caches, model, vectors):
    twice = vectors[[0, 0, 1, 1, 2, 2]]
    sides = positive_of(twice), one_negative()
    samples = sample(host, shared_model(host, lazy(caches, model), plan_of(twice, 0))[0], sides)
    assert torch.equal(samples, sample(host, lazy(caches, row_by_row(model)), sides, rows=N))


@pytest.mark.parametrize("order", ["cache first", "sharing first"])
def test_lazycache_computes_where_clusters_split(host, caches, model, plans, vectors, sides, order):
    patched, reports = both_orders(caches, lazy, host, model, plans.shared, order)
    samples = sample(host, patched, sides)

    def change(args):
        context, k = args["c"]["c_crossattn"].clone(), step_now(host, model, args)
        cond = args["cond_or_uncond"].index(0)
        context[cond * N : (cond + 1) * N] = means_of(host, plans.shared, vectors, k)
        return context

    def at_splits(executor, x, timestep, model_options, *args):
        k = step_now(host, model, {"timestep": timestep})
        split = any(split_at(plans.shared, k, i) for i in range(N))
        must_compute(model_options["transformer_options"]["easycache"], split)
        return executor(x, timestep, model_options, *args)

    expecting = model.clone()
    expecting.add_wrapper_with_key("predict_noise", "splits", at_splits)
    expected = sample(host, lazy(caches, row_by_row(expecting, change)), sides, rows=N)
    assert torch.equal(samples, expected)
    assert answered(reports[0], "LazyCache") > 0


# --- What is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cache", "name"), [(easy, "EasyCache"), (lazy, "LazyCache")])
@pytest.mark.parametrize("order", ["cache first", "sharing first"])
def test_report_counts_the_rows_that_were_evaluated(host, caches, model, plans, sides, cache, name, order, caplog):
    caplog.set_level("INFO")
    with Counted(model) as counted:
        patched, reports = both_orders(caches, cache, host, counted.model, plans.shared, order)
        sample(host, patched, sides)
    evaluated = sum(counted.rows) // 2  # with the negative
    assert rows_of_report(reports[0]) == evaluated
    assert evaluated + answered(reports[0], name) == plans.shared.nfe
    skipped = int(re.search(rf"{name} - skipped (\d+)/{STEPS} steps", caplog.text)[1])
    assert skipped > 0


def test_calls_without_any_row_are_not_counted(host, caches, model, plans, sides):
    with Counted(model) as counted:
        patched, reports = shared_model(host, lazy(caches, counted.model), plans.none)
        sample(host, patched, sides)
    assert f"{STEPS} steps, {len(counted.rows) // N} model calls" in reports[0]


@pytest.mark.parametrize("cache", [easy, lazy])
@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_tree_ends_with_what_the_report_says(host, pack, caches, model, plans, sides, cache, sampler, monkeypatch):
    live_tree = importlib.import_module(f"{pack.__name__}.nodes.host.live_tree")
    ended = []
    leave = live_tree.LiveTree.__exit__

    def recorded(tree, *args):
        ended.append(dict(tree.progress))
        return leave(tree, *args)

    monkeypatch.setattr(live_tree.LiveTree, "__exit__", recorded)
    patched, reports = shared_model(host, cache(caches, model), plans.shared, show_tree=True)
    sample(host, patched, sides, sampler=sampler)
    (end,) = ended
    assert end["rows"] == rows_of_report(reports[0]) < plans.shared.nfe
    assert (end["step"], end["clusters"]) == (STEPS, N)
