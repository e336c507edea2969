"""Unconditional rows of a Kandinsky run that branches have in common: which, and their evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..plan.unconditional import rows_of_families, shares_rows, unconditional_families

if TYPE_CHECKING:
    from ..plan.plan import Plan
    from ..sampling.microbatch import MicroBatches
    from .plan_embeddings import PlanEmbeddings


def shared_families(plan: Plan, found: PlanEmbeddings, device: str) -> list[np.ndarray] | None:
    """The clusters of each step that take one unconditional row, or None where nothing is shared.

    Parameters
    ----------
    plan : Plan
    found : PlanEmbeddings
        What its means are made of.
    device : str
        Kind of the device that draws.

    Returns
    -------
    families : list of K (C_k,) int64 arrays, or None
        See `unconditional_families`.
    """
    return unconditional_families(plan, equal_negatives(found), found.known) if shares_rows(device) else None


def shared_rows(plan: Plan, found: PlanEmbeddings, device: str) -> np.ndarray | None:
    """Unconditional rows of each step, (K,) int64, if all are guided; None where each cluster has its own."""
    families = shared_families(plan, found, device)
    return None if families is None else rows_of_families(families)


def equal_negatives(found: PlanEmbeddings) -> np.ndarray:
    """(L,) int64, equal for leaves whose negatives are bit-identical: so are the means of those, in float64."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.numpy().tobytes(), i) for i, row in enumerate(found.leaves[1])])


class Entries:
    """What the network evaluates for some rows: the conditional pass of each, and unconditional passes that are shared.

    Parameters
    ----------
    families : (C,) int64 array
        Equal for rows with one latent and one negative embedding.
    guided : (C,) bool array
        Rows that have guidance.

    Attributes
    ----------
    rows, sides : (E,) int64 arrays
        Row of each evaluation, and whether it is of the positive embedding, 0, or the negative, 1.
    unconditional : (D,) int64 array
        Evaluation that each guided row takes as its unconditional one.
    guided : (D,) int64 array
        These rows.
    """

    def __init__(self, families: np.ndarray, guided: np.ndarray):
        self.guided = np.flatnonzero(guided)
        _, first, of = np.unique(families[self.guided], return_index=True, return_inverse=True)
        count = len(families)
        self.rows = np.concatenate([np.arange(count), self.guided[first]])
        self.sides = (np.arange(len(self.rows)) >= count).astype(np.int64)
        self.unconditional = count + of.reshape(-1)

    @property
    def spared(self) -> int:
        """Passes that are not made: one less than there are rows in each family."""
        return len(self.guided) - int(self.sides.sum())


def in_few_calls(batches: MicroBatches, evaluate: Callable[[slice], torch.Tensor], entries: int) -> torch.Tensor:
    """(E, ...) of ``evaluate(slice)`` over evaluations, twice as many a call as rows that have guidance.

    They are divided into as few calls as they need, of nearly the same size: a call of one or two rows takes as long as
    one of many.
    """
    pairs = -(-entries // 2)
    parts = np.array_split(np.arange(pairs), -(-pairs // batches.limit))
    outputs = []
    for part in parts:
        began = int(part[0])

        def some(rows: slice, began: int = began) -> torch.Tensor:
            return evaluate(slice(2 * (began + rows.start), min(2 * (began + rows.stop), entries)))

        outputs.append(batches.map(some, len(part)))
    return torch.cat(outputs)
