"""Time, steps and rows of a run, and who hears of them."""

import numpy as np
import pytest

from hierdiff_core import build_plan
from hierdiff_core.sampling.observer import Callbacks, Observer, Observers, with_callbacks
from hierdiff_core.sampling.progress import RunProgress

# heights 0.1 (prompts 0 and 1), 0.2 (2 and 3), 0.3 (all): 1, 2, 3 and 4 clusters
Z = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]])
PLAN = build_plan(Z, [0.4, 0.25, 0.15, 0])


def test_rows_are_counted_against_separate_runs_step_by_step():
    progress = RunProgress(PLAN)
    assert (progress.step, progress.rows, progress.standard_rows, progress.total) == (0, 0, 0, 10)
    for k, rows in enumerate((1, 3, 6, 10)):
        progress.on_rows(k, np.arange(PLAN.steps[k].num_clusters), None)
        assert (progress.step, progress.rows, progress.standard_rows) == (k + 1, rows, 4 * (k + 1))


def test_depth_first_rows_are_counted_in_proportion():
    progress = RunProgress(PLAN)
    progress.on_rows(0, [0])
    progress.on_rows(1, [0])  # one half of the tree to its end
    progress.on_rows(2, [0, 1])
    progress.on_rows(3, [0, 1])
    assert (progress.rows, progress.standard_rows) == (6, 16 * 6 // 10)
    for k, clusters in ((1, [1]), (2, [2]), (3, [2, 3])):
        progress.on_rows(k, clusters)
    assert (progress.rows, progress.standard_rows) == (10, 16)


def test_equal_prompts_save_nothing():
    twice = build_plan(np.array([[0, 3, 0, 2], [1, 4, 0.1, 3], [2, 5, 0.2, 4]]), [0.3, 0.3, 0.15, 0])
    progress = RunProgress(twice)
    for k, step in enumerate(twice.steps):
        progress.on_rows(k, range(step.num_clusters))
    assert progress.standard_rows == 12  # three prompts that differ


def test_samplers_may_evaluate_a_step_several_times():
    progress = RunProgress(PLAN)
    for k, rows in ((0, 1), (0, 1), (1, 2)):
        progress.on_call(k, rows)
    assert (progress.step, progress.rows, progress.standard_rows) == (2, 4, 12)


def test_time_counts_from_the_beginning():
    seconds = iter([10.0, 12.5])
    assert RunProgress(PLAN, clock=lambda: next(seconds)).seconds == 2.5


# --- who hears


class Diary(Observer):
    def __init__(self, name, pages):
        self.name, self.pages = name, pages

    def before_call(self):
        self.pages.append((self.name, "call"))

    def on_rows(self, k, clusters, x0):
        self.pages.append((self.name, k, clusters, x0))

    def on_finished(self, prompts, latents):
        self.pages.append((self.name, prompts, latents))


def tell(observer):
    observer.before_call()
    observer.on_rows(1, [0, 1], "x0")
    observer.on_finished([0], "latents")


def test_several_observers_hear_everything_in_order():
    pages = []
    tell(Observers(Diary("a", pages), Diary("b", pages)))
    heard = [("call",), (1, [0, 1], "x0"), ([0], "latents")]
    assert pages == [(name, *what) for what in heard for name in "ab"]


def test_an_observer_may_hear_of_nothing():
    tell(Observer())
    tell(Observers())
    tell(Callbacks())


@pytest.mark.parametrize("observer", [None, Diary("new", [])])
def test_callbacks_are_the_older_spelling_of_an_observer(observer):
    pages = [] if observer is None else observer.pages
    callbacks = {
        "on_step": lambda k, x0: pages.append(("step", k, x0)),
        "before_call": lambda: pages.append(("old", "call")),
        "on_branches": lambda *heard: pages.append(("branches", *heard)),
        "on_finished": lambda *heard: pages.append(("old", *heard)),
    }
    tell(with_callbacks(observer, **callbacks))
    new = [] if observer is None else [[("new", "call")], [("new", 1, [0, 1], "x0")], [("new", [0], "latents")]]
    old = [[("old", "call")], [("step", 1, "x0"), ("branches", 1, [0, 1], "x0")], [("old", [0], "latents")]]
    together = [*zip(new, old, strict=True)] if new else [([], part) for part in old]
    assert pages == [page for parts in together for part in parts for page in part]


def test_where_nobody_listens_there_is_no_observer():
    assert with_callbacks(None, on_step=None, on_finished=None) is None
    observer = Observer()
    assert with_callbacks(observer, before_call=None) is observer


# --- rows that a store had


def test_rows_of_a_store_are_no_work():
    seconds = iter(range(100))
    progress = RunProgress(PLAN, clock=lambda: float(next(seconds)), passes=[2, 2, 1, 1])
    progress.on_stored([1, 2, 1, 0])
    assert progress.work == (0, 6)  # of 13 passes
    for k, (clusters, reused) in enumerate(((1, 1), (2, 2), (3, 1), (4, 0))):
        if reused:
            progress.on_reused(reused)
        progress.on_rows(k, range(clusters))
    assert (progress.rows, progress.reused, progress.standard_rows) == (6, 4, 16)
    assert progress.work == (6, 6)


def test_rows_of_a_store_that_nobody_foresaw_are_taken_from_what_is_left():
    progress = RunProgress(PLAN)
    progress.on_reused(1)
    progress.on_rows(0, [0])
    assert (progress.rows, progress.reused, progress.work) == (0, 1, (0, 9))


@pytest.mark.parametrize("early", [True, False])
def test_rows_of_a_call_may_be_told_before_it_or_during_it(early):
    progress = RunProgress(PLAN)
    for k in range(2):
        if early:
            progress.on_reused(1)
        progress.on_call(k, 2)
        if not early:
            progress.on_reused(1)
        progress.on_evaluated()
    assert (progress.rows, progress.reused, progress.work[0]) == (2, 2, 2)


def test_all_observers_hear_of_a_store():
    heard = []

    class Hears(Observer):
        def on_stored(self, rows):
            heard.append(rows)

        def on_reused(self, rows):
            heard.append(rows)

    both = Observers(Hears(), Callbacks(), Hears())
    both.on_stored([1, 2])
    both.on_reused(3)
    assert heard == [[1, 2], [1, 2], 3, 3]


@pytest.mark.parametrize(("reused", "knows"), [(0, True), (5, True), (6, False)])
def test_run_that_reused_most_of_its_rows_says_nothing_of_full_sampling(reused, knows):
    clock = iter(np.arange(0.0, 1000.0, 0.5))
    progress = RunProgress(PLAN, clock=lambda: float(next(clock)))
    progress.on_reused(reused)
    for k in range(PLAN.num_steps):
        progress.on_rows(k, np.arange(PLAN.steps[k].num_clusters))
    progress.end()
    assert (progress.times().full is not None) == knows
