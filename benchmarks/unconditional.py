"""What sharing unconditional rows at splits saves: passes by plan, and time on a device; docs/measurements/rows.md.

    python benchmarks/unconditional.py [--only PART ...] [--sets 64x40 64x20] [--small]

`table` is arithmetic, and `check` counts the rows of a real UNet's calls against it. `kandinsky` (the decoder at its
published size, random weights) and `native` (the SDXL-sized model of `speed_native.py` under the guider of the
Hierarchical KSampler) draw the same plan with shared rows and without, by turns. On a CPU rows are not shared: with
--small they are made to, to show that all parts work.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from timing import between, mark

from hierdiff_core import Budget, GuidanceCourse, Profile, PromptEmbeddings, PromptTree, load_decoder, plan_for, sample
from hierdiff_core.kandinsky.acceleration import PlainCalls, unet_calls
from hierdiff_core.kandinsky.call_sizes import few_call_sizes
from hierdiff_core.plan.unconditional import rows_of_families, unconditional_families

SAVINGS = 0.0, 0.3, 0.6
WAYS = "a pair each", "shared, in few sizes of calls", "shared"


def grouped(count, width):
    """Embeddings in groups, as related prompts have them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(count // 8, 2), width))
    return centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, width))


def plan_of(count, steps, saving, width=32):
    tree = PromptTree.of(grouped(count, width), "cosine")
    return plan_for(tree, Budget("saving", saving, clamp=True), Profile(steps))


def passes_of(plan):
    """Passes of a plan without shared rows, and with them."""
    return 2 * plan.nfe, GuidanceCourse().passes(plan, rows_of_families(unconditional_families(plan)))


def head(*names):
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def table(options):
    """Passes by plan, where all prompts have one negative and all steps are guided."""
    head("prompts", "steps", "rows saved", "rows", "passes, a pair each", "passes", "fewer")
    for count in 8, 64, 500:
        for steps in 8, 20, 40:
            for saving in SAVINGS:
                plan = plan_of(count, steps, saving)
                pairs, passes = passes_of(plan)
                row(count, steps, f"{plan.saved:.0%}", plan.nfe, pairs, passes, f"{1 - passes / pairs:.1%}")


def sharing(how, small=False):
    """Let runs share rows or not, whatever the device: one of WAYS."""
    import hierdiff_core.kandinsky.decoder as decoders
    import hierdiff_core.kandinsky.shared as ours

    modules = [ours, *(m for name, m in sys.modules.items() if name.endswith("nodes.host.shared_unconditional"))]
    for module in modules:
        module.shares_rows = lambda device: how != WAYS[0] and (small or device != "cpu")
    decoders.few_call_sizes = few_call_sizes if how == WAYS[1] else lambda counts: ()


def times_of(run, device, ways, small, repeats):
    """Seconds of the first run and of the median later one, for each way, by turns."""
    times = {how: [] for how in ways}
    for _ in range(1 + repeats):
        for how in ways:
            sharing(how, small)
            began = mark(device)
            run()
            times[how].append(between(began, mark(device)))
    sharing(WAYS[1])
    return {how: (own[0], float(np.median(own[1:]))) for how, own in times.items()}


def told(name, plan, times):
    """Rows of the tables of times."""
    pairs, passes = passes_of(plan)
    whole = times[WAYS[0]][1]
    for how, (first, later) in times.items():
        ratio = 1 if how == WAYS[0] else passes / pairs
        cells = f"{plan.saved:.0%}", f"{ratio:.3f}", f"{first:.3f}", f"{later:.3f}", f"{later / whole:.3f}"
        row(name, plan.num_prompts, plan.num_steps, how, *cells, f"{ratio / (later / whole):.3f}")


def head_of_times():
    names = "", "prompts", "steps", "unconditional rows", "saved", "passes' ratio", "first run s", "later run s"
    head(*names, "time's ratio", "passes / time")


@torch.no_grad()
def new_sizes(network, device, sizes, given):
    """Times of the first call of each size and of a second; then with the allocator's memory given back."""
    head("rows of a call", "first call ms", "second", "after the memory was given back")
    for rows in sizes:
        took = []
        for i in range(3):
            if i == 2 and torch.device(device).type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            began = mark(device)
            network(*given(rows))
            took.append(between(began, mark(device)))
        row(rows, *(f"{1000 * seconds:.0f}" for seconds in took))


