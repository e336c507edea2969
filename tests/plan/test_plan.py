"""Properties of the plan that hold for every linkage and every falling schedule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_isomorphic

from hierdiff_core import (
    Plan,
    Sensitivity,
    build_plan,
    falling_shape,
    linear_thresholds,
    merge_errors,
    reachable_saving,
    tau_for_saving,
    thresholds_at,
    ward_linkage,
)
from hierdiff_core.plan.linkage import METRICS
from hierdiff_core.plan.plan import deciding_step

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

# heights 0.12 (prompts 0 and 1), 0.20 (2 and 3), 0.35 (all)
WORKED_EXAMPLE = np.array([[0, 1, 0.12, 2], [2, 3, 0.20, 2], [4, 5, 0.35, 4]])


@st.composite
def prompt_sets(draw):
    """(N, 5) embeddings, some of them equal, and (K,) falling thresholds of any shape."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 16))
    rows = rng.normal(size=(n, 5))
    rows = np.concatenate([rows, rows[rng.integers(n, size=draw(st.integers(0, 3)))]])
    falling = np.sort(rng.uniform(0, 3, size=draw(st.integers(0, 9))))[::-1]
    return rows[rng.permutation(len(rows))], np.append(np.repeat(falling, draw(st.integers(1, 2))), 0)


def plan_of(prompt_set):
    rows, thresholds = prompt_set
    return build_plan(ward_linkage(rows), thresholds)


def test_worked_example_of_the_method():
    plan = build_plan(WORKED_EXAMPLE, [0.40, 0.25, 0.15, 0.10, 0])
    partitions = [{tuple(np.flatnonzero(s.labels == c)) for c in range(s.num_clusters)} for s in plan.steps]
    assert partitions == [
        {(0, 1, 2, 3)},
        {(0, 1), (2, 3)},
        {(0, 1), (2,), (3,)},
        {(0,), (1,), (2,), (3,)},
        {(0,), (1,), (2,), (3,)},
    ]
    assert plan.clusters_per_step.tolist() == [1, 2, 3, 4, 4]
    assert plan.nfe == 14
    assert plan.saved == pytest.approx(1 - 14 / 20)
    assert plan.tau == 0.40
    assert (plan.num_steps, plan.num_prompts) == (5, 4)


def test_worked_example_has_one_branch_for_each_edge_of_the_tree():
    plan = build_plan(WORKED_EXAMPLE, [0.40, 0.25, 0.15, 0.10, 0])
    found = {tuple(b.members.tolist()): (b.start, b.stop, b.parent) for b in plan.branches}
    index = {tuple(b.members.tolist()): i for i, b in enumerate(plan.branches)}
    assert found == {
        (0, 1, 2, 3): (0, 1, None),
        (0, 1): (1, 3, index[0, 1, 2, 3]),
        (2, 3): (1, 2, index[0, 1, 2, 3]),
        (2,): (2, 5, index[2, 3]),
        (3,): (2, 5, index[2, 3]),
        (0,): (3, 5, index[0, 1]),
        (1,): (3, 5, index[0, 1]),
    }


@given(prompt_sets())
def test_cuts_nest(prompt_set):
    plan = plan_of(prompt_set)
    for before, step in zip(plan.steps, plan.steps[1:], strict=False):
        for c in range(step.num_clusters):
            assert len(set(before.labels[step.labels == c].tolist())) == 1


@given(prompt_sets())
def test_parent_of_a_cluster_is_where_its_members_were(prompt_set):
    plan = plan_of(prompt_set)
    before = np.zeros(plan.num_prompts, dtype=int)
    for step in plan.steps:
        assert step.parents.shape == (step.num_clusters,)
        np.testing.assert_array_equal(step.parents[step.labels], before)
        before = step.labels


@given(prompt_sets())
def test_first_and_counts_describe_the_labels(prompt_set):
    for step in plan_of(prompt_set).steps:
        for c in range(step.num_clusters):
            members = np.flatnonzero(step.labels == c)
            assert step.first[c] == members[0]
            assert step.counts[c] == len(members)
            np.testing.assert_array_equal(step.members[c], members)
        assert step.counts.sum() == len(step.labels)


