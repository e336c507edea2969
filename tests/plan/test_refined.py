"""A plan whose prompts differ in more than their embeddings: properties for every tree and every grouping."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_isomorphic

from hierdiff_core import Budget, Profile, PromptTree, build_plan, linear_thresholds, plan_for, ward_linkage
from hierdiff_core.plan import algebra
from hierdiff_core.plan.matching import refined
from hierdiff_core.plan.plan_file import plan_json, plan_of_json

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


@st.composite
def grouped_sets(draw):
    """(N, 4) embeddings, some of them equal, keys of the prompts, and a group for each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(draw(st.integers(1, 10)), 4))
    rows = np.concatenate([rows, rows[rng.integers(len(rows), size=draw(st.integers(0, 3)))]])
    keys = rng.permutation(len(rows)) + 50
    return rows, keys.tolist(), rng.integers(draw(st.integers(1, 4)), size=len(rows))


def plan_of(rows, keys):
    Z = ward_linkage(rows)
    return build_plan(Z, linear_thresholds(5, 1.2 * float(Z[-1, 2]) if len(Z) else 1.0), keys)


@given(grouped_sets())
def test_prompts_share_where_they_did_and_are_of_one_group(given_set):
    rows, keys, groups = given_set
    plan = plan_of(rows, keys)
    fine = refined(plan, groups)
    before = np.zeros(plan.num_prompts, dtype=int)
    for step, coarse in zip(fine.steps, plan.steps, strict=True):
        together = (coarse.labels[:, None] == coarse.labels) & (groups[:, None] == groups)
        np.testing.assert_array_equal(step.labels[:, None] == step.labels, together)
        np.testing.assert_array_equal(step.parents[step.labels], before)  # so they nest
        np.testing.assert_array_equal(step.labels[step.first], np.arange(step.num_clusters))
        np.testing.assert_array_equal(step.counts, np.bincount(step.labels))
        before = step.labels
    assert fine.nfe >= plan.nfe
    assert (fine is plan) == (fine.nfe == plan.nfe)
    assert fine.num_distinct == fine.steps[-1].num_clusters
    assert fine.nfe <= fine.nfe_standard


@given(grouped_sets())
def test_keys_are_the_smallest_of_the_members(given_set):
    rows, keys, groups = given_set
    fine = refined(plan_of(rows, keys), groups)
    for k, step in enumerate(fine.steps):
        assert fine.branch_keys(k) == [min(keys[i] for i in members) for members in step.members]


@given(grouped_sets(), st.randoms(use_true_random=False))
def test_order_of_the_prompts_changes_neither_clusters_nor_keys(given_set, random):
    rows, keys, groups = given_set
    order = list(range(len(rows)))
    random.shuffle(order)
    fine = refined(plan_of(rows, keys), groups)
    other = refined(plan_of(rows[order], [keys[i] for i in order]), groups[order] * 7 - 3)  # numbers are but names
    for k, (step, again) in enumerate(zip(fine.steps, other.steps, strict=True)):
        assert is_isomorphic(step.labels[order], again.labels)
        assert sorted(fine.branch_keys(k)) == sorted(other.branch_keys(k))


@given(grouped_sets())
def test_refining_twice_is_refining_by_both(given_set):
    rows, keys, groups = given_set
    plan, others = plan_of(rows, keys), np.arange(len(rows)) % 2
    twice, once = refined(refined(plan, groups), others), refined(plan, groups * 2 + others)
    for step, again in zip(twice.steps, once.steps, strict=True):
        assert is_isomorphic(step.labels, again.labels)
    assert twice.num_distinct == once.num_distinct


def test_refined_plan_knows_no_tree_that_could_be_cut_again():
    plan = plan_of(np.eye(3), [1, 2, 3])
    fine = refined(plan, [0, 1, 1])
    assert (fine.Z, fine.tree, fine.distortion) == (None, None, None)
    with pytest.raises(ValueError, match="without Z cannot be cut again"):
        fine.resampled(3)


def test_plans_made_by_hand_are_refined_too():
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    known = plan_of(rows, [1, 2, 3])
    by_hand = replace(known, Z=None, merge_errors=None, differ=known.distinct)
    assert refined(by_hand, [0, 0, 1]).num_distinct == 2
    assert refined(by_hand, [0, 1, 1]).num_distinct == 3


def test_groups_must_be_one_for_each_prompt():
    plan = plan_of(np.eye(3), [1, 2, 3])
    with pytest.raises(ValueError, match=r"groups must have shape \(3,\), one for each prompt; got \(2,\)"):
        refined(plan, [0, 1])


def test_of_a_plan_with_a_history_each_group_keeps_its_own():
    rows = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.96, 0.28]])
    tree = PromptTree.of(rows, "chord", ["a cat", "a lynx", "a bus", "a kitten"])
    plan = plan_for(tree, Budget("saving", 0.6), Profile(10))
    smaller = algebra.removed(plan, 0)
    apart = refined(smaller, [0, 1, 1])
    for k, step in enumerate(apart.steps):
        assert step.labels[0] not in step.labels[1:]
        assert all(len(own) for own in apart.founders(k))
        assert (step.labels[1] == step.labels[2]) == (smaller.steps[k].labels[1] == smaller.steps[k].labels[2])
    assert plan_of_json(plan_json(apart)).branch_keys(0) == apart.branch_keys(0)
