"""Unconditional rows of a Kandinsky run that branches have in common: which, and their evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    known : sequence of int
        Families whose unconditional rows are known already.

    Attributes
    ----------
    rows, sides : (E,) int64 arrays
        Row of each evaluation, and whether it is of the positive embedding, 0, or the negative, 1.
    guided : (D,) int64 array
        Rows that have guidance.
    unconditional : (D,) int64 array
        Evaluation that each of these takes as its unconditional one; from E on those that are known.
    known : list of int
        As given.
    evaluated : int64 array
        The families whose unconditional rows are the last of the evaluations.
    """

    def __init__(self, families: np.ndarray, guided: np.ndarray, known: Sequence[int] = ()):
        self.guided, self.known = np.flatnonzero(guided), list(known)
        found, first, of = np.unique(families[self.guided], return_index=True, return_inverse=True)
        is_new = ~np.isin(found, np.asarray(known, dtype=np.int64))
        self.evaluated, count = found[is_new], len(families)
        self.rows = np.concatenate([np.arange(count), self.guided[first[is_new]]])
        self.sides = (np.arange(len(self.rows)) >= count).astype(np.int64)
        place = {int(own): i for i, own in enumerate([*self.evaluated, *known])}
        self.unconditional = count + np.array([place[int(own)] for own in found], dtype=np.int64)[of.reshape(-1)]

    @property
    def spared(self) -> int:
        """Passes that are not made."""
        return len(self.guided) - len(self.evaluated)


class SharedRows:
    """The unconditional rows of a run that branches share, kept where some of these come later: depth first.

    Parameters
    ----------
    families : K (C_k,) int64 arrays
        See `shared_families`.
    """

    def __init__(self, families: Sequence[np.ndarray]):
        self.families = families
        self._left: dict[tuple[int, int], int] = {}  # clusters of a family that were not asked for yet
        self._rows: dict[tuple[int, int], torch.Tensor] = {}

    def ask(self, k: int, clusters: np.ndarray) -> None:
        """Some clusters of step k come to be denoised, whether they are evaluated or not."""
        sizes = np.bincount(self.families[k])
        here = np.bincount(self.families[k][clusters], minlength=len(sizes))
        for family in np.flatnonzero((here > 0) & (here < sizes)).tolist():
            key = (k, family)
            self._left[key] = self._left.get(key, int(sizes[family])) - int(here[family])

    def entries(self, k: int, clusters: np.ndarray, guided: np.ndarray) -> Entries | None:
        """What is evaluated for some clusters of step k, of which (C,) bool are guided; None: a pair for each."""
        own = self.families[k][clusters]
        known = [family for family in np.unique(own).tolist() if (k, family) in self._rows]
        entries = Entries(own, guided, known)
        awaited = any(self._left.get((k, family)) for family in entries.evaluated.tolist())
        return entries if entries.spared or awaited else None

    def with_known(self, k: int, entries: Entries, made: torch.Tensor) -> torch.Tensor:
        """Evaluations (E, ...) of some entries, then rows that were known; new ones are kept for who comes later."""
        rows = [self._rows[k, family][None] for family in entries.known]
        for family in entries.known:
            if not self._left[k, family]:
                del self._rows[k, family]
        began = len(made) - len(entries.evaluated)
        for i, family in enumerate(entries.evaluated.tolist()):
            if self._left.get((k, family)):
                self._rows[k, family] = made[began + i].clone()
        return torch.cat([made, *rows]) if rows else made


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
