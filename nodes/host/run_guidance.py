"""How one run with shared steps is guided where its plan says so: without the negative pass outside an interval, and
more strongly after a split.

Both happen innermost, where the host's guider combines its passes: whatever other nodes wrap around a sampler's call
sees one call, as ever. Strengths that differ between the rows of a call are applied one after the other to what the
model was evaluated to once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import comfy.samplers
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.devices import on_device
from ...hierdiff_core.plan.guidance import NEVER, since_parted
from .attachments import cfg_functions_of, is_ours, module_of, name_of, names_of
from .plan_texts import course_lines, passes_line

if TYPE_CHECKING:
    from ...hierdiff_core.plan.guidance import GuidanceCourse
    from .clusters import CurrentClusters

KEY = "hierdiff_guidance"  # of the wrappers
PERP_NEG, DUAL = "Guider_PerpNeg", "Guider_DualCFG"  # the host's guiders that combine passes in ways of their own
KEEP_NEGATIVE = "disable_cfg1_optimization"  # what functions set that need the negative pass at any strength
KEEPS = (
    "{names} made another prediction of the same passes the second time: it keeps something from call to call, or "
    "draws noise. Guidance that is raised after a split is computed once for each strength; remove it, or use a plan "
    "without boost"
)


def check_guider(guider: comfy.samplers.CFGGuider, course: GuidanceCourse) -> None:
    """Refuse a guider that cannot be told how much to guide.

    Parameters
    ----------
    guider : CFGGuider
        Of the run.
    course : GuidanceCourse
        Of its plan.

    Raises
    ------
    ValueError
        Naming the guider, and what to do.
    """
    kind = kind_of(guider)
    if kind is None and (course.cuts or course.boosts):
        raise ValueError(
            f"{name_of(type(guider))} guides in a way of its own, so that the plan cannot say where and how much: use "
            "CFGGuider, or a plan without Plan Guidance"
        )
    if not course.boosts:
        return
    if kind == DUAL:
        raise ValueError(
            "the plan raises guidance after each split (boost), but DualCFGGuider has two strengths: use CFGGuider, or "
            "a boost of 1 in Plan Guidance"
        )
    if not is_guided(guider):
        raise ValueError(
            "the plan raises guidance after each split (boost), but this run has none: cfg is 1, or there is no "
            "negative, as with models that were distilled (Flux, Turbo). Use a cfg above 1, or a boost of 1 in Plan "
            "Guidance"
        )


def kind_of(guider: comfy.samplers.CFGGuider) -> str | None:
    """How a guider combines its passes: "" as the host's own, by the name of its class; None: nobody knows."""
    kind = type(guider)
    if kind.predict_noise is comfy.samplers.CFGGuider.predict_noise:
        return ""
    known = kind.__name__ in (PERP_NEG, DUAL) and module_of(kind).startswith("comfy_extras.")
    return kind.__name__ if known else None


def is_guided(guider: comfy.samplers.CFGGuider) -> bool:
    """Whether the run takes more than the conditional pass."""
    if kind_of(guider):
        return True
    return bool(guider.conds.get("negative")) and not math.isclose(guider.cfg, 1.0)


class BranchGuidance:
    """How strongly the current clusters of a run are guided.

    Parameters
    ----------
    course : GuidanceCourse
        Which cuts or boosts.
    current : CurrentClusters
        Of the run.
    levels : (S,) float
        Noise levels of the run's steps.
    is_guided : bool
        Whether the run takes more than the conditional pass.
    """

    def __init__(
        self, course: GuidanceCourse, current: CurrentClusters, levels: Sequence[float] | np.ndarray, is_guided: bool
    ):
        self.course, self.current, self.levels, self.is_guided = course, current, levels, is_guided
        self.inside = course.inside(current.plan.num_steps)
        self._high = np.asarray(levels) > course.boost_above
        self._began = beginnings(current)
        current.followers.append(self._follow)

    def _follow(self, rows: np.ndarray) -> None:
        split = np.bincount(rows)[rows] > 1
        k = self.current.k
        # before anything was evaluated nothing has split, whatever was found to differ
        self._began = np.where(split & (k > self.current.first_step), k, self._began[rows])

    def factors(self) -> np.ndarray:
        """(C,) for the current clusters what their guidance is multiplied by in a step that is guided."""
        k = self.current.k
        since = np.where(self._began == NEVER, NEVER, k - self._began)
        return self.course.factors_of(since, high=bool(self._high[k - self.current.first_step]))

    def strengths(self) -> np.ndarray:
        """(C,) for the current clusters what their guidance is multiplied by; 0 where there is none."""
        if not self.is_guided or not self.inside[self.current.k]:
            return np.zeros(len(self._began))
        return self.factors()


