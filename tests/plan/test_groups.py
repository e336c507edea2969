"""Sets in groups: whole subtrees of a size, whose plans are what they are in the set."""

import itertools

import numpy as np
import pytest

from hierdiff_core import build_plan, linear_thresholds, ward_linkage
from hierdiff_core.plan.algebra import alone, removed, rerolled
from hierdiff_core.plan.groups import groups_in_order, part_of
from hierdiff_core.plan.joining import join
from hierdiff_core.plan.rerolls import Reroll

K = 9


def random_plan(seed, count=14):
    rows = np.random.default_rng(seed).normal(size=(count, 6))
    rows[3] = rows[1]  # equal pictures
    Z = ward_linkage(rows)
    keys = [100 + i for i in range(count)]
    keys[3] = keys[1]
    plan = build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * (0.6 + seed % 3 * 0.3)), keys)
    plan = rerolled(plan, [Reroll(5, 4, 1), Reroll(8, 0, 2)]) if seed % 2 else plan
    return removed(plan, 2) if seed % 5 == 0 else plan


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 4])
def test_each_prompt_is_in_one_group_with_the_branches_that_it_has(seed, size):
    plan = random_plan(seed)
    groups = groups_in_order(plan, size)
    assert sorted(np.concatenate(groups).tolist()) == list(range(plan.num_prompts))
    last = plan.steps[-1].labels
    for group in groups:
        assert len(set(last[group].tolist())) <= size
        assert group.tolist() == sorted(group.tolist())
        part, leaves = part_of(plan, group)
        keys = plan.leaf_keys or ()
        assert part.leaf_keys == tuple(keys[leaf] for leaf in leaves)
        for k in range(K):
            places = {int(plan.steps[k].labels[i]): int(part.steps[k].labels[j]) for j, i in enumerate(group)}
            for whole, own in places.items():
                assert part.noise_keys(k)[own] == plan.noise_keys(k)[whole]
                assert sorted(leaves[part.founders(k)[own]]) == sorted(plan.founders(k)[whole])


def test_groups_are_whole_subtrees_and_as_large_as_they_may_be():
    plan = random_plan(1)
    groups = groups_in_order(plan, 5)
    for before, after in itertools.pairwise(groups):
        assert len(set(plan.steps[-1].labels[np.concatenate([before, after])].tolist())) > 5
    assert [len(group) for group in groups_in_order(plan, 100)] == [plan.num_prompts]


def test_a_part_of_a_run_is_grouped_by_its_own_steps():
    plan = random_plan(2)
    early = groups_in_order(plan, 1, range(2))
    assert len(early) == plan.steps[1].num_clusters


def test_what_cannot_be_taken_apart_says_why():
    with pytest.raises(ValueError, match="without Z cannot be changed"):
        part_of(alone(4, 3), [0, 1])
    with pytest.raises(ValueError, match="without prompt_keys"):
        part_of(build_plan(ward_linkage(np.eye(3)), [1.0, 0]), [0])
    with pytest.raises(ValueError, match="size must be at least 1"):
        groups_in_order(join([alone(1, 2), alone(1, 2)]), 0)
