"""What a run is made of beside its prompts, part by part: whether rows that another run evaluated are this one's too.

Rows live on a disk, where other checkpoints have left theirs. So each weight counts with all of its bits here, not with
a sample of it as in `fingerprint`: a LoRA that was merged at another strength, or into few layers, is another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

from .attachments import (
    CFG_FUNCTIONS,
    HEEDS,
    ROW_WRAPPERS,
    Attached,
    around_model,
    cfg_functions_of,
    controls_of,
    inner_code,
    is_ours,
    names_of,
    objects_of,
    patches_of,
    wrappers_of,
)
from .dry_run import is_hosts
from .fingerprint import COSTS_ONLY, SCHEDULE, schedule_of
from .made_of import CannotTell, made_of
from .run_guidance import DUAL, kind_of
from .step_caches import OURS, host_cache, name_of_code
from .weights_sum import weights_sum

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan

AROUND = "outer_sample", "sampler_sample"  # wrappers that see a run's noise and latents before the sampler does
OF_RUN = ("model_patcher", "model_options", "original_conds", "conds", "inner_model", "loaded_models")
OF_SHARING = ("sharing", "rows_given", "cfg")


def run_parts(
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.KSAMPLER,
    sigmas: torch.Tensor,
    latents: torch.Tensor,
    seed: int | None,
    plan: Plan,
) -> dict[str, str]:
    """What all rows of a run have in common, by words that a report can use.

    Parameters
    ----------
    guider : CFGGuider
        Of the run, with the run's own options.
    sampler : KSAMPLER
        As the host made it.
    sigmas : (S + 1,) tensor
    latents : (N, ...) tensor
    seed : int or None
    plan : Plan
        Of the run.

    Returns
    -------
    parts : dict of str to str

    Raises
    ------
    CannotTell
        Naming what nobody can look into.
    """
    patcher = guider.model_patcher
    model = patcher.model
    own = {name: value for name, value in vars(guider).items() if name not in (*OF_RUN, *OF_SHARING)}
    device = patcher.load_device
    precision = [model.get_dtype(), getattr(model, "manual_cast_dtype", None), latents.dtype, device.type]
    return {
        "model": weights_sum(patcher),
        "patches of the model": made_of(list(patches_of_run(guider))).hex(),
        "sampler": made_of(sampler.sampler_function, sampler.extra_options, sampler.inpaint_options).hex(),
        "steps": made_of(sigmas.detach().cpu(), list(schedule_of(patcher.get_model_object(SCHEDULE)))).hex(),
        "cfg": repr(guider.cfg),
        "guidance": made_of(type(guider), own, plan.guidance).hex(),
        "size": "x".join(map(str, latents.shape[1:])),
        "seed": str(seed),
        "precision": " ".join(map(str, precision)),
    }


def patches_of_run(guider: comfy.samplers.CFGGuider) -> Iterator[Any]:
    """All that nodes have put into a model, but for what is ours or only saves time."""
    patcher = guider.model_patcher
    yield patcher.patches
    objects = {
        name: value
        for name, value in patcher.object_patches.items()
        if name != SCHEDULE and not name_of_code(value).startswith("torch._dynamo")
    }
    yield objects
    yield getattr(patcher, "injections", {})
    yield getattr(patcher, "weight_wrapper_patches", {})
    yield without_ours(guider.model_options)


def without_ours(options: Mapping) -> dict:
    """A run's options without this pack's entries, without those that only save time, and without empty ones."""
    made = {}
    for key, value in options.items():
        if key in COSTS_ONLY or str(key).startswith(OURS):
            continue
        value = without_ours(value) if isinstance(value, Mapping) else value
        if not isinstance(value, (Mapping, list, tuple)) or len(value):
            made[key] = value
    return made


def why_not(guider: comfy.samplers.CFGGuider, conds: Mapping[str, list[dict]]) -> str:
    """Why rows of a run cannot be kept, for what is known before it begins; "" where they can.

    Parameters
    ----------
    guider : CFGGuider
        Of the run.
    conds : dict of list of dict
        Its conditioning.

    Returns
    -------
    reason : str
    """
    options, patcher = guider.model_options, guider.model_patcher
    cache = host_cache(options.get("transformer_options", {}))
    if cache:
        return f"{cache} remembers earlier steps by itself"
    if any(entry.get("hooks") is not None for entries in conds.values() for entry in entries):
        return "hooks of the conditioning count their steps"
    foreign = list(controls_of(conds.values()))
    if foreign:
        return f"{names_of(one.code for one in foreign)} may count its steps"
    between = [*wrappers_of(options, ROW_WRAPPERS)]
    between += [one for one in cfg_functions_of(options) if one.kind == CFG_FUNCTIONS[0] and not is_ours(one.code)]
    if between:
        return f"{names_of(one.code for one in between)} stands between the sampler and the model"
    inside = [*patches_of(options.get("transformer_options", {})), *around_model(options), *objects_of(patcher)]
    heeding = [one for one in inside if heeds_rows(one) and not is_ours(one.code)]
    if heeding:
        return f"{names_of(one.code for one in heeding)} has data for each prompt"
    return ""


def heeds_rows(one: Attached) -> bool:
    """Whether code says of itself that it heeds which rows a call is for."""
    return bool(getattr(one.code, HEEDS, False) or getattr(inner_code(one.code), HEEDS, False))


def needs_latents(guider: comfy.samplers.CFGGuider, sampler: comfy.samplers.KSAMPLER) -> bool:
    """Whether latents depend on more than their branch: rows are then known by their latents as well.

    Functions around the guidance may measure over all rows at once, as PerpNegGuider and Mahiro of the host do, or
    remember something; samplers of other packs may do anything, and so may those that draw for all rows at once.
    """
    options, around = sampler.extra_options, [*cfg_functions_of(guider.model_options)]
    around += wrappers_of(guider.model_options, AROUND)
    if kind_of(guider) not in ("", DUAL) or any(not is_ours(one.code) for one in around):
        return True
    return "noise_sampler" in options or options.get("s_churn", 0) > 0 or not is_hosts(sampler.sampler_function)


__all__ = ["CannotTell", "needs_latents", "run_parts", "why_not"]
