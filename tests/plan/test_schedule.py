"""Thresholds, and the tau that meets a budget: checked against counting on the plan itself."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import (
    build_plan,
    falling_shape,
    linear_thresholds,
    reachable_saving,
    tau_for_root_share,
    tau_for_saving,
    thresholds_at,
)
from hierdiff_core.plan.budget import out_of_reach
from hierdiff_core.plan.linkage import METRICS, ward_linkage
from hierdiff_core.plan.noise_levels import levels_of_sigmas, unshared_steps
from hierdiff_core.plan.profile import SHAPES, calibrated_shape

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

seeds = st.integers(0, 2**32 - 1)


@st.composite
def weights(draw, num_steps):
    """(K,) sensitivities in any order, alike or powers of ten apart, some of them 0."""
    rng = np.random.default_rng(draw(seeds))
    w = 10 ** -rng.uniform(0, draw(st.sampled_from([0.5, 1, 2, 6])), size=num_steps)
    w[rng.random(num_steps) < draw(st.sampled_from([0, 0, 0.3]))] = 0
    return w if w.any() else np.ones(num_steps)


@st.composite
def shapes(draw, num_steps, names=SHAPES):
    """A falling shape of any kind, with up to K unshared steps."""
    return falling_shape(
        num_steps,
        draw(st.sampled_from(names)),
        draw(st.integers(1, num_steps)),
        power=draw(st.sampled_from([0.3, 1.0, 2.0, 5.5, 20.0])),
        weights=draw(weights(num_steps)),
        metric=draw(st.sampled_from(METRICS)),
    )


@st.composite
def problems(draw, max_prompts=14, max_steps=60):
    """Z and a shape; some prompts are equal."""
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(1, max_prompts))
    rows = rng.normal(size=(n, 5))
    rows = np.concatenate([rows, rows[rng.integers(n, size=draw(st.integers(0, 3)))]])
    return ward_linkage(rows, draw(st.sampled_from(METRICS))), draw(shapes(draw(st.integers(1, max_steps))))


def saved(Z, shape, tau):
    return build_plan(Z, thresholds_at(tau, shape)).saved


def lowest(shape):
    """The last shared step's value of a shape; 1 where none is shared."""
    return shape[shape > 0].min(initial=1.0)


# --- shapes


@given(st.integers(1, 200), st.floats(0, 1e6))
def test_thresholds_are_the_papers_straight_line(num_steps, tau):
    expected = np.linspace(0, tau, num_steps)[::-1]
    np.testing.assert_array_equal(linear_thresholds(num_steps, tau), expected)
    np.testing.assert_allclose(thresholds_at(tau, falling_shape(num_steps)), expected, rtol=1e-15, atol=1e-300)
    assert linear_thresholds(num_steps, tau)[-1] == 0


def test_first_threshold_is_tau_itself():
    assert linear_thresholds(40, 0.7)[0] == 0.7
    for name in SHAPES:
        assert thresholds_at(0.7, falling_shape(40, name, weights=np.arange(40)))[0] == 0.7


def test_private_steps_have_threshold_zero_and_the_others_do_not_move():
    line = linear_thresholds(6, 1.0)
    np.testing.assert_array_equal(linear_thresholds(6, 1.0, private_steps=3), [*line[:3], 0, 0, 0])
    np.testing.assert_array_equal(linear_thresholds(6, 1.0, private_steps=6), np.zeros(6))
    for name in ("linear", "cosine", "power"):
        shape = falling_shape(6, name)
        np.testing.assert_array_equal(falling_shape(6, name, private_steps=3), [*shape[:3], 0, 0, 0])


@pytest.mark.parametrize("name", SHAPES)
@given(st.data(), st.integers(1, 60), st.floats(0.1, 20))
def test_every_shape_falls_from_one_to_zero(name, data, num_steps, power):
    private_steps = data.draw(st.integers(1, num_steps))
    w, metric = data.draw(weights(num_steps)), data.draw(st.sampled_from(METRICS))
    shape = falling_shape(num_steps, name, private_steps, power=power, weights=w, metric=metric)
    assert shape.shape == (num_steps,)
    assert (np.diff(shape) <= 0).all()
    assert (shape[num_steps - private_steps :] == 0).all()
    assert (shape[: num_steps - private_steps] > 0).all()
    assert private_steps == num_steps or shape[0] == 1


