"""Keys of prompts and branches: what their noise is a function of."""

import hashlib

from ..prompts.text_form import composed, normal_form


def text_key(text):
    """Key of a prompt: an int in 0 ... 2**63 - 1 from the text alone, the same for all its spellings.

    Texts that are in `normal_form` have the key of their UTF-8 bytes.
    """
    return hashed(normal_form(text).encode()) >> 1


def negative_key(text):
    """Key of a negative prompt: as `text_key`, but white space counts.

    It always has, and many saved workflows have a negative of several lines; their pictures stay what they are.
    """
    return hashed(composed(text).encode()) >> 1


def branch_keys(labels, prompt_keys):
    """Key of each cluster: the smallest key of its members.

    Parameters
    ----------
    labels : (N,) int
        cluster of each prompt, 0-based, contiguous
    prompt_keys : N ints
        from `text_key`

    Returns
    -------
    keys : list of C int
    """
    keys = [None] * (max(labels) + 1)
    for c, key in zip(labels, prompt_keys, strict=True):
        keys[c] = key if keys[c] is None else min(keys[c], key)
    return keys


def hashed(data):
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
