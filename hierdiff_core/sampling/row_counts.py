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
    most : int >= 1
        New sizes at most.
    known : iterable of int, optional
        Sizes that cost nothing, as a model is compiled for them. Those above the largest count are not used: a call
        of more rows than planned may not fit the memory.

    Returns
    -------
    sizes : tuple of int
        Ascending; those that some call is padded to. The last is the largest count. Empty without counts.

    Notes
    -----
    Where not every count is a size of its own, an exact search over the counts finds the sizes. A power of two between
    two counts would only add padding, so that sizes of one run are counts of this run; `known` carries them to the
    next.

    Examples
    --------
    >>> few_sizes([1, 1, 3, 3, 4, 9, 9, 9, 10], most=3)
    (1, 4, 10)
    >>> few_sizes([5, 6, 7], most=1, known=[6, 8])
    (6, 7)
    """
    if most < 1:
        raise ValueError(f"most must be 1 or more; got {most}")
    values, calls = np.unique(np.fromiter(counts, dtype=np.int64), return_counts=True)
    if not len(values):
        return ()
    if values[0] < 1:
        raise ValueError(f"counts must be 1 or more; got {values[0]}")
    free = {size for size in known if values[0] <= size <= values[-1]}
    candidates = sorted({*values.tolist(), *free})
    padding = _padding(values, calls, np.array(candidates))
    chosen = [candidates[i] for i in _cheapest(padding, [size in free for size in candidates], most)]
    used = {padded_count(count, chosen) for count in values.tolist()}
    return tuple(size for size in chosen if size in used)


def _padding(values, calls, sizes):
    """(S + 1, S) padded rows where calls above the size before the i-th go to the j-th; the 0-th is none at all."""
    rows = values * calls
    upto = np.searchsorted(values, np.concatenate([[0], sizes]), side="right")  # calls that each size holds
    num, total = (np.concatenate([[0], np.cumsum(of)])[upto] for of in (calls, rows))
    return (num[None, 1:] - num[:, None]) * sizes - (total[None, 1:] - total[:, None])


def _cheapest(padding, free, most):
    """Indices of the sizes that pad least, the last among them, with at most `most` that are not free."""
    count = len(free)
    best = np.full((count, most + 1), np.inf)  # padded rows up to each size, with so many new ones
    came = np.zeros((count, most + 1), dtype=np.int64)
    for j in range(count):
        for new in range(0 if free[j] else 1, most + 1):
            ways = [padding[0, j], *(best[i, new - (not free[j])] + padding[i + 1, j] for i in range(j))]
            came[j, new] = int(np.argmin(ways))
            best[j, new] = ways[came[j, new]]
    j, new, chosen = count - 1, int(np.argmin(best[count - 1])), []
    while j >= 0:
        chosen.append(j)
        j, new = int(came[j, new]) - 1, new - (not free[j])
    return chosen[::-1]