class RunGuidance:
    """The guidance of one run, by the course of its plan.

    Parameters
    ----------
    course : GuidanceCourse
        Which cuts or boosts.
    guider : CFGGuider
        Of the run.
    current : CurrentClusters
        Of the run.
    levels : (S,) float
        Noise levels of the run's steps.
    rows_inside : callable
        Gives the clusters, a list, that a guider is being called with, or None where it is called with all prompts.

    Attributes
    ----------
    passes : int
        That the model has evaluated.
    """

    def __init__(
        self,
        course: GuidanceCourse,
        guider: comfy.samplers.CFGGuider,
        current: CurrentClusters,
        levels: Sequence[float] | np.ndarray,
        rows_inside: Callable[[], list[int] | None],
    ):
        self.course = course
        self.current = current
        self.rows_inside = rows_inside
        self.is_guided = is_guided(guider)
        self.branches = BranchGuidance(course, current, levels, self.is_guided)
        self.passes = 0
        self._sides = sum(bool(side) for side in guider.conds.values())
        self._most_per_row = 0.0  # of a call
        if self.is_guided:
            current.progress.passes = np.where(self.branches.inside, float(self._sides), 1.0)
        self._answers: list[Answer] | None = None  # of the model, while a guider combines them once more
        self._place = 0
        self._checked = False
        self._needed: list[Any] = []  # functions for which negative passes were made outside the interval
        self._twice: list[Any] = []  # functions that were called once for each strength

    def attach(self, model_options: dict) -> None:
        """Take part in a run; the options are its own."""
        wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        wrappers.setdefault(WrappersMP.PREDICT_NOISE, {})[KEY] = [self.predict_noise]  # the last is innermost
        calls = wrappers.setdefault(WrappersMP.CALC_COND_BATCH, {})
        others = dict(calls)
        calls.clear()
        calls.update({KEY: [self.calc_cond_batch], **others})

    def predict_noise(self, executor, x: torch.Tensor, timestep, model_options=None, *args, **kwargs) -> torch.Tensor:
        """A PREDICT_NOISE wrapper, the innermost: the guider combines its passes at the strength of each row."""
        guider, options = executor.class_obj, {} if model_options is None else model_options

        def combined() -> torch.Tensor:
            return executor(x, timestep, options, *args, **kwargs)

        if not self.is_guided:
            return combined()
        if not self.branches.inside[self.current.k]:
            return self._unguided(guider, x, timestep, options, *args, **kwargs)
        factors = self._factors()
        if (factors == factors[0]).all():
            with raised(guider, float(factors[0])):
                return combined()
        with self._evaluated_once():
            self._check_functions(options, combined)
            return self._by_strength(guider, factors, combined)

    def _unguided(self, guider, x, timestep, options, *args, **kwargs):
        """The conditional pass alone, as the host makes it at cfg 1: for whom the negative is needed it stays."""
        if options.get(KEEP_NEGATIVE):
            self._needed = [one.code for one in cfg_functions_of(options) if not is_ours(one.code)]
        cfg, guider.cfg = guider.cfg, 1.0
        try:
            return comfy.samplers.CFGGuider.predict_noise(guider, x, timestep, options, *args, **kwargs)
        finally:
            guider.cfg = cfg

    def _factors(self) -> np.ndarray:
        """What to multiply the strength by: (R,) for the rows that the guider is called with."""
        own, rows = self.branches.factors(), self.rows_inside()
        return own[self.current.clusters.labels] if rows is None else own[rows]

    def _by_strength(self, guider, factors, combined):
        # a strength of 1 last: for it the host leaves the negative out, for others it has been evaluated then
        values = sorted(np.unique(factors).tolist(), key=lambda factor: math.isclose(guider.cfg * factor, 1.0))
        result = None
        for factor in values:
            self._place = 0
            with raised(guider, factor):
                rows = combined()
            if result is None:
                result = rows
            else:
                own = on_device(factors == factor, rows.device)
                result = torch.where(own.view(-1, *[1] * (rows.ndim - 1)), rows, result)
        assert result is not None
        return result

    def _check_functions(self, options, combined):
        """Refuse functions around the guidance that remember their calls: they are called once for each strength."""
        functions = [one.code for one in cfg_functions_of(options) if not is_ours(one.code)]
        foreign = [code for code in functions if not module_of(code).startswith("comfy.k_diffusion")]
        self._twice = foreign or self._twice
        if self._checked or not foreign:
            return
        self._checked = True
        answers = []
        for _ in range(2):
            self._place = 0
            answers.append(combined().nan_to_num())
        if not torch.equal(*answers):
            raise ValueError(KEEPS.format(names=names_of(foreign)))

    @contextlib.contextmanager
    def _evaluated_once(self) -> Iterator[None]:
        """A context: what the model was evaluated to is the answer when it is asked for again."""
        self._answers = []
        try:
            yield
        finally:
            self._answers = None

    def calc_cond_batch(self, executor, model, conds, x_in: torch.Tensor, *args, **kwargs) -> list:
        """A CALC_COND_BATCH wrapper, the outermost: answers once more what was evaluated in the same sampler's call."""
        if self._answers is None:
            return executor(model, conds, x_in, *args, **kwargs)
        place, self._place = self._place, self._place + 1
        if place < len(self._answers) and self._answers[place].is_to(conds, x_in):
            return [rows.clone() for rows in self._answers[place].outputs]
        outputs = executor(model, conds, x_in, *args, **kwargs)
        if place == len(self._answers):
            self._answers.append(Answer(conds, x_in, [rows.clone() for rows in outputs]))
        return outputs

    def count(self, per_row: float, rows: int) -> None:
        """Count a sampler's call: passes for each row, and the rows that no cache has answered for."""
        self.passes += round(per_row * rows)
        self._most_per_row = max(self._most_per_row, math.ceil(per_row))  # at a split, less on average

    def report(self, standard_rows: int) -> list[str]:
        """What was spent, and where it was guided, in lines; `standard_rows` are those of separate runs."""
        if not self.is_guided:
            return ["no negative pass in this run: the plan's guidance leaves nothing out"]
        standard = round(standard_rows * (self._most_per_row if self._most_per_row > 1 else self._sides))
        lines = [passes_line(self.passes, standard), *course_lines(self.course, self.current.plan.num_steps)]
        if self._needed:
            lines.append(
                f"⚠ {names_of(self._needed)} needs the negative pass: it was made outside the guided steps too"
            )
        if self._twice:
            lines.append(f"{names_of(self._twice)}: called once for each strength of guidance")
        return lines


