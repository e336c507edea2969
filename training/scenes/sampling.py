"""Draw scenes with the trained model: plain Euler steps, alone or with the first of them shared by a whole set."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .config import LATENT, LATENT_CHANNELS
from .vae import decode, load_vae

GUIDANCE, STEPS = 3.0, 20
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # noise levels at which adherence is measured


@dataclass(frozen=True)
class SceneModel:
    """The networks of a model folder, float32; with `autocast` the UNet computes in bfloat16."""

    tokenizer: CLIPTokenizer
    text: CLIPTextModel
    unet: UNet2DConditionModel
    vae: object
    device: torch.device
    autocast: bool

    @torch.no_grad()
    def hidden(self, texts):
        """(N, 77, D) what the UNet sees of captions"""
        encoded = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        ids = encoded.input_ids.to(self.device)
        return torch.cat([self.text(input_ids=part).last_hidden_state for part in ids.split(1024)])

    @torch.no_grad()
    def velocity(self, latents, level, hidden, batch=1024):
        """(N, C, h, w) noise - x0 at a noise level"""
        timestep = torch.tensor(1000.0 * level, device=self.device)
        found = []
        for x, condition in zip(latents.split(batch), hidden.split(batch), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                x = x.contiguous(memory_format=torch.channels_last)
                found.append(self.unet(x, timestep, encoder_hidden_states=condition, return_dict=False)[0].float())
        return torch.cat(found)

    @torch.no_grad()
    def pictures(self, latents, batch=256):
        """(N, 3, H, W) in -1 ... 1"""
        return torch.cat([decode(self.vae, part).float().clamp(-1, 1) for part in latents.split(batch)])


def load_model(folder, device, autocast=False):
    """A `SceneModel` of a model folder."""
    folder, device = Path(folder), torch.device(device)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    return SceneModel(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text.to(device).eval().requires_grad_(False),
        unet.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False),
        load_vae(folder / "vae", device),
        device,
        autocast,
    )


def starting_noise(count, seed, device, same=False):
    """(count, C, h, w) noise; one for all if `same`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1 if same else count, LATENT_CHANNELS, LATENT, LATENT)
    return torch.randn(shape, generator=generator).to(device).expand(count, -1, -1, -1)


def guided(model, latents, level, hidden, empty, guidance):
    """Velocity with guidance."""
    if guidance == 1:
        return model.velocity(latents, level, hidden)
    both = torch.cat([empty.expand(len(latents), -1, -1), hidden])
    without, with_it = model.velocity(latents.repeat(2, 1, 1, 1), level, both).chunk(2)
    return without + guidance * (with_it - without)


@torch.no_grad()
def draw(model, texts, noise, steps=STEPS, guidance=GUIDANCE, shared=0, negative="", sets=None):
    """Latents of captions by Euler steps of equal noise levels.

    Parameters
    ----------
    model : SceneModel
    texts : list of N str
    noise : (N, C, h, w) tensor   the same for all of a set where steps are shared
    steps : int
    guidance : float
    shared : int                  the first so many steps are one row, with the mean of what the captions of a set say
    negative : str
    sets : list of N int          the set of each caption, 0, 1, ...; all are one by default

    Returns
    -------
    latents : (N, C, h, w) tensor
    """
    hidden, empty = model.hidden(texts), model.hidden([negative])
    levels = torch.linspace(1, 0, steps + 1).tolist()
    rows = torch.tensor([0] * len(texts) if sets is None else sets, device=hidden.device)
    members = [rows == i for i in range(int(rows.max()) + 1)]
    trunks = torch.stack([hidden[member].mean(0) for member in members])
    latents = torch.stack([noise[member][0] for member in members]) if shared else noise
    for k in range(steps):
        if shared and k == shared:
            latents = latents[rows]
        condition = trunks if k < shared else hidden
        latents = latents + (levels[k + 1] - levels[k]) * guided(model, latents, levels[k], condition, empty, guidance)
    return latents if len(latents) == len(texts) else latents[rows]


@torch.no_grad()
def adherence(model, latents, texts, seed=77):
    """(N,) share by which the caption lowers the model's own error, averaged over `LEVELS`; below 0: it raises it."""
    hidden, empty = model.hidden(texts), model.hidden([""]).expand(len(texts), -1, -1)
    noise = starting_noise(len(texts), seed, model.device, same=True)
    shares = []
    for level in LEVELS:
        noised = torch.lerp(latents, noise, level)
        errors = [
            (model.velocity(noised, level, condition) - (noise - latents)).square().mean((1, 2, 3))
            for condition in (hidden, empty)
        ]
        shares.append((errors[1] - errors[0]) / torch.maximum(*errors))
    return torch.stack(shares).mean(0).cpu()
