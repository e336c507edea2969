"""Quality against UNet rows: how close shared pictures come to those of full sampling, for every schedule.

On the bundled model, all sets of emoji_sets.py. Every picture is compared with its own prompt's picture of all steps,
drawn with the same noise; standard sampling with fewer steps spends the same rows. Prints the tables of
docs/measurements/schedules.md, and writes quality.json (means and intervals) and quality.png.

    python benchmarks/quality.py [--small] [--seeds 4] [--out DIR]
    python benchmarks/quality.py --draw docs/measurements/quality.json --out docs/images
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emoji_sets import SETS
from quality_report import draw, tables

from hierdiff_core import (
    Budget,
    Profile,
    PromptEmbeddings,
    PromptTree,
    calibrate,
    decode,
    embed_prompts,
    load_decoder,
    load_prior,
    plan_for,
    read_sensitivity,
    sample,
)
from hierdiff_core.files.whole_files import replace
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.plan.algebra import alone
from hierdiff_core.plan.joining import join
from hierdiff_core.prompts.prompt_set import parse_prompts
from hierdiff_core.sampling.noise import common_noise

STEPS, GUIDANCE, PRIOR_GUIDANCE, SIZE = 40, 3.0, 4.0, 128
SAVINGS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)
QUESTION_SAVINGS = (0.5, 0.7, 0.85)
MEASURES = ("rows", "mse", "latent", "flip", "clip_text", "clip_prior", "expected")
# name -> metric, shape, power
CURVES = {
    "paper": ("cosine", "linear", None),
    "linear": ("chord", "linear", None),
    "cosine": ("chord", "cosine", None),
    "power 2": ("chord", "power", 2.0),
    "power 4": ("chord", "power", 4.0),
    "calibrated": ("chord", "calibrated", None),
    "calibrated, node's defaults": ("chord", "calibrated", None),
    "calibrated, cosine": ("cosine", "calibrated", None),
}


@dataclass(frozen=True)
class Run:
    """One way to draw all sets: a row of the tables."""

    curve: str  # a key of CURVES, or "standard"
    saving: float
    prior_noise: str = "per prompt"
    rescale: bool = False


def asked(curve, saving):
    """The last curve answers a question, and is not of the figure."""
    return curve != "calibrated, cosine" or saving in QUESTION_SAVINGS


def runs(savings):
    main = [Run(curve, saving) for curve in ["standard", *CURVES] for saving in savings if asked(curve, saving)]
    questions = [
        Run(curve, saving, noise, rescale)
        for curve, noise, rescale in itertools.product(("paper", "calibrated"), ("per prompt", "shared"), (False, True))
        for saving in savings
        if saving in QUESTION_SAVINGS
    ]
    return list(dict.fromkeys([*main, *questions]))


@dataclass
class Measured:
    """A run's values for each picture; FLIP errors are still being computed."""

    run: Run
    seed: int
    plans: dict
    values: dict
    flips: object

    def rows(self):
        """List of dicts, one for each set: the run, rows per picture, and means over the set's pictures."""
        values = {**self.values, **({"flip": np.array(self.flips.get())} if self.flips else {})}
        found, start = [], 0
        for name, plan in self.plans.items():
            here = slice(start, start + plan.num_prompts)
            start = here.stop
            means = {key: float(value[here].mean()) for key, value in values.items()}
            if plan.distortion is not None:
                means["expected"] = plan.distortion
            place = {"set": name, "seed": self.seed, "rows": plan.nfe / plan.num_prompts}
            found.append({**vars(self.run), **place, **means})
        return found


