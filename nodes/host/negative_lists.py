"""The host runs a node once for each item of a list that is wired to it. Where that is hardly meant, it is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_execution.utils import get_executing_context

LIST_OF_NEGATIVES = (
    "⚠ run {number} for a list of negatives: each negative gives another set of {prompts} pictures. For one negative "
    "per prompt, encode the negatives with a second CLIP Embedding and connect its conditioning"
)
_latest = None  # node, and identities of the inputs, of the latest run


def list_of_negatives(negative: Any, others: Iterable[Any], num_prompts: int) -> list[str]:
    """Warnings, where the host runs the node that runs now once more, and only the negative is another one.

    Parameters
    ----------
    negative : CONDITIONING
    others : all other inputs, the same objects in each run unless they too come from a list
    num_prompts : int
    """
    global _latest
    context = get_executing_context()
    if context is None or context.list_index is None:
        return []
    before, run = _latest, (context.prompt_id, context.node_id)
    _latest = run, id(negative), [id(value) for value in others]  # alive until the host is done with the list
    if before is None or context.list_index == 0 or before[0] != run:
        return []
    if before[2] != _latest[2] or before[1] == id(negative):
        return []
    return [LIST_OF_NEGATIVES.format(number=context.list_index + 1, prompts=num_prompts)]
