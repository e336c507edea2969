"""What a driver of many workers does for each piece of a set, for `scale_simulation.py --costs`.

    python benchmarks/scale_costs.py [--prompts 100000] [--workers 1000] [--out costs.json]

Two things are measured, in seconds of this process's processor. Cutting: all pieces of a plan are taken from
`executor_cut.Pieces` and given back, nothing is drawn. Handing out: two actors of Ray on this machine get arrays of
several sizes and send back as many bytes; a line through these times gives the costs of a piece and of a byte.
"""

import argparse
import heapq
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scale_model import DEEP, STEPS, tree_of

from hierdiff_core.plan.part import whole
from hierdiff_core.plan.plan import Plan
from hierdiff_core.plan.steps import linked_steps

SIZES, CALLS = (1 << 10, 1 << 16, 1 << 19, 1 << 21), 200  # bytes there and back; calls of each size


def plan_of(tree):
    """A plan by hand with the clusters of a simulated tree."""
    labels = (np.concatenate([[0], np.cumsum(tree.opened <= k)]) for k in range(STEPS))
    return Plan(np.linspace(1, 0, STEPS), linked_steps(labels))


def cutting(plan, workers, batch):
    """(pieces, seconds of the processor in all, the longest of one piece)."""
    from hierdiff_core.sampling.executor_cut import Pieces

    part = whole(plan)
    began = time.process_time()
    now = [0.0]  # of workers that are equally fast: a piece takes as long as its rows
    pieces, idle = Pieces(part, None, workers, batch, lambda: now[0]), list(range(workers))
    count, longest, running = 0, 0.0, []
    while True:
        before = time.process_time()
        while idle and (piece := pieces.take(idle[0])) is not None:
            heapq.heappush(running, (now[0] + piece.size, piece.number, idle.pop(0)))
            count += 1
        if not running:
            break
        now[0], number, worker = heapq.heappop(running)
        pieces.done(number)
        idle.append(worker)
        longest = max(longest, time.process_time() - before)
    return count, time.process_time() - began, longest


def handing_out():
    """(bytes, seconds of the processor) of a call, for each of `SIZES` there and back."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        echo = ray.remote(num_cpus=1)(Echo)
        actors = [echo.remote() for _ in range(2)]
        for size in SIZES:
            given = np.zeros(size, dtype=np.uint8)
            ray.get([actor.back.remote(given) for actor in actors])
            began = time.process_time()
            pending = [actor.back.remote(given) for actor in actors for _ in range(2)]
            for i in range(CALLS):
                ready, pending = ray.wait(pending)
                ray.get(ready)
                pending.append(actors[i % 2].back.remote(given))
            yield 2 * size, (time.process_time() - began) / CALLS
            ray.get(pending)
    finally:
        ray.shutdown()


class Echo:
    """An actor that sends back what it gets."""

    def back(self, given):
        return given + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plan = plan_of(tree_of(options.prompts, DEEP))
    count, seconds, longest = cutting(plan, options.workers, options.batch)
    print(f"cutting: {count} pieces, {seconds:.2f} s, {1000 * seconds / count:.3f} ms each, longest {longest:.3f} s")
    sizes, times = np.array(list(handing_out())).T
    for size, took in zip(sizes, times, strict=True):
        print(f"handing out {size / 1024:.0f} KiB in all: {1000 * took:.3f} ms")
    byte, task = np.polyfit(sizes, times, 1)
    costs = {"cut": seconds / count, "task": float(max(task, 0)), "byte": float(max(byte, 0))}
    print(json.dumps(costs))
    if options.out:
        options.out.write_text(json.dumps(costs))


if __name__ == "__main__":
    main()
