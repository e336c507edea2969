"""The sensitivity of a Kandinsky decoder."""

from ..measure.probe import Probe
from ..sampling.noise import common_noise
from .decoder import sample


def calibrate(
    decoder,
    embeddings,
    num_steps=40,
    *,
    seed=0,
    guidance=4.0,
    scheduler="DDPM",
    samples=8,
    resolution=12,
    **options,
):
    """Measure the sensitivity of a Kandinsky decoder.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    embeddings : PromptEmbeddings
        prompts like those that will be drawn; two or more
    num_steps, seed, guidance, scheduler
        as in `sample`; the result is for this scheduler
    samples, resolution : int
        see `Probe`; ``Probe(...).plan.nfe`` is the cost in UNet rows
    options
        `width`, `height`, `micro_batch`, `on_step`, `before_call` of `sample`

    Returns
    -------
    sensitivity : Sensitivity
    """
    probe = Probe(embeddings.positive, num_steps, samples, resolution, seed)
    return run_probe(probe, decoder, embeddings, seed, guidance, scheduler, **options)


def run_probe(probe, decoder, embeddings, seed, guidance, scheduler, **options):
    """Sample a probe's plan, all of its branches with the same noise."""
    latents = sample(
        decoder,
        probe.leaves(embeddings),
        probe.plan,
        seed=seed,
        guidance=guidance,
        scheduler=scheduler,
        noise=common_noise(seed),
        **options,
    )
    return probe.sensitivity(latents, scheduler=scheduler, guidance=guidance, seed=seed)
