"""The table of sharing and of fewer steps for the emoji model, which decides late: beside that of the scene model.

python training/train_scenes.py emoji [--out FOLDER] [--small] [--smoke] [--device D]

A picture is right if of all real pictures, 5,330 of them, the nearest is the one that its prompt names: the emoji model
has learned them by heart, so that no judge is needed. Writes emoji.json and emoji.md to OUT.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from emoji import load_emoji
from loop import prepare
from stage import ROOT, exact_distances

from .evaluate import FEWER, TRUNKS, table

SETS, NEAR = 4, 32  # sets; pixels that pictures are compared at
# steps, and how many of them are shared
WAYS = {
    "full": (*((40, shared) for shared in TRUNKS), *((steps, 0) for steps in FEWER)),
    "small": (*((20, shared) for shared in (0, 4, 8, 12, 16)), *((steps, 0) for steps in (12, 8, 5))),
    "smoke": ((2, 0), (2, 1)),
}


def trunk_plan(rows, shared, steps):
    """All prompts in one cluster for the first `shared` steps, then each alone."""
    from hierdiff_core import build_plan, ward_linkage

    linkage = ward_linkage(rows)
    return build_plan(linkage, [2 * float(linkage[-1, 2])] * shared + [0.0] * (steps - shared))


def noise_level(scheduler, step, steps):
    """sigma / (1 + sigma) at a step of the decoder's own schedule."""
    signal = scheduler.alphas_cumprod
    scheduler.set_timesteps(steps)
    sigma = float(((1 - signal) / signal).sqrt()[int(scheduler.timesteps[step])])
    return sigma / (1 + sigma)


def small_pictures(pictures):
    """(M, 3, H, W) in 0 ... 1 -> (M, 3 * 32 * 32)"""
    return F.adaptive_avg_pool2d(pictures.float(), NEAR).flatten(1)


def nearest(pictures, real):
    """(M,) int64: which real picture each is nearest to; both from `small_pictures`."""
    return exact_distances(pictures, real).argmin(1)


def measured_sets(model, real, sets, steps, shared):
    """Share of pictures that are right, and rows per picture."""
    right, rows, count = [], 0, 0
    for pairs in sets:
        embeddings = model.predicted(pairs.prompts, model.prior_guidance)
        plan = trunk_plan(embeddings.positive.numpy(), shared, steps)
        found = nearest(small_pictures(model.drawn(embeddings, plan).cpu()), real)
        right.append((found == pairs.index).double().mean())
        rows, count = rows + plan.nfe, count + len(pairs.index)
    return float(np.mean(right)), rows / count


def measure_emoji(options):
    """Draw the sets in every way and write the table, row by row."""
    from diffusers import DDPMScheduler
    from evaluate import Model, choose_sets

    size = "smoke" if options.smoke else "small" if options.small else "full"
    emoji = load_emoji(options.data, limit=options.config.names if options.smoke else None)
    real = torch.cat([small_pictures(part / 255) for part in emoji.pictures.flatten(0, 1).split(256)])
    model = Model(ROOT / "models" / "emoji-kandinsky", prepare(options.device))
    scheduler = DDPMScheduler.from_config(model.decoder.scheduler.config)
    sets = choose_sets(emoji, {"smoke": 4, "small": 20, "full": None}[size])[:SETS]
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for steps, shared in WAYS[size]:
        right, cost = measured_sets(model, real, sets, steps, shared)
        level = noise_level(scheduler, shared, steps)
        rows.append({"steps": steps, "shared": shared, "level": level, "rows": cost, "right": right})
        print(rows[-1], flush=True)
        (options.out / "emoji.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (options.out / "emoji.md").write_text(emoji_markdown(rows) + "\n", encoding="utf-8")


def emoji_markdown(rows):
    def name(row):
        if not row["shared"]:
            return f"{row['steps']} steps"
        return f"the first {row['shared']} of {row['steps']} shared, to noise level {row['level']:.2f}"

    cells = [[name(row), f"{row['rows']:.1f}", f"{row['right']:.2f}"] for row in rows]
    return table(["way", "rows per picture", "right picture"], cells)
