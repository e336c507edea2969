"""The course of guidance: where there is any, how much after a split, and what it costs."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import GuidanceCourse, build_plan, linear_thresholds, read_plan, ward_linkage, write_plan
from hierdiff_core.plan.algebra import alone, attach, removed
from hierdiff_core.plan.joining import join
from hierdiff_core.plan.matching import refined, separated
from hierdiff_core.plan.part import below, whole
from hierdiff_core.plan.plan_file import plan_json, plan_of_json

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

COURSE = GuidanceCourse(0.1, 0.6, 2, 3, 0.4)


@st.composite
def plans(draw):
    """Plans of up to 9 prompts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(draw(st.integers(1, 9)), 3))
    return build_plan(ward_linkage(rows), linear_thresholds(draw(st.integers(1, 12)), draw(st.floats(0, 3))))


@st.composite
def courses(draw):
    start, end = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return GuidanceCourse(start, end, draw(st.floats(0.1, 5)), draw(st.integers(0, 6)), draw(st.floats(0, 1)))


def factor_of(plan, course, levels, k, i):
    """Of prompt i in step k, told by its own path through the steps."""
    if not round(course.start * plan.num_steps) <= k < round(course.end * plan.num_steps):
        return 0.0
    sizes = [int((step.labels == step.labels[i]).sum()) for step in plan.steps[: k + 1]]
    splits = [j for j in range(1, k + 1) if sizes[j] < sizes[j - 1]]
    recent = bool(splits) and k - splits[-1] < course.boost_steps
    return course.boost if recent and levels[k] > course.boost_above else 1.0


@given(plans(), courses(), st.integers(0, 2**32 - 1))
def test_factors_are_what_each_prompts_path_says(plan, course, seed):
    levels = np.sort(np.random.default_rng(seed).uniform(size=plan.num_steps))[::-1]
    factors = course.factors(plan, levels)
    assert [len(own) for own in factors] == plan.clusters_per_step.tolist()
    for k, step in enumerate(plan.steps):
        wanted = [factor_of(plan, course, levels, k, i) for i in range(plan.num_prompts)]
        assert factors[k][step.labels].tolist() == wanted


@given(plans(), courses())
def test_passes_are_two_inside_the_interval_and_one_outside(plan, course):
    factors = course.factors(plan, np.ones(plan.num_steps))
    assert course.passes(plan) == sum(int((own > 0).sum()) + len(own) for own in factors)
    assert GuidanceCourse().passes(plan) == 2 * plan.nfe
    assert GuidanceCourse(0.5, 0.5).passes(plan) == plan.nfe


def test_interval_begins_and_ends_at_the_nearest_step():
    assert np.flatnonzero(GuidanceCourse(0.26, 0.74).inside(10)).tolist() == [3, 4, 5, 6]
    assert GuidanceCourse(0, 0.3).inside(4).tolist() == [True, False, False, False]
    assert not GuidanceCourse(1, 1).inside(5).any()


def test_levels_are_asked_for_only_where_they_matter():
    plan = build_plan([[0, 1, 0.5, 2]], [1, 0])
    with pytest.raises(ValueError, match="levels are needed: boost_above is a noise level"):
        COURSE.factors(plan)
    with pytest.raises(ValueError, match=r"levels must have shape \(2,\), one for each step; got \(3,\)"):
        COURSE.factors(plan, [1, 1, 1])
    assert GuidanceCourse(boost_above=0.4).factors(plan)[1].tolist() == [1, 1]
    at_the_level = GuidanceCourse(boost=2, boost_steps=1, boost_above=0.5)
    assert at_the_level.factors(plan, [1, 0.5])[1].tolist() == [1, 1]
    assert at_the_level.factors(plan, [1, 0.51])[1].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": -0.1}, "guidance must start and end between 0 and 1"),
        ({"end": 1.1}, "guidance must start and end between 0 and 1"),
        ({"start": 0.6, "end": 0.5}, "not end before it starts; got 0.6 and 0.5"),
        ({"start": float("nan")}, "start must be a finite number; got nan"),
        ({"end": "1"}, "end must be a finite number; got '1'"),
        ({"boost": 0}, "boost must be above 0, and 100 at most; got 0.0"),
        ({"boost": 101}, "boost must be above 0, and 100 at most; got 101.0"),
        ({"boost": float("inf")}, "boost must be a finite number; got inf"),
        ({"boost_steps": -1}, "boost_steps must be at least 0; got -1"),
        ({"boost_steps": 1.5}, "boost_steps must be a whole number; got 1.5"),
        ({"boost_above": 1.5}, "boost_above must be a noise level from 0 to 1; got 1.5"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        GuidanceCourse(**values)


def test_plans_made_from_a_plan_keep_its_guidance():
    rows = np.random.default_rng(0).normal(size=(5, 4))
    thresholds = linear_thresholds(8, 1.5)
    plan = replace(build_plan(ward_linkage(rows), thresholds, range(5)), guidance=COURSE, metric="chord")
    assert plan.resampled(5).guidance == plan.straight_line().guidance == COURSE
    assert removed(plan, 1).guidance == attach(plan, rows, rows[:1] + 0.1, [9]).guidance == COURSE
    assert separated(plan, [0, 1, 1, 1, 1]).guidance == refined(plan, [0, 1, 1, 1, 1]).guidance == COURSE
    assert whole(plan).guidance == below(whole(plan), 7, np.array([0])).guidance == COURSE
    assert join([plan, plan]).guidance == COURSE
    with pytest.raises(ValueError, match="plans to join must have the same guidance"):
        join([plan, alone(2, 8)])
    assert build_plan(plan.Z, thresholds).guidance is None


@given(courses())
def test_guidance_comes_back_from_a_file_bit_for_bit(course):
    plan = replace(build_plan([[0, 1, 0.5, 2]], [1, 0]), guidance=course)
    assert plan_of_json(plan_json(plan)).guidance == course


def test_files_without_guidance_are_read(tmp_path):
    plan = build_plan([[0, 1, 0.5, 2]], [1, 0])
    write_plan(plan, tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data.pop("guidance") is None
    (tmp_path / "plan.json").write_text(json.dumps(data))
    assert read_plan(tmp_path / "plan.json").guidance is None


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        (3, "guidance must hold boost, .* and nothing else; got 3"),
        ({"start": 0}, "guidance must hold boost, .* and nothing else"),
        ({**asdict(COURSE), "more": 1}, "guidance must hold boost, .* and nothing else"),
        ({**asdict(COURSE), "end": "1"}, "end of guidance must be a number; got '1'"),
        ({**asdict(COURSE), "boost_steps": True}, "boost_steps of guidance must be a number"),
        ({**asdict(COURSE), "end": 7}, "guidance: guidance must start and end between 0 and 1"),
        ({**asdict(COURSE), "boost": float("nan")}, "guidance: boost must be a finite number"),
    ],
)
def test_files_with_bad_guidance_are_refused_by_name(guidance, message):
    plan = build_plan([[0, 1, 0.5, 2]], [1, 0])
    with pytest.raises(ValueError, match=message):
        plan_of_json(json.dumps({**json.loads(plan_json(plan)), "guidance": guidance}))
