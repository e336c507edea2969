"""How good the scene model is, and how early it decides, by what the judges see.

python training/train_scenes.py evaluate [--out FOLDER] [--smoke] [--device D]

Writes evaluation.json, evaluation.md and a sheet of pictures to OUT.
"""

import json
import time
from dataclasses import dataclass

import numpy as np
import torch
from loop import prepare
from PIL import Image

from .captions import (
    COLOURS,
    EQUAL,
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
TRUNKS = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28)  # of 40 steps
FEWER = (28, 20, 14, 10, 8, 6, 4)


@dataclass(frozen=True)
class Size:
    """How much is drawn.

    Attributes
    ----------
    real, pictures, few : int    of the rows of real pictures, of the others, and of each guidance and negative prompt
    steps : tuple of int         of the rows of single pictures; the first is that of all other rows
    guidances : tuple of float
    ways : tuple of (int, int)   steps, and how many of them are shared
    sets, seeds : int            of each kind, and drawings of each
    looks, others, colours : int   of a set
    """

    real: int = 4096
    pictures: int = 2048
    few: int = 512
    steps: tuple = (STEPS, 40, 12)
    guidances: tuple = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    ways: tuple = (*((40, shared) for shared in TRUNKS), *((steps, 0) for steps in FEWER))
    sets: int = 4
    seeds: int = 2
    looks: int = len(STYLES)
    others: int = 16
    colours: int = len(COLOURS)


