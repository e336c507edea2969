"""Digests of branches: equal where what they are made of is equal, and nowhere else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import build_plan
from hierdiff_core.plan.part import whole
from hierdiff_core.sampling.leaves import Leaves
from hierdiff_core.sampling.lineage import SIZE, Lineage, content
from hierdiff_core.sampling.reuse import means_in_digests, row_keys

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

values = st.one_of(st.binary(max_size=4), st.integers(), st.floats(), st.text(max_size=4), st.none())


@given(st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_contents_are_equal_where_their_parts_are(ours, theirs):
    same = [(type(part), repr(part)) for part in ours] == [(type(part), repr(part)) for part in theirs]
    assert (content(*ours) == content(*theirs)) == same
    assert len(content(*ours)) == SIZE


def test_numbers_of_numpy_count_as_pythons():
    assert content(np.int64(3), np.float64(0.5)) == content(3, 0.5)
    assert content(True) == content(1)


def test_a_digest_is_the_same_on_every_machine():
    assert content("a", 1, 0.5, None, b"x").hex() == "94b30987eebf94e6a00e0cc3a3608c29"


def test_what_a_digest_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="a digest is of bytes, numbers and texts; got list"):
        content([1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_a_branch_remembers_all_that_it_met(course):
    """Two runs of one branch each agree for as long as their contents do, and never again."""
    ours, theirs, apart = Lineage(b"run"), Lineage(b"run"), False
    for own, other in course:
        digests = ours.advance(None, [content(own)]), theirs.advance([0], [content(other)])
        apart = apart or own != other
        assert (digests[0] == digests[1]) != apart


def test_runs_with_other_fingerprints_share_nothing():
    assert Lineage(b"a").advance(None, [b"x"]) != Lineage(b"b").advance(None, [b"x"])


def test_what_is_below_some_branches_goes_on_alone():
    run = Lineage(b"run")
    run.advance(None, [b"a", b"b", b"c"])
    part = run.below([2, 0])
    whole_run = run.advance([2, 0, 1], [b"x", b"y", b"z"])
    assert part.advance(None, [b"x", b"y"]) == whole_run[:2]


def test_branches_without_a_parent_each_are_refused():
    run = Lineage(b"run")
    run.advance(None, [b"a"])
    with pytest.raises(ValueError, match="2 branches need a parent each; got 1"):
        run.advance(None, [b"x", b"y"])


def test_rows_between_two_splits_are_one_branch():
    plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.6, 0.4, 0.1, 0])
    rows = row_keys(whole(plan), [[content(k, c) for c in range(n)] for k, n in enumerate((1, 1, 2, 3, 3))], b"run")
    assert rows.branches[0] == rows.branches[1] == [rows.keys[0][0]]
    single = plan.steps[2].labels[2]
    assert rows.branches[4][plan.steps[4].labels[2]] == rows.keys[2][single]
    assert len({branch for step in rows.branches for branch in step}) == len(plan.branches) == 5
    assert len({key for step in rows.keys for key in step}) == plan.nfe


@given(st.permutations(range(3)))
def test_a_mean_is_known_by_its_prompts_in_any_order(order):
    plan = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0])
    leaves = [b"a", b"b", b"c"]
    expected = means_in_digests(whole(plan), 0, leaves)
    assert means_in_digests(whole(plan), 0, [leaves[i] for i in order]) == expected
    assert means_in_digests(whole(plan), 0, [b"a", b"b", b"d"]) != expected


# --- leaves that are gone


def test_leaves_are_found_by_digest_and_by_key():
    leaves, one, two = Leaves(), torch.ones(2, 3), torch.zeros(2, 3)
    leaves.put(7, b"1", one)
    leaves.put(7, b"2", two)
    assert leaves.find(7) == b"2"
    assert leaves.get(b"1") is one
    assert leaves.get(b"2") is two
    assert leaves.find(8) is leaves.get(b"3") is None
    leaves.put(7, b"1", one)  # edited back
    assert leaves.find(7) == b"1"
    leaves.clear()
    assert leaves.get(b"1") is leaves.find(7) is None
    assert leaves.held == 0


def test_least_recently_used_leaves_go_first():
    leaves = Leaves(budget=3 * 24)
    for key in range(3):
        leaves.put(key, bytes([key]), [torch.zeros(3), {"pooled": torch.zeros(3)}])
    leaves.get(b"\0")
    leaves.put(3, b"\3", torch.zeros(6))
    assert [leaves.get(bytes([key])) is None for key in range(4)] == [False, True, False, False]
    assert leaves.held == 72
