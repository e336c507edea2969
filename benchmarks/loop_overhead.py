"""What the loop itself takes: CPU time of Algorithm 1 with a model that does nothing.

python benchmarks/loop_overhead.py
"""

import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from hierdiff_core import build_plan, falling_shape, tau_for_saving, thresholds_at, ward_linkage
from hierdiff_core.sampling.loop import ORDERS, denoise_plan
from hierdiff_core.sampling.state import State

SETS = (2000, 40, 16), (300, 40, 1280), (16, 200, 64)  # prompts, steps, numbers an embedding
REPEATS = 7


def nothing(rows, k, clusters, means, state):
    """A step that leaves everything as it is."""
    return rows, state


def related(count, width):
    """(2, N, D) embeddings in groups, as related prompts have them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(count // 20, 2), width))
    rows = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, width))
    return torch.from_numpy(np.stack([rows, rows])).float()


def half_saved(positive, num_steps):
    Z, shape = ward_linkage(positive), falling_shape(num_steps)
    return build_plan(Z, thresholds_at(tau_for_saving(Z, shape, 0.5), shape))


def cpu_milliseconds(run):
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        run()
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times)


def main():
    torch.set_num_threads(1)
    print("| prompts | steps | numbers an embedding | order | CPU ms, median of 7 |\n|---|---|---|---|---|")
    for count, num_steps, width in SETS:
        embeddings = related(count, width)
        plan, first = half_saved(embeddings[0], num_steps), torch.zeros(1, 4)
        for order, most_rows in zip(ORDERS, (None, 16), strict=True):
            run = partial(denoise_plan, plan, first, State(), nothing, embeddings, most_rows=most_rows)
            took = cpu_milliseconds(run)
            print(f"| {count} | {num_steps} | {width} | {order} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
