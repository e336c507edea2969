"""Do a network's weights fit its config? Asked of the files' headers, before memory is taken for either."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from .model_folder import MOST_VOCABULARY, check_file, read_object, short, title

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Older versions of transformers saved these integers, which newer ones make themselves.
COUNTED = "position_ids"
# Numbers that a network may keep beside its weights, such as a mask between tokens.
MOST_BESIDE = 2**24


class TooLarge(Exception):
    """A network asks for more numbers than its weights have."""


def weight_files(folder: str | Path, network: str, base: str, variant: str | None, shards_first: bool) -> list[Path]:
    """Paths of the files that a library loads a network's weights from.

    Parameters
    ----------
    folder : str or Path
        Of the model.
    network : str
        Name of the network's folder in it.
    base : str
        Name of the file without its ending.
    variant : str or None
    shards_first : bool
        What the library takes where there are both, an index of shards and a single file.

    Raises
    ------
    ValueError
        If one is missing, or an index names files outside of the network's folder.
    """
    infix = f".{variant}" if variant else ""
    single = f"{network}/{base}{infix}.safetensors"
    indices = (f"{base}{infix}.safetensors.index.json", f"{base}.safetensors.index{infix}.json")
    found = [index for index in indices if (Path(folder) / network / index).exists()]
    if found and (shards_first or not (Path(folder) / single).exists()):
        return [check_file(folder, name) for index in found for name in shards(folder, network, index)]
    return [check_file(folder, single)]


def shards(folder: str | Path, network: str, index: str) -> list[str]:
    """Names of the files that an index of weights lists, from the model's folder."""
    where = f"{network}/{index}"
    weight_map = read_object(folder, where, MOST_VOCABULARY).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{title(folder)}/{where} has no weight_map; download it again")
    names = set()
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or any(sign in name for sign in "/\\:\0"):
            raise ValueError(
                f"{title(folder)}/{where} names {short(repr(name))} as a file of weights; "
                "only .safetensors files beside it are loaded: download it again"
            )
        names.add(f"{network}/{name}")
    return sorted(names)


def read_headers(files: Sequence[Path], where: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in the files; `ValueError` if one is broken or holds quantised weights."""
    from safetensors import SafetensorError, safe_open

    shapes = {}
    for path in files:
        try:
            with safe_open(str(path), "pt") as opened:
                for name in opened.keys():  # noqa: SIM118, it is no dict
                    view = opened.get_slice(name)
                    if view.get_dtype() in FLOATS:
                        shapes[name] = tuple(view.get_shape())
                    elif not name.endswith(COUNTED):
                        raise ValueError(
                            f"{where} contains weights of type {view.get_dtype()} ({short(name)}); HierDiff loads "
                            "weights in float32, float16 or bfloat16: use the files that are not quantised"
                        )
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{where}/{path.name} is broken ({short(error)}); download it again") from error
    return shapes


def check_weights(shapes: Mapping[str, tuple[int, ...]], build: Callable[[], torch.nn.Module], where: str) -> None:
    """`ValueError` unless a network can be filled by weights.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Of the tensors in its files, by name.
    build : callable
        Makes the network; is called on torch's meta device, which holds no numbers.
    where : str
        Names the network in messages.
    """
    held = sum(count(shape) for shape in shapes.values())
    try:
        with torch.device("meta"), no_more_than(2 * held, 2 * len(shapes)):  # some layers are made, then replaced
            network = build()
    except TooLarge:
        raise ValueError(
            f"{where}/config.json describes a network far larger than its weights ({held:,} numbers in {len(shapes)} "
            "tensors); download both again, from one model"
        ) from None
    except Exception as error:
        raise ValueError(f"{where}/config.json does not describe a valid network: {short(error, 200)}") from error
    check_shapes(network, shapes, where)


def check_shapes(network: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare shapes where names are equal, and totals: the libraries rename some weights of older files."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items() if not name.endswith(COUNTED)}
    for name in expected.keys() & shapes.keys():
        if expected[name] != shapes[name]:
            raise ValueError(
                f"{where}: {name} has shape {shapes[name]} in the weights, and {expected[name]} after config.json; "
                "download both again, from one model"
            )
    absent, spare = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    lacking = sum(count(expected[name]) for name in absent)
    if lacking > sum(count(shapes[name]) for name in spare):
        raise ValueError(f"{where} is missing weights ({some(absent)}); download its .safetensors files again")
    parts = {name for name, _ in network.named_children()}  # other networks may be in the same files
    unused = [name for name in spare if name.split(".")[0] in parts]
    if lacking < sum(count(shapes[name]) for name in unused):
        raise ValueError(
            f"{where}/config.json describes a smaller network than its weights ({some(unused)} would be left out); "
            "download both again, from one model"
        )


def some(names: Collection[str]) -> str:
    """Names for a message: the first, and how many more."""
    names = sorted(names)
    return short(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def count(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


@contextmanager
def no_more_than(numbers: int, tensors: int) -> Iterator[None]:
    """Stop, with `TooLarge`, when this thread makes a network of more parameters than these.

    However many layers a config describes, only so many are made.
    """
    left = {"numbers": numbers, "tensors": tensors, "beside": numbers + MOST_BESIDE}
    thread = threading.get_ident()  # the hooks are torch's own, for all threads

    def take(tensor, **amounts):
        if tensor is None or threading.get_ident() != thread:
            return
        for name, amount in amounts.items():
            left[name] -= amount
            if left[name] < 0:
                raise TooLarge

    def on_parameter(module, name, parameter):
        take(parameter, numbers=parameter.numel() if parameter is not None else 0, tensors=1)

    def on_buffer(module, name, buffer):
        take(buffer, beside=buffer.numel() if buffer is not None else 0)

    hooks = [
        register_module_parameter_registration_hook(on_parameter),
        register_module_buffer_registration_hook(on_buffer),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
