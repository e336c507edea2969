"""The loop, with denoisers that are a line of algebra."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import Plan, Step, build_plan, linear_thresholds, ward_linkage
from hierdiff_core.plan.algebra import attach, removed
from hierdiff_core.plan.part import Part, below, whole
from hierdiff_core.sampling.loop import denoise_part, denoise_plan
from hierdiff_core.sampling.observer import Callbacks
from hierdiff_core.sampling.pooling import cluster_means, rescaled_means
from hierdiff_core.sampling.state import State

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

START = torch.tensor([[1.0, -2.0, 0.5]])


def denoise(latents, k, embeddings):
    """Not linear, different at every step, moved by both embeddings."""
    positive, negative = embeddings
    return torch.sin(latents * (k + 1)) + positive - 0.3 * negative


def run(denoise, plan, embeddings, rescale_means=False, *, first=START, most_rows=None, on_finished=None):
    """Algorithm 1 with a denoiser that remembers nothing and asks for no labels."""

    def step(rows, k, clusters, means, state):
        return denoise(rows, k, means), state

    pool = rescaled_means if rescale_means else cluster_means
    observer = Callbacks(on_finished=on_finished)
    return denoise_plan(plan, first, State(), step, embeddings, pool=pool, most_rows=most_rows, observer=observer)


@st.composite
def prompt_sets(draw):
    """(2, N, 3) embeddings, some rows equal, and a plan for them that shares."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 10))
    rows = rng.normal(size=(n + draw(st.integers(0, 3)), 2, 3))
    rows[n:] = rows[rng.integers(n, size=len(rows) - n)]
    embeddings = torch.from_numpy(rows.astype(np.float32)).transpose(0, 1)
    return embeddings, draw(st.integers(1, 8)), draw(st.floats(0, 3))


def plan_of(embeddings, num_steps, tau):
    return build_plan(ward_linkage(embeddings[0]), linear_thresholds(num_steps, tau))


def members_that_differ(plan, step):
    """Indices of the prompts of each cluster, without those that equal another."""
    return [np.intersect1d(rows, plan.distinct) for rows in step.members]


@given(prompt_sets())
def test_without_sharing_the_result_is_that_of_independent_runs(prompt_set):
    embeddings, num_steps, _ = prompt_set
    together = run(denoise, plan_of(embeddings, num_steps, 0), embeddings)
    for i in range(embeddings.shape[1]):
        x = START
        for k in range(num_steps):
            x = denoise(x, k, embeddings[:, i : i + 1])
        assert torch.equal(together[i], x[0])


@given(prompt_sets())
def test_sharing_equals_carrying_every_prompt_with_its_clusters_mean(prompt_set):
    embeddings, num_steps, tau = prompt_set
    plan = plan_of(embeddings, num_steps, tau)
    x = START.repeat(plan.num_prompts, 1)
    for k, step in enumerate(plan.steps):
        means = [embeddings[:, rows].double().mean(dim=1).float() for rows in members_that_differ(plan, step)]
        x = denoise(x, k, torch.stack(means, dim=1)[:, step.labels])
    torch.testing.assert_close(run(denoise, plan, embeddings), x, rtol=1e-4, atol=1e-5)


@given(prompt_sets(), st.randoms(use_true_random=False))
def test_order_of_the_prompts_does_not_change_their_latents(prompt_set, random):
    embeddings, num_steps, tau = prompt_set
    order = list(range(embeddings.shape[1]))
    random.shuffle(order)
    latents = run(denoise, plan_of(embeddings, num_steps, tau), embeddings)
    permuted = embeddings[:, order]
    assert torch.equal(run(denoise, plan_of(permuted, num_steps, tau), permuted), latents[order])


@given(prompt_sets())
def test_equal_prompts_get_equal_latents_and_only_they(prompt_set):
    embeddings, num_steps, tau = prompt_set
    latents = run(denoise, plan_of(embeddings, num_steps, tau), embeddings)
    for i in range(len(latents)):
        for j in range(i):
            assert torch.equal(latents[i], latents[j]) == torch.equal(embeddings[:, i], embeddings[:, j])


