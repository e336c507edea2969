"""Runs in which different prompts have the same picture: refused where that is certain before, else told of after."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.controlnet
import comfy.samplers
import numpy as np
import torch

from .encode_set import name_of
from .prompt_vectors import digest
from .token_lengths import lengths_of

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan

FIX = "connect the conditioning of CLIP Embedding, made from the plan's prompts, in place of CLIP Text Encode's"
ONE_TEXT = f"⚠ the conditioning is the same for all prompts, and only noise or patches make the images differ; {FIX}"
HOST = "comfy"  # packages whose objects are known to do to all rows the same
HARMLESS = {"transformer_options", "wrappers", "callbacks", "to_load_options", "sample_sigmas"}  # or looked at apart


def check_pictures_differ(
    guider: Any, sampler: Any, key: str, tensors: Iterable[torch.Tensor | None], plan: Plan
) -> list[str]:
    """Refuse a run whose pictures would all be the same.

    Parameters
    ----------
    guider : comfy.samplers.CFGGuider
    sampler : comfy.samplers.Sampler
    key : str
        Of this pack's own wrappers.
    tensors : iterable of tensor
        Latents, noise and mask; None where there is none.
    plan : Plan
        For N prompts.

    Returns
    -------
    lines : list of str
        A warning where the sampler's noise, or something of another pack, may make pictures differ.

    Raises
    ------
    ValueError
        If nothing differs between the prompts, although the plan's prompts do.
    """
    if not is_same_for_all(guider.conds, tensors, plan):
        return []
    if not is_plain_run(guider, sampler, key):
        return [ONE_TEXT]
    raise ValueError(f"the conditioning is the same for all {plan.num_prompts} prompts: all pictures would be; {FIX}")


def is_same_for_all(conds: dict[str, list[dict]], tensors: Iterable[torch.Tensor | None], plan: Plan) -> bool:
    """Whether nothing that goes into the pictures differs between prompts, as far as can be seen.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them.
    tensors : iterable of tensor
        Latents, noise and mask.
    plan : Plan
        For N prompts.

    Returns
    -------
    same : bool
        False where anything is of a kind that nobody here knows.
    """
    n = plan.num_prompts
    all_entries = [entry for entries in conds.values() for entry in entries]
    values = [value for entry in all_entries for value in entry.values()]
    if any(lengths.differ for entry in all_entries if (lengths := lengths_of(entry))):
        return False
    return (
        plan.num_distinct > 1 and not plan.rerolls and not any(_may_differ(value, n) for value in [*values, *tensors])
    )


def _may_differ(value, n):
    if torch.is_tensor(value):
        return value.ndim > 0 and len(value) == n and not torch.equal(value, value[:1].expand_as(value))
    if isinstance(value, dict):
        return any(_may_differ(item, n) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_may_differ(item, n) for item in value)
    if isinstance(value, comfy.controlnet.ControlBase) and _is_of_host(type(value)):
        return _may_differ([value.cond_hint_original, value.extra_conds, value.previous_controlnet], n)
    return not isinstance(value, (str, int, float, uuid.UUID, type(None)))


def _is_of_host(thing):
    return thing.__module__.split(".")[0] == HOST


def is_plain_run(guider: Any, sampler: Any, key: str) -> bool:
    """Whether a run has nothing but conditioning and starting noise to tell prompts apart.

    Parameters
    ----------
    guider : comfy.samplers.CFGGuider
    sampler : comfy.samplers.Sampler
    key : str
        Of this pack's own wrappers.

    Returns
    -------
    plain : bool
        False where guider, sampler or patches of the model are of other packs.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None or not _is_of_host(function) or "noise_sampler" in inspect.signature(function).parameters:
        return False
    if not any(_is_of_host(kind) for kind in type(guider).__mro__[:2]):  # the host's, or ours that changes no formula
        return False
    options = guider.model_options
    patches = {*options, *options.get("transformer_options", {})} - HARMLESS - {key}
    objects = {name.split(".")[0] for name in guider.model_patcher.object_patches} - {"model_sampling", "latent_format"}
    return not (patches or objects or _wrappers_of_others(options, key))


def _wrappers_of_others(options, key):
    for holder in (options, options.get("transformer_options", {})):
        for by_key in holder.get("wrappers", {}).values():
            if any(wrappers for name, wrappers in by_key.items() if name != key):
                return True
    return False


def same_pictures(
    samples: torch.Tensor, first: Iterable[int], names: Sequence[str], equal_inputs: Callable[[], np.ndarray]
) -> list[str]:
    """A warning where prompts that the plan keeps apart have the same picture.

    Parameters
    ----------
    samples : (N, ...) tensor
        Final latents.
    first : iterable of int
        A prompt of each cluster that the run's last step had.
    names : N str
        Texts of the prompts.
    equal_inputs : callable
        Gives (N,) numbers, equal for prompts whose pictures must be the same; asked only where some are.

    Returns
    -------
    lines : list of str
        One or none.
    """
    leaves = sorted(int(i) for i in first)
    groups: dict[bytes | str, list[int]] = {}
    for i in leaves:
        groups.setdefault(digest([samples[i]]), []).append(i)
    if len(groups) == len(leaves):
        return []
    inputs = equal_inputs()
    same = next((group for group in groups.values() if len(set(inputs[group].tolist())) > 1), None)
    if same is None:
        return []
    same = same[0], next(i for i in same if inputs[i] != inputs[same[0]])
    found = f"{len(groups)} different image{'s' * (len(groups) > 1)} for {len(leaves)} prompts"
    return [
        f"⚠ {found}: {name_of(same[0], names)} and {name_of(same[1], names)} have the same one, since nothing differs "
        "between them after they part. Conditioning for a part of the steps (ConditioningSetTimestepRange) must last "
        "beyond the plan's splits"
    ]