class Bench:
    """Models, sets and the sensitivities; draws a `Run` and measures it."""

    def __init__(self, sets, device, pool):
        self.prompts = sets
        self.prior, self.decoder = load_prior(device=device), load_decoder(device=device)
        self.sensitivities = {"shipped": read_sensitivity(BUNDLED / "decoder" / "sensitivity.json")}
        self.pool = pool

    def start(self, seed):
        """Embeddings and full pictures of a seed, for both kinds of prior noise."""
        self.seed, self.embeddings, self.full = seed, {}, {}
        prompts = [prompt for part in self.prompts.values() for prompt in part]
        for noise in ("per prompt", "shared"):
            together = embed_prompts(
                self.prior, prompts, guidance=PRIOR_GUIDANCE, seed=seed, noise=noise, batch_size=256
            )
            self.embeddings[noise] = dict(zip(self.prompts, split(together, self.prompts.values()), strict=True))
            self.full[noise] = self.draw([alone(len(e), STEPS) for e in self.embeddings[noise].values()], noise)
        first = next(iter(self.embeddings["per prompt"].values()))
        self.sensitivities["node's defaults"] = calibrate(
            self.decoder, first, STEPS, seed=seed, guidance=GUIDANCE, width=SIZE, height=SIZE, micro_batch=512
        )

    def plan(self, run, embeddings):
        if run.curve == "standard":
            return alone(len(embeddings), max(1, round(STEPS * (1 - run.saving))))
        metric, shape, power = CURVES[run.curve]
        sensitivity = self.sensitivities["node's defaults" if "defaults" in run.curve else "shipped"]
        profile = Profile(STEPS, shape, power=power or 1.0, sensitivity=sensitivity)
        plan = plan_for(PromptTree.of(embeddings.positive, metric), Budget("saving", run.saving), profile)
        return dataclasses.replace(plan, sensitivity=self.sensitivities["shipped"])  # all measured by the same

    def draw(self, plans, noise, rescale=False):
        """Latents and pictures of all sets in one batch: ((N, C, h, w), (N, H, W, 3))."""
        latents = sample(
            self.decoder,
            joined_embeddings(self.embeddings[noise].values()),
            join(plans),
            seed=self.seed,
            guidance=GUIDANCE,
            width=SIZE,
            height=SIZE,
            micro_batch=512,
            rescale_means=rescale,
            noise=common_noise(self.seed),
        )
        return latents, decode(self.decoder, latents, micro_batch=256)

    def measure(self, run):
        """Draw a run and begin to measure it; `Measured.rows` waits for the rest."""
        embeddings = self.embeddings[run.prior_noise]
        plans = {name: self.plan(run, e) for name, e in embeddings.items()}
        latents, pictures = self.draw(plans.values(), run.prior_noise, run.rescale)
        full_latents, full_pictures = self.full[run.prior_noise]
        values = {
            "mse": (pictures - full_pictures).square().mean(dim=(1, 2, 3)).numpy(),
            "latent": (latents - full_latents).square().mean(dim=(1, 2, 3)).cpu().numpy(),
            **self.similarities(pictures, joined_embeddings(embeddings.values())),
        }
        flips = None
        if run.prior_noise == "per prompt" and not run.rescale:
            flips = self.pool.starmap_async(flip, zip(to_bytes(full_pictures), to_bytes(pictures), strict=True), 16)
        return Measured(run, self.seed, plans, values, flips)

    @torch.no_grad()
    def similarities(self, pictures, embeddings):
        """Cosine of each picture's CLIP embedding with its prompt's text embedding, and with the prior's embedding."""
        device, encoder = self.decoder.unet.device, self.prior.image_encoder
        assert encoder.config.image_size == SIZE
        pixels = ((pictures - 0.5) / 0.5).permute(0, 3, 1, 2)
        images = torch.cat([encoder(batch.to(device, encoder.dtype)).image_embeds for batch in pixels.split(256)])
        tokens = self.prior.tokenizer(
            list(embeddings.prompts), padding="max_length", truncation=True, max_length=24, return_tensors="pt"
        )
        texts = self.prior.text_encoder(tokens.input_ids.to(device)).text_embeds
        cosine = torch.nn.functional.cosine_similarity
        return {
            "clip_text": cosine(images, texts).float().cpu().numpy(),
            "clip_prior": cosine(images.float().cpu(), embeddings.positive).numpy(),
        }


def split(embeddings, parts):
    """The `PromptEmbeddings` of each part, from those of all."""
    start = 0
    for part in parts:
        here = slice(start, start + len(part))
        start = here.stop
        yield PromptEmbeddings(embeddings.positive[here], embeddings.negative[here], embeddings.prompts[here])


def joined_embeddings(parts):
    parts = list(parts)
    prompts = [prompt for part in parts for prompt in part.prompts]
    return PromptEmbeddings(
        torch.cat([part.positive for part in parts]), torch.cat([part.negative for part in parts]), prompts
    )


def flip(reference, picture):
    """Mean FLIP error of two pictures, 0 ... 1 (Andersson et al. 2020), by NVIDIA's own package."""
    import flip_evaluator

    pictures = (np.float32(x) / 255 for x in (reference, picture))
    return float(flip_evaluator.evaluate(*pictures, "LDR", applyMagma=False)[1])


def to_bytes(pictures):
    """(N, H, W, 3) uint8 array of pictures in 0 ... 1."""
    return (pictures * 255).round().byte().numpy()


