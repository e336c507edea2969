"""Files of rows and of leaves: safetensors whose names say what each tensor is, and whether it is undamaged.

Such files may come from anybody: whatever is read of them is bounded, and what is no number, text or tensor is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch

FORMAT = "hierdiff trunk 1"
LARGEST_FILE = 2**30  # bytes; a file is written for a second of a run, or for 32 MiB
LARGEST_TEXT = 2**20  # characters of a file's metadata
LONGEST_NAME, LONGEST_PART = 40, 500  # characters
MOST_PARTS = 64
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
DEEPEST = 12  # lists in lists of a leaf
NAME = re.compile(r"[0-9a-f]{2,128}\.[0-9a-f]{2,128}\.[0-9a-f]{16}", re.ASCII)  # key, branch, checksum


class WrittenRow(NamedTuple):
    """A row that is to be written."""

    key: bytes
    branch: bytes
    row: torch.Tensor


class WrittenLeaf(NamedTuple):
    """A leaf that is to be written; `form` is its value with numbers in the place of `tensors`."""

    key: int
    digest: bytes
    form: Any
    tensors: Sequence[torch.Tensor]


@dataclass
class FileContents:
    """What a file says that it holds.

    Attributes
    ----------
    rows : dict of bytes to str
        Name of the tensor of each row, by its key.
    leaves : dict of bytes to dict
        What is said of each leaf, by its digest.
    parts : dict of str to str
        What the run was made of that wrote it.
    owner : str
        Whose run that was.
    """

    rows: dict[bytes, str] = field(default_factory=dict)
    leaves: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    owner: str = ""


def file_of(rows: Sequence[WrittenRow], leaves: Sequence[WrittenLeaf], parts: Mapping[str, str], owner: str) -> bytes:
    """A file's bytes.

    Parameters
    ----------
    rows : sequence of WrittenRow
    leaves : sequence of WrittenLeaf
    parts : mapping of str to str
        What the run is made of.
    owner : str
        Whose it is.

    Returns
    -------
    data : bytes
    """
    from safetensors.torch import save

    tensors, told = {}, []
    for key, branch, row in rows:
        tensors[f"{key.hex()}.{branch.hex()}.{checksum(row)}"] = row.contiguous()
    for place, leaf in enumerate(leaves):
        names = [f"leaf.{place}.{j}" for j in range(len(leaf.tensors))]
        tensors |= {name: tensor.contiguous() for name, tensor in zip(names, leaf.tensors, strict=True)}
        sums = [checksum(tensor) for tensor in leaf.tensors]
        own = {"key": leaf.key, "digest": leaf.digest.hex(), "form": leaf.form, "names": names, "sums": sums}
        told.append(own)
    run = {"parts": dict(parts), "owner": owner}
    return save(tensors, {"format": FORMAT, "run": json.dumps(run), "leaves": json.dumps(told)})


def contents_of(path: Path) -> FileContents:
    """What a file holds, without reading its numbers.

    Parameters
    ----------
    path : Path

    Returns
    -------
    contents : FileContents

    Raises
    ------
    ValueError
        If it is damaged, or is no such file.
    """
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > LARGEST_FILE:
        raise ValueError("it is too large")
    try:
        with safe_open(str(path), "pt") as opened:
            told, names = opened.metadata() or {}, list(opened.keys())
    except FileNotFoundError:  # another process gave it up
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError("it is damaged") from error
    if told.get("format") != FORMAT:
        raise ValueError("it holds something else, or is of another version of HierDiff")
    found = FileContents()
    for name in names:
        if NAME.fullmatch(name):
            key, _, _ = name.split(".")
            found.rows[bytes.fromhex(key)] = name
        elif not name.startswith("leaf."):
            raise ValueError("it holds something else")
    run = parsed(told.get("run", "{}"), dict)
    found.parts, found.owner = checked_parts(run.get("parts")), str(run.get("owner", ""))[:LONGEST_PART]
    for leaf in parsed(told.get("leaves", "[]"), list):
        found.leaves[checked_digest(leaf)] = leaf
    return found


def row_of(path: Path, name: str) -> torch.Tensor:
    """A row of a file.

    Parameters
    ----------
    path : Path
    name : str
        Of its tensor.

    Returns
    -------
    row : tensor
        Bit-identical to the one that was written.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    return tensors_of(path, [name], [name.rsplit(".", 1)[1]])[0]


