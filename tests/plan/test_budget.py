"""Tree, budget and profile as objects: what they refuse, and that the plan they make is the one of the functions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import (
    Budget,
    Profile,
    PromptTree,
    Sensitivity,
    build_plan,
    falling_shape,
    linear_thresholds,
    merge_errors,
    plan_for,
    reachable_saving,
    tau_for_root_share,
    tau_for_saving,
    thresholds_at,
    ward_linkage,
)
from hierdiff_core.plan.budget import UNITS, out_of_reach, thresholds_for
from hierdiff_core.plan.keys import text_key
from hierdiff_core.plan.linkage import METRICS
from hierdiff_core.plan.profile import SHAPES

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

MEASURED = Sensitivity(6, [1, 4, 5, 6], [1e-6, 0.16, 0.74, 1])
WORKED_EXAMPLE = [[0, 1, 0.12, 2], [2, 3, 0.20, 2], [4, 5, 0.35, 4]]


def rows_of(seed, count, equal=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 6))
    return np.concatenate([rows, rows[rng.integers(count, size=equal)]])


# --- plan_for


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from(METRICS),
    st.sampled_from(UNITS),
    st.floats(0, 2),
    st.sampled_from(SHAPES),
    st.integers(1, 12),
)
def test_plan_for_is_made_by_the_functions_of_the_library(seed, count, equal, metric, unit, value, shape, num_steps):
    rows = rows_of(seed, count, equal)
    prompts = [f"prompt {i}" for i in range(len(rows))]
    Z, weights = ward_linkage(rows, metric), MEASURED.weights(num_steps)
    falling = falling_shape(num_steps, shape, weights=weights, metric=metric)
    tau = {"tau": lambda: value, "root share": lambda: tau_for_root_share(Z, value)}.get(
        unit, lambda: tau_for_saving(Z, falling, value, clamp=True)
    )()
    thresholds = thresholds_at(tau, falling, Z if shape == "calibrated" else None)
    expected = build_plan(Z, thresholds, None, merge_errors(Z, rows), MEASURED)
    tree = PromptTree.of(rows, metric, prompts)
    plan = plan_for(tree, Budget(unit, value, clamp=True), Profile(num_steps, shape, sensitivity=MEASURED))
    np.testing.assert_array_equal(plan.thresholds, expected.thresholds)
    for step, other in zip(plan.steps, expected.steps, strict=True):
        for name in ("labels", "first", "counts", "parents"):
            np.testing.assert_array_equal(getattr(step, name), getattr(other, name))
    assert plan.distortion == expected.distortion
    assert (plan.prompts, plan.metric) == (tuple(prompts), metric)
    assert plan.prompt_keys == tuple(text_key(prompt) for prompt in prompts)
    assert [branch.key for branch in plan.branches] == [
        min(plan.prompt_keys[i] for i in branch.members) for branch in plan.branches
    ]


def test_tree_of_a_plan_makes_the_plan_again():
    tree = PromptTree.of(rows_of(0, 9, 2), "chord", [f"prompt {i}" for i in range(11)])
    budget, profile = Budget("saving", 0.4), Profile(12, "calibrated", sensitivity=MEASURED)
    plan = plan_for(tree, budget, profile)
    again = plan_for(plan.tree, budget, profile)
    np.testing.assert_array_equal(plan.thresholds, again.thresholds)
    assert (again.prompts, again.prompt_keys, again.metric) == (plan.prompts, plan.prompt_keys, plan.metric)
    assert again.merge_errors is plan.merge_errors


def test_plan_keeps_its_metric_when_it_is_cut_again():
    plan = plan_for(PromptTree.of(rows_of(0, 5), "cosine"), Budget("saving", 0.3), Profile(6))
    assert plan.resampled(9).metric == plan.straight_line().metric == "cosine"


# --- budgets


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("unit", UNITS)
def test_budget_that_is_no_number_is_refused(unit, value):
    with pytest.raises(ValueError, match=f"{unit} must be a finite number >= 0; got {value}"):
        Budget(unit, value)


@pytest.mark.parametrize(("value", "said"), [("0.4", "'0.4'"), (None, "None"), ([0.4, 0.5], r"\[0.4, 0.5\]")])
@pytest.mark.parametrize("unit", UNITS)
def test_budget_that_is_a_text_or_a_list_is_refused(unit, value, said):
    with pytest.raises(ValueError, match=f"{unit} must be a finite number >= 0; got {said}"):
        Budget(unit, value)


def test_budget_of_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="unit of a budget must be one of tau, root share, saving; got 'rows'"):
        Budget("rows", 100)


def test_saving_out_of_reach_is_refused_or_clamped_and_told():
    tree, profile = PromptTree(WORKED_EXAMPLE), Profile(4)
    greatest = reachable_saving(tree.Z, profile.falling("chord"))[1]
    with pytest.raises(ValueError, match=r"saving must lie between 0 and 0.5625 for this set"):
        plan_for(tree, Budget("saving", 0.9), profile)
    budget = Budget("saving", 0.9, clamp=True)
    assert plan_for(tree, budget, profile).saved == greatest == 0.5625
    assert budget.missed(tree, profile) == out_of_reach(tree.Z, profile.falling("chord"), 0.9)
    assert "can save 56.2% at most" in budget.missed(tree, profile)


@pytest.mark.parametrize("budget", [Budget("saving", 0.5), Budget("tau", 1e4), Budget("root share", 1e4)])
def test_budget_within_reach_misses_nothing(budget):
    assert budget.missed(PromptTree(WORKED_EXAMPLE), Profile(4)) is None


def test_calibrated_thresholds_are_cut_off_at_the_root_and_others_are_not():
    tree = PromptTree(WORKED_EXAMPLE, "chord")
    calibrated = Profile(6, "calibrated", sensitivity=MEASURED)
    assert thresholds_for(tree, Budget("tau", 9.0), calibrated).max() == tree.root_height == 0.35
    assert thresholds_for(tree, Budget("tau", 9.0), Profile(6)).max() == 9.0


# --- profiles


def test_numbers_of_numpy_are_kept_as_plain_ints():
    profile = Profile(np.int64(5), private_steps=np.int32(2))
    assert (type(profile.num_steps), type(profile.private_steps)) == (int, int)
    assert profile.falling(None).tolist() == Profile(5, private_steps=2).falling(None).tolist()


@pytest.mark.parametrize(
    ("steps", "unshared", "message"), [(5.0, 1, "num_steps .* 5.0"), (5, 1.0, "private_steps .* 1.0")]
)
def test_shapes_of_numbers_that_are_not_whole_are_refused(steps, unshared, message):
    message = message.replace(".*", "must be a whole number; got")
    with pytest.raises(ValueError, match=message):
        falling_shape(steps, "linear", unshared)
    with pytest.raises(ValueError, match=message):
        linear_thresholds(steps, 1.0, unshared)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"num_steps": 5, "private_steps": 6}, "private_steps must lie between 1 and the number of steps"),
        ({"num_steps": 10.0}, "num_steps must be a whole number; got 10.0"),
        ({"num_steps": "10"}, "num_steps must be a whole number; got '10'"),
        ({"num_steps": 5, "private_steps": 2.5}, "private_steps must be a whole number; got 2.5"),
        ({"num_steps": 5, "shape": "power", "power": "2"}, "power must be a finite number above 0; got '2'"),
        ({"num_steps": 5, "sensitivity": [1.0] * 5}, "sensitivity must be a Sensitivity or None; got list"),
        (
            {"num_steps": 5, "shape": "calibrated", "sensitivity": "model.json"},
            "must be a Sensitivity or None; got str",
        ),
        (
            {"num_steps": 5, "shape": "sigmoid"},
            "shape must be one of linear, cosine, power, calibrated, trunk; got 'sigmoid'",
        ),
        ({"num_steps": 5, "shape": "power", "power": 0}, "power must be a finite number above 0; got 0"),
        ({"num_steps": 5, "shape": "calibrated"}, "shape 'calibrated' needs the model's sensitivity at each step"),
    ],
)
def test_profile_that_makes_no_shape_is_refused_before_there_is_a_tree(settings, message):
    with pytest.raises(ValueError, match=message):
        Profile(**settings)


@pytest.mark.parametrize("shape", SHAPES)
def test_profile_falls_as_its_shape(shape):
    profile = Profile(7, shape, 2, 3.0, MEASURED)
    for metric in METRICS:
        expected = falling_shape(7, shape, 2, power=3.0, weights=MEASURED.weights(7), metric=metric)
        np.testing.assert_array_equal(profile.falling(metric), expected)


def test_calibrated_profile_needs_to_know_the_metric():
    with pytest.raises(ValueError, match="metric must be one of cosine, chord; got None"):
        plan_for(PromptTree(WORKED_EXAMPLE), Budget("tau", 1), Profile(6, "calibrated", sensitivity=MEASURED))


# --- trees


def test_tree_of_embeddings_knows_all_that_belongs_to_it():
    rows, prompts = rows_of(1, 6, 2), [f"prompt {i}" for i in range(8)]
    tree = PromptTree.of(rows, "cosine", prompts)
    np.testing.assert_array_equal(tree.Z, ward_linkage(rows, "cosine"))
    np.testing.assert_array_equal(tree.errors, merge_errors(tree.Z, rows))
    assert (tree.metric, tree.prompts) == ("cosine", tuple(prompts))
    assert tree.keys == tuple(text_key(prompt) for prompt in prompts)
    assert (tree.num_prompts, tree.num_distinct, len(tree.heights)) == (8, 6, 5)
    assert tree.root_height == tree.heights[-1] == tree.Z[-1, 2]


def test_tree_of_one_prompt_has_no_height():
    tree = PromptTree.of([[1.0, 2.0]], prompts=["a cat"])
    assert (tree.num_prompts, tree.num_distinct, tree.root_height, len(tree.errors)) == (1, 1, 0.0, 0)


def test_tree_is_told_of_while_it_is_made():
    with pytest.raises(KeyboardInterrupt):
        PromptTree.of(np.random.default_rng(0).normal(size=(6000, 64)), check=interrupt)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptTree([[0, 1, np.nan, 2]]), "Z must be finite"),
        (lambda: PromptTree(WORKED_EXAMPLE, "l1"), "metric must be one of cosine, chord; got 'l1'"),
        (lambda: PromptTree(WORKED_EXAMPLE, errors=[1, 2]), "errors must have 3 entries for Z of 4; got 2"),
        (lambda: PromptTree(WORKED_EXAMPLE, prompts=["a"]), "prompts must have 4 entries for Z of 4; got 1"),
        (lambda: PromptTree(WORKED_EXAMPLE, keys=[1]), "keys must have 4 entries for Z of 4; got 1"),
        (lambda: PromptTree.of(np.eye(3), prompts=["a"]), "prompts must name each embedding: 1 names, 3 embeddings"),
        (lambda: PromptTree.of(np.zeros((2, 3))), "embedding 0 is zero"),
    ],
)
def test_tree_that_does_not_fit_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
