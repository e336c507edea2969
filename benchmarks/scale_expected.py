"""What scale.py should find: its plans, cut by the pack itself, on workers whose calls take the time that was measured.

    python benchmarks/scale_expected.py [--card H200] [--prompts 256 2000] [--workers 2 4 8] [--first 4]
                                        [--acceleration none] [--kill]

Nothing is drawn. The seconds of a call by its rows are those of docs/measurements/performance.md; --first are those
that a process takes longer for its first piece, since CUDA is prepared then. --kill has a worker die in the middle of
the longest piece that it begins after half of the time, and another come in its place after --restart seconds. Tables
in docs/measurements/scale.md.
"""

import argparse
import heapq
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scale import SAVING, WIDTHS, embeddings_of

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.kandinsky.workers_run import GPU_BATCH
from hierdiff_core.plan.part import whole
from hierdiff_core.sampling.executor_cut import Pieces

# (card, acceleration): ms a row, by rows of a call; the last is the largest call
ROW_MS = {
    ("H100", "none"): {1: 41.23, 2: 20.40, 4: 11.44, 8: 7.42, 12: 7.27, 16: 6.81, 24: 6.35, 32: 6.08},
    ("H200", "none"): {1: 45.56, 2: 22.16, 4: 12.19, 8: 7.90, 12: 6.93, 16: 6.38, 24: 6.02, 32: 5.73},
    ("H100", "torch.compile"): {1: 6.35, 2: 4.79, 4: 4.02, 8: 3.79, 12: 4.16, 16: 3.85},
    ("H200", "torch.compile"): {1: 6.12, 2: 4.57, 4: 3.82, 8: 3.62, 12: 3.90, 16: 3.64},
}


class Expected:
    """A run of a plan.

    Parameters
    ----------
    plan : Plan
    workers : int
    row_ms : dict of int to float
        As in `ROW_MS`.
    first : float
        Seconds more for the first piece of each worker.
    """

    def __init__(self, plan, workers, row_ms, first=0.0):
        sizes, ms = np.array(list(row_ms.items())).T
        self.call = np.interp(np.arange(sizes[-1] + 1), sizes, sizes * ms / 1000)
        self.call[0] = 0.0
        self.first, self.workers, self.now = [first] * workers, workers, 0.0
        self.pieces = Pieces(whole(plan), None, workers, GPU_BATCH, lambda: self.now)
        self.plan, self.done, self.dead, self.lost = plan, [], {}, None

    def seconds(self, piece):
        """Of the calls of a piece."""
        widths = np.array([len(step.parents) for step in piece.part.steps[: piece.stop]])
        most = len(self.call) - 1
        return float((widths // most * self.call[most] + self.call[widths % most]).sum())

    def run(self, kill_after=np.inf, restart=0.0):
        """Seconds until all is drawn."""
        idle, events = list(range(self.workers)), []
        while True:
            for worker in list(idle):
                if (piece := self.pieces.take(worker)) is not None:
                    idle.remove(worker)
                    seconds, self.first[worker] = self.seconds(piece) + self.first[worker], 0.0
                    if self.now > kill_after and self.lost is None:
                        self.lost, seconds = (piece.number, seconds), seconds / 2
                    heapq.heappush(events, (self.now + seconds, piece.number, worker, seconds))
            if not self.pieces.left:
                return self.now
            self.now, number, worker, seconds = heapq.heappop(events)
            if number < 0:
                idle.append(worker)
            elif self.lost and number == self.lost[0]:
                self.pieces.failed(number, "killed")
                heapq.heappush(events, (self.now + restart, -1, worker, 0.0))
            else:
                self.pieces.done(number)
                self.done.append(seconds)
                idle.append(worker)


def plan_of(prompts):
    """The plan of scale.py."""
    embeddings = embeddings_of(prompts, WIDTHS["full"])
    tree = PromptTree.of(embeddings.positive, "chord", embeddings.prompts)
    return plan_for(tree, Budget("saving", SAVING), Profile(40))


def line(plan, workers, row_ms, options):
    """A line of the table."""
    alone = Expected(plan, 1, row_ms, options.first).run()
    found = Expected(plan, workers, row_ms, options.first)
    seconds = found.run()
    cells = [plan.num_prompts, workers, f"{alone:.1f}", f"{seconds:.1f}", f"{alone / workers / seconds:.3f}"]
    cells += [f"{1 - sum(found.done) / workers / seconds:.1%}", len(found.done), f"{max(found.done):.1f}"]
    if options.kill:
        killed = Expected(plan, workers, row_ms, options.first)
        more = killed.run(seconds / 2, options.restart + options.first) - seconds
        cells += [f"{more:.1f}", f"{killed.lost[1]:.1f}"] if killed.lost else ["", ""]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", default="H200", choices=sorted({card for card, _ in ROW_MS}))
    parser.add_argument("--acceleration", default="none", choices=sorted({way for _, way in ROW_MS}))
    parser.add_argument("--prompts", type=int, nargs="+", default=(256, 2000))
    parser.add_argument("--workers", type=int, nargs="+", default=(2, 4, 8))
    parser.add_argument("--first", type=float, default=4.0)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--restart", type=float, default=20.0)
    options = parser.parse_args()
    columns = ["prompts", "workers", "one worker s", "seconds", "efficiency", "idle", "pieces", "longest piece s"]
    columns += ["killed: s more", "lost piece s"] if options.kill else []
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for prompts in options.prompts:
        plan = plan_of(prompts)
        for workers in options.workers:
            print(line(plan, workers, ROW_MS[options.card, options.acceleration], options), flush=True)


if __name__ == "__main__":
    main()
