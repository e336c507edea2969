"""What the method costs beside the model: planning 2,000 prompts, and the loop with a model that does nothing.

    python benchmarks/overhead.py [--repeats 7] [--root FOLDER]

Prints the least and the median time of the processor for each part, in milliseconds on one core. --root runs another
copy of this repository, of an earlier version too: only names are used that have long been public. Compare copies by
turns, several times:

    for i in 1 2 3; do for root in OLD NEW; do python benchmarks/overhead.py --root $root; done; done
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

STEPS, SAVING = 40, 0.6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    options = parser.parse_args()
    sys.path.insert(0, str(options.root.resolve()))
    torch.set_num_threads(1)
    print(f"{options.root}, {options.prompts} prompts, {STEPS} steps, {SAVING:.0%} saved: ms, least and median")
    for name, run in parts(options.prompts).items():
        print(f"| {name} | {' | '.join(f'{1000 * x:.1f}' for x in times(run, options.repeats))} |", flush=True)


def times(run, repeats):
    """Least and median time of the processor for a call, in seconds; the first one does not count."""
    run()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found), statistics.median(found)


def parts(prompts):
    """The calls to time: name -> function."""
    from hierdiff_core import build_plan, falling_shape, merge_errors, tau_for_saving, thresholds_at, ward_linkage

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(prompts // 20, 64))
    rows = centres[rng.integers(len(centres), size=prompts)] + 0.3 * rng.normal(size=(prompts, 64))
    Z, shape = ward_linkage(rows, "chord"), falling_shape(STEPS)
    errors = merge_errors(Z, rows)

    def planned():
        return build_plan(Z, thresholds_at(tau_for_saving(Z, shape, SAVING), shape), range(prompts), errors)

    plan = planned()

    def cut_again():
        return plan.resampled(STEPS // 2), plan.straight_line()

    def branches():
        return planned().branches

    embeddings = torch.from_numpy(np.stack([rows, rows])).float()
    latents = torch.zeros(1, 4, 8, 8)
    return {
        "clustering, 64 numbers a prompt": lambda: ward_linkage(rows, "chord"),
        "merge errors": lambda: merge_errors(Z, rows),
        "a plan for a saving": planned,
        "the plan cut again, twice": cut_again,
        "a plan and its branches": branches,
        f"loop, breadth first, {plan.nfe} rows": lambda: loop(latents, plan, embeddings),
        "loop, depth first, 64 rows at most": lambda: loop(latents, plan, embeddings, most_rows=64),
    }


def loop(latents, plan, embeddings, **options):
    """The whole loop with a model that changes nothing."""
    try:
        from hierdiff_core.sampling.loop import denoise_plan
        from hierdiff_core.sampling.state import State
    except ImportError:  # versions before 0.2
        from hierdiff_core.sampling import sample_branches

        return sample_branches(lambda rows, k, means: rows, latents, plan, embeddings, **options)

    def nothing(rows, k, clusters, means, state):
        return rows, state

    return denoise_plan(plan, latents, State(), nothing, embeddings, **options)


if __name__ == "__main__":
    main()
