"""Few sizes of UNet calls on a GPU: each costs once, when it is met first, as much as many rows.

Libraries choose their kernels for every size of a batch anew, for some tenths of a second in all
(docs/measurements/rows.md). A plan has as many sizes as it has numbers of clusters, and others in the steps in which
clusters share unconditional rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..sampling.row_counts import few_sizes, padded_count, padding_of
from .acceleration import padded

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
    """

    def __init__(self, network: Any, sizes: Sequence[int]):
        self.network, self.sizes = network, tuple(sizes)

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
        if not 0 < size - count <= MOST_OF_CALL * count:
            return self.network(latents, t, image_embeds)
        return self.network(padded(latents, size), t, padded(image_embeds, size))[:count]


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
