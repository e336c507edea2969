"""What variants cost, and how like the prompt's own picture they are, by where they part.

    python benchmarks/variants.py [--models emoji scenes] [--prompts 4] [--variants 4] [--steps 20] [--device cpu]
                                  [--part-at 0 0.1 0.3 0.5 0.7 0.9] [--out variants.md]

Some prompts are drawn without sharing, and then with variants that part from them at each share of the steps. Rows are
those of a variant alone. Variants are compared with their prompt's own picture, and with each other: by the difference
of colour that `hierdiff_core.measure.difference` measures, with its words, and by the mean squared difference of the
latents. On a CPU the prompts' own pictures must be bit-identical to those of the run without variants.

The bundled models are drawn as benchmarks/grow.py does it. emoji: under DDPM, which draws noise in each step, and DDIM,
which does not. scenes: under ComfyUI's Euler ancestral and Euler; they need COMFYUI_DIR or a ComfyUI in .comfyui.
"""

import argparse
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from grow import ROOT, STORE, Emoji, Scenes, tell
from judged_models import scene_networks

from hierdiff_core import Budget, Profile, PromptTree, Store, decode, plan_for
from hierdiff_core.measure.difference import visible_difference
from hierdiff_core.prompts.rows import with_variants

# class, what names its sampler, and its samplers: one that draws noise in each step, and one that does not
MODELS = {
    "emoji": (Emoji, "scheduler", ("DDPM", "DDIM")),
    "scenes": (Scenes, "sampler", ("euler_ancestral", "euler")),
}
PART_AT = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
WORDS = ("none visible", "slight", "visible")


class Line(NamedTuple):
    """Variants that part at one place: rows of each; means over all of them; whether the prompts' own pictures stay."""

    model: str
    sampler: str
    part_at: float
    rows: float
    steps: int
    own: float
    words: Counter
    others: float
    latents: float
    same: bool


def measured(model, sampler, count, variants, places):
    """Yield the lines of a sampler."""
    store, texts = Store(STORE), model.texts[:count]
    base = planned(model, texts)
    first = model.run(base, store)
    for part_at in places:
        plan = planned(model, with_variants(texts, range(count), variants, part_at))
        found = model.run(plan, store).latents.unflatten(0, (count, variants + 1))
        rows = (plan.nfe - base.nfe) / (count * variants)
        same = torch.equal(found[:, 0], first.latents)
        yield Line(model.name, sampler, part_at, rows, plan.num_steps, *compared(model, found), same)


def planned(model, prompts):
    """Every prompt by itself, but for its variants."""
    vectors = torch.as_tensor(model.vectors)[[model.texts.index(text) for text in prompts]]
    return plan_for(PromptTree.of(vectors, "chord", prompts), Budget("tau", 0.0), Profile(model.steps))


def compared(model, latents):
    """Of (P, 1 + V) latents: difference of colour to the own picture, its words, that of variants, the latents'."""
    pictures = pictures_of(model, latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
    own = [visible_difference(each, row[0]) for row in pictures for each in row[1:]]
    pairs = [visible_difference(a, b).mean for row in pictures for a, b in itertools.combinations(row[1:], 2)]
    squares = (latents[:, 1:].float() - latents[:, :1].float()).square().mean()
    mean = sum(each.mean for each in own) / len(own)
    return mean, Counter(each.word for each in own), sum(pairs) / max(len(pairs), 1), float(squares)


@torch.no_grad()
def pictures_of(model, latents):
    """(N, H, W, 3) pictures in 0 ... 1."""
    if isinstance(model, Emoji):
        return decode(model.decoder, latents)
    return scene_networks(ROOT / "models" / "emoji-scenes")[2].decode(latents).cpu().float()


HEADER = f"""| model | sampler | part at | rows of a variant | colours: from the own picture | {" / ".join(WORDS)} | \
from each other | latents, squared |
|---|---|---:|---:|---:|---:|---:|---:|"""


def row_of(line):
    """A line as Markdown."""
    words = " / ".join(str(line.words[word]) for word in WORDS)
    return (
        f"| {line.model} | {line.sampler} | {line.part_at:g} | {line.rows:g} of {line.steps} | {line.own:.2f} | "
        f"{words} | {line.others:.2f} | {line.latents:.3f} |"
    )


def table(lines):
    """The lines as Markdown."""
    return "\n".join([HEADER, *map(row_of, lines)])


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What variants cost, and how like their prompt's picture they are.")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--part-at", type=float, nargs="+", default=PART_AT)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    lines = []
    for name in options.models:
        made, attribute, samplers = MODELS[name]
        model = made(options.prompts, options.device, False)
        model.steps = options.steps
        for sampler in samplers:
            setattr(model, attribute, sampler)
            for line in measured(model, sampler, options.prompts, options.variants, options.part_at):
                tell(row_of(line))
                lines.append(line)
    print(table(lines))
    if options.out:
        options.out.write_text(table(lines) + "\n", encoding="utf-8")
    moved = [line for line in lines if not line.same and options.device == "cpu"]
    return f"prompts' own pictures changed on a CPU: {len(moved)} of {len(lines)} lines" if moved else 0


if __name__ == "__main__":
    sys.exit(main())