@given(st.integers(1, 200))
def test_power_one_is_the_straight_line(num_steps):
    np.testing.assert_array_equal(falling_shape(num_steps, "power", power=1.0), falling_shape(num_steps))


def test_higher_powers_and_cosine_share_less_at_the_end():
    line, cosine = falling_shape(40), falling_shape(40, "cosine")
    assert (falling_shape(40, "power", power=2.0)[1:-1] < line[1:-1]).all()
    assert (falling_shape(40, "power", power=0.5)[1:-1] > line[1:-1]).all()
    assert cosine[10] > line[10]
    assert cosine[30] < line[30]


@given(st.data(), st.integers(2, 80), st.floats(1e-6, 1e6))
def test_the_straight_line_is_calibrated_for_a_sensitivity_that_grows_as_its_inverse_square(data, num_steps, scale):
    line = falling_shape(num_steps)
    w = np.append(line[:-1] ** -2.0, 2 * num_steps**2) * scale
    for metric, exponent in (("chord", 1), ("cosine", 2)):
        private_steps = data.draw(st.integers(1, num_steps))
        shape = falling_shape(num_steps, "calibrated", private_steps, weights=w, metric=metric)
        expected = np.where(np.arange(num_steps) < num_steps - private_steps, line**exponent, 0)
        np.testing.assert_allclose(shape, expected, rtol=1e-9)


def test_steps_that_grow_less_sensitive_fall_together_with_the_next():
    shape = falling_shape(5, "calibrated", weights=[1, 6, 2, 16, 9])
    np.testing.assert_allclose(shape, [1, 0.5, 0.5, 0.25, 0])


def test_steps_that_show_nothing_are_shared_as_long_as_anything_is():
    shape = falling_shape(5, "calibrated", weights=[0, 0, 1, 1, 1])
    assert shape[0] == shape[1] == 1
    assert 0 < shape[3] == shape[2] < 1e-5


def test_sensitivities_that_are_nearly_no_numbers_shape_as_larger_ones_do():
    tiny = falling_shape(4, "calibrated", weights=[0, 1e-322, 1e-322, 1e-322])
    np.testing.assert_array_equal(tiny, falling_shape(4, "calibrated", weights=[0, 1, 1, 1]))


@pytest.mark.parametrize("tau", [-0.1, math.nan, math.inf])
def test_tau_that_is_no_height_is_refused(tau):
    for make in (lambda: linear_thresholds(5, tau), lambda: thresholds_at(tau, falling_shape(5))):
        with pytest.raises(ValueError, match="tau must be a finite height >= 0; got"):
            make()


@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_steps_are_refused(num_steps):
    for make in (lambda: linear_thresholds(num_steps, 1.0), lambda: falling_shape(num_steps)):
        with pytest.raises(ValueError, match=f"num_steps must be at least 1; got {num_steps}"):
            make()


@pytest.mark.parametrize("private_steps", [0, 6])
def test_private_steps_outside_the_run_are_refused(private_steps):
    message = rf"private_steps must lie between 1 and the number of steps \(5\); got {private_steps}"
    makers = [lambda name=name: falling_shape(5, name, private_steps, weights=np.ones(5)) for name in SHAPES]
    for make in (lambda: linear_thresholds(5, 1.0, private_steps), *makers):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sigmoid", {}, "shape must be one of linear, cosine, power, calibrated, trunk; got 'sigmoid'"),
        ("power", {"power": 0}, "power must be a finite number above 0; got 0"),
        ("power", {"power": -1.5}, "power must be a finite number above 0; got -1.5"),
        ("power", {"power": math.nan}, "power must be a finite number above 0; got nan"),
        ("power", {"power": math.inf}, "power must be a finite number above 0; got inf"),
        ("calibrated", {}, "needs the model's sensitivity at each step; measure it with Calibrate Schedule"),
        ("calibrated", {"weights": [1, 2]}, "needs the model's sensitivity at each step; measure it"),
        ("calibrated", {"weights": [1, np.nan, 1]}, "weights must be finite, not negative and not all 0; calibrate"),
        ("calibrated", {"weights": [1, np.inf, 1]}, "weights must be finite"),
        ("calibrated", {"weights": [1, -0.1, 1]}, "weights must be finite, not negative"),
        ("calibrated", {"weights": [0, 0, 0]}, "weights must be finite, not negative and not all 0"),
        ("calibrated", {"weights": [1, 1, 1], "metric": "l1"}, "metric must be one of cosine, chord; got 'l1'"),
    ],
)
def test_shape_that_cannot_be_made_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        falling_shape(3, name, **options)


