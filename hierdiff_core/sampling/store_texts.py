"""What a report says of a store."""

from __future__ import annotations

from collections.abc import Mapping


def changed_in_words(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Why nothing can be reused.

    Parameters
    ----------
    before, now : mapping of str to str
        What two runs' fingerprints are made of.

    Returns
    -------
    reason : str
        "" where nothing changed.

    Examples
    --------
    >>> from hierdiff_core.sampling.store_texts import changed_in_words
    >>> changed_in_words({"sampler": "euler", "size": "512x512"}, {"sampler": "heun", "size": "64x64"})
    'the sampler and the size changed: nothing could be reused'
    """
    names = [f"the {name}" for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return ""
    words = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{words} changed: nothing could be reused"


def in_bytes(size: int) -> str:
    """A number of bytes in words.

    Parameters
    ----------
    size : int

    Returns
    -------
    words : str

    Examples
    --------
    >>> from hierdiff_core.sampling.store_texts import in_bytes
    >>> in_bytes(2**31), in_bytes(3 * 2**19), in_bytes(300)
    ('2 GiB', '1.5 MiB', '300 bytes')
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