@torch.no_grad()
def kandinsky(options):
    """A full-size decoder: the same plan without shared rows and with them."""
    from full_size import random_decoder

    decoder = load_decoder() if options.small else random_decoder("cuda")
    device, side = decoder.unet.device, 64 if options.small else 512
    width, dtype = decoder.unet.config.encoder_hid_dim, decoder.unet.dtype

    def given(rows):
        t = torch.tensor(500, device=device)
        x = torch.randn(rows, 4, side // 8, side // 8, device=device, dtype=dtype)
        return x, t, torch.randn(rows, width, device=device, dtype=dtype)

    new_sizes(PlainCalls(decoder.unet), device, options.sizes, given)
    head_of_times()
    for count, steps in options.sets:
        plan = plan_of(count, steps, options.saving)
        embeddings = PromptEmbeddings(torch.from_numpy(grouped(count, width)).float(), torch.zeros(count, width))
        for acceleration in options.acceleration:
            settings = {"guidance": 4.0, "width": side, "height": side, "acceleration": acceleration}
            run = partial(sample, decoder, embeddings, plan, **settings)
            told(f"Kandinsky, {acceleration}", plan, times_of(run, device, WAYS, options.small, options.repeats))


@functools.cache
def sdxl(small):
    """A model of the host's, in a host that was started for it."""
    from comfyui_host import import_pack

    import_pack(Path(tempfile.mkdtemp()), cpu=small)
    from speed_native import random_sdxl

    return random_sdxl(small)


def first(options):
    """First and second run of processes of their own: does padding calls to few sizes pay? Each way twice, by turns."""
    head("acceleration", "prompts", "steps", "unconditional rows", "first run s", "second run s", "passes with padding")
    for count, steps in options.sets:
        for acceleration in options.acceleration:
            for how in (*WAYS[1:], *WAYS[:0:-1]):
                command = [sys.executable, __file__, "--sets", f"{count}x{steps}", "--acceleration", acceleration]
                command += ["--saving", str(options.saving), "--child", how, *["--small"] * options.small]
                run = subprocess.run(command, capture_output=True, text=True)
                if run.returncode:
                    row(acceleration, count, steps, how, f"failed: {run.stderr.strip().splitlines()[-1][:300]}")
                    continue
                *took, rows = json.loads(run.stdout.strip().splitlines()[-1])
                row(acceleration, count, steps, how, *(f"{seconds:.2f}" for seconds in took), rows)


def child(options):
    """Print what a process of `first` measures, as JSON."""
    from full_size import random_unet

    decoder, (count, steps) = load_decoder() if options.small else random_unet("cuda"), options.sets[0]
    width, side, rows = decoder.unet.config.encoder_hid_dim, 64 if options.small else 512, []
    plan = plan_of(count, steps, options.saving)
    embeddings = PromptEmbeddings(torch.from_numpy(grouped(count, width)).float(), torch.zeros(count, width))
    sharing(options.child, options.small)
    settings = {"guidance": 4.0, "width": side, "height": side, "acceleration": options.acceleration[0]}
    calls = type(unet_calls(decoder.unet, options.acceleration[0]))
    evaluate = calls.__call__

    def counted(network, latents, *others):
        rows.append(len(latents))
        return evaluate(network, latents, *others)

    calls.__call__ = counted
    times = []
    for _ in range(2):
        rows.clear()
        began = mark(decoder.unet.device)
        sample(decoder, embeddings, plan, **settings)
        times.append(between(began, mark(decoder.unet.device)))
    print(json.dumps([*times, sum(rows)]))


def native(options):
    """A model of the host's: the same plan without shared rows and with them."""
    patcher = sdxl(options.small)
    from speed_native import Runs

    head_of_times()
    for count, steps in options.sets:
        runs = Runs(patcher, count, steps, 8 if options.small else 128)
        plan, ways = plan_for(runs.plan.tree, Budget("saving", options.saving, clamp=True), Profile(steps)), WAYS[::2]
        times = times_of(partial(runs.shared, plan), patcher.load_device, ways, options.small, options.repeats)
        told("SDXL shape", plan, times)
        options.whole[count, steps] = times[WAYS[0]][1]


def cut(options):
    """Guidance in a part of the steps, for the first of the sets, each row with an unconditional pass of its own."""
    patcher = sdxl(options.small)
    import guidance_cut

    count, steps = options.sets[0]
    whole = options.whole.get((count, steps))
    sharing(WAYS[0])
    courses = guidance_cut.COURSES if whole is None else guidance_cut.COURSES[1:2]
    given = patcher, count, steps, 8 if options.small else 128, 1, courses, whole
    guidance_cut.measure(*given, passes_of=lambda course, plan, device: course.passes(plan))


@torch.no_grad()
def check(options):
    """Rows of the UNet's calls against the plan's passes."""
    decoder = load_decoder(device="cpu" if options.small or not torch.cuda.is_available() else "cuda")
    width, forward, rows = decoder.unet.config.encoder_hid_dim, decoder.unet.forward, []

    def counted(x, *args, **kwargs):
        rows.append(len(x))
        return forward(x, *args, **kwargs)

    decoder.unet.forward = counted
    head("prompts", "steps", "rows saved", "", "passes by the plan", "rows of the UNet's calls", "calls")
    for count, steps, saving in (8, 8, 0.0), (8, 8, 0.3), (24, 8, 0.6):
        plan = plan_of(count, steps, saving)
        embeddings = PromptEmbeddings(torch.from_numpy(grouped(count, width)).float(), torch.zeros(count, width))
        for on, passes in zip((False, True), passes_of(plan), strict=True):
            sharing(WAYS[2 * on], small=True)
            rows.clear()
            sample(decoder, embeddings, plan, width=64, height=64)
            how = "shared" if on else "a pair each"
            row(count, steps, f"{plan.saved:.0%}", how, passes, sum(rows), len(rows))
            assert sum(rows) == passes


def main():
    parts = {"table": table, "check": check, "kandinsky": kandinsky, "first": first, "native": native, "cut": cut}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small models on a CPU")
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=("table", "check"), metavar="PART", help=", ".join(parts)
    )
    parser.add_argument("--sets", nargs="+", default=["64x40", "64x20"], metavar="PROMPTSxSTEPS")
    parser.add_argument("--saving", type=float, default=0.6)
    parser.add_argument("--acceleration", nargs="+", default=["none"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[6, 13, 37], help="calls whose first is timed")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.whole = {}  # seconds with guidance in all steps, by set
    options.sets = [tuple(map(int, asked.split("x"))) for asked in options.sets]
    if options.child:
        child(options)
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() and not options.small else "CPU"
    print(f"{card}, torch {torch.__version__}")
    for part in options.only:
        parts[part](options)


if __name__ == "__main__":
    main()
