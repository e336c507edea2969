"""Calls of the model with one row for each cluster, in batches that fit the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.sampling.microbatch import MicroBatches
from .attachments import CALLS_FUNCTION, ROW_WRAPPERS, cfg_functions_of, names_of, wrappers_of
from .clusters import CurrentClusters
from .compiled_models import is_compiled
from .cond_rows import APPLIES, cond_bytes, cond_on_device, has_rows, reduced_cond
from .contract import Contract
from .control_rows import ControlRows
from .device import free_memory_beside
from .graphed_calls import GraphedCalls
from .guard import Case, Guard
from .listeners import Listeners
from .own_rows import alike, rows_of_call
from .padded_rows import PaddedRows
from .row_clones import PartOfRows, dealt, evaluated
from .rows_alone import alone_cond, is_alone, taken_cond
from .same_draws import SameDraws
from .shared_unconditional import SharedUnconditional
from .step_caches import host_cache
from .stored_calls import StoredCalls
from .watch import Watch
from .whole_calls import CutGuidance, one_at_a_time_only, recorder_readers

# Conditioning may take this share of a device's free memory to stay there from call to call.
CONDITIONING_SHARE = 0.05


class PlanRefined(Exception):
    """The clusters of a call were found to differ in what their rows are given: it has to be made anew."""


class ModelCalls:
    """Evaluates the model for the clusters of a step, and hands the results to their rows.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    micro_batch : int
        Clusters per call; 0 as many as the host's estimate of memory allows.
    before_call : callable
        Called before every evaluation; may raise to stop.
    takes_first : bool
        Where conditioning that has no mean differs within a cluster, the first prompt's is taken; else it is refused.
    part : callable
        ``part(groups, names)`` gets (N,) groups of the prompts whose data of other nodes are equal, where these differ;
        it may refine the current clusters.

    Attributes
    ----------
    around : list of callable
        ``context(rows, model_options)`` is entered around the evaluation of some of the current clusters, a list.

    Notes
    -----
    On a CPU a call holds one cluster: matrix libraries round differently for different batch sizes, and one at a time a
    picture depends on no other row. Elsewhere calls are halved when memory runs out, and stay so until the run ends.
    """

    def __init__(
        self,
        current: CurrentClusters,
        micro_batch: int,
        before_call: Callable[[], None],
        takes_first: bool = False,
        part: Callable[[np.ndarray, str], None] = lambda groups, names: None,
    ):
        self.current = current
        self.micro_batch = micro_batch
        self.contract = Contract(current)
        self.guard = Guard(current, self.contract, before_call, part)
        self.around: list[Callable[[list[int], dict], contextlib.AbstractContextManager]] = [self.contract.evaluation]
        self.before_call = before_call
        self.takes_first = takes_first
        self.shared = SharedUnconditional(current)
        self._controls = ControlRows(current.plan.num_prompts)
        current.followers.append(self._controls.forget_batches)
        self.padded = PaddedRows(current, micro_batch)
        self.shared.padded = self.padded.of_latents
        self.graphs = GraphedCalls()
        self._listeners = Listeners()
        self._compiled: bool | None = None
        self._watch = Watch()
        self._batches: MicroBatches | None = None
        self._stays: bool | None = None  # whether the conditioning fits on the device of the latents
        self._on_device = Kept()
        self._reduced = Kept()  # conditioning with a row for each cluster
        self._clusters = None  # those that the reduced are for
        self._readers: list[Callable] | None = None  # functions that must see the rows of the model's calls
        self._asked = False  # about these functions
        self.asks = False  # whether calls are questions of the guard
        self._inside: tuple[list[int], int] | None = None  # rows, of how many, that a guider is called with
        self.stored: StoredCalls | None = None  # where rows are kept for other runs
        self.on_reused: Callable[[Sequence[int]], object] = lambda clusters: None  # hears of rows that were

    def predict_noise(self, executor, x, timestep, model_options, *args, **kwargs) -> torch.Tensor:
        """A PREDICT_NOISE wrapper: the guider is called by cluster, where functions read what its model recorded."""
        guider = executor.class_obj
        if self._readers is None:
            self._readers = recorder_readers(guider)
        if self._readers and self.stored is not None:
            self.stored.refuse(f"{names_of(self._readers)} reads what the model records while it runs")
        if not self._readers or self._is_one_call(guider.conds, x):
            with one_at_a_time_only(model_options, len(x)):
                return executor(x, timestep, model_options, *args, **kwargs)
        self._check_rows(x, model_options)
        self._check_alone(model_options)
        cut = CutGuidance(guider, self._readers, model_options)

        def call(sides, x, t, options=None):
            with cut.first_part(sides):
                denoised = executor(x, t, model_options, *args, **kwargs)
            return cut.values(denoised)

        case = Case(guider.inner_model, list(guider.conds.values()), x, timestep, model_options)
        if not self._asked:
            self._asked = True
            self._ask_functions(case, call, cut)
        return cut.after_rest(self._by_cluster(case, call, inside=True), x, timestep)

    @property
    def rows_inside(self) -> list[int] | None:
        """The clusters that a guider is being called with; None where it is called with all prompts."""
        return None if self._inside is None else self._inside[0]

    def _is_one_call(self, conds, x):
        """Whether all prompts are evaluated at once, each by itself."""
        entries = [entry for side in conds.values() for entry in side]
        if any(is_alone(entry) or APPLIES in entry for entry in entries):
            return False
        return len(self.current.clusters.first) == self.current.plan.num_prompts <= self._micro_batches(x).limit

    def _check_alone(self, model_options):
        """Refuse what would see the guider being called for one cluster after another as if these were steps."""
        cache = host_cache(model_options.get("transformer_options", {}))
        between = names_of(attached.code for attached in wrappers_of(model_options, (WrappersMP.PREDICT_NOISE,)))
        if cache or between:
            raise ValueError(
                f"{names_of(self._readers or ())} reads what the model has recorded, so that the guider is called by "
                f"cluster; {cache or between} would take these calls for steps: remove one of the two"
            )

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options, *args, **kwargs) -> list:
        """A CALC_COND_BATCH wrapper: one row per cluster goes in, and comes back for every prompt.

        Raises
        ------
        ValueError
            If another node has changed the number of rows, or looks at their places.
        """

        def call(sides, x, t, options):
            return torch.stack(executor(model, sides, x, t, options, *args, **kwargs), dim=1)

        if self._inside is not None:
            return executor(model, self._fitting(conds, *self._inside), x_in, timestep, model_options, *args, **kwargs)
        self._check_rows(x_in, model_options)
        case = Case(model, conds, x_in, timestep, model_options)
        if self.stored is not None:
            self.stored.next_place()
        return list(self._by_cluster(case, call).unbind(dim=1))

    def _by_cluster(self, case, call, inside=False):
        """(N, ...) of ``call(sides, x, t, options)`` for the rows of the clusters."""
        while True:
            try:
                return self._evaluated(case, call, inside)
            except PlanRefined:
                continue

    def _evaluated(self, case, call, inside):
        clusters, num_prompts = self.current.clusters, self.current.plan.num_prompts
        count = len(clusters.first)
        sides, x, t = self._kept_on(case.sides, case.x.device, case.model), case.x, case.t
        alone = any(is_alone(entry) for entries in sides for entry in entries or ())
        if count < num_prompts or alone or clusters.founders is not None:
            first, _ = self.current.indices(x.device)
            x, t = x[first], t[first]
            sides = [self._reduce(entries, x.device) for entries in sides]
        draws = SameDraws(x.device) if self.guard.concerns(case) else None
        self._begin(case, inside)
        limit = self._micro_batches(x).limit
        shared = None if inside or draws is not None else self.shared.of_call(case, sides, x, limit)
        found = None if inside or self.stored is None or self.stored.reason else self.stored.found(case)
        needed = [c for c in range(count) if found is None or c not in found.rows]

        def parts_of(rows):
            if inside or draws is not None:  # others look at the rows of a call
                return [PartOfRows(rows, case.options)]
            return dealt(case.options, rows, sum(len(entries or ()) for entries in sides))

        def of_part(part):
            if shared is not None:
                return self.shared.evaluated(shared, part.rows, sides, x, t, lambda *given: call(*given, part.options))
            rows = part.rows if inside else self.padded.of_call(case, part.rows, self._micro_batches(x).limit)
            own, *tensors = rows_of_call(sides, x, t, rows, clusters.first)
            outputs = call([self._controls.of(side, clusters.first[rows]) for side in own], *tensors, part.options)
            return outputs[: len(part.rows)]

        def evaluate(rows):
            self._ask(case, rows, clusters)
            with contextlib.ExitStack() as stack:
                for context in self._contexts(case, rows, draws):
                    stack.enter_context(context)
                if inside:
                    stack.enter_context(self._narrowed(rows, count))
                outputs = evaluated(parts_of(rows), of_part)
            self._ask(case, rows, clusters, self._watch.active)
            return outputs

        try:
            outputs = self._of_needed(x, evaluate, alike(sides, clusters.first), needed)
        except PlanRefined:  # all of it is made anew
            if draws is not None:
                draws.undo()
            raise
        if draws is not None:
            draws.finish()
        if shared is not None:
            self.shared.count(shared, len(needed))
        if found is not None:
            outputs = self._with_stored(found, needed, outputs, case, draws)
        return self.current.spread(outputs) if count < num_prompts else outputs

    def _begin(self, case, inside):
        """Look who hears of the calls: where nobody does, those of a compiled model are padded, others recorded."""
        alone = not (inside or self._listeners.has_any(case))
        if self._compiled is None:
            self._compiled = is_compiled(case.options, getattr(case.model, "current_patcher", None))
        self.contract.unheard = alone and self._compiled
        self.graphs.begin(case, alone and not self._compiled, self.current)
        self.padded.begin(case, self._micro_batches(case.x).limit, self.contract.unheard)

    def _of_needed(self, x, evaluate, groups, needed):
        """(R, ...) of the clusters that have to be evaluated, which may be none."""
        if not needed:
            return x[:0]
        places = {c: place for place, c in enumerate(needed)}
        some = [[places[c] for c in group if c in places] for group in groups]
        batches = self._micro_batches(x)
        return batches.map_groups(lambda rows: evaluate([needed[row] for row in rows]), [own for own in some if own])

    def _with_stored(self, found, needed, outputs, case, draws):
        """(C, ...) with the rows that a store has; those that were evaluated are put into it."""
        assert self.stored is not None
        if draws is not None and draws.drawn:
            self.stored.refuse(f"{', '.join(self.guard.names) or 'what is attached to the model'} draws random numbers")
        if self.guard.parts:
            self.stored.refuse(f"{', '.join(self.guard.names)} has data for each prompt")
        self.stored.put(found, needed, outputs)
        if not found.rows:
            return outputs
        self.on_reused(sorted(found.rows))
        return self.stored.joined(found, needed, outputs, case)

    def _contexts(self, case, rows, draws):
        yield from (context(rows, case.options) for context in self.around)
        if draws is not None:
            yield draws.call()
            yield self._watch.call(case.options)

    def _ask(self, case, rows, clusters, active=()):
        """Ask the guard, where not all prompts are in one call; it may refine the clusters."""
        if len(rows) < self.current.plan.num_prompts:
            self.guard.check(case, active)
        if self.current.clusters is not clusters:
            raise PlanRefined

    def _ask_functions(self, case, call, cut):
        """Ask the guard about functions that are called by cluster: for the first prompt, as if it were alone."""
        one = [0]
        sides, _, t = rows_of_call(case.sides, case.x, case.t, one, np.arange(len(case.x)))

        def ask(x):
            with self.contract.evaluation(one, case.options), self._narrowed(one, len(self.current.clusters.first)):
                return call(sides, x, t)[:, 0]

        self.asks = True
        self.guard.check_functions(case, names_of([*cut.first, *(self._readers or ())]), ask)
        self.asks = False

    @contextlib.contextmanager
    def _narrowed(self, rows, count):
        self._inside = rows, count
        try:
            yield
        finally:
            self._inside = None

    def _micro_batches(self, x):
        if self._batches is None:
            limit = rows_per_call(x.device, self.micro_batch) or self.current.plan.num_prompts
            self._batches = MicroBatches(limit, self.before_call)
        return self._batches

    def _check_rows(self, x, model_options):
        num_prompts = self.current.plan.num_prompts
        if len(x) == num_prompts:
            return
        between = [attached.code for attached in wrappers_of(model_options, ROW_WRAPPERS)]
        between += [one.code for one in cfg_functions_of(model_options) if one.kind == CALLS_FUNCTION]
        named = f" ({names_of(between)})" if between else ""
        raise ValueError(
            f"the model is called with {len(x)} rows, but the plan is for {num_prompts} prompts: a node between Share "
            f"Steps and the sampler, such as context windows over the batch, changes the rows{named}; remove it"
        )

    def _kept_on(self, conds, device, model):
        """Conditioning on the device if all of it fits: from elsewhere the host copies it anew for every call."""
        if self._stays is None:
            size = sum(cond_bytes(entry) for entries in conds for entry in entries or ())
            self._stays = device.type != "cpu" and size < CONDITIONING_SHARE * free_memory_beside(model, device)
        if not self._stays:
            return conds
        self._on_device.begin(self.current.calls)
        return [
            entries
            and [self._on_device.made_of(entry, lambda entry: cond_on_device(entry, device)) for entry in entries]
            for entries in conds
        ]

    def _reduce(self, entries, device):
        """One side of the conditioning with a row per cluster; None stays None (no negative pass)."""
        if entries is None:
            return None
        clusters = self.current.clusters
        if self._clusters is not clusters:
            self._clusters, self._reduced = clusters, Kept()
        self._reduced.begin(self.current.calls)
        return [self._reduced.made_of(entry, lambda entry: self._reduced_entry(entry, device)) for entry in entries]

    def _reduced_entry(self, entry, device=None):
        if is_alone(entry):
            return alone_cond(entry, self.current.clusters, device if self._stays else None)
        return reduced_cond(entry, self.current.clusters, self.takes_first)

    def _fitting(self, conds, rows, count):
        """Conditioning for the rows that a guider is called with, where another node's has all prompts' still."""
        n = self.current.plan.num_prompts

        def fitting(entry):
            if not has_rows(entry, n):
                return entry
            return taken_cond(self._reduced_entry(entry), rows, count)

        return [entries and [fitting(entry) for entry in entries] for entries in conds]


class Kept:
    """What was made of conditioning entries, for as long as the calls have them: some nodes make new ones each call."""

    def __init__(self):
        self._made = {}  # entry, what was made, and the call that it was for; by identity of the entry
        self._call = 0

    def begin(self, call: int) -> None:
        """Forget what was not asked for since the call before this one, by its number."""
        if call != self._call:
            self._made = {key: made for key, made in self._made.items() if made[2] == self._call}
            self._call = call

    def made_of(self, entry: dict, make: Callable[[dict], dict]) -> dict:
        """What was made of an entry, or is now."""
        known = self._made.get(id(entry))
        made = make(entry) if known is None else known[1]
        self._made[id(entry)] = entry, made, self._call
        return made


def rows_per_call(device: torch.device, micro_batch: int) -> int:
    """Clusters per call of the model; 0 for as many as the host's estimate of memory allows."""
    return 1 if device.type == "cpu" else micro_batch
