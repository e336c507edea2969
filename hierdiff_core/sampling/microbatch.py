"""Evaluate many rows in batches that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..devices import free_memory, is_out_of_memory, total_memory

# Larger batches gain little speed and cost memory (the paper's code uses 32 too).
LARGEST_AUTO = 32
# Rows of a call that are chosen: between two neighbours there is little to gain.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SAFE_SHARE = 0.8  # of the free memory, that calls may take: the rest is for what estimates miss
TAKEN_BY_OTHERS = 2**30  # bytes of a card: its driver, a process's context, a desktop
PRIOR_TOO_LARGE = (
    "a single prompt does not fit in memory beside the prior; free memory first (other programs, models that are "
    "loaded), or load the prior in fp16"
)
LATENT_TOO_LARGE = "a single latent does not fit in memory; lower width and height, or free memory first"


class MicroBatches:
    """Batch size that halves when memory runs out, and stays there.

    Parameters
    ----------
    limit : int >= 1
        Rows per call to begin with.
    before_call : callable
        Called before every evaluation; may raise to stop (a user's cancel).
    too_large : str
        What to say when a single row does not fit.
    """

    def __init__(self, limit: int, before_call: Callable[[], Any] | None = None, too_large: str = LATENT_TOO_LARGE):
        self.limit = limit
        self.before_call = before_call or (lambda: None)
        self.too_large = too_large

    def map(self, evaluate: Callable[[slice], torch.Tensor], num_rows: int) -> torch.Tensor:
        """Concatenate ``evaluate(slice)`` over slices that cover `num_rows` rows.

        Parameters
        ----------
        evaluate : callable
            ``evaluate(slice) -> tensor`` with a row for each of the slice.
        num_rows : int
            All of them.

        Returns
        -------
        (num_rows, ...) tensor
            In the order of the rows.

        Raises
        ------
        torch.OutOfMemoryError
            If a single row does not fit.
        """
        return torch.cat([output for _, output in self.each(evaluate, num_rows)])

    def each(self, evaluate: Callable[[slice], Any], num_rows: int) -> Iterator[tuple[slice, Any]]:
        """Slices that cover `num_rows` rows and ``evaluate(slice)`` of each, which may be anything but None.

        Parameters
        ----------
        evaluate : callable
        num_rows : int
            All of them.

        Yields
        ------
        (slice, any)
        """
        start = 0
        while start < num_rows:
            rows = slice(start, min(start + self.limit, num_rows))
            self.before_call()
            output = self._try(evaluate, rows)
            if output is None:
                self.limit = max(1, (rows.stop - rows.start) // 2)
                continue
            yield rows, output
            start = rows.stop

    def map_groups(
        self, evaluate: Callable[[list[int]], torch.Tensor], groups: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Concatenate ``evaluate(rows)`` over parts of groups of rows.

        Parameters
        ----------
        evaluate : callable
            ``evaluate(rows) -> tensor`` with a row for each of the list.
        groups : sequence of sequence of int
            Rows that may be evaluated together; in all of them each of 0 ... R - 1 once.

        Returns
        -------
        (R, ...) tensor
            In the order of the rows.

        Raises
        ------
        torch.OutOfMemoryError
            If a single row does not fit.
        """
        parts = [self.map(lambda part, rows=list(rows): evaluate(rows[part]), len(rows)) for rows in groups]
        if len(parts) == 1:
            return parts[0]
        places = torch.argsort(torch.tensor([row for rows in groups for row in rows]))
        return torch.cat(parts)[places.to(parts[0].device)]

    def _try(self, evaluate: Callable[[slice], Any], rows: slice) -> Any:
        """`evaluate(rows)`, or None when memory ran out and fewer rows may still fit."""
        try:
            return evaluate(rows)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if rows.stop - rows.start == 1:
                raise torch.OutOfMemoryError(self.too_large) from error
        return None  # after the handler, so that the failed call's tensors are released before the next try


def auto_micro_batch(
    device: torch.device,
    bytes_per_row: float,
    largest: int = LARGEST_AUTO,
    weights: int | None = None,
    kept: tuple[int, int] = (0, 0),
) -> int:
    """Rows per call from the device's memory, one of `SIZES`, `largest` at most; always 1 on a CPU.

    On a CPU larger batches gain little, and with single rows no bit of a picture depends on the others. On a GPU the
    size changes pictures by rounding, so it should not depend on what little else is on the card: there are few sizes,
    and where it is known how much is there whenever the model runs, no more is counted on than that leaves.

    Parameters
    ----------
    device : torch.device
    bytes_per_row : float
        That a call takes for each row.
    largest : int
    weights : int, optional
        Bytes of the weights that are on the device.
    kept : (int, int)
        Rows of the largest call that is recorded as a CUDA graph, and how many times the memory of such a call graphs
        keep, beside all calls. Where a call has fewer rows, so has the largest graph.
    """
    if device.type == "cpu":
        return 1
    memory = free_memory(device)
    if weights is not None and (total := total_memory(device)) is not None:
        memory = min(memory, total - weights - TAKEN_BY_OTHERS)
    fit, (graphed, times) = int(SAFE_SHARE * memory / bytes_per_row), kept
    return rounded_down(min(largest, max(fit - times * graphed, min(fit // (1 + times), graphed))))


def rounded_down(rows: int) -> int:
    """The largest of `SIZES` that is not above a number of rows; 1 below them all."""
    return max((size for size in SIZES if size <= rows), default=1)
