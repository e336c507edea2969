"""Step caches that a MODEL carries: the host's own are known, and followed; those of packs are refused by name.

They keep results of earlier steps by row. Where a cluster splits, the rows of a call are others, and a cache that does
not know would hand a trunk's result to its branches, or fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from comfy.patcher_extension import WrappersMP

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

PLACE = "easycache"  # in transformer_options, where both of the host's caches keep what they know
EASYCACHE, LAZYCACHE = "EasyCache", "LazyCache"
HOST_KEYS = ("easycache", "lazycache")  # of the host's wrappers
OURS = "hierdiff"  # keys of our own wrappers begin with it
COMPILED = "torch.compile"  # the key of the host's wrapper, which always calls the model

# What caches of packs leave in a model has their name in it, or in its module: the wrapper of the model function
# (TeaCache, MagCache, TaylorSeer, First Block Cache, DeepCache, MeanCache, T-GATE, Spectrum), the function that
# evaluates conditioning (Spectrum), wrappers and settings in transformer_options (Cache-DiT, Spectrum, TeaCache), or
# methods of the loaded network itself (Cache-DiT, MBCache, TeaCache).
CACHE_NAMES = {
    r"easy_?cache": EASYCACHE,
    r"lazy_?cache": LAZYCACHE,
    r"tea_?cache|rel_l1_thresh": "TeaCache",
    r"mag_?cache": "MagCache",
    r"fb_?cache|first_?block_?cache": "First Block Cache",
    r"mb_?cache": "MBCache",
    r"deep_?cache": "DeepCache",
    r"mean_?cache": "MeanCache",
    r"cache_?-?dit|(?:anima|boogu|ltx2|wan)_?cache": "Cache-DiT",
    r"taylor_?seer": "TaylorSeer",
    r"(?:^|[._])spectrum": "Spectrum",
    r"(?:^|[^a-z])tgate": "T-GATE",
}
METHODS = ("forward", "_forward", "forward_orig")  # of a network, that packs replace

# Who may answer in the place of whom, beside wrappers.
ANSWERING = {
    WrappersMP.PREDICT_NOISE: "sampler_calc_cond_batch_function",
    WrappersMP.APPLY_MODEL: "model_function_wrapper",
}


def host_cache(options: Mapping) -> str | None:
    """Which of the host's caches works in a run, by what it keeps in the run's transformer_options; None: none."""
    holder = options.get(PLACE)
    if all(hasattr(holder, name) for name in ("cumulative_change_rate", "total_steps_skipped")):
        if all(hasattr(holder, name) for name in ("uuid_cache_diffs", "skip_current_step")):
            return EASYCACHE
        if hasattr(holder, "cache_diff"):
            return LAZYCACHE
    return None


def check_step_caches(model_options: dict, patcher: ModelPatcher) -> None:
    """Refuse a model with a step cache that cannot follow.

    Parameters
    ----------
    model_options : dict
        Of the run, with the wrappers of the model in it.
    patcher : ModelPatcher
        The model.

    Raises
    ------
    ValueError
        Naming the cache.
    """
    network = getattr(patcher.model, "diffusion_model", None)
    methods = [method for name, method in vars(network).items() if name in METHODS]
    for where, found in (
        ("", traces(model_options, patcher.object_patches)),
        (" and restart ComfyUI, since it has changed the loaded model itself", map(name_of_code, methods)),
    ):
        name = next((name for trace in found if (name := cache_name(trace))), None)
        if name is not None:
            raise ValueError(
                f"{name} keeps results of earlier steps by row and cannot follow clusters that split; remove the "
                f"{name} node from the model whose steps are shared{where}"
            )


def cache_name(trace: str) -> str | None:
    """The cache that a name points to, or None."""
    for pattern, name in CACHE_NAMES.items():
        if re.search(pattern, trace, re.IGNORECASE):
            return name
    return None


def traces(model_options: dict, object_patches: dict) -> Iterator[str]:
    """Names of all that other nodes have put into a model, but for the host's caches."""
    options = model_options.get("transformer_options", {})
    known = (PLACE, *HOST_KEYS) if host_cache(options) else ()
    for key, value in options.items():
        if key not in known:
            yield str(getattr(value, "name", ""))  # the host's own say which of the two they are
            yield str(key)
            yield name_of_code(value)
    for kind in options.get("wrappers", {}).values():
        for key, wrappers in kind.items():
            if key not in known:
                yield str(key)
                yield from map(name_of_code, wrappers)
    for key, value in model_options.items():
        yield str(key)
        yield from map(name_of_code, value if isinstance(value, list) else [value])
    yield from map(name_of_code, object_patches.values())


def who_may_answer(model_options: dict, *kinds: str) -> list[str]:
    """Names of the patches of other nodes that some kinds of wrappers, and what acts in their place, come from."""
    options = model_options.get("transformer_options", {})
    known = (COMPILED, *(HOST_KEYS if host_cache(options) else ()))
    found = [model_options[ANSWERING[kind]] for kind in kinds if ANSWERING.get(kind) in model_options]
    for kind in kinds:
        for key, wrappers in options.get("wrappers", {}).get(kind, {}).items():
            if key not in known and not str(key).startswith(OURS):
                found += wrappers
    return [name_of_code(code) for code in found]


def name_of_code(value: object) -> str:
    """Module and name of a function, or of an object's class."""
    code = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"
