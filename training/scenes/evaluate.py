"""How good the scene model is, and how early it decides, by what the judges see.

python training/train_scenes.py evaluate [--out FOLDER] [--smoke] [--device D]

Writes evaluation.json, evaluation.md and a sheet of pictures to OUT.
"""

import json
import time

import numpy as np
import torch
from loop import prepare
from PIL import Image

from .captions import (
    COLOURS,
    EQUAL,
    LEFT,
    PARTS,
    STYLES,
    Scene,
    Writer,
    canonical,
    held_out_pairs,
    random_scenes,
    trained_pairs,
)
from .icons import load_icons
from .judge import judged, load_judge
from .render import Renderer
from .sampling import GUIDANCE, STEPS, adherence, draw, load_model, starting_noise
from .vae import encode

SEED = 5
ALL_STEPS = 40
TRUNKS = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28)  # of 40 steps
FEWER = (28, 20, 14, 10, 8, 6, 4)
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)


def accuracy(found, scenes):
    """Share of pictures whose parts are right, for each part and for all of them."""
    right = found == scenes
    figures = dict(zip(PARTS, right.double().mean(0).tolist(), strict=True))
    return {"all": float(right.all(1).double().mean()), **figures}


class Evaluation:
    """Draws and judges.

    Parameters
    ----------
    model : SceneModel
    judge : SceneJudge
    icons : Icons
    small : bool   few pictures, for a CPU
    """

    def __init__(self, model, judge, icons, small):
        self.model, self.judge, self.icons, self.small = model, judge, icons, small
        generator = torch.Generator(model.device).manual_seed(SEED)
        self.render = Renderer(icons.pictures, model.device, generator)
        self.pairs = trained_pairs(len(icons.names))
        self.steps = 2 if small else STEPS

    def scenes(self, count, pairs=None, seed=SEED):
        """(count, 6) int64"""
        chosen = self.pairs if pairs is None else pairs
        return torch.from_numpy(random_scenes(np.random.default_rng(seed), count, chosen))

    def texts(self, scenes):
        """The plain captions."""
        return [canonical(Scene(*row), self.icons.names) for row in scenes.tolist()]

    def drawn(self, scenes, texts=None, **settings):
        """Accuracy of pictures of scenes; settings as of `draw`."""
        texts = texts or self.texts(scenes)
        noise = starting_noise(len(texts), SEED, self.model.device)
        latents = draw(self.model, texts, noise, **{"steps": self.steps, **settings})
        return accuracy(judged(self.judge, self.model.pictures(latents)), scenes)

    def real(self, count):
        """Accuracy on real pictures, and on the same through the VAE."""
        scenes = self.scenes(count)
        found, decoded = [], []
        with torch.no_grad():
            for part in scenes.split(256):
                pictures = self.render(part.to(self.model.device))
                found.append(judged(self.judge, pictures))
                decoded.append(judged(self.judge, self.model.pictures(encode(self.model.vae, pictures))))
        return accuracy(torch.cat(found), scenes), accuracy(torch.cat(decoded), scenes)

    def quality(self):
        """Rows of the first table: name -> accuracy."""
        count, few = (16, 8) if self.small else (2048, 512)
        rows = dict(zip(("real pictures", "through the VAE"), self.real(count), strict=True))
        scenes = self.scenes(count)
        for steps in (2,) if self.small else (ALL_STEPS, STEPS, 12):
            rows[f"drawn, {steps} steps"] = self.drawn(scenes, steps=steps)
        kept_out = held_out_pairs(len(self.icons.names)) & ~np.eye(len(self.icons.names), dtype=bool)
        if kept_out.any():
            rows[f"held-out pairs, {STEPS} steps"] = self.drawn(self.scenes(count, kept_out))
        writer = Writer(self.icons.names, SEED)
        told = [writer.joined(Scene(*row), (True,) * 6) for row in scenes.tolist()]
        rows[f"captions of other words, {STEPS} steps"] = self.drawn(scenes, told)
        for guidance in GUIDANCES[:2] if self.small else GUIDANCES:
            rows[f"guidance {guidance:g}, {STEPS} steps"] = self.drawn(scenes[:few], guidance=guidance)
        return rows

    def negatives(self):
        """How often pictures of captions without ground or style have that of the negative prompt; and without one."""
        scenes = self.scenes(8 if self.small else 512)
        writer = Writer(self.icons.names, SEED)
        told = [writer.joined(Scene(*row), (False, True, True, True, True, False)) for row in scenes.tolist()]
        noise = starting_noise(len(told), SEED, self.model.device)
        rows = {}
        for column, words in ((5, [f"{colour} background" for colour in COLOURS]), (0, [f"{s} style" for s in STYLES])):
            for i, negative in enumerate(words):
                found = [
                    judged(self.judge, self.model.pictures(draw(self.model, told, noise, self.steps, negative=text)))
                    for text in ("", negative)
                ]
                asked = [float((f[:, 1:5] == scenes[:, 1:5]).all(1).double().mean()) for f in found]
                shares = [float((f[:, column] == i).double().mean()) for f in found]
                rows[negative] = {"without": shares[0], "with": shares[1], "rest right": asked[1]}
                if self.small:
                    break
        return rows

    def sets(self):
        """Sets as a user draws them: name -> list of scenes (N, 6).

        *style*: one pair in 5 styles and 8 colours; *template*: one emoji with 16 others on 3 colours.
        """
        count = 1 if self.small else 4
        rng, names = np.random.default_rng(SEED), len(self.icons.names)
        style, template = [], []
        for _ in range(count):
            first, *others = (int(i) for i in rng.permutation(names)[:17])
            relation = int(rng.integers(2)) if count > 1 else LEFT
            looks = range(1 if self.small else len(STYLES))
            style.append([(s, first, others[0], relation, EQUAL, c) for s in looks for c in range(8)])
            look = int(rng.integers(len(STYLES)))
            colours = rng.permutation(8)[: 1 if self.small else 3].tolist()
            template.append([(look, first, other, relation, EQUAL, c) for other in others for c in colours])
        return {"style": [torch.tensor(s) for s in style], "template": [torch.tensor(s) for s in template]}

    def early(self):
        """Rows of the table of sharing and of fewer steps: accuracy and adherence of both kinds of sets."""
        ways = [(ALL_STEPS, shared) for shared in TRUNKS] + [(steps, 0) for steps in FEWER]
        ways = [(2, 0), (2, 1)] if self.small else ways
        rows, sets = [], self.sets()
        for steps, shared in ways:
            row = {"steps": steps, "shared": shared, "level": 1 - shared / steps}
            for kind, members in sets.items():
                row[kind] = self.measured(members, steps, shared)
            count = np.mean([len(member) for members in sets.values() for member in members])
            row["rows"] = float(shared / count + steps - shared)
            rows.append(row)
        return rows

    def measured(self, members, steps, shared):
        """Mean figures of sets that are drawn in one way."""
        found = []
        for i, scenes in enumerate(members):
            for seed in (SEED + 10 * i, SEED + 10 * i + 1):
                texts = self.texts(scenes)
                noise = starting_noise(len(texts), seed, self.model.device, same=True)
                latents = draw(self.model, texts, noise, steps=steps, shared=shared)
                seen = accuracy(judged(self.judge, self.model.pictures(latents)), scenes)
                found.append((seen["all"], float(adherence(self.model, latents, texts).mean())))
        return dict(zip(("all", "adherence"), np.mean(found, axis=0).tolist(), strict=True))

    def sheet(self, count=48, across=12):
        """A picture of scenes drawn from varied captions, and the captions."""
        count = 4 if self.small else count
        scenes = self.scenes(count, seed=SEED + 1)
        writer = Writer(self.icons.names, SEED + 1)
        texts = [writer.caption(Scene(*row))[0] for row in scenes.tolist()]
        latents = draw(self.model, texts, starting_noise(count, SEED, self.model.device), self.steps)
        pictures = ((self.model.pictures(latents) + 1) * 127.5).round().byte().cpu()
        rows = [torch.cat(list(part), dim=2) for part in pictures.split(min(across, count))]
        return Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()), texts


