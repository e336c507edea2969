"""Copies to and from a device that wait for nothing, and how much memory it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np


class AsyncHostCopy:
    """A tensor on its way to the CPU; the device goes on with what it is given meanwhile.

    Parameters
    ----------
    tensor : tensor
        On any device.

    Attributes
    ----------
    copy : tensor
        On the CPU, to be read after `wait`.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self.event: Any = None
        if tensor.is_cuda:
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(tensor.device))

    @property
    def here(self) -> bool:
        return self.event is None or self.event.query()

    def wait(self) -> torch.Tensor:
        """The tensor, when all of it is there."""
        if self.event is not None:
            self.event.synchronize()
        return self.copy


def on_device(array: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small array of the CPU as a tensor on a device, without waiting for it: it may be busy with the step before."""
    tensor = torch.as_tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that device or host memory ran out (backends differ in how)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def free_memory(device: torch.device) -> int:
    """Bytes that tensors may still take on an accelerator, the allocator's own reserve included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 8 * 2**30  # no portable way to ask; an out-of-memory error halves the batch
