"""The plan of one prompt out of a set, unshared."""

from dataclasses import replace

import pytest

from hierdiff_core import Budget, GuidanceCourse, Profile, PromptTree, build_plan, plan_for
from hierdiff_core.plan.algebra import attach, removed
from hierdiff_core.plan.one_prompt import one_unshared, set_of

TEXTS = ["a cat", "a lynx", "a bus"]
ROWS = [[1, 0], [0.8, 0.6], [0, 1]]


@pytest.fixture
def plan():
    return plan_for(PromptTree.of(ROWS, "chord", TEXTS), Budget("saving", 0.4), Profile(10))


@pytest.mark.parametrize("i", range(3))
def test_it_shares_nothing_and_has_the_prompts_key(plan, i):
    alone = one_unshared(plan, i)
    assert (alone.num_prompts, alone.nfe, alone.saved) == (1, 10, 0)
    assert (alone.prompts, alone.prompt_keys) == ((TEXTS[i],), (plan.prompt_keys[i],))
    assert all(alone.branch_keys(k) == [plan.prompt_keys[i]] for k in range(10))
    assert alone.one_of == (plan, i)
    assert set_of(alone) is plan
    assert set_of(plan) is plan
    assert alone.resampled(7).nfe == 7  # a run of another number of steps, which knows its set still
    assert alone.resampled(7).one_of == (plan, i)


def test_the_plans_guidance_and_measurements_are_not_its_own(plan):
    guided = replace(plan, guidance=GuidanceCourse(end=0.5))
    alone = one_unshared(guided, 0)
    assert alone.guidance is None
    assert alone.advised is None
    assert alone.distortion is None


def test_a_plan_without_keys_and_texts_knows_branches_by_numbers():
    alone = one_unshared(build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.4, 0]), 2)
    assert alone.branch_keys(0) == [2]
    assert alone.prompts is None


def test_of_one_prompt_it_is_the_same(plan):
    alone = one_unshared(plan, 1)
    assert one_unshared(alone, 0) is alone


def test_what_there_is_not_is_refused(plan):
    for i in (3, -1, 0.5):
        with pytest.raises(ValueError, match="prompt"):
            one_unshared(plan, i)


def test_prompts_that_joined_or_stayed_are_drawn_alone_too(plan):
    grown = attach(plan, ROWS, [[0.96, 0.28]], [5], ["a kitten"])
    joined = one_unshared(grown, 3)
    assert (joined.prompts, joined.prompt_keys, joined.frozen) == (("a kitten",), (5,), None)
    stayed, before = one_unshared(removed(plan, 0), 0), one_unshared(plan, 1)
    assert (stayed.prompts, stayed.prompt_keys, stayed.nfe) == (before.prompts, before.prompt_keys, before.nfe)
