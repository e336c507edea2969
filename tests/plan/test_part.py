"""Parts of a plan: renumbered, but the same clusters, parents and means."""

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import Plan, Step, build_plan, linear_thresholds, ward_linkage
from hierdiff_core.plan.algebra import attach, edited, removed
from hierdiff_core.plan.part import below, below_each, whole

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


@st.composite
def plans(draw):
    """Plans of up to 12 prompts, some of them equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 9))
    rows = rng.normal(size=(n + draw(st.integers(0, 3)), 3))
    rows[n:] = rows[rng.integers(n, size=len(rows) - n)]
    return build_plan(ward_linkage(rows), linear_thresholds(draw(st.integers(1, 8)), draw(st.floats(0, 3))))


def check(part, plan):
    """That a part says of its prompts what the plan says."""
    labels = [step.labels[part.prompts] for step in plan.steps]
    assert part.start + len(part.steps) == plan.num_steps
    assert part.counted.tolist() == sorted(set(part.prompts.tolist()) & set(plan.distinct.tolist()))
    for k, step in enumerate(part.steps, part.start):
        assert step.clusters.tolist() == sorted(set(labels[k].tolist()))
        assert step.clusters[step.labels].tolist() == labels[k].tolist()
        assert step.counts.tolist() == np.bincount(step.labels[part.distinct]).tolist()
        if k > part.start:
            before = part.steps[k - part.start - 1].clusters
            assert before[step.parents].tolist() == plan.steps[k].parents[step.clusters].tolist()


@given(plans())
def test_the_whole_plan_is_a_part(plan):
    part = whole(plan)
    check(part, plan)
    assert part.start == 0
    assert part.prompts.tolist() == list(range(plan.num_prompts))
    for step, same in zip(part.steps, plan.steps, strict=True):
        assert step.parents.tolist() == same.parents.tolist()
        assert step.labels.tolist() == same.labels.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda plan, rows: attach(plan, rows, [[0.96, 0.28]], [4], metric="chord"),
        lambda plan, rows: edited(plan, 1, rows, [0.96, 0.28], 4, metric="chord"),
        lambda plan, rows: removed(plan, 0),
    ],
    ids=["attached", "edited", "removed"],
)
def test_a_part_of_a_changed_plan_knows_what_its_means_are_made_of(change):
    rows = [[1, 0], [0.8, 0.6], [0, 1]]
    plan = build_plan(ward_linkage(rows, "chord"), [1.5, 0.7, 0], [1, 2, 3])
    assert whole(plan).steps[0].founders is None
    plan = change(plan, rows)
    part = whole(plan)
    for k in range(3):
        leaves, clusters = part.means_of(k)
        assert [leaves[clusters == c].tolist() for c in range(len(part.steps[k].counts))] == [
            own.tolist() for own in plan.founders(k)
        ]
        assert np.bincount(clusters).tolist() == part.steps[k].counts.tolist()
        alone = below(part, k, np.array([0]))
        assert alone.means_of(0)[0].tolist() == plan.founders(k)[0].tolist()
        assert set(alone.means_of(0)[1].tolist()) == {0}


def test_founders_that_are_not_known_leave_the_mean_to_the_others():
    plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0], [7, 8, 9])
    smaller = removed(plan, 0)
    assert smaller.leaf_keys == (7, 8, 9)
    part = whole(smaller, np.array([False, True, True]))
    assert [part.means_of(k)[0].tolist() for k in range(3)] == [[1, 2], [1, 2], [1, 2]]
    assert [step.counts.tolist() for step in part.steps] == [[2], [1, 1], [1, 1]]


@given(plans(), st.data())
def test_what_is_below_some_clusters_is_the_plan_of_their_prompts(plan, data):
    part = whole(plan)
    for _ in range(data.draw(st.integers(1, 3), label="times")):
        i = data.draw(st.integers(0, len(part.steps) - 1), label="step")
        step = part.steps[i]
        some = st.lists(st.sampled_from(range(len(step.parents))), min_size=1, unique=True)
        clusters = np.array(sorted(data.draw(some, label="clusters")))
        smaller = below(part, i, clusters)
        check(smaller, plan)
        assert smaller.start == part.start + i
        assert smaller.steps[0].clusters.tolist() == step.clusters[clusters].tolist()
        assert smaller.steps[0].parents.tolist() == step.parents[clusters].tolist()  # rows before it stay what they are
        part = smaller


@given(plans(), st.integers(0, 7), st.integers(1, 4))
def test_parts_of_a_step_hold_each_prompt_once(plan, i, count):
    part = whole(plan)
    i = min(i, plan.num_steps - 1)
    clusters = np.array_split(np.arange(len(part.steps[i].parents)), min(count, len(part.steps[i].parents)))
    prompts = np.concatenate([below(part, i, some).prompts for some in clusters])
    assert sorted(prompts.tolist()) == list(range(plan.num_prompts))


def test_clusters_may_be_numbered_in_any_order():
    halves = Step(np.array([1, 0, 1, 0]), np.array([1, 0]), np.array([2, 2]), parents=np.array([0, 0]))
    each = Step(np.array([0, 1, 3, 2]), np.array([0, 1, 3, 2]), np.ones(4, dtype=int), parents=np.array([1, 0, 0, 1]))
    part = below(whole(Plan(np.array([1.0, 0.0]), (halves, each))), 0, np.array([1]))
    assert part.prompts.tolist() == [0, 2]
    assert [step.clusters.tolist() for step in part.steps] == [[1], [0, 3]]
    assert [step.parents.tolist() for step in part.steps] == [[0], [0, 0]]


def test_a_part_travels_as_plain_numbers():
    plan = build_plan(np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]]), [0.25, 0.15, 0])
    check(pickle.loads(pickle.dumps(below(whole(plan), 1, np.array([1, 2])))), plan)


def assert_same_part(part, other):
    assert (part.start, part.guidance) == (other.start, other.guidance)
    for own, theirs in [(part, other), *zip(part.steps, other.steps, strict=True)]:
        for field in fields(own):
            value, expected = getattr(own, field.name), getattr(theirs, field.name)
            if isinstance(expected, np.ndarray):
                np.testing.assert_array_equal(value, expected)
                assert value.dtype == expected.dtype
            elif field.name != "steps":
                assert value == expected


@given(plans(), st.data())
def test_groups_of_a_step_are_dealt_out_at_once_as_one_by_one(plan, data):
    if plan.num_prompts > 2 and data.draw(st.booleans()):
        plan = removed(replace(plan, prompt_keys=tuple(range(plan.num_prompts))), 1)  # its means have founders
    part = whole(plan)
    for _ in range(2):  # of the whole, then of a part
        i = data.draw(st.integers(0, len(part.steps) - 1))
        count = len(part.steps[i].parents)
        group = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
        groups = [own for own in (np.flatnonzero(group == g) for g in range(3)) if len(own)]  # the fourth is left out
        found = below_each(part, i, groups)
        assert len(found) == len(groups)
        for own, clusters in zip(found, groups, strict=True):
            assert_same_part(own, below(part, i, clusters))
        if not found:
            return
        part = found[-1]
