"""One noise for all prompts, and previews of the host, for the sampler nodes."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

from .share_steps import StepSharingGuider


class OneNoise:
    """The host's NOISE: one noise, repeated for N rows."""

    def __init__(self, seed, num_prompts):
        self.seed = seed
        self.num_prompts = num_prompts

    def generate_noise(self, input_latent):
        one = comfy.sample.prepare_noise(input_latent["samples"][:1], self.seed)
        return one.repeat(self.num_prompts, *[1] * (one.ndim - 1))


def previews(model, steps, decorations):
    """The host's callback of each step, which moves the progress bar and shows previews; None where there is none."""
    callback = decorations.attempt("the preview", latent_preview.prepare_callback, model, steps)
    return callback and (lambda *step: decorations.attempt("the preview", callback, *step))


def make_guider(model, positive, negative, cfg, plan, micro_batch, show_tree=True):
    guider = StepSharingGuider(model, plan, micro_batch, show_tree)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider
