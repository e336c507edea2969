"""Shards of a plan: each prompt in one of them, with the branches that it has in the whole plan, and balanced."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import assert_same_plan

from hierdiff_core import Budget, Profile, PromptTree, build_plan, plan_for, ward_linkage
from hierdiff_core.plan.algebra import alone, attach, only, removed, rerolled
from hierdiff_core.plan.guidance import GuidanceCourse
from hierdiff_core.plan.in_set import leaves_in_set, numbers_in_set, rows_in_set
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.shards import balanced, part_of, same_part, set_of_shard, shard_of, shared_out

settings.register_profile("core", deadline=None, max_examples=30)
settings.load_profile("core")


def rows_of(rng, count):
    rows = rng.normal(size=(count, 5)) + 2 * rng.normal(size=(count, 5))[rng.integers(max(count // 3, 1), size=count)]
    rows[rng.random(count) < 0.2] = rows[0]  # some are equal
    return rows


@st.composite
def plans(draw):
    """Plans as samplers get them: with seeds, variants, history, guidance."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, steps = draw(st.integers(2, 14)), draw(st.integers(1, 9))
    rows = rows_of(rng, count)
    keys = [int(key) for key in rng.permutation(100)[:count]]
    seeds = [None if seed == 0 else int(seed) for seed in rng.integers(0, 3, size=count)]
    texts = [str(key) for key in keys]
    if draw(st.booleans()):
        tree = PromptTree.of(rows, "chord", texts, seeds=seeds)
        tree = replace(tree, keys=tuple(keys))
    else:
        tree = PromptTree(ward_linkage(rows, "chord"), "chord", prompts=texts, keys=keys, vectors=rows)
    plan = plan_for(tree, Budget("saving", draw(st.floats(0, 0.9)), clamp=True), Profile(steps))
    if draw(st.booleans()):
        boosted = GuidanceCourse(boost=2.0, boost_steps=draw(st.integers(1, 4)), end=0.8)
        plan = replace(plan, guidance=boosted)
    for _ in range(draw(st.integers(0, 2))):
        if plan.num_prompts > 2:
            plan = removed(plan, int(rng.integers(plan.num_prompts)))
    if draw(st.booleans()) and plan.seeds is None and plan.num_leaves == count:
        new = rows_of(rng, 2)
        plan = attach(plan, rows, new, [1001, 1002], ["1001", "1002"])
    if draw(st.booleans()):
        leaves = plan.num_prompts if plan.frozen is None else plan.frozen.present
        own = rng.choice(leaves, size=min(3, plan.num_prompts), replace=False)
        plan = rerolled(plan, [Reroll(int(i), int(rng.integers(steps)), int(rng.integers(1, 3))) for i in own])
    return plan, draw(st.integers(1, plan.steps[-1].num_clusters))


def drawn(plan, k):
    """Of each prompt's branch at a step all that its picture depends on: keys, noise, seed, means, guidance."""
    texts = plan.prompts if plan.frozen is None else plan.frozen.tree.prompts
    factors = (plan.guidance or GuidanceCourse()).factors(plan)[k]
    branches = zip(
        plan.branch_keys(k),
        plan.noise_keys(k),
        plan.branch_seeds(k),
        plan.founders(k),
        plan.fresh(k),
        factors,
        strict=True,
    )
    made = [
        (key, noise, seed, tuple(texts[i] for i in own), bool(new), f) for key, noise, seed, own, new, f in branches
    ]
    return [made[c] for c in plan.steps[k].labels]


@given(plans())
def test_every_prompt_is_in_one_shard_and_keeps_its_branches(found):
    plan, count = found
    shards = [shard_of(plan, index, count) for index in range(1, count + 1)]
    numbers = [numbers_in_set(shard) for shard in shards]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(plan.num_prompts))
    for k in range(plan.num_steps):
        whole = drawn(plan, k)
        for shard, own in zip(shards, numbers, strict=True):
            assert (np.diff(own) > 0).all()
            assert drawn(shard, k) == [whole[i] for i in own]
    for shard, own in zip(shards, numbers, strict=True):
        assert shard.prompt_keys == tuple(plan.prompt_keys[i] for i in own)
        assert shard.prompts == tuple(plan.prompts[i] for i in own)
        for k, step in enumerate(shard.steps):  # they share with each other what they shared
            labels = plan.steps[k].labels[own]
            assert len(np.unique(np.stack([labels, step.labels]), axis=1).T) == step.num_clusters
            assert len(np.unique(labels)) == step.num_clusters


@given(plans())
def test_the_largest_shard_is_close_to_the_mean_and_the_rest_is_the_trunk(found):
    plan, count = found
    rows = [shard_of(plan, index, count).nfe for index in range(1, count + 1)]
    assert plan.nfe <= sum(rows) <= plan.nfe + (count - 1) * plan.num_steps  # each but the first at most a whole trunk
    assert max(rows) < plan.nfe / count + 2 * plan.num_steps


