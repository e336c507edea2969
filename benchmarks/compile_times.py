"""What the first calls and the first run of a process cost, for each acceleration: Kandinsky 2.2 at full size.

    python benchmarks/compile_times.py [--ways auto none torch.compile] [--allocator native cudaMallocAsync] [--small]

Each way is timed in processes of its own: one whose caches on disk are empty, then one that finds what the first has
left there. --small takes the bundled model and runs on a CPU: it shows that all parts work.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

HEAD = [
    "",
    "allocator",
    "caches",
    "first call s",
    "another size s",
    "a row s",
    "first run s",
    "second run s",
    "ms a row: 1",
    "2",
    "16",
    "sizes with graphs",
    "warnings",
    "difference from none",
]
ROWS = 16  # of the first call


def child(way, small):
    """Print what this process measures, as JSON."""
    import torch
    from full_size import random_unet
    from speed import PARSED, saving_plan, small_setting
    from timing import seconds

    from hierdiff_core import PromptEmbeddings, PromptTree, sample
    from hierdiff_core.kandinsky.acceleration import GraphedCalls, unet_calls

    warnings, sizes = [], set()
    logging.getLogger().addHandler(Collecting(warnings))
    device = "cpu" if small else "cuda"
    decoder = small_setting().decoder if small else random_unet(device)
    unet, side = decoder.unet, 8 if small else 64
    capture = GraphedCalls.capture

    def counted(calls, key, *others):
        sizes.add(key[0])
        capture(calls, key, *others)

    GraphedCalls.capture = counted
    most = 2 if small else ROWS
    width, dtype = unet.config.encoder_hid_dim, unet.dtype

    def inputs(rows):
        generator = torch.Generator(device).manual_seed(rows)
        options = {"device": device, "dtype": dtype, "generator": generator}
        t = torch.tensor(500, device=device)
        return torch.randn(2 * rows, 4, side, side, **options), t, torch.randn(2 * rows, width, **options)

    with torch.no_grad():
        plain = unet_calls(unet, "none")(*inputs(2))
        network = unet_calls(unet, way)
        firsts = [once(lambda rows=rows: network(*inputs(rows)), device) for rows in (most, most // 2, 1)]
        difference = (network(*inputs(2)) - plain).abs().max().item()
        curve = []
        for rows in (1, 2, most):
            given = inputs(rows)
            curve.append(1000 / rows * seconds(lambda given=given: network(*given), device, repeats=5, warm=3))
        network.close()
    prompts, steps = (PARSED[:4], 8) if small else (PARSED, 40)
    rows = torch.randn(len(prompts), width, generator=torch.Generator().manual_seed(0))
    embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), prompts)
    plan = saving_plan(PromptTree.of(rows, "cosine"), steps)
    options = {"guidance": 10.0, "width": 8 * side, "height": 8 * side, "acceleration": way}
    runs = [once(lambda: sample(decoder, embeddings, plan, **options), device) for _ in range(2)]
    print(json.dumps([*firsts, *runs, *curve, len(sizes), warnings, difference]))


def once(call, device):
    """Seconds of one call, by the clock: what the CPU does counts."""
    import torch

    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Collecting(logging.Handler):
    """Keeps what is logged as a warning."""

    def __init__(self, warnings):
        super().__init__(logging.WARNING)
        self.warnings = warnings

    def emit(self, record):
        self.warnings.append(record.getMessage())


def measured(way, allocator, folder, small):
    """The cells of a process that finds its caches in a folder."""
    setting = f"backend:{allocator}"
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "CUDA_CACHE_PATH": f"{folder}/cuda",
        "PYTORCH_ALLOC_CONF": setting,
        "PYTORCH_CUDA_ALLOC_CONF": setting,
    }
    command = [sys.executable, __file__, "--child", way, *(["--small"] if small else [])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        return [f"failed: {run.stderr.strip().splitlines()[-1][:300]}"]
    *times, graphs, warnings, difference = json.loads(run.stdout.strip().splitlines()[-1])
    return [*(f"{cell:.2f}" for cell in times), graphs, "; ".join(warnings), f"{difference:.1e}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", default=["auto", "none", "CUDA graphs", "torch.compile"])
    parser.add_argument("--allocator", nargs="+", default=["native"], choices=["native", "cudaMallocAsync"])
    parser.add_argument("--cold", action="store_true", help="only the process whose caches are empty")
    parser.add_argument("--small", action="store_true", help="the bundled model on a CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.small)
        return
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for way in options.ways:
        for allocator in options.allocator:
            with tempfile.TemporaryDirectory() as folder:
                for caches in ("empty",) if options.cold else ("empty", "full"):
                    cells = [way, allocator, caches, *measured(way, allocator, folder, options.small)]
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