def beginnings(current: CurrentClusters) -> np.ndarray:
    """The plan's step at which each of the current clusters has split off, (C,) int64; `NEVER`: none."""
    since = since_parted(current.plan)[current.k][current.plan.steps[current.k].labels[current.clusters.first]]
    return np.where(since == NEVER, NEVER, current.k - since)


class Answer:
    """What the model was evaluated to in a sampler's call.

    Parameters
    ----------
    conds : list
        Conditioning of each side; None for none.
    x : (R, ...) tensor
    outputs : list of (R, ...) tensor
    """

    def __init__(self, conds: list, x: torch.Tensor, outputs: list[torch.Tensor]):
        self.entries = [side and list(side) for side in conds]  # kept, so that no other has their identity
        self.x = x
        self.outputs = outputs

    def is_to(self, conds: list, x: torch.Tensor) -> bool:
        """Whether the same is asked again; a side may be left out."""
        if len(conds) != len(self.entries) or not (x is self.x or torch.equal(x, self.x)):
            return False
        return all(side is None or same_entries(side, own) for side, own in zip(conds, self.entries, strict=True))


def same_entries(side: list, other: list | None) -> bool:
    """Whether both hold the same objects."""
    return other is not None and len(side) == len(other) and all(a is b for a, b in zip(side, other, strict=True))


@contextlib.contextmanager
def raised(guider: comfy.samplers.CFGGuider, factor: float) -> Iterator[None]:
    """A context: the guider's strength times a factor."""
    cfg = guider.cfg
    guider.cfg = cfg if factor == 1 else cfg * factor
    try:
        yield
    finally:
        guider.cfg = cfg
