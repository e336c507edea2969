"""A set on 1, 2, 4 and 8 GPUs: time, efficiency at the same rows, trunk, idle workers, bytes, a killed worker.

    python benchmarks/scale.py [--workers 1 2 4 8] [--prompts 256 256 2000 2000] [--kill] [--early SECONDS]
                               [--acceleration auto] [--folder FOLDER] [--out scale.json] [--device cuda] [--small]
                               [--prepare] [--table]

Kandinsky 2.2 at full size with random weights, float16, 512 x 512, 40 steps, 60 % saved, on Ray workers of this
machine. The weights are written to --folder once (2.6 GB), where the workers load them. The sets of --prompts are drawn
one after the other by the same workers: the first by processes that have drawn nothing yet. --kill draws the last once
more, and ends a worker's process in the middle of a piece. With --early workers are there for so long before the first
set, as while prompts are embedded: they load, and prepare calls. Each result is appended to --out as it comes, also
where several such commands run side by side, each on GPUs of its own (CUDA_VISIBLE_DEVICES); --table prints all.
--device cpu --small takes the bundled model, few prompts and few steps: it shows that all of it works, and its times
mean nothing.

before: the sets that the same processes have drawn before, or "cold"; "prepared" with --early. efficiency: seconds of
one worker, over workers x seconds, for the same set after the same sets. start, loading: of Ray, of the workers; not in
the seconds. trunk: share of the seconds before every worker has had work. idle: share of the seconds in which a worker
had no piece, mean and most. first piece: how much longer a worker's first piece took than its rows take it later. sent,
got: by the driver. killed: rows of the piece that was lost; rows that were heard of twice; seconds that such a piece
takes; how long its worker was at it; how much longer the set took than the run before; seconds until another worker was
in its place, or all was drawn.
"""

import argparse
import fcntl
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scale_watch import Killer, Metered, Watched, first_pieces

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, load_decoder, plan_for
from hierdiff_core.kandinsky.acceleration import ACCELERATIONS
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.kandinsky.workers import sample_on
from hierdiff_core.kandinsky.workers_early import ENTRY, EarlyWorkers
from hierdiff_core.sampling.executor import Workers

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
    busy, first = np.zeros(metered.count), {}
    for piece in sorted(metered.pieces, key=lambda piece: piece.began):
        busy[piece.worker] += piece.seconds
        first.setdefault(piece.worker, piece.began)
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
        "longest piece s": max(piece.seconds for piece in done),
        "first piece s more": first_pieces(done, metered.count),
        "rows a busy second": sum(piece.rows for piece in done) / sum(piece.seconds for piece in done),
        "MB sent": metered.sent / 1e6,
        "MB got": metered.got / 1e6,
    }


