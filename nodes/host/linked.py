"""Which functions around the guidance read what a patch inside the model has written in the same call."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from .attachments import Attached, module_of

HOLDERS = (dict, list, set)
DEEPEST = 3
# How a dict, list, set, tensor or object is changed by its methods.
CHANGING = {"append", "extend", "insert", "update", "setdefault", "add", "pop", "clear", "copy_", "__setitem__"}
STORES = ("STORE_SUBSCR", "STORE_ATTR")
LIBRARIES = ("site-packages", "dist-packages")


def linked(functions: Iterable[Attached], inside: Iterable[Attached]) -> list[Attached]:
    """Those functions that hold something which is written inside the model.

    Self-Attention Guidance is the host's own example: a patch records the scores of a call, and a function after the
    guidance takes them as those of the rows that it is given. It must get the very rows of that call then.

    Parameters
    ----------
    functions : iterable of Attached
        Around the guidance.
    inside : iterable of Attached
        Patches and wrappers of the model.

    Returns
    -------
    linked : list of Attached
        They share a variable that a patch sets, or a dict, list, set or object of a pack's that a patch changes.
    """
    functions = list(functions)
    written = {key for attached in inside for key in written_by(attached.code)} if functions else set()
    return [attached for attached in functions if written & held_by(attached.code)]


def written_by(code: Any) -> set:
    """What a function changes each time: keys of variables that it sets, and of what it holds, if it stores into it."""
    keys = set()
    for function, held in functions_of(code):
        keys.update(key for key, _ in variables_of(function) if key[-1] in names_set_by(function.__code__))
        if stores(function.__code__):
            keys.update(deep_keys(held))
    return keys


def held_by(code: Any) -> set:
    """What a function can read: keys of its variables, and of all that they hold."""
    keys = set()
    for function, held in functions_of(code):
        keys.update(key for key, _ in variables_of(function))
        keys.update(deep_keys(held))
    return keys


def functions_of(code: Any, seen: set | None = None) -> Iterator[tuple[types.FunctionType, list]]:
    """The functions that a call of this leads to, each with the values that it holds."""
    seen = set() if seen is None else seen
    function, held = opened(code)
    if function is None or (id(function), *map(id, held)) in seen:
        return
    seen.add((id(function), *map(id, held)))
    held = [*held, *(value for _, value in variables_of(function))]
    yield function, held
    for value in held:
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            yield from functions_of(value, seen)
        elif is_foreign(value):
            for name in function.__code__.co_names:
                if isinstance(getattr(type(value), name, None), types.FunctionType):
                    yield from functions_of(getattr(value, name), seen)


def opened(code: Any) -> tuple[types.FunctionType | None, list]:
    """The function that is called, and what it is called on or with."""
    if isinstance(code, types.FunctionType):
        return code, []
    if isinstance(code, functools.partial):
        function, held = opened(code.func)
        return function, [*held, *code.args, *code.keywords.values()]
    if isinstance(code, types.MethodType):
        function, held = opened(code.__func__)
        return function, [*held, code.__self__]
    methods = (inspect.getattr_static(type(code), name, None) for name in ("forward", "__call__"))
    call = next((method for method in methods if isinstance(method, types.FunctionType)), None)
    return (call, [code]) if call is not None and is_foreign(code) else (None, [])


def variables_of(function: types.FunctionType) -> Iterator[tuple[tuple, Any]]:
    """(key, value) of the outer functions' variables and the global ones that a function uses."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield (id(cell), name), cell.cell_contents
        except ValueError:  # not set yet
            yield (id(cell), name), None
    for name in code.co_names:
        if name in function.__globals__:
            yield (id(function.__globals__), name), function.__globals__[name]


def deep_keys(values: Iterable[Any], depth: int = DEEPEST) -> Iterator[tuple]:
    """Keys of the dicts, lists, sets and objects of packs among some values, and of those inside."""
    for value in values if depth else ():
        if isinstance(value, HOLDERS):
            yield (id(value),)
            yield from deep_keys(list(value.values() if isinstance(value, dict) else value), depth - 1)
        elif is_foreign(value):
            yield (id(value),)
            yield from deep_keys(list(vars(value).values()), depth - 1)


def names_set_by(code: types.CodeType) -> set[str]:
    """Variables of outer functions, and global ones, that some code sets, itself or in a function inside."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "STORE_GLOBAL")}
    return own.union(*(names_set_by(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def stores(code: types.CodeType) -> bool:
    """Whether some code stores into what it holds."""
    if CHANGING & set(code.co_names) or any(i.opname in STORES for i in dis.get_instructions(code)):
        return True
    return any(stores(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))


def is_foreign(value: Any) -> bool:
    """Whether something is an object of another pack's class, not of the host's, of Python's or of a library's."""
    if isinstance(value, (type, types.ModuleType, types.FunctionType)) or not hasattr(value, "__dict__"):
        return False
    name = type(value).__module__
    if name.split(".")[0] in ("comfy", "comfy_api", *sys.stdlib_module_names):
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not any(library in file for library in LIBRARIES) and not module_of(value).startswith("torch")
