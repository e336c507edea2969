"""What leaving out guidance in some steps gives in time with a model of ComfyUI's own, against the passes left out.

    python benchmarks/guidance_cut.py [--small] [--sets 32x20 12x20]

The SDXL-sized model of `speed_native.py` (random weights, float16, 1024 x 1024 pixels, euler) under the guider of the
Hierarchical KSampler. For each run: its passes, its time, and where the time goes: calls of the UNet by size, the
device's time in them, the CPU's time to launch them, and the seconds that they take beyond their share of the passes of
a run that is guided throughout. --small is a narrow model on a CPU: it shows that it works.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from comfyui_host import import_pack
from speed_native import Runs, random_sdxl
from timing import between, mark, seconds

from hierdiff_core import GuidanceCourse
from hierdiff_core.plan.unconditional import rows_of_families, shares_rows, unconditional_families

COURSES = ((0.0, 1.0), (0.0, 0.6), (0.2, 0.8))


class Calls:
    """Times each call of the UNet while it is entered: on the device, and on the CPU that launches it."""

    def __init__(self, patcher):
        self.network, self.device = patcher.model.diffusion_model, patcher.load_device

    def __enter__(self):
        self.spans, kind = defaultdict(list), type(self.network)  # the class: what is put into a model is asked about
        self.kind, self.forward = kind, kind.forward

        def timed(network, x, *args, **kwargs):
            began, clock = mark(self.device), time.perf_counter()
            output = self.forward(network, x, *args, **kwargs)
            self.spans[len(x)].append((began, mark(self.device), time.perf_counter() - clock))
            return output

        kind.forward = timed
        return self

    def __exit__(self, *_):
        self.kind.forward = self.forward

    def lines(self):
        """For each size of call its rows, calls, seconds of each on the device, and ms of the CPU a call."""
        for rows, spans in sorted(self.spans.items()):
            device = [between(began, ended) for began, ended, _ in spans]
            yield rows, device, 1000 * sum(launched for *_, launched in spans) / len(spans)


def table(*names):
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def passes_of(course, plan, device):
    """Passes of a run, which shares unconditional rows at splits where the device lets it."""
    shared = rows_of_families(unconditional_families(plan)) if shares_rows(torch.device(device).type) else None
    return course.passes(plan, shared)


def measure(patcher, prompts, steps, side, repeats, courses=COURSES, whole=None, passes_of=passes_of):
    """Prints a table for one set, and its calls; `whole` are seconds with guidance in all steps, where known."""
    runs, device, calls = Runs(patcher, prompts, steps, side), patcher.load_device, []
    clusters = runs.plan.clusters_per_step.tolist()
    print(f"\n**{prompts} prompts, {steps} steps, {runs.plan.saved:.0%} saved, {clusters}**")
    table("guidance", "passes", "of them", "s", "of the time", "passes / time", "outside", "report")
    whole = whole and (passes_of(GuidanceCourse(), runs.plan, device), whole)
    for start, end in courses:
        course, name = GuidanceCourse(start, end), f"{start:.0%} to {end:.0%}"
        plan, passes = replace(runs.plan, guidance=course), passes_of(course, runs.plan, device)
        runs.shared(plan)  # calls of new sizes
        with Calls(patcher) as timed:
            took = seconds(lambda: runs.shared(plan), device, repeats)  # noqa: B023
            lines = list(timed.lines())
        outside = 1 - sum(sum(line[1]) for line in lines) / took / repeats
        whole = whole or (passes, took)
        calls.append((name, lines, whole[1] / whole[0]))
        shares = passes / whole[0], took / whole[1]
        report = "; ".join(line for line in runs.reports[-1].splitlines() if "CUDA graphs" in line)
        cells = f"{shares[0]:.3f}", f"{took:.3f}", f"{shares[1]:.3f}", f"**{shares[0] / shares[1]:.3f}**"
        row(name, passes, *cells, f"{outside:.2%}", report)
    table("guidance", "rows of a call", "calls", "ms a call: least", "median", "most", "ms CPU", "s beyond the passes")
    for name, lines, share in calls:
        for rows, on_device, on_cpu in lines:
            ms = (f"{1000 * of(on_device):.1f}" for of in (min, statistics.median, max))
            row(
                name,
                rows,
                len(on_device),
                *ms,
                f"{on_cpu:.1f}",
                f"{sum(on_device) - rows * len(on_device) * share:.3f}",
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a narrow model on a CPU")
    parser.add_argument("--sets", nargs="+", default=["32x20", "12x20"], metavar="PROMPTSxSTEPS")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    patcher = random_sdxl(options.small)
    card = "CPU" if options.small else torch.cuda.get_device_name()
    backend = "" if options.small else f", {torch.cuda.get_allocator_backend()}"
    print(f"{card}, torch {torch.__version__}{backend}")
    for asked in options.sets:
        prompts, steps = map(int, asked.split("x"))
        measure(patcher, prompts, steps, 8 if options.small else 128, options.repeats)


if __name__ == "__main__":
    main()