@given(prompt_sets())
def test_nfe_counts_the_distinct_latents_of_every_step(prompt_set):
    plan = plan_of(prompt_set)
    by_hand = sum(len(set(step.labels.tolist())) for step in plan.steps)
    assert plan.nfe == by_hand == sum(plan.clusters_per_step)
    distinct = len(np.unique(prompt_set[0], axis=0))
    assert plan.nfe_standard == distinct * plan.num_steps
    assert plan.saved == 1 - by_hand / plan.nfe_standard
    assert 0 <= plan.saved <= 1


@given(prompt_sets(), st.randoms(use_true_random=False))
def test_order_of_the_prompts_does_not_change_the_clusters(prompt_set, random):
    rows, thresholds = prompt_set
    order = list(range(len(rows)))
    random.shuffle(order)
    plan, permuted = plan_of(prompt_set), plan_of((rows[order], thresholds))
    assert plan.nfe == permuted.nfe
    for step, other in zip(plan.steps, permuted.steps, strict=True):
        assert is_isomorphic(step.labels[order], other.labels)


@given(prompt_sets(), st.integers(1, 8))
def test_without_sharing_only_equal_prompts_are_together(prompt_set, num_steps):
    rows, _ = prompt_set
    plan = build_plan(ward_linkage(rows), linear_thresholds(num_steps, 0.0))
    distinct = len(np.unique(rows, axis=0))
    assert plan.clusters_per_step.tolist() == [distinct] * num_steps
    assert plan.nfe == distinct * num_steps


@given(prompt_sets())
def test_every_prompt_ends_with_a_latent_that_only_its_equals_share(prompt_set):
    rows, _ = prompt_set
    labels = plan_of(prompt_set).steps[-1].labels
    np.testing.assert_array_equal(labels[:, None] == labels, (rows[:, None] == rows).all(axis=-1))


@given(prompt_sets())
def test_branches_cover_every_cluster_of_every_step_once(prompt_set):
    plan = plan_of(prompt_set)
    cells = [(k, tuple(b.members.tolist())) for b in plan.branches for k in range(b.start, b.stop)]
    expected = {
        (k, tuple(np.flatnonzero(step.labels == c).tolist()))
        for k, step in enumerate(plan.steps)
        for c in range(step.num_clusters)
    }
    assert len(cells) == len(expected) == plan.nfe
    assert set(cells) == expected
    for branch in plan.branches:
        assert (plan.steps[branch.stop - 1].labels[branch.members] == branch.cluster).all()


@given(prompt_sets())
def test_branches_start_where_their_parents_stop(prompt_set):
    plan = plan_of(prompt_set)
    for i, branch in enumerate(plan.branches):
        if branch.parent is None:
            assert branch.start == 0
            continue
        assert branch.parent < i
        parent = plan.branches[branch.parent]
        assert branch.start == parent.stop
        assert set(branch.members.tolist()) < set(parent.members.tolist())
    roots = [b.members for b in plan.branches if b.parent is None]
    assert sorted(np.concatenate(roots).tolist()) == list(range(plan.num_prompts))


@given(prompt_sets(), st.integers(1, 3))
def test_prompts_that_are_named_again_change_neither_budget_nor_clusters(prompt_set, times):
    rows, thresholds = prompt_set
    plan, again = plan_of((rows, thresholds)), plan_of((np.concatenate([rows] + [rows[:2]] * times), thresholds))
    np.testing.assert_array_equal(again.distinct, plan.distinct)
    assert (again.nfe, again.nfe_standard, again.saved) == (plan.nfe, plan.nfe_standard, plan.saved)
    for step, other in zip(plan.steps, again.steps, strict=True):
        assert is_isomorphic(step.labels, other.labels[: len(rows)])
    shape = falling_shape(plan.num_steps)
    assert reachable_saving(plan.Z, shape) == reachable_saving(again.Z, shape)
    for saving in (0.1, 0.4, 0.9):
        taus = [tau_for_saving(Z, shape, saving, clamp=True) for Z in (plan.Z, again.Z)]
        assert taus[0] == taus[1]


