"""The calls of a piece of a set, and what they take on a card: for scale.py and scale_expected.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from hierdiff_core.kandinsky.acceleration import graph_rows
from hierdiff_core.kandinsky.decoder import LEAST_PART
from hierdiff_core.kandinsky.shared import SharedRows, in_few_calls
from hierdiff_core.plan.unconditional import families_of_part
from hierdiff_core.sampling.loop import denoise_part
from hierdiff_core.sampling.microbatch import MicroBatches
from hierdiff_core.sampling.row_counts import padded_count

LATENT = 64 * 64  # pixels of a latent
# (card, acceleration): ms a row, by rows of a call; the last is the largest call
ROW_MS = {
    ("H100", "none"): {1: 41.23, 2: 20.40, 4: 11.44, 8: 7.42, 12: 7.27, 16: 6.81, 24: 6.35, 32: 6.08},
    ("H200", "none"): {1: 45.56, 2: 22.16, 4: 12.19, 8: 7.90, 12: 6.93, 16: 6.38, 24: 6.02, 32: 5.73},
    ("H100", "auto"): {1: 6.91, 2: 4.97, 4: 4.23, 8: 3.96, 12: 4.40, 16: 3.88, 24: 3.60, 32: 3.51},
    ("H200", "auto"): {1: 6.5, 2: 4.9, 4: 4.0, 8: 3.7, 12: 3.9, 16: 3.55, 24: 3.45, 32: 3.35},
    ("H100", "torch.compile"): {1: 6.35, 2: 4.79, 4: 4.02, 8: 3.79, 12: 4.16, 16: 3.85},
    ("H200", "torch.compile"): {1: 6.12, 2: 4.57, 4: 3.82, 8: 3.62, 12: 3.90, 16: 3.64},
}


class Card:
    """What calls take on a card.

    Parameters
    ----------
    row_ms : dict of int to float
        As in `ROW_MS`.
    new : float
        Seconds more for the first call of a size.
    sizes : sequence of int
        That calls are padded to.
    prepared : bool
        Whether calls of these sizes were made before.
    """

    def __init__(self, row_ms, new=0.0, sizes=(), prepared=False):
        self.pairs, self.new, self.sizes, self.prepared = max(row_ms), new, sizes, prepared
        rows, ms = np.array([(0, 0), *row_ms.items()]).T
        self.call = np.interp(np.arange(2 * self.pairs + 1) / 2, rows, rows * ms / 1000)

    def size(self, evaluations):
        """What a call is padded to."""
        size = padded_count(evaluations, self.sizes)
        return graph_rows(size, LATENT) or size

    def seconds(self, evaluations, seen):
        """Of a call; what was `seen` grows."""
        size = self.size(evaluations)
        first = 0.0 if size in seen else self.new
        seen.add(size)
        return first + self.call[size]


class Unchanged:
    """The state of a scheduler that remembers nothing."""

    def __getitem__(self, rows):
        return self


def calls_of(part, head, families, pairs):
    """Evaluations of each call of a piece, which is a part on its own, as a worker makes them."""
    sharing, counts = SharedRows(families_of_part(families, part)), []
    leaves = 1 + max(int(part.means_of(i)[0].max()) for i in range(len(part.steps)))

    def call(rows):
        counts.append(rows.stop - rows.start)
        return torch.zeros(counts[-1], 1)

    def step(rows, k, clusters, means, state):
        sharing.ask(k, clusters)
        entries = sharing.entries(k, clusters, np.ones(len(clusters), dtype=bool))
        if entries is None:
            MicroBatches(2 * pairs).map(call, 2 * len(clusters))
        else:
            sharing.with_known(k, entries, in_few_calls(MicroBatches(pairs), call, len(entries.rows)))
        return rows, state

    rows, embeddings = torch.zeros(int(part.steps[0].parents.max()) + 1, 1), torch.zeros(leaves, 2, 1)
    most = None if head else max(2 * pairs, LEAST_PART)
    for _ in denoise_part(part, rows, Unchanged(), step, embeddings, most_rows=most):
        pass
    return counts
