"""Runs that keep what the model evaluated, and take from there what earlier ones have."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...hierdiff_core.plan.keeping import remember
from ...hierdiff_core.sampling.lineage import content
from .edited_run import edited_run, owner, told_of
from .made_of import CannotTell
from .plan_rows import KeptRows, keep_rows
from .prices import rate_of
from .prompt_digests import common_conditioning, prompt_digests
from .run_parts import needs_latents, run_parts, why_not
from .stored_calls import StoredCalls

if TYPE_CHECKING:
    import comfy.samplers

    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.sampling.store import Store
    from .sharing_run import SharingRun

UNKNOWN = "of {name} nobody can tell what it is made of"


def kept_plan(plan: Plan, keep: bool, edits: str, trunk: Store | None) -> tuple[Plan, Keeping | None]:
    """The plan of a node's runs with its edits, and what these keep.

    Parameters
    ----------
    plan : Plan
        As it was planned for today's prompts.
    keep : bool
        Hang new prompts onto the tree that is there, and keep what is evaluated.
    edits : str
        JSON of the node's input.
    trunk : Store or None
        Where rows are kept; the session's own when None.

    Returns
    -------
    plan : Plan
        The same object where nothing is kept or edited, and for a prompt that is drawn alone.
    keeping : Keeping or None
        None for a prompt that is drawn alone: its node's edits are of the set.

    Raises
    ------
    ValueError
        If the edits are none, or cannot be applied.
    """
    if plan.one_of is not None:
        return plan, None
    edited = edited_run(plan, keep, edits, trunk)
    return edited.plan, Keeping(edited.store, tuple(edited.notes), edited.told, owner(), plan)


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
    fresh : Plan or None
        As it was planned for today's prompts, without edits.
    """

    store: Store | None = None
    notes: tuple[str, ...] = ()
    told: str = ""
    owner: str = ""
    fresh: Plan | None = None

    def told_of(self, run: SharingRun) -> dict[str, Any]:
        """What the page is told of a run that has ended, by the name of the entry."""
        known = run.current.progress, seconds_per_row(run, self.owner), run.last_reroll
        return told_of(self.fresh or run.plan, self.told, *known)

    def kept_safe(self) -> contextlib.AbstractContextManager[None]:
        """A context around a run: what it evaluates is where it is kept when it ends, also by an error or a cancel."""
        return contextlib.nullcontext() if self.store is None else self.store.kept_safe()

    @property
    def rows(self) -> KeptRows | None:
        """The conditioning of prompts that are gone."""
        if self.store is None:
            return None
        kept = (json.loads(self.told).get("kept") if self.told else None) or {}
        return KeptRows(self.store.leaves, kept.get("digests") or {})

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
            For the report: what became of the plan, and why nothing is kept where that is so.
        """
        if self.store is None:
            return [*self.notes]
        try:
            stored, parts = stored_calls(run, guider, sampler, sigmas, rows, conds, seed, self.store)
        except CannotTell as error:
            return [*self.notes, f"⚠ nothing is kept of this run: {error}"]
        if self.rows is not None:
            remember(self.fresh or run.plan, self.store.leaves)
            keep_rows(conds, run.current.rows, run.plan, self.rows)
        prompts = content(*sorted(stored.prompts.texts)).hex()  # some may be what they were: told where none is
        stored.why = self.store.begin({**parts, "prompts": prompts}, self.owner)
        run.keep(stored)
        return [*self.notes]


def stored_calls(
    run: SharingRun,
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.KSAMPLER,
    sigmas: torch.Tensor,
    rows: Any,
    conds: Mapping[str, list[dict]],
    seed: int | None,
    store: Store,
) -> tuple[StoredCalls, dict[str, str]]:
    """What a run takes from a store, and what its rows are made of; for the parameters see `Keeping.begin`.

    Raises
    ------
    CannotTell
        With the reason why nothing can be kept.
    """
    n, count = run.plan.num_prompts, run.current.rows
    reason = why_not(guider, conds)
    if reason:
        raise CannotTell(reason)
    try:
        parts = run_parts(guider, sampler, sigmas, rows.latents, seed, run.plan)
        parts["conditioning of all prompts"] = common_conditioning(conds, n, count)
        digests = prompt_digests(conds, list(rows), n, count)
    except CannotTell as error:
        raise CannotTell(UNKNOWN.format(name=error)) from error
    fingerprint = content(*(f"{name} {value}" for name, value in sorted(parts.items())))
    return StoredCalls(run.current, store, fingerprint, digests, needs_latents(guider, sampler)), parts


def seconds_per_row(run: SharingRun, owner: str) -> float | None:
    """What a row of a run took, or of the owner's run before where it evaluated none; None where nothing is known."""
    seconds = run.current.progress.pace.per_unit
    return rate_of(owner, None if seconds is None else seconds * float(run.current.progress.passes.max()))