@given(st.lists(st.integers(1, 9), max_size=12), st.data())
def test_runs_are_as_even_as_any(apart, data):
    """Against every way to cut."""
    steps = 9
    count = data.draw(st.integers(1, len(apart) + 1))
    stops = balanced(np.array(apart, dtype=np.int64), steps, count)

    def largest(starts):
        stops = [*starts[1:], len(apart) + 1]
        return max(steps + sum(apart[a : b - 1]) for a, b in zip(starts, stops, strict=True))

    def ways(first, left):
        if left == 0:
            yield []
            return
        for cut in range(first, len(apart) + 1):
            yield from ([cut, *more] for more in ways(cut + 1, left - 1))

    assert len(stops) == count
    assert stops[-1] == len(apart) + 1
    assert largest([0, *stops[:-1]]) == min(largest([0, *cuts]) for cuts in ways(1, count - 1))


def a_plan(count=9, steps=6, saving=0.5):
    rows = rows_of(np.random.default_rng(3), count)
    return plan_for(
        PromptTree.of(rows, "chord", [f"p{i}" for i in range(count)]), Budget("saving", saving), Profile(steps)
    )


def test_the_same_plan_is_split_alike_and_one_shard_is_the_plan():
    plan = a_plan()
    for index in (1, 2, 3):
        assert_same_plan(
            replace(shard_of(plan, index, 3), part_of=None), replace(shard_of(a_plan(), index, 3), part_of=None)
        )
    assert shard_of(plan, 1, 1) is plan


def test_more_shards_than_prompts_are_refused():
    plan = build_plan([[0, 1, 0.0, 2], [2, 3, 0.5, 3]], [0.4, 0], prompt_keys=[7, 7, 9])
    with pytest.raises(
        ValueError, match="2 prompts that differ cannot be split into 3 shards; count must be at most 2"
    ):
        shard_of(plan, 1, 3)
    with pytest.raises(ValueError, match="1 prompt cannot be split into 2"):
        shard_of(build_plan(np.empty((0, 4)), [0], prompt_keys=[7]), 1, 2)


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (0, 2, "index must be from 1 to count, which is 2; got 0"),
        (3, 2, "which is 2; got 3"),
        (1, 0, "got 1"),
        (1.0, 2, "index must be a whole number"),
        (1, "2", "count must be a whole number; got '2'"),
    ],
)
def test_shards_that_are_not_there_are_refused(index, count, message):
    with pytest.raises(ValueError, match=message):
        shard_of(a_plan(), index, count)


def test_plans_that_cannot_be_taken_apart_say_why():
    with pytest.raises(ValueError, match="a plan without Z cannot be changed"):
        shard_of(alone(4, 3, [1, 2, 3, 4]), 1, 2)
    with pytest.raises(ValueError, match="without prompt_keys"):
        shard_of(build_plan([[0, 1, 0.5, 2]], [1, 0]), 1, 2)


def test_rows_of_a_shard_are_found_among_those_of_its_set():
    """By place, so that two prompts of one text, of different negatives, are not taken for each other."""
    tree = PromptTree.of(np.eye(4), "chord", ["a", "b", "a", "b"])
    plan = plan_for(tree, Budget("saving", 0.5), Profile(6))
    for index in (1, 2):
        shard = shard_of(plan, index, 2)
        rows = rows_in_set(shard, plan.prompt_keys)
        assert rows.tolist() == leaves_in_set(shard).tolist()
        assert [plan.prompt_keys[i] for i in rows] == list(shard.leaf_keys)
        assert rows_in_set(shard, plan.prompt_keys[::-1]) is None  # other inputs
        assert rows_in_set(shard, shard.prompt_keys) is None
    assert rows_in_set(plan, plan.prompt_keys) is None
    assert numbers_in_set(plan).tolist() == [0, 1, 2, 3]


def test_a_shard_of_a_shard_knows_the_whole_set():
    plan = a_plan(12)
    shard = shard_of(plan, 2, 2)
    inner = shard_of(shard, 2, 2)
    assert set_of_shard(inner) is plan
    assert [plan.prompts[i] for i in numbers_in_set(inner)] == list(inner.prompts)


def test_what_changes_a_shard_changes_its_set():
    plan = a_plan()
    shard = shard_of(plan, 1, 2)
    longer = shard.resampled(12)
    assert set_of_shard(longer).num_steps == 12
    again = part_of(plan.resampled(12), shared_out(plan, 2)[0])
    assert_same_plan(replace(longer, part_of=None), replace(again, part_of=None))
    other = rerolled(plan, [Reroll(int(numbers_in_set(shard)[0]), 1, 1)])
    assert same_part(shard, other).prompts == shard.prompts
    assert same_part(plan, other) is other
    assert only(shard, [0]).part_of is None  # numbers of the set would be others'
