"""How long a run will take yet, and what full sampling would take, by what was measured on the way."""

import numpy as np
import pytest

from hierdiff_core import build_plan
from hierdiff_core.sampling.pace import Pace, about, in_words
from hierdiff_core.sampling.progress import RunProgress, Times, left_in_words, times_in_words

# heights 0.1 (prompts 0 and 1), 0.2 (2 and 3), 0.3 (all): 1, 2, 3 and 4 clusters, each for ten steps
Z = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]])
PLAN = build_plan(Z, np.repeat([0.4, 0.25, 0.15, 0], 10))


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run(progress, clock, seconds, steps=None):
    """Steps of a run, breadth first; `seconds(k, work) -> float` is what each takes."""
    for k in range(progress.step, progress.plan.num_steps if steps is None else steps):
        rows = progress.plan.steps[k].num_clusters
        clock.now += seconds(k, rows * progress.passes[k])
        progress.on_rows(k, range(rows))


def test_rows_at_an_even_rate(clock):
    progress = RunProgress(PLAN, clock)
    assert progress.times() == Times(0.0, None, None, 0.0)
    run(progress, clock, lambda k, work: 2 * work, steps=20)
    assert progress.times() == pytest.approx(Times(60.0, 2 * 70, 2 * 160, 0.3))
    run(progress, clock, lambda k, work: 2 * work)
    assert progress.times() == pytest.approx(Times(200.0, 0.0, 320.0, 1.0))


def test_the_first_step_loads_and_compiles(clock):
    """What it took more than the others is taken once, by full sampling too."""
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: 60 if k == 0 else work, steps=1)
    assert progress.times()[1:] == (None, None, 0.01)  # nothing is told before there is something to go by
    run(progress, clock, lambda k, work: work, steps=10)
    assert progress.times() == pytest.approx(Times(69.0, 90.0, 59 + 160, 0.1))


def test_a_few_slow_steps_do_not_count_for_all(clock):
    """torch.compile compiles anew for another number of rows."""
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: 100 if k in (0, 10, 20) else work, steps=30)
    assert progress.times().left == pytest.approx(40, rel=0.3)
    assert progress.times().full == pytest.approx(progress.times().elapsed + 40 + 60, rel=0.05)


def test_an_estimate_follows_the_latest_steps(clock):
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: work, steps=20)
    run(progress, clock, lambda k, work: 3 * work, steps=30)  # somebody else uses the machine
    assert progress.times().left == pytest.approx(120)


def test_a_time_in_every_call_is_not_saved_by_fewer_rows(clock):
    """As on a fast GPU: 1 row takes 6, 4 rows take 9. Full sampling takes 40 times 9."""
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: 5 + work)
    elapsed, _, full, _ = progress.times()
    assert (elapsed, full) == pytest.approx((300, 360), rel=0.02)


def test_where_nothing_is_shared_full_sampling_takes_as_long(clock):
    progress = RunProgress(build_plan(Z, np.zeros(10)), clock)
    run(progress, clock, lambda k, work: work * (1 + k % 3))
    assert progress.times().full == progress.times().elapsed


def test_steps_without_guidance_cost_half(clock):
    passes = np.where(np.arange(40) < 20, 2, 1)
    progress = RunProgress(PLAN, clock, passes=passes)
    run(progress, clock, lambda k, work: work, steps=20)
    # 30 rows of two passes are done, 70 of one pass are left, and full sampling takes two for 160 rows
    assert progress.times() == pytest.approx(Times(60, 70, 320, 60 / 130))


def test_depth_first_the_share_is_that_of_the_work(clock):
    progress = RunProgress(build_plan(Z, [0.4, 0.25, 0.15, 0]), clock)
    for k, clusters in ((0, [0]), (1, [0]), (2, [0, 1]), (3, [0, 1])):
        clock.now += len(clusters)
        progress.on_rows(k, clusters)
    assert progress.times() == pytest.approx(Times(6, 4, 16, 0.6))


