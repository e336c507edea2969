"""Seconds of one core that each stage of a large plan takes, without the model; table in docs/measurements/scale.md.

    python benchmarks/stages.py [--prompts 20000 100000] [--width 128]

Embeddings are in groups of about 20, as related prompts lie, and are clustered by two levels; 40 steps, 60 % saved.
Clustering by the exact ways is measured by `coarse.py` and `speed.py --only ward`.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, plan_for
from hierdiff_core.kandinsky.plan_embeddings import embeddings_for
from hierdiff_core.plan.algebra import attach, removed, rerolled
from hierdiff_core.plan.coarse import two_level_linkage
from hierdiff_core.plan.keys import text_key
from hierdiff_core.plan.linkage import merge_errors
from hierdiff_core.plan.part import below_each, whole
from hierdiff_core.plan.plan_file import plan_json, plan_of_json
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.shards import shard_of
from hierdiff_core.sampling.noise import BranchNoise, keyed_noise
from hierdiff_core.sampling.plan_numbers import plan_numbers

STEPS, SAVING, LEAVES_A_GROUP = 40, 0.6, 500


class Stages:
    """Seconds of each stage, in the order in which they were taken."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, name, call):
        began = time.process_time()
        result = call()
        self.seconds[name] = time.process_time() - began
        return result


def embeddings(count, width):
    """In groups of about 20."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(count // 20, 2), width))
    return centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, width))


def stages_of(count, width):
    """Seconds of each stage for so many prompts."""
    rows, stage = embeddings(count, width), Stages()
    texts = tuple(f"prompt {i} of many, in a style" for i in range(count))
    keys = stage("keys of the prompts", lambda: tuple(text_key(text) for text in texts))
    groups = max(count // LEAVES_A_GROUP, 1)
    Z = stage("clustering by two levels", lambda: two_level_linkage(rows, groups))
    errors = stage("errors of the merges", lambda: merge_errors(Z, rows))
    tree = stage("PromptTree", lambda: PromptTree(Z, "chord", errors, texts, keys, vectors=rows))
    plan = stage("plan_for", lambda: plan_for(tree, Budget("saving", SAVING), Profile(STEPS)))
    stage("branches", lambda: plan.branches)
    stage("founders of all steps", lambda: [plan.founders(k) for k in range(STEPS)])
    stage("noise keys of all steps", lambda: [plan.noise_keys(k) for k in range(STEPS)])
    text = stage("plan file written (and checked)", lambda: plan_json(plan))
    stage("plan file read", lambda: plan_of_json(text))
    stage("another number of steps", lambda: plan.resampled(STEPS // 2))
    stage("a shard of 8", lambda: shard_of(plan, 3, 8))
    for_workers(stage, plan, rows, texts)
    changed(stage, plan, rows)
    return stage.seconds


def for_workers(stage, plan, rows, texts):
    """What a driver makes before its first piece."""
    positive = torch.from_numpy(rows).float()
    given = PromptEmbeddings(positive, torch.zeros_like(positive), texts)
    found = stage("embeddings of the plan", lambda: embeddings_for(plan, given, None, None))
    noise = BranchNoise(keyed_noise(0), plan, found.own.keys)
    stage("plan for workers", lambda: plan_numbers(plan, noise))
    part = stage("the plan as a part", lambda: whole(plan))
    step = int(np.searchsorted(plan.clusters_per_step, plan.clusters_per_step[0] + 1))
    clusters = np.array_split(np.arange(plan.steps[step].num_clusters), 2000)
    stage("dealt out in 2,000 parts", lambda: below_each(part, step, clusters))


def changed(stage, plan, rows):
    """Sets that were changed: their means have founders."""
    smaller = stage("a prompt removed", lambda: removed(plan, 5))
    stage("its part", lambda: whole(smaller))
    stage("its noise keys of all steps", lambda: [smaller.noise_keys(k) for k in range(STEPS)])
    stage("a prompt attached", lambda: attach(plan, rows, rows[3:4] + 0.01, [77], ["another"], metric="chord"))
    other = stage("a prompt rerolled", lambda: rerolled(plan, [Reroll(7, STEPS // 2, 1)]))
    stage("the part of the rerolled", lambda: whole(other))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {count: stages_of(count, options.width) for count in options.prompts}
    print(f"| {' | '.join(['seconds', *(f'{count:,} prompts' for count in found)])} |\n|{'---|' * (len(found) + 1)}")
    for name in found[options.prompts[0]]:
        print(f"| {name} | {' | '.join(f'{seconds[name]:.2f}' for seconds in found.values())} |")


if __name__ == "__main__":
    main()
