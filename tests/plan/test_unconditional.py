"""Which clusters take one unconditional row: counted by hand, by the tree, and where they must not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import Budget, GuidanceCourse, Profile, PromptTree, build_plan, plan_for
from hierdiff_core.plan.algebra import rerolled
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.unconditional import rows_of_families, unconditional_families

Z = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]])
PLAN = build_plan(Z, [0.4, 0.25, 0.25, 0.05, 0])


def families(plan, negatives=None):
    return [own.tolist() for own in unconditional_families(plan, None if negatives is None else np.array(negatives))]


def test_children_take_one_row_in_the_step_that_parts_them():
    assert PLAN.clusters_per_step.tolist() == [1, 2, 2, 4, 4]
    assert families(PLAN) == [[0], [0, 0], [0, 1], [0, 0, 2, 2], [0, 1, 2, 3]]


def test_the_course_counts_them_in_its_interval():
    rows = rows_of_families(unconditional_families(PLAN))
    assert rows.tolist() == [1, 1, 2, 2, 4]
    assert GuidanceCourse().passes(PLAN, rows) == 2 * PLAN.nfe - 3
    assert GuidanceCourse(end=0.4).passes(PLAN, rows) == PLAN.nfe + 2
    assert GuidanceCourse(0.6, 0.6).passes(PLAN, rows) == PLAN.nfe


@given(st.integers(2, 12), st.integers(1, 9), st.sampled_from([0.0, 0.3, 0.6]), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_as_many_are_saved_as_there_are_prompts_less_one_for_each_seed(prompts, steps, saving, seed):
    rng = np.random.default_rng(seed)
    tree = PromptTree.of(rng.normal(size=(prompts, 3)), "cosine", seeds=([None, 7][: 1 + seed % 2] * prompts)[:prompts])
    plan = plan_for(tree, Budget("saving", saving, clamp=True), Profile(steps))
    saved = plan.nfe - rows_of_families(unconditional_families(plan)).sum()
    assert saved == plan.steps[-1].num_clusters - len(plan.groups()[1])


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        ([0, 0, 0, 0], [[0], [0, 0], [0, 1], [0, 0, 2, 2], [0, 1, 2, 3]]),
        ([0, 0, 1, 1], [[0], [0, 1], [0, 1], [0, 0, 2, 2], [0, 1, 2, 3]]),
        ([0, 1, 0, 0], [[0], [0, 1], [0, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
    ],
)
def test_other_negatives_and_means_of_several_share_with_none(negatives, expected):
    assert families(PLAN, negatives) == expected


def test_branches_that_begin_anew_share_with_none():
    plan = rerolled(replace(PLAN, prompt_keys=(1, 2, 3, 4)), [Reroll(3, 3, 1)])
    assert families(plan)[3] == [0, 0, 2, 3]
    first = rerolled(replace(PLAN, prompt_keys=(1, 2, 3, 4)), [Reroll(3, 0, 1)])
    assert families(first)[0] == [0, 1]
