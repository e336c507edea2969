"""Train MoVQ: the autoencoder between pictures and the latents that the UNet draws.

python training/movq.py [--out RUN] [--data FOLDER] [--minutes M] [--smoke] [--device D]

The pipelines decode the UNet's latents as they are: no scaling factor, no quantisation. So the latents must have mean 0
and deviation 1 by themselves: they are normalised over the batch while training, and the statistics of all pictures
are folded into the last layer of the encoder at the end. The codebook that a `VQModel` has is not used.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from clip_pair import shifted
from config import MOVQ
from diffusers import VQModel
from loop import Run
from stage import batches, flat_pictures, rounded_to_half, run_stage, to_signed, trained_indices
from torch import nn

FOLDER = "movq"


class FeatureNet(nn.Module):
    """A small classifier of pictures; what its layers see is compared by the perceptual loss.

    Parameters
    ----------
    channels : tuple of int   one layer each, at full size, half the size, ...
    classes : tuple of int    one head each
    """

    def __init__(self, channels, classes):
        super().__init__()
        self.layers = nn.ModuleList()
        for i, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
            self.layers.append(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1),
                    nn.GroupNorm(8, after),
                    nn.SiLU(),
                )
            )
        self.heads = nn.ModuleList(nn.Linear(16 * channels[-1], count) for count in classes)

    def features(self, pictures):
        """The output of every layer."""
        found = []
        for layer in self.layers:
            pictures = layer(pictures)
            found.append(pictures)
        return found

    def forward(self, pictures):
        pooled = F.adaptive_avg_pool2d(self.features(pictures)[-1], 4).flatten(1)
        return [head(pooled) for head in self.heads]


def feature_distance(found, wanted):
    """Mean over layers of the squared distance of unit feature vectors, as in LPIPS (Zhang et al. 2018)."""
    return sum(
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
        for a, b in zip(found, wanted, strict=True)
    ) / len(found)


def edge_distance(found, wanted):
    """Mean absolute difference of the differences between neighbouring pixels, in both directions."""
    difference = found - wanted
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


def normalised(latents):
    """Latents (B, C, h, w) with mean 0 and deviation 1 in each channel, over the batch."""
    deviation, mean = torch.std_mean(latents.float(), dim=(0, 2, 3), keepdim=True)
    return (latents - mean) / (deviation + 1e-5)


@torch.no_grad()
def fold_statistics(convolution, mean, deviation):
    """Make a convolution give ``(output - mean) / deviation`` instead of its output; both are (channels,)."""
    convolution.weight.div_(deviation[:, None, None, None])
    convolution.bias.sub_(mean).div_(deviation)


class PictureBatches:
    """Draws pictures to train on, moved by a pixel or two."""

    def __init__(self, run, pictures, trained, shift):
        self.run, self.pictures, self.trained, self.shift = run, pictures, trained, shift

    def draw(self, count):
        """Indices (B,) and pictures in -1 ... 1, channels last."""
        generator, device = self.run.generator, self.run.device
        rows = self.trained[torch.randint(len(self.trained), (count,), generator=generator, device=device)]
        pictures = to_signed(shifted(self.pictures[rows], self.shift, generator))
        return rows, pictures.contiguous(memory_format=torch.channels_last)


def train_features(folder, emoji, pictures, trained, config, minutes, device):
    """Train the classifier on names and styles of the `trained` pictures; without gradients afterwards."""
    styles = emoji.pictures.shape[1]
    network = FeatureNet(config.channels, (len(emoji.names), styles)).to(memory_format=torch.channels_last)
    run = Run(folder, {"features": network}, config.optimisation, minutes, device, seed=1)
    source = PictureBatches(run, pictures, trained, shift=4)
    compiled = run.compile(network)

    def loss():
        rows, drawn = source.draw(config.optimisation.batch)
        drawn = drawn + 0.1 * torch.randn(drawn.shape, generator=run.generator, device=device)
        names, kinds = compiled(drawn)
        name = F.cross_entropy(names.float(), rows // styles)
        style = F.cross_entropy(kinds.float(), rows % styles)
        return name + style, {"name": name, "style": style}

    run.train(loss)
    return network.requires_grad_(False)


class AutoEncoder(nn.Module):
    """Encoder, normalised and noised latents, decoder, without quantisation: what is trained of a `VQModel`."""

    def __init__(self, movq):
        super().__init__()
        self.movq = movq

    def forward(self, pictures, noise):
        """Decoded pictures; `noise` is added to the latents."""
        latents = normalised(self.movq.encode(pictures).latents)
        return self.movq.decode(latents + noise, force_not_quantize=True).sample


def make_loss(run, network, features, source, config):
    """The loss of a fresh batch."""
    autoencoder = run.compile(network)
    seen = run.compile(FeatureList(features))

    def loss():
        _, pictures = source.draw(config.optimisation.batch)
        count, size = len(pictures), pictures.shape[-1] // 2 ** (len(MOVQ["block_out_channels"]) - 1)
        shape = (count, MOVQ["latent_channels"], size, size)
        noise = torch.randn(shape, generator=run.generator, device=run.device)
        noise *= config.noise * torch.rand((count, 1, 1, 1), generator=run.generator, device=run.device)
        found = autoencoder(pictures, noise).float()
        return picture_loss(found, pictures, seen, config)

    return loss


def picture_loss(found, pictures, seen, config):
    """Loss of decoded pictures, and its parts; `seen` gives features, `config` weighs them and the edges."""
    with torch.no_grad():
        wanted_features = seen(pictures)
    parts = {
        "l1": F.l1_loss(found, pictures),
        "l2": F.mse_loss(found, pictures),
        "edges": edge_distance(found, pictures),
        "perceptual": feature_distance(seen(found), wanted_features),
    }
    weights = {"l1": 1.0, "l2": 1.0, "edges": config.edges, "perceptual": config.perceptual}
    return sum(weights[name] * part for name, part in parts.items()), parts


class FeatureList(nn.Module):
    """The layers of a `FeatureNet` as a module of their own."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pictures):
        return self.network.features(pictures)


