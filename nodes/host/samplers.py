"""The host's samplers, schedulers and previews, and its CFG guider with shared steps, for this pack's nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ...hierdiff_core.sampling.microbatch import LARGEST_AUTO
from .decoration import Decorations, report_in_running_node
from .device import results_device
from .keeping import Keeping
from .per_prompt import SHARE_IF_EQUAL
from .sampler_noise import OneNoise
from .share_steps import Sharing
from .sharing_guider import SharingGuider
from .ui import moves_bar

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ...hierdiff_core.plan.plan import Plan
    from .finishing import Saving


def latents_for(model: ModelPatcher, latents: torch.Tensor) -> torch.Tensor:
    """Empty latents with the number of channels that a model has."""
    return comfy.sample.fix_empty_latent_channels(model, latents)


def previews(model: ModelPatcher, steps: int, decorations: Decorations) -> Callable | None:
    """The host's callback of each step, which moves the progress bar and shows previews; None where there is none."""
    callback = decorations.attempt("the preview", latent_preview.prepare_callback, model, steps)
    if callback is None:
        return None

    def on_step(*step):
        decorations.attempt("the preview", callback, *step)

    on_step.moves_bar = moves_bar(callback)
    return on_step


def make_guider(
    model: ModelPatcher,
    positive: list,
    negative: list,
    cfg: float,
    plan: Plan,
    micro_batch: int,
    show_tree: bool = True,
    tell: Callable[..., object] = report_in_running_node,
    per_prompt: str = SHARE_IF_EQUAL,
    vae: Any = None,
    keeping: Keeping | None = None,
    saving: Saving | None = None,
) -> SharingGuider:
    """A GUIDER with shared steps, which takes Shared Noise; for the parameters see `Sharing`."""
    guider = SharingGuider(model, Sharing(plan, micro_batch, show_tree, tell, True, per_prompt, vae, keeping, saving))
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def sample(
    guider: SharingGuider,
    latents: torch.Tensor,
    sampler_name: str,
    sigmas: torch.Tensor,
    seed: int,
    denoise_mask: torch.Tensor | None = None,
    callback: Callable | None = None,
) -> torch.Tensor:
    """(N, ...) latents as the host's KSampler makes them, from one noise for all prompts, where results are kept."""
    samples = guider.sample(
        OneNoise(seed, guider.sharing.plan.num_prompts, guider.sharing.plan.seeds).generate_noise({"samples": latents}),
        latents,
        comfy.samplers.sampler_object(sampler_name),
        sigmas,
        denoise_mask,
        callback,
        not comfy.utils.PROGRESS_BAR_ENABLED,
        seed,
    )
    return samples.to(results_device())


def model_draw(
    model: ModelPatcher,
    conditioning: Callable[[list[int]], tuple[list, list]],
    latents: torch.Tensor,
    sampler_name: str,
    sigmas: torch.Tensor,
    cfg: float,
    seed: int,
    on_step: Callable[[], None],
) -> Callable[[Plan, object], torch.Tensor]:
    """What a calibration draws with, for a MODEL.

    Parameters
    ----------
    model : ModelPatcher
    conditioning : callable
        ``conditioning(leaves) -> (positive, negative)``: the host's CONDITIONING with a row for each leaf of a plan.
    latents : (1, ...) tensor
        What the sampler starts from.
    sampler_name : str
    sigmas : (S + 1,) tensor
    cfg : float
    seed : int
    on_step : callable
        Called after each step.

    Returns
    -------
    draw : callable
        ``draw(plan, leaves) -> latents``: one final latent for each leaf of the plan, whose prompt `leaves` names.
    """

    def draw(plan: Plan, leaves) -> torch.Tensor:
        positive, negative = conditioning([int(leaf) for leaf in leaves])
        plan = replace(plan, prompt_keys=(0,) * plan.num_prompts)  # the same key for all prompts: the same noise
        guider = make_guider(model, positive, negative, cfg, plan, LARGEST_AUTO, show_tree=False, tell=lambda _: None)
        return sample(guider, latents, sampler_name, sigmas, seed, callback=lambda *_: on_step())

    return draw