def test_every_prompt_of_a_plan_made_by_hand_counts():
    steps = build_plan(WORKED_EXAMPLE, [0.4, 0.0]).steps
    by_hand = Plan(np.zeros(2), (steps[0], steps[0]))  # as a calibration's: some are shared to the end
    assert by_hand.distinct.tolist() == [0, 1, 2, 3]
    assert by_hand.nfe_standard == 8


def test_single_prompt_has_one_branch():
    plan = build_plan(np.empty((0, 4)), linear_thresholds(4, 1.0))
    assert plan.clusters_per_step.tolist() == [1, 1, 1, 1]
    assert plan.saved == 0
    assert [(b.start, b.stop, b.parent) for b in plan.branches] == [(0, 4, None)]


def test_plan_keeps_its_thresholds_when_the_callers_change():
    thresholds = linear_thresholds(3, 0.3)
    plan = build_plan(WORKED_EXAMPLE, thresholds)
    thresholds[:] = 9
    assert plan.tau == 0.3


def test_plan_keeps_the_prompts_when_it_is_cut_again():
    prompts = ["cat", "dog", "red apple", "cat"]
    plan = build_plan(WORKED_EXAMPLE, linear_thresholds(4, 0.3), prompts=prompts)
    prompts[0] = "another"
    kept = ("cat", "dog", "red apple", "cat")
    assert plan.prompts == plan.resampled(9).prompts == plan.straight_line().prompts == kept


def test_plan_needs_no_prompts():
    assert build_plan(WORKED_EXAMPLE, linear_thresholds(4, 0.3)).prompts is None


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.5, 0.40, 0.45, 0], "thresholds must not increase; step 2 rises from 0.4 to 0.45"),
        ([0.5, -0.1, 0], "thresholds must be finite heights >= 0"),
        ([np.nan, 0], "thresholds must be finite heights >= 0"),
        ([np.inf, 0], "thresholds must be finite heights >= 0"),
        ([0.5, 0.25], "thresholds must end at 0, .* the last is 0.25"),
        ([], r"thresholds must have shape \(K,\) with K >= 1; got \(0,\)"),
        ([[0.5, 0]], r"thresholds must have shape \(K,\) with K >= 1; got \(1, 2\)"),
    ],
)
def test_thresholds_that_do_not_fall_to_zero_are_refused(thresholds, message):
    with pytest.raises(ValueError, match=message):
        build_plan(WORKED_EXAMPLE, thresholds)


def test_broken_linkage_is_refused():
    with pytest.raises(ValueError, match="Z must be finite"):
        build_plan([[0, 1, np.nan, 2]], [0.5, 0])


# --- what sharing is expected to change


