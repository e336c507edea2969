"""Runs that keep what the model evaluated, and take from there what earlier ones have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...hierdiff_core.sampling.lineage import content
from .made_of import CannotTell
from .plan_rows import keep_rows
from .prompt_digests import common_conditioning, prompt_digests
from .run_parts import needs_latents, run_parts, why_not
from .stored_calls import StoredCalls

if TYPE_CHECKING:
    import comfy.samplers

    from ...hierdiff_core.sampling.leaves import Leaves
    from ...hierdiff_core.sampling.store import Store
    from .sharing_run import SharingRun

UNKNOWN = "of {name} nobody can tell what it is made of"


@dataclass(frozen=True, eq=False)
class Keeping:
    """What the runs of a node keep.

    Parameters
    ----------
    store : Store or None
        Where rows are kept; None: the run is one like any other, of an edited plan.
    notes : tuple of str
        What became of the plan, for the report.
    told : str
        The edits with the kept tree, for the page.
    owner : str
        The node whose edits these are.
    """

    store: Store | None = None
    notes: tuple[str, ...] = ()
    told: str = ""
    owner: str = ""

    @property
    def leaves(self) -> Leaves | None:
        """The conditioning of prompts that are gone."""
        return None if self.store is None else self.store.leaves

    def begin(
        self,
        run: SharingRun,
        guider: comfy.samplers.CFGGuider,
        sampler: comfy.samplers.KSAMPLER,
        sigmas: torch.Tensor,
        rows: Any,
        conds: Mapping[str, list[dict]],
        seed: int | None,
    ) -> list[str]:
        """Let a run use the store.

        Parameters
        ----------
        run : SharingRun
        guider : CFGGuider
            Of the run, with its options.
        sampler : KSAMPLER
            As the host made it.
        sigmas : (S + 1,) tensor
        rows : Rows
            What the sampler starts from.
        conds : dict of list of dict
            The conditioning, not encoded yet.
        seed : int or None

        Returns
        -------
        lines : list of str
            For the report: what became of the plan, and why nothing can be reused where that is so.
        """
        if self.store is None:
            return [*self.notes]
        n, count = run.plan.num_prompts, run.current.rows
        reason = why_not(guider, conds)
        if reason:
            return [*self.notes, f"⚠ nothing is kept of this run: {reason}"]
        try:
            parts = run_parts(guider, sampler, sigmas, rows.latents, seed, run.plan)
            parts["conditioning of all prompts"] = common_conditioning(conds, n, count)
            digests = prompt_digests(conds, list(rows), n, count)
        except CannotTell as error:
            return [*self.notes, f"⚠ nothing is kept of this run: {UNKNOWN.format(name=error)}"]
        keep_rows(conds, run.plan, self.store.leaves)
        reason = self.store.begin(parts, self.owner)
        fingerprint = content(*(f"{name} {value}" for name, value in sorted(parts.items())))
        run.keep(StoredCalls(run.current, self.store, fingerprint, digests, needs_latents(guider, sampler)))
        return [*self.notes, *([reason] if reason else [])]
