"""Asks a model whether what other nodes attached to it looks at a row's place, before rows of clusters are shared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_patcher
import comfy.samplers
import numpy as np
import torch

from ...hierdiff_core.devices import is_out_of_memory
from ...hierdiff_core.sampling.microbatch import MicroBatches
from .attachments import (
    COMPOSED,
    Attached,
    around_model,
    controls_of,
    identity_of,
    names_of,
    needs_no_guard,
    objects_of,
    patches_of,
)
from .cond_rows import sliced_cond
from .contract import VERSION, Contract, told, window_of
from .device import largest_call
from .same_draws import SameDraws

if TYPE_CHECKING:
    from .clusters import CurrentClusters

RUN_KEY = "hierdiff_run"  # of a run in its transformer_options
# Rows that are asked of a larger set: where they are all equal the others are not asked.
MOST_ROWS = 256
# Rows that are asked at later sigmas, where a patch may begin only in mid-run.
LATER_ROWS = 4
# What counts as equal, in units of the model's own prediction (root mean square): some times what rounding was measured
# to make of equal rows (docs/measurements/samplers.md), in one call and between calls of different sizes.
SAME_CALL = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 2e-2}
OTHER_CALL = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
BY_PLACE = (
    "{names} gives rows with equal inputs different results by their place in the batch, as a picture, mask or weight "
    "for each prompt does, and does not heed which prompts the rows of a call are for; give it one for all prompts, or "
    "sample without shared steps"
)
KEEPS = (
    "{names} keeps something from one call of the model to the next: the same input gave another result the second "
    "time. With shared steps the calls are for other rows than without; remove it, or sample without shared steps"
)
MIXES = (
    "{names} mixes the rows of a call, so that what comes out for one prompt depends on the others. With shared steps "
    "the rows of a call are others than without; remove it, or sample without shared steps"
)
FAILS = (
    "{names} does not work when the model is called with other rows than before ({error}), as shared steps do; "
    "remove it, or sample without shared steps"
)


class Case(NamedTuple):
    """A call of the model that is about to be shared.

    model : object          the host's
    sides : list            conditioning of each side, None where there is none; with 1 row or N
    x, t : (N, ...), (N,)   latents and sigmas
    options : dict          model_options
    """

    model: Any
    sides: list
    x: torch.Tensor
    t: torch.Tensor
    options: dict


class Guard:
    """Finds out, once for whatever is attached to a model, whether rows of equal inputs get equal results.

    Parameters
    ----------
    current : CurrentClusters
        Of the run.
    contract : Contract
        Of the run: by it those patches know their rows that can pick them.
    before_call : callable
        Called before every evaluation; may raise to stop.
    part : callable
        ``part(groups, names)`` gets (N,) groups of the prompts whose data are equal, where these differ.

    Attributes
    ----------
    rows : int
        That the guard has evaluated.
    names : list of str
        What it was about.
    parts : bool
        Whether other nodes have data of their own for the prompts.
    """

    def __init__(
        self,
        current: CurrentClusters,
        contract: Contract,
        before_call: Callable[[], None],
        part: Callable[[np.ndarray, str], None],
    ):
        self.current = current
        self.contract = contract
        self.before_call = before_call
        self.part = part
        self.rows = 0
        self.names: list[str] = []
        self.parts = False
        self._known = set()
        self._attached = {}  # to whole models, by the model's identity

    def check(self, case: Case, active: Iterable[Any] = ()) -> None:
        """Ask about what is attached to the model of a call and has not been asked about yet.

        Parameters
        ----------
        case : Case
        active : iterable
            Functions around the model that change something (see `Watch`).

        Raises
        ------
        ValueError
            Naming what cannot be shared, and what to do.
        """
        found = [*self._inside(case), *(Attached("wrapper", code) for code in active)]
        new = [attached for attached in found if identity_of(attached.code) not in self._known]
        if not new:
            return
        self._known.update(identity_of(attached.code) for attached in new)
        self.names.append(names_of(attached.code for attached in new))
        names = names_of(attached.code for attached in [*new, *found, *around_model(case.options)])  # all take part
        draws = SameDraws(case.x.device)
        try:
            self._ask(Question(self, case, names, draws))
        finally:
            draws.undo()

    def check_functions(self, case: Case, names: str, call: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Refuse functions around the guidance that are to be called by cluster, but remember what they were given.

        Parameters
        ----------
        case : Case
        names : str
            Of the functions.
        call : callable
            ``call(x)`` with the latent of the first prompt, or another (1, ...): what comes out of the guidance.

        Raises
        ------
        ValueError
            Naming them.
        """
        x, draws = case.x[:1], SameDraws(case.x.device)
        answers = []
        try:
            for latent in (x, -x, x):
                self.before_call()
                with draws.call():
                    answers.append(call(latent))
        finally:
            draws.undo()
        self.rows += len(answers)
        if not equal_rows(answers[2], answers[0], x, case.model, OTHER_CALL).all():
            raise ValueError(KEEPS.format(names=names))

    def report(self) -> list[str]:
        """What it cost, in words."""
        if not self.names:
            return []
        return [f"and {self.rows} rows to check what other nodes do with them: {', '.join(self.names)}"]

    def concerns(self, case: Case) -> bool:
        """Whether other nodes take part in the evaluation at all."""
        return bool(self._inside(case) or list(around_model(case.options)))

    def _inside(self, case):
        model = id(case.model)
        if model not in self._attached:
            patcher = getattr(case.model, "current_patcher", None)
            self._attached[model] = [] if patcher is None else list(objects_of(patcher))
        options = case.options.get("transformer_options", {})
        found = [*patches_of(options), *self._attached[model], *controls_of(case.sides)]
        return [attached for attached in found if not needs_no_guard(attached.code)]

    def _ask(self, question):
        n = self.current.plan.num_prompts
        sigma = float(question.case.t.flatten()[0])
        prompts = spread_out(n, MOST_ROWS)
        rows = question.rows(sigma, prompts)
        found = question.groups(rows, sigma, prompts)
        if found.any() and len(prompts) < n:
            prompts = list(range(n))
            rows = question.rows(sigma, prompts)
            found = question.groups(rows, sigma, prompts)
        i = int(found.argmax())  # one whose data are not the first's, if there are any
        groups = self._with_later(question, found if found.any() else np.zeros(n, dtype=int), sigma)
        question.refuse_if_other_alone(prompts[i], rows[i : i + 1], BY_PLACE if found[i] else KEEPS)
        if groups.any() or list(controls_of(question.case.sides)):  # these keep the window that they were told last
            self.contract.tells_window = True
        if groups.any():
            self.parts = True
            self.part(groups, question.names)

    def _with_later(self, question, groups, sigma):
        """Groups that heed what begins later in the run too."""
        some = spread_out(len(groups), LATER_ROWS)
        for later in self._later_sigmas(sigma):
            known = first_alike(groups[some], groups[some])
            if (first_alike(known, question.groups_at(later, some)) != known).any():
                groups = first_alike(groups, question.groups_at(later, range(len(groups))))
        return groups

    def _later_sigmas(self, sigma):
        """One in mid-run and the last."""
        sigmas = [float(s) for s in self.current.sigmas[:-1] if s < sigma]
        return sorted({sigmas[len(sigmas) // 2], sigmas[-1]}, reverse=True) if sigmas else []


class Question:
    """One row of a call, evaluated as if it were several prompts' at once.

    Parameters
    ----------
    guard : Guard
    case : Case
    names : str
        What it is about.
    draws : SameDraws
    """

    def __init__(self, guard: Guard, case: Case, names: str, draws: SameDraws):
        self.guard = guard
        self.case = case
        self.names = names
        self.draws = draws
        row = int(guard.current.clusters.first[0])
        self.x = case.x[row : row + 1]
        self.sides = [side and [one_row(entry, row, len(case.x)) for entry in side] for side in case.sides]
        self.options = options_for_guard(case.options)
        self.sigma = float(case.t.flatten()[0])

    def rows(self, sigma: float, prompts: Iterable[int], x: torch.Tensor | None = None) -> torch.Tensor:
        """(R, sides, ...) of rows, equal but for those of `x` (R, ...), that are said to be these prompts'."""
        prompts, x = list(prompts), self._x_at(sigma) if x is None else x
        sides = self.sides if sigma == self.sigma else [without_controls(side) for side in self.sides]

        def evaluate(rows):
            ids = prompts[rows]
            with self._said(ids):
                many = x[rows] if len(x) > 1 else x.expand(len(ids), *x.shape[1:]).contiguous()
                sigmas = torch.full((len(ids),), sigma, dtype=self.case.t.dtype, device=self.case.t.device)
                outputs = comfy.samplers.calc_cond_batch(self.case.model, sides, many, sigmas, self.options)
            self.guard.rows += len(ids)
            return torch.stack(list(outputs), dim=1)

        limit = largest_call(self.case.model, x, len(prompts))
        return MicroBatches(limit, self.guard.before_call).map(evaluate, len(prompts))

    @contextlib.contextmanager
    def _said(self, ids):
        n = self.guard.current.plan.num_prompts
        values = {
            **{"version": VERSION, "prompts": n, "step": self.guard.current.k, "rows": ids, "split": False},
            "guard": True,
            **{"members": [[i] for i in ids], "keys": [-1 - i for i in ids], "clusters": ids, "parents": ids},
        }
        with self.draws.call(), told(self.options, values, window_of(ids, n)):
            yield

    def groups_at(self, sigma: float, prompts: Iterable[int]) -> np.ndarray:
        """`groups` of rows that are evaluated for it; what fails then is refused."""
        prompts = list(prompts)
        return self.groups(self._answered(lambda: self.rows(sigma, prompts)), sigma, prompts)

    def groups(self, rows: torch.Tensor, sigma: float, prompts: Iterable[int]) -> np.ndarray:
        """Which of these prompts have equal data: (R,) numbers, all 0 where nothing looks at the row.

        Raises
        ------
        ValueError
            If the results depend on the rows' places, and not on whose rows they are said to be.
        """
        prompts = list(prompts)
        groups = np.full(len(rows), -1)
        while (groups < 0).any():
            i = int(np.flatnonzero(groups < 0)[0])
            groups[(groups < 0) & self._equal(rows, rows[i : i + 1], sigma, SAME_CALL)] = i
        if groups.any():
            moved = [*range(1, len(prompts)), 0]
            again = self._answered(lambda: self.rows(sigma, [prompts[i] for i in moved]))
            if not self._equal(again, rows[moved], sigma, OTHER_CALL).all():
                raise ValueError(BY_PLACE.format(names=self.names))
        return groups

    def refuse_if_other_alone(self, prompt: int, row: torch.Tensor, reason: str) -> None:
        """Refuse if a prompt's row (1, ...) comes out otherwise beside another input, or alone after it.

        Raises
        ------
        ValueError
            With this reason, or since rows are mixed.
        """
        beside = self._answered(lambda: self.rows(self.sigma, [prompt] * 2, torch.cat([self.x, -self.x])))
        self._answered(lambda: self.rows(self.sigma, [prompt], -self.x))
        again = self._answered(lambda: self.rows(self.sigma, [prompt]))
        if not self._equal(again, row, self.sigma, OTHER_CALL).all():
            raise ValueError(reason.format(names=self.names))
        if not self._equal(beside[:1], row, self.sigma, OTHER_CALL).all():
            raise ValueError(MIXES.format(names=self.names))

    def _answered(self, ask):
        try:
            return ask()
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            short = f"{type(error).__name__}: {error}"[:120]
            raise ValueError(FAILS.format(names=self.names, error=short)) from error

    def _equal(self, a, b, sigma, tolerances):
        return equal_rows(a, b, self._x_at(sigma), self.case.model, tolerances)

    def _x_at(self, sigma):
        return self.x * (sigma / self.sigma)


def equal_rows(
    a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, model: Any, tolerances: dict[torch.dtype, float]
) -> np.ndarray:
    """Which rows of what a model predicted are equal.

    Parameters
    ----------
    a : (R, ...) tensor
    b : (R, ...) or (1, ...) tensor
    x : (1, ...) tensor
        The latents that both are for.
    model : BaseModel
        The host's.
    tolerances : dict
        By the dtype that a model computes in.

    Returns
    -------
    equal : (R,) bool array
    """
    dtype = getattr(model, "manual_cast_dtype", None) or model.get_dtype()
    tolerance = tolerances.get(dtype, tolerances[torch.bfloat16])
    a, b = a.float().nan_to_num(), b.float().nan_to_num()
    scale = (x.float() - b).square().mean().sqrt().clamp(min=1e-12)
    return ((a - b).flatten(1).square().mean(dim=1).sqrt() <= tolerance * scale).cpu().numpy()


def one_row(entry: dict, row: int, num_rows: int) -> dict:
    """A conditioning entry with one prompt's row; without hooks and the host's own ControlNets.

    Hooks count their keyframes, and change weights alone. Hints of the host's ControlNets are looked after elsewhere.
    """
    single = sliced_cond(entry, slice(row, row + 1), num_rows)
    single.pop("hooks", None)
    if not list(controls_of([[entry]])):
        single.pop("control", None)
    return single


def without_controls(side: list[dict] | None) -> list[dict] | None:
    """Conditioning without ControlNets: those that count their keyframes by sigma would not come back to the first."""
    return side and [{key: value for key, value in entry.items() if key != "control"} for entry in side]


def options_for_guard(model_options: dict) -> dict:
    """Options of a call that is not shared, without what changes nothing of a row."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    inner = options.setdefault("transformer_options", {})
    inner.pop(RUN_KEY, None)
    for by_key in inner.get("wrappers", {}).values():
        for key in COMPOSED:
            by_key.pop(key, None)
    return options


def spread_out(n: int, most: int) -> list[int]:
    """At most so many of n numbers, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int)).tolist()


def first_alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) numbers that are equal where both are: the first such place."""
    found: dict[tuple, int] = {}
    return np.array([found.setdefault(pair, i) for i, pair in enumerate(zip(a.tolist(), b.tolist(), strict=True))])
