"""Writes reference_images.npz: Algorithm 1 written out plainly on the bundled model, through diffusers alone.

All branches go through the UNet at once, as [x; x], and noise comes from torch's global generator: one draw for the
initial latent, then one for all branches at each step. Shares no code with hierdiff_core.
Run it from anywhere: python tests/data/make_reference_images.py
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, KandinskyV22Pipeline, KandinskyV22PriorPipeline
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

HERE = Path(__file__).parent
MODEL = HERE.parent.parent / "models" / "emoji-kandinsky"
PROMPTS = [
    "red apple, noto style",
    "tiger face, noto style",
    "green apple, noto style",
    "lion, noto style",
    "ambulance, flat style",
    "red apple, flat style",
]
SEED, NUM_STEPS, TAU, GUIDANCE = 7, 6, 1.0, 4.0


def embed(prior):
    """(2, N, D) float32: positive, then negative."""
    generator = torch.Generator().manual_seed(SEED)
    outputs = [prior(text, num_inference_steps=10, generator=generator) for text in PROMPTS]
    positive = torch.cat([output.image_embeds for output in outputs])
    negative = torch.cat([output.negative_image_embeds for output in outputs])
    return torch.stack([positive, negative])


@torch.no_grad()
def run(decoder, E):
    """Initial latent, final latents in prompt order, and the UNet rows evaluated."""
    unet, scheduler = decoder.unet, DDPMScheduler.from_config(decoder.scheduler.config)
    Z = linkage(pdist(E[0].double().numpy(), "cosine"), method="ward")
    phi = np.linspace(0, TAU, NUM_STEPS)[::-1]
    scheduler.set_timesteps(NUM_STEPS)
    torch.manual_seed(SEED)
    x = x0 = torch.randn(1, 4, 16, 16) * scheduler.init_noise_sigma
    previous = np.ones(len(PROMPTS), dtype=int)
    nfe = 0
    for threshold, t in zip(phi, scheduler.timesteps, strict=True):
        raw = fcluster(Z, threshold, criterion="distance")
        names, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
        x = x[[int(previous[i]) - 1 for i in first]]
        positive, negative = (torch.stack([side[raw == name].mean(dim=0) for name in names]) for side in E)
        out = unet(
            torch.cat([x, x]),
            t,
            encoder_hidden_states=None,
            added_cond_kwargs={"image_embeds": torch.cat([negative, positive])},
        ).sample
        noise, variance = out.split(4, dim=1)
        unconditional, conditional = noise.chunk(2)
        guided = unconditional + GUIDANCE * (conditional - unconditional)
        x = scheduler.step(torch.cat([guided, variance.chunk(2)[1]], dim=1), t, x).prev_sample
        nfe += len(names)
        previous = raw
    return x0, x[inverse], nfe


def main():
    options = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    E = embed(KandinskyV22PriorPipeline.from_pretrained(str(MODEL / "prior"), **options))
    x0, final, nfe = run(KandinskyV22Pipeline.from_pretrained(str(MODEL / "decoder"), **options), E)
    np.savez_compressed(
        HERE / "reference_images.npz",
        prompts=np.array(PROMPTS),
        E=E.numpy(),
        x0=x0.numpy(),
        final=final.numpy(),
        nfe=nfe,
        K=NUM_STEPS,
        tau=TAU,
        seed=SEED,
        guidance=GUIDANCE,
    )


if __name__ == "__main__":
    main()
