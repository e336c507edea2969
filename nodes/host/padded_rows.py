"""Calls of a model that is compiled anew for each size: padded to few, which the plan tells before the first step.

What pads a call are copies of its first row, dropped from the result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from ...hierdiff_core.sampling.row_counts import few_sizes, padded_count, padding_of
from .compiled_models import compiles_each_size, known_sizes, new_sizes
from .row_clones import CLONES

if TYPE_CHECKING:
    from .clusters import CurrentClusters
    from .guard import Case

MOST_SIZES = 3  # new in a run; the first is compiled anyhow: two recompilations
# Of the rows: for less no further size is compiled, which takes as long as hundreds of rows.
PADDING_SHARE = 0.25


def pads_on(device: torch.device) -> bool:
    """Whether calls are padded on a device: on a CPU they hold one cluster, which is one size already."""
    return device.type != "cpu"


class PaddedRows:
    """The sizes of the calls of one run.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    micro_batch : int
        Rows of a call at most, as the user says; 0: as many as fit.

    Attributes
    ----------
    sizes : tuple of int
        Latents of a call, of all sides together; empty where calls stay as they are.
    padding : int
        Rows that were evaluated for nothing.
    used : set of int
        Rows of the calls.
    """

    def __init__(self, current: CurrentClusters, micro_batch: int = 0):
        self.current = current
        self.micro_batch = micro_batch
        self.sizes: tuple[int, ...] = ()
        self.padding = 0
        self.used: set[int] = set()
        self._begun = self._pads = False
        self._limit = 0  # when the sizes were chosen

    def begin(self, case: Case, limit: int, unheard: bool) -> None:
        """Before the first call, choose the sizes of the run.

        Parameters
        ----------
        case : Case
        limit : int
            Rows of a call at most.
        unheard : bool
            Whether the model is compiled, and nobody looks at the rows of its calls.
        """
        self._pads = unheard
        if unheard and not self._begun and pads_on(case.x.device) and compiles_each_size(case):
            self._choose(case, limit)
        self._begun = True

    def _choose(self, case, limit):
        self._limit, sides = limit, sides_of(case)
        counts, known = self._counts(sides, limit), known_sizes(case)
        fitting = {size for size in known if size <= sides * self.micro_batch} if self.micro_batch else known
        self.sizes = sizes_of(counts, fitting, new_sizes(len(known), MOST_SIZES))
        known.update(self.sizes)

    def of_call(self, case: Case, rows: list[int], limit: int) -> list[int]:
        """The rows of a call with those that pad it; where memory ran out, to no more than `limit`."""
        if not self.sizes or not self._pads or case.options.get(CLONES):
            return rows
        sides = sides_of(case)
        most = max(self.sizes) if limit == self._limit else limit * sides
        fitting = [size for size in self.sizes if size % sides == 0 and size <= most]
        more = padded_count(len(rows) * sides, fitting) // sides - len(rows)
        self.padding += more
        self.used.add(len(rows) + more)
        return rows + rows[:1] * more

    def of_latents(self, count: int) -> int:
        """Latents that a call of one side is padded to, where sides were joined before the host sees them."""
        if not (self.sizes and self._pads):
            return count
        padded = padded_count(count, self.sizes)
        self.padding += padded - count
        return padded

    def report(self) -> list[str]:
        """What was done, in words."""
        if not self.padding:
            return []
        sizes = ", ".join(map(str, sorted(self.used)))
        return [f"calls padded to {sizes} rows for the compiled model: {self.padding} rows more"]

    def _counts(self, sides, limit):
        """Latents of each call that the plan foresees; of steps with fewer sides rounded up to what others can have."""
        progress = self.current.progress
        passes = progress.passes / progress.passes[self.current.k]
        most = max(1, round(sides * float(passes[progress.steps].max())))
        counts = []
        for k in progress.steps:
            own = max(1, round(sides * float(passes[k])))
            whole, rest = divmod(int(self.current.plan.steps[k].num_clusters), limit)
            counts += [-(-rows * own // most) * most for rows in [limit] * whole + [rest] * bool(rest)]
        return counts


def sides_of(case: Case) -> int:
    """Sides of the conditioning that a call has."""
    return sum(bool(side) for side in case.sides)


def sizes_of(counts: Sequence[int], known: Collection[int], most: int) -> tuple[int, ...]:
    """As few new sizes as leave little padding, and those that a model is compiled for; `most` new ones at most."""
    sizes: tuple[int, ...] = ()
    for new in range(0 if max(known, default=0) >= max(counts) else 1, most + 1):
        sizes = few_sizes(counts, new, known)
        if padding_of(counts, sizes) <= PADDING_SHARE * sum(counts):
            break
    return sizes
