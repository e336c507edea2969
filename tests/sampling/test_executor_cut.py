"""A plan cut into pieces for many workers: every row once, all workers busy to the end, and nothing finished lost."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import Budget, Profile, PromptTree, build_plan, linear_thresholds, plan_for, ward_linkage
from hierdiff_core.plan.algebra import attach, removed
from hierdiff_core.plan.part import whole
from hierdiff_core.sampling.executor_cut import Pieces, on_its_own, rows_of, without

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


@st.composite
def plans(draw):
    """Plans of up to 24 prompts, some of them equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 20))
    rows = rng.normal(size=(n + draw(st.integers(0, 4)), 3))
    rows[n:] = rows[rng.integers(n, size=len(rows) - n)]
    return build_plan(ward_linkage(rows), linear_thresholds(draw(st.integers(1, 8)), draw(st.floats(0, 3))))


def set_of(prompts, saving, steps=40):
    """A plan of prompts in groups of eight."""
    rng = np.random.default_rng(prompts)
    rows = rng.normal(size=(prompts // 8 + 1, 16)).repeat(8, axis=0)[:prompts] + 0.4 * rng.normal(size=(prompts, 16))
    tree = PromptTree.of(rows, "chord", [f"prompt {i}" for i in range(prompts)])
    return plan_for(tree, Budget("saving", saving, clamp=True), Profile(steps))


class Simulated:
    """Workers of some speeds, and a clock: a piece takes as long as its rows."""

    def __init__(self, plan, speeds, batch=1, fails=lambda piece, time: False, alike=True):
        self.plan, self.speeds, self.fails = plan, speeds, fails
        self.pieces = Pieces(whole(plan), None, len(speeds), batch, lambda: self.time, alike)
        self.done, self.time, self.busy = [], 0.0, []

    def run(self):
        """Until nothing is left; the time."""
        idle = list(range(len(self.speeds)))
        while True:
            for worker in list(idle):
                if (piece := self.pieces.take(worker)) is None:
                    continue
                idle.remove(worker)
                end = self.time + rows_of(piece.part, piece.stop) / self.speeds[worker]
                heapq.heappush(self.busy, (end, worker, piece.number))
            if not self.busy:
                return self.time
            self.time, worker, number = heapq.heappop(self.busy)
            piece, self.worker = self.pieces.running[number], worker
            idle.append(worker)
            if self.fails(piece, self.time):
                self.pieces.failed(number, "broken")
            else:
                self.done.append((worker, piece))
                self.pieces.done(number)

    def rows(self):
        """(step, cluster) of all rows that were done."""
        return [
            (k, cluster)
            for _, piece in self.done
            for k, step in enumerate(piece.part.steps[: piece.stop], piece.part.start)
            for cluster in step.clusters.tolist()
        ]

    def cost(self, batch):
        """Rows of all calls, where one of fewer costs as much as one of a batch."""
        return sum(max(rows, batch) for _, piece in self.done for rows in widths(piece))


def widths(piece):
    """Branches of its steps."""
    return [len(step.parents) for step in piece.part.steps[: piece.stop]]


def all_rows(plan):
    return [(k, cluster) for k, step in enumerate(plan.steps) for cluster in range(step.num_clusters)]


@given(plans(), st.integers(1, 5), st.sampled_from([1, 2, 8]))
def test_every_row_is_done_once(plan, workers, batch):
    simulated = Simulated(plan, [1.0] * workers, batch)
    simulated.run()
    assert sorted(simulated.rows()) == all_rows(plan)
    assert simulated.pieces.finished.all()
    assert simulated.pieces.left == 0
    assert not simulated.pieces.lost


@pytest.mark.parametrize("saving", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("prompts", "workers", "above"), [(200, 2, 1.02), (200, 8, 1.06), (2000, 8, 1.01)])
def test_all_workers_are_busy_nearly_to_the_end(prompts, workers, above, saving):
    plan = set_of(prompts, saving)
    simulated = Simulated(plan, [1.0] * workers)
    time = simulated.run()
    # no more than C workers can be at a step of C clusters, which come one step after the other
    bound = sum(max(1, clusters / workers) for clusters in plan.clusters_per_step)
    assert bound <= time <= above * bound
    assert len(simulated.done) >= 4 * workers


def test_longest_pieces_are_handed_out_first():
    simulated = Simulated(set_of(200, 0.0), [1.0] * 4)
    simulated.run()
    sizes = [rows_of(piece.part) for _, piece in simulated.done[:4]]
    assert min(sizes) > max(rows_of(piece.part) for _, piece in simulated.done[-4:])


def test_a_slow_worker_gets_less():
    plan = set_of(200, 0.3)
    simulated = Simulated(plan, [1.0, 1.0, 0.2])
    time = simulated.run()
    assert time < 1.15 * plan.nfe / 2.2
    done = [sum(rows_of(piece.part, piece.stop) for own, piece in simulated.done if own == w) for w in range(3)]
    assert done[2] < 0.4 * min(done[:2])


def test_where_workers_are_not_alike_a_slow_one_does_not_keep_the_others_waiting():
    plan, speeds = set_of(2000, 0.6), [1.0] * 7 + [0.3]
    alike, unlike = (Simulated(plan, speeds, 8, alike=alike) for alike in (True, False))
    least = plan.nfe / sum(speeds)
    assert unlike.run() < 1.12 * least < alike.run()
    assert sorted(unlike.rows()) == all_rows(plan)
    done = [share.rows / share.seconds for share in unlike.pieces.shares]
    assert done == pytest.approx(speeds)
    assert sum(share.rows for share in unlike.pieces.shares) == plan.nfe


def test_a_slow_worker_begins_nothing_at_the_end_unless_others_fail():
    now = [0.0]
    pieces = Pieces(whole(set_of(64, 0.0)), None, 2, 1, lambda: now[0])
    fast, slow = pieces.take(0), pieces.take(1)
    for piece, seconds in ((fast, 1.0), (slow, 100.0)):
        now[0] = seconds
        pieces.done(piece.number)
    while len(pieces.waiting) + len(pieces.running) > 1:
        pieces.done(pieces.take(0).number)
    last = pieces.take(0)
    assert pieces.take(1) is None
    pieces.failed(last.number, "its worker died")
    again = pieces.take(1)
    while again is not None:
        pieces.done(again.number)
        again = pieces.take(1)
    assert pieces.finished.all()


def test_a_batch_keeps_rows_together():
    """A GPU takes hardly longer for eight rows than for one."""
    plan = set_of(2000, 0.6)
    single, batched = Simulated(plan, [1.0] * 4), Simulated(plan, [1.0] * 4, batch=8)
    single.run()
    batched.run()
    assert len(batched.done) < len(single.done)
    assert batched.cost(8) < 1.01 * plan.nfe < single.cost(8)


def test_few_branches_go_on_together_until_they_are_many():
    """Groups that are one branch each for most steps: their narrow steps are made once, not one by one."""
    rows = np.random.default_rng(0).normal(size=(12, 16)).repeat(20, axis=0)
    rows += 0.1 * np.random.default_rng(1).normal(size=rows.shape)
    plan = plan_for(
        PromptTree.of(rows, "chord", [f"prompt {i}" for i in range(240)]), Budget("saving", 0.6), Profile(40)
    )
    assert plan.steps[5].num_clusters == 12
    simulated = Simulated(plan, [1.0] * 4, batch=8)
    simulated.run()
    assert simulated.cost(8) < 1.15 * plan.nfe


@given(plans(), st.integers(0, 2**32 - 1))
def test_failures_cost_time_alone(plan, seed):
    """Each piece may fail once, wherever: workers that die."""
    rng, failed = np.random.default_rng(seed), set()

    def fails(piece, time):
        key = (piece.part.start, piece.stop, tuple(piece.part.prompts))
        if key in failed or rng.random() < 0.5:
            return False
        failed.add(key)
        return True

    simulated = Simulated(plan, [1.0] * 3, fails=fails)
    simulated.run()
    assert simulated.pieces.finished.all()
    assert sorted(simulated.rows()) == all_rows(plan)


@pytest.mark.parametrize("poisoned", [[0], [3, 77], [50]])
def test_what_always_fails_is_found_and_the_rest_is_drawn(poisoned):
    """A prompt whose own branch fails: from where it is alone."""
    plan = set_of(80, 0.3)

    def fails(piece, time):
        return piece.stop is None and bool(set(poisoned) & set(piece.part.prompts.tolist()))

    simulated = Simulated(plan, [1.0] * 2, fails=fails)
    simulated.run()
    lost = [i for own in simulated.pieces.lost for i in own.prompts]
    assert sorted(lost) == poisoned
    assert {own.reason for own in simulated.pieces.lost} == {"broken"}
    assert np.flatnonzero(~simulated.pieces.finished).tolist() == poisoned


def test_a_trunk_that_fails_loses_all():
    plan = set_of(16, 0.6)
    simulated = Simulated(plan, [1.0] * 2, fails=lambda piece, time: piece.part.start == 0)
    simulated.run()
    assert sorted(i for own in simulated.pieces.lost for i in own.prompts) == list(range(16))


def test_nobody_left_says_what_is_missing():
    pieces = Pieces(whole(set_of(16, 0.3)), None, 2)
    pieces.give_up("the power is out")
    assert [(own.prompts, own.reason) for own in pieces.lost] == [(tuple(range(16)), "the power is out")]
    assert pieces.take() is None


@given(plans(), st.integers(0, 2**32 - 1))
def test_finished_prompts_are_left_out_and_means_stay(plan, seed):
    part = whole(plan)
    gone = np.random.default_rng(seed).random(plan.num_prompts) < 0.5
    left = without(part, gone)
    assert left.prompts.tolist() == np.flatnonzero(~gone).tolist()
    for i, (step, before) in enumerate(zip(left.steps, part.steps, strict=True)):
        assert step.clusters.tolist() == sorted(set(before.labels[~gone].tolist()))
        assert step.clusters[step.labels].tolist() == before.labels[~gone].tolist()
        assert step.counts.tolist() == before.counts[step.clusters].tolist()
        assert made_of(left, i) == {c: own for c, own in made_of(part, i).items() if c in step.clusters}
        if i:
            assert left.steps[i - 1].clusters[step.parents].tolist() == before.parents[step.clusters].tolist()


def made_of(part, i):
    """Leaves of the mean of each cluster, by its label in the plan."""
    leaves, clusters = part.means_of(i)
    return {int(c): sorted(leaves[clusters == row].tolist()) for row, c in enumerate(part.steps[i].clusters)}


@pytest.mark.parametrize("change", ["none", "attached", "removed"])
def test_a_part_that_is_sent_knows_which_embeddings_it_needs(change):
    rows = np.random.default_rng(0).normal(size=(12, 3))
    tree = PromptTree.of(rows, "chord", [f"prompt {i}" for i in range(12)])
    plan = plan_for(tree, Budget("saving", 0.4), Profile(6))
    if change == "attached":
        plan = attach(plan, rows, [rows[3] + 0.1], [77], ["new"], metric="chord")
    elif change == "removed":
        plan = removed(plan, 5)
    pieces = Pieces(whole(plan), None, 2)
    while (piece := pieces.take()) is not None:
        own, leaves = on_its_own(piece.part)
        assert own.prompts.tolist() == list(range(len(piece.part.prompts)))
        for i in range(len(own.steps)):
            theirs = {c: sorted(leaves[own_leaves].tolist()) for c, own_leaves in made_of(own, i).items()}
            assert theirs == made_of(piece.part, i)
        pieces.done(piece.number)
