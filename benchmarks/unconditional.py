"""What sharing unconditional rows at splits saves: passes by plan, and time on a device; docs/measurements/rows.md.

    python benchmarks/unconditional.py [--only PART ...] [--sets 64x40 64x20] [--small]

`table` is arithmetic, and `check` counts the rows of a real UNet's calls against it. `kandinsky` (the decoder at its
published size, random weights) and `native` (the SDXL-sized model of `speed_native.py` under the guider of the
Hierarchical KSampler) draw the same plan with shared rows and without, by turns. On a CPU rows are not shared: with
--small they are made to, to show that all parts work.
"""

import argparse
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
from hierdiff_core.plan.unconditional import rows_of_families, unconditional_families

SAVINGS = 0.0, 0.3, 0.6


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


def table():
    """Passes by plan, where all prompts have one negative and all steps are guided."""
    head("prompts", "steps", "rows saved", "rows", "passes, a pair each", "passes", "fewer")
    for count in 8, 64, 500:
        for steps in 8, 20, 40:
            for saving in SAVINGS:
                plan = plan_of(count, steps, saving)
                pairs, passes = passes_of(plan)
                row(count, steps, f"{plan.saved:.0%}", plan.nfe, pairs, passes, f"{1 - passes / pairs:.1%}")


def sharing(on, small):
    """Let runs share rows or not, whatever the device."""
    import hierdiff_core.kandinsky.shared as ours

    modules = [ours, *(m for name, m in sys.modules.items() if name.endswith("nodes.host.shared_unconditional"))]
    for module in modules:
        module.shares_rows = lambda device: on and (small or device != "cpu")


def by_turns(run, device, small, repeats=2):
    """Median seconds without shared rows and with them."""
    times = {False: [], True: []}
    for on in (True, *(False, True) * repeats):
        sharing(on, small)
        began = mark(device)
        run()
        times[on].append(between(began, mark(device)))
    sharing(True, small)
    return [float(np.median(own[-repeats:])) for own in (times[False], times[True])]


def told(name, plan, times):
    """A row of the tables of times."""
    pairs, passes = passes_of(plan)
    without, with_shared = times
    ratios = passes / pairs, with_shared / without
    cells = f"{ratios[0]:.3f}", f"{without:.3f}", f"{with_shared:.3f}", f"{ratios[1]:.3f}"
    row(name, plan.num_prompts, plan.num_steps, f"{plan.saved:.0%}", *cells, f"{ratios[0] / ratios[1]:.3f}")


def head_of_times():
    head("", "prompts", "steps", "saved", "passes' ratio", "s without", "s with", "time's ratio", "passes / time")


@torch.no_grad()
def kandinsky(options):
    """A full-size decoder: the same plan without shared rows and with them."""
    from full_size import random_decoder

    decoder = load_decoder() if options.small else random_decoder("cuda")
    device, side = decoder.unet.device.type, 64 if options.small else 512
    width = decoder.unet.config.encoder_hid_dim
    head_of_times()
    for count, steps in options.sets:
        plan = plan_of(count, steps, options.saving)
        embeddings = PromptEmbeddings(torch.from_numpy(grouped(count, width)).float(), torch.zeros(count, width))
        for acceleration in options.acceleration:
            settings = {"guidance": 4.0, "width": side, "height": side, "acceleration": acceleration}
            run = partial(sample, decoder, embeddings, plan, **settings)
            told(f"Kandinsky, {acceleration}", plan, by_turns(run, device, options.small))


def native(options):
    """A model of the host's: the same plan without shared rows and with them."""
    from comfyui_host import import_pack
    from speed_native import Runs, random_sdxl

    import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    patcher = random_sdxl(options.small)
    head_of_times()
    for count, steps in options.sets:
        runs = Runs(patcher, count, steps, 8 if options.small else 128)
        plan = plan_for(runs.plan.tree, Budget("saving", options.saving, clamp=True), Profile(steps))
        told("SDXL shape", plan, by_turns(lambda: runs.shared(plan), patcher.load_device, options.small))  # noqa: B023


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
            sharing(on, small=True)
            rows.clear()
            sample(decoder, embeddings, plan, width=64, height=64)
            how = "shared" if on else "a pair each"
            row(count, steps, f"{plan.saved:.0%}", how, passes, sum(rows), len(rows))
            assert sum(rows) == passes


def main():
    parts = ("table", "check", "kandinsky", "native")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small models on a CPU")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts[:2], metavar="PART", help=", ".join(parts))
    parser.add_argument("--sets", nargs="+", default=["64x40", "64x20"], metavar="PROMPTSxSTEPS")
    parser.add_argument("--saving", type=float, default=0.6)
    parser.add_argument("--acceleration", nargs="+", default=["none"])
    options = parser.parse_args()
    options.sets = [tuple(map(int, asked.split("x"))) for asked in options.sets]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() and not options.small else "CPU"
    print(f"{card}, torch {torch.__version__}")
    for part in options.only:
        table() if part == "table" else {"check": check, "kandinsky": kandinsky, "native": native}[part](options)


if __name__ == "__main__":
    main()
