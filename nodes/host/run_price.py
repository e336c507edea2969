"""What a run would cost with other edits: its calls again, for another plan, by keys alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...hierdiff_core.plan.edits import apply_edits, read_edits
from .clusters import CurrentClusters, rows_of_leaves
from .edited_run import in_time
from .keeping import Keeping, seconds_per_row
from .run_guidance import BranchGuidance
from .stored_calls import Call, PromptDigests, StoredCalls

if TYPE_CHECKING:
    import torch

    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.sampling.store import Store
    from .sharing_run import SharingRun


def price_of(run: SharingRun, keeping: Keeping) -> Callable[[str], tuple[int, int, float | None]] | None:
    """What tells the price of a run that has ended, with other edits.

    Parameters
    ----------
    run : SharingRun
    keeping : Keeping
        Of its node.

    Returns
    -------
    price : callable or None
        ``price(edits) -> (rows, reused, seconds)``. None where keys cannot be known before: nothing was kept, rows are
        known by their latents, or prompts have inputs of their own.
    """
    stored, fresh = run.stored, keeping.fresh
    if stored is None or stored.reason or stored.by_latents or fresh is None:
        return None
    if not stored.calls or run.plan.num_steps != fresh.num_steps:
        return None
    current, guided = run.current, None
    if run.guidance is not None:
        guided = np.asarray(run.guidance.branches.levels), run.guidance.is_guided
    rows = dict(zip(run.plan.leaf_keys or (), current.leaf_rows.tolist(), strict=True))
    known = PricedRun(
        fresh, stored.store, stored.fingerprint, stored.prompts, current.sigmas, current.first_step, rows,
        tuple(stored.calls), seconds_per_row(run, keeping.owner), run.last_reroll, guided, current.progress.passes,
    )  # fmt: skip
    return known.price


@dataclass(frozen=True, eq=False)
class PricedRun:
    """What is left of a run to tell prices by; it holds no model.

    Parameters
    ----------
    fresh : Plan
        As it was planned, without edits.
    store : Store
    fingerprint : bytes
    prompts : PromptDigests
    sigmas : (S + 1,) tensor
    first_step : int
    rows : dict of int to int
        The conditioning's row of each prompt and of those that are gone, by their keys.
    calls : tuple of Call
    seconds : float or None
        That a row took.
    last_reroll : int or None
        Of the run: later rerolls begin there.
    guided : (array, bool) or None
        Where the plan says how to guide: noise levels of the steps, and whether the run is guided at all.
    passes : (K,) numbers, or None
        Evaluations that a row of each step takes; None where each takes as many.
    """

    fresh: Plan
    store: Store
    fingerprint: bytes
    prompts: PromptDigests
    sigmas: torch.Tensor
    first_step: int
    rows: dict[int, int]
    calls: tuple[Call, ...]
    seconds: float | None
    last_reroll: int | None = None
    guided: tuple[np.ndarray, bool] | None = None
    passes: np.ndarray | None = None

    def price(self, edits: str) -> tuple[int, int, float | None]:
        """Rows of a run with these edits, of these reused, and its seconds.

        Raises
        ------
        ValueError
            If the edits are none, or cannot be drawn.
        """
        plan = apply_edits(self.fresh, read_edits(edits), True, self.store.leaves).plan
        plan, _ = in_time(plan, self.last_reroll, "")
        current = CurrentClusters(plan, self.sigmas, self.first_step, self._leaf_rows(plan))
        stored = StoredCalls(current, self.store, self.fingerprint, self.prompts)
        if self.guided is not None and plan.guidance is not None:
            stored.guided = BranchGuidance(plan.guidance, current, *self.guided).strengths
        shares = np.ones(plan.num_steps) if self.passes is None else self.passes / self.passes.max()
        rows, reused, work = 0, 0, 0.0
        for call in self.calls:
            current.go_to(call.k)
            current.calls, current.begins_anew = current.calls + 1, call.begins_anew
            stored.begin_call()
            keys = stored.keys_of(call.what)
            new = len(self.store.missing(keys))
            rows, reused, work = rows + len(keys), reused + len(keys) - new, work + new * shares[call.k]
        return rows, reused, None if self.seconds is None else float(work * self.seconds)

    def _leaf_rows(self, plan: Plan) -> np.ndarray:
        rows, keys = rows_of_leaves(plan), list(plan.leaf_keys or ())
        gone = np.flatnonzero(rows < 0)
        rows[gone] = [self.rows.get(keys[leaf], -1) for leaf in gone.tolist()]
        return rows
