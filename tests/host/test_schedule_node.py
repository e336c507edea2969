"""Threshold Schedule and Ward Linkage as nodes: what they say of a plan, and what a new node does in any graph."""

import inspect
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hierdiff_core import Sensitivity
from hierdiff_core.sampling.progress import RunProgress

LATE = Sensitivity(6, [1, 4, 5, 6], [1e-6, 0.16, 0.74, 1])  # as the bundled model


@pytest.fixture
def made(pack, monkeypatch):
    """Runs Threshold Schedule: (plan, text), or what the page hears of it."""
    module = pack.nodes.schedule

    def said(cls, text, picture, **extra):
        return {"text": text, **extra}

    for place in (module, pack.nodes.host.ui):
        monkeypatch.setattr(place, "show", said, raising=False)

    def run(rows, steps=12, mode="saving", value=0.5, private_steps=1, metric="chord", **options):
        prompts = tuple(f"prompt {i}" for i in range(len(rows)))
        tree = pack.hierdiff_core.plan.tree.PromptTree.of(rows, metric, prompts)
        output = module.ThresholdSchedule.execute(tree, steps, mode, value, private_steps, **options)
        return SimpleNamespace(plan=output.args[0], saved=output.args[2], **output.ui)

    return run


def warnings(result):
    return [line for line in result.text.splitlines() if line.startswith("⚠ ")]


def rows_of(n, seed=0, spread=1.0, width=32):
    """Embeddings around a common one."""
    return 1 + spread * np.random.default_rng(seed).normal(size=(n, width))


# --- A budget out of reach


def test_budget_out_of_reach_saves_what_can_be_saved_and_says_so(made):
    result = made(rows_of(20), value=0.95)
    assert result.saved == pytest.approx(19 * 11 / 240)
    told = "⚠ saving 0.95 (95.0%) is out of reach: 20 prompts in 12 steps, 1 of them unshared, can save 87.1% at most"
    assert told in result.text


def test_percent_that_were_typed_as_a_saving_are_told_from_a_share(made):
    assert any("0.6 saves 60 %" in line for line in warnings(made(rows_of(8), value=60.0)))


def test_one_prompt_saves_nothing_and_is_told_so(made):
    result = made(rows_of(1), value=0.6)
    assert result.saved == 0
    assert any("a single prompt can share no step, so nothing is saved" in line for line in warnings(result))
    assert warnings(made(rows_of(1), value=0.0)) == []


@pytest.mark.parametrize("options", [{"steps": 1}, {"steps": 4, "private_steps": 4}])
def test_runs_without_a_shared_step_say_so_once(made, options):
    (line,) = warnings(made(rows_of(5), **options))
    assert "none of them shared, save nothing" in line


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
@pytest.mark.parametrize("mode", ["tau", "root share", "saving"])
def test_values_that_are_no_budget_are_refused(made, mode, value):
    with pytest.raises(ValueError, match=rf"({mode}|value) must .*; got {value}"):
        made(rows_of(5), mode=mode, value=value)


def test_mode_that_is_none_is_refused(made):
    with pytest.raises(ValueError, match="mode must be one of tau, root share, saving; got 'Saving'"):
        made(rows_of(5), mode="Saving")


# --- A new node in any graph


@pytest.mark.parametrize("metric", ["chord", "cosine"])
@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0, 10.0])
def test_new_node_saves_half_of_the_rows_of_any_tree_without_a_warning(pack, made, metric, spread):
    inputs = {entry.id: entry for entry in pack.nodes.schedule.ThresholdSchedule.define_schema().inputs}
    settings = {name: inputs[name].default for name in ("steps", "mode", "value", "private_steps", "shape", "power")}
    result = made(rows_of(24, spread=spread), metric=metric, **settings)
    assert 0.5 <= result.saved < 0.52
    assert warnings(result) == []


def test_left_out_optional_inputs_mean_what_they_did(pack):
    """Prompts in API format name mode and value; what they may leave out keeps its defaults."""
    parameters = inspect.signature(pack.nodes.schedule.ThresholdSchedule.execute).parameters
    defaults = {name: entry.default for name, entry in parameters.items() if entry.default is not entry.empty}
    assert defaults == {"shape": "linear", "sensitivity": None, "power": 2.0, "sigmas": None, "share_above": 0.0}


# --- By noise level


def test_only_steps_above_a_noise_level_are_shared(made):
    flow, other = torch.linspace(1, 0, 13), torch.linspace(1, 0, 13)[:-1]
    for sigmas in (flow, torch.cat([(other / (1.0001 - other)), torch.zeros(1)])):  # the same levels
        result = made(rows_of(8), mode="root share", value=1.0, shape="trunk", sigmas=sigmas, share_above=0.7)
        assert result.plan.clusters_per_step.tolist() == [1] * 4 + [8] * 8
        assert "sharing above noise level 0.7: 4 of 12 steps, down to noise level 0.75" in result.text
    assert len(result.hierdiff_schedule[0]["levels"]) == 12


