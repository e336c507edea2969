"""The diffusers schedulers on offer, each made from the decoder's own noise schedule."""

import inspect
import types

SCHEDULERS = {
    "DDPM": ("DDPMScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    # with a learned variance this scheduler cuts its input to three channels; Kandinsky's latents have four
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "variance_type": None}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}

# Of the prior: its scheduler divides by the steps between the first and the last.
LEAST_PRIOR_STEPS = 2


def check_prior_steps(num_steps, trained_steps):
    """`ValueError` unless a prior that was trained with `trained_steps` can take `num_steps`."""
    if not LEAST_PRIOR_STEPS <= num_steps <= trained_steps:
        raise ValueError(
            f"num_steps of the prior must be {LEAST_PRIOR_STEPS} to {trained_steps}; got {num_steps}, and 25 are usual"
        )


def make_scheduler(name, config, num_steps):
    """A fresh scheduler with its timesteps set.

    Parameters
    ----------
    name : str
        a key of `SCHEDULERS`
    config : dict
        the decoder's scheduler config (betas, prediction type, clipping)
    num_steps : int
        denoising steps K

    Raises
    ------
    ValueError
        if the name is unknown or the scheduler cannot make K steps.
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


def learns_variance(scheduler):
    """Whether the scheduler takes the UNet's variance channels along with its noise prediction."""
    # the other schedulers carry the setting along in their config without using it
    learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
    return learned and type(scheduler).__name__ == "DDPMScheduler"


def takes_generator(scheduler):
    """Whether `scheduler.step` draws noise."""
    return "generator" in inspect.signature(scheduler.step).parameters


def step_with_noise(scheduler, draw):
    """`scheduler.step` that takes its noise from ``draw(shape, dtype) -> tensor`` instead of a generator.

    diffusers draws from a list of CPU generators and copies the result in a way that waits for the device. Schedulers
    import the function that draws; this is their `step` with that one name bound to another function.

    Returns
    -------
    step : callable, or None
        None where this version of diffusers draws in another way
    """
    step = getattr(type(scheduler), "step", None)
    if not isinstance(step, types.FunctionType) or "randn_tensor" not in step.__code__.co_names:
        return None

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        return draw(shape, dtype)

    names = {**step.__globals__, "randn_tensor": randn_tensor}
    bound = types.FunctionType(step.__code__, names, step.__name__, step.__defaults__, step.__closure__)
    return types.MethodType(bound, scheduler)


def predicted_original(scheduler, scaled, t, noise_prediction):
    """The clean latent that a noise prediction implies.

    Parameters
    ----------
    scaled : (C, ...) tensor
        the UNet's input: latents after `scale_model_input`
    t : scalar tensor
        timestep
    noise_prediction : (C, ...) tensor
        after guidance, without variance channels

    Returns
    -------
    x0 : (C, ...) tensor

    Source: Ho et al. 2020, equation 15.
    """
    signal = scheduler.alphas_cumprod[int(t)].to(scaled.dtype)  # stays on the CPU: copying it would wait for the device
    return (scaled - (1 - signal).sqrt() * noise_prediction) / signal.sqrt()
