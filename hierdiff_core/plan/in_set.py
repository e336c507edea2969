"""What is a shard's among what its whole set has: prompts, rows of inputs.

Legend: N prompts of a plan, L its leaves (`Plan.leaf_keys`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .branching import plan_leaves

if TYPE_CHECKING:
    from .plan import Plan


def numbers_in_set(plan: Plan) -> np.ndarray:
    """Number that each prompt of a shard has in its set; of what is no shard its own: (N,) int64."""
    return leaves_in_set(plan)[plan_leaves(plan)] if plan.part_of is not None else np.arange(plan.num_prompts)


def leaves_in_set(plan: Plan) -> np.ndarray:
    """Number that each leaf of a shard has among the prompts of its set, -1 for one that is gone there: (L,) int64."""
    assert plan.part_of is not None
    whole, leaves = plan.part_of
    numbers = np.full(whole.num_leaves, -1, dtype=np.int64)
    numbers[plan_leaves(whole)] = np.arange(whole.num_prompts)
    return numbers[leaves]


def rows_in_set(plan: Plan, keys: Sequence[int]) -> np.ndarray | None:
    """Rows of a shard's leaves among inputs of its whole set.

    Parameters
    ----------
    plan : Plan
        Of a run.
    keys : sequence of int
        Of the prompts of the inputs, in their order.

    Returns
    -------
    rows : (L,) int64 array, or None
        -1 for those that are gone there. None for what is no shard, and for inputs that are not of its whole set.
    """
    whole = None if plan.part_of is None else plan.part_of[0].prompt_keys
    return leaves_in_set(plan) if whole is not None and list(whole) == list(keys) else None
