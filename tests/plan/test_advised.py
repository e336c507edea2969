"""What was measured for a plan stays with it, and with no other."""

from dataclasses import replace

import numpy as np
import pytest

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.plan.advised import Advised
from hierdiff_core.plan.algebra import attach, edited, removed
from hierdiff_core.plan.joining import join
from hierdiff_core.plan.matching import refined, separated

ADVISED = Advised("5f1c", {"sampler": "euler", "steps": 8}, "none", 0.004, 12, "looks as good")
ROWS = np.random.default_rng(0).normal(size=(5, 4))[[0, 1, 2, 3, 4, 4]]
TREE = PromptTree.of(ROWS, "chord", list("abcdee"))
PLAN = replace(plan_for(TREE, Budget("saving", 0.4), Profile(8)), advised=ADVISED)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.resampled(6),
        lambda plan: plan.straight_line(),
        lambda plan: attach(plan, ROWS, [[1.0, 0, 0, 0]], [9], ["f"]),
        lambda plan: removed(plan, 0),
        lambda plan: edited(plan, 0, ROWS, np.ones(4), 9, "f"),
        lambda plan: join([plan, plan]),
        lambda plan: refined(plan, np.arange(6)),
        lambda plan: separated(plan, np.arange(6)),
    ],
    ids=["resampled", "straight line", "attached", "removed", "edited", "joined", "refined", "separated"],
)
def test_changed_plan_forgets_what_was_measured_for_the_one_before(change):
    assert change(PLAN).advised is None
    assert PLAN.advised == ADVISED


def test_plan_that_stays_as_it_is_remembers():
    assert PLAN.resampled(8).advised == ADVISED
    assert refined(PLAN, np.zeros(6, dtype=int)).advised == ADVISED
    assert separated(PLAN, np.zeros(6, dtype=int)).advised == ADVISED


def test_numbers_of_numpy_are_kept_as_floats():
    loss = replace(ADVISED, loss=np.float32(0.5), passes=np.int64(3))
    assert (loss.loss, loss.passes) == (0.5, 3.0)
    assert type(loss.loss) is type(loss.passes) is float