@given(prompt_sets(), st.booleans(), st.sampled_from([None, 2]))
def test_prompts_that_are_named_twice_change_no_picture(prompt_set, rescale_means, most_rows):
    embeddings, num_steps, tau = prompt_set
    plan = plan_of(embeddings, num_steps, tau)
    once = embeddings[:, plan.distinct]
    expected = run(denoise, plan_of(once, num_steps, tau), once, rescale_means, most_rows=most_rows)
    latents = run(denoise, plan, embeddings, rescale_means, most_rows=most_rows)
    assert torch.equal(latents[plan.distinct], expected)


@given(prompt_sets())
def test_rescaled_means_are_given_to_shared_branches_alone(prompt_set):
    embeddings, num_steps, tau = prompt_set
    alone = plan_of(embeddings, num_steps, 0)
    plain, rescaled = (run(denoise, alone, embeddings, flag) for flag in (False, True))
    torch.testing.assert_close(plain, rescaled, rtol=1e-4, atol=1e-5)  # members of a cluster are equal
    plan, seen = plan_of(embeddings, num_steps, tau), []
    run(lambda x, k, means: seen.append((k, means)) or x, plan, embeddings, True)
    for k, means in seen:
        members = members_that_differ(plan, plan.steps[k])
        lengths = [embeddings[:, rows].norm(dim=-1).mean(dim=1) for rows in members]
        torch.testing.assert_close(means.norm(dim=-1), torch.stack(lengths, dim=1))


def test_latents_are_copied_from_the_parents():
    # heights 0.12 (prompts 0 and 1), 0.20 (2 and 3), 0.35 (all)
    Z = np.array([[0, 1, 0.12, 2], [2, 3, 0.20, 2], [4, 5, 0.35, 4]])
    plan = build_plan(Z, [0.40, 0.25, 0.15, 0])
    received = []

    def write_down(latents, k, embeddings):
        """Latents that say which prompts' embeddings they have met, as decimal digits."""
        received.append(latents.flatten().tolist())
        return latents * 100 + embeddings[0]

    embeddings = torch.tensor([[[1.0], [3.0], [5.0], [7.0]]] * 2)
    latents = run(write_down, plan, embeddings, first=torch.zeros(1, 1))
    assert [sorted(row) for row in received] == [[0], [4, 4], [402, 406, 406], [40202, 40202, 40605, 40607]]
    assert latents.flatten().tolist() == [4020201, 4020203, 4060505, 4060707]


def test_clusters_may_be_numbered_in_any_order():
    halves = Step(np.array([1, 0, 1, 0]), np.array([1, 0]), np.array([2, 2]), parents=np.array([0, 0]))
    each = Step(np.array([0, 1, 3, 2]), np.array([0, 1, 3, 2]), np.ones(4, dtype=int), parents=np.array([1, 0, 0, 1]))
    plan = Plan(np.array([1.0, 0.0]), (halves, each))
    embeddings = torch.tensor([[[1.0], [3.0], [5.0], [7.0]]] * 2)
    latents = run(lambda x, k, means: x * 10 + means[0], plan, embeddings, first=torch.zeros(1, 1))
    assert latents.flatten().tolist() == [31, 53, 35, 57]


def test_denoiser_sees_one_row_for_each_cluster_of_its_step():
    embeddings = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    plan = plan_of(embeddings, 6, 2.0)
    seen = []

    def look(latents, k, means):
        seen.append((k, len(latents), tuple(means.shape)))
        return latents

    assert run(look, plan, embeddings).shape == (9, 3)
    assert seen == [(k, n, (2, n, 4)) for k, n in enumerate(plan.clusters_per_step)]
    assert plan.nfe < 9 * 6


def test_embeddings_of_another_set_are_refused():
    plan = plan_of(torch.randn(2, 4, 3), 3, 1.0)
    with pytest.raises(ValueError, match="the plan is for 4 prompts, but there are 3 embeddings"):
        run(denoise, plan, torch.randn(2, 3, 3))


def forbidden(*_):
    pytest.fail("a step was run")


@pytest.mark.parametrize(
    ("most_rows", "message"),
    [(0, "at least 1; got 0"), (-1, "at least 1; got -1"), (1.5, "a whole number; got 1.5"), ("2", "a whole number")],
)
def test_parts_of_no_rows_are_refused_before_a_step_runs(most_rows, message):
    embeddings = torch.randn(2, 4, 3)
    with pytest.raises(ValueError, match=f"most_rows must be {message}"):
        run(forbidden, plan_of(embeddings, 3, 1.0), embeddings, most_rows=most_rows)


