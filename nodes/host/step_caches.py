"""Step caches that a MODEL carries: found, and refused by name.

They keep results of earlier steps by row. Where a cluster splits, the rows of a call are others, and such a cache would
hand a trunk's result to its branches, or fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# How they attach: the host's own under transformer_options and as wrappers; TeaCache, MagCache, TaylorSeer, First Block
# Cache and DeepCache of packs as the wrapper of the model function, some with settings in transformer_options. What
# they leave there has their name in it, or in its module.
CACHE_NAMES = {
    r"easy_?cache": "EasyCache",
    r"lazy_?cache": "LazyCache",
    r"tea_?cache": "TeaCache",
    r"mag_?cache": "MagCache",
    r"fb_?cache|first_?block_?cache": "First Block Cache",
    r"deep_?cache": "DeepCache",
    r"taylor_?seer": "TaylorSeer",
}


def check_step_caches(model_options: dict, object_patches: dict) -> None:
    """Refuse a model with a step cache.

    Parameters
    ----------
    model_options : dict
        Of the run, with the wrappers of the model in it.
    object_patches : dict
        Of the model.

    Raises
    ------
    ValueError
        Naming the cache.
    """
    for trace in traces(model_options, object_patches):
        name = cache_name(trace)
        if name is not None:
            raise ValueError(
                f"{name} keeps results of earlier steps by row and cannot follow clusters that split; remove the "
                f"{name} node from the model whose steps are shared"
            )


def cache_name(trace: str) -> str | None:
    """The cache that a name points to, or None."""
    for pattern, name in CACHE_NAMES.items():
        if re.search(pattern, trace, re.IGNORECASE):
            return name
    return None


def traces(model_options: dict, object_patches: dict) -> Iterator[str]:
    """Names of all that other nodes have put into a model; what says more about itself comes first."""
    options = model_options.get("transformer_options", {})
    for key, value in options.items():
        yield str(getattr(value, "name", ""))  # both of the host's caches are under the same key
        yield str(key)
    for kind in options.get("wrappers", {}).values():
        for key, wrappers in kind.items():
            yield str(key)
            yield from map(name_of_code, wrappers)
    for value in model_options.values():
        if callable(value):
            yield name_of_code(value)
        elif isinstance(value, list):
            yield from (name_of_code(item) for item in value if callable(item))
    for value in object_patches.values():
        yield name_of_code(value)


def name_of_code(value: object) -> str:
    """Module and name of a function, or of an object's class."""
    code = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"
