"""The paper's own loop, plainly: what the speed of this package is compared with.

Written from the paper's description (Algorithm 1) and what is known of its code: the prior embeds one prompt at a time;
every step cuts the tree, copies latents, averages embeddings in their own precision and joins the prompts' texts; the
UNet takes at most 32 latents a call, and the scheduler steps each of these chunks; nothing is compiled.
"""

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster

LATENTS_PER_CALL = 32


@torch.no_grad()
def embed(prior, prompts, num_steps=25, guidance=4.0):
    """(2, N, D) embeddings, positive then negative."""
    rows = []
    for prompt in prompts:
        output = prior(prompt, num_inference_steps=num_steps, guidance_scale=guidance)
        rows.append(torch.cat([output.image_embeds, output.negative_image_embeds]))
    return torch.stack(rows, dim=1)


@torch.no_grad()
def sample(decoder, embeds, prompts, Z, thresholds, guidance=10.0, side=64):
    """(N, C, h, w) latents in prompt order."""
    unet, scheduler, device = decoder.unet, decoder.scheduler, decoder.unet.device
    scheduler.set_timesteps(len(thresholds), device=device)
    shape = (1, unet.config.in_channels, side, side)
    x = decoder.prepare_latents(shape, unet.dtype, device, None, None, scheduler)
    previous = np.zeros(len(prompts), dtype=int)
    for threshold, t in zip(thresholds, scheduler.timesteps, strict=True):
        labels = fcluster(Z, threshold, criterion="distance") - 1
        _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
        x = x[torch.as_tensor(previous[first], device=device)]
        index = torch.as_tensor(inverse, device=device)
        sums = torch.zeros(2, len(counts), embeds.shape[2], dtype=embeds.dtype, device=device)
        means = sums.index_add_(1, index, embeds) / torch.as_tensor(counts, device=device, dtype=embeds.dtype)[:, None]
        ", ".join(prompts[i] for c in range(len(counts)) for i in np.flatnonzero(inverse == c))
        chunks = []
        for start in range(0, len(x), LATENTS_PER_CALL):
            rows = slice(start, start + LATENTS_PER_CALL)
            chunks.append(denoise(unet, scheduler, t, x[rows], means[:, rows], guidance))
        x, previous = torch.cat(chunks), labels
    return x[torch.as_tensor(previous, device=device)]


def denoise(unet, scheduler, t, x, means, guidance):
    """As `KandinskyV22Pipeline` does it."""
    pair = torch.cat([x] * 2)
    embeds = torch.cat([means[1], means[0]])
    output = unet(pair, t, encoder_hidden_states=None, added_cond_kwargs={"image_embeds": embeds}, return_dict=False)[0]
    noise, variance = output.split(x.shape[1], dim=1)
    unconditional, conditional = noise.chunk(2)
    guided = unconditional + guidance * (conditional - unconditional)
    return scheduler.step(torch.cat([guided, variance.chunk(2)[1]], dim=1), t, x)[0]


@torch.no_grad()
def decode(decoder, latents):
    """Pictures in 0 ... 1; all of them stay on the device until the end."""
    pictures = []
    for start in range(0, len(latents), LATENTS_PER_CALL):
        z = latents[start : start + LATENTS_PER_CALL].to(decoder.movq.dtype)
        pictures.append(decoder.movq.decode(z, force_not_quantize=True, return_dict=False)[0])
    return (torch.cat(pictures) * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu()
