"""Copies to and from a device that wait for nothing, and how much memory it has."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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


def after_failed_recording() -> None:
    """Record a graph of nothing much: after one that failed, torch's generators draw nothing until one succeeds."""
    with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda")


class SideStream:
    """A thread with a stream of its own: what it does goes on beside what the caller gives the device.

    Parameters
    ----------
    device : torch.device
        On a CPU there is a thread alone.
    name : str
        Of the thread.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        self.thread = ThreadPoolExecutor(1, name)
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, function: Callable[..., Any], tensor: torch.Tensor) -> Future[Any]:
        """``function(tensor)``, after the caller's work on the tensor and the functions before.

        Parameters
        ----------
        function : callable
        tensor : tensor
            On the device; the caller may let go of it at once.

        Returns
        -------
        Future
            Of what the function returns.
        """
        made = None
        if self.stream is not None:
            made = torch.cuda.Event()
            made.record(torch.cuda.current_stream(tensor.device))
        known = contextvars.copy_context()
        return self.thread.submit(known.run, self._aside, function, tensor, made, torch.is_inference_mode_enabled())

    def _aside(self, function: Callable[..., Any], tensor: torch.Tensor, made: Any, inference: bool) -> Any:
        with torch.inference_mode(inference), contextlib.ExitStack() as stack:
            if made is not None:
                stack.enter_context(torch.cuda.stream(self.stream))
                self.stream.wait_event(made)
                tensor.record_stream(self.stream)  # its memory must not be used again before the function has read it
            return function(tensor)

    def end(self, give_up: bool = False) -> None:
        """Wait for all functions, or for the one that is at work alone."""
        self.thread.shutdown(cancel_futures=give_up)


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


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory that an accelerator has, free or not; None where there is no way to ask."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return torch.mps.recommended_max_memory() if device.type == "mps" else None


def weight_bytes(*networks: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers of some networks."""
    return sum(t.nbytes for network in networks for t in (*network.parameters(), *network.buffers()))