def test_plan_that_prompts_were_removed_from_needs_the_embeddings_of_those_that_are_gone():
    embeddings = torch.randn(2, 4, 3)
    plan = build_plan(plan_of(embeddings, 3, 1.0).Z, [9.0, 0.0], [1, 2, 3, 4])
    message = "the plan is for 3 prompts and 1 that are gone, but there are 3 embeddings"
    with pytest.raises(ValueError, match=message):
        run(forbidden, removed(plan, 0), embeddings[:, 1:])


@given(prompt_sets(), st.data())
def test_branches_of_a_plan_that_is_changed_stay_bit_identical(prompt_set, data):
    """Whoever joins or goes: the latents of all others are those of the first plan."""
    embeddings, num_steps, tau = prompt_set
    count = embeddings.shape[1]
    Z = ward_linkage(embeddings[0])
    plan = build_plan(Z, linear_thresholds(num_steps, tau), [10 * i + 5 for i in range(count)])
    leaves, expected, names = embeddings, run(denoise, plan, embeddings), list(range(count))
    most_rows = data.draw(st.sampled_from([None, 2]), label="most rows")
    changes = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=4), label="changes")
    for place, change in enumerate(changes):
        if change % 2 and plan.num_prompts > 1:
            i = change // 2 % plan.num_prompts
            known = list(plan.leaf_keys)
            plan = removed(plan, i)
            leaves = leaves[:, [known.index(key) for key in plan.leaf_keys]]
            del names[i]
        else:
            new = torch.from_numpy(np.random.default_rng([place, change]).normal(size=(2, 1, 3)).astype(np.float32))
            plan = attach(plan, leaves[0], new[0], [1000 + place], metric="chord")
            leaves = torch.cat([leaves, new], dim=1)[:, : len(plan.leaf_keys)]
            names.append(None)
    latents = run(denoise, plan, leaves, most_rows=most_rows)
    for name, row in zip(names, latents, strict=True):
        assert name is None or torch.equal(row, expected[name])


# --- depth first ---


@given(prompt_sets(), st.integers(1, 6))
def test_depth_first_makes_bit_identical_latents(prompt_set, most_rows):
    embeddings, num_steps, tau = prompt_set
    plan = plan_of(embeddings, num_steps, tau)
    sizes, finished = [], []

    def watched(latents, k, means):
        sizes.append(len(latents))
        return denoise(latents, k, means)

    latents = run(watched, plan, embeddings, most_rows=most_rows, on_finished=lambda *done: finished.append(done))
    assert torch.equal(latents, run(denoise, plan, embeddings))
    assert sum(sizes) == plan.nfe
    assert max(sizes) <= most_rows
    assert sorted(i for prompts, _ in finished for i in prompts.tolist()) == list(range(plan.num_prompts))
    for prompts, rows in finished:
        assert torch.equal(rows, latents[prompts])


def test_depth_first_finishes_one_subtree_before_it_begins_the_next():
    Z = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]])
    plan = build_plan(Z, [0.4, 0.25, 0.05, 0])
    steps = []

    def look(latents, k, means):
        steps.append((k, len(latents), means[0].flatten().tolist()))
        return latents

    embeddings = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]] * 2)
    run(look, plan, embeddings, first=torch.zeros(1, 1), most_rows=2)
    halves = [(1, 2, [0.5, 2.5])]
    left, right = [(2, 2, [0, 1]), (3, 2, [0, 1])], [(2, 2, [2, 3]), (3, 2, [2, 3])]
    assert steps == [(0, 1, [1.5]), *halves, *left, *right]


def test_branches_are_dealt_out_to_parts_of_nearly_the_same_size():
    embeddings = torch.randn(2, 17, 4, generator=torch.Generator().manual_seed(0))
    sizes = []
    run(lambda x, k, means: sizes.append(len(x)) or x, plan_of(embeddings, 1, 0), embeddings, most_rows=8)
    assert sizes == [6, 6, 5]


def test_steps_are_told_their_clusters_of_the_whole_plan():
    embeddings = torch.randn(2, 17, 4, generator=torch.Generator().manual_seed(0))
    plan, heard = plan_of(embeddings, 6, 2.0), []

    def step(rows, k, clusters, means, state):
        members = [np.flatnonzero(plan.steps[k].labels == c) for c in clusters]
        expected = torch.stack([embeddings[:, rows].double().mean(dim=1).float() for rows in members], dim=1)
        torch.testing.assert_close(means, expected)
        heard.extend((k, c) for c in clusters.tolist())
        return rows, state

    for most_rows in (None, 3):
        heard.clear()
        denoise_plan(plan, START, State(), step, embeddings, most_rows=most_rows)
        assert sorted(heard) == [(k, c) for k, s in enumerate(plan.steps) for c in range(s.num_clusters)]


