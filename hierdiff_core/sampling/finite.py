"""Latents that came out as NaN or infinity, found once at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

MOST_NAMED = 5


def rows_not_finite(latents: torch.Tensor) -> list[int]:
    """Rows of (N, ...) latents that hold NaN or infinity; waits for the device once."""
    finite = torch.isfinite(latents.reshape(len(latents), -1)).all(dim=1)
    return torch.nonzero(~finite).flatten().tolist()


def latents_not_finite(latents: torch.Tensor, prompts: Sequence[str], remedy: str) -> str | None:
    """What to say of latents that hold NaN or infinity.

    Parameters
    ----------
    latents : (N, ...) tensor
        Final latents.
    prompts : N str
        Their texts.
    remedy : str
        What the user can do.

    Returns
    -------
    str or None
        Names the prompts; None where all latents are finite.

    Raises
    ------
    ValueError
        If no latent is finite: there is nothing to hand on. Otherwise the finite ones are finished pictures, which an
        error would lose.
    """
    rows = rows_not_finite(latents)
    if not rows:
        return None
    if len(rows) == len(latents):
        raise ValueError(f"all {len(rows)} latents hold NaN or infinity; {remedy}")
    names = [f'{i} ("{prompts[i][:60]}")' for i in rows[:MOST_NAMED]]
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    return (
        f"{len(rows)} of {len(latents)} latents hold NaN or infinity, and their pictures will be black: prompt"
        f"{'s' * (len(rows) > 1)} {', '.join(names)}{more}; {remedy}"
    )
