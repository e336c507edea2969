"""What scale.py should find: its plans, cut by the pack itself, on workers whose calls take the time that was measured.

    python benchmarks/scale_expected.py [--card H100] [--acceleration auto] [--prompts 256 2000] [--workers 2 4 8]
                                        [--sizes steady] [--prepared] [--new 0.35] [--kill] [--restart 20]

Nothing is drawn. The pack itself cuts the plan, orders the calls of each piece and shares their unconditional rows. The
seconds of a call by its rows are those of docs/measurements/performance.md and acceleration.md; --new are those that a
process takes longer for a call of a size that it has not made before. --sizes steady pads calls as workers do, own not
at all; --prepared: the workers have made calls of all steady sizes before. --kill has a worker die in the middle of the
first piece that it begins after half of the time, and another come in its place after --restart seconds. Tables in
docs/measurements/scale.md.
"""

import argparse
import heapq
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scale import SAVING, WIDTHS, embeddings_of
from scale_calls import ROW_MS, Card, calls_of

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.kandinsky.call_sizes import steady_sizes
from hierdiff_core.kandinsky.workers_run import GPU_BATCH
from hierdiff_core.plan.part import whole
from hierdiff_core.plan.unconditional import unconditional_families
from hierdiff_core.sampling.executor_cut import Pieces, on_its_own


class Expected:
    """A run of a plan.

    Parameters
    ----------
    plan : Plan
    workers : int
    card : Card
    families : K int64 arrays
        Of the plan.
    """

    def __init__(self, plan, workers, card, families):
        self.card, self.families, self.workers, self.now = card, families, workers, 0.0
        self.seen = [set(card.sizes) if card.prepared else set() for _ in range(workers)]
        self.pieces = Pieces(whole(plan), None, workers, GPU_BATCH, lambda: self.now)
        self.done, self.lost = [], None

    def seconds(self, piece, worker):
        """Of the calls of a piece."""
        part, _ = on_its_own(replace(piece.part, steps=piece.part.steps[: piece.stop]))
        calls = calls_of(part, piece.stop is not None, self.families, self.card.pairs)
        return sum(self.card.seconds(count, self.seen[worker]) for count in calls)

    def run(self, kill_after=np.inf, restart=0.0):
        """Seconds until all is drawn."""
        idle, events = list(range(self.workers)), []
        while True:
            for worker in list(idle):
                if (piece := self.pieces.take(worker)) is not None:
                    idle.remove(worker)
                    seconds = self.seconds(piece, worker)
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
                self.seen[worker] = set()
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


def line(plan, workers, card, options, families, alone):
    """A line of the table."""
    found = Expected(plan, workers, card, families)
    seconds = found.run()
    cells = [plan.num_prompts, workers, f"{alone:.1f}", f"{seconds:.1f}", f"{alone / workers / seconds:.3f}"]
    cells += [f"{1 - sum(found.done) / workers / seconds:.1%}", len(found.done), f"{max(found.done):.1f}"]
    if options.kill:
        killed = Expected(plan, workers, card, families)
        more = killed.run(seconds / 2, options.restart) - seconds
        cells += [f"{more:.1f}", f"{killed.lost[1]:.1f}"] if killed.lost else ["", ""]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", default="H100", choices=sorted({card for card, _ in ROW_MS}))
    parser.add_argument("--acceleration", default="auto", choices=sorted({way for _, way in ROW_MS}))
    parser.add_argument("--prompts", type=int, nargs="+", default=(256, 2000))
    parser.add_argument("--workers", type=int, nargs="+", default=(2, 4, 8))
    parser.add_argument("--sizes", default="steady", choices=("steady", "own"))
    parser.add_argument("--prepared", action="store_true")
    parser.add_argument("--new", type=float, default=0.35)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--restart", type=float, default=20.0)
    options = parser.parse_args()
    row_ms = ROW_MS[options.card, options.acceleration]
    sizes = steady_sizes(max(row_ms)) if options.sizes == "steady" else ()
    card = Card(row_ms, options.new, sizes, options.prepared)
    columns = ["prompts", "workers", "one worker s", "seconds", "efficiency", "idle", "pieces", "longest piece s"]
    columns += ["killed: s more", "lost piece s"] if options.kill else []
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for prompts in options.prompts:
        plan = plan_of(prompts)
        families = unconditional_families(plan)
        alone = Expected(plan, 1, card, families).run()
        for workers in options.workers:
            print(line(plan, workers, card, options, families, alone), flush=True)


if __name__ == "__main__":
    main()
