"""All that a guider does in a call, for some rows at a time: for functions that read what the model recorded."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...hierdiff_core.devices import is_out_of_memory
from .attachments import (
    OURS,
    POST_CFG,
    around_model,
    cfg_functions_of,
    identity_of,
    is_ours,
    names_of,
    objects_of,
    patches_of,
)
from .linked import linked


def recorder_readers(guider: Any) -> list[Callable]:
    """The functions around the guidance of a run that read what is recorded inside its model."""
    options, patcher = guider.model_options, getattr(guider.inner_model, "current_patcher", None)
    inside = [*patches_of(options.get("transformer_options", {})), *around_model(options)]
    inside += [] if patcher is None else objects_of(patcher)
    functions = [attached for attached in cfg_functions_of(options) if not is_ours(attached.code)]
    return [attached.code for attached in linked(functions, [one for one in inside if not is_ours(one.code)])]


@contextlib.contextmanager
def one_at_a_time_only(model_options: dict, num_rows: int) -> Iterator[None]:
    """A context around a call: a function around the guidance that fails for several rows is told of by its name."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        failed = [one.code for one in cfg_functions_of(model_options) if fails_itself(one.code, error)]
        if not failed or num_rows == 1 or is_out_of_memory(error):
            raise
        raise ValueError(
            f"{names_of(failed)} fails for {num_rows} latents at once ({type(error).__name__}: {error}), with or "
            "without shared steps; remove it from the model whose steps are shared"
        ) from error


def fails_itself(code: Any, error: BaseException) -> bool:
    """Whether an error arose in a function, and not in a call of the model that it made through us."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [i for i, frame in enumerate(frames) if frame.f_code is identity_of(code)]
    return bool(own) and not any(frame.f_globals.get("__name__", "").startswith(OURS) for frame in frames[own[-1] :])


class CutGuidance:
    """Guidance in two parts: up to what needs the rows of the model's calls, and the rest, for all rows at once.

    The functions of the rest may remember something of every row, as a sampler's own do.

    Parameters
    ----------
    guider : CFGGuider
    readers : list of callable
        See `recorder_readers`.
    model_options : dict
        Of the call.
    """

    def __init__(self, guider: Any, readers: list[Callable], model_options: dict):
        self.guider = guider
        self.options = model_options
        functions = list(model_options.get(POST_CFG, ()))
        last = max((i for i, function in enumerate(functions) if function in readers), default=-1)
        self.first, self.rest = functions[: last + 1], functions[last + 1 :]
        self._args: dict[str, Any] = {}  # of the functions, between the two parts

    @contextlib.contextmanager
    def first_part(self, sides: list) -> Iterator[None]:
        """A context: the guider has conditioning of these rows, and calls the functions of the first part alone."""
        conds, options = self.guider.conds, self.options
        functions = {POST_CFG: options[POST_CFG]} if POST_CFG in options else {}
        self.guider.conds = dict(zip(conds, sides, strict=True))
        options[POST_CFG] = [*self.first, self._note]
        try:
            yield
        finally:
            self._name_sides()
            self.guider.conds = conds
            options.pop(POST_CFG)
            options.update(functions)

    def _note(self, args):
        self._args = dict(args)
        return args["denoised"]

    def _name_sides(self):
        """Note which of the arguments are sides of the guider's conditioning: the rest gets those of all rows."""
        names = {id(side): name for name, side in self.guider.conds.items() if side is not None}
        self._sides = {key: names[id(value)] for key, value in self._args.items() if id(value) in names}

    def values(self, denoised: torch.Tensor) -> torch.Tensor:
        """(R, 1 + values, ...): what came out of the guider, and the arguments of the rest with as many rows."""
        return torch.stack([denoised, *(self._args[name] for name in self._names)], dim=1)

    @property
    def _names(self):
        shape = self._args["denoised"].shape if self._args else None
        return [k for k, v in self._args.items() if k != "input" and torch.is_tensor(v) and v.shape == shape]

    def after_rest(self, values: torch.Tensor, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """(N, ...) denoised, from the values (N, 1 + values, ...) of the first part."""
        out, *rows = values.unbind(dim=1)
        if not self.rest or not self._args:
            return out
        args = {**self._args, **dict(zip(self._names, rows, strict=True)), "input": x, "sigma": timestep}
        args.update({key: self.guider.conds[name] for key, name in self._sides.items()})
        before = args["denoised"]
        for function in self.rest:
            args["denoised"] = function(dict(args))
        # a guider may have gone on with what came out of the functions
        return args["denoised"] if torch.equal(before, out) else out + (args["denoised"] - before)
