"""How many tokens each prompt of a conditioning has without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

# In the values of a conditioning entry: its `TokenLengths`, as a plain tuple, which anybody can save. The host hands on
# entries that it does not know.
LENGTHS = "hierdiff_lengths"


class TokenLengths(NamedTuple):
    """What a conditioning's padding has covered up.

    tokens : (N,) tuple of int   of each prompt, as the text encoder gave them
    masked : (N,) tuple of bool  whether it gave a mask with them
    total : int                  tokens of each row, with padding
    left : bool                  whether the padding is on the left
    """

    tokens: tuple[int, ...]
    masked: tuple[bool, ...]
    total: int
    left: bool = False

    def of_rows(self, rows: Sequence[int]) -> TokenLengths:
        """Those of some rows."""
        return self._replace(tokens=tuple(self.tokens[i] for i in rows), masked=tuple(self.masked[i] for i in rows))

    def trimmed(self, row: torch.Tensor, length: int) -> torch.Tensor:
        """(1, T, ...) with `length` tokens in place of `total`; what others have set behind them stays."""
        start = self.total - length if self.left else 0
        return torch.cat([row[:, start : start + length], row[:, self.total :]], dim=1)

    @property
    def differ(self) -> bool:
        """Whether some are padded."""
        return min(self.tokens) < self.total


def lengths_of(values: dict[str, Any]) -> TokenLengths | None:
    """The `TokenLengths` in the values of a conditioning entry, or None."""
    return TokenLengths(*values[LENGTHS]) if LENGTHS in values else None


def taken_lengths(values: dict[str, Any], rows: Sequence[int], num_prompts: int) -> dict[str, Any]:
    """Values whose lengths, if they are of as many prompts, are those of some rows."""
    lengths = lengths_of(values)
    if lengths is None or len(lengths.tokens) != num_prompts:
        return values
    return {**values, LENGTHS: tuple(lengths.of_rows(rows))}
