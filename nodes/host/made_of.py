"""What code and values are made of, as a digest: of whatever other nodes attach to a model or give to a sampler.

A store that outlives a run has to tell a patch with one reference picture from the same patch with another. So what a
function closes over and what an object holds is read too, tensors with every bit. What cannot be read is said.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import types
import uuid
from typing import Any

import numpy as np
import torch

from .attachments import OURS
from .fingerprint import holds_something, values_of
from .step_caches import name_of_code

SIZE = 16  # bytes of a digest
DEEPEST = 24  # values in values
MOST_VALUES = 200_000
LARGEST = 64 * 2**20  # bytes of a tensor that is read whole; of a larger one a sum and samples
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, types.EllipsisType, types.NotImplementedType)
PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
NAMED = (type, types.ModuleType, types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType)


class CannotTell(Exception):
    """Of a value it cannot be told what it is made of; its text names the value."""


def made_of(*values: Any) -> bytes:
    """A digest of values: equal in every process where they are made of the same.

    Parameters
    ----------
    *values : any
        Tensors, numbers, texts, functions, objects; in lists and dicts too. Of functions the code counts, defaults and
        what they close over; of objects the class and all attributes; of networks a sample of each weight.

    Returns
    -------
    digest : bytes
        16 of them.

    Raises
    ------
    CannotTell
        For a value that is neither of these, and for what holds half of the program.
    """
    reader = Reader()
    reader.feed(values)
    return reader.hashed.digest()


def lasting_name(value: object) -> str:
    """Module and name of a function or an object's class, wherever a pack lies: ComfyUI calls packs by their path."""
    name = name_of_code(value)
    name = f"hierdiff{name[len(OURS) :]}" if name.startswith(f"{OURS}.") else name
    return re.split(r"[/\\]", name)[-1]


def checksum(tensor: torch.Tensor) -> str:
    """The sum of all bits of a tensor as whole numbers: every value counts, and nothing is copied."""
    if tensor.device.type == "meta" or not tensor.numel():
        return ""
    try:
        flat = tensor.detach().reshape(-1)
        words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
        return str(int(flat.view(words).sum(dtype=torch.int64)))
    except (RuntimeError, TypeError, NotImplementedError, KeyError):  # quantized by a pack: known by its samples alone
        return "unread"


class Reader:
    """Walks through values, and hashes what it finds.

    Attributes
    ----------
    hashed : hash object
    """

    def __init__(self) -> None:
        self.hashed = hashlib.blake2b(digest_size=SIZE)
        self._path: list[int] = []  # identities of the values that the present one is in
        self._sets: dict[int, tuple[Any, bytes]] = {}  # each weight of a LoRA holds the names of all of them
        self._left = MOST_VALUES

    def feed(self, value: Any, depth: int = 0) -> None:
        """Hash a value."""
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            raise CannotTell(name_of_code(value))
        if isinstance(value, enum.Enum):
            self._say(f"{lasting_name(value)} {value.name}")
        elif isinstance(value, PLAIN + PLAIN_OF_TORCH):
            self._say(f"{type(value).__name__} {value!r}")
        elif isinstance(value, uuid.UUID):  # made anew for each run
            self._say("uuid")
        elif isinstance(value, (np.generic, np.ndarray)):
            self.feed(torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biufc" else value.tolist())
        elif id(value) in self._path:
            self._say(f"around {self._path.index(id(value))}")
        else:
            self._path.append(id(value))
            self._feed_new(value, depth + 1)
            self._path.pop()

    def _feed_new(self, value, depth):
        if isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, dict):
            self._mapping(value, depth)
        elif isinstance(value, (list, tuple)):
            self._say(f"{type(value).__name__} {len(value)}")
            for item in value:
                self.feed(item, depth)
        elif isinstance(value, (set, frozenset)):
            self.hashed.update(self._of_set(value))
        elif isinstance(value, torch.nn.Module):
            self._weights(value, value.state_dict())
        elif callable(getattr(value, "model_state_dict", None)):  # the host's ModelPatcher
            self._weights(value.model, value.model_state_dict())
            self.feed([value.patches, value.model_options, value.object_patches], depth)
        else:
            self._code(value, depth)

    def _of_set(self, value):
        if id(value) not in self._sets:
            texts = all(isinstance(item, str) for item in value)
            self._sets[id(value)] = value, made_of("set", sorted(value if texts else map(made_of, value)))
        return self._sets[id(value)][1]

    def _mapping(self, value, depth):
        self._say(f"dict {len(value)}")
        for key in sorted(value, key=lambda key: (type(key).__name__, str(key))):
            self.feed(key, depth)
            self.feed(value[key], depth)

    def _code(self, value, depth):
        if isinstance(value, functools.partial):
            self._parts("partial", [value.func, value.args, value.keywords], depth)
        elif isinstance(value, types.MethodType):
            self._parts("method", [value.__func__, value.__self__], depth)
        elif isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if holds_something(cell)]
            held = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
            self._parts(f"function {lasting_name(value)}", held, depth)
        elif isinstance(value, types.CodeType):
            self._parts("code", [value.co_code, value.co_consts, value.co_names], depth)
        elif isinstance(value, NAMED):
            self._say(f"named {lasting_name(value)}")
        else:
            self._object(value, depth)

    def _object(self, value, depth):
        """An object by its class and attributes; one without any is known by its class if that is Python."""
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {name: getattr(value, name) for name in slots if name != "__weakref__" and hasattr(value, name)}
        if not hasattr(value, "__dict__") and not slots:
            raise CannotTell(name_of_code(value))
        self._parts(f"object {lasting_name(value)}", [{**held, **getattr(value, "__dict__", {})}], depth)

    def _parts(self, name, parts, depth):
        self._say(name)
        for part in parts:
            self.feed(part, depth)

    def _weights(self, network, state):
        self._say(f"network {lasting_name(network)}")
        for name in sorted(state):
            self._say(name)
            self._tensor(state[name], whole=False)

    def _tensor(self, tensor, whole=True):
        self._say(f"tensor {tensor.dtype} {tuple(tensor.shape)}")
        if whole and tensor.nbytes <= LARGEST and tensor.device.type != "meta":
            try:
                self.hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
                return
            except (RuntimeError, TypeError, NotImplementedError):  # of a kind that is no plain memory
                pass
        values = values_of(tensor)
        self.hashed.update(b"" if values is None else values.cpu().numpy().tobytes())
        if whole:
            self._say(checksum(tensor))

    def _say(self, text):
        self.hashed.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
