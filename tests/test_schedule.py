"""Thresholds, and the tau that meets a budget: checked against counting on the plan itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import build_plan, linear_thresholds, reachable_saving, tau_for_root_share, tau_for_saving
from hierdiff_core.linkage import METRICS, ward_linkage

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


@st.composite
def problems(draw, max_prompts=14, max_steps=60):
    """Z, K and private steps; some prompts are equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, max_prompts))
    rows = rng.normal(size=(n, 5))
    rows = np.concatenate([rows, rows[rng.integers(n, size=draw(st.integers(0, 3)))]])
    num_steps = draw(st.integers(1, max_steps))
    return ward_linkage(rows, draw(st.sampled_from(METRICS))), num_steps, draw(st.integers(1, num_steps))


def saved(Z, num_steps, tau, private_steps):
    return build_plan(Z, linear_thresholds(num_steps, tau, private_steps)).saved


@given(st.integers(1, 200), st.floats(0, 1e6))
def test_thresholds_are_the_papers_straight_line(num_steps, tau):
    thresholds = linear_thresholds(num_steps, tau)
    expected = np.linspace(0, tau, num_steps)[::-1]
    np.testing.assert_array_equal(thresholds, expected)
    assert thresholds[-1] == 0


def test_first_threshold_is_tau_itself():
    assert linear_thresholds(40, 0.7)[0] == 0.7


def test_private_steps_have_threshold_zero_and_the_others_do_not_move():
    line = linear_thresholds(6, 1.0)
    np.testing.assert_array_equal(linear_thresholds(6, 1.0, private_steps=3), [*line[:3], 0, 0, 0])
    np.testing.assert_array_equal(linear_thresholds(6, 1.0, private_steps=6), np.zeros(6))


@pytest.mark.parametrize("tau", [-0.1, math.nan, math.inf])
def test_tau_that_is_no_height_is_refused(tau):
    with pytest.raises(ValueError, match="tau must be a finite height >= 0; got"):
        linear_thresholds(5, tau)


@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_steps_are_refused(num_steps):
    Z = ward_linkage(np.eye(3))
    for make in (lambda: linear_thresholds(num_steps, 1.0), lambda: reachable_saving(Z, num_steps)):
        with pytest.raises(ValueError, match=f"num_steps must be at least 1; got {num_steps}"):
            make()


@pytest.mark.parametrize("private_steps", [0, 6])
def test_private_steps_outside_the_run_are_refused(private_steps):
    Z = ward_linkage(np.eye(3))
    message = rf"private_steps must lie between 1 and the number of steps \(5\); got {private_steps}"
    for make in (
        lambda: linear_thresholds(5, 1.0, private_steps),
        lambda: reachable_saving(Z, 5, private_steps),
        lambda: tau_for_saving(Z, 5, 0.1, private_steps),
    ):
        with pytest.raises(ValueError, match=message):
            make()


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


@given(problems())
def test_reachable_savings_are_those_of_no_tau_and_of_any_large_one(problem):
    Z, num_steps, private_steps = problem
    least, greatest = reachable_saving(Z, num_steps, private_steps)
    assert least == pytest.approx(saved(Z, num_steps, 0.0, private_steps), abs=1e-12)
    assert greatest == pytest.approx(saved(Z, num_steps, 1e9, private_steps), abs=1e-12)


@given(problems(), st.floats(0, 1))
def test_tau_saves_what_was_asked_for_and_no_smaller_tau_does(problem, share):
    Z, num_steps, private_steps = problem
    _, greatest = reachable_saving(Z, num_steps, private_steps)
    wanted = share * greatest
    tau = tau_for_saving(Z, num_steps, wanted, private_steps)
    assert saved(Z, num_steps, tau, private_steps) >= wanted - 1e-9
    if tau > 0:
        assert saved(Z, num_steps, tau * (1 - 1e-6), private_steps) < wanted


@given(problems())
def test_saving_of_a_plan_gives_that_plan_back(problem):
    Z, num_steps, private_steps = problem
    top = tau_for_root_share(Z, 1.0)
    for tau in (0.0, 0.3 * top, 0.9 * top, 3.0 * top):
        wanted = saved(Z, num_steps, tau, private_steps)
        found = tau_for_saving(Z, num_steps, wanted, private_steps)
        assert saved(Z, num_steps, found, private_steps) == wanted
        assert found <= tau * (1 + 1e-8)


@given(problems(max_prompts=6, max_steps=8), st.floats(0, 1))
def test_tau_is_the_first_breakpoint_that_saves_enough(problem, share):
    Z, num_steps, private_steps = problem
    wanted = share * reachable_saving(Z, num_steps, private_steps)[1]
    shape = linear_thresholds(num_steps, 1.0, private_steps)
    candidates = sorted({0.0} | {h / s * (1 + 1e-9) for h in Z[:, 2] for s in shape if s > 0})
    first = next(t for t in candidates if saved(Z, num_steps, t, private_steps) >= wanted - 1e-9)
    assert tau_for_saving(Z, num_steps, wanted, private_steps) == pytest.approx(first, rel=1e-8, abs=0)


def test_breakpoints_that_tie_fall_together():
    Z = np.array([[0, 1, 0.5, 2], [2, 3, 0.5, 2], [4, 5, 1.0, 4]])
    one_row = 1 / (4 * 3)
    assert saved(Z, 3, tau_for_saving(Z, 3, one_row), 1) == pytest.approx(2 * one_row)


def test_saving_that_equal_prompts_give_for_nothing_needs_no_tau():
    Z = ward_linkage([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert tau_for_saving(Z, 10, 1 / 3) == 0
    assert tau_for_saving(Z, 10, 1 / 3 + 0.01) > 0


@pytest.mark.parametrize("saving", [-0.01, 0.61, 1.0, math.nan])
def test_saving_out_of_reach_is_refused_with_what_is_reachable(saving):
    Z = ward_linkage(np.random.default_rng(1).normal(size=(4, 5)))
    assert reachable_saving(Z, 5) == (0, pytest.approx(0.6))
    message = rf"saving must lie between 0 and 0.6000 for this set \(4 prompts, 5 steps, 1 private\); got {saving}"
    with pytest.raises(ValueError, match=message):
        tau_for_saving(Z, 5, saving)


def test_single_prompt_saves_nothing():
    Z = np.empty((0, 4))
    assert reachable_saving(Z, 10) == (0, 0)
    assert tau_for_saving(Z, 10, 0.0) == 0
    with pytest.raises(ValueError, match=r"between 0 and 0\.0000"):
        tau_for_saving(Z, 10, 0.1)
