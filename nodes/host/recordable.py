"""Whether a call of a network can be recorded as a CUDA graph, found out without recording it.

Where PyTorch allocates by cudaMallocAsync, ComfyUI's default, a recording that fails ends the process: what the call
has allocated is freed inside the broken recording. So a call is made once more as it is, and looked at: nothing in it
may wait for the device, or read memory of the CPU, which a replay would read again, whatever lies there by then.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape


def obstacle_of(call: Callable[[], object]) -> str:
    """What keeps a call from being recorded; "" for nothing.

    Parameters
    ----------
    call : callable
        Made once; what it returns is dropped.
    """
    seen = Operations()
    try:
        with refused_waits(), seen:
            call()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it waits, or holds what cannot be looked at, of whatever kind
        return seen.obstacle or f"{type(error).__name__}: {error}".splitlines()[0]
    return seen.obstacle


@contextlib.contextmanager
def refused_waits() -> Iterator[None]:
    """A context in which torch raises an error wherever it would wait for a CUDA device, in all threads."""
    if not torch.cuda.is_initialized():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says of itself that it is a prototype, once
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Operations(TorchDispatchMode):
    """A context that looks at the operations of this thread.

    Attributes
    ----------
    obstacle : str
        The first that cannot be recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.obstacle = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.obstacle = self.obstacle or told(func, [args, kwargs])
        made = func(*args, **(kwargs or {}))
        self.obstacle = self.obstacle or told(func, [args, kwargs, made])
        return made


def told(operation: Any, values: Any) -> str:
    """Why an operation cannot be recorded, in words; "" where it can."""
    if any(tag in WAITS for tag in operation.tags):
        return f"{operation} waits for the device"
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    if len({tensor.device.type for tensor in tensors}) < 2:
        return ""
    is_copy = str(operation).startswith(("aten.copy", "aten._to_copy", "aten.to."))
    if is_copy or any(tensor.ndim for tensor in tensors if tensor.device.type == "cpu"):  # else a number
        return f"{operation} goes from one device to another"
    return ""
