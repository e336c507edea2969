"""What a denoising step remembers, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class State:
    """What a step hands to the next one: plain values by name, which pickle and can be taken up in another process.

    Multistep solvers keep earlier model outputs and samples, one row for each branch. ``state[rows]`` lets them follow
    the branches as the latents do; what holds no rows stays as it is.

    Attributes
    ----------
    values : mapping of str to any
        Numbers, tensors, and lists of them.
    shape : tuple of int
        Of the latents. A tensor of this shape holds a row for each branch.

    Examples
    --------
    >>> import torch
    >>> state = State({"last": torch.tensor([[1.0], [2.0]]), "order": 2}, (2, 1))
    >>> branched = state[torch.tensor([0, 0, 1])]
    >>> branched.values["last"].flatten().tolist(), branched.values["order"]
    ([1.0, 1.0, 2.0], 2)
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()

    def __getitem__(self, rows: torch.Tensor) -> State:
        values = {name: self._taken(value, rows) for name, value in self.values.items()}
        return State(values, (len(rows), *self.shape[1:]))

    def _taken(self, value: Any, rows: torch.Tensor) -> Any:
        if isinstance(value, list):
            return [self._taken(item, rows) for item in value]
        if getattr(value, "shape", None) == self.shape and self.shape:
            return value[rows if rows.device == value.device else rows.to(value.device)]
        return value
