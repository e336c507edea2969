"""Variants are equal to their prompt but for their noise from a step on; the prompt itself stays what it is."""

import numpy as np
import pytest

from hierdiff_core import Budget, Profile, PromptTree, Sensitivity, plan_for
from hierdiff_core.plan.addresses import addresses
from hierdiff_core.plan.plan_file import plan_json, plan_of_json
from hierdiff_core.prompts.rows import PromptRow, PromptRows, as_rows, with_texts, with_variants

TEXTS = ["a cat", "a lynx", "a bus", "a tram"]
ROWS = np.array([[1, 0, 0], [0.9, 0.4, 0], [0, 1, 0.2], [0, 0.9, 0.5]])


def plan_of(prompts, unit="tau", value=0.5, num_steps=10):
    rows = np.array([ROWS[TEXTS.index(text)] for text in prompts])
    return plan_for(PromptTree.of(rows, "chord", prompts), Budget(unit, value), Profile(num_steps))


@pytest.mark.parametrize("part_at", [0.0, 0.3, 0.74, 1.0])
def test_the_prompt_keeps_its_branches_and_its_variants_begin_where_they_part(part_at):
    varied = with_variants(TEXTS, [0, 2], 2, part_at)
    assert [row.variant for row in varied.rows][:3] == [None, (1, part_at), (2, part_at)]
    before, plan = plan_of(TEXTS), plan_of(varied)
    step = min(int(part_at * 10 + 0.5), 9)
    own = [0, 3, 4, 7]
    for k in range(10):
        for i, place in enumerate(own):
            mine, theirs = plan.steps[k].labels[place], before.steps[k].labels[i]
            assert plan.noise_keys(k)[mine] == before.noise_keys(k)[theirs]
            rows = plan.founders(k)[mine], before.founders(k)[theirs]
            assert [plan.prompts[j] for j in rows[0]] == [before.prompts[j] for j in rows[1]]
        assert (plan.steps[k].labels[1] == plan.steps[k].labels[0]) == (k < step)
        assert plan.fresh(k)[plan.steps[k].labels[1]] == (k == step)
    assert plan.num_distinct == 8


def test_variants_of_prompts_that_share_a_branch_share_theirs():
    plan = plan_of(with_variants(TEXTS, range(4), 1, 0.2), value=2.0)
    assert plan.steps[3].labels[1] == plan.steps[3].labels[3]
    assert plan.salts(3)[plan.steps[3].labels[1]]


def test_variants_stay_in_files_and_with_another_spelling_and_have_names_of_their_own():
    varied = with_variants(TEXTS, [0], 2, 0.5)
    plan = plan_of(varied)
    assert [name[16:] for name in addresses(plan)] == ["", "~1", "~2", "", "", ""]
    again = plan_of_json(plan_json(plan))
    assert again.rerolls == plan.rerolls
    assert [own.labels.tolist() for own in again.steps] == [own.labels.tolist() for own in plan.steps]
    assert as_rows(with_texts(varied, [text.upper() for text in varied])).rows[2].variant == (2, 0.5)


def test_more_variants_of_a_prompt_that_has_some_are_further_ones():
    once = with_variants(PromptRows([PromptRow("a cat", seed=7), PromptRow("a bus")]), [0], 1, 0.5)
    twice = with_variants(once, [0], 2, 0.8)
    assert [row.variant for row in twice.rows] == [None, (1, 0.5), (2, 0.8), (3, 0.8), None]
    assert {row.seed for row in twice.rows[:4]} == {7}


@pytest.mark.parametrize("saving", [0.3, 1.0])
@pytest.mark.parametrize("part_at", [0.1, 0.5, 0.9])
def test_the_straight_line_of_a_set_with_variants_is_that_of_the_set(saving, part_at):
    """Variants share more than any thresholds save of the set, which a schedule is compared with the line by."""
    changes = Sensitivity(12, np.arange(1, 13), np.cumsum(np.linspace(1, 3, 12)))
    profile, budget = Profile(12, "calibrated", 1, sensitivity=changes), Budget("saving", saving, clamp=True)

    def planned(prompts):
        rows = np.array([ROWS[TEXTS.index(text)] for text in prompts])
        return plan_for(PromptTree.of(rows, "chord", prompts), budget, profile)

    varied = planned(with_variants(TEXTS, [0, 2], 8, part_at))
    line = varied.straight_line()
    np.testing.assert_allclose(line.thresholds, planned(TEXTS).straight_line().thresholds, rtol=1e-12)
    assert line.rerolls == varied.rerolls
    assert line.num_distinct == 20
