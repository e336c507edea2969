"""A run of the host's sampler as several, one group of subtrees after another: pictures are finished on the way.

The sampler knows one batch, and all of it is finished at once. So each group is a batch of its own. What it shares with
the others is evaluated once, by the first of them: the others find it in a store, by the keys of the whole run. Each
picture is what it would be in one batch.

Legend: N prompts of the run, P of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...hierdiff_core.plan.groups import PlanPart, groups_in_order, part_of
from ...hierdiff_core.sampling.store import Store
from .attachments import around_model, controls_of, names_of, needs_no_guard, objects_of, patches_of
from .cond_rows import APPLIES
from .device import stop_if_cancelled
from .group_watch import AllRows, GroupProgress, ShownPart
from .guard import RUN_KEY
from .keeping import stored_calls
from .made_of import CannotTell
from .one_prompt import entry_of_rows
from .rows_alone import mark_rows

if TYPE_CHECKING:
    import comfy.samplers

    from ...hierdiff_core.plan.plan import Plan
    from .sharing_run import SharingRun
    from .stored_calls import StoredCalls

MOST_GROUPS = 64  # each goes through all steps of the sampler, and makes a plan of its own
PICTURES, PICTURES_ON_CPU = 8, 4  # of a group: a useful batch for a GPU; on a CPU each is evaluated by itself anyway
MOST_TRUNK = 4 * 2**30  # bytes of memory for what groups share, where a run keeps nothing
GUIDED = "Plan Guidance looks at all splits of the plan"
BY_LATENTS = "what is attached to the sampler or around the guidance may look at all pictures together"
FIRST_OF_CLUSTER = "clusters use the inputs of their first prompt"
NO_TREE = "the plan does not know its tree, or prompts with inputs of their own are apart"
FOR_SOME = "some conditioning is for some of the prompts"
ATTACHED = "{names} may have data for each prompt"


@dataclass(frozen=True, eq=False)
class Group:
    """Prompts that are drawn together.

    Attributes
    ----------
    prompts : (P,) int64
        Their numbers in the run, rising.
    labels : K (P,) int64
        The clusters of the whole plan's steps that they are in.
    drawn, wanted : K (P,) bool
        Whether a group before this one has drawn that cluster, and whether later ones need it.
    """

    prompts: np.ndarray
    labels: list[np.ndarray]
    drawn: list[np.ndarray]
    wanted: list[np.ndarray]


def size_of_groups(plan: Plan, micro_batch: int, device: torch.device) -> int:
    """Pictures that a group should have: more in a set so large that there would be too many groups."""
    size = PICTURES_ON_CPU if device.type == "cpu" else micro_batch or PICTURES
    return max(size, -(-plan.num_distinct // MOST_GROUPS))


def groups_of(plan: Plan, size: int, steps: range) -> list[Group]:
    """The groups of a run, in their order; none where there would be one."""
    found = groups_in_order(plan, size, steps)
    if len(found) < 2:
        return []
    number = np.empty(plan.num_prompts, dtype=np.int64)  # of each prompt's group
    for i, prompts in enumerate(found):
        number[prompts] = i
    first, last = [], []
    for step in plan.steps:
        first.append(np.full(step.num_clusters, len(found)))
        last.append(np.full(step.num_clusters, -1))
        np.minimum.at(first[-1], step.labels, number)
        np.maximum.at(last[-1], step.labels, number)
    groups = []
    for i, prompts in enumerate(found):
        labels = [step.labels[prompts] for step in plan.steps]
        drawn = [first[k][own] < i for k, own in enumerate(labels)]
        groups.append(Group(prompts, labels, drawn, [last[k][own] > i for k, own in enumerate(labels)]))
    return groups


def why_one_run(run: SharingRun, stored: StoredCalls, guider: comfy.samplers.CFGGuider, takes_first: bool) -> str:
    """Why a run has to be one batch; "" where it can be several.

    Parameters
    ----------
    run : SharingRun
    stored : StoredCalls
        Of the run.
    guider : CFGGuider
        Of the run, with its conditioning.
    takes_first : bool
        Whether clusters take an input of their first prompt.
    """
    if run.guidance is not None:
        return GUIDED
    if stored.by_latents:
        return BY_LATENTS
    if takes_first:
        return FIRST_OF_CLUSTER
    if any(APPLIES in entry for entries in guider.conds.values() for entry in entries):
        return FOR_SOME
    options = guider.model_options
    inside = [*patches_of(options.get("transformer_options", {})), *around_model(options)]
    inside += [*objects_of(guider.model_patcher), *controls_of(guider.conds.values())]
    heeding = [one.code for one in inside if not needs_no_guard(one.code)]
    return ATTACHED.format(names=names_of(heeding)) if heeding else ""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run is given.

    rows : share_steps.Rows        latents, noise and mask
    sampler, sigmas, seed          as the host made them
    disable_pbar, callback         likewise
    options : dict                 what newer hosts give besides
    """

    rows: Any
    sampler: Any
    sigmas: torch.Tensor
    disable_pbar: bool
    options: dict[str, Any]
    callback: Callable | None
    seed: int | None

    def drawn(self, executor: Any, rows: Sequence[Any], sampler: Any, callback: Callable | None) -> torch.Tensor:
        """What the host makes of latents, noise and mask (or none), by a sampler that shares steps."""
        latents, noise, mask = rows
        options = dict(self.options)
        if "latent_shapes" in options:
            options["latent_shapes"] = [latents.shape]
        return executor(
            noise, latents, sampler, self.sigmas, mask, callback, self.disable_pbar, self.seed, **options
        )  # fmt: skip

    def of(self, prompts: np.ndarray) -> list[Any]:
        """Latents, noise and mask of some prompts; a mask of one row is everybody's."""
        rows, count = torch.from_numpy(prompts), len(self.rows.latents)
        return [own if own is None or len(own) != count else own[rows.to(own.device)] for own in self.rows]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A run that is about to begin.

    Attributes
    ----------
    executor : WrapperExecutor
        Of the host's OUTER_SAMPLE.
    run : SharingRun
    inputs : Inputs
    sampler : KSAMPLER
        The run's.
    conds : dict of list of dict
        Its conditioning, not encoded yet, with rows for prompts that are gone.
    takes_first : bool
        Whether clusters take an input of their first prompt.
    """

    executor: Any
    run: SharingRun
    inputs: Inputs
    sampler: Any
    conds: dict[str, list[dict]]
    takes_first: bool

    def one_batch(self) -> torch.Tensor:
        """(N, ...) samples of all prompts at once."""
        return self.inputs.drawn(self.executor, self.inputs.rows, self.sampler, self.run.watched(self.inputs.callback))

    def groups(self) -> GroupRuns | None:
        """The run as several; None where it is small enough for one.

        Raises
        ------
        CannotTell
            With the reason why it has to be one.
        """
        run, guider, given = self.run, self.executor.class_obj, self.inputs
        size = size_of_groups(run.plan, run.model_calls.micro_batch, guider.model_patcher.load_device)
        groups = groups_of(run.plan, size, range(run.current.first_step, run.current.last_step + 1))
        if not groups:
            return None
        try:
            part_of(run.plan, np.arange(run.plan.num_prompts))
        except ValueError as error:
            raise CannotTell(NO_TREE) from error
        stored = run.stored
        if stored is None or (stored.store.budget <= 0 and stored.store.folder is None):
            store = Store(MOST_TRUNK)
            store.begin({}, "")
            known = given.sampler, given.sigmas, given.rows, self.conds, given.seed
            stored, _ = stored_calls(run, guider, *known, store)
            stored.wanted = lambda k, prompt: True  # of each group what later ones need
        reason = why_one_run(run, stored, guider, self.takes_first)
        if reason:
            raise CannotTell(reason)
        return GroupRuns(self, groups, stored)


class GroupRuns:
    """Draws the groups of a run.

    Parameters
    ----------
    drawing : Drawing
        The whole, of which nothing is drawn itself: what its groups do is told to its run.
    groups : list of Group
    stored : StoredCalls
        Of the whole run.
    """

    def __init__(self, drawing: Drawing, groups: list[Group], stored: StoredCalls):
        self.drawing, self.groups, self.stored = drawing, groups, stored
        self.calls = 0

    @property
    def largest(self) -> tuple[int, ...]:
        """The shape of the latents of the largest group."""
        rows = max(len(group.prompts) for group in self.groups)
        return rows, *self.drawing.inputs.rows.latents.shape[1:]

    def drawn(self, finished: Callable[[np.ndarray, torch.Tensor], object]) -> torch.Tensor:
        """(N, ...) samples; ``finished(prompts, samples)`` gets what a group has made, before the next one begins."""
        drawing, count = self.drawing, self.drawing.run.plan.num_prompts
        guider, made = drawing.executor.class_obj, []
        everyone = AllRows(count, drawing.inputs.callback)
        for group in self.groups:
            stop_if_cancelled()
            everyone.prompts = group.prompts
            made.append(self._drawn(group, guider, None if drawing.inputs.callback is None else everyone))
            finished(group.prompts, made[-1])
        guider.conds = drawing.conds
        order = np.argsort(np.concatenate([group.prompts for group in self.groups]))
        samples = torch.cat(made)
        return samples[torch.from_numpy(order).to(samples.device)]

    def _drawn(self, group: Group, guider: comfy.samplers.CFGGuider, callback: Callable | None) -> torch.Tensor:
        run, given = self.drawing.run, self.drawing.inputs
        part = part_of(run.plan, group.prompts)
        rows, leaf_rows = rows_of_part(group.prompts, part, run.current.leaf_rows)
        own = run.of_part(part.plan, leaf_rows)
        own.current.progress = GroupProgress(part.plan, group, run.current.progress)
        own.observer = shown = ShownPart(run, own, group)
        own.is_shown = run.is_shown
        stored = self.stored.of_part(own.current, group.prompts.tolist(), rows)
        stored.wanted = None if self.stored.wanted is None else lambda k, prompt: bool(group.wanted[k][prompt])
        own.keep(stored)
        count, conds = run.current.rows, self.drawing.conds
        guider.conds = {side: [entry_of_rows(one, rows, count) for one in conds[side]] for side in conds}
        own.rows_alone = mark_rows(guider.conds, {len(group.prompts), len(rows)})
        guider.model_options["transformer_options"][RUN_KEY] = own
        own.caches.witness.watch(guider.model_options)
        sampler = own.sampler(given.sampler)
        samples = given.drawn(self.drawing.executor, given.of(group.prompts), sampler, own.watched(callback))
        shown.end(guider.model_patcher.model, samples)
        self._take(own, stored)
        return samples

    def _take(self, own: SharingRun, stored: StoredCalls) -> None:
        """What the whole run has to know of one of its groups."""
        run = self.drawing.run
        run.take_warnings(own)
        self.calls += own.current.calls
        run.current.calls = self.calls
        run.current.progress.standard_rows = run.plan.num_distinct * own.current.calls
        if not own.current.is_short_of_last:
            run.current.go_to(own.current.last_step)
        self.stored.calls = stored.calls
        if stored.reason:
            self.stored.refuse(stored.reason)


def rows_of_part(prompts: np.ndarray, part: PlanPart, leaf_rows: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The rows of the whole run's conditioning that a group needs, and which of these each leaf of its plan has."""
    whole = leaf_rows[part.leaves]
    own = {int(prompt): place for place, prompt in enumerate(prompts)}
    rows = [*own]
    places = np.full(len(whole), -1, dtype=np.int64)
    for leaf, row in enumerate(whole.tolist()):
        if row >= 0 and row not in own:
            own[row] = len(rows)
            rows.append(row)
        places[leaf] = own.get(row, -1)
    return rows, places
