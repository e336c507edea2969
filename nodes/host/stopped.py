"""Runs that stop on their way: the part of a plan that they draw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan


def until(plan: Plan, steps: int) -> Plan:
    """The first steps of a plan, for whoever counts and shows them; what was measured for the whole one is dropped.

    It has no tree: prompts that are still together at its last step are different ones all the same.
    """
    if steps >= plan.num_steps:
        return plan
    return replace(
        plan,
        thresholds=plan.thresholds[:steps],
        steps=plan.steps[:steps],
        Z=None,
        merge_errors=None,
        differ=plan.distinct,
        frozen=None,
        rerolls=(),
        advised=None,
        part_of=None,
    )
