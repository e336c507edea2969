"""A set on 1, 2, 4 and 8 GPUs: time, efficiency at the same rows, trunk, idle workers, bytes, a killed worker.

    python benchmarks/scale.py [--workers 1 2 4 8] [--prompts 256 2000] [--kill] [--acceleration none]
                               [--folder FOLDER] [--out scale.json] [--device cuda] [--small]

Kandinsky 2.2 at full size with random weights, float16, 512 x 512, 40 steps, 60 % saved, on Ray workers of this
machine. The weights are written to --folder once (2.6 GB), where the workers load them. Each result is appended to
--out as it comes; results that are there are not measured again, and the table is of all of them. --kill ends a
worker's process in the middle of a piece of a further run. --device cpu --small takes the bundled model, few prompts
and few steps: it shows that all of it works, and its times mean nothing.

efficiency: seconds of one worker, over workers x seconds, for the same set; loading is not in them. trunk: share of
the seconds before every worker has had work. idle: share of the seconds in which a worker had no piece, mean and most.
bytes: what the driver sent and got. killed: rows that were drawn again, and how much longer the set took, in seconds of
the piece that was lost.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, load_decoder, plan_for
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.kandinsky.workers import sample_on
from hierdiff_core.sampling.executor import Told, Workers

SAVING, GROUP = 0.6, 20  # prompts of one kind in a set
WIDTHS = {"full": 1280, "small": 128}


@dataclass(frozen=True)
class Setting:
    """What is drawn."""

    folder: Path
    device: str
    width: int  # numbers of an embedding
    pixels: int
    steps: int
    guidance: float
    acceleration: str


@dataclass
class Piece:
    """What was handed out: when, how large, on which lane."""

    began: float
    ended: float
    rows: int
    lane: int
    head: bool
    failed: bool


class Metered:
    """An executor that is watched.

    Parameters
    ----------
    executor : Executor
        Entered already.
    on_piece : callable, optional
        ``on_piece(count)`` when a piece was handed out, the how manieth.
    """

    def __init__(self, executor, on_piece: Callable[[int], None] | None = None):
        self.executor, self.on_piece, self.count = executor, on_piece or (lambda count: None), executor.count
        self.kinds = [""] * self.count
        self.pieces: list[Piece] = []
        self.open: dict[int, Piece] = {}
        self.sent = self.got = 0
        self.loading = self.began = self.ended = 0.0

    def begin(self, job):
        began = time.monotonic()
        self.executor.begin(job)
        self.loading = time.monotonic() - began

    def run(self, take):
        self.began = time.monotonic()
        for said in self.executor.run(lambda worker: self.handed(take(worker))):
            if said is not None:
                self.heard(*said)
            yield said
        self.ended = time.monotonic()

    def handed(self, task):
        if task is not None:
            number, data = task
            used = {piece.lane for piece in self.open.values()}
            lane = next(lane for lane in range(len(used) + 1) if lane not in used)
            rows = sum(len(step[0]) for step in data["part"]["steps"])
            self.open[number] = Piece(time.monotonic(), 0.0, rows, lane, bool(data["head"]), False)
            self.sent += size_of(data)
            self.on_piece(len(self.pieces) + len(self.open))
        return task

    def heard(self, number, what):
        self.got += size_of(getattr(what, "value", None))
        if not isinstance(what, Told) and number in self.open:
            piece = self.open.pop(number)
            piece.ended, piece.failed = time.monotonic(), not hasattr(what, "value")
            self.pieces.append(piece)


def size_of(data):
    """Bytes of the arrays in plain data."""
    if isinstance(data, np.ndarray):
        return data.nbytes
    values = data.values() if isinstance(data, dict) else data if isinstance(data, (list, tuple)) else ()
    return sum(size_of(value) for value in values)


def embeddings_of(count, width):
    """Prompts of several kinds, as related prompts lie."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(count // GROUP, 2), width))
    rows = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, width))
    prompts = tuple(f"prompt {i}" for i in range(count))
    return PromptEmbeddings(torch.from_numpy(rows).float(), torch.zeros(count, width), prompts)


def drawn(setting, decoder, executor, prompts):
    """A set drawn, and what there is to say of it."""
    embeddings = embeddings_of(prompts, setting.width)
    tree = PromptTree.of(embeddings.positive, "chord", embeddings.prompts)
    plan = plan_for(tree, Budget("saving", SAVING), Profile(setting.steps))
    options = {"guidance": setting.guidance, "width": setting.pixels, "height": setting.pixels, "seed": 1}
    options |= {"acceleration": setting.acceleration, "folder": setting.folder, "device": setting.device}
    latents = sample_on(executor, decoder, embeddings, plan, **options)
    if not torch.isfinite(latents).all():
        raise RuntimeError("some latents are not finite, or were not drawn")
    return figures_of(executor, plan)


