"""Train the VAE: an `AutoencoderKL` between pictures of scenes and the latents that the UNet draws.

Trained as the emoji model's MoVQ is: latents normalised over the batch, with some noise that the decoder learns to
ignore; at the end mean and deviation of each channel are folded into the convolution before them. So the scaling
factor is 1, the shift 0, and the encoder's variance next to nothing.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from loop import Run
from movq import FeatureList, FeatureNet, fold_statistics, normalised, picture_loss
from stage import batches, rounded_to_half
from torch import nn

from .captions import COLOURS, RELATIONS, SIZES, STYLES, random_scenes, trained_pairs
from .config import LATENT, LATENT_CHANNELS, VAE
from .render import Renderer

FOLDER = "vae"
LOG_VARIANCE = -30.0


def parts_counts(names):
    """How many answers there are for each of `captions.PARTS`, with so many names."""
    return (len(STYLES), names, names, len(RELATIONS), len(SIZES), len(COLOURS))


class Source:
    """Draws scenes, their emoji never a held-out pair, and their pictures.

    Parameters
    ----------
    icons : Icons
    generator : torch.Generator   on the device
    """

    def __init__(self, icons, generator, seed=0):
        device = generator.device
        self.generator = generator
        self.render = Renderer(icons.pictures, device, generator)
        pool = random_scenes(np.random.default_rng(seed), 200_000, trained_pairs(len(icons.names)))
        self.pool = torch.from_numpy(pool).to(device)

    def scenes(self, count):
        """(count, 6) int64"""
        rows = torch.randint(len(self.pool), (count,), generator=self.generator, device=self.pool.device)
        return self.pool[rows]

    def draw(self, count):
        """Scenes, and their pictures in -1 ... 1, channels last."""
        scenes = self.scenes(count)
        return scenes, self.render(scenes).contiguous(memory_format=torch.channels_last)


def make_vae():
    """An `AutoencoderKL` whose encoder says no variance."""
    vae = AutoencoderKL(**VAE)
    with torch.no_grad():
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = LOG_VARIANCE
    return vae.to(memory_format=torch.channels_last)


def encode(vae, pictures):
    """(B, C, h, w) latents of pictures in -1 ... 1."""
    return vae.quant_conv(vae.encoder(pictures))[:, :LATENT_CHANNELS]


def decode(vae, latents):
    """(B, 3, H, W) pictures of latents."""
    return vae.decoder(vae.post_quant_conv(latents))


class AutoEncoder(nn.Module):
    """Encoder, normalised and noised latents, decoder."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, pictures, noise):
        return decode(self.vae, normalised(encode(self.vae, pictures)) + noise)


def train_features(folder, icons, config, minutes, device):
    """The classifier of scenes for the perceptual loss; without gradients afterwards."""
    network = FeatureNet(config.channels, parts_counts(len(icons.names))).to(memory_format=torch.channels_last)
    run = Run(folder, {"features": network}, config.optimisation, minutes, device, seed=1)
    source = Source(icons, run.generator, seed=1)

    def loss():
        scenes, pictures = source.draw(config.optimisation.batch)
        noise = torch.randn(pictures.shape, generator=run.generator, device=device)
        answers = network(pictures + 0.1 * noise)
        parts = [F.cross_entropy(found.float(), scenes[:, i]) for i, found in enumerate(answers)]
        return sum(parts), {"style": parts[0], "first": parts[1]}

    run.train(loss)
    return network.requires_grad_(False)


def make_loss(run, network, features, source, config):
    """The loss of a fresh batch."""
    seen = FeatureList(features)

    def loss():
        _, pictures = source.draw(config.optimisation.batch)
        shape = (len(pictures), LATENT_CHANNELS, LATENT, LATENT)
        noise = torch.randn(shape, generator=run.generator, device=run.device)
        noise *= config.noise * torch.rand((len(pictures), 1, 1, 1), generator=run.generator, device=run.device)
        found = network(pictures, noise).float()
        return picture_loss(found, pictures, seen, config)

    return loss


@torch.no_grad()
def fold_latents(vae, pictures):
    """Make the encoder give latents of mean 0 and deviation 1 in each channel, over these pictures."""
    latents = torch.cat([encode(vae, pictures[rows]) for rows in batches(len(pictures), 128)])
    mean, deviation = torch.zeros(2 * LATENT_CHANNELS), torch.ones(2 * LATENT_CHANNELS)
    mean[:LATENT_CHANNELS], deviation[:LATENT_CHANNELS] = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    fold_statistics(vae.quant_conv, mean.to(latents.device), deviation.to(latents.device))


@torch.no_grad()
def decoding_error(vae, pictures):
    """Peak signal-to-noise ratio of decoded pictures in dB."""
    errors = []
    for rows in batches(len(pictures), 128):
        found = decode(vae, encode(vae, pictures[rows])).clamp(-1, 1)
        errors.append((found - pictures[rows]).square().mean((1, 2, 3)) / 4)
    return float(-10 * torch.cat(errors).clamp(min=1e-10).log10().mean())


def train_vae(options, icons, device):
    """Train the VAE, or go on with it. As `stage.run_stage` says."""
    folder, config = options.work / FOLDER, options.config.vae
    share = config.features.share
    features = train_features(folder / "features", icons, config.features, share * options.minutes, device)
    vae = make_vae()
    network = AutoEncoder(vae)
    run = Run(folder, {"vae": network}, config.optimisation, (1 - share) * options.minutes, device)
    source = Source(icons, run.generator)
    figures = run.train(make_loss(run, network, features, source, config))
    pictures = torch.cat([source.draw(min(256, config.sample))[1] for _ in range(max(1, config.sample // 256))])
    fold_latents(vae, pictures)
    kept = rounded_to_half(vae)
    kept.save_pretrained(folder / "model")
    figures |= {"psnr": decoding_error(kept, pictures), "steps": run.step}
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
    return figures


def load_vae(folder, device):
    """The VAE of a model's folder, float32, without gradients."""
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    return vae.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