def test_unshared_steps_are_the_most_that_is_asked_for(made):
    options = {"mode": "root share", "value": 1.0, "shape": "trunk", "sigmas": torch.linspace(1, 0, 13)}
    more = made(rows_of(8), private_steps=10, share_above=0.7, **options)
    assert more.plan.clusters_per_step.tolist()[:3] == [1, 1, 8]
    nothing = made(rows_of(8), share_above=1.0, **options)
    assert nothing.plan.clusters_per_step.tolist() == [8] * 12
    assert "0 of 12 steps" in nothing.text
    unlimited = made(rows_of(8), share_above=0.0, **options)
    assert unlimited.plan.clusters_per_step.tolist() == [1] * 11 + [8]
    assert "noise level" not in unlimited.text


def test_noise_levels_that_are_not_known_are_refused(made):
    with pytest.raises(ValueError, match=r"share_above is a noise level \(0.5\), which takes the sigmas of the run"):
        made(rows_of(4), share_above=0.5)
    with pytest.raises(ValueError, match="sigmas are of 9 steps, but steps is 12: make both the same"):
        made(rows_of(4), share_above=0.5, sigmas=torch.linspace(1, 0, 10))
    with pytest.raises(ValueError, match=r"sigmas begin at 0.6, where no whole run does"):
        made(rows_of(4), share_above=0.5, sigmas=torch.linspace(0.6, 0, 13))
    with pytest.raises(ValueError, match="not rise from step to step"):
        made(rows_of(4), share_above=0.5, sigmas=torch.linspace(0, 1, 13))


@pytest.mark.parametrize("mode", ["tau", "root share"])
def test_tau_that_shares_nearly_everything_is_warned_of(made, mode):
    result = made(rows_of(8, spread=0.02), steps=30, mode=mode, value=30.0)
    assert result.plan.clusters_per_step.tolist() == [1] * 29 + [8]
    lines = warnings(result)
    assert any("expect about 1 different picture from 8 prompts" in line for line in lines)
    assert any("shares nearly everything in this tree" in line and "saving" in line for line in lines)


def test_tau_that_shares_next_to_nothing_is_warned_of(made):
    (line,) = warnings(made(rows_of(8), steps=30, mode="tau", value=0.01))
    assert line.startswith("⚠ tau 0.01 shares next to nothing in this tree (lowest merge")
    assert warnings(made(rows_of(8), steps=30, mode="tau", value=0.0)) == []  # that is meant


def test_tau_above_the_root_is_told_in_steps(made):
    result = made(rows_of(4), steps=9, mode="root share", value=2.0)
    line = next(line for line in result.text.splitlines() if line.startswith("tau"))
    whole = int((result.plan.clusters_per_step == 1).sum())
    assert whole == 5
    assert line.endswith(f"above the root ({result.plan.Z[-1, 2]:.5g}): one cluster for the first 5 steps")
    assert "% of the root height" in made(rows_of(4), steps=9, mode="root share", value=1.0).text
    once = made(rows_of(4), steps=2, mode="root share", value=1.5)
    assert "one cluster for the first step\n" in once.text


# --- Pictures that look alike


@pytest.mark.parametrize("sensitivity", [None, LATE])
def test_four_prompts_in_six_steps_at_sixty_percent_are_warned_of(made, sensitivity):
    result = made(rows_of(4), steps=6, value=0.6, sensitivity=sensitivity)
    assert warnings(result)[0].startswith("⚠ expect about 1 different picture from 4 prompts")
    assert warnings(made(rows_of(4), steps=6, value=0.4, sensitivity=sensitivity)) == []


# --- Equal prompts


def test_equal_prompts_are_told_and_save_nothing(made, pack):
    rows = rows_of(5)
    once, twice = made(rows), made(np.concatenate([rows, rows[:2]]))
    assert "2 of 7 prompts equal another: sampled once, no saving counted" in twice.text
    assert (once.saved, once.plan.nfe) == (twice.saved, twice.plan.nfe)
    assert f"{once.plan.nfe} rows instead of 60; up to" in twice.text
    words = pack.nodes.linkage.describe(twice.plan.tree)
    assert "2 prompts equal another: sampled once" in words
    lowest, middle = (f"{x:.4g}" for x in (once.plan.Z[0, 2], np.median(once.plan.Z[:, 2])))
    assert f"lowest {lowest}, median {middle}, root" in words


def test_samplers_tell_of_equal_prompts(pack, made):
    rows = rows_of(3)
    plan = made(np.concatenate([rows, rows[:1]]), steps=4).plan
    report = pack.nodes.sampler.describe(plan, "DDPM", np.ones(4, dtype=bool))
    assert f"UNet rows: {plan.nfe} instead of 12, {plan.saved:.1%} saved" in report
    assert "1 of 4 prompts equals another" in report
    progress = RunProgress(plan)
    for k, step in enumerate(plan.steps):
        progress.on_rows(k, range(step.num_clusters))
    assert (progress.rows, progress.standard_rows) == (plan.nfe, 12)


def test_page_hears_of_the_clusters_that_were_made(made):
    result = made(rows_of(6))
    (data,) = json.loads(json.dumps(result.hierdiff_schedule))
    assert data["clusters"] == result.plan.clusters_per_step.tolist()
