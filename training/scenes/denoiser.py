"""Train text encoder and UNet together: rectified flow in the VAE's latents, from captions.

The network predicts noise - x0 of x = (1 - s) x0 + s noise, at timestep 1000 s.
"""

import time

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from loop import Run
from torch import nn

from .assemble import assemble
from .config import LATENT, LATENT_CHANNELS, UNET
from .render import Renderer
from .stage import wait_for
from .text import FOLDER as TEXT
from .text import make_text_encoder, to_full_length
from .tokens import keep_tokenizer, write_captions
from .vae import FOLDER as AUTOENCODER
from .vae import encode, load_vae

FOLDER = "denoiser"
AT_ONCE = 512  # pictures that are encoded


class Flow(nn.Module):
    """The UNet, called as the host calls it."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, latents, timesteps, hidden):
        """(B, C, h, w) predicted velocity"""
        return self.unet(latents, timesteps, encoder_hidden_states=hidden, return_dict=False)[0]


class Gallery:
    """Latents of scenes, some of which are replaced by new ones each time.

    Parameters
    ----------
    vae : AutoencoderKL
    render : Renderer
    scenes : (S, 6) uint8 tensor
    kept : int   latents at a time
    """

    def __init__(self, vae, render, scenes, kept):
        self.vae, self.render, self.scenes = vae, render, scenes
        shape = (kept, LATENT_CHANNELS, LATENT, LATENT)
        self.latents = torch.empty(shape, dtype=torch.float16, device=scenes.device)
        self.rows = torch.empty(kept, dtype=torch.int64, device=scenes.device)  # of `scenes`
        self.added = 0

    @torch.no_grad()
    def add(self, count):
        """Draw and encode the next scenes; the oldest latents give way."""
        rows = torch.arange(self.added, self.added + count, device=self.rows.device) % len(self.scenes)
        places = torch.arange(self.added, self.added + count, device=self.rows.device) % len(self.latents)
        pictures = self.render(self.scenes[rows].long()).contiguous(memory_format=torch.channels_last)
        self.latents[places] = encode(self.vae, pictures).half()
        self.rows[places] = rows
        self.added += count

    def draw(self, count, generator):
        """Latents (B, C, h, w), float32 and channels last, and the rows of their scenes."""
        there = min(self.added, len(self.latents))
        places = torch.randint(there, (count,), generator=generator, device=self.rows.device)
        latents = self.latents[places].float().contiguous(memory_format=torch.channels_last)
        return latents, self.rows[places]


class Batches:
    """Draws captions, times and noise, and has the loss of the flow on them.

    Parameters
    ----------
    run : Run                        with networks "text" and "flow"
    tokens : (S, captions, L) tensor int16
    empty : (77,) int64 tensor       ids of the empty caption
    config : config.DenoiserStage
    """

    def __init__(self, run, tokens, empty, config):
        self.run, self.tokens, self.empty, self.config = run, tokens, empty, config
        self.end = int(empty[-1])
        self.text, self.flow = run.compile(run.networks["text"]), run.compile(run.networks["flow"])

    def captions(self, rows):
        """(B, 77) ids of a caption for each row; some are empty."""
        generator, device = self.run.generator, rows.device
        which = torch.randint(self.tokens.shape[1], rows.shape, generator=generator, device=device)
        ids = to_full_length(self.tokens[rows, which], self.end)
        dropped = torch.rand(len(rows), 1, generator=generator, device=device) < self.config.empty
        return torch.where(dropped, self.empty, ids)

    def loss(self, latents, rows):
        """Squared error of the velocity."""
        generator, device = self.run.generator, latents.device
        normal = torch.randn(len(latents), generator=generator, device=device)
        times = torch.sigmoid(self.config.spread * normal)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        noise = noise.contiguous(memory_format=torch.channels_last)
        noised = torch.lerp(latents, noise, times[:, None, None, None])
        hidden = self.text(input_ids=self.captions(rows)).last_hidden_state
        found = self.flow(noised, 1000 * times, hidden).float()
        errors = F.mse_loss(found, noise - latents, reduction="none").mean((1, 2, 3))
        early = (errors * (times > 0.7)).sum() / (times > 0.7).sum().clamp(min=1)
        return errors.mean(), {"early": early}


def empty_ids(tokenizer, device):
    """(77,) ids of the empty caption."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return to_full_length(torch.tensor([[begin, end]], device=device), end)[0]


def warm_up(run, work, captions, config):
    """Compile, with noise for latents; costs no time of the stage's and changes no weights."""
    shape = (config.optimisation.batch, LATENT_CHANNELS, LATENT, LATENT)
    latents = torch.randn(shape, device=run.device).contiguous(memory_format=torch.channels_last)
    rows = torch.arange(len(latents), device=run.device) % captions
    began = time.monotonic()
    run.backward(lambda: work.loss(latents, rows))
    run.optimiser.zero_grad(set_to_none=True)
    print(f"first step after {time.monotonic() - began:.0f} s", flush=True)


def begin(run, encoder, folder):
    """Start the clock; from the text encoder of its own stage, if this is the beginning."""
    run.began = time.monotonic()
    if run.step == 0:
        encoder.load_state_dict(torch.load(folder / "encoder.pt", map_location=run.device, weights_only=True))
        with torch.no_grad():
            torch._foreach_copy_(run.averages, run.parameters)


def train_denoiser(options, icons, device):
    """Train text encoder and UNet, or go on with them, and write the whole model now and then."""
    config = options.config.denoiser
    tokenizer_folder = options.work / TEXT / "tokenizer"
    while not tokenizer_folder.is_dir():
        time.sleep(0.2)
    tokenizer = keep_tokenizer(icons.names, tokenizer_folder)
    written = write_captions(icons.names, tokenizer, config.scenes, config.captions, seed=2)
    scenes, tokens = (torch.from_numpy(found).to(device) for found in written[:2])
    encoder = make_text_encoder(tokenizer)
    unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
    networks = {"text": encoder, "flow": Flow(unet)}
    run = Run(options.work / FOLDER, networks, config.optimisation, options.minutes, device)
    work = Batches(run, tokens, empty_ids(tokenizer, device), config)
    warm_up(run, work, len(scenes), config)
    wait_for(options.work / AUTOENCODER, options.work / TEXT)
    begin(run, encoder, options.work / TEXT)
    vae = load_vae(options.work / AUTOENCODER / "model", device)
    gallery = Gallery(vae, Renderer(icons.pictures, device, run.generator), scenes, config.kept)

    def loss():
        gallery.add(config.fresh if gallery.added else min(16 * AT_ONCE, config.kept))
        return work.loss(*gallery.draw(config.optimisation.batch, run.generator))

    def write():
        assemble(options, tokenizer, encoder, unet)
        return {}

    figures = run.train(loss, write)
    write()
    return figures | {"steps": run.step}
