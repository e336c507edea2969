"""Any MODEL of the host as `hierdiff_core.measure.adherence` asks it: one evaluation with the prompts, one without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

from ...hierdiff_core.plan.algebra import alone
from ...hierdiff_core.sampling.microbatch import LARGEST_AUTO
from .device import results_device
from .samplers import make_guider

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher

# What nodes put around the guidance: here both predictions are taken before it, and some would call the model again.
GUIDANCE_FUNCTIONS = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)
GUIDED = 2.0  # any cfg but 1, at which the host leaves the negative out


class ModelDenoiser:
    """A MODEL and the conditioning of N prompts, for `adherence`.

    Parameters
    ----------
    model : ModelPatcher
        With its LoRAs and patches; of shared steps, step caches and functions around the guidance nothing is used.
    positive : list
        The host's CONDITIONING with a row for each prompt, or one for all.
    negative : list
        Without the prompt is what this says: at cfg 1 too, where sampling never asks it.
    num_prompts : int
        N; row i of the latents is of prompt i.
    micro_batch : int
        Pictures per model call; halved when memory runs out. On a CPU it is always 1.

    Notes
    -----
    Each evaluation is a run of one step by the host's own guider, so that conditioning is encoded, models are loaded,
    hooks are applied and runs are cancelled as in every other; whatever the model predicts (noise, velocity, the
    picture), the host makes clean latents of it.
    """

    def __init__(
        self,
        model: ModelPatcher,
        positive: list,
        negative: list,
        num_prompts: int,
        micro_batch: int = LARGEST_AUTO,
    ):
        self.model = without_guidance_functions(model)
        self.positive = positive
        self.negative = negative
        self.num_prompts = num_prompts
        self.micro_batch = micro_batch

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
        """The finished latents as the model sees them, with noise up to a level, on the CPU.

        Parameters
        ----------
        latents : (N, ...) tensor
            As a sampler hands them on.
        noise : (N, ...) tensor
            Of deviation 1.
        level : float in 0 ... 1
            Share of noise.

        Returns
        -------
        (N, ...) float32 tensor
            For `denoised` alone: scaled as the model's own latents are.
        """
        sampling = self.model.get_model_object("model_sampling")
        sigma = torch.tensor(sigma_of_level(sampling, level))
        scaled = self.model.model.process_latent_in(latents.detach().cpu().float())
        return sampling.noise_scaling(sigma, noise.cpu().float(), scaled, False)

    def denoised(self, noised: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents with the prompts and without, unguided both.

        Parameters
        ----------
        noised : (N, ...) tensor
            From `noised`.
        level : float
            The same.

        Returns
        -------
        conditional : (N, ...) float32 tensor
            Where the host keeps results.
        unconditional : (N, ...) float32 tensor
            The same without the prompts.

        Raises
        ------
        ValueError
            If the negative conditioning changes nothing, so that there is nothing to measure.
        """
        seen = []
        sigma = sigma_of_level(self.model.get_model_object("model_sampling"), level)
        model = self.model.clone()
        model.set_model_sampler_cfg_function(taking(seen))
        guider = make_guider(
            model,
            self.positive,
            self.negative,
            GUIDED,
            alone(self.num_prompts, 1),
            self.micro_batch,
            show_tree=False,
            tell=lambda _: None,
        )
        nothing = torch.zeros_like(noised)
        sampler = comfy.samplers.KSAMPLER(one_evaluation(noised, sigma))
        guider.sample(nothing, nothing, sampler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=0)
        found = [self.model.model.process_latent_out(x0.float()).to(results_device()) for x0 in seen]
        if torch.equal(*found):
            raise ValueError(
                "the model predicts the same with the positive and with the negative conditioning, so that nobody can "
                "tell what the prompts do; connect an empty CLIP Text Encode as negative"
            )
        return found[0], found[1]


def without_guidance_functions(model: ModelPatcher) -> ModelPatcher:
    """A clone of a MODEL that nothing stands around the guidance of."""
    plain = model.clone()
    for name in GUIDANCE_FUNCTIONS:
        plain.model_options.pop(name, None)
    return plain


def taking(seen: list[torch.Tensor]) -> Callable:
    """A function in the place of guidance that keeps both predictions, with the prompt first."""

    def guidance(args: dict) -> torch.Tensor:
        seen[:] = args["cond_denoised"], args["uncond_denoised"]
        return args["input"] - args["cond_denoised"]

    return guidance


def one_evaluation(noised: torch.Tensor, sigma: float) -> Callable:
    """A sampler function that asks the model once, about some latents at some sigma."""

    def sample_once(model, x, sigmas, extra_args=None, callback=None, disable=None):
        rows = noised.to(x)
        return model(rows, rows.new_full((len(rows),), sigma), **(extra_args or {}))

    return sample_once


def sigma_of_level(sampling: Any, level: float) -> float:
    """The sigma at which a model's latent holds a share of noise, within the sigmas that the model knows.

    Parameters
    ----------
    sampling : model_sampling
        The host's.
    level : float in 0 ... 1
        Share of noise: sigma of flow models, sigma / (1 + sigma) of others.

    Returns
    -------
    float
        Whether the model is a flow is asked of what its `noise_scaling` does, which packs replace too.
    """
    sigma, noise, picture = torch.tensor(level), torch.ones(1), torch.zeros(1)
    kept = sampling.noise_scaling(sigma, torch.zeros(1), torch.ones(1), False)  # of the picture
    added = sampling.noise_scaling(sigma, noise, picture, False)
    is_flow = bool(torch.isclose(kept + added, torch.ones(1)).all())
    found = level if is_flow else level / (1 - level)
    return min(max(found, float(sampling.sigma_min)), float(sampling.sigma_max))
