"""The judge: a network that says which emoji a picture shows, and in which style. No other network learns from it.

    python training/judge.py [--minutes 1.5] [--out .training/run] [--data .training/data] [--device cuda] [--smoke]

It is trained on all real pictures, shifted, turned, recoloured, blurred, noised and covered in part, and saved to
OUT/judge. evaluate.py asks it about generated pictures.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from config import Optimisation
from emoji import STYLES
from loop import Run, prepare
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stage import RUN, flat_pictures, parse_options, read_pictures
from torch import nn
from torch.nn import functional as F

WEIGHTS = "judge.safetensors"
WIDTHS = (32, 64, 128, 256)
SMOOTHING = 0.1
OPTIMISATION = Optimisation(batch=512, learning_rate=2e-3, warm_up=100, weight_decay=0.05, ema=0.998, compile=False)


class Block(nn.Module):
    """Two convolutions beside a shortcut; halves width and height."""

    def __init__(self, channels, out):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(3))

    def forward(self, x):
        inner = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(inner)) + self.norms[2](self.shortcut(F.avg_pool2d(x, 2))))


class Judge(nn.Module):
    """Logits of the emoji and of the style that pictures show.

    Parameters
    ----------
    names : list of str   the emoji that it tells apart
    """

    def __init__(self, names):
        super().__init__()
        self.names = list(names)
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True)))
        features = WIDTHS[-1] * 4 * 4
        self.identity = nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, len(self.names)))
        self.style = nn.Linear(2 * sum(WIDTHS), len(STYLES))

    def forward(self, pictures):
        """(B, 3, 128, 128) uint8, or float in 0 ... 1 -> (B, N) and (B, 5) logits"""
        x = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
        x = self.stem(((x - 0.5) / 0.25).to(memory_format=torch.channels_last))
        looks = [statistics(x)]  # a style is in the texture: means and deviations at every size
        for block in self.blocks:
            x = block(x)
            looks.append(statistics(x))
        return self.identity(F.adaptive_avg_pool2d(x, 4).flatten(1)), self.style(torch.cat(looks[:-1], dim=1))


def statistics(x):
    """(B, C, H, W) -> (B, 2 C) mean and deviation of each channel"""
    mean = x.float().mean(dim=(2, 3))
    return torch.cat([mean, (x.float().var(dim=(2, 3), correction=0) + 1e-5).sqrt()], dim=1)


class Augmentation:
    """Real pictures as a generator could have drawn them: the same emoji and style, never the same pixels.

    Parameters
    ----------
    generator : torch.Generator   on the pictures' device
    """

    def __init__(self, generator):
        self.generator = generator

    def uniform(self, count, low, high):
        """(count, 1, 1, 1) random numbers"""
        values = torch.rand(count, 1, 1, 1, generator=self.generator, device=self.generator.device)
        return low + (high - low) * values

    def __call__(self, pictures):
        """(B, 3, H, W) uint8 -> float in 0 ... 1"""
        x = self.moved(pictures.float() / 255)
        x = self.recoloured(x)
        x = self.blurred(x)
        return self.covered(self.noised(x)).clamp(0, 1)

    def moved(self, x):
        """Turned by up to 8 degrees, scaled by up to 10 %, shifted by up to 5 %; white around."""
        count = len(x)
        angle, scale = self.uniform(count, -8, 8) * math.pi / 180, self.uniform(count, 0.9, 1.1)
        cosine, sine = (angle.cos() * scale).flatten(), (angle.sin() * scale).flatten()
        shift_x, shift_y = (self.uniform(count, -0.1, 0.1).flatten() for _ in range(2))
        rows = torch.stack([cosine, -sine, shift_x, sine, cosine, shift_y], dim=1)
        grid = F.affine_grid(rows.view(count, 2, 3), x.shape, align_corners=False)
        return 1 - F.grid_sample(1 - x, grid, align_corners=False)

    def recoloured(self, x):
        count = len(x)
        gains = torch.cat([self.uniform(count, 0.94, 1.06) for _ in range(3)], dim=1)
        x = x * gains + self.uniform(count, -0.05, 0.05)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        return mean + self.uniform(count, 0.85, 1.1) * (x - mean)

    def blurred(self, x):
        """Half of the pictures are mixed with a blurred copy."""
        soft = F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
        return x.lerp(soft, self.uniform(len(x), -1, 1).clamp(min=0))

    def noised(self, x):
        noise = torch.randn(x.shape, generator=self.generator, device=x.device)
        return x + noise * self.uniform(len(x), -0.04, 0.04).clamp(min=0)

    def covered(self, x):
        """A third of the pictures lose a rectangle to grey."""
        count, _, height, width = x.shape
        half = self.uniform(count, 0.03, 0.16) * (self.uniform(count, 0, 3) < 1)
        inside = torch.ones(count, 1, height, width, dtype=torch.bool, device=x.device)
        for size, shape in ((height, (1, 1, height, 1)), (width, (1, 1, 1, width))):
            place = torch.linspace(0, 1, size, device=x.device).view(shape)
            inside = inside & ((place - self.uniform(count, 0, 1)).abs() < half)
        return torch.where(inside, self.uniform(count, 0, 1), x)


def train_judge(emoji, device, minutes, folder=RUN / "judge", optimisation=OPTIMISATION):
    """Train a judge on all pictures, those held out from the model too.

    Parameters
    ----------
    emoji : EmojiSet
    device : torch.device
    minutes : float
    folder : path   for checkpoint and log; training goes on from a checkpoint that is there

    Returns
    -------
    judge : Judge   in evaluation mode, with averaged weights
    """
    judge = Judge(emoji.names).to(memory_format=torch.channels_last)
    run = Run(folder, {"judge": judge}, optimisation, minutes, device)
    pictures = flat_pictures(emoji, device)
    augmented = Augmentation(run.generator)

    def loss():
        index = torch.randint(len(pictures), (optimisation.batch,), generator=run.generator, device=device)
        name, style = index // len(STYLES), index % len(STYLES)
        with torch.autocast(device.type, enabled=False):
            batch = augmented(pictures[index])
        names, styles = judge(batch)
        parts = [
            F.cross_entropy(logits.float(), truth, label_smoothing=SMOOTHING)
            for logits, truth in ((names, name), (styles, style))
        ]
        right = (names.argmax(1) == name) & (styles.argmax(1) == style)
        return sum(parts), {"identity": parts[0], "style": parts[1], "right": right.float().mean()}

    run.train(loss)
    return judge.eval()


@torch.no_grad()
def judged(judge, pictures, batch=512):
    """What the judge takes pictures for.

    Parameters
    ----------
    judge : Judge
    pictures : (M, 3, 128, 128) uint8 tensor, or float in 0 ... 1

    Returns
    -------
    names, styles : (M,) int64 tensors on the CPU
    """
    device = next(judge.parameters()).device
    logits = [judge(part.to(device)) for part in pictures.split(batch)]
    return tuple(torch.cat([part[i].argmax(1) for part in logits]).cpu() for i in range(2))


def save_judge(judge, folder):
    """Write the weights, in float16, with the names that they tell apart."""
    state = {name: value.contiguous() for name, value in judge.state_dict().items()}
    weights = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(weights, Path(folder) / WEIGHTS, metadata={"names": json.dumps(judge.names)})


def load_judge(folder=RUN / "judge", device="cpu"):
    """Read a judge that was saved by `save_judge`.

    Returns
    -------
    judge : Judge   float32, in evaluation mode

    Raises
    ------
    ValueError  if there is none.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"there is no judge in {folder}; train one: python training/judge.py")
    with safe_open(path, "pt") as file:
        judge = Judge(json.loads(file.metadata()["names"]))
    judge.load_state_dict(load_file(path))
    return judge.eval().requires_grad_(False).to(device)


def main():
    options = parse_options("Train the judge of generated pictures.", minutes=1.5)
    device = prepare(options.device)
    emoji = read_pictures(options.data, options.config)
    optimisation = replace(OPTIMISATION, batch=16, warm_up=1, max_steps=4) if options.smoke else OPTIMISATION
    judge = train_judge(emoji, device, options.minutes, options.out / "judge", optimisation)
    save_judge(judge, options.out / "judge")
    names, styles = judged(judge, emoji.pictures.flatten(0, 1))
    truth = torch.arange(len(names))
    right = [(names == truth // len(STYLES)).float().mean(), (styles == truth % len(STYLES)).float().mean()]
    print(f"real pictures: emoji {right[0]:.3f}, style {right[1]:.3f} right")


if __name__ == "__main__":
    main()
