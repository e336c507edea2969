"""The guider of this pack's own nodes: the host's, of a MODEL whose steps it shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.samplers

from ...hierdiff_core.plan.one_prompt import set_of
from .clusters import rows_for_all
from .cond_rows import check_prompts
from .one_prompt import row_of_prompt
from .plan_rows import plan_rows
from .share_steps import NO_STEPS, ONE_OR_EACH, Sharing, share_steps

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class SharingGuider(comfy.samplers.CFGGuider):
    """The host's CFG guider of a MODEL whose steps it shares.

    Parameters
    ----------
    model_patcher : ModelPatcher
        Not patched yet.
    sharing : Sharing

    Notes
    -----
    Each prompt has its row before the host looks: without any sigma it hands on the latents and calls no wrapper, and
    newer hosts make masks for as many latents as there are.
    """

    def __init__(self, model_patcher: ModelPatcher, sharing: Sharing):
        super().__init__(share_steps(model_patcher, sharing))
        self.sharing = sharing
        self.rows_given = 1  # to the run that is under way

    def sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """The host's `CFGGuider.sample`."""
        plan = set_of(self.sharing.plan)
        found = plan_rows(self.original_conds.get("positive", []), plan)
        check_prompts(found.of_conds(self.original_conds).get("positive", []), plan)
        latent_image = row_of_prompt(latent_image, self.sharing.plan)
        self.rows_given = len(latent_image)
        latents = latent_image
        if not found.has_all(latents):  # else the run takes the plan's
            latents = rows_for_all(latents, self.sharing.plan.num_prompts, "the latent batch", ONE_OR_EACH)
        if len(sigmas):
            return super().sample(noise, latents, sampler, sigmas, *args, **kwargs)
        self.sharing.tell(NO_STEPS)
        return found.of(latents)