SIZES = {
    "full": Size(),
    "small": Size(  # minutes on a CPU
        real=64,
        pictures=32,
        few=16,
        steps=(STEPS,),
        guidances=(2.0, 5.0),
        ways=(*((20, shared) for shared in (0, 2, 4, 6, 8, 10)), *((steps, 0) for steps in (12, 8, 5))),
        sets=2,
        seeds=1,
        others=8,
        colours=2,
    ),
    "smoke": Size(2, 2, 2, (2,), (1.0,), ((2, 0), (2, 1)), 1, 1, 1, 3, 2),
}


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
    size : Size
    """

    def __init__(self, model, judge, icons, size):
        self.model, self.judge, self.icons, self.size = model, judge, icons, size
        generator = torch.Generator(model.device).manual_seed(SEED)
        self.render = Renderer(icons.pictures, model.device, generator)
        self.pairs = trained_pairs(len(icons.names))
        self.steps = size.steps[0]

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
        """Rows of the table of single pictures, one after the other: name, accuracy."""
        names, size = len(self.icons.names), self.size
        yield from zip(("real pictures", "through the VAE"), self.real(size.real), strict=True)
        scenes = self.scenes(size.pictures)
        for steps in size.steps:
            yield f"drawn, {steps} steps", self.drawn(scenes, steps=steps)
        kept_out = held_out_pairs(names) & ~np.eye(names, dtype=bool)
        if kept_out.any():
            yield f"held-out pairs, {self.steps} steps", self.drawn(self.scenes(size.pictures, kept_out))
        writer = Writer(self.icons.names, SEED)
        told = [writer.joined(Scene(*row), (True,) * 6) for row in scenes.tolist()]
        yield f"captions of other words, {self.steps} steps", self.drawn(scenes, told)
        for guidance in size.guidances:
            yield f"guidance {guidance:g}, {self.steps} steps", self.drawn(scenes[: size.few], guidance=guidance)

    def negatives(self):
        """How often pictures whose captions tell neither ground nor style have that of a negative prompt."""
        scenes = self.scenes(self.size.few)
        writer = Writer(self.icons.names, SEED)
        told = [writer.joined(Scene(*row), (False, True, True, True, True, False)) for row in scenes.tolist()]
        noise = starting_noise(len(told), SEED, self.model.device)

        def found(negative):
            latents = draw(self.model, told, noise, self.steps, negative=negative)
            return judged(self.judge, self.model.pictures(latents))

        without = found("")
        for column, value, negative in ((5, 5, "blue background"), (5, 1, "red background"), (0, 4, "line art style")):
            with_it = found(negative)
            shares = [float((f[:, column] == value).double().mean()) for f in (without, with_it)]
            rest = float((with_it[:, 1:5] == scenes[:, 1:5]).all(1).double().mean())
            yield negative, {"without": shares[0], "with": shares[1], "rest right": rest}

    def sets(self, kind):
        """Sets as a user draws them: list of scenes (N, 6).

        *style*: one pair in several styles and colours; *template*: one emoji with others, on several colours.
        """
        rng, names, size = np.random.default_rng(SEED), len(self.icons.names), self.size
        found = []
        for _ in range(size.sets):
            first, *others = (int(i) for i in rng.permutation(names)[: 1 + size.others])
            relation, look = (int(rng.integers(n)) for n in (2, len(STYLES)))
            colours = rng.permutation(len(COLOURS))[: size.colours].tolist()
            rows = [(look, first, other, relation, EQUAL, c) for other in others for c in colours[:3]]
            if kind == "style":
                rows = [(s, first, others[0], relation, EQUAL, c) for s in range(size.looks) for c in colours]
            found.append(torch.tensor(rows))
        return found

    def early(self):
        """Rows of the table of sharing and of fewer steps, one after the other."""
        for steps, shared in self.size.ways:
            row = {"steps": steps, "shared": shared, "level": 1 - shared / steps}
            for kind in ("style", "template"):
                row[kind] = self.measured(self.sets(kind), steps, shared)
            row["rows"] = float(np.mean([row[kind].pop("rows") for kind in ("style", "template")]))
            yield row

    def measured(self, members, steps, shared):
        """Figures of sets that are drawn in one way, all at once, each from the same noise for all of it."""
        scenes = torch.cat(members * self.size.seeds)
        texts = self.texts(scenes)
        lengths = [len(member) for member in members] * self.size.seeds
        starts = [starting_noise(n, SEED + i, self.model.device, same=True) for i, n in enumerate(lengths)]
        rows = [i for i, n in enumerate(lengths) for _ in range(n)]
        latents = draw(self.model, texts, torch.cat(starts), steps=steps, shared=shared, sets=rows)
        found = judged(self.judge, self.model.pictures(latents))
        return {
            **accuracy(found, scenes),
            "adherence": float(adherence(self.model, latents, texts).mean()),
            "pictures": len(scenes),
            "rows": shared * len(lengths) / len(scenes) + steps - shared,
        }

    def sheet(self, count=48, across=8):
        """A picture of scenes drawn from varied captions, and the captions."""
        count = min(count, self.size.few)
        scenes = self.scenes(count, seed=SEED + 1)
        writer = Writer(self.icons.names, SEED + 1)
        texts = [writer.caption(Scene(*row))[0] for row in scenes.tolist()]
        latents = draw(self.model, texts, starting_noise(count, SEED, self.model.device), self.steps)
        pictures = ((self.model.pictures(latents) + 1) * 127.5).round().byte().cpu()
        rows = [torch.cat(list(part), dim=2) for part in pictures.split(min(across, count))]
        return Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()), texts


def evaluate(options):
    """Measure OUT/model by the first judge of OUT/judges (the other is for benchmarks); each row is written at once."""
    began = time.monotonic()
    device = prepare(options.device)
    icons = load_icons(options.icons, options.data, options.config.names)
    size = SIZES["smoke" if options.smoke else "small" if options.small else "full"]
    judge = load_judge(options.out / "judges" / f"judge-{options.config.judge.seeds[0]}.safetensors", device)
    work = Evaluation(load_model(options.out / "model", device, not options.smoke), judge, icons, size)
    figures = {"guidance": GUIDANCE, "early": [], "quality": {}, "negatives": {}}
    for row in work.early():
        figures["early"].append(row)
        write(options.out, figures)
    for name in ("quality", "negatives"):
        for key, row in getattr(work, name)():
            figures[name][key] = row
            write(options.out, figures)
    sheet, figures["sheet"] = work.sheet()
    sheet.save(options.out / "sheet.png")
    figures["seconds"] = time.monotonic() - began
    write(options.out, figures)
    print((options.out / "evaluation.md").read_text(encoding="utf-8"), flush=True)


def write(out, figures):
    """evaluation.json and evaluation.md"""
    (out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    parts = [early_table(figures["early"]), quality_table(figures["quality"]), negatives_table(figures["negatives"])]
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