@st.composite
def measured_plans(draw, metrics=METRICS, shape="linear"):
    """Unit vectors, some of them equal, and a plan that knows their merge errors and a random sensitivity.

    With up to K unshared steps.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(draw(st.integers(1, 14)), 5))
    rows = np.concatenate([rows, rows[rng.integers(len(rows), size=draw(st.integers(0, 2)))]])
    num_steps = draw(st.integers(1, 20))
    changes = np.cumsum(10 ** rng.uniform(-draw(st.sampled_from([0, 1, 3])), 0, size=num_steps))
    sensitivity = Sensitivity(num_steps, np.arange(1, num_steps + 1), changes)
    metric = draw(st.sampled_from(metrics))
    Z = ward_linkage(rows, metric)
    private_steps, weights = draw(st.integers(1, num_steps)), sensitivity.weights(num_steps)
    falling = falling_shape(num_steps, shape, private_steps, weights=weights, metric=metric)
    tau = tau_for_saving(Z, falling, draw(st.floats(0, 1)) * reachable_saving(Z, falling)[1])
    plan = build_plan(Z, thresholds_at(tau, falling, Z), range(len(rows)), merge_errors(Z, rows), sensitivity)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), plan


@given(measured_plans())
def test_distortion_is_the_weighted_squared_distance_of_prompts_from_their_clusters_means(measured):
    unit, plan = measured
    expected = 0.0
    for weight, step in zip(plan.sensitivity.weights(plan.num_steps), plan.steps, strict=True):
        clusters = [unit[np.intersect1d(rows, plan.distinct)] for rows in step.members]
        sse = sum(((rows - rows.mean(axis=0)) ** 2).sum() for rows in clusters)
        expected += weight * sse / plan.num_distinct
    assert plan.distortion == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(measured_plans(shape="calibrated"))
def test_straight_line_spends_the_same_rows_on_the_same_tree(measured):
    _, plan = measured
    line = plan.straight_line()
    assert line.nfe == plan.nfe
    private_steps = np.count_nonzero(plan.thresholds == 0)
    expected = linear_thresholds(plan.num_steps, line.tau, private_steps)
    np.testing.assert_allclose(line.thresholds, expected, rtol=1e-12)
    assert line.distortion is not None
    assert line.prompt_keys == plan.prompt_keys


@given(measured_plans(metrics=["chord"], shape="calibrated"))
def test_calibrated_plan_changes_pictures_no_more_than_the_straight_line(measured):
    _, plan = measured
    assert plan.distortion <= plan.straight_line().distortion * (1 + 1e-9) + 1e-12


def test_calibrated_plan_changes_pictures_far_less_where_the_last_steps_show_most():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    Z, sensitivity = ward_linkage(rows, "chord"), Sensitivity(20, np.arange(1, 21), 1e-6 * 2.0 ** np.arange(20))
    shape = falling_shape(20, "calibrated", weights=sensitivity.weights(20))
    thresholds = thresholds_at(tau_for_saving(Z, shape, 0.5), shape, Z)
    plan = build_plan(Z, thresholds, None, merge_errors(Z, rows), sensitivity)
    assert plan.distortion < 0.5 * plan.straight_line().distortion


@pytest.mark.parametrize("private_steps", range(1, 20))
def test_calibrated_plan_is_no_worse_than_the_straight_line_with_as_many_private_steps(private_steps):
    rows = np.random.default_rng(1).normal(size=(24, 8))
    Z, sensitivity = ward_linkage(rows, "chord"), Sensitivity(20, np.arange(1, 21), 1e-6 * 2.0 ** np.arange(20))
    shape = falling_shape(20, "calibrated", private_steps, weights=sensitivity.weights(20))
    for saving in (0.1, 0.4, 0.7, 1.0):
        saving *= reachable_saving(Z, shape)[1]
        thresholds = thresholds_at(tau_for_saving(Z, shape, saving), shape, Z)
        plan = build_plan(Z, thresholds, None, merge_errors(Z, rows), sensitivity)
        line = plan.straight_line()
        assert line.nfe == plan.nfe
        assert (line.thresholds[20 - private_steps :] == 0).all()
        assert (line.thresholds[: 20 - private_steps] > 0).all()
        assert 0 < plan.distortion <= line.distortion * (1 + 1e-9)


@pytest.mark.parametrize("private_steps", [1, 4, 9])
def test_straight_line_never_spends_more_where_heights_tie(private_steps):
    Z = ward_linkage(np.eye(8))
    shape = falling_shape(9, "power", private_steps, power=3.0)
    for saving in np.linspace(0, reachable_saving(Z, shape)[1], 12):
        plan = build_plan(Z, thresholds_at(tau_for_saving(Z, shape, saving), shape))
        assert plan.straight_line().nfe <= plan.nfe


def test_nothing_shared_changes_nothing():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    Z, sensitivity = ward_linkage(rows), Sensitivity(4, [2, 4], [0.1, 1])
    plan = build_plan(Z, np.zeros(4), None, merge_errors(Z, rows), sensitivity)
    assert plan.distortion == plan.straight_line().distortion == 0


def test_distortion_of_a_plan_that_knows_too_little_is_none():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    Z, thresholds = ward_linkage(rows), linear_thresholds(4, 1.0)
    assert build_plan(Z, thresholds).distortion is None
    assert build_plan(Z, thresholds, merge_errors=merge_errors(Z, rows)).distortion is None
    assert build_plan(Z, thresholds, sensitivity=Sensitivity(4, [4], [1])).distortion is None
    assert build_plan(Z, thresholds).straight_line().distortion is None


def test_plan_made_by_hand_has_no_straight_line():
    whole = build_plan(WORKED_EXAMPLE, linear_thresholds(3, 0.3))
    with pytest.raises(ValueError, match="a plan without Z cannot be cut again; make it with build_plan"):
        Plan(whole.thresholds, whole.steps).straight_line()


@given(measured_plans(), st.integers(1, 30))
def test_resampled_plan_still_knows_what_it_changes(measured, num_steps):
    _, plan = measured
    other = plan.resampled(num_steps)
    assert other.num_steps == num_steps
    assert other.merge_errors is plan.merge_errors
    assert other.sensitivity is plan.sensitivity
    assert other.prompt_keys == plan.prompt_keys
    assert other.distortion >= 0


# --- whether pictures differ


@pytest.mark.parametrize(
    ("num_steps", "weights", "step"),
    [
        (1, None, 0),
        (2, None, 0),
        (6, None, 4),
        (30, None, 27),
        (40, None, 37),
        (4, [1, 1, 1, 4], 3),  # the last step decides, and that is never shared
        (4, [1, 1, 4, 1], 2),
        (4, [5, 1, 1, 1], 0),
    ],
)
def test_deciding_step_leaves_too_little_of_the_difference(num_steps, weights, step):
    assert deciding_step(num_steps, weights) == step


def test_pictures_look_alike_where_most_prompts_part_after_the_deciding_step():
    cases = [([9, 9, 9, 9, 9, 0], 1, True), ([9, 9, 9, 9, 0.3, 0], 2, True), ([9, 9, 9, 0.3, 0.15, 0], 3, False)]
    for thresholds, different, alike in cases:
        plan = build_plan(WORKED_EXAMPLE, thresholds)
        assert (plan.num_different, plan.looks_alike) == (different, alike)
    assert not build_plan(np.empty((0, 4)), [1.0, 0.0]).looks_alike
    assert not build_plan(np.array([[0, 1, 0.0, 2]]), [1.0, 0.0]).looks_alike  # one prompt, twice


def test_measured_sensitivity_says_when_it_is_too_late():
    thresholds = [9, 9, 9, 9, 9, 0]
    late, early = Sensitivity(6, [1, 5, 6], [1e-6, 0.2, 1]), Sensitivity(6, [1, 5, 6], [0.6, 0.9, 1])
    assert build_plan(WORKED_EXAMPLE, thresholds).num_different == 1
    assert build_plan(WORKED_EXAMPLE, thresholds, sensitivity=late).num_different == 4
    split_early = [9, 0, 0, 0, 0, 0]
    assert build_plan(WORKED_EXAMPLE, split_early).num_different == 4
    assert build_plan(WORKED_EXAMPLE, split_early, sensitivity=early).num_different == 1


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", ["prompt_keys", "merge_errors", "prompts"])
def test_list_that_does_not_fit_the_linkage_is_refused_by_name(name, count):
    wanted = 2 if name == "merge_errors" else 3
    values = list("abcd" if name == "prompts" else range(4))[:count]
    with pytest.raises(ValueError, match=f"{name} must have {wanted} entries for Z of 3; got {count}"):
        build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.4, 0], **{name: values})


@pytest.mark.parametrize(("num_steps", "message"), [(5.0, "a whole number; got 5.0"), (0, "at least 1; got 0")])
def test_plan_cannot_be_resampled_to_what_is_no_number_of_steps(num_steps, message):
    with pytest.raises(ValueError, match=f"num_steps must be {message}"):
        build_plan([[0, 1, 0.2, 2]], [0.4, 0]).resampled(num_steps)