def summary(rows):
    """Means over all pictures' sets and seeds with bootstrap intervals, and ratios of errors to the paper's."""
    cells = defaultdict(dict)
    for row in rows:
        key = (row["curve"], row["saving"], row["prior_noise"], row["rescale"])
        cells[key][row["set"], row["seed"]] = row
    index = sorted(next(iter(cells.values())))
    draws = bootstrap_draws(index)
    found = []
    for (curve, saving, noise, rescale), cell in cells.items():
        entry = {"curve": curve, "saving": saving, "prior_noise": noise, "rescale": rescale}
        columns = {
            name: np.array([cell[place][name] for place in index]) for name in MEASURES if name in cell[index[0]]
        }
        for name, column in columns.items():
            entry[name] = interval(column.mean(), column[draws].mean(axis=1))
        for name, other in rivals(curve, saving, noise, rescale).items():
            if other in cells and other != (curve, saving, noise, rescale):
                theirs = {key: np.array([cells[other][place][key] for place in index]) for key in ("mse", "clip_text")}
                ratio = columns["mse"].mean() / theirs["mse"].mean()
                ratios = columns["mse"][draws].mean(axis=1) / theirs["mse"][draws].mean(axis=1)
                entry[f"mse / {name}"] = interval(ratio, ratios)
                gain = columns["clip_text"] - theirs["clip_text"]
                entry[f"clip_text - {name}"] = interval(gain.mean(), gain[draws].mean(axis=1))
        found.append(entry)
    return found


def rivals(curve, saving, noise, rescale):
    """What a run is compared with: name -> key of the other run."""
    other = {"calibrated": "calibrated, cosine", "linear": "paper"}.get(curve)
    return {
        "paper": ("paper", saving, "per prompt", False),
        "linear": ("linear", saving, "per prompt", False),
        "cosine metric": (other, saving, noise, rescale),
        "noise per prompt": (curve, saving, "per prompt", rescale),
        "mean as it is": (curve, saving, noise, False),
    }


def bootstrap_draws(index, count=2000):
    """(count, cells) indices of cells: sets drawn with replacement, and seeds within each."""
    rng = np.random.default_rng(0)
    sets, seeds = sorted({s for s, _ in index}), sorted({s for _, s in index})
    place = {cell: i for i, cell in enumerate(index)}
    grid = np.array([[place[name, seed] for seed in seeds] for name in sets])  # (sets, seeds)
    chosen = rng.integers(len(sets), size=(count, len(sets)))
    within = rng.integers(len(seeds), size=(count, len(sets), len(seeds)))
    return np.take_along_axis(grid[chosen], within, axis=2).reshape(count, -1)


def interval(value, draws):
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(value), float(low), float(high)]


def measure_all(options, pool):
    """Yields the results after each seed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # small differences of pictures are what is measured
    sets = {name: parse_prompts(text) for name, text in SETS.items()}
    if options.small:
        sets = {name: prompts[:6] for name, prompts in itertools.islice(sets.items(), 2)}
    bench = Bench(sets, device, pool)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    rows = []
    for seed in range(options.seeds):
        began = time.monotonic()
        bench.start(seed)
        todo = tqdm(runs((0.7,) if options.small else SAVINGS), desc=f"seed {seed}", mininterval=10)
        measured = [bench.measure(run) for run in todo]
        drawn = time.monotonic()
        rows += [row for each in measured for row in each.rows()]
        seconds = f"{drawn - began:.0f} s of drawing, {time.monotonic() - drawn:.0f} s of waiting for FLIP"
        print(f"seed {seed}: {seconds}", file=sys.stderr, flush=True)
        yield {
            "machine": f"{name}, torch {torch.__version__}, float32",
            "sets": len(sets),
            "prompts": sum(map(len, sets.values())),
            "seeds": seed + 1,
            "steps": STEPS,
            "runs": summary(rows),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two sets of 6 prompts, one saving: minutes on a CPU")
    parser.add_argument("--seeds", type=int, help="default: 4, or 1 with --small")
    parser.add_argument("--out", type=Path, default=Path("quality_results"), help="folder for quality.json and .png")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="only draw the tables and the figure again")
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.small else 4)
    if not options.draw and importlib.util.find_spec("flip_evaluator") is None:
        parser.error("FLIP is missing; install it: pip install flip-evaluator")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.draw:
        results = json.loads(options.draw.read_text(encoding="utf-8"))
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the pool's processes: a thread for each
        with multiprocessing.get_context("spawn").Pool() as pool:
            for results in measure_all(options, pool):
                replace(options.out / "quality.json", (json.dumps(results, indent=1) + "\n").encode())
    print(tables(results))
    draw(results).save(options.out / "quality.png")


if __name__ == "__main__":
    main()