# --- steps that remember ---


def two_step(rows, k, clusters, means, state):
    """Adds the last output and half of the one before; keeps both, and the last sample, as diffusers' solvers do."""
    output = torch.sin(rows) + means[0]
    before, last = state.values.get("outputs", [None, None])[1], state.values.get("sample")
    drift = 0 if last is None else rows - last
    moved = rows + 0.1 * output + 0.05 * (0 if before is None else before) + 0.01 * drift
    return moved, State({"outputs": [before, output], "sample": rows, "k": k}, rows.shape)


@given(prompt_sets())
def test_histories_follow_the_branches(prompt_set):
    embeddings, num_steps, tau = prompt_set
    plan = plan_of(embeddings, num_steps, tau)
    branched = denoise_plan(plan, START, State(), two_step, embeddings)
    x, state = START.repeat(plan.num_prompts, 1), State()
    for k, s in enumerate(plan.steps):
        means = [embeddings[:, rows].double().mean(dim=1).float() for rows in members_that_differ(plan, s)]
        x, state = two_step(x, k, None, torch.stack(means, dim=1)[:, s.labels], state)
    torch.testing.assert_close(branched, x, rtol=1e-4, atol=1e-5)


@given(prompt_sets(), st.integers(1, 4))
def test_histories_follow_the_branches_depth_first_too(prompt_set, most_rows):
    embeddings, num_steps, tau = prompt_set
    plan = plan_of(embeddings, num_steps, tau)
    deep, broad = (
        denoise_plan(plan, START, State(), two_step, embeddings, most_rows=most) for most in (most_rows, None)
    )
    assert torch.equal(deep, broad)


@given(prompt_sets(), st.integers(1, 4), st.integers(0, 7))
def test_a_run_that_was_stored_goes_on_bit_identically(prompt_set, most_rows, after):
    """Everything that a part needs are values: what is left of it, its rows, its state."""
    embeddings, num_steps, tau = prompt_set
    plan, stored = plan_of(embeddings, num_steps, tau), []
    after = min(after, num_steps - 1)

    def storing(rows, k, clusters, means, state):
        rows, state = two_step(rows, k, clusters, means, state)
        if k == after:
            stored.append((clusters, pickle.dumps((rows, state))))
        return rows, state

    expected = denoise_plan(plan, START, State(), storing, embeddings, most_rows=most_rows)
    values, part, seen = embeddings.transpose(0, 1), whole(plan), []
    for clusters, blob in stored:
        rows, state = pickle.loads(blob)
        rest = below(part, after, clusters)
        rest = Part(after + 1, rest.prompts, rest.distinct, rest.steps[1:])
        done = denoise_part(rest, rows, state, two_step, values) if rest.steps else [(rest.prompts, None)]
        for prompts, latents in done:
            seen.extend(prompts.tolist())
            assert latents is None or torch.equal(latents, expected[prompts])
    assert sorted(seen) == list(range(plan.num_prompts))


def test_only_rows_of_latents_follow_the_branches():
    rows = torch.arange(2 * 3.0).reshape(2, 3)
    sigmas, table, count = torch.arange(2.0), torch.ones(2, 4), torch.tensor(5)
    values = {"sample": rows, "outputs": [None, rows, sigmas], "sigmas": sigmas, "table": table, "count": count}
    state = State({**values, "order": 2, "betas": [0.1, 0.2]}, (2, 3))[torch.tensor([1, 0, 0])]
    expected = torch.tensor([[3.0, 4, 5], [0, 1, 2], [0, 1, 2]])
    assert state.shape == (3, 3)
    assert torch.equal(state.values["sample"], expected)
    assert state.values["outputs"][0] is None
    assert torch.equal(state.values["outputs"][1], expected)
    assert state.values["outputs"][2] is sigmas
    assert state.values["sigmas"] is sigmas
    assert state.values["table"] is table
    assert state.values["count"] is count
    assert (state.values["order"], state.values["betas"]) == (2, [0.1, 0.2])
    assert values["sample"] is rows  # the state that was branched is what it was
    assert State()[torch.tensor([0, 0])].values == {}
