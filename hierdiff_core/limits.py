"""Limits of the command line's numbers: those of the nodes, so that a typing error neither hangs nor fails late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kandinsky.schedulers import LEAST_PRIOR_STEPS

if TYPE_CHECKING:
    from argparse import Namespace

# name of the option: least, greatest
LIMITS = {
    "saving": (0, 1),
    "tau": (0, 10_000),
    "root_share": (0, 10_000),
    "prior_steps": (LEAST_PRIOR_STEPS, 1000),
    "prior_guidance": (0, 100),
    "steps": (1, 1000),
    "private_steps": (1, 1000),
    "power": (0, 1000),
    "share_above": (0, 1),
    "guidance": (0, 100),
    "width": (64, 4096),
    "height": (64, 4096),
    "seed": (0, 2**64 - 1),
    "micro_batch": (0, 4096),
    "trunk_gb": (0, 10_000),
}


def check_limits(options: Namespace) -> None:
    """Refuse a number out of its limits, infinite or NaN.

    Parameters
    ----------
    options : argparse.Namespace
        Options that were not given are None.

    Raises
    ------
    ValueError
        Names the option, the value and the limits.
    """
    for name, (least, greatest) in LIMITS.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= greatest:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} must lie between {least} and {greatest}; got {shortened(value)}")
    start, end = options.guidance_interval
    if not 0 <= start <= end <= 1:
        raise ValueError(
            "--guidance-interval must be two shares of the steps between 0 and 1, and not end before it starts; "
            f"got {start} and {end}"
        )


def shortened(value: float) -> float | str:
    """A number for a message: of a very long one, how long it is."""
    long = isinstance(value, int) and abs(value) >= 10**30
    return f"a number of {len(str(abs(value)))} digits" if long else value
