"""Rows of the model's calls that an earlier run has evaluated: taken from a store, by what their branches are made of.

The host's sampler runs as ever, on all rows: only the model is not asked again. So whatever a sampler or a guider keeps
from call to call is what it would be without a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...hierdiff_core.sampling.lineage import content
from ...hierdiff_core.sampling.store import in_bytes
from .made_of import made_of
from .rows_alone import members_of

if TYPE_CHECKING:
    from ...hierdiff_core.sampling.store import Store
    from .clusters import CurrentClusters
    from .guard import Case


class PromptDigests(NamedTuple):
    """What prompts are made of in one run, each as a digest.

    texts : L bytes   conditioning of each prompt, and of those that are gone but belong to a mean
    own : N bytes     start latent, noise, masks and whatever else has no mean
    """

    texts: list[bytes]
    own: list[bytes]


class Found(NamedTuple):
    """What a store has of one evaluation.

    keys : list of C bytes        of the rows
    rows : dict of int to tensor  by cluster
    asked : list of int           the sides that are not None
    """

    keys: list[bytes]
    rows: dict[int, torch.Tensor]
    asked: list[int]


class Call(NamedTuple):
    """A call of the sampler, for those who ask what another run would find in the store.

    k : int               the plan's step
    begins_anew : bool    whether the sampler has forgotten what it knew
    what : bytes          of the first evaluation in it: which sides, with which patches
    """

    k: int
    begins_anew: bool
    what: bytes


class StoredCalls:
    """The rows that one run takes from a store, and puts into it.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    store : Store
    fingerprint : bytes
        Of all that the run's rows have in common.
    prompts : PromptDigests
    by_latents : bool
        Whether rows are known by their latents too, since code that nobody knows takes part between the calls.

    Attributes
    ----------
    reason : str
        Why nothing is kept any more; "" while rows are.
    why : str
        What has changed since the owner's last run, for a report where nothing could be reused.
    guided : callable or None
        Gives (C,) numbers, the strength of guidance of the current clusters.
    calls : list of Call
        Those of the run so far.
    wanted : callable or None
        ``wanted(k, prompt) -> bool``: whether the row of a prompt's cluster at a step is worth keeping; None: all are.
    """

    def __init__(
        self,
        current: CurrentClusters,
        store: Store,
        fingerprint: bytes,
        prompts: PromptDigests,
        by_latents: bool = False,
    ):
        self.current, self.store, self.prompts, self.by_latents = current, store, prompts, by_latents
        self.fingerprint = fingerprint
        self.calls: list[Call] = []
        self.reason = self.why = ""
        self.guided: Any = None
        self.wanted: Callable[[int, int], bool] | None = None
        self._place = 0  # of an evaluation in a sampler's call
        self._call = 0
        begin = [content("run", fingerprint)] * len(current.clusters.first)
        self._before, self._digests = begin, begin  # of the call before, and of the present one, for today's clusters
        self._branches = list(begin)  # what is given up together
        current.followers.append(self.follow)

    def of_part(self, current: CurrentClusters, prompts: Sequence[int], rows: Sequence[int]) -> StoredCalls:
        """What a run of some of the prompts takes from the same store, and puts there, by the keys of the whole run.

        Parameters
        ----------
        current : CurrentClusters
            Of the part.
        prompts : sequence of int
            Its prompts, by their numbers in the whole.
        rows : sequence of int
            The rows of its conditioning, likewise.
        """
        texts, own = [self.prompts.texts[row] for row in rows], [self.prompts.own[i] for i in prompts]
        return StoredCalls(current, self.store, self.fingerprint, PromptDigests(texts, own), self.by_latents)

    def refuse(self, reason: str) -> None:
        """Keep nothing from now on, and take nothing."""
        self.reason = self.reason or reason

    def follow(self, rows: np.ndarray) -> None:
        """Clusters have split: `rows` (C,) are the rows that the new ones had before."""
        parted = np.bincount(rows)[rows] > 1
        self._before, self._digests = ([digests[r] for r in rows] for digests in (self._before, self._digests))
        self._branches = [b"" if split else self._branches[r] for split, r in zip(parted, rows, strict=True)]
        if self._call == self.current.calls and self._call:
            self._refined = True

    def begin_call(self) -> None:
        """A sampler's call begins: its clusters are known."""
        self._before, self._call, self._place = self._digests, self.current.calls, 0
        self._make()

    def _make(self):
        """Digests of the present clusters, whose own at the call before are known."""
        self._refined = False
        contents = self._contents()
        self._digests = [content(above, own) for above, own in zip(self._before, contents, strict=True)]
        self._branches = [known or own for known, own in zip(self._branches, self._digests, strict=True)]

    def _contents(self):
        current, clusters = self.current, self.current.clusters
        guided = [1.0] * len(clusters.first) if self.guided is None else [float(one) for one in self.guided()]
        return [
            content(
                *sorted(self.prompts.texts[i] for i in members),
                self.prompts.own[int(first)],
                *(current.keys[c], current.seeds[c], guided[c], current.begins_anew),
            )
            for c, (members, first) in enumerate(zip(members_of(clusters), clusters.first, strict=True))
        ]

    @property
    def is_first_place(self) -> bool:
        """Whether the model is asked for the first time in this call of the sampler."""
        return self._place == 1

    def next_place(self) -> None:
        """The model is about to be asked once more in the same call of the sampler."""
        self._place += 1

    def found(self, case: Case) -> Found:
        """What the store has of an evaluation of all current clusters."""
        if self._refined:
            self._make()
        asked = [i for i, side in enumerate(case.sides) if side is not None]
        options = case.options.get("transformer_options", {})
        patches = [pair for name in ("patches", "patches_replace") for pair in options.get(name, {}).items()]
        kinds = sorted(f"{kind} {len(held)}" for kind, held in patches)
        what = content(self._place, len(case.sides), *asked, *kinds)
        if self.is_first_place and len(self.calls) < self.current.calls:
            self.calls.append(Call(self.current.k, self.current.begins_anew, what))
        keys = self.keys_of(what, self._latents(case.x))
        rows = {c: row for c, key in enumerate(keys) if (row := self._row(key, case.x, len(asked))) is not None}
        return Found(keys, rows, asked)

    def keys_of(self, what: bytes, latents: Sequence[bytes] | None = None) -> list[bytes]:
        """The store's keys of the current clusters, for an evaluation in the present call."""
        if latents is None:
            return [content(digest, what, None) for digest in self._digests]
        return [content(digest, what, own) for digest, own in zip(self._digests, latents, strict=True)]

    def _latents(self, x):
        if not self.by_latents:
            return None
        return [made_of(row) for row in x[self.current.indices(x.device)[0]].cpu()]

    def _row(self, key, x, sides):
        row = self.store.get(key)
        fits = row is not None and row.dtype == x.dtype and row.shape == (sides, *x.shape[1:])
        return row if fits else None

    def put(self, found: Found, clusters: Sequence[int], outputs: torch.Tensor) -> None:
        """Keep (R, sides, ...) of some clusters, unless something has turned up that forbids it."""
        if self.reason or not len(outputs):
            return
        rows = outputs if len(found.asked) == outputs.shape[1] else outputs[:, found.asked]
        if self.wanted is not None:
            first = self.current.clusters.first
            kept = [i for i, c in enumerate(clusters) if self.wanted(self.current.k, int(first[c]))]
            clusters, rows = [clusters[i] for i in kept], rows[kept]
        if len(clusters):
            self.store.put_rows([found.keys[c] for c in clusters], rows, [self._branches[c] for c in clusters])

    def joined(self, found: Found, clusters: Sequence[int], outputs: torch.Tensor, case: Case) -> torch.Tensor:
        """(C, sides, ...) of what was evaluated for some clusters, and of what the store has for the others."""
        x = case.x
        made = x.new_zeros((len(found.keys), len(case.sides), *x.shape[1:]))  # a side that is not asked is zero
        if len(clusters):
            made[list(clusters)] = outputs.to(made.dtype)
        kept = sorted(found.rows)
        rows = torch.stack([found.rows[c] for c in kept]).to(x.device)
        for place, side in enumerate(found.asked):
            made[kept, side] = rows[:, place]
        return made

    def report(self, reused: int, evaluated: int) -> list[str]:
        """What was taken from the store, in lines."""
        if self.reason:
            return [f"⚠ nothing was kept of this run: {self.reason}"]
        lines = [f"reused {reused} of {reused + evaluated} rows"] if reused else [self.why] if self.why else []
        held = f"the store holds {in_bytes(self.store.held)} in {self.store.rows} rows"
        return [*lines, held, *(f"⚠ {note}" for note in self.store.notes)]
