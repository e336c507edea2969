"""Few sizes of calls for a compiled or recorded model, to which smaller calls are padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def padded_count(rows: int, sizes: Sequence[int]) -> int:
    """Rows that a call is padded to.

    Parameters
    ----------
    rows : int >= 1
        Of the call.
    sizes : sequence of int
        In any order.

    Returns
    -------
    size : int
        The smallest size that holds the rows; `rows` itself where none does.

    Examples
    --------
    >>> padded_count(3, (1, 4, 16)), padded_count(20, (1, 4, 16))
    (4, 20)
    """
    return min((size for size in sizes if size >= rows), default=rows)


def few_sizes(counts: Iterable[int], most: int, known: Iterable[int] = ()) -> tuple[int, ...]:
    """Sizes for calls of these counts, of which fewest rows are padding.

    Parameters
    ----------
    counts : iterable of int >= 1
        Rows of each call of a run, a number for each call.
    most : int >= 0
        New sizes at most.
    known : iterable of int, optional
        Sizes that cost nothing, as a model is compiled for them.

    Returns
    -------
    sizes : tuple of int
        Ascending; those that some call is padded to. Empty without counts.

    Raises
    ------
    ValueError
        If no size holds the largest count, as none is new and no known one is large enough; or for a count below 1.

    Notes
    -----
    An exact search over the counts and what is known. A power of two between two counts would only add padding, so that
    new sizes are counts of this run; `known` carries them to the next.

    Examples
    --------
    >>> few_sizes([1, 1, 3, 3, 4, 9, 9, 9, 10], most=3)
    (1, 4, 10)
    >>> few_sizes([5, 6, 7], most=1, known=[6, 8])
    (6, 7)
    """
    values, calls = np.unique(np.fromiter(counts, dtype=np.int64), return_counts=True)
    if not len(values):
        return ()
    if values[0] < 1:
        raise ValueError(f"counts must be 1 or more; got {values[0]}")
    free = {int(size) for size in known if size >= values[0]}
    if most < 1 and max(free, default=0) < values[-1]:
        raise ValueError(f"most must be 1 or more, as no known size holds {values[-1]} rows; got {most}")
    candidates = np.array(sorted({*values.tolist(), *free}))
    chosen = _cheapest(
        _padding(values, calls, candidates), candidates >= values[-1], np.isin(candidates, [*free]), most
    )
    sizes = candidates[chosen].tolist()
    used = {padded_count(count, sizes) for count in values.tolist()}
    return tuple(size for size in sizes if size in used)


def padding_of(counts: Iterable[int], sizes: Sequence[int]) -> int:
    """Rows that are added to calls of these counts.

    Parameters
    ----------
    counts : iterable of int
    sizes : sequence of int

    Returns
    -------
    rows : int

    Examples
    --------
    >>> padding_of([1, 3, 3, 4], (1, 4))
    2
    """
    return sum(padded_count(count, sizes) - count for count in counts)


def _padding(values, calls, sizes):
    """(S + 1, S) padded rows where calls above the size before the i-th go to the j-th; the 0-th is none at all."""
    upto = np.searchsorted(values, np.concatenate([[0], sizes]), side="right")  # counts that each size holds
    num, total = (np.concatenate([[0], np.cumsum(of)])[upto] for of in (calls, values * calls))
    return (num[None, 1:] - num[:, None]) * sizes - (total[None, 1:] - total[:, None])


def _cheapest(padding, is_last, is_free, most):
    """Indices of the sizes that pad least, the last of which holds all calls, with at most `most` that are not free."""
    count = len(is_free)
    best = np.full((count, most + 1), np.inf)  # padded rows up to each size, with so many new ones
    came = np.zeros((count, most + 1), dtype=np.int64)
    for j in range(count):
        own = 0 if is_free[j] else 1
        ways = np.full((j + 1, most + 1), float(padding[0, j]))
        ways[1:] = best[:j] + padding[1 : j + 1, j, None]
        ways = ways[:, : most + 1 - own]
        came[j, own:] = ways.argmin(axis=0)
        best[j, own:] = ways.min(axis=0)
    ends = np.where(is_last[:, None], best, np.inf)
    j, new = (int(place) for place in np.unravel_index(np.argmin(ends), ends.shape))
    chosen = []
    while j >= 0:
        chosen.append(j)
        j, new = int(came[j, new]) - 1, new - (0 if is_free[j] else 1)
    return chosen[::-1]
