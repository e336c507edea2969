"""Judges: networks that say what a scene consists of. No other network learns from them, nor they from each other.

Half of their pictures went through the VAE, with some noise in the latents, so that they know drawn pictures too.
"""

import json
from pathlib import Path

import torch
from judge import Augmentation, Block, statistics
from loop import Run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from .captions import PARTS
from .stage import wait_for
from .vae import FOLDER as AUTOENCODER
from .vae import Source, decode, encode, load_vae, parts_counts

FOLDER = "judge"
SMOOTHING = 0.05


class SceneJudge(nn.Module):
    """Logits of the six parts of a scene.

    Parameters
    ----------
    names : sequence of str   the emoji that it tells apart
    widths : tuple of int     channels at 64, 32, 16 and 8 pixels
    """

    def __init__(self, names, widths):
        super().__init__()
        self.names, self.widths = tuple(names), tuple(widths)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(widths, (*widths[1:], widths[-1]), strict=True)))
        features = widths[-1] * 16 + 2 * (widths[0] + widths[1])
        self.body = nn.Sequential(nn.Linear(features, 768), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(768, count) for count in parts_counts(len(names)))

    def forward(self, pictures):
        """(B, 3, 128, 128) in -1 ... 1 -> logits of each of `captions.PARTS`"""
        x = self.stem(pictures.to(memory_format=torch.channels_last))
        looks = [statistics(x)]  # a style is in the texture
        for block in self.blocks:
            x = block(x)
            looks.append(statistics(x))
        x = torch.cat([F.adaptive_avg_pool2d(x, 4).flatten(1), *looks[:2]], dim=1)
        return [head(self.body(x)) for head in self.heads]


def augmented(augmentation, pictures):
    """Pictures in -1 ... 1, recoloured, blurred and noised a little."""
    x = augmentation.recoloured((pictures.float() + 1) / 2)
    return augmentation.noised(augmentation.blurred(x)).clamp(0, 1) * 2 - 1


class JudgedPictures:
    """Draws scenes and pictures, half of them through the VAE."""

    def __init__(self, run, icons, vae, config):
        self.run, self.vae, self.config = run, vae, config
        self.source = Source(icons, run.generator, seed=2)
        self.augmentation = Augmentation(run.generator)

    @torch.no_grad()
    def draw(self):
        scenes, pictures = self.source.draw(self.config.optimisation.batch)
        half = len(scenes) // 2
        latents = encode(self.vae, pictures[:half]).float()
        noise = torch.randn(latents.shape, generator=self.run.generator, device=latents.device)
        amount = torch.rand((half, 1, 1, 1), generator=self.run.generator, device=latents.device)
        decoded = decode(self.vae, latents + self.config.noise * amount * noise).float().clamp(-1, 1)
        return scenes, augmented(self.augmentation, torch.cat([decoded, pictures[half:]]))


def train_judges(options, icons, device):
    """Train a judge for each seed, and save them to OUT/judges. As `stage.run_stage` says."""
    config = options.config.judge
    wait_for(options.work / AUTOENCODER)
    vae = load_vae(options.work / AUTOENCODER / "model", device)
    judges = {}
    for seed in config.seeds:
        torch.manual_seed(seed)
        judges[str(seed)] = SceneJudge(icons.names, config.widths).to(memory_format=torch.channels_last)
    run = Run(options.work / FOLDER, judges, config.optimisation, options.minutes, device, seed=sum(config.seeds))
    drawn = JudgedPictures(run, icons, vae, config)

    def loss():
        values, right = [], []
        scenes, pictures = drawn.draw()
        for judge in judges.values():
            answers = judge(pictures)
            parts = [
                F.cross_entropy(found.float(), scenes[:, i], label_smoothing=SMOOTHING)
                for i, found in enumerate(answers)
            ]
            values.append(sum(parts))
            right.append(all_right(answers, scenes).float().mean())
        return sum(values), {"right": sum(right) / len(right)}

    figures = run.train(loss)
    for seed, judge in judges.items():
        save_judge(judge.eval(), options.out / "judges" / f"judge-{seed}.safetensors")
    return figures | {"steps": run.step}


def all_right(answers, scenes):
    """(B,) bool: whether every part is named rightly."""
    found = torch.stack([answer.argmax(1) for answer in answers], dim=1)
    return (found == scenes).all(1)


@torch.no_grad()
def judged(judge, pictures, batch=512):
    """(B, 6) int64 on the CPU: what a judge takes pictures in -1 ... 1 for; columns as `PARTS`."""
    device = next(judge.parameters()).device
    rows = []
    for part in pictures.split(batch):
        answers = judge(part.to(device).float())
        rows.append(torch.stack([answer.argmax(1) for answer in answers], dim=1).cpu())
    return torch.cat(rows)


def save_judge(judge, path):
    """Write the weights, in float16, with what they tell apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu().contiguous() for name, value in judge.state_dict().items()}
    weights = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    notes = {"names": json.dumps(judge.names), "widths": json.dumps(judge.widths), "parts": json.dumps(PARTS)}
    save_file(weights, path, metadata=notes)


def load_judge(path, device="cpu"):
    """A judge that `save_judge` wrote, float32, in evaluation mode.

    Raises
    ------
    ValueError  if there is none.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no judge at {path}; train one: python training/train_scenes.py judge")
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    judge = SceneJudge(json.loads(notes["names"]), json.loads(notes["widths"]))
    judge.load_state_dict(load_file(path))
    return judge.eval().requires_grad_(False).to(device)
