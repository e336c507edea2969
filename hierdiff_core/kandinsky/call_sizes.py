"""Few sizes of UNet calls on a GPU: each costs once, when it is met first, as much as many rows.

Libraries choose their kernels for every size of a batch anew, for some tenths of a second in all
(docs/measurements/rows.md). A plan has as many sizes as it has numbers of clusters, and others in the steps in which
clusters share unconditional rows. A worker draws many parts of many plans, and has the same sizes for all of them
(`steady_sizes`), so that it may meet them before it knows what it is to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..sampling.row_counts import few_sizes, padded_count, padding_of
from .acceleration import GRAPH_ROWS, padded

MOST_PADDING = 0.02  # of a run's rows: less than sharing unconditional rows saves
MOST_OF_CALL = 0.25  # of the rows of a call
MOST_SIZES = 16


class PaddedCalls:
    """A network whose calls are padded to few sizes.

    Parameters
    ----------
    network : callable
        See `unet_calls`.
    sizes : sequence of int
        Rows of a call; where none is near, a call is made as it is.
    most : float
        Padding at most, of the rows of a call.
    """

    def __init__(self, network: Any, sizes: Sequence[int], most: float = MOST_OF_CALL):
        self.network, self.sizes, self.most = network, tuple(sizes), most

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return self.network.dtype

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """As the network."""
        count = len(latents)
        size = padded_count(count, self.sizes)
        if not 0 < size - count <= self.most * count:
            return self.network(latents, t, image_embeds)
        return self.network(padded(latents, size), t, padded(image_embeds, size))[:count]


def steady_sizes(pairs: int) -> tuple[int, ...]:
    """Sizes for all calls of up to so many guidance pairs, whatever the plan is.

    Those that graphs are recorded for, then one and a half times and twice as many in turn: a call is padded by half of
    its rows at most, and those of a set by some 5 % in all (docs/measurements/scale.md).

    Examples
    --------
    >>> steady_sizes(32), steady_sizes(9)
    ((2, 4, 6, 8, 12, 16, 24, 32, 48, 64), (2, 4, 6, 8, 12, 16, 18))
    """
    most, sizes = 2 * pairs, list(GRAPH_ROWS)
    while sizes[-1] < most:
        sizes.append(2 * sizes[-2])
    return (*(size for size in sizes if size < most), most)


def call_counts(clusters: np.ndarray, passes: np.ndarray, most: int) -> list[int]:
    """Rows of each call of a run.

    Parameters
    ----------
    clusters : (K,) int64 array
        Of each step.
    passes : (K,) float array
        Evaluations that each of them takes on average: 1 ... 2, see `guidance.passes_per_row`.
    most : int
        Guidance pairs of a call.

    Returns
    -------
    counts : list of int
    """
    counts = []
    for count, per_row in zip(clusters.tolist(), passes.tolist(), strict=True):
        rows = round(count * per_row)
        shared = 1 < per_row < 2
        largest = most if per_row == 1 else 2 * most
        if shared:  # in parts of nearly the same size, see `shared.in_few_calls`
            pairs = -(-rows // 2)
            parts = [2 * len(part) for part in np.array_split(np.arange(pairs), -(-pairs // most))]
            parts[-1] -= rows % 2
            counts += parts
        else:
            counts += [largest] * (rows // largest) + [rows % largest] * bool(rows % largest)
    return counts


def few_call_sizes(counts: Sequence[int]) -> tuple[int, ...]:
    """As few sizes as pad these calls by no more than `MOST_PADDING`; none where these are no fewer.

    Examples
    --------
    >>> few_call_sizes([62, 63, 64, 64, 64]), few_call_sizes([2, 4, 8])
    ((64,), ())
    """
    for most in range(1, min(len(set(counts)), MOST_SIZES + 1)):
        sizes = few_sizes(counts, most)
        if padding_of(counts, sizes) <= MOST_PADDING * sum(counts):
            return sizes
    return ()