def measured(setting, decoder, executor, prompts, usual=None):
    """A run on workers that are there; with figures of a usual one, a worker is killed."""
    if usual is None:
        return drawn(setting, decoder, Metered(executor), prompts)
    rows, rate, before = usual["plan rows"], usual["rows a busy second"], len(executor.gone)
    killer = Killer(executor, usual["pieces"] // 4, rows // (usual["pieces"] * 2), rate)
    metered = Metered(executor, killer)
    found = drawn(setting, decoder, metered, prompts)
    lost = [piece for piece in metered.pieces if piece.failed]
    subtree, more = sum(piece.rows for piece in lost) / rate, found["seconds"] - usual["seconds"]
    return {
        **found,
        "killed": bool(killer.killed),
        "its rows": sum(piece.rows for piece in lost),
        "rows again": metered.told - rows,
        "its piece s": subtree,
        "was at it s": sum(piece.seconds for piece in lost),
        "seconds more": more,
        "more / piece": more / subtree if subtree else None,
        "missing s": sum((until or metered.ended) - since for since, until in executor.gone[before:]),
        "replaced": all(until is not None for _, until in executor.gone[before:]),
    }


def prepared(options):
    """The setting and the driver's decoder, whose weights lie in the folder."""
    if options.small:
        setting = Setting(BUNDLED / "decoder", options.device, WIDTHS["small"], 64, 6, 3.0, options.acceleration)
        return setting, load_decoder(setting.folder)
    folder = options.folder or Path(tempfile.gettempdir()) / "hierdiff-full-size"
    if not (folder / "model_index.json").exists():
        from full_size import random_decoder

        random_decoder(options.device).save_pretrained(folder)
    setting = Setting(folder, options.device, WIDTHS["full"], 512, 40, 10.0, options.acceleration)
    return setting, load_decoder(folder, torch.float16, "cpu")


COLUMNS = {
    "prompts": "{}",
    "workers": "{}",
    "before": "{}",
    "killed": "{}",
    "plan rows": "{}",
    "seconds": "{:.2f}",
    "rows a second": "{:.0f}",
    "efficiency": "{:.3f}",
    "start s": "{:.1f}",
    "loading s": "{:.1f}",
    "trunk": "{:.1%}",
    "idle": "{:.1%}",
    "most idle": "{:.1%}",
    "pieces": "{}",
    "longest piece s": "{:.2f}",
    "first piece s more": "{:.2f}",
    "MB sent": "{:.1f}",
    "MB got": "{:.1f}",
    "its rows": "{}",
    "rows again": "{}",
    "its piece s": "{:.2f}",
    "was at it s": "{:.2f}",
    "seconds more": "{:.2f}",
    "more / piece": "{:.2f}",
    "missing s": "{:.1f}",
    "replaced": "{}",
}
KIND = ("prompts", "before", "acceleration", "card")  # of runs that are compared


def table(results):
    """The results as Markdown."""
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    alone = {kind_of(found): found["seconds"] for found in results if found["workers"] == 1 and "killed" not in found}
    for found in results:
        if kind_of(found) in alone:
            found = {**found, "efficiency": alone[kind_of(found)] / found["workers"] / found["seconds"]}
        cells = [text.format(found[name]) if found.get(name) is not None else "" for name, text in COLUMNS.items()]
        print(f"| {' | '.join(cells)} |")


def kind_of(found):
    """What runs have in common that are compared."""
    return tuple(found.get(name) for name in KIND)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=None)
    parser.add_argument("--prompts", type=int, nargs="+", default=None, help="sets, one after the other")
    parser.add_argument("--kill", action="store_true", help="the last set once more, in which a worker dies")
    parser.add_argument("--early", type=float, help="seconds that workers have before, as while prompts are embedded")
    parser.add_argument("--acceleration", default=ACCELERATIONS[0], choices=ACCELERATIONS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("scale.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="write the weights, and end")
    parser.add_argument("--table", action="store_true", help="print the table of what is in --out, and end")
    options = parser.parse_args()
    if options.table:
        return table(json.loads(options.out.read_text()))
    setting, decoder = prepared(options)
    if options.prepare:
        return None
    gpus = torch.cuda.device_count() or 2
    sets = options.prompts or ((24, 24) if options.small else (256, 256, 2000, 2000))
    for count in options.workers or [count for count in (1, 2, 4, 8) if count <= gpus]:
        one_after_the_other(options.out, setting, decoder, sets, count, options.kill and count > 1, options.early)
    return table(json.loads(options.out.read_text()))


def one_after_the_other(out, setting, decoder, sets, count, kill, early=None):
    """Draw sets on the same workers, the last once more with a worker that is killed; keep the figures of each."""
    began, said = time.monotonic(), {"acceleration": setting.acceleration, "torch": torch.__version__}
    said["card"] = torch.cuda.get_device_name() if setting.device == "cuda" else "CPU"
    with Watched(Workers(count), setting.device, print) as executor:
        said["start s"] = time.monotonic() - began
        if early is not None:
            sizes = {"width": setting.pixels, "height": setting.pixels, "acceleration": setting.acceleration}
            executor.early(ENTRY, EarlyWorkers(Workers(count), setting.folder, setting.device, **sizes).setup)
            time.sleep(early)
        found = None
        for i, prompts in enumerate([*sets, *sets[-1:]] if kill else sets):
            usual = found if kill and i == len(sets) else None
            found = {**measured(setting, decoder, executor, prompts, usual), **said}
            found["before"] = " ".join([*["prepared"] * (early is not None), *map(str, sets[:i])]) or "cold"
            said["start s"] = 0.0
            keep(out, found)


def keep(out, found):
    """Append figures to a file that other processes append to."""
    with open(f"{out}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(out.read_text()) if out.exists() else []
        out.write_text(json.dumps([*results, found], indent=1))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
