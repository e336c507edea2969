"""Plan Guidance, the node: a plan with guidance, and what it says of it; and what Kandinsky's sampler makes of it."""

from dataclasses import replace

import numpy as np
import pytest

from hierdiff_core import GuidanceCourse, build_plan
from hierdiff_core.plan.advised import Advised

pytestmark = pytest.mark.host

Z = [[0, 1, 0.2, 2], [2, 3, 0.5, 3]]
PLAN = build_plan(Z, [0.6, 0.6, 0.3, 0.3, 0, 0, 0, 0, 0, 0])  # 1, 1, 2, 2, then 3 clusters


@pytest.fixture
def made(pack, monkeypatch):
    """Runs the node: the plan, and its text in lines."""
    monkeypatch.setattr(pack.nodes.plan_guidance, "show", lambda cls, text: {"text": text})

    def run(plan=PLAN, start=0.0, end=1.0, boost=1.0, boost_steps=0, boost_above=0.0):
        out = pack.nodes.plan_guidance.PlanGuidance.execute(plan, start, end, boost, boost_steps, boost_above)
        return out.args[0], out.ui["text"].splitlines()

    return run


def test_the_plan_is_the_same_but_for_its_guidance(made):
    plan, lines = made(end=0.6)
    assert plan.guidance.end == 0.6
    assert PLAN.guidance is None
    assert plan.steps is PLAN.steps
    assert lines[0] == "passes: 36 instead of 60, 40.0% saved"  # two of 1 + 1 + 2 + 2 + 3 + 3 rows, one of 12
    assert lines[1].startswith("without this node: 48; a pass is one latent evaluated once")
    assert lines[2:] == ["guidance in steps 1 to 6 of 10"]


def test_what_was_measured_holds_no_more(made):
    measured = Advised("0123456789abcdef", {}, "none", 0.4, 12.0, "looks as good")
    plan, _ = made(replace(PLAN, advised=measured), end=0.6)
    assert plan.advised is None


def test_a_new_node_changes_nothing_and_says_so(pack, made):
    inputs = {entry.id: entry for entry in pack.nodes.plan_guidance.PlanGuidance.define_schema().inputs}
    settings = {name: entry.default for name, entry in inputs.items() if name != "plan"}
    plan, lines = made(**settings)
    assert not plan.guidance.cuts
    assert not plan.guidance.boosts
    assert lines[2:] == ["guidance in all steps, as without this node"]


def test_boost_is_told_in_rows(made):
    _, lines = made(boost=2.0, boost_steps=2, boost_above=0.5)
    assert "guidance × 2 for 2 steps after each split, above noise level 0.5" in lines
    assert "at most 8 of 24 rows have the raised strength" in lines  # 2 + 2 and 2 + 2 that split
    assert any("compare a few images" in line for line in lines)
    _, lines = made(boost=2.0, boost_steps=1)
    assert "4 of 24 rows have the raised strength" in lines


@pytest.mark.parametrize("half", [{"boost": 2.0}, {"boost_steps": 3}])
def test_half_of_a_boost_is_warned_of(made, half):
    assert any(line.startswith("⚠ boost changes nothing") for line in made(**half)[1])


def test_the_later_of_two_counts_and_says_so(made):
    first, _ = made(end=0.5)
    plan, lines = made(first, end=0.8)
    assert (plan.guidance.start, plan.guidance.end) == (0.0, 0.8)
    assert any(line.startswith("⚠ the plan had guidance of its own already") for line in lines)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"start": 0.7, "end": 0.5}, "not end before it starts"),
        ({"boost": 0.0}, "boost must lie between 0.01 and 100"),
        ({"boost_steps": 1.5}, "boost_steps must be a whole number"),
        ({"boost_above": float("nan")}, "boost_above must lie between 0.0 and 1.0"),
    ],
)
def test_bad_values_are_refused(made, values, said):
    with pytest.raises(ValueError, match=said):
        made(**values)


# --- Hierarchical Branching Sampler


def told(pack, plan, guidance, interval=(0.0, 1.0)):
    sampler = pack.nodes.sampler
    course = sampler.course_of(plan, interval)
    return sampler.planned_guidance(plan, course, guidance)


def test_kandinskys_sampler_tells_of_the_plans_guidance(pack):
    plan = replace(PLAN, guidance=GuidanceCourse(end=0.6, boost=2, boost_steps=2))
    assert told(pack, PLAN, 4.0) == []
    assert told(pack, plan, 4.0) == [
        "passes: 36 instead of 60, 40.0% saved",
        "guidance in steps 1 to 6 of 10",
        "guidance × 2 for 2 steps after each split",
    ]
    assert told(pack, replace(PLAN, guidance=GuidanceCourse(end=0.6)), 1.0) == [
        "guidance 1 is none: the plan's guidance changes nothing"
    ]


def test_its_own_inputs_go_first_and_it_says_so(pack):
    plan = replace(PLAN, guidance=GuidanceCourse(end=0.6))
    lines = told(pack, plan, 4.0, (0.0, 0.8))
    assert lines[0] == "guide from and guide until of this node were taken, not the plan's 0 to 0.6"
    assert lines[1] == "passes: 42 instead of 60, 30.0% saved"
    guided = np.array([True] * 8 + [False] * 2)
    assert "guidance in steps 1 to 8 only" in pack.nodes.sampler.describe(plan, "DDPM", guided)
