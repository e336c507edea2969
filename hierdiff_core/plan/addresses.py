"""What prompts are called in edits: their key, and what tells prompts of one text apart."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Plan
from .rerolls import History, histories


def addresses(plan: Plan) -> list[str]:
    """What edits call the prompts of a plan, before changes are applied to it.

    Parameters
    ----------
    plan : Plan
        With keys.

    Returns
    -------
    addresses : list of N str
        16 hex digits of the key; behind them "@7" for a seed of its own, "~2" for the second variant of the prompt, and
        ".2", ".3", ... for a further prompt with all of that the same.

    Examples
    --------
    >>> from hierdiff_core import build_plan
    >>> from hierdiff_core.plan.addresses import addresses
    >>> addresses(build_plan([[0, 1, 0, 2]], [0], prompt_keys=[171, 171]))
    ['00000000000000ab', '00000000000000ab.2']
    """
    everyone = leaf_addresses(plan)
    return everyone if plan.frozen is None else [everyone[leaf] for leaf in plan.frozen.present]


def leaf_addresses(plan: Plan) -> list[str]:
    """As `addresses`, of all leaves; those that are gone come after the prompts that are there."""
    if plan.leaf_keys is None:
        raise ValueError("a plan without prompt_keys cannot be edited; make it with plan_for from the prompts' texts")
    found = histories(plan.rerolls, plan.num_leaves)
    seeds = (plan.seeds or (None,) * plan.num_prompts) if plan.frozen is None else plan.frozen.seeds
    order = list(range(plan.num_leaves))
    if plan.frozen is not None:
        there = plan.frozen.present.tolist()
        order = there + sorted(set(order) - set(there))
    names, taken = [""] * plan.num_leaves, {}
    for leaf in order:
        name = named(plan.leaf_keys[leaf], seeds[leaf], found[leaf])
        taken[name] = taken.get(name, 0) + 1
        names[leaf] = name if taken[name] == 1 else f"{name}.{taken[name]}"
    return names


def named(key: int, seed: int | None, rerolls: History) -> str:
    """Address of a prompt, but for the number of its equals."""
    return f"{key:016x}{'' if seed is None else f'@{seed}'}{''.join(f'~{number}' for _, number in rerolls)}"


def in_words(plan: Plan, names: Sequence[str]) -> str:
    """Prompts for a message by their texts, as far as a plan knows them: the first three."""
    texts = dict(zip(leaf_addresses(plan), leaf_texts(plan), strict=True))
    shown = [f'"{texts[name][:60]}"' if texts.get(name) else name[:40] for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def leaf_texts(plan: Plan) -> Sequence[str]:
    """The texts of all leaves; empty ones where the plan has none."""
    texts = plan.prompts if plan.frozen is None else plan.frozen.tree.prompts
    return texts or ("",) * plan.num_leaves
