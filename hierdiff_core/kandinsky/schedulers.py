"""The diffusers schedulers on offer, each made from the decoder's own noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("DDPMScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    # with a learned variance this scheduler cuts its input to three channels; Kandinsky's latents have four
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "variance_type": None}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}

# Those that draw noise in their steps; others may take a generator, and draw nothing from it.
DRAWING = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")

# Of the prior: its scheduler divides by the steps between the first and the last.
LEAST_PRIOR_STEPS = 2


def check_prior_steps(num_steps: int, trained_steps: int) -> None:
    """Raise `ValueError` unless a prior that was trained with `trained_steps` can take `num_steps`."""
    if not LEAST_PRIOR_STEPS <= num_steps <= trained_steps:
        raise ValueError(
            f"num_steps of the prior must be {LEAST_PRIOR_STEPS} to {trained_steps}; got {num_steps}, and 25 are usual"
        )


def make_scheduler(name: str, config: Mapping[str, Any], num_steps: int) -> Any:
    """Make a fresh scheduler with its timesteps set.

    Parameters
    ----------
    name : str
        A key of `SCHEDULERS`.
    config : mapping
        The decoder's scheduler config (betas, prediction type, clipping).
    num_steps : int
        Denoising steps K.

    Returns
    -------
    diffusers scheduler
        Its timesteps are on the CPU.

    Raises
    ------
    ValueError
        If the name is unknown or the scheduler cannot make K steps.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}; got {name!r}")
    import diffusers  # here, since it takes seconds to import and ComfyUI should start without them

    class_name, changes = SCHEDULERS[name]
    scheduler = getattr(diffusers, class_name).from_config(config, **changes)
    if num_steps > scheduler.config.num_train_timesteps:
        raise ValueError(
            f"{num_steps} steps are more than the {scheduler.config.num_train_timesteps} that the decoder was "
            "trained with; lower the steps of the schedule"
        )
    scheduler.set_timesteps(num_steps)
    if len(scheduler.timesteps) != num_steps:
        raise ValueError(f"{name} makes {len(scheduler.timesteps)} steps of {num_steps}; choose another scheduler")
    return scheduler


def noise_levels(scheduler: Any) -> np.ndarray:
    """How much of the latents is noise at the beginning of each step.

    Parameters
    ----------
    scheduler : diffusers scheduler
        With its timesteps set.

    Returns
    -------
    levels : (K,) float64
        0 ... 1, see `hierdiff_core.plan.noise_levels`.

    Notes
    -----
    Of all schedulers by their timesteps: latents of variance-exploding ones (Euler) are the others' times a number.
    Between two training steps sigma is interpolated, as these schedulers do.
    """
    signal = scheduler.alphas_cumprod.double().numpy()
    sigmas = np.interp(scheduler.timesteps.double().numpy(), np.arange(len(signal)), np.sqrt((1 - signal) / signal))
    return sigmas / (1 + sigmas)


def learns_variance(scheduler: Any) -> bool:
    """Whether the scheduler takes the UNet's variance channels along with its noise prediction."""
    # the other schedulers carry the setting along in their config without using it
    learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
    return learned and type(scheduler).__name__ == "DDPMScheduler"


def draws_noise(scheduler: Any) -> bool:
    """Whether the scheduler draws noise in its steps, so that branches part by it."""
    return type(scheduler).__name__ in DRAWING


def last_reroll(scheduler: Any) -> int:
    """The last step from which other noise makes another picture.

    Parameters
    ----------
    scheduler : diffusers scheduler
        With its timesteps set.

    Returns
    -------
    k : int
        The last of all for schedulers that draw none: there a fresh amount is put in. Those that draw some do it at the
        end of each step, but not where no noise is left.
    """
    last = len(scheduler.timesteps) - 1
    to_the_end = type(scheduler).__name__ == "DDPMScheduler" and int(scheduler.timesteps[-1]) > 0
    return last if to_the_end or not draws_noise(scheduler) else max(last - 1, 0)


def predicted_original(
    scheduler: Any, scaled: torch.Tensor, t: torch.Tensor, noise_prediction: torch.Tensor
) -> torch.Tensor:
    """The clean latent that a noise prediction implies.

    Parameters
    ----------
    scheduler : diffusers scheduler
        Of the run.
    scaled : (C, ...) tensor
        The UNet's input: latents after `scale_model_input`.
    t : scalar tensor
        Timestep.
    noise_prediction : (C, ...) tensor
        After guidance, without variance channels.

    Returns
    -------
    (C, ...) tensor
        What is usually called x0.

    Source: Ho et al. 2020, equation 15.
    """
    signal = scheduler.alphas_cumprod[int(t)].to(scaled.dtype)  # stays on the CPU: copying it would wait for the device
    return (scaled - (1 - signal).sqrt() * noise_prediction) / signal.sqrt()