# --- tau


def test_root_share_is_relative_to_the_highest_merge():
    Z = ward_linkage(np.random.default_rng(0).normal(size=(8, 4)))
    assert tau_for_root_share(Z, 0.5) == 0.5 * Z[-1, 2]
    assert build_plan(Z, linear_thresholds(5, tau_for_root_share(Z, 1.0))).steps[0].num_clusters == 1
    assert build_plan(Z, linear_thresholds(5, tau_for_root_share(Z, 0.999))).steps[0].num_clusters > 1
    assert tau_for_root_share(np.empty((0, 4)), 0.5) == 0


@pytest.mark.parametrize("share", [-0.5, math.nan, math.inf])
def test_root_share_that_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="root share must be a finite number >= 0; got"):
        tau_for_root_share(ward_linkage(np.eye(3)), share)


@given(problems(), st.floats(0, 1e9))
def test_thresholds_cut_off_at_the_root_make_the_same_clusters(problem, tau):
    Z, shape = problem
    whole, cut = thresholds_at(tau, shape), thresholds_at(tau, shape, Z)
    assert cut.max() <= tau_for_root_share(Z, 1.0)
    for step, other in zip(build_plan(Z, whole).steps, build_plan(Z, cut).steps, strict=True):
        np.testing.assert_array_equal(step.labels, other.labels)


@given(problems())
def test_reachable_savings_are_those_of_no_tau_and_of_any_large_one(problem):
    Z, shape = problem
    least, greatest = reachable_saving(Z, shape)
    assert least == pytest.approx(saved(Z, shape, 0.0), abs=1e-12)
    assert greatest == pytest.approx(saved(Z, shape, 1e9 / lowest(shape)), abs=1e-12)


@given(problems(), st.floats(0, 1))
def test_tau_saves_what_was_asked_for_and_no_smaller_tau_does(problem, share):
    Z, shape = problem
    _, greatest = reachable_saving(Z, shape)
    wanted = share * greatest
    tau = tau_for_saving(Z, shape, wanted)
    assert saved(Z, shape, tau) >= wanted - 1e-9
    if tau > 0:
        assert saved(Z, shape, tau * (1 - 1e-6)) < wanted


@given(problems())
def test_saving_of_a_plan_gives_that_plan_back(problem):
    Z, shape = problem
    top = tau_for_root_share(Z, 1.0)
    for tau in (0.0, 0.3 * top, 0.9 * top, 3.0 * top, 0.4 * top / lowest(shape)):
        wanted = saved(Z, shape, tau)
        found = tau_for_saving(Z, shape, wanted)
        assert saved(Z, shape, found) == wanted
        assert found <= tau * (1 + 1e-8)


@given(problems(max_prompts=6, max_steps=8), st.floats(0, 1))
def test_tau_is_the_first_breakpoint_that_saves_enough(problem, share):
    Z, shape = problem
    wanted = share * reachable_saving(Z, shape)[1]
    candidates = sorted({0.0} | {h / s * (1 + 1e-9) for h in Z[:, 2] for s in shape if s > 0})
    rounding = 1e-9 / ((np.count_nonzero(Z[:, 2]) + 1) * len(shape))  # of a row
    first = next(t for t in candidates if saved(Z, shape, t) >= wanted - rounding)
    assert tau_for_saving(Z, shape, wanted) == pytest.approx(first, rel=1e-8, abs=0)


def test_breakpoints_that_tie_fall_together():
    Z, shape = np.array([[0, 1, 0.5, 2], [2, 3, 0.5, 2], [4, 5, 1.0, 4]]), falling_shape(3)
    one_row = 1 / (4 * 3)
    assert saved(Z, shape, tau_for_saving(Z, shape, one_row)) == pytest.approx(2 * one_row)


