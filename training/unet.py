"""Train the UNet: it draws latents from noise and an image embedding.

python training/unet.py [--out RUN] [--data FOLDER] [--minutes M] [--smoke] [--device D]

It predicts the noise in noised latents, and the variance of a sampler's step. In part of the samples the embedding is
replaced by the one that stands for no picture, which is what guidance starts from.
"""

import math

import torch
import torch.nn.functional as F
from clip_pair import EMBEDDINGS
from clip_pair import FOLDER as PAIR
from config import UNET, UNET_SCHEDULER
from diffusers import DDPMScheduler, UNet2DConditionModel, VQModel
from loop import Run
from movq import FOLDER as AUTOENCODER
from movq import encode
from safetensors.torch import load_file
from stage import flat_pictures, rounded_to_half, run_stage, trained_indices
from torch import nn

FOLDER = "unet"


def min_snr_weight(signal, gamma):
    """Weight of the squared error of the noise; `signal` is the product of the alphas.

    Source: Hang et al. 2023, equation 5, for a prediction of the noise.
    """
    ratio = signal / (1 - signal)
    return ratio.clamp(max=gamma) / ratio


class Posterior:
    """The sampler's step from timestep t to t - stride, as `DDPMScheduler` takes it.

    Parameters
    ----------
    signal : (T,) tensor      product of the alphas
    stride : int              timesteps from one step to the next; less where t is smaller

    Legend: x0 clean, x noised latent, s product of the alphas at t, r at t - stride, beta = 1 - s / r.
    """

    def __init__(self, signal, stride):
        before = signal[(torch.arange(len(signal), device=signal.device) - stride).clamp(min=0)]
        beta = 1 - signal / before
        smallest = (1 - before) / (1 - signal) * beta
        self.log_smallest, self.log_largest = (v.clamp(min=1e-20).log() for v in (smallest, beta))
        self.from_clean = before.sqrt() * beta / (1 - signal)  # d mean / d x0
        self.signal = signal

    def log_variance(self, output, timesteps):
        """What the scheduler makes of the network's variance output (learned_range)."""
        share = (output + 1) / 2
        smallest, largest = (at(v, timesteps) for v in (self.log_smallest, self.log_largest))
        return share * largest + (1 - share) * smallest

    def divergence(self, output, noise_error, timesteps):
        """(B,) Kullback-Leibler divergence in nats of the step with this variance from the true posterior.

        Parameters
        ----------
        output : (B, C, h, w) tensor        variance output of the network
        noise_error : (B, C, h, w) tensor   predicted minus true noise
        timesteps : (B,) int64 tensor       at 0 nothing is drawn: no divergence

        Source: Nichol and Dhariwal 2021, equations 4 and 15.
        """
        signal = at(self.signal, timesteps)
        mean_error = at(self.from_clean, timesteps) * ((1 - signal) / signal).sqrt() * noise_error
        log_variance, log_true = self.log_variance(output, timesteps), at(self.log_smallest, timesteps)
        excess = log_true - log_variance
        divergence = 0.5 * (excess.exp() - 1 - excess + mean_error.square() * (-log_variance).exp())
        return divergence.mean((1, 2, 3)).masked_fill(timesteps == 0, 0.0)


def at(values, timesteps):
    """Values (T,) at timesteps (B,), shaped to go with latents (B, C, h, w)."""
    return values[timesteps][:, None, None, None]


class Denoiser(nn.Module):
    """The UNet, called as `KandinskyV22Pipeline` calls it."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, latents, timesteps, embeddings):
        """(B, 2 C, h, w): noise and variance output."""
        return self.unet(
            latents,
            timesteps,
            encoder_hidden_states=None,
            added_cond_kwargs={"image_embeds": embeddings},
            return_dict=False,
        )[0]


class Batches:
    """Draws noised latents and embeddings and has the loss of the UNet on them.

    Parameters
    ----------
    run : Run                       with a network "unet": a `Denoiser`
    latents : (P, C, h, w) tensor   of all pictures
    embeddings : (P, D) tensor      of all pictures
    zero : (D,) tensor              the embedding of no picture
    trained : (T,) int64 tensor     pictures to train on
    config : config.UNet
    """

    def __init__(self, run, latents, embeddings, zero, trained, config):
        self.run, self.config = run, config
        self.latents, self.embeddings, self.zero, self.trained = latents, embeddings, zero, trained
        self.deviation = embeddings[trained].std(0)
        self.signal = DDPMScheduler(**UNET_SCHEDULER).alphas_cumprod.to(run.device)
        self.posterior = Posterior(self.signal, config.variance_stride)
        self.denoiser = run.compile(run.networks["unet"])

    def uniform(self, *shape):
        return torch.rand(shape, generator=self.run.generator, device=self.run.device)

    def normal(self, like):
        return torch.randn(like.shape, generator=self.run.generator, device=self.run.device)

    def conditions(self, pictures):
        """Embeddings with some noise; in part of them the one of no picture."""
        embeddings = self.embeddings[pictures]
        amount = self.config.embedding_noise * self.uniform(len(pictures), 1) * self.deviation
        embeddings = embeddings + amount * self.normal(embeddings)
        return torch.where(self.uniform(len(pictures), 1) < self.config.empty, self.zero, embeddings)

    def loss(self):
        count, generator, device = self.config.optimisation.batch, self.run.generator, self.run.device
        pictures = self.trained[torch.randint(len(self.trained), (count,), generator=generator, device=device)]
        timesteps = torch.randint(len(self.signal), (count,), generator=generator, device=device)
        latents = self.latents[pictures]
        noise, signal = self.normal(latents), at(self.signal, timesteps)
        noised = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        noised = noised.contiguous(memory_format=torch.channels_last)
        predicted, variance = self.denoiser(noised, timesteps, self.conditions(pictures)).float().chunk(2, dim=1)
        errors = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        weighted = (min_snr_weight(self.signal[timesteps], self.config.gamma) * errors).mean()
        divergence = self.posterior.divergence(variance, (predicted - noise).detach(), timesteps).mean()
        value = weighted + self.config.variance * divergence
        return value, {"noise": errors.mean(), "weighted": weighted, "divergence": divergence}


def clip_range(latents):
    """Where a sampler may clip its estimates of clean latents: just beyond the largest latent."""
    return math.ceil(100 * float(latents.abs().max())) / 100


def train_unet(out, emoji, config, minutes, device):
    """Train the UNet, or go on with it; needs the CLIP pair and MoVQ. As `stage.run_stage` says; returns figures."""
    folder = out / FOLDER
    stored = {name: value.to(device) for name, value in load_file(out / PAIR / EMBEDDINGS).items()}
    movq = VQModel.from_pretrained(out / AUTOENCODER / "model").to(device).eval()
    latents = encode(movq, flat_pictures(emoji, device))
    print(f"latents: mean {latents.mean():.3f}, deviation {latents.std():.3f}, range {clip_range(latents)}", flush=True)
    unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
    run = Run(folder, {"unet": Denoiser(unet)}, config.unet.optimisation, minutes, device)
    work = Batches(run, latents, stored["embeddings"], stored["zero"], trained_indices(emoji, device), config.unet)
    figures = run.train(work.loss)
    rounded_to_half(unet).save_pretrained(folder / "model")
    DDPMScheduler(**UNET_SCHEDULER, clip_sample_range=clip_range(latents)).save_pretrained(folder / "scheduler")
    return figures | {"steps": run.step}


if __name__ == "__main__":
    run_stage(FOLDER, train_unet, __doc__.splitlines()[0])
