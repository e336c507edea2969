"""Prompts with seeds of their own: a tree for each, in one plan, within one budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from hierdiff_core import Budget, Profile, PromptTree, Sensitivity, build_plan, plan_for
from hierdiff_core.plan.algebra import attach
from hierdiff_core.plan.budget import UNITS
from hierdiff_core.plan.joining import join
from hierdiff_core.plan.matching import check_plan_prompts
from hierdiff_core.plan.plan_file import plan_json, plan_of_json
from hierdiff_core.plan.profile import SHAPES
from hierdiff_core.prompts.rows import PromptRow, PromptRows

TEXTS = [f"prompt {i}" for i in range(12)]
SEEDS = (None, 7, 7, None, 3, 7, None, 3, 7, None, 9, 7)


def vectors(count=12, equal=0):
    rows = np.random.default_rng(count).normal(size=(count, 6))
    return np.concatenate([rows[: count - equal], rows[:equal]]) if equal else rows


def tree_of(seeds=SEEDS, rows=None, metric="chord"):
    rows = vectors(len(seeds)) if rows is None else rows
    return PromptTree.of(rows, metric, TEXTS[: len(seeds)], seeds=seeds)


def members(seeds):
    return [[i for i, own in enumerate(seeds) if own == seed] for seed in dict.fromkeys(seeds)]


def same_partition(one, other):
    pairs = len(set(zip(one.tolist(), other.tolist(), strict=True)))
    return pairs == len(set(one.tolist())) == len(set(other.tolist()))


def test_the_tree_of_each_seed_is_scipys():
    rows = vectors()
    tree = tree_of(rows=rows)
    assert tree.num_trees == 4
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for height in [0.0, *tree.heights, *(tree.heights * 0.99)]:
        steps = build_plan(tree.Z, [height, 0.0], seeds=tree.seeds).steps
        for own in members(SEEDS):
            scipys = linkage(unit[own], "ward") if len(own) > 1 else np.empty((0, 4))
            clusters = fcluster(scipys, height * (1 + 1e-9), "distance") if len(own) > 1 else np.ones(1)
            assert same_partition(steps[0].labels[own], clusters)
    for own in members(SEEDS):
        if len(own) > 1:
            assert np.isclose(tree.heights[:, None], linkage(unit[own], "ward")[:, 2], rtol=1e-9).any(axis=0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", UNITS)
def test_the_plan_is_the_seeds_plans_side_by_side(unit, shape):
    """At the same thresholds, however high tau is: prompts of different seeds share nothing."""
    rows, profile = vectors(), Profile(9, shape, sensitivity=Sensitivity(6, [1, 4, 5, 6], [1e-6, 0.16, 0.74, 1]))
    for value in (0.0, 0.3, 0.9, 100.0):
        plan = plan_for(tree_of(rows=rows), Budget(unit, value, clamp=True), profile)
        groups = members(SEEDS)
        parts = [
            PromptTree.of(rows[own], "chord", [TEXTS[i] for i in own], seeds=[SEEDS[i] for i in own]) for own in groups
        ]
        side_by_side = join(
            build_plan(part.Z, plan.thresholds, part.keys, prompts=part.prompts, seeds=part.seeds) for part in parts
        )
        order = np.argsort(np.concatenate(groups))
        assert plan.nfe == side_by_side.nfe
        assert plan.seeds == tuple(side_by_side.seeds[i] for i in order) == SEEDS
        for one, other in zip(plan.steps, side_by_side.steps, strict=True):
            assert same_partition(one.labels, other.labels[order])
            assert all(len({SEEDS[i] for i in own}) == 1 for own in one.members)


@given(
    st.lists(st.sampled_from([None, 1, 2, 2**64 - 1]), min_size=1, max_size=12),
    st.floats(0, 1),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_the_budget_holds_for_the_whole_set(seeds, saving, steps, equal):
    equal = min(equal, len(seeds) // 2)
    tree = tree_of(tuple(seeds), vectors(len(seeds), equal))
    budget = Budget("saving", saving, clamp=True)
    plan = plan_for(tree, budget, Profile(steps))
    greatest = plan_for(tree, Budget("saving", 1.0, clamp=True), Profile(steps)).saved
    reached = plan.saved >= min(saving, greatest) - 1e-9
    assert reached
    assert (budget.missed(tree, Profile(steps)) is None) == (saving <= greatest + 1e-9)
    assert plan.num_distinct == len({(seeds[i], tuple(vectors(len(seeds), equal)[i])) for i in range(len(seeds))})


def test_equal_prompts_of_other_seeds_are_prompts_of_their_own():
    rows = np.repeat(vectors(2), 3, axis=0)
    plan = plan_for(
        PromptTree.of(rows, "chord", ["a"] * 3 + ["b"] * 3, seeds=[1, 2, 1, 1, 2, None]),
        Budget("saving", 0.3),
        Profile(6),
    )
    assert plan.num_distinct == 5
    assert plan.steps[-1].num_clusters == 5
    assert plan.steps[-1].labels[0] == plan.steps[-1].labels[2]
    assert plan.branch_seeds(0) == [[1, 2, 1, 1, 2, None][i] for i in plan.steps[0].first]


def test_a_set_without_seeds_is_what_it_was():
    rows = vectors()
    plain, none = PromptTree.of(rows, "chord", TEXTS), tree_of((None,) * 12)
    assert none.seeds is None
    assert np.array_equal(plain.Z, none.Z)
    one = tree_of((5,) * 12)
    assert one.num_trees == 1
    assert np.array_equal(plain.Z, one.Z)


def test_seeds_come_with_the_prompts_and_stay_in_plans_and_files():
    prompts = PromptRows(PromptRow(text, seed=seed) for text, seed in zip(TEXTS, SEEDS, strict=True))
    plan = plan_for(PromptTree.of(vectors(), "chord", prompts), Budget("saving", 0.4), Profile(8))
    assert plan.seeds == plan.resampled(5).seeds == plan.straight_line().seeds == SEEDS
    assert np.array_equal(plan.tree.Z, tree_of().Z)
    again = plan_of_json(plan_json(plan))
    assert again.seeds == SEEDS
    assert [step.labels.tolist() for step in again.steps] == [step.labels.tolist() for step in plan.steps]
    assert b"seeds" not in plan_json(
        plan_for(PromptTree.of(vectors(), "chord", TEXTS), Budget("saving", 0.4), Profile(8))
    )
    check_plan_prompts(plan, prompts)
    check_plan_prompts(plan, TEXTS)  # plain texts say nothing of seeds
    other = PromptRows(replace(row, seed=8) if i == 4 else row for i, row in enumerate(prompts.rows))
    with pytest.raises(ValueError, match=r'prompt 4 \("prompt 4"\) has seed 3 in the plan, but seed 8 here'):
        check_plan_prompts(plan, other)


def test_plans_that_mix_seeds_or_seeds_that_are_none_are_refused():
    tree = tree_of()
    with pytest.raises(ValueError, match=r"have different seeds .* and cannot share a step"):
        build_plan(tree.Z, [100.0, 0.0], seeds=SEEDS)
    with pytest.raises(ValueError, match="Z must join a tree for each of 4 seeds"):
        PromptTree(PromptTree.of(vectors(), "chord").Z, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"seeds must be from 0 to 2\*\*64 - 1; got -1 at place 1"):
        tree_of((None, -1))
    with pytest.raises(ValueError, match="seeds must be a whole number; got '7'"):
        tree_of((None, "7"))
    plan = plan_for(tree, Budget("saving", 0.4), Profile(8))
    with pytest.raises(ValueError, match="seeds must be a whole number; got 'x'"):
        attach(plan, vectors(), vectors(1), [1], ["x"], seeds=["x"])
    data = plan_json(plan).replace(b"[null, 7,", b"[5, 7,")
    with pytest.raises(ValueError, match="Z must join a tree"):
        plan_of_json(data)


def test_prompts_hang_in_the_tree_of_their_seed_and_a_new_seed_begins_one():
    plan = plan_for(tree_of(), Budget("saving", 0.4), Profile(8))
    grown = attach(plan, vectors(), 0.9 * vectors(3) + 0.1, [1, 2, 3], ["x", "y", "z"], seeds=[7, None, 99])
    assert grown.seeds == (*SEEDS, 7, None, 99)
    for k, step in enumerate(grown.steps):
        assert all(len({grown.seeds[i] for i in rows}) == 1 for rows in step.members)
        before = plan.steps[k]
        for i in range(plan.num_prompts):
            ours, theirs = grown.steps[k].labels[i], before.labels[i]
            assert grown.branch_keys(k)[ours] == plan.branch_keys(k)[theirs]
            assert np.array_equal(grown.founders(k)[ours], plan.founders(k)[theirs])
    again = plan_of_json(plan_json(grown))
    assert [own.labels.tolist() for own in again.steps] == [own.labels.tolist() for own in grown.steps]
