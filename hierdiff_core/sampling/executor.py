"""Where the parts of a plan are run: here, in threads, or on the workers of a Ray cluster (`ray_executor`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..plan.checks import shown, whole_number

MOST_WORKERS = 10_000
NO_RAY = "Workers need Ray: pip install hierdiff[ray]"
ADDRESS = re.compile(r"(ray://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.\-]*):\d{1,5}")


@dataclass(frozen=True)
class Workers:
    """Processes that draw the parts of a set, one on each GPU, through Ray.

    Attributes
    ----------
    count : int
        How many; 0: one for each GPU of this machine, or of the cluster; where there is none, one for every two cores.
    address : str
        "": this machine; Ray is started on 127.0.0.1, and stopped when the set is drawn. "auto": the cluster that this
        machine belongs to. Else a Ray address, ``host:6379`` or ``ray://host:10001``.

    Raises
    ------
    ValueError
        If the count is negative or no whole number, or the address is none.

    Examples
    --------
    >>> from hierdiff_core.sampling.executor import Workers
    >>> Workers(2)
    Workers(count=2, address='')
    >>> Workers(address="somewhere")
    Traceback (most recent call last):
        ...
    ValueError: address must be empty (this machine), auto, host:port or ray://host:port; got 'somewhere'
    """

    count: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        count = whole_number("count of workers", self.count)
        if not 0 <= count <= MOST_WORKERS:
            raise ValueError(f"count of workers must be 0 (one for each GPU) to {MOST_WORKERS}; got {shown(count)}")
        address: Any = self.address
        address = address.strip() if isinstance(address, str) else address
        known = isinstance(address, str) and (address in ("", "auto") or ADDRESS.fullmatch(address))
        if not known or (address.rpartition(":")[2].isdigit() and int(address.rpartition(":")[2]) > 65535):
            raise ValueError(
                f"address must be empty (this machine), auto, host:port or ray://host:port; got {shown(self.address)}"
            )
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "address", address)
