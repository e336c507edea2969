"""Whether a MODEL was compiled by torch.compile, by the host's node or another pack's, and for which sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from comfy.patcher_extension import WrappersMP

from .step_caches import COMPILED

if TYPE_CHECKING:
    from .guard import Case

SETTINGS = "torch_compile_kwargs"  # in model_options, where the host and KJNodes keep what they compiled with
# Sizes of calls that networks were called with once compiled: {shape of a latent: sizes}.
_KNOWN: WeakKeyDictionary[Any, dict[tuple, set[int]]] = WeakKeyDictionary()


def is_compiled(model_options: dict, patcher: Any) -> bool:
    """Whether the model of a ModelPatcher, or some of its blocks, are compiled; the options are a run's."""
    return any(True for _ in _dynamic_of(model_options, patcher))


def compiles_each_size(case: Case) -> bool:
    """Whether a model was compiled to take each size of a call as a constant.

    By torch's default the second size is compiled for all others, but for a single row.
    """
    return any(dynamic is False for dynamic in _dynamic_of(case.options, getattr(case.model, "current_patcher", None)))


def known_sizes(case: Case) -> set[int]:
    """The sizes of calls that a compiled network has had with latents of this shape; may be added to."""
    return _KNOWN.setdefault(case.model.diffusion_model, {}).setdefault(tuple(case.x.shape[1:]), set())


def new_sizes(known: int, most: int) -> int:
    """How many further sizes torch will compile, of `most`: at its limit it goes on without compiling."""
    config = sys.modules.get("torch._dynamo.config")
    limit = getattr(config, "recompile_limit", None) or getattr(config, "cache_size_limit", None) or most
    return max(1, min(most, limit - known))


def _dynamic_of(model_options: dict, patcher: Any) -> Iterator[bool | None]:
    """The setting `dynamic` of all that was compiled in a model."""
    if "torch._dynamo.eval_frame" not in sys.modules:  # torch.compile imports it
        return
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    if wrappers.get(WrappersMP.APPLY_MODEL, {}).get(COMPILED):
        yield model_options.get(SETTINGS, {}).get("dynamic")
    network = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    patched = getattr(patcher, "object_patches", {}).values()
    for module in [*patched, *(() if network is None else network.modules())]:
        context = getattr(module, "dynamo_ctx", None)
        if context is not None:
            yield getattr(context, "_dynamic", None)
        elif getattr(module, "_compiled_call_impl", None) is not None:  # by its own method `compile`
            yield None
