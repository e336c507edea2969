"""Calls of the model that are answered from memory: by the host's step caches, which follow the branches, or by others.

EasyCache answers below the rows of a call, LazyCache above all rows of a sampler's call. Both have to forget what they
know of a cluster that splits: it was made under another conditioning.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from comfy.patcher_extension import WrappersMP

from .row_states import RowStates
from .step_caches import EASYCACHE, LAZYCACHE, PLACE, host_cache, patches_of

if TYPE_CHECKING:
    import torch

    from .clusters import CurrentClusters

KEY = "hierdiff_calls"  # of the wrapper that sees the model being called
SOMEBODY = "another node"


class CachedCalls:
    """What caches know in one run, and how often they answered.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.

    Attributes
    ----------
    rows : dict of str to int
        Rows answered from memory, by the cache's name.
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
        self._options: dict[str, Any] = {}  # of the sampler's call
        self._split = False  # in the sampler's call
        self._evaluated: np.ndarray | None = None  # (C,) in the sampler's call; None: nobody has asked for rows yet
        current.followers.append(self.follow)

    def follow(self, rows: np.ndarray) -> None:
        """Clusters have split: `rows` (C,) are the rows that the new ones had before."""
        self._split = True
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
            If clusters split and somebody answers for them from memory.
        """
        self._options = model_options.get("transformer_options", {})
        self._split, self._evaluated = False, None
        yield
        cache, asked = host_cache(self._options), self._evaluated is not None
        if cache == LAZYCACHE:
            no_longer_infinite(self._options[PLACE])
        kinds = WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH
        self.witness.check("rows", asked, self._other_rows(self._split), lambda: patches_of(model_options, *kinds))
        count = len(self.current.clusters.first)
        answered = count - (int(self._evaluated.sum()) if self._evaluated is not None else 0)
        if answered:
            self._note(cache if cache and asked == (cache == EASYCACHE) else SOMEBODY, answered, count)

    def _other_rows(self, others):
        """Whether an answer from memory is for other rows; who follows the branches knows."""
        return others and not followers_in(self._options)

    def _note(self, name, answered, count):
        self.rows[name] = self.rows.get(name, 0) + answered
        self.calls += answered == count
        self.current.progress.on_remembered(answered)
        self._skipped += answered / count
        if name == EASYCACHE:  # the host says so at the end of the run
            self._options[PLACE].total_steps_skipped = round(self._skipped)

    def around(self, evaluate: Callable[[slice], torch.Tensor], model_options: dict) -> Callable[[slice], torch.Tensor]:
        """`evaluate(rows)` of the model for some clusters, with what a cache knows of them in its place."""
        count = len(self.current.clusters.first)
        if self._evaluated is None:
            self._evaluated = np.zeros(count, dtype=bool)
        options = model_options.get("transformer_options", {})

        def seen(rows):
            self.witness.came = False
            outputs = evaluate(rows)
            came = self.witness.came or not bool(outputs.any())  # all zero: at this sigma no conditioning is in force
            others = self._other_rows(self._split or rows.stop - rows.start < count)
            kinds = WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL
            self.witness.check("model", came, others, lambda: patches_of(model_options, *kinds))
            return outputs

        def with_state(rows):
            with states.of_call(rows) as state, put(options, PLACE, state):
                before = state.total_steps_skipped
                outputs = seen(rows)
                self._evaluated[rows] |= state.total_steps_skipped <= before
                return outputs

        def without_state(rows):
            outputs = seen(rows)
            self._evaluated[rows] = True
            return outputs

        if host_cache(options) != EASYCACHE:
            return without_state
        holder = options[PLACE]
        states = self._states.setdefault(id(holder), RowStates(holder, count))
        return with_state


class Witness:
    """Whether those who patch a model call it, or answer for it.

    Attributes
    ----------
    came : bool
        Set when the model itself is called.
    """

    def __init__(self):
        self.came = False
        self._usual = set()  # where calls came to

    def watch(self, model_options: dict) -> None:
        """Hear of the model's calls; the options are a run's own."""
        wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        wrappers.setdefault(WrappersMP.APPLY_MODEL, {})[KEY] = [self._apply_model]

    def _apply_model(self, executor, *args, **kwargs):
        self.came = True
        return executor(*args, **kwargs)

    def check(self, place: str, came: bool, other_rows: bool, patches: Callable[[], Sequence[str]]) -> None:
        """Refuse an answer from memory that is for other rows than the memory.

        Parameters
        ----------
        place : str
            Where calls come to unless somebody on the way answers.
        came : bool
            Whether this one did.
        other_rows : bool
            Whether its rows are others than those of the call before.
        patches : callable
            ``patches() -> names`` of those on the way.

        Raises
        ------
        ValueError
            Naming them.
        """
        if came:
            self._usual.add(place)
        elif place in self._usual and other_rows and (names := patches()):
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


@contextlib.contextmanager
def put(options: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """`value` in the place of another, in a context: in the same dict, where patches keep what they need."""
    before = options[name]
    options[name] = value
    try:
        yield
    finally:
        options[name] = before
