"""A fingerprint of a model: whether what was measured on one holds for this one.

Equal for the same weights, patches and noise schedule, in every process, whether the model is loaded, offloaded or has
never been moved. Other for another checkpoint, LoRA or strength, shift, or another patch of the sampling. A sample of
each weight is read, so it takes a fraction of a second; two models of which only single numbers differ are taken for
one. The precision that weights are kept in counts: rounded weights are another model. That of computing does not. What
only saves time does not count either: the host's step caches, torch.compile, and Share Steps itself.
"""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .attachments import SCALES, UNET_FUNCTION
from .step_caches import COMPILED, HOST_KEYS, OURS, PLACE, name_of_code

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

RUNS, LENGTH = 4, 8  # of neighbouring values, that are read of each tensor: few pages of a file, or of memory
DIGITS = 16  # of the fingerprint
DEEPEST = 12  # lists in lists of a patch
COSTS_ONLY = (PLACE, COMPILED, *HOST_KEYS)
SCHEDULE = "model_sampling"


def model_fingerprint(model: ModelPatcher) -> str:
    """Fingerprint of a MODEL.

    Parameters
    ----------
    model : ModelPatcher
        With its patches; it may be loaded, and is not changed.

    Returns
    -------
    fingerprint : str
        Hexadecimal digits.
    """
    parts: list[Any] = [type(model.model).__name__, own_weights(model)]
    parts.append(sorted((key, patches) for key, patches in model.patches.items()))
    parts.append(list(schedule_of(model.get_model_object(SCHEDULE))))
    parts.append(sorted(attached(model)))
    return digest(parts)


def own_weights(model: ModelPatcher) -> list[tuple[str, Any]]:
    """Names and weights of a model as they were before any patch, sorted."""
    by_hooks = {key: saved[0] for key, saved in getattr(model, "hook_backup", {}).items()}
    originals = {**by_hooks, **{key: getattr(saved, "weight", saved) for key, saved in model.backup.items()}}
    weights = {**model.model_state_dict(), **originals}
    return sorted((key, weight) for key, weight in weights.items() if not key.startswith(SCHEDULE))


def schedule_of(sampling: Any) -> Iterator[Any]:
    """What a model's noise schedule is: its parametrisation, and the sigmas that a shift moves."""
    yield [base.__name__ for base in type(sampling).__mro__ if base.__module__ not in ("torch.nn.modules.module",)]
    yield from sorted((name, value) for name, value in vars(sampling).items() if is_plain(value) and name != "training")
    yield getattr(sampling, "sigmas", None)


def attached(model: ModelPatcher) -> Iterator[str]:
    """What other nodes have attached to a model and changes its pictures, in words: names, and numbers they close over.

    Of the patcher's own options: those of a run hold what changes from step to step.
    """
    options = model.model_options
    transformer = options.get("transformer_options", {})
    yield from patches_in(transformer)
    wrappers: list[Mapping] = [*model.wrappers.values(), *transformer.get("wrappers", {}).values()]
    for by_key in wrappers:
        for key, codes in by_key.items():
            if key not in COSTS_ONLY and not str(key).startswith(OURS):
                yield from (described(code) for code in codes)
    for kind, value in options.items():
        if kind.startswith("sampler_") or kind in (UNET_FUNCTION, "denoise_mask_function"):
            yield from (f"{kind} {described(code)}" for code in (value if isinstance(value, list) else [value]))
    for name, value in model.object_patches.items():
        if name not in SCALES and not name_of_code(value).startswith("torch._dynamo"):
            yield f"{name} {described(value)}"
    for injections in getattr(model, "injections", {}).values():
        yield from (f"injection {described(injection.inject)}" for injection in injections)
    for key, functions in getattr(model, "weight_wrapper_patches", {}).items():
        yield f"{key} {[described(function) for function in functions]}"


def patches_in(transformer: Mapping[str, Any]) -> Iterator[str]:
    """Patches inside the network, and settings that nodes leave for it, such as those of rotary embeddings."""
    for key, value in transformer.items():
        if key in ("patches", "patches_replace"):
            for kind, patches in value.items():
                for patch in patches.values() if isinstance(patches, Mapping) else patches:
                    yield f"{kind} {described(patch)}"
        elif is_plain(value):
            yield f"{key} {value}"
        elif isinstance(value, Mapping) and value and all(map(is_plain, value.values())):
            yield f"{key} {sorted(value.items())}"


def described(code: Any) -> str:
    """A function by its name and the numbers and texts that it closes over; an object by its class."""
    cells = [cell.cell_contents for cell in getattr(code, "__closure__", None) or () if holds_something(cell)]
    return f"{name_of_code(code)} {[value for value in cells if is_plain(value)]}"


def holds_something(cell: Any) -> bool:
    """Whether a variable of a closure has a value yet."""
    try:
        cell.cell_contents  # noqa: B018  raises for an empty one
    except ValueError:
        return False
    return True


def is_plain(value: Any) -> bool:
    """Whether a value is a number or a text."""
    return isinstance(value, (numbers.Number, str))


# --- hashing


def digest(parts: Any) -> str:
    """Hexadecimal digits of whatever `entries` can read."""
    texts, tensors = [], []
    for entry in entries(parts):
        texts.append(tuple(entry.shape) if isinstance(entry, torch.Tensor) else entry)
        if isinstance(entry, torch.Tensor):
            tensors.append(entry)
    hashed = hashlib.sha256(repr(texts).encode())
    for values in sampled(tensors):
        hashed.update(values.numpy().tobytes())
    return hashed.hexdigest()[:DIGITS]


def entries(value: Any, depth: int = 0) -> Iterator[Any]:
    """Tensors, numbers, texts and names of a value, in order: of lists and tuples, and of a LoRA's weights."""
    if isinstance(value, torch.Tensor) or value is None or is_plain(value):
        yield value.detach() if isinstance(value, torch.Tensor) else value
    elif isinstance(value, (list, tuple)) and depth < DEEPEST:
        yield len(value)
        for item in value:
            yield from entries(item, depth + 1)
    else:
        yield name_of_code(value)
        weights = getattr(value, "weights", None)
        if isinstance(weights, (list, tuple)):
            yield from entries(weights, depth + 1)


def sampled(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """A few values of each tensor as float32, read from each device at once."""
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in tensors:
        values = values_of(tensor)
        if values is not None:
            by_device.setdefault(values.device, []).append(values)
    for values in by_device.values():
        yield torch.cat(values).cpu()


def values_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """(V,) float32 from `RUNS` places of a tensor; None for one that holds no values that can be read."""
    if tensor.device.type == "meta" or not tensor.numel():
        return None
    try:
        flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
        if flat.dtype.itemsize == 1:  # 8-bit floats cannot be indexed everywhere, their slices can be cast
            return torch.cat([flat[start : start + LENGTH].float() for start in starts(len(flat))])
        return torch.cat([flat[start : start + LENGTH] for start in starts(len(flat))]).float()
    except (RuntimeError, TypeError, NotImplementedError):  # quantized by a pack: known by name and shape alone
        return None


def starts(size: int) -> list[int]:
    """Where the runs of values begin in a tensor of some size, spread from its beginning to its end."""
    if size <= RUNS * LENGTH:
        return list(range(0, size, LENGTH))
    return [i * (size - LENGTH) // (RUNS - 1) for i in range(RUNS)]
