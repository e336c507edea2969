"""The host's devices and their memory, and its way to stop a run."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch


def main_device() -> torch.device:
    """The device that the host computes on."""
    return comfy.model_management.get_torch_device()


def free_main_memory() -> int:
    """Free bytes of the computer's own memory."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))


def free_memory_beside(model: object, device: torch.device) -> int:
    """Free bytes of a device while a model is sampled: newer hosts count weights that they would move away for it."""
    patcher = getattr(model, "current_patcher", None)
    return getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(device)


def make_room(needed: int, device: torch.device) -> None:
    """Let the host unload models until so many bytes are free on a device."""
    comfy.model_management.free_memory(needed, device)


def results_device() -> torch.device:
    """The device where the host keeps what nodes hand on."""
    return comfy.model_management.intermediate_device()


def stop_if_cancelled() -> None:
    """Raise the host's interruption if the user has cancelled the run."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def largest_call(model: Any, x: torch.Tensor, most: int) -> int:
    """Rows that fit into one call by the host's estimate of memory."""
    free = comfy.model_management.get_free_memory(x.device)
    rows = most
    while rows > 1 and model.memory_required([rows * 2, *x.shape[1:]]) * 1.5 > free:
        rows = (rows + 1) // 2
    return rows
