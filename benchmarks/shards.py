"""How even the shards of a plan are, and what their trunks cost: rows alone, nothing is drawn.

    python benchmarks/shards.py

Embeddings are random: topics, subjects in each, prompts in each of these, as in sets made of alternatives.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.plan.shards import rows_of_shards

STEPS, WIDTH = 40, 64
SIZES, SHARES, COUNTS = (256, 2000), (0.4, 0.6), (2, 4, 8, 24, 96)


def embeddings(count, seed=0):
    """(count, WIDTH): prompts of 8 topics of 12 subjects."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(8, WIDTH))
    subjects = topics[rng.integers(8, size=96)] + 0.6 * rng.normal(size=(96, WIDTH))
    return subjects[rng.integers(96, size=count)] + 0.35 * rng.normal(size=(count, WIDTH))


def main():
    print(
        "| prompts | saved | shards | largest shard / mean | rows of all shards / whole plan |\n|---|---|---|---|---|"
    )
    for size in SIZES:
        tree = PromptTree.of(embeddings(size), "chord", [f"prompt {i}" for i in range(size)])
        for share in SHARES:
            plan = plan_for(tree, Budget("saving", share), Profile(STEPS))
            for count in COUNTS:
                rows = rows_of_shards(plan, count)
                even, cost = max(rows) * count / sum(rows), sum(rows) / plan.nfe
                print(f"| {size} | {plan.saved:.0%} | {count} | {even:.3f} | {cost:.3f} |")


if __name__ == "__main__":
    main()