def calls(progress, clock, steps, seconds=lambda rows: rows):
    """Evaluations as the host's samplers make them, one for each entry of `steps`."""
    for k in steps:
        rows = progress.plan.steps[k].num_clusters
        progress.on_call(k, rows)
        clock.now += seconds(rows)
        progress.on_evaluated()


def test_samplers_that_evaluate_twice_a_step(clock):
    """Heun: known before, or as many as there were until now."""
    twice = np.repeat(np.arange(40), 2)[:-1]
    known, guessed = RunProgress(PLAN, clock), RunProgress(PLAN, clock)
    known.expect(twice)
    assert known.work == (0, 196)
    calls(known, clock, twice[:40])
    assert known.times() == pytest.approx(Times(60, 136, 4 * 79, 60 / 196))
    clock.now = guessed.began
    calls(guessed, clock, twice[:40])
    assert guessed.times() == pytest.approx(Times(60, 140, 4 * 80, 0.3))
    calls(known, clock, twice[40:])
    assert known.times().share == 1


def test_parts_of_a_plan(clock):
    """The last ten steps, as after Split Sigmas."""
    progress = RunProgress(PLAN, clock, steps=range(30, 40))
    assert progress.work == (0, 40)
    calls(progress, clock, range(30, 35))
    assert progress.times() == pytest.approx(Times(20, 20, 40, 0.5))


def test_a_finer_plan_takes_longer(clock):
    progress = RunProgress(PLAN, clock)
    progress.on_call(0, 1)
    progress.refine(build_plan(Z, np.zeros(40)))
    progress.on_made_anew(0, 3)
    clock.now += 4
    progress.on_evaluated()
    assert progress.work == (4, 160)


def test_steps_that_a_cache_answers_are_part_of_the_rate(clock):
    """Every other step takes no time; those that are left and those of full sampling are told to do so too."""
    progress, answered = RunProgress(PLAN, clock), iter(range(40))
    calls(progress, clock, range(20), seconds=lambda rows: 2 * rows * (next(answered) % 2))
    assert progress.times() == pytest.approx(Times(30, 70, 160, 0.3), rel=0.1)


def test_time_stands_still_at_the_end(clock):
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: work)
    progress.end()
    clock.now += 50
    progress.end()
    assert progress.times() == pytest.approx(Times(100, 0, 160, 1))
    assert progress.seconds == 100


def test_between_two_steps_the_clock_goes_on(clock):
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: 10 * work, steps=5)
    clock.now += 4
    assert progress.times()[:2] == pytest.approx((54, 946))
    clock.now += 10_000
    assert progress.times().left == 0  # never less


def test_nothing_is_divided_by_nothing(clock):
    """A clock that stands still, as for a step of no time."""
    progress = RunProgress(PLAN, clock)
    run(progress, clock, lambda k, work: 0)
    assert progress.times() == Times(0, 0, 0, 1)
    pace = Pace()
    pace.add(0, 5)
    assert (pace.per_unit, pace.per_unit_of_large, pace.measured) == (None, None, 0)


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0, "0.0 s", "about 1 s"),
        (9.94, "9.9 s", "about 10 s"),
        (59.6, "1 min", "about 1 min"),
        (96.2, "1 min 36 s", "about 2 min"),
        (3599.7, "1 h", "about 1 h"),
        (4300, "1 h 12 min", "about 1 h 10 min"),
    ],
)
def test_times_in_words(seconds, exact, rough):
    assert (in_words(seconds), about(seconds)) == (exact, rough)


def test_lines():
    assert times_in_words(Times(41.3, 0, 96.2, 1), 12) == "12 pictures in 41 s; full sampling: about 1 min 36 s"
    assert times_in_words(Times(41.3), 1) == "1 picture in 41 s"
    assert times_in_words(Times(), 1) == "1 picture in 0.0 s"
    assert left_in_words(Times(12, 0, 12, 1)) == "12 s"
