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
import torch
from scale import SAVING, WIDTHS, embeddings_of

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.kandinsky.acceleration import graph_rows
from hierdiff_core.kandinsky.call_sizes import steady_sizes
from hierdiff_core.kandinsky.decoder import LEAST_PART
from hierdiff_core.kandinsky.shared import SharedRows, in_few_calls
from hierdiff_core.kandinsky.workers_run import GPU_BATCH
from hierdiff_core.plan.part import whole
from hierdiff_core.plan.unconditional import families_of_part, unconditional_families
from hierdiff_core.sampling.executor_cut import Pieces, on_its_own
from hierdiff_core.sampling.loop import denoise_part
from hierdiff_core.sampling.microbatch import MicroBatches
from hierdiff_core.sampling.row_counts import padded_count

# (card, acceleration): ms a row, by rows of a call; the last is the largest call
ROW_MS = {
    ("H100", "none"): {1: 41.23, 2: 20.40, 4: 11.44, 8: 7.42, 12: 7.27, 16: 6.81, 24: 6.35, 32: 6.08},
    ("H200", "none"): {1: 45.56, 2: 22.16, 4: 12.19, 8: 7.90, 12: 6.93, 16: 6.38, 24: 6.02, 32: 5.73},
    ("H100", "auto"): {1: 6.91, 2: 4.97, 4: 4.23, 8: 3.96, 12: 4.40, 16: 3.88, 24: 3.60, 32: 3.51},
    ("H100", "torch.compile"): {1: 6.35, 2: 4.79, 4: 4.02, 8: 3.79, 12: 4.16, 16: 3.85},
    ("H200", "torch.compile"): {1: 6.12, 2: 4.57, 4: 3.82, 8: 3.62, 12: 3.90, 16: 3.64},
}


class Card:
    """What calls take on a card.

    Parameters
    ----------
    row_ms : dict of int to float
        As in `ROW_MS`.
    new : float
        Seconds more for the first call of a size.
    sizes : sequence of int
        That calls are padded to.
    prepared : bool
        Whether calls of these sizes were made before.
    """

    def __init__(self, row_ms, new=0.0, sizes=(), prepared=False):
        self.pairs, self.new, self.sizes, self.prepared = max(row_ms), new, sizes, prepared
        rows, ms = np.array([(0, 0), *row_ms.items()]).T
        self.call = np.interp(np.arange(2 * self.pairs + 1) / 2, rows, rows * ms / 1000)

    def seconds(self, evaluations, seen):
        """Of a call; what was `seen` grows."""
        size = padded_count(evaluations, self.sizes)
        size = graph_rows(size) or size
        first = 0.0 if size in seen else self.new
        seen.add(size)
        return first + self.call[size]


class Unchanged:
    """The state of a scheduler that remembers nothing."""

    def __getitem__(self, rows):
        return self


def calls_of(part, stop, families, pairs):
    """Evaluations of each call of a piece, as a worker makes them."""
    own = replace(part, steps=part.steps[:stop])
    plain, leaves = on_its_own(own)
    sharing, counts = SharedRows(families_of_part(families, own)), []

    def call(rows):
        counts.append(rows.stop - rows.start)
        return torch.zeros(counts[-1], 1)

    def step(rows, k, clusters, means, state):
        sharing.ask(k, clusters)
        entries = sharing.entries(k, clusters, np.ones(len(clusters), dtype=bool))
        if entries is None:
            MicroBatches(2 * pairs).map(call, 2 * len(clusters))
        else:
            sharing.with_known(k, entries, in_few_calls(MicroBatches(pairs), call, len(entries.rows)))
        return rows, state

    rows = torch.zeros(int(plain.steps[0].parents.max()) + 1, 1)
    embeddings, most = torch.zeros(len(leaves), 2, 1), max(2 * pairs, LEAST_PART)
    for _ in denoise_part(plain, rows, Unchanged(), step, embeddings, most_rows=most if stop is None else None):
        pass
    return counts


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
        calls = calls_of(piece.part, piece.stop, self.families, self.card.pairs)
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
