"""What noise needs to know of a plan, as numbers that can be sent anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..plan.plan import Plan
    from ..plan.seeds import Seeds
    from .noise import BranchNoise


class PlanNumbers:
    """Stands for a plan where `BranchNoise` and steps ask for one: keys, seeds and rerolls of its clusters.

    Parameters
    ----------
    data : dict
        From `plan_numbers`.

    Attributes
    ----------
    num_steps : int
        K.
    rerolls : bool
        Whether there are any.
    seeds : bool or None
        True where prompts have seeds of their own, else None.
    """

    def __init__(self, data: dict[str, Any]):
        self.data = data
        self.num_steps = len(data["keys"])
        self.rerolls = bool(data["fresh"])
        self.seeds = True if data["seeds"] is not None else None

    def noise_keys(self, k: int, prompt_keys: object = None) -> list[int]:
        """As `Plan.noise_keys` of the plan's own prompts."""
        return self.data["keys"][k].tolist()

    def fresh(self, k: int) -> np.ndarray:
        """As `Plan.fresh`."""
        return self.data["fresh"].get(k, np.zeros(len(self.data["keys"][k]), dtype=bool))

    def branch_seeds(self, k: int) -> list[int | None]:
        """As `Plan.branch_seeds`."""
        seeds = self.data["seeds"]
        return [None] * len(self.data["keys"][k]) if seeds is None else seeds[k]

    def groups(self) -> tuple[None, Seeds]:
        """The seeds, as the second of `Plan.groups`."""
        return None, tuple(self.data["groups"])


def plan_numbers(plan: Plan, noise: BranchNoise) -> dict[str, Any]:
    """What `PlanNumbers` stands for a plan with.

    Parameters
    ----------
    plan : Plan
    noise : BranchNoise
        Of its run.

    Returns
    -------
    data : dict
        Plain.
    """
    steps = range(plan.num_steps)
    fresh = {k: np.asarray(plan.fresh(k), dtype=bool) for k in (steps if plan.rerolls else ())}
    return {
        "keys": [np.array(noise.keys(k), dtype=np.uint64) for k in steps],
        "seeds": None if plan.seeds is None else [plan.branch_seeds(k) for k in steps],
        "groups": list(plan.groups()[1]),
        "fresh": {k: own for k, own in fresh.items() if own.any()},
    }
