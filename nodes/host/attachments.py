"""What other nodes have attached to a model, and how to name it to a user."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

OURS = __name__.rsplit(".nodes.", 1)[0]  # the pack's package
UNET_FUNCTION = "model_function_wrapper"
MODEL_WRAPPERS = ("apply_model", "diffusion_model")
POST_CFG = "sampler_post_cfg_function"
CALLS_FUNCTION = "sampler_calc_cond_batch_function"
CFG_FUNCTIONS = (CALLS_FUNCTION, "sampler_pre_cfg_function", "sampler_cfg_function", POST_CFG)
ROW_WRAPPERS = ("predict_noise", "calc_cond_batch")  # those that see latents on their way to the calls
# Wrappers by their key that change nothing of what a row gets, or that are told of the rows: no guard has to ask.
COMPOSED = ("torch.compile", "easycache", "lazycache")
# Object patches that only scale: every sampling node of the host's makes some.
SCALES = ("model_sampling", "latent_format")
HEEDS = "heeds_hierdiff"
MOST_NAMES = 3


class Attached(NamedTuple):
    """A function or object that takes part in a model's evaluation.

    kind : str      where it is attached
    code : object   what is called
    """

    kind: str
    code: Any


def patches_of(options: dict) -> Iterator[Attached]:
    """The patches inside the network, of a run's `transformer_options`."""
    for kind, patches in options.get("patches", {}).items():
        yield from (Attached(kind, patch) for patch in patches)
    for kind, patches in options.get("patches_replace", {}).items():
        yield from (Attached(kind, patch) for patch in patches.values())


def wrappers_of(model_options: dict, kinds: Iterable[str]) -> Iterator[Attached]:
    """The wrappers of some kinds, of other packs."""
    for kind in kinds:
        for key, wrappers in model_options.get("transformer_options", {}).get("wrappers", {}).get(kind, {}).items():
            if key not in COMPOSED:
                yield from (Attached(kind, wrapper) for wrapper in wrappers if not is_ours(wrapper))


def around_model(model_options: dict) -> Iterator[Attached]:
    """What sees the rows of a call and what comes of them: the function that calls the model, and its wrappers."""
    if UNET_FUNCTION in model_options:
        yield Attached(UNET_FUNCTION, model_options[UNET_FUNCTION])
    yield from wrappers_of(model_options, MODEL_WRAPPERS)


def objects_of(patcher: Any) -> Iterator[Attached]:
    """What is put into a model by its ModelPatcher, or by force."""
    for name, value in patcher.object_patches.items():
        if name not in SCALES and not module_of(value).startswith("torch._dynamo"):
            yield Attached(name, value)
    for injections in getattr(patcher, "injections", {}).values():
        yield from (Attached("injection", injection.inject) for injection in injections)
    network = getattr(patcher.model, "diffusion_model", None)
    for module in () if network is None else network.modules():
        forward = vars(module).get("forward")
        if forward is not None and not module_of(forward).startswith(("torch.", "comfy.")):
            yield Attached("forward", forward)


def controls_of(sides: Iterable[list[dict] | None]) -> Iterator[Attached]:
    """ControlNets of other packs in conditioning."""
    for entry in itertools.chain.from_iterable(side or () for side in sides):
        control = entry.get("control")
        while control is not None:
            if not module_of(control).startswith("comfy."):
                yield Attached("control", control)
            control = getattr(control, "previous_controlnet", None)


def cfg_functions_of(model_options: dict) -> Iterator[Attached]:
    """The functions around classifier-free guidance, in the order of their calls."""
    for kind in CFG_FUNCTIONS:
        found = model_options.get(kind, ())
        yield from (Attached(kind, function) for function in (found if isinstance(found, (list, tuple)) else [found]))


def inner_code(code: Any) -> Any:
    """The function or object behind partials, bound methods and decorators."""
    while True:
        inner = getattr(code, "func" if isinstance(code, functools.partial) else "__wrapped__", None)
        inner = inner or getattr(code, "__func__", None)
        if inner is None:
            return code
        code = inner


def identity_of(code: Any) -> Any:
    """Equal for what was made by the same lines: a function's code, or an object's class."""
    inner = inner_code(code)
    return getattr(inner, "__code__", None) or (inner if isinstance(inner, type) else type(inner))


def module_of(code: Any) -> str:
    """The name of the module that a function or object is from."""
    inner = inner_code(code)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return getattr(named, "__module__", None) or ""


def is_ours(code: Any) -> bool:
    """Whether it is this pack's own."""
    return module_of(code).split(".nodes.")[0] == OURS


def needs_no_guard(code: Any) -> bool:
    """Whether it is ours, or says of itself that it heeds which rows a call is for (docs/for-other-packs.md)."""
    return is_ours(code) or bool(getattr(code, HEEDS, False) or getattr(inner_code(code), HEEDS, False))


def name_of(code: Any) -> str:
    """What a user may know it by: the node or class, and the pack's folder."""
    inner = inner_code(code)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    parts = [part for part in named.__qualname__.split(".") if part != "<locals>"]
    short = parts[0] if parts[0] == parts[-1] else f"{parts[0]} ({parts[-1]})"
    return f"{short} of {pack_of(module_of(code))}"


def pack_of(module: str) -> str:
    """The folder of a pack by the name of one of its modules: the host names a pack's package by its path."""
    found = re.search(r"(?:.*[/\\\\]|custom_nodes\.)([^.]+)", module)
    return found[1].replace("_x_", ".") if found else module


def names_of(codes: Iterable[Any]) -> str:
    """Some of them, in one line, each once."""
    names = list(dict.fromkeys(name_of(code) for code in codes))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
