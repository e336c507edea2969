"""A digest in which every bit of a network's weights counts, read once for each that is loaded.

What is read again each time is a few numbers of each weight, and how often torch has seen it changed in place: whoever
trains a loaded network, merges into it or replaces weights changes these. Only single numbers that are changed behind
torch's back (`.data`) after a sum was made may go unseen.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .fingerprint import own_weights, values_of
from .made_of import lasting_name, made_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

_sums: weakref.WeakKeyDictionary[Any, dict[tuple, str]] = weakref.WeakKeyDictionary()  # of loaded networks
_lock = threading.Lock()
WORD = 8  # bytes that are added up at once


def weights_sum(patcher: ModelPatcher) -> str:
    """The digest of a model's own weights, as they were before any patch."""
    return sum_of(patcher.model, own_weights(patcher))


def sum_of(network: torch.nn.Module, weights: Sequence[tuple[str, Any]]) -> str:
    """The digest of the weights of a network.

    Parameters
    ----------
    network : torch.nn.Module
        For which the digest is remembered.
    weights : list of (str, tensor)
        Sorted by name.

    Returns
    -------
    digest : str
        Hexadecimal digits, the same in every process and on every device.
    """
    sampled = made_of([(name, values_of(weight) if torch.is_tensor(weight) else None) for name, weight in weights])
    state = sampled, *(changes_of(weight) for _, weight in weights)
    with _lock:
        known = _sums.setdefault(network, {})
        if state not in known:
            known.clear()  # a network whose weights were changed in place does not change back
            known[state] = made_of(lasting_name(network), sampled, [*sums_of(weights)]).hex()
        return known[state]


def changes_of(weight: Any) -> int | None:
    """How often a tensor was changed in place; None where torch does not count."""
    return None if not torch.is_tensor(weight) or weight.is_inference() else weight._version


def sums_of(weights: Sequence[tuple[str, Any]]) -> Iterator[Any]:
    """Name, shape, type and the sum of all bits of each weight; a device is waited for once."""
    sums: list[tuple[str, torch.Tensor]] = []
    for name, weight in weights:
        yield [name, tuple(weight.shape), str(weight.dtype)] if torch.is_tensor(weight) else name
        total = bits_of(weight)
        if total is not None:
            sums.append((str(total.device), total))
    for device in sorted({device for device, _ in sums}):
        yield torch.stack([total for where, total in sums if where == device]).tolist()


def bits_of(weight: Any) -> torch.Tensor | None:
    """The sum of all bits of a tensor, read as whole numbers of eight bytes; None for one that cannot be read."""
    if not torch.is_tensor(weight) or weight.device.type == "meta" or not weight.numel():
        return None
    try:
        data = weight.detach().contiguous().reshape(-1).view(torch.uint8)
        # of numbers of two bytes torch makes a sum twenty times as slowly
        whole = len(data) // WORD * WORD if data.storage_offset() % WORD == 0 else 0
        return data[:whole].view(torch.int64).sum() + data[whole:].sum(dtype=torch.int64)
    except (RuntimeError, TypeError, NotImplementedError):  # quantized by a pack: known by its samples alone
        return None
