"""A prompt of a plan, drawn alone and unshared: what its picture would be by full sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .building import build_plan
from .checks import whole_number
from .plan import Plan


def one_unshared(plan: Plan, i: int) -> Plan:
    """The plan that draws one prompt of a plan alone: nothing is shared, nothing left out.

    Parameters
    ----------
    plan : Plan
        Of N prompts.
    i : int
        Which prompt, 0 ... N - 1.

    Returns
    -------
    plan : Plan
        Of one prompt and as many steps, with the prompt's key, so that its noise is the same. It has no guidance of its
        own: the sampler's settings count in each step. It remembers the plan that it is out of (`Plan.one_of`), so that
        samplers find the prompt among inputs with a row for each.

    Raises
    ------
    ValueError
        If there is no such prompt.

    Examples
    --------
    >>> from hierdiff_core import Budget, Profile, PromptTree, plan_for
    >>> from hierdiff_core.plan.one_prompt import one_unshared
    >>> tree = PromptTree.of([[1, 0], [0.8, 0.6], [0, 1]], "chord", ["a cat", "a lynx", "a bus"])
    >>> alone = one_unshared(plan_for(tree, Budget("saving", 0.4), Profile(10)), 2)
    >>> alone.prompts, alone.nfe, alone.one_of[1]
    (('a bus',), 10, 2)
    """
    i = whole_number("prompt", i, 0)
    if i >= plan.num_prompts:
        raise ValueError(f"there is no prompt {i}: the plan has prompts 0 to {plan.num_prompts - 1}")
    if plan.one_of is not None:
        return plan
    keys, texts = plan.prompt_keys, plan.prompts
    alone = build_plan(
        np.empty((0, 4)),
        np.zeros(plan.num_steps),
        # a plan without keys knows its branches by the numbers of its prompts
        [i] if keys is None else [keys[i]],
        prompts=None if texts is None else [texts[i]],
    )
    seeds = None if plan.seeds is None else (plan.seeds[i],)
    return replace(alone, metric=plan.metric, one_of=(plan, i), seeds=seeds)


def set_of(plan: Plan) -> Plan:
    """The plan that a plan of one prompt was taken out of; any other is that of its own set."""
    return plan if plan.one_of is None else plan.one_of[0]
