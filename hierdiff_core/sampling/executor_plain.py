"""What is sent to workers and comes back, as plain data: text, numbers, numpy arrays, and lists and dicts of them.

A worker may have this package under another name than the process that sends (ComfyUI names it by its folder), so that
nothing of its own may be in what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..devices import on_device
from ..plan.part import Part, PartStep
from .state import State

STEP = ("clusters", "labels", "counts", "parents", "founders", "founded")


@dataclass(frozen=True, eq=False)
class Begin:
    """What a part begins with.

    Attributes
    ----------
    rows : (R, ...) float32 array
        Latents.
    state : dict
        From `plain_state`; None: that of a fresh scheduler.
    """

    rows: np.ndarray
    state: dict[str, Any] | None = None

    def __getitem__(self, rows: np.ndarray) -> Begin:
        if self.state is None:
            return Begin(self.rows[rows])
        values = {name: _rows_of(value, rows) for name, value in self.state["values"].items()}
        return Begin(self.rows[rows], {"values": values, "shape": [len(rows), *self.state["shape"][1:]]})


def plain_part(part: Part) -> dict[str, Any]:
    """A part, but for its guidance, which steps know themselves.

    Parameters
    ----------
    part : Part

    Returns
    -------
    data : dict
    """
    steps = [[getattr(step, name) for name in STEP] for step in part.steps]
    return {"start": part.start, "prompts": part.prompts, "distinct": part.distinct, "steps": steps}


def part_of(data: dict[str, Any]) -> Part:
    """The part that `plain_part` was given."""
    return Part(data["start"], data["prompts"], data["distinct"], tuple(PartStep(*step) for step in data["steps"]))


def plain_state(state: State) -> dict[str, Any]:
    """What a step remembers.

    Parameters
    ----------
    state : State

    Returns
    -------
    data : dict

    Raises
    ------
    TypeError
        If a value is none that can be sent.
    """
    values = {name: _plain(name, value, state.shape) for name, value in state.values.items()}
    return {"values": values, "shape": list(state.shape)}


def state_of(data: dict[str, Any], device: torch.device) -> State:
    """The state that `plain_state` was given; what was on an accelerator there is on this device."""
    values = {name: _value(value, device) for name, value in data["values"].items()}
    return State(values, tuple(data["shape"]))


def to_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array, which may be read-only memory of others, as a tensor of one's own on a device."""
    return on_device(torch.from_numpy(np.array(array)), device)


def _plain(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(name, item, shape) for item in value]
    if isinstance(value, torch.Tensor):
        rows = bool(shape) and tuple(value.shape) == shape
        return {"array": value.cpu().numpy(), "rows": rows, "cpu": value.device.type == "cpu"}
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray)):
        return value
    raise TypeError(f"what the scheduler remembers as {name} cannot be sent to another process: {type(value).__name__}")


def _rows_of(value: Any, rows: np.ndarray) -> Any:
    if isinstance(value, list):
        return [_rows_of(item, rows) for item in value]
    return {**value, "array": value["array"][rows]} if isinstance(value, dict) and value["rows"] else value


def _value(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_value(item, device) for item in value]
    if isinstance(value, dict):
        return to_tensor(value["array"], torch.device("cpu") if value["cpu"] else device)
    return value