def test_saving_counts_no_equal_prompts():
    Z = ward_linkage([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    shape = falling_shape(10)
    assert reachable_saving(Z, shape) == (0, 9 / 20)
    assert tau_for_saving(Z, shape, 0.01) > 0
    assert saved(Z, shape, tau_for_saving(Z, shape, 0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize("saving", [-0.01, 0.61, 1.0, math.nan])
@pytest.mark.parametrize("name", SHAPES)
def test_saving_out_of_reach_is_refused_with_what_is_reachable(saving, name):
    Z = ward_linkage(np.random.default_rng(1).normal(size=(4, 5)))
    shape = falling_shape(5, name, weights=np.ones(5))
    assert reachable_saving(Z, shape) == (0, pytest.approx(0.6))
    message = rf"saving must lie between 0 and 0.6000 for this set \(4 prompts, 5 steps, 1 unshared\); got {saving}"
    with pytest.raises(ValueError, match=message):
        tau_for_saving(Z, shape, saving)


@given(problems(), st.floats(0, 50))
def test_clamped_saving_is_reached_as_far_as_it_can_be(problem, saving):
    Z, shape = problem
    greatest = reachable_saving(Z, shape)[1]
    reached = saved(Z, shape, tau_for_saving(Z, shape, saving, clamp=True))
    assert reached >= min(saving, greatest) - 1e-9
    assert (out_of_reach(Z, shape, saving) is None) == (reached >= saving - 1e-9)


@pytest.mark.parametrize("saving", [-0.01, math.nan])
def test_clamping_takes_no_nonsense(saving):
    with pytest.raises(ValueError, match="saving must lie between 0 and"):
        tau_for_saving(ward_linkage(np.eye(3)), falling_shape(5), saving, clamp=True)


TWENTY = ward_linkage(np.random.default_rng(2).normal(size=(20, 8)))


@pytest.mark.parametrize(
    ("Z", "shape", "saving", "words"),
    [
        (TWENTY, falling_shape(12), 0.95, "20 prompts in 12 steps, 1 of them unshared, can save 87.1% at most"),
        (TWENTY, falling_shape(12), 60, "it is a share: 0.6 saves 60 %"),
        (np.empty((0, 4)), falling_shape(10), 0.6, "a single prompt can share no step, so nothing is saved"),
        (ward_linkage(np.ones((3, 2))), falling_shape(10), 0.6, "3 equal prompts, sampled once, can share no step"),
        (TWENTY, falling_shape(1), 0.6, "1 step, none of them shared, save nothing"),
        (TWENTY, falling_shape(4, private_steps=4), 0.6, "4 steps, none of them shared, save nothing"),
    ],
)
def test_saving_out_of_reach_is_said_in_words(Z, shape, saving, words):
    said = out_of_reach(Z, shape, saving)
    assert words in said
    assert f"saving {saving:g} ({saving:.1%}) is out of reach" in said


def test_single_prompt_saves_nothing():
    Z, shape = np.empty((0, 4)), falling_shape(10)
    assert reachable_saving(Z, shape) == (0, 0)
    assert tau_for_saving(Z, shape, 0.0) == tau_for_saving(Z, shape, 0.6, clamp=True) == 0
    with pytest.raises(ValueError, match="a single prompt can share no step, so nothing is saved; set it to 0"):
        tau_for_saving(Z, shape, 0.1)


# --- the calibrated shape leaves the least distortion: every other way to cut the tree is tried


@st.composite
def small_sets(draw):
    """(N, D) unit vectors, some equal or equally far apart, (K,) sensitivities in any order, and unshared steps."""
    rng = np.random.default_rng(draw(seeds))
    n, num_steps = draw(st.sampled_from([5, 4, 5, 3, 2])), draw(st.sampled_from([5, 4, 5, 3, 2]))
    far = np.sort(10 ** rng.uniform(-1.5, 0, size=(n, 1)), axis=0)  # so that merges are of unequal height
    rows = draw(st.sampled_from([[1, 1, 0, 0, 0] + far * rng.normal(size=(n, 5)), rng.normal(size=(n, 3)), np.eye(n)]))
    rows[n - draw(st.sampled_from([0, 0, 0, 1, 2])) :] = rows[0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit, draw(weights(num_steps)), draw(st.sampled_from([1, 1, min(2, num_steps - 1), num_steps - 1]))


def squared_error(unit, labels):
    """Equal prompts count once."""
    clusters = [np.unique(unit[labels == c], axis=0) for c in set(labels.tolist())]
    return sum(((rows - rows.mean(axis=0)) ** 2).sum() for rows in clusters)


def plan_distortion(plan, unit, w):
    return sum(w_k * squared_error(unit, step.labels) for w_k, step in zip(w, plan.steps, strict=True))


def every_nested_clustering(Z, unit, w, private_steps):
    """(NFE, distortion) of each way to let the tree's merges split: merge j at step K_j, none before its parent."""
    n, num_steps = len(unit), len(w)
    nodes, errors = [[i] for i in range(n)], []
    for a, b in Z[:, :2].astype(int):
        nodes.append(nodes[a] + nodes[b])
        parts = (np.unique(unit[nodes[i]], axis=0) for i in (len(nodes) - 1, a, b))
        whole, left, right = (((part - part.mean(axis=0)) ** 2).sum() for part in parts)
        errors.append(whole - left - right)
    children = [(j, int(i) - n) for j, pair in enumerate(Z[:, :2]) for i in pair if i >= n]
    # equal prompts never split
    splits = [range(num_steps - private_steps + 1) if height > 0 else [num_steps] for height in Z[:, 2]]
    before = np.append(0, np.cumsum(w))
    for K in product(*splits):
        if all(K[parent] <= K[child] for parent, child in children):
            yield n * num_steps - sum(K), sum(error * before[k] for error, k in zip(errors, K, strict=True))


@settings(max_examples=200)
@given(small_sets())
def test_calibrated_plans_leave_the_least_distortion_of_all_nested_clusterings_with_their_rows(small_set):
    unit, w, private_steps = small_set
    Z = ward_linkage(unit, "chord")
    shape = falling_shape(len(w), "calibrated", private_steps, weights=w, metric="chord")
    others = np.array(list(every_nested_clustering(Z, unit, w, private_steps)))
    rounding = 1e-11 * w.max() * squared_error(unit, np.zeros(len(unit)))
    all_rows = len(np.unique(unit, axis=0)) * len(w)
    savings = np.arange(round(reachable_saving(Z, shape)[1] * all_rows) + 1) / all_rows
    for tau in {tau_for_saving(Z, shape, saving) for saving in savings}:
        plan = build_plan(Z, thresholds_at(tau, shape, Z))
        least = others[others[:, 0] <= plan.nfe, 1].min()
        assert plan_distortion(plan, unit, w) <= least * (1 + 1e-9) + rounding


def test_the_search_finds_better_clusterings_than_the_straight_line():
    unit = np.random.default_rng(3).normal(size=(5, 4))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    Z, w = ward_linkage(unit, "chord"), np.array([1e-3, 1e-2, 0.1, 1, 2])
    shape = falling_shape(5)
    plan = build_plan(Z, thresholds_at(tau_for_saving(Z, shape, 0.4), shape))
    least = min(distortion for nfe, distortion in every_nested_clustering(Z, unit, w, 1) if nfe <= plan.nfe)
    assert plan_distortion(plan, unit, w) > 1.5 * least


def test_shape_alone_asks_for_the_metric_too():
    np.testing.assert_allclose(calibrated_shape([1, 4, 9], metric="chord"), [1, 1 / 2, 0])
    np.testing.assert_allclose(calibrated_shape([1, 4, 9], metric="cosine"), [1, 1 / 4, 0])


# --- Down to a noise level


def test_trunk_stays_at_its_first_value_until_the_unshared_steps():
    assert falling_shape(6, "trunk", 2).tolist() == [1, 1, 1, 1, 0, 0]
    assert falling_shape(3, "trunk", 3).tolist() == [0, 0, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1), st.integers(1, 3))
def test_unshared_steps_begin_with_the_first_at_the_level_or_below(levels, above, least):
    levels = sorted(levels, reverse=True)
    count = unshared_steps(levels, above, least)
    assert count == max(sum(level <= above for level in levels), least)


@pytest.mark.parametrize("above", [-0.1, 1.1, float("nan"), "much"])
def test_levels_that_are_none_are_refused(above):
    with pytest.raises(ValueError, match="share_above must be a noise level from 0 to 1"):
        unshared_steps([1, 0.5], above)


def test_levels_of_sigmas_are_those_of_their_kind_of_model():
    assert levels_of_sigmas([1, 0.6, 0.2, 0]).tolist() == [1, 0.6, 0.2]
    assert levels_of_sigmas([3, 1, 0.25, 0]).tolist() == [0.75, 0.5, 0.2]
    for bad in ([], [1], [[1, 0]]):
        with pytest.raises(ValueError, match="sigmas must be those of at least one step"):
            levels_of_sigmas(bad)
    for bad in ([1, -0.1], [1, float("nan"), 0], [0.5, 0.6, 0]):
        with pytest.raises(ValueError, match="sigmas must be finite, not negative, and not rise"):
            levels_of_sigmas(bad)