def figures_of(metered, plan):
    """The figures of a run."""
    seconds, done = metered.ended - metered.began, [piece for piece in metered.pieces if not piece.failed]
    busy = np.zeros(metered.count)
    for piece in metered.pieces:
        busy[piece.lane % metered.count] += piece.ended - piece.began
    first = {}
    for piece in sorted(metered.pieces, key=lambda piece: piece.began):
        first.setdefault(piece.lane, piece.began)
    all_busy = max(first.values()) - metered.began if len(first) >= metered.count else seconds
    idle = 1 - busy / seconds
    return {
        "prompts": plan.num_prompts,
        "workers": metered.count,
        "plan rows": plan.nfe,
        "seconds": seconds,
        "rows a second": plan.nfe / seconds,
        "loading s": metered.loading,
        "trunk": all_busy / seconds,
        "head rows": sum(piece.rows for piece in done if piece.head) / plan.nfe,
        "idle": float(idle.mean()),
        "most idle": float(idle.max()),
        "pieces": len(done),
        "longest piece s": max(piece.ended - piece.began for piece in done),
        "MB sent": metered.sent / 1e6,
        "MB got": metered.got / 1e6,
    }


class Killer:
    """Ends the process of a worker in the middle of a piece, once, by its id.

    Parameters
    ----------
    executor : RayExecutor
        Of the run.
    after : int
        Pieces that were handed out before.
    seconds : float
        After that.
    """

    def __init__(self, executor, after: int, seconds: float):
        self.executor, self.after, self.seconds = executor, after, seconds
        self.timer: threading.Timer | None = None
        self.killed = 0

    def __call__(self, count):
        if count >= self.after and self.timer is None:
            self.timer = threading.Timer(self.seconds, self.kill)
            self.timer.start()

    def kill(self):
        for slot in self.executor.slots:
            if slot.task is not None and slot.pid and not self.killed:
                with suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGKILL)
                    self.killed = slot.pid


def measured(setting, decoder, prompts, workers, usual=None):
    """A run on so many workers; with figures of a usual one, a worker is killed."""
    from hierdiff_core.sampling.ray_executor import RayExecutor

    with RayExecutor(Workers(workers), setting.device) as executor:
        killer = Killer(executor, usual["pieces"] // 2, usual["longest piece s"] / 4) if usual else None
        metered = Metered(executor, killer)
        found = drawn(setting, decoder, metered, prompts)
    if killer is None:
        return found
    lost = [piece for piece in metered.pieces if piece.failed]
    piece = sum(piece.rows for piece in lost)
    own = sum(one.ended - one.began for one in metered.pieces if not one.failed and one.rows in {x.rows for x in lost})
    return {
        **found,
        "killed": bool(killer.killed),
        "rows again": piece,
        "seconds more": found["seconds"] - usual["seconds"],
        "lost piece s": own
        / max(sum(one.rows in {x.rows for x in lost} for one in metered.pieces if not one.failed), 1),
    }


def prepared(options):
    """The setting and the driver's decoder, whose weights lie in the folder."""
    if options.small:
        setting = Setting(BUNDLED / "decoder", options.device, WIDTHS["small"], 64, 6, 3.0, "none")
        return setting, load_decoder(setting.folder)
    folder = options.folder or Path(tempfile.gettempdir()) / "hierdiff-full-size"
    if not (folder / "model_index.json").exists():
        from full_size import random_decoder

        random_decoder("cpu").save_pretrained(folder)
    setting = Setting(folder, options.device, WIDTHS["full"], 512, 40, 10.0, options.acceleration)
    return setting, load_decoder(folder, torch.float16, "cpu")


COLUMNS = {
    "prompts": "{}",
    "workers": "{}",
    "killed": "{}",
    "plan rows": "{}",
    "seconds": "{:.2f}",
    "efficiency": "{:.3f}",
    "loading s": "{:.1f}",
    "trunk": "{:.1%}",
    "idle": "{:.1%}",
    "most idle": "{:.1%}",
    "pieces": "{}",
    "MB sent": "{:.1f}",
    "MB got": "{:.1f}",
    "rows again": "{}",
    "seconds more": "{:.2f}",
    "lost piece s": "{:.2f}",
}


def table(results):
    """The results as Markdown."""
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    alone = {found["prompts"]: found["seconds"] for found in results if found["workers"] == 1 and "killed" not in found}
    for found in results:
        if found["prompts"] in alone:
            found = {**found, "efficiency": alone[found["prompts"]] / found["workers"] / found["seconds"]}
        print(f"| {' | '.join(text.format(found[name]) if name in found else '' for name, text in COLUMNS.items())} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=None)
    parser.add_argument("--prompts", type=int, nargs="+", default=None)
    parser.add_argument("--kill", action="store_true", help="a further run of each, in which a worker dies")
    parser.add_argument("--acceleration", default="none")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("scale.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    setting, decoder = prepared(options)
    gpus = torch.cuda.device_count() or 2
    workers = options.workers or [count for count in (1, 2, 4, 8) if count <= gpus]
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for prompts in options.prompts or ((24,) if options.small else (256, 2000)):
        for count in workers:
            for kill in (False, True) if options.kill and count > 1 else (False,):
                one_more(results, options.out, setting, decoder, prompts, count, kill)
    table(results)


def one_more(results, out, setting, decoder, prompts, count, kill):
    """Measure what is not there yet, and keep it."""
    same = [found for found in results if (found["prompts"], found["workers"]) == (prompts, count)]
    if any(("killed" in found) == kill for found in same):
        return
    usual = next((found for found in same if "killed" not in found), None) if kill else None
    found = measured(setting, decoder, prompts, count, usual)
    card = torch.cuda.get_device_name() if setting.device == "cuda" else "CPU"
    results.append({**found, "card": card, "torch": torch.__version__, "acceleration": setting.acceleration})
    out.write_text(json.dumps(results, indent=1))
    print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    main()
