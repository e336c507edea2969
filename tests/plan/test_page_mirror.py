"""The page's arithmetic (web/schedule.js), which is the one copy of the library's: both make the same plans."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from hierdiff_core import Budget, Plan, Profile, PromptTree, Sensitivity, plan_for, reachable_saving
from hierdiff_core.plan.budget import CLEARANCE, UNITS
from hierdiff_core.plan.noise_levels import unshared_steps
from hierdiff_core.plan.plan import LEAST_APART
from hierdiff_core.plan.profile import SHAPES

HERE = Path(__file__).parent
SCRIPT = HERE.parent.parent / "web" / "schedule.js"
MEASURED = {
    "late": Sensitivity(6, [1, 4, 5, 6], [1e-6, 0.16, 0.74, 1]),
    "early": Sensitivity(6, [1, 5, 6], [0.6, 0.9, 1]),
    None: None,
}
BUDGETS = [("saving", value) for value in (0.0, 0.2, 0.5, 0.8, 0.95, 7.0)]
BUDGETS += [("root share", value) for value in (0.3, 1.0, 3.0)] + [("tau", value) for value in (0.0, 0.4, 30.0)]
MOVED = [(unit, saving) for unit in UNITS for saving in (-1.0, 0.0, 0.13, 0.5, 2.0)]


class Case(NamedTuple):
    """A set and how its threshold falls."""

    prompts: int
    steps: int
    private_steps: int
    shape: str
    equal: int
    sensitivity: str | None
    metric: str
    seeds: int = 1  # how many the prompts have of their own, 1: none

    @property
    def tree(self):
        rows = np.random.default_rng(self.prompts + self.equal).normal(size=(self.prompts, 12))
        rows = np.concatenate([rows, np.repeat(rows[:1], self.equal, axis=0)])
        return PromptTree.of(rows, self.metric, seeds=[i % self.seeds or None for i in range(len(rows))])

    @property
    def profile(self):
        return Profile(self.steps, self.shape, self.private_steps, 2.0, MEASURED[self.sensitivity])

    def asked(self):
        """What nodes/schedule_plot.py sends, and what is asked of it."""
        tree, profile = self.tree, self.profile
        weights = profile.sensitivity and profile.sensitivity.weights(self.steps).tolist()
        heights, errors = tree.merges[:, 2].tolist(), tree.errors[: len(tree.merges)].tolist()
        data = {"heights": heights, "errors": errors, "trees": tree.num_trees, "metric": self.metric}
        data |= {"falling": profile.falling(self.metric).tolist(), "weights": weights}
        return {"data": data, "calibrated": self.shape == "calibrated", "budgets": BUDGETS, "moved": MOVED}


SETS = [(1, 5, 1), (4, 6, 1), (9, 14, 2), (20, 30, 1), (7, 15, 15), (3, 1, 1)]
CASES = [
    Case(*size, shape, equal, sensitivity, metric)
    for size in SETS
    for equal in (0, 1, 3)
    for shape in SHAPES
    for sensitivity in {"linear": ("late", None), "calibrated": ("late", "early")}.get(shape, ("late",))
    for metric in (("chord", "cosine") if equal == 0 else ("chord",))
]
CASES += [Case(n, 14, 2, shape, 2, "late", "chord", seeds) for n, seeds in ((9, 2), (4, 6)) for shape in SHAPES]


@pytest.fixture(scope="module")
def answers():
    """What the page makes of every case, from one run of node."""
    return dict(zip(CASES, said_by_the_page([case.asked() for case in CASES]), strict=True))


def said_by_the_page(asked):
    command = ["node", str(HERE / "plans_of_the_page.mjs"), str(SCRIPT)]  # without node this is an error, not a skip
    text = json.dumps(asked)
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_page_counts_the_unshared_steps_of_a_noise_level():
    rng = np.random.default_rng(0)
    falling = [np.sort(rng.uniform(size=n))[::-1].tolist() for n in (1, 2, 9, 40)] + [[1.0, 0.5, 0.5, 0.1]]
    cases = [(levels, above, least) for levels in falling for above in (0, 0.3, 0.5, 1) for least in (1, 2)]
    (found,) = said_by_the_page([{"levels": cases}])
    assert found == [unshared_steps(*case) for case in cases]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_page_makes_the_plans_of_the_library(answers, case):
    tree, profile = case.tree, case.profile
    for (unit, value), found in zip(BUDGETS, answers[case]["plans"], strict=True):
        plan = plan_for(tree, Budget(unit, value, clamp=True), profile)
        assert (found["rows"], found["standard"]) == (plan.nfe, plan.nfe_standard), (unit, value)
        assert found["clusters"] == plan.clusters_per_step.tolist()
        np.testing.assert_allclose(found["thresholds"], plan.thresholds, rtol=1e-12)
        assert (found["tau"], found["saved"]) == (pytest.approx(plan.tau), pytest.approx(plan.saved))
        assert (found["different"], found["alike"]) == (plan.num_different, plan.looks_alike)
        assert found["missed"] == (Budget(unit, value, clamp=True).missed(tree, profile) is not None)
        assert found["distortion"] == (plan.distortion and pytest.approx(plan.distortion, rel=1e-6))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_that_the_page_sets_saves_what_was_dragged_to(answers, case):
    tree, profile = case.tree, case.profile
    greatest = reachable_saving(tree.Z, profile.falling(case.metric), trees=tree.num_trees)[1]
    for (unit, saving), value in zip(MOVED, answers[case]["values"], strict=True):
        assert value == round(value, 4) >= 0
        wanted = min(max(saving, 0), greatest)
        if unit == "saving":
            assert wanted - 1e-4 <= value <= wanted
            assert Budget(unit, value).missed(tree, profile) is None
        elif value:
            plan: Plan = plan_for(tree, Budget(unit, value), profile)
            assert plan.saved >= wanted - 1e-9
            assert value - 1e-4 <= Budget("saving", wanted).tau(tree, profile) / (
                1 if unit == "tau" else tree.root_height
            )
        else:
            assert wanted <= 1e-9


def test_page_has_the_librarys_constants():
    code = SCRIPT.read_text(encoding="utf-8")
    assert f"const CLEARANCE = {CLEARANCE:g}".replace("e-09", "e-9") in code
    assert f"const LEAST_APART = {LEAST_APART}" in code
