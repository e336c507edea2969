"""Keys of prompts and branches: what their noise is a function of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from ..prompts.text_form import composed, normal_form


def text_key(text: str) -> int:
    """Key of a prompt: an int in 0 ... 2**63 - 1 from the text alone, the same for all its spellings.

    Texts that are in `normal_form` have the key of their UTF-8 bytes.
    """
    return hashed(normal_form(text).encode()) >> 1


def negative_key(text: str) -> int:
    """Key of a negative prompt: as `text_key`, but white space counts.

    It always has, and many saved workflows have a negative of several lines; their pictures stay what they are.
    """
    return hashed(composed(text).encode()) >> 1


def branch_keys(labels: Sequence[int] | np.ndarray, prompt_keys: Iterable[int]) -> list[int]:
    """Key of each cluster: the smallest key of its members.

    Parameters
    ----------
    labels : (N,) int
        Cluster of each prompt, 0-based, contiguous.
    prompt_keys : N ints
        From `text_key`.

    Returns
    -------
    keys : list of C int
        In the order of the clusters.
    """
    keys: dict[int, int] = {}
    for c, key in zip(labels, prompt_keys, strict=True):
        keys[c] = min(keys.get(c, key), key)
    return [keys[c] for c in range(len(keys))]


def hashed(data: bytes) -> int:
    """A hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