@torch.no_grad()
def encode(movq, pictures):
    """(P, C, h, w) float32 latents of uint8 pictures."""
    return torch.cat([movq.encode(to_signed(pictures[rows])).latents.float() for rows in batches(len(pictures), 128)])


@torch.no_grad()
def measure(movq, pictures):
    """Peak signal-to-noise ratio of decoded pictures in dB, and the strength of their edges next to the originals'."""
    errors, edges = [], []
    for rows in batches(len(pictures), 128):
        wanted = to_signed(pictures[rows])
        found = movq.decode(movq.encode(wanted).latents, force_not_quantize=True).sample.clamp(-1, 1)
        errors.append((found - wanted).square().mean((1, 2, 3)) / 4)
        edges.append(torch.stack([p.diff(dim=3).square().mean((1, 2, 3)) for p in (found, wanted)]))
    found, wanted = torch.cat(edges, dim=1)
    return {
        "psnr": float(-10 * torch.cat(errors).clamp(min=1e-10).log10().mean()),
        "edge_strength": float((found.sum() / wanted.sum()).sqrt()),
    }


@contextmanager
def folded(movq, pictures):
    """The autoencoder with the statistics of its latents folded in; as it was afterwards."""
    kept = {name: value.clone() for name, value in movq.quant_conv.state_dict().items()}
    latents = encode(movq, pictures)
    fold_statistics(movq.quant_conv, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    try:
        yield movq
    finally:
        movq.quant_conv.load_state_dict(kept)


def train_movq(out, emoji, config, minutes, device):
    """Train MoVQ, or go on with it. Parameters as in `stage.run_stage`; returns figures."""
    folder = out / FOLDER
    pictures, trained = flat_pictures(emoji, device), trained_indices(emoji, device)
    share = config.movq.features.share
    features = train_features(
        folder / "features", emoji, pictures, trained, config.movq.features, share * minutes, device
    )
    movq = VQModel(**MOVQ).to(memory_format=torch.channels_last)
    movq.quantize.requires_grad_(False)
    network = AutoEncoder(movq)
    run = Run(folder, {"movq": network}, config.movq.optimisation, (1 - share) * minutes, device)
    source = PictureBatches(run, pictures, trained, shift=2)
    few = pictures[trained[:: max(1, len(trained) // 256)]]

    def evaluate(sample):
        with folded(movq, sample):
            return measure(movq, sample)

    figures = run.train(make_loss(run, network, features, source, config.movq), lambda: evaluate(few))
    with folded(movq, pictures[trained]):
        kept = rounded_to_half(movq)
        figures |= measure(kept, pictures[trained])
        held_out = pictures[~emoji.training.flatten().to(device)]
        if len(held_out):
            figures |= {f"{name} held out": value for name, value in measure(kept, held_out).items()}
        kept.save_pretrained(folder / "model")
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
    return figures | {"steps": run.step}


if __name__ == "__main__":
    run_stage(FOLDER, train_movq, __doc__.splitlines()[0])
