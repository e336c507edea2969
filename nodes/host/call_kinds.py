"""What a call of a network is known by: which calls a recorded one stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .guard import RUN_KEY

# In transformer_options: changes nothing of what a network without patches computes.
NOT_READ = ("wrappers", "callbacks", "patches", "patches_replace", "uuids", "hierdiff", RUN_KEY)


class Unknown(Exception):
    """Something goes into a call of which nobody knows whether it stays."""


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The arguments of a call with other tensors."""
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(with_tensors(item, change) for item in value)
    if isinstance(value, dict):
        return {key: item if key in NOT_READ else with_tensors(item, change) for key, item in value.items()}
    return value


def kind_of(value: Any, device: torch.device) -> tuple:
    """Equal for the arguments of calls that differ in the values of tensors alone.

    Raises
    ------
    Unknown
        For anything but plain values and dense tensors on the device.
    """
    return tuple(_parts(value, device))


def structure_of(value: Any, device: torch.device) -> frozenset:
    """Equal for the arguments of calls that differ in their numbers and sizes alone; raises as `kind_of`."""
    return frozenset(_parts(value, device, values=False))


def _parts(value: Any, device: torch.device, values: bool = True) -> Iterator[Any]:
    """What makes the kind of a call; without `values` neither these nor sizes, but types and names alone."""
    if torch.is_tensor(value):
        plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
        if value.device != device or not plain or not (value.is_contiguous() or is_channels_last(value)):
            raise Unknown
        yield from (value.shape, value.stride()) if values else ()
        yield value.dtype, torch.is_inference_mode_enabled()
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield (type(value), value) if values else type(value)
    elif type(value) in (list, tuple):
        yield (type(value), len(value)) if values else type(value)
        for item in value:
            yield from _parts(item, device, values)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in NOT_READ:
                yield key
                yield from _parts(item, device, values)
    else:
        raise Unknown


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether a copy of it is laid out as it is, though not contiguous."""
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
