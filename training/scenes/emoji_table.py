"""The table of sharing and of fewer steps for the emoji model, which decides late: beside that of the scene model.

python training/train_scenes.py emoji [--out FOLDER] [--smoke] [--device D]

Needs the emoji model's judge (training/judge.py) in .training/run/judge. Writes emoji.json and emoji.md to OUT.
"""

import json

import numpy as np
import torch
from emoji import load_emoji
from loop import prepare
from stage import ROOT, RUN

from .evaluate import TRUNKS, table

FEWER = (28, 20, 14, 10, 8, 6, 4)
SETS = 4


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


def measured_sets(model, judge, sets, steps, shared):
    """Share of pictures whose emoji and style are right, and rows per picture."""
    from judge import judged

    right, rows, count = [], 0, 0
    for pairs in sets:
        embeddings = model.predicted(pairs.prompts, model.prior_guidance)
        plan = trunk_plan(embeddings.positive.numpy(), shared, steps)
        names, styles = judged(judge, model.drawn(embeddings, plan))
        right.append(((names == pairs.names) & (styles == pairs.styles)).double().mean())
        rows, count = rows + plan.nfe, count + len(pairs.index)
    return float(np.mean(right)), rows / count


def measure_emoji(options):
    """Draw the sets in every way and write the table."""
    from diffusers import DDPMScheduler
    from evaluate import Model, choose_sets
    from judge import load_judge

    device = prepare(options.device)
    emoji = load_emoji(options.data, limit=options.config.names if options.smoke else None)
    judge = load_judge(RUN / "judge" if not options.judge else options.judge, device)
    model = Model(ROOT / "models" / "emoji-kandinsky", device)
    scheduler = DDPMScheduler.from_config(model.decoder.scheduler.config)
    sets = choose_sets(emoji, 4 if options.smoke else None)[:SETS]
    ways = [(40, shared) for shared in TRUNKS] + [(steps, 0) for steps in FEWER]
    rows = []
    for steps, shared in [(2, 0), (2, 1)] if options.smoke else ways:
        with torch.no_grad():
            right, cost = measured_sets(model, judge, sets, steps, shared)
        level = noise_level(scheduler, shared, steps)
        rows.append({"steps": steps, "shared": shared, "level": level, "rows": cost, "right": right})
        print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "emoji.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (options.out / "emoji.md").write_text(emoji_markdown(rows) + "\n", encoding="utf-8")


def emoji_markdown(rows):
    def name(row):
        if not row["shared"]:
            return f"{row['steps']} steps"
        return f"the first {row['shared']} of {row['steps']} shared, to noise level {row['level']:.2f}"

    cells = [[name(row), f"{row['rows']:.1f}", f"{row['right']:.2f}"] for row in rows]
    return table(["way", "rows per picture", "emoji and style right"], cells)