def evaluate(options):
    """Measure OUT/model by the first judge of OUT/judges (the others are for benchmarks) and write what was found."""
    began = time.monotonic()
    device = prepare(options.device)
    icons = load_icons(options.icons, options.data, options.config.names)
    model = load_model(options.out / "model", device)
    judges = [
        load_judge(options.out / "judges" / f"judge-{seed}.safetensors", device) for seed in options.config.judge.seeds
    ]
    work = Evaluation(model, judges[0], icons, options.smoke)
    figures = {"guidance": GUIDANCE, "early": work.early()}
    write(options.out, figures)
    figures["quality"] = work.quality()
    write(options.out, figures)
    figures["by another judge"] = Evaluation(model, judges[1], icons, options.smoke).drawn(
        work.scenes(16 if options.smoke else 2048)
    )
    figures["negatives"] = work.negatives()
    sheet, texts = work.sheet()
    sheet.save(options.out / "sheet.png")
    figures |= {"sheet": texts, "seconds": time.monotonic() - began}
    write(options.out, figures)
    print((options.out / "evaluation.md").read_text(encoding="utf-8"), flush=True)


def write(out, figures):
    """evaluation.json and evaluation.md"""
    (out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    parts = [early_table(figures["early"])]
    if "quality" in figures:
        parts.append(quality_table(figures["quality"]))
    if "negatives" in figures:
        parts.append(negatives_table(figures["negatives"]))
    (out / "evaluation.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def early_table(rows):
    def name(row):
        if not row["shared"]:
            return f"{row['steps']} steps"
        return f"the first {row['shared']} of {row['steps']} shared, to noise level {row['level']:.2f}"

    cells = [
        [
            name(row),
            f"{row['rows']:.1f}",
            *(f"{row[kind]['all']:.2f} / {row[kind]['adherence']:.3f}" for kind in ("style", "template")),
        ]
        for row in rows
    ]
    return table(["way", "rows per picture", "style: all right / adherence", "template"], cells)


def quality_table(rows):
    cells = [[name, *(f"{figures[part]:.3f}" for part in ("all", *PARTS))] for name, figures in rows.items()]
    return table(["pictures", "all right", *PARTS], cells)


def negatives_table(rows):
    cells = [[name, *(f"{row[k]:.3f}" for k in ("without", "with", "rest right"))] for name, row in rows.items()]
    return table(["negative prompt", "pictures that have it, without", "with the negative prompt", "rest right"], cells)