def leaf_of(path: Path, told: Mapping[str, Any]) -> Any:
    """A leaf of a file.

    Parameters
    ----------
    path : Path
    told : mapping
        What the file says of it.

    Returns
    -------
    value : any
        As it was put.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    names, sums = texts(told.get("names")), texts(told.get("sums"))
    if len(names) != len(sums):
        raise ValueError("it is damaged")
    return filled(told.get("form"), tensors_of(path, names, sums))


def tensors_of(path: Path, names: Sequence[str], sums: Sequence[str]) -> list[torch.Tensor]:
    """Some tensors of a file; `ValueError` unless their checksums are these."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as opened:
            found = [opened.get_tensor(name).clone() for name in names]
    except FileNotFoundError:  # another process gave it up
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError("it is damaged") from error
    if any(checksum(tensor) != own for tensor, own in zip(found, sums, strict=True)):
        raise ValueError("it is damaged")
    return found


def checksum(tensor: torch.Tensor) -> str:
    """16 hexadecimal digits of a tensor's bits, shape and precision."""
    hashed = blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=8)
    hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def form_of(value: Any, tensors: list[torch.Tensor], depth: int = 0) -> Any:
    """A leaf's value as JSON, with its tensors put aside; `ValueError` for what a file cannot hold.

    Parameters
    ----------
    value : any
        Tensors, numbers, texts, and lists and dicts of them.
    tensors : list of tensor
        Gets its tensors.
    depth : int
        Lists around it.

    Returns
    -------
    form : any
    """
    if depth > DEEPEST:
        raise ValueError("lists are too deep")
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided:
        if value.dtype not in DTYPES:
            raise ValueError(f"a file cannot hold {value.dtype}")
        tensors.append(value.detach().cpu().clone())  # none may share its memory with another
        return {"tensor": len(tensors) - 1}
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [form_of(item, tensors, depth + 1) for item in value]}
    if type(value) is dict and all(type(name) is str for name in value):
        return {"dict": [[name, form_of(item, tensors, depth + 1)] for name, item in value.items()]}
    raise ValueError(f"a file cannot hold {type(value).__name__}")


def filled(form: Any, tensors: Sequence[torch.Tensor], depth: int = 0) -> Any:
    """What `form_of` was given; `ValueError` for a form that it never makes."""
    try:
        ((kind, value),) = form.items()
        if depth > DEEPEST:
            raise ValueError("lists are too deep")
        if kind == "tensor":
            return tensors[value]
        if kind == "value" and (value is None or type(value) in (bool, int, float, str)):
            return value
        if kind in ("list", "tuple"):
            items = [filled(item, tensors, depth + 1) for item in value]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {str(name): filled(item, tensors, depth + 1) for name, item in value}
    except (AttributeError, TypeError, IndexError, ValueError) as error:
        raise ValueError("it is damaged") from error
    raise ValueError("it is damaged")


def parsed(text: Any, kind: type) -> Any:
    """JSON of a file's metadata; `ValueError` for what is none, of another kind, or too long."""
    if not isinstance(text, str) or len(text) > LARGEST_TEXT:
        raise ValueError("it is damaged")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is damaged") from error
    if not isinstance(value, kind):
        raise ValueError("it is damaged")
    return value


def checked_parts(parts: Any) -> dict[str, str]:
    """What a run was made of, as a file says it, shortened."""
    if not isinstance(parts, dict) or len(parts) > MOST_PARTS:
        raise ValueError("it is damaged")
    return shortened_parts(parts)


def shortened_parts(parts: Mapping[Any, Any]) -> dict[str, str]:
    """What a run is made of, as short as a file keeps it."""
    some = list(parts.items())[:MOST_PARTS]
    return {str(name)[:LONGEST_NAME]: str(value)[:LONGEST_PART] for name, value in some}


def checked_digest(leaf: Any) -> bytes:
    """The digest of what a file says of a leaf."""
    if not isinstance(leaf, dict) or type(leaf.get("key")) is not int or not isinstance(leaf.get("digest"), str):
        raise ValueError("it is damaged")
    try:
        return bytes.fromhex(leaf["digest"])
    except ValueError as error:
        raise ValueError("it is damaged") from error


def texts(value: Any) -> list[str]:
    """A list of texts; `ValueError` for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("it is damaged")
    return value
