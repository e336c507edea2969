"""What a branch is made of, as a digest: two branches with equal digests hold bit-identical latents.

What was evaluated is kept by what it is made of, not by where it stands. So rows of one run serve another of other
prompts, another plan or another process, and no store can be mixed up with another.

Legend: C branches of a call of the model.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

SIZE = 16  # bytes of a digest


class Lineage:
    """Digests of the branches of a run, from one call of the model to the next.

    Parameters
    ----------
    fingerprint : bytes
        Of all that the branches of a run have in common: weights, sampler, steps, size, seed; see `content`.

    Attributes
    ----------
    digests : list of bytes
        Of the branches of the latest call; before the first, the one that all begin with.

    Examples
    --------
    >>> from hierdiff_core.sampling.lineage import Lineage, content
    >>> run, again = (Lineage(content("model", "euler", 7)) for _ in range(2))
    >>> trunk, same = run.advance(None, [content("cat", "dog")]), again.advance(None, [content("cat", "dog")])
    >>> leaves = run.advance([0, 0], [content("cat"), content("dog")])
    >>> others = again.advance([0, 0], [content("cow"), content("dog")])
    >>> trunk == same, [own == other for own, other in zip(leaves, others)]
    (True, [False, True])
    """

    def __init__(self, fingerprint: bytes):
        self.digests = [content("run", fingerprint)]
        self._begun = False

    def advance(self, parents: Sequence[int] | np.ndarray | None, contents: Sequence[bytes]) -> list[bytes]:
        """Go on to the next call of the model.

        Parameters
        ----------
        parents : (C,) int64 array or None
            Row of the call before that each branch is copied from; None where each goes on as it is. The first call has
            none before it, and its branches begin alike, whatever is given.
        contents : C bytes
            What each branch is made of at this call; see `content`.

        Returns
        -------
        digests : list of C bytes
            Of the branches of this call, 16 bytes each.

        Raises
        ------
        ValueError
            If there are not as many parents as contents.
        """
        if not self._begun:
            parents = np.zeros(len(contents), dtype=np.int64)
        elif parents is None:
            parents = np.arange(len(self.digests))
        if len(parents) != len(contents):
            raise ValueError(f"{len(contents)} branches need a parent each; got {len(parents)}")
        above = [self.digests[int(parent)] for parent in parents]
        self.digests = [content(digest, own) for digest, own in zip(above, contents, strict=True)]
        self._begun = True
        return self.digests

    def below(self, rows: Sequence[int] | np.ndarray) -> Lineage:
        """Leave this one as it is and go on with some branches of the latest call.

        Parameters
        ----------
        rows : (C,) int64 array
            Their rows; they become rows 0 ... C - 1.

        Returns
        -------
        lineage : Lineage
        """
        part = Lineage(b"")
        part.digests, part._begun = [self.digests[int(row)] for row in rows], self._begun
        return part


def content(*parts: bytes | int | float | str | None) -> bytes:
    """The digest of a few values, in their order.

    Parameters
    ----------
    *parts : bytes, int, float, str or None
        Values; 1, 1.0 and "1" are three different ones.

    Returns
    -------
    digest : bytes
        16 of them, the same on every machine.

    Raises
    ------
    ValueError
        If a part is of another kind.

    Examples
    --------
    >>> from hierdiff_core.sampling.lineage import content
    >>> content("a", "bc") == content("ab", "c"), len(content(1, 2.5, None))
    (False, 16)
    """
    hashed = blake2b(digest_size=SIZE)
    for part in parts:
        kind, data = _encoded(part)
        hashed.update(b"%b%d:" % (kind, len(data)))
        hashed.update(data)
    return hashed.digest()


def _encoded(part: object) -> tuple[bytes, bytes]:
    if part is None:
        return b"n", b""
    if isinstance(part, (bytes, bytearray, memoryview)):
        return b"b", bytes(part)
    if isinstance(part, str):
        return b"s", part.encode("utf-8", "surrogatepass")
    if isinstance(part, (bool, int, np.integer, np.bool_)):
        return b"i", str(int(part)).encode()
    if isinstance(part, (float, np.floating)):
        return b"f", struct.pack("<d", float(part))
    raise ValueError(f"a digest is of bytes, numbers and texts; got {type(part).__name__}")
