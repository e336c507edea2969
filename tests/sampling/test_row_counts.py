"""Sizes of calls: few of them, and few padded rows."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core.sampling.row_counts import few_sizes, padded_count, padding_of

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def least_padding(counts, most, known):
    """By trying all sizes."""
    return min(
        padding_of(counts, [*own, *known])
        for many in range(most + 1)
        for own in combinations(range(1, max(counts) + 1), many)
        if max([*own, *known], default=0) >= max(counts)
    )


def test_a_call_goes_to_the_smallest_size_that_holds_it():
    assert [padded_count(rows, (8, 2, 1)) for rows in (1, 2, 3, 8, 9)] == [1, 2, 8, 8, 9]


@settings(deadline=None)
@given(COUNTS, st.integers(1, 3), st.lists(st.integers(1, 12), max_size=3))
def test_no_other_sizes_need_less_padding(counts, most, known):
    sizes = few_sizes(counts, most, known)
    assert sizes[-1] >= max(counts)
    assert list(sizes) == sorted(set(sizes))
    assert len(set(sizes) - set(known)) <= most
    assert set(sizes) == {padded_count(count, sizes) for count in counts}
    assert padding_of(counts, sizes) == least_padding(counts, most, known)


def test_known_sizes_alone_serve_where_they_hold_every_call():
    assert few_sizes([2, 3, 5], 0, known=[3, 8, 20]) == (3, 8)
    with pytest.raises(ValueError, match="most must be 1 or more, as no known size holds 9 rows; got 0"):
        few_sizes([2, 9], 0, known=[3, 8])


def test_every_count_is_a_size_where_enough_are_allowed():
    assert few_sizes([3, 1, 3, 7], 3) == (1, 3, 7)


def test_many_calls_of_a_count_are_worth_a_size():
    assert few_sizes([9] * 14 + [10, 16, 24, 32], 2) == (10, 32)
    assert few_sizes([9] * 80 + [10, 16, 24, 32], 2) == (9, 32)


def test_no_calls_need_no_sizes():
    assert few_sizes([], 3) == ()


def test_a_call_without_rows_is_refused():
    with pytest.raises(ValueError, match="counts must be 1 or more; got 0"):
        few_sizes([0, 1], 2)
