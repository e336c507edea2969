"""Unconditional rows that clusters share in a call of the model: where they have split since the call before, or in the
first call of a run, several have one latent, and with equal negative conditioning one unconditional row.

The host gives every conditioning the same latents. So conditional rows and the few unconditional ones go to it as one
side of that many rows, joined by its own rules, as it would join the two sides: one call, never two small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_management
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.devices import on_device
from ...hierdiff_core.plan.unconditional import (
    first_alike,
    of_clusters,
    rows_of_families,
    shares_rows,
    unconditional_families,
)
from .attachments import around_model, is_ours, objects_of, patches_of, wrappers_of
from .cond_rows import APPLIES, has_row_each
from .per_prompt import equal_rows
from .row_clones import CLONES
from .rows_alone import CLUSTERS, taken_cond
from .step_caches import host_cache

if TYPE_CHECKING:
    from .clusters import CurrentClusters
    from .guard import Case

MOST_TENSORS = 16  # of conditioning, whose equal rows are known
# What makes the host treat an entry otherwise than by its rows alone.
NOT_ALONE = (
    *("area", "mask", "strength", "default", "hooks", "control", "gligen", "timestep_start", "timestep_end"),
    *(APPLIES, CLUSTERS),
)


class SharedCall(NamedTuple):
    """An evaluation of the current clusters, some of which share rows.

    families : list of (C,) int64   the first cluster of each one's family, for each side; None where there is no side
    made : list of dict             rows that are known already, by family, for each side
    """

    families: Sequence[np.ndarray | None]
    made: list[dict[int, torch.Tensor]]

    @property
    def spared(self) -> int:
        """Rows that need not be evaluated."""
        return sum(len(own) - len(np.unique(own)) for own in self.families if own is not None)

    def spared_of(self, rows: int) -> int:
        """Passes that were not made of so many clusters."""
        return sum(rows - len(made) for own, made in zip(self.families, self.made, strict=True) if own is not None)


class SharedUnconditional:
    """Finds the rows that clusters share, and evaluates them once.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.

    Attributes
    ----------
    by_value : bool
        Whether latents are compared before they are taken for equal: where noise, masks or a sampler of another pack
        may have parted them. It waits for the device. Else the rows of a cluster are equal until the first call after
        its split, as all sharing relies on; in the first call of a run they are always compared.
    spared : int
        Passes that were not made.
    parted : callable
        ``parted(flag)`` gets, on the device, whether latents that were taken for equal differed.
    padded : callable
        ``padded(rows) -> rows``: the rows that a call of so many has, where it is padded to few sizes.
    """

    def __init__(self, current: CurrentClusters):
        self.current = current
        self.by_value = False
        self.spared = 0
        self.parted: Callable[[torch.Tensor], object] = lambda flag: None
        self.padded: Callable[[int], int] = lambda rows: rows
        self._equal: dict[int, tuple[Any, np.ndarray]] = {}  # groups of equal rows of conditioning, by its identity
        self._expected = False

    def of_call(self, case: Case, sides: Sequence[list[dict] | None], x: torch.Tensor, limit: int) -> SharedCall | None:
        """What clusters share in an evaluation; None where nothing is, or where something else looks at its rows.

        Parameters
        ----------
        case : Case
            With N rows.
        sides : list of (list of dict, or None)
            Its conditioning, with a row for each of C clusters.
        x : (C, ...) tensor
            Their latents.
        limit : int
            Clusters of a call at most.
        """
        if not shares_rows(x.device.type) or (self.current.calls > 1 and self.current.parents is None):
            return None
        if len(x) < 2 or is_looked_at(case) or not are_joined(sides):
            return None
        latents = self._latents(x)
        families = [None if side is None else self._families(side[0], of, latents) for side, of in paired(sides, case)]
        shared = SharedCall(families, [{} for _ in families])
        most = min(len(x), limit) * sum(own is not None for own in families)
        return shared if shared.spared and fits(case.model, x, most) else None

    def count(self, shared: SharedCall, rows: int) -> None:
        """Count what an evaluation of some clusters has spared, and let the run's progress expect the like.

        Parameters
        ----------
        shared : SharedCall
        rows : int
            Clusters that were evaluated, rather than taken from a store.
        """
        self.spared += shared.spared_of(rows)
        if self._expected or not rows:
            return
        self._expected = True
        plan, progress = self.current.plan, self.current.progress
        share = rows_of_families(unconditional_families(plan)) / plan.clusters_per_step
        most = max(float(progress.passes.max()), 2.0)
        guided = progress.passes == progress.passes.max()
        progress.passes = np.where(guided, 1 + (most - 1) * share, 1.0)

    def evaluated(
        self,
        shared: SharedCall,
        rows: list[int],
        sides: Sequence[list[dict] | None],
        x: torch.Tensor,
        t: torch.Tensor,
        call: Callable[[list, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """(R, sides, ...) of some clusters.

        Parameters
        ----------
        shared : SharedCall
        rows : list of R int
            The clusters.
        sides, x, t : list, (C, ...) tensor, (C,) tensor
            Of all clusters.
        call : callable
            ``call(sides, x, t) -> (E, 1, ...) tensor``: the host's evaluation of a single side.
        """
        parts = []  # side, its families that are to be evaluated
        for side, families in enumerate(shared.families):
            if families is not None:
                wanted = dict.fromkeys(int(families[row]) for row in rows)
                parts.append((side, [own for own in wanted if own not in shared.made[side]]))
        parts = [(side, own) for side, own in parts if own]
        if parts:
            entries = [one_entry(sides[side], own, len(x)) for side, own in parts]
            sizes = [len(own) for _, own in parts]
            more = self.padded(sum(sizes)) - sum(sizes)  # copies of the first row, dropped from the result
            entries += [one_entry(sides[parts[0][0]], parts[0][1][:1] * more, len(x))] if more else []
            places = np.concatenate([*(np.array(own) for _, own in parts), np.full(more, parts[0][1][0])])
            at = on_device(places, x.device)
            outputs = call([[joined_entry(entries)]], x[at], t[at])[: sum(sizes), 0]
            for (side, own), made in zip(parts, outputs.split(sizes), strict=True):
                shared.made[side].update(zip(own, made.unbind(), strict=True))
        return torch.stack([self._of_side(shared, side, rows, x) for side in range(len(shared.families))], dim=1)

    def _of_side(self, shared, side, rows, x):
        families, made = shared.families[side], shared.made[side]
        if families is None:
            return x.new_zeros((len(rows), *x.shape[1:]))  # as the host has it
        return torch.stack([made[int(families[row])] for row in rows])

    def _latents(self, x):
        """(C,) int64, equal for clusters with one latent."""
        current = self.current
        if current.calls == 1 or self.by_value:
            return equal_rows(x.cpu())
        latents = np.asarray(current.parents)
        first = on_device(first_alike(latents), x.device)
        self.parted((x != x[first]).any() & x.isfinite().all())
        return latents

    def _families(self, entry, original, latents):
        """(C,) the first cluster with the same latent and the same rows of an entry."""
        keys = [latents]
        for cond in original["model_conds"].values():
            for rows in tensors_of(cond):
                if has_row_each(rows, self.current.clusters):
                    leaves, clusters = self.current.clusters.counted
                    if rows.shape[0] <= leaves.max():
                        return np.arange(len(latents))
                    own, mixed = of_clusters(self._groups(rows)[leaves], clusters, len(latents))
                    keys.append(np.where(mixed, -1 - np.arange(len(latents)), own))
        return first_alike(*keys)

    def _groups(self, rows):
        """(N,) int64, equal for equal rows of conditioning; found once for each tensor, as it waits for the device."""
        known = self._equal.get(id(rows))
        if known is None or known[0] is not rows:
            if len(self._equal) >= MOST_TENSORS:  # some nodes make new ones for each call
                self._equal.clear()
            known = self._equal[id(rows)] = rows, groups_of_equal(rows)
        return known[1]


def groups_of_equal(rows: torch.Tensor, most: int = 4) -> np.ndarray:
    """(N,) int64, equal for rows that are bit-identical: for those that are one of the first few kinds."""
    groups, left = np.arange(len(rows)), np.arange(len(rows))
    for _ in range(most):
        same = (rows[on_device(left, rows.device)] == rows[left[0]]).flatten(1).all(dim=1).cpu().numpy()
        groups[left[same]], left = left[0], left[~same]
        if not len(left):
            break
    return groups


def paired(sides: Sequence[list[dict] | None], case: Case) -> list[tuple[list[dict] | None, dict | None]]:
    """Each side with its entry as the call has it, with a row for each prompt."""
    return [(side, given[0] if given else None) for side, given in zip(sides, case.sides, strict=True)]


def is_looked_at(case: Case) -> bool:
    """Whether something of another pack sees the rows of a call, whatever it does with them, or divides them."""
    options, inner = case.options, case.options.get("transformer_options", {})
    seen = [*patches_of(inner), *around_model(options), *wrappers_of(options, (WrappersMP.CALC_COND_BATCH,))]
    patcher = getattr(case.model, "current_patcher", None)
    seen += [] if seen or patcher is None else objects_of(patcher)
    foreign = any(not is_ours(attached.code) for attached in seen)
    return bool(foreign or options.get(CLONES) or options.get("context_handler") or host_cache(inner))


def are_joined(sides: Sequence[list[dict] | None]) -> bool:
    """Whether the host would evaluate all sides in one call, by their rows alone."""
    asked = [side for side in sides if side is not None]
    if len(asked) < 2 or any(len(side) != 1 for side in asked):
        return False
    entries = [side[0] for side in asked]
    if any(entry.get(name) is not None for entry in entries for name in NOT_ALONE):
        return False
    conds = [single(entry["model_conds"]) for entry in entries]
    return all(own.keys() == conds[0].keys() for own in conds) and all(
        type(own[name]) is type(conds[0][name]) and own[name].can_concat(conds[0][name])
        for own in conds[1:]
        for name in own
    )


def single(conds: dict[str, Any]) -> dict[str, Any]:
    """`model_conds` of one row."""
    return {name: cond.process_cond(batch_size=1, area=None) for name, cond in conds.items()}


def tensors_of(cond: Any) -> list[torch.Tensor]:
    """The tensors of the host's COND object that may have rows."""
    values = cond.cond if isinstance(cond.cond, (list, tuple)) else [cond.cond]
    return [value for value in values if torch.is_tensor(value) and value.ndim]


def one_entry(side: list[dict] | None, rows: list[int], count: int) -> dict:
    """The only entry of a side with a row for each of some clusters, even where one row serves all."""
    assert side is not None
    entry = taken_cond(side[0], rows, count) if rows != list(range(count)) else side[0]
    conds = {name: cond.process_cond(batch_size=len(rows), area=None) for name, cond in entry["model_conds"].items()}
    return {**entry, "model_conds": conds}


def joined_entry(entries: Sequence[dict]) -> dict:
    """One entry with the rows of several, by the host's own rules."""
    first = entries[0]
    if len(entries) == 1:
        return first
    conds = {
        name: cond._copy_with(cond.concat([entry["model_conds"][name] for entry in entries[1:]]))
        for name, cond in first["model_conds"].items()
    }
    return {**first, "model_conds": conds}


def fits(model: Any, x: torch.Tensor, rows: int) -> bool:
    """Whether so many rows fit into one call by the host's estimate: else it evaluates one side after the other."""
    free = comfy.model_management.get_free_memory(x.device)
    return model.memory_required([rows, *x.shape[1:]]) * 1.5 < free
