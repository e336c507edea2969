"""The slider: its marks mean losses that were measured, and where nothing was, what is safe on early models."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import ToyBench, prompts

from hierdiff_core import PromptTree
from hierdiff_core.measure.advice import advise
from hierdiff_core.measure.marks import SAFE_LEVEL, advice_at, allowed_loss, name_of, safe_way

LATE = {"decision": 0.06, "per_step": 20, "unguided": 0.3, "spoilt": 1}
EARLY = {"decision": 0.7, "per_step": 1, "unguided": 0.1}
POSITIONS = np.linspace(0, 3, 13).tolist()


@pytest.fixture(scope="module", params=[LATE, EARLY], ids=["late", "early"])
def measured(request):
    """A model, and what was measured on it for each mark."""
    bench = ToyBench(prompts(), **request.param)
    return bench, [advise(bench, bench.whole, value=allowed_loss(mark, "looks as good")) for mark in (1, 2, 3)]


def test_each_mark_saves_more_and_loses_what_it_may(measured):
    bench, known = measured
    passes = []
    for mark in (1, 2, 3):
        found = advice_at(known, mark, bench.whole)
        assert found.met
        assert found.chosen.at_most(1.0) <= allowed_loss(mark, "looks as good")
        assert bench.loss_on_all(found.chosen.way) <= allowed_loss(mark, "looks as good") + 2  # of prompts unseen
        passes.append(found.chosen.passes)
    assert passes[0] > passes[1] > passes[2]
    assert passes[0] < 0.2 * known[0].full.passes


def test_verdicts_are_those_of_the_marks(measured):
    bench, known = measured
    assert [advice_at(known, mark, bench.whole).verdict for mark in (1, 2)] == ["none", "slight"]
    assert advice_at(known, 3, bench.whole).verdict == "visible"


def test_slider_never_takes_more_passes_further_to_the_right(measured):
    bench, known = measured
    passes = [advice_at(known, position, bench.whole).chosen.passes for position in POSITIONS]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] == known[0].full.passes


def test_plan_of_a_position_says_what_was_measured(measured):
    bench, known = measured
    found = advice_at(known, 2, bench.whole)
    plan = found.plan_for(bench.whole)
    assert plan.advised.verdict == "slight"
    assert plan.num_steps == found.chosen.way.steps
    assert plan.advised.passes == pytest.approx(found.chosen.way.passes(bench.whole))
    assert "passes per picture" in found.sentences[0]


def test_step_caches_are_left_out(measured):
    bench, known = measured
    cached = [replace(one, way=replace(one.way, cache="EasyCache")) for one in known[0].measured]
    only = [replace(known[0], measured=tuple(cached), chosen=cached[0])]
    assert not advice_at(only, 3, bench.whole).met
    assert advice_at(only, 3, bench.whole).chosen == known[0].full


@given(st.integers(2, 60), st.sampled_from(POSITIONS))
@settings(deadline=None, max_examples=30)
def test_unmeasured_models_share_few_first_steps(steps, position):
    tree = PromptTree.of(prompts(), "chord")
    levels = np.linspace(1, 1 / steps, steps)
    plan = safe_way(levels, position).plan(tree)
    shared = plan.clusters_per_step < plan.num_distinct
    level = 1 - (1 - SAFE_LEVEL) * min(position, 1)
    assert shared.sum() == (levels[1:] >= level - 1e-9).sum()
    assert shared.mean() <= 0.2
    assert (np.diff(shared.astype(int)) <= 0).all()


def test_single_prompt_has_a_plan():
    tree = PromptTree.of(prompts()[:1], "chord")
    assert safe_way(np.linspace(1, 0.1, 10), 1).plan(tree).saved == 0


@pytest.mark.parametrize("position", [-0.1, 3.01, float("nan"), float("inf"), "safe", None])
def test_positions_that_are_none_are_refused(position):
    for function in (lambda: allowed_loss(position, "looks as good"), lambda: safe_way((1.0, 0.5), position)):
        with pytest.raises(ValueError, match="saving must lie between 0 and 3: 1 is safe, 2 balanced, 3 draft; got"):
            function()


def test_positions_have_names():
    names = {0: "off", 0.4: "below safe", 1: "safe", 1.5: "between safe and balanced", 2: "balanced", 3: "draft"}
    assert {position: name_of(position) for position in names} == names
