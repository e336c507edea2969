"""How good a model is: what the judge sees in its pictures, alone and shared, and how near its prior comes.

    python training/evaluate.py [--model .training/run/model] [--against models/emoji-kandinsky] [--prompts N]

Prints tables and writes evaluation.md, evaluation.json and sheets of pictures to --out (beside the model by default).
On a GPU all 5,330 prompts are drawn (minutes); on a CPU take --prompts 40.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", "benchmarks"))

from emoji import STYLES, caption, load_emoji
from evaluation_report import write_report
from judge import judged, load_judge
from loop import prepare
from quality import joined_embeddings, split
from stage import DATA, RUN, to_signed

from hierdiff_core import (
    Budget,
    Profile,
    PromptEmbeddings,
    PromptTree,
    decode,
    embed_prompts,
    load_decoder,
    load_prior,
    plan_for,
    sample,
)
from hierdiff_core.kandinsky.model_folder import suitable_settings
from hierdiff_core.plan.algebra import alone
from hierdiff_core.plan.joining import join

STEPS, GUIDANCE, SEED = 40, 4.0, 0
PRIOR_GUIDANCES = (1.0, 2.0, 4.0)
NUM_SETS, SET_NAMES = 8, 8
ENOUGH_STYLES = 4  # of an emoji, for it to count as covered
BATCH = {"prior": 1024, "unet": 512, "pictures": 256}
# row of the table -> saving, metric, shape, power
SHARED = {
    "shared, 50 % saved": (0.5, "cosine", "linear", 1.0),
    "shared, 65 % saved": (0.65, "cosine", "linear", 1.0),
    "shared, 80 % saved": (0.8, "cosine", "linear", 1.0),
    "shared, 80 % saved, chord, power 4": (0.8, "chord", "power", 4.0),
}
FEWER_STEPS = (20, 14, 8)


@dataclass(frozen=True)
class Pairs:
    """Some of the pictures.

    Attributes
    ----------
    emoji : EmojiSet
    index : (M,) int64 tensor   name * 5 + style
    """

    emoji: object
    index: torch.Tensor

    @property
    def names(self):
        return self.index // len(STYLES)

    @property
    def styles(self):
        return self.index % len(STYLES)

    @property
    def prompts(self):
        """list of M str"""
        return [caption(self.emoji.names[i // len(STYLES)], STYLES[i % len(STYLES)]) for i in self.index.tolist()]

    @property
    def pictures(self):
        """(M, 3, 128, 128) uint8 tensor   the real ones"""
        return self.emoji.pictures.flatten(0, 1)[self.index]

    @property
    def held_out(self):
        """(M,) bool tensor"""
        return ~self.emoji.training.flatten()[self.index]

    @property
    def complete(self):
        """Whether every style of every name is among them."""
        return len(self.index) == self.emoji.training.numel()

    def of(self, chosen):
        """The pairs where `chosen`, a (M,) bool tensor."""
        return Pairs(self.emoji, self.index[chosen])


def choose_pairs(emoji, count=None):
    """All pairs, or `count` of them: the same ones every time."""
    index = torch.arange(emoji.training.numel())
    if count is not None and count < len(index):
        order = torch.randperm(len(index), generator=torch.Generator().manual_seed(SEED))
        index = order[:count].sort().values
    return Pairs(emoji, index)


def choose_sets(emoji, count=None):
    """Sets of related and unrelated prompts: two kinds of emoji, four emoji of each, in all styles.

    Parameters
    ----------
    emoji : EmojiSet
    count : int, optional   prompts in all, at most; 320 in 8 sets by default

    Returns
    -------
    sets : list of Pairs
    """
    rng = np.random.default_rng(SEED)
    kinds = [np.flatnonzero(np.array(emoji.subcategories) == kind) for kind in sorted(set(emoji.subcategories))]
    half = SET_NAMES // 2
    chosen = [rng.permutation(names)[:half] for names in kinds if len(names) >= half]
    order = rng.permutation(len(chosen))
    size = SET_NAMES * len(STYLES)
    num_sets = min(NUM_SETS, max(1, len(chosen) // 2), max(1, (count or NUM_SETS * size) // size))
    sets = []
    for k in range(num_sets):
        names = [name for kind in order[2 * k : 2 * k + 2] for name in chosen[kind]] or range(len(emoji.names))
        index = [int(name) * len(STYLES) + style for name in names for style in range(len(STYLES))]
        sets.append(Pairs(emoji, torch.tensor(index[:count])))
    return sets


class Model:
    """A prior and a decoder that belong together.

    Parameters
    ----------
    folder : path     with prior/ and decoder/
    device : torch.device
    """

    def __init__(self, folder, device):
        self.folder = Path(folder)
        self.prior = load_prior(self.folder / "prior", device=device)
        self.decoder = load_decoder(self.folder / "decoder", device=device)

    @cached_property
    def prior_guidance(self):
        """The prior guidance that the model says suits it; the pipeline's default if it says nothing."""
        return suitable_settings(self.folder / "prior").get("guidance", [4.0] * 3)[1]

    def predicted(self, prompts, guidance):
        """Embeddings that the prior predicts."""
        return embed_prompts(self.prior, prompts, guidance=guidance, seed=SEED, batch_size=self.batch("prior"))

    def batch(self, what):
        return BATCH[what] if self.prior.device.type != "cpu" else {"prior": 16}.get(what, 1)

    @torch.no_grad()
    def embedded(self, pictures):
        """(M, 3, 128, 128) uint8 -> (M, D) float32 embeddings by the image encoder, on the CPU"""
        encoder, processor = self.prior.image_encoder, self.prior.image_processor
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
        rows = []
        for part in pictures.split(BATCH["pictures"]):
            pixels = ((part.float() / 255 - mean) / deviation).to(encoder.device, encoder.dtype)
            rows.append(encoder(pixels).image_embeds.float().cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def of_real_pictures(self, pairs):
        """Embeddings of the real pictures themselves: what a perfect prior would predict."""
        positive = self.embedded(pairs.pictures)
        negative = self.prior.get_zero_embed(1, self.prior.device).float().cpu().expand_as(positive)
        return PromptEmbeddings(positive, negative, pairs.prompts)

    @torch.no_grad()
    def reconstructed(self, pictures):
        """(M, 3, 128, 128) uint8 -> (M, 3, 128, 128) float in 0 ... 1, through MoVQ and back"""
        movq = self.decoder.movq
        parts = pictures.split(BATCH["pictures"])
        latents = [movq.encode(to_signed(p).to(movq.device, movq.dtype)).latents for p in parts]
        return self.decoded(torch.cat(latents))

    def decoded(self, latents):
        return decode(self.decoder, latents, micro_batch=self.batch("pictures")).permute(0, 3, 1, 2)

    def drawn(self, embeddings, plan):
        """(M, 3, 128, 128) float in 0 ... 1"""
        latents = sample(
            self.decoder,
            embeddings,
            plan,
            seed=SEED,
            guidance=GUIDANCE,
            width=128,
            height=128,
            micro_batch=self.batch("unet"),
        )
        return self.decoded(latents)


def shared_plan(embeddings, saving, metric, shape, power):
    """The plan of a set; a few prompts cannot save much, and then save what they can."""
    tree = PromptTree.of(embeddings.positive, metric)
    return plan_for(tree, Budget("saving", saving, clamp=True), Profile(STEPS, shape, power=power))


@torch.no_grad()
def measure(judge, pairs, pictures):
    """What is right of each picture, and how near it comes to the real one.

    Parameters
    ----------
    judge : Judge
    pairs : Pairs            what the pictures should show
    pictures : (M, 3, 128, 128) float in 0 ... 1

    Returns
    -------
    measured : dict of (M,) float tensors   identity, style, both (0 or 1), sharpness, psnr
    """
    names, styles = judged(judge, pictures)
    real = pairs.pictures
    identity, style = (names == pairs.names).float(), (styles == pairs.styles).float()
    near = [
        closeness(ours, theirs.float() / 255)
        for ours, theirs in zip(pictures.split(BATCH["pictures"]), real.split(BATCH["pictures"]), strict=True)
    ]
    sharpness, psnr = (torch.cat(values) for values in zip(*near, strict=True))
    return {"identity": identity, "style": style, "both": identity * style, "sharpness": sharpness, "psnr": psnr}


def closeness(pictures, real):
    """(B,) sharpness as a share of the real picture's, and (B,) PSNR in dB (infinite where they are equal)"""
    error = (pictures - real).square().mean(dim=(1, 2, 3))
    return edges(pictures) / edges(real), -10 * error.log10()


def edges(pictures):
    """(B, 3, H, W) -> (B,) root mean square of the gradient

    Squared, since the plain mean is the same for a hard edge and a soft one.
    """
    right = pictures[..., :-1, 1:] - pictures[..., :-1, :-1]
    down = pictures[..., 1:, :-1] - pictures[..., :-1, :-1]
    return (right.square() + down.square()).mean(dim=(1, 2, 3)).sqrt()


def coverage(pairs, both):
    """Share of the emoji that come out right in at least four of the five styles; None where some were not drawn."""
    if not pairs.complete:
        return None
    return float((both.unflatten(0, (-1, len(STYLES))).sum(dim=1) >= ENOUGH_STYLES).float().mean())


def summary(pairs, measured):
    """Means over the pictures; a PSNR of equal pictures is None."""
    means = {name: float(values.mean()) for name, values in measured.items()}
    return {
        **{name: mean if np.isfinite(mean) else None for name, mean in means.items()},
        "coverage": coverage(pairs, measured["both"]),
        "pictures": len(pairs.index),
    }


class Table:
    """Rows of one model: draws, measures, says how long it took.

    Attributes
    ----------
    rows : dict     name of a row -> dict of figures
    pictures : dict   name of a row -> (Pairs, pictures as uint8), for the sheets
    """

    def __init__(self, model, judge):
        self.model, self.judge = model, judge
        self.rows, self.pictures = {}, {}

    def add(self, name, pairs, draw, held_out=False, **more):
        """Measure what ``draw()`` gives; with `held_out` those pairs get a row of their own too."""
        began = time.perf_counter()
        pictures = draw()
        measured = measure(self.judge, pairs, pictures)
        row = {**summary(pairs, measured), **more, "seconds": time.perf_counter() - began}
        self.rows[name] = row
        self.pictures[name] = pairs, (pictures * 255).round().byte()
        if held_out and pairs.held_out.any():
            part = {key: values[pairs.held_out] for key, values in measured.items()}
            self.rows[f"{name}: held-out pairs"] = summary(pairs.of(pairs.held_out), part)
        tqdm.write(f"{self.model.folder.name}: {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items() if v))

    def add_alone(self, pairs):
        """Rows of single pictures: real ones, through MoVQ, through embeddings, and sampled."""
        self.add("real pictures", pairs, lambda: pairs.pictures.float() / 255)
        self.add("MoVQ and back", pairs, lambda: self.model.reconstructed(pairs.pictures))
        draw = partial(self.model.drawn, plan=alone(len(pairs.index), STEPS))
        embeddings = self.model.of_real_pictures(pairs)
        self.add("from the image's embedding", pairs, lambda: draw(embeddings), True, rows=STEPS)
        for guidance in (4.0, 1.0):
            name = f"{STEPS} steps, prior guidance {guidance:g}"
            self.add(name, pairs, lambda g=guidance: draw(self.model.predicted(pairs.prompts, g)), True, rows=STEPS)

    def add_sets(self, sets):
        """Rows of sets: standard sampling with all and with fewer steps, and shared."""
        pairs = Pairs(sets[0].emoji, torch.cat([part.index for part in sets]))
        together = self.model.predicted(pairs.prompts, self.model.prior_guidance)
        embeddings = list(split(together, [part.index for part in sets]))
        for num_steps in (STEPS, *FEWER_STEPS):
            plans = [alone(len(part), num_steps) for part in embeddings]
            self.add_plans(f"sets, {num_steps} steps", pairs, embeddings, plans)
        for name, ways in SHARED.items():
            self.add_plans(f"sets, {name}", pairs, embeddings, [shared_plan(part, *ways) for part in embeddings])

    def add_plans(self, name, pairs, embeddings, plans):
        rows = sum(plan.nfe for plan in plans) / len(pairs.index)
        together, plan = joined_embeddings(embeddings), join(plans)
        self.add(name, pairs, lambda: self.model.drawn(together, plan), rows=rows)


def prior_quality(model, pairs, guidances=PRIOR_GUIDANCES):
    """Cosine of predicted embeddings to the real picture's, and how often that is the nearest of all pictures'.

    Returns
    -------
    rows : dict   guidance -> {"cosine", "nearest", "cosine held out", "nearest held out"}
    """
    everything = torch.nn.functional.normalize(model.embedded(pairs.emoji.pictures.flatten(0, 1)))
    rows = {}
    for guidance in guidances:
        predicted = model.predicted(pairs.prompts, guidance).positive
        cosines = torch.nn.functional.normalize(predicted) @ everything.T  # (M, all)
        cosine = cosines.gather(1, pairs.index[:, None]).flatten()
        nearest = (cosines.argmax(dim=1) == pairs.index).float()
        rows[f"{guidance:g}"] = {"cosine": float(cosine.mean()), "nearest": float(nearest.mean())}
        if pairs.held_out.any():
            rows[f"{guidance:g}"]["cosine held out"] = float(cosine[pairs.held_out].mean())
            rows[f"{guidance:g}"]["nearest held out"] = float(nearest[pairs.held_out].mean())
    return rows


def size(folder):
    """MiB of a model's files."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20


def evaluate(model, judge, pairs, sets):
    """All figures and pictures of a model: (dict, {name of a row: (Pairs, pictures)})."""
    table = Table(model, judge)
    prior = prior_quality(model, pairs)
    table.add_alone(pairs)
    table.add_sets(sets)
    name = model.folder.name
    figures = {"model": name, "size": size(model.folder), "prior guidance": model.prior_guidance}
    return {**figures, "prior": prior, "rows": table.rows}, table.pictures


def main():
    parser = argparse.ArgumentParser(description="Evaluate a model, beside another one if you like.")
    parser.add_argument("--model", type=Path, default=RUN / "model")
    parser.add_argument("--against", type=Path, help="another model to measure beside it")
    parser.add_argument("--judge", type=Path, default=RUN / "judge")
    parser.add_argument("--prompts", type=int, help="so many prompts only; no coverage then")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, help="beside the model by default")
    parser.add_argument("--device", help="the best there is by default")
    arguments = parser.parse_args()
    out = arguments.out or arguments.model.resolve().parent
    out.mkdir(parents=True, exist_ok=True)
    device = prepare(arguments.device)
    judge = load_judge(arguments.judge, device)
    emoji = load_emoji(arguments.data)
    if judge.names != emoji.names:
        parser.error("the judge knows other emoji than the data has; train it again: python training/judge.py")
    pairs, sets = choose_pairs(emoji, arguments.prompts), choose_sets(emoji, arguments.prompts)
    folders = [folder for folder in (arguments.model, arguments.against) if folder]
    results = [evaluate(Model(folder, device), judge, pairs, sets) for folder in folders]
    print(write_report(out, results, device))


if __name__ == "__main__":
    main()
