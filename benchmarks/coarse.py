"""What clustering by two levels costs in sharing, against the exact tree; tables in docs/measurements/scale.md.

    python benchmarks/coarse.py [--prompts 20000] [--width 1280] [--kind topics] [--groups 10 30 100 300]
                                [--device cuda]

Embeddings are Gaussian, no model is needed: topics that have things that have variants, or, the hardest case, --kind
spread: no groups at all, with variances that fall from number to number. Rows, thresholds and distortion are those of
plans that save 60 % in 40 steps, with the sensitivity of the bundled model; distortion is relative to that of the exact
tree, and the last column is what the thresholds of the exact tree would save.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from hierdiff_core import Budget, Profile, PromptTree, build_plan, plan_for, read_sensitivity
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.plan.coarse import two_level_linkage
from hierdiff_core.plan.linkage import merge_errors, ward_linkage

SAVING, STEPS = 0.6, 40
VARIANTS, THINGS = 20, 20  # of a thing; of a topic
SPREAD = (1.0, 0.7, 0.5)  # of topics, things, variants


def embeddings(kind, count, width, seed=0):
    """(N, D) float64: topics, things and variants, or one cloud."""
    rng = np.random.default_rng(seed)
    if kind == "spread":
        return rng.normal(size=(count, width)) / np.sqrt(1 + np.arange(width))
    rows = np.zeros((1, width))
    for level, number in enumerate((max(count // (VARIANTS * THINGS), 2), max(count // VARIANTS, 2), count)):
        of = np.sort(rng.integers(len(rows), size=number))
        rows = rows[of] + SPREAD[level] * rng.normal(size=(number, width))
    return rows[rng.permutation(count)]


def table_row(name, Z, seconds, rows, sensitivity, exact=None):
    """A line of the table; returns the plan."""
    tree = PromptTree(Z, "chord", merge_errors(Z, rows))
    plan = plan_for(tree, Budget("saving", SAVING), Profile(STEPS, sensitivity=sensitivity))
    exact = exact or plan
    worse, saved = plan.distortion / exact.distortion, build_plan(Z, exact.thresholds).saved
    cells = name, f"{seconds:.1f}", f"{plan.nfe}", f"{plan.tau:.4f}", f"{worse:.4f}", f"{saved:.2%}"
    print(f"| {' | '.join(cells)} |", flush=True)
    return exact


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--kind", choices=("topics", "spread"), default="topics")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--groups", type=int, nargs="+", default=(10, 30, 100, 300))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows, sensitivity = (
        embeddings(options.kind, options.prompts, options.width),
        read_sensitivity(BUNDLED / "decoder" / "sensitivity.json"),
    )
    print(f"{options.prompts} prompts, {options.kind}, {options.width} numbers each, {options.device}\n")
    head = ["groups", "clustered s", "rows", "tau", "distortion", "saved at the exact thresholds"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    exact = None
    for groups in (1, *options.groups):
        began = time.perf_counter()
        Z = ward_linkage(rows, "chord", options.device) if groups == 1 else None
        Z = two_level_linkage(rows, groups, device=options.device) if Z is None else Z
        seconds = time.perf_counter() - began
        name = "exact" if groups == 1 else str(groups)
        exact = table_row(name, Z, seconds, rows, sensitivity, exact)


if __name__ == "__main__":
    main()
