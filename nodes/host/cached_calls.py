"""Calls of the model that are answered from memory: by the host's step caches, which follow the branches, or by others.

EasyCache answers below the rows of a call, LazyCache above all rows of a sampler's call. Both have to forget what they
know of a cluster that splits: it was made under another conditioning.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from .contract import replaced
from .row_states import RowStates
from .step_caches import LAZYCACHE, PLACE, host_cache, who_may_answer

if TYPE_CHECKING:
    from .clusters import CurrentClusters

KEY = "hierdiff_calls"  # of the wrapper that sees the model being called
SOMEBODY = "another node"


class CachedCalls:
    """What the host's caches know in one run, and how often somebody answered in the model's place.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.

    Attributes
    ----------
    rows : dict of str to int
        Rows answered without the model, by the cache's name.
    calls : int
        Calls of the sampler for which no row was evaluated.
    """

    def __init__(self, current: CurrentClusters):
        self.current = current
        self.witness = Witness()
        self.rows: dict[str, int] = {}
        self.calls = 0
        self._states: dict[int, RowStates] = {}  # by the identity of the host's holder
        self._skipped = 0.0  # calls, as a mean over the rows
        # Of the sampler's call: whether clusters split in it, and which (C,) were evaluated; None: nobody asked so far.
        self._options: dict[str, Any] = {}
        self._split = False
        self._evaluated: np.ndarray | None = None
        current.followers.append(self.follow)

    def follow(self, rows: np.ndarray) -> None:
        """Clusters have split: `rows` (C,) are the rows that the new ones had before."""
        self._split, self._evaluated = True, None
        for states in self._states.values():
            states.follow(rows)
        if host_cache(self._options) == LAZYCACHE:
            self._options[PLACE].cumulative_change_rate = math.inf  # no threshold is above it
        for value in followers_in(self._options):
            value.follow_rows(rows)

    @contextlib.contextmanager
    def sampler_call(self, model_options: dict) -> Iterator[None]:
        """A context around a sampler's call, in which clusters may split.

        Raises
        ------
        ValueError
            If somebody answers from memory for other rows than those of the memory.
        """
        self._options = model_options.get("transformer_options", {})
        self._evaluated = None
        self.witness.begin()
        yield
        cache = host_cache(self._options)
        if cache == LAZYCACHE:
            no_longer_infinite(self._options[PLACE])
        self.witness.saw_rows(self._evaluated is not None, self._are_others(self._split))
        self.witness.check(model_options)
        self._count(cache)
        self._split = False  # a mask may make the next call's clusters current before that call

    def _are_others(self, others):
        """Whether rows are others than before, for those who do not follow."""
        return others and not followers_in(self._options)

    def _count(self, cache):
        count = len(self.current.clusters.first)
        asked = self._evaluated is not None
        answered = count - int(self._evaluated.sum()) if self._evaluated is not None else count
        if not answered:
            return
        name = cache if cache and (asked or cache == LAZYCACHE) else SOMEBODY
        self.rows[name] = self.rows.get(name, 0) + answered
        self.calls += answered == count
        self.current.progress.on_remembered(answered)
        if name == cache:  # the host says so at the end of the run
            self._skipped += answered / count
            self._options[PLACE].total_steps_skipped = round(self._skipped)

    @contextlib.contextmanager
    def evaluation(self, rows: list[int], model_options: dict) -> Iterator[None]:
        """A context around the model's evaluation of some clusters: a cache knows these rows, and no others."""
        count = len(self.current.clusters.first)
        options = model_options.get("transformer_options", {})
        evaluated = np.zeros(count, dtype=bool) if self._evaluated is None else self._evaluated
        self._evaluated, self.witness.came = evaluated, False
        if not host_cache(options):
            yield
            evaluated[rows] = True
        else:
            holder = options[PLACE]
            states = self._states.setdefault(id(holder), RowStates(holder, count))
            with states.of_call(rows) as state, replaced(options, {PLACE: state}):
                before = state.total_steps_skipped
                yield
                evaluated[rows] |= state.total_steps_skipped <= before
        self.witness.saw_call(self._are_others(self._split or len(rows) < count))

    def reused(self, rows: Sequence[int]) -> None:
        """Some of the current clusters were taken from a store: nobody has answered for them from memory."""
        if self._evaluated is None:
            self._evaluated = np.zeros(len(self.current.clusters.first), dtype=bool)
        self._evaluated[list(rows)] = True

    def note(self, outputs: Iterable[torch.Tensor]) -> None:
        """What came of some evaluations."""
        self.witness.note(outputs)


class Witness:
    """Whether those who patch a model call it, or answer for it from memory.

    Attributes
    ----------
    came : bool
        Set when the model itself is called.
    """

    def __init__(self) -> None:
        self.came = False
        self._usual = set()  # where calls have come to
        self.begin()

    def watch(self, model_options: dict) -> None:
        """Hear of the model's calls; the options are a run's own."""
        wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        wrappers.setdefault(WrappersMP.APPLY_MODEL, {})[KEY] = [self._apply_model]

    def _apply_model(self, executor, *args, **kwargs):
        self.came = True
        return executor(*args, **kwargs)

    def begin(self) -> None:
        """A call of the sampler begins."""
        self._kinds: tuple[str, ...] = ()  # wrappers among which somebody has answered for other rows
        self._is_zero = True

    def saw_rows(self, asked: bool, are_others: bool) -> None:
        """Whether anybody asked for rows in a sampler's call, and whether they are others than in the call before."""
        if asked:
            self._usual.add("rows")
        elif "rows" in self._usual and are_others:
            self._kinds, self._is_zero = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH), False

    def saw_call(self, are_others: bool) -> None:
        """An evaluation is over; `are_others`: the one before was of other rows."""
        if self.came:
            self._usual.add("model")
        elif "model" in self._usual and are_others:
            self._kinds = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)

    def note(self, outputs: Iterable[torch.Tensor]) -> None:
        """What came of it: all zero where no conditioning is in force and nobody was asked."""
        if self._kinds or not self.came:
            self._is_zero = self._is_zero and not any(bool(rows.any()) for rows in outputs)

    def check(self, model_options: dict) -> None:
        """Refuse an answer that was for other rows than the memory.

        Raises
        ------
        ValueError
            Naming those who may have given it.
        """
        names = who_may_answer(model_options, *self._kinds)
        if self._kinds and names and not self._is_zero:
            raise ValueError(
                f"a call of the model was answered from memory, for other rows than those that were remembered: a step "
                f"cache that cannot follow clusters that split. It is one of these patches of the model: "
                f"{', '.join(names)}; remove it from the model whose steps are shared"
            )


def followers_in(options: dict[str, Any]) -> list[Any]:
    """Objects in the transformer_options that want to know when clusters split: they have a method ``follow_rows``."""
    return [value for value in options.values() if callable(getattr(value, "follow_rows", None))]


def no_longer_infinite(holder: Any) -> None:
    """A cache that had to compute has, or was not asked: outside of its part of the run it never skips."""
    if isinstance(holder.cumulative_change_rate, float) and math.isinf(holder.cumulative_change_rate):
        holder.cumulative_change_rate = 0.0
