"""Does it cost quality to part prompts in every second or fourth step only? Tables in docs/measurements/rows.md.

    python benchmarks/gathered.py [--only table pictures] [--every 1 2 4 8] [--sets "birds" ...]

Plans of the bundled model's prompt sets, by its own trained sensitivity, with the same rows: a schedule whose threshold
stays the same for some steps on end, beside the one that falls in each. *table* is arithmetic: expected distortion,
steps that split, sizes of calls on a GPU. *pictures* draws both and compares them with pictures that share nothing.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emoji_sets import SETS

from hierdiff_core import (
    Profile,
    PromptTree,
    build_plan,
    decode,
    embed_prompts,
    load_decoder,
    load_prior,
    read_sensitivity,
    sample,
    tau_for_saving,
    thresholds_at,
)
from hierdiff_core.kandinsky.call_sizes import call_counts, few_call_sizes
from hierdiff_core.kandinsky.guidance import passes_per_row
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.plan.algebra import alone
from hierdiff_core.plan.unconditional import rows_of_families, unconditional_families
from hierdiff_core.prompts.prompt_set import parse_prompts
from hierdiff_core.sampling.noise import common_noise
from hierdiff_core.sampling.row_counts import padding_of

LARGEST_CALL = 32  # guidance pairs
SAVINGS = 0.3, 0.6, 0.8
SHAPES = "calibrated", "linear"
GUIDANCE, SIDE = 3.0, 128


def gathered(shape, every):
    """A falling shape that stays the same for `every` steps on end; its unshared steps are what they were.

    Of the calibrated shape, which is the root of 1 / weight, it is that of the mean weight: the best that may fall in
    these steps alone.
    """
    shape, shared = shape.copy(), np.count_nonzero(shape)
    for start in range(0, shared, every):
        block = slice(start, min(start + every, shared))
        shape[block] = np.mean(shape[block] ** -2.0) ** -0.5
    return shape / shape[0] if shared else shape


def plan_of(tree, steps, name, saving, every, sensitivity):
    shape = gathered(Profile(steps, name, sensitivity=sensitivity).falling(tree.metric), every)
    thresholds = thresholds_at(tau_for_saving(tree.Z, shape, saving, clamp=True), shape, tree.Z)
    return build_plan(tree.Z, thresholds, tree.keys, tree.errors, sensitivity, tree.prompts)


def call_sizes(plan):
    """(sizes of calls, sizes they are padded to, share of the rows that is padding) on a GPU, by plan."""
    shared = rows_of_families(unconditional_families(plan))
    counts = call_counts(plan.clusters_per_step, passes_per_row(plan, GUIDANCE, unconditional=shared), LARGEST_CALL)
    few = few_call_sizes(counts)
    return len(set(counts)), len(few) or len(set(counts)), padding_of(counts, few) / sum(counts)


def embedded(names):
    prior = load_prior()
    return {name: embed_prompts(prior, parse_prompts(SETS[name]), guidance=4.0) for name in names}


def head(*cells):
    print(f"\n| {' | '.join(cells)} |\n|{'---|' * len(cells)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def table(options, embeddings, sensitivity):
    """Means over the sets; distortion as a share of what the ungathered plan expects."""
    trees = {name: PromptTree.of(own.positive, "chord", own.prompts) for name, own in embeddings.items()}
    head(
        "steps",
        "shape",
        "saving",
        "parted in every",
        "rows",
        "distortion",
        "most",
        "splits",
        "sizes",
        "padded",
        "padding",
    )
    for steps in options.steps:
        for name in SHAPES:
            for saving in SAVINGS:
                before = {}
                for every in options.every:
                    plans = {of: plan_of(tree, steps, name, saving, every, sensitivity) for of, tree in trees.items()}
                    before = before or {of: (plan.nfe, plan.distortion) for of, plan in plans.items()}
                    rows = np.mean([plan.nfe / before[of][0] for of, plan in plans.items()])
                    worse = [plan.distortion / before[of][1] for of, plan in plans.items()]
                    splits = np.mean([np.count_nonzero(np.diff(plan.clusters_per_step)) for plan in plans.values()])
                    sizes, padded, padding = np.mean([call_sizes(plan) for plan in plans.values()], axis=0)
                    cells = f"{rows:.3f}", f"{np.mean(worse):.3f}", f"{max(worse):.3f}", f"{splits:.1f}"
                    row(steps, name, f"{saving:.0%}", every, *cells, f"{sizes:.1f}", f"{padded:.1f}", f"{padding:.1%}")


def pictures(options, embeddings, sensitivity):
    """Squared difference from pictures that share nothing: of latents, and of pixels, beside what was expected."""
    decoder, steps = load_decoder(), options.steps[0]
    head("set", "shape", "saving", "parted in every", "rows", "expected", "latents", "pixels")
    for name, own in embeddings.items():
        tree = PromptTree.of(own.positive, "chord", own.prompts)
        how = {"seed": 1, "guidance": GUIDANCE, "width": SIDE, "height": SIDE, "noise": common_noise(1)}
        whole = sample(decoder, own, alone(len(own), steps), **how)
        drawn = decode(decoder, whole)
        for shape in SHAPES:
            for saving in options.savings:
                for every in options.every:
                    plan = plan_of(tree, steps, shape, saving, every, sensitivity)
                    latents = sample(decoder, own, plan, **how)
                    moved = (latents - whole).square().mean(), (decode(decoder, latents) - drawn).square().mean()
                    differences = plan.distortion, *(float(value) for value in moved)
                    row(name, shape, f"{saving:.0%}", every, plan.nfe, *(f"{value:.4f}" for value in differences))


def main():
    parts = {"table": table, "pictures": pictures}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=["table"], metavar="PART", help=", ".join(parts))
    parser.add_argument("--every", nargs="+", type=int, default=[1, 2, 4, 8], help="steps, the first to compare with")
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 40])
    parser.add_argument("--savings", nargs="+", type=float, default=[0.6], help="of pictures")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    options = parser.parse_args()
    embeddings = embedded(options.sets)
    sensitivity = read_sensitivity(BUNDLED / "decoder" / "sensitivity.json")
    for part in options.only:
        parts[part](options, embeddings, sensitivity)


if __name__ == "__main__":
    main()
