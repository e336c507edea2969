"""What leaving out guidance in some steps gives in time with a model of ComfyUI's own, against the passes left out.

    python benchmarks/guidance_cut.py [--small] [--sets 32x20 12x20]

The SDXL-sized model of `speed_native.py` (random weights, float16, 1024 x 1024 pixels, euler) under the guider of the
Hierarchical KSampler. For each run: its passes, its time, and where the time goes: calls of the UNet by size, the
device's time in them and the CPU's time to launch them. --small is a narrow model on a CPU: it shows that it works.
"""

import argparse
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
        """A line for each size of call: its rows, how many, ms of the device a row, ms of the CPU a call."""
        for rows, spans in sorted(self.spans.items()):
            device = sum(between(began, ended) for began, ended, _ in spans)
            cpu = sum(launched for *_, launched in spans)
            yield rows, len(spans), 1000 * device / rows / len(spans), 1000 * cpu / len(spans), device


def measure(patcher, prompts, steps, side, repeats, courses=COURSES, whole=None):
    """Prints a table for one set, and its calls; `whole` are seconds with guidance in all steps, where known."""
    runs, device = Runs(patcher, prompts, steps, side), patcher.load_device
    print(
        f"\n**{prompts} prompts, {steps} steps, {runs.plan.saved:.0%} saved, {runs.plan.clusters_per_step.tolist()}**"
    )
    print(
        "\n| guidance | passes | of them | s | of the time | passes / time | outside |\n|---|---|---|---|---|---|---|"
    )
    whole, calls = whole and (2 * runs.plan.nfe, whole), []
    for start, end in courses:
        course = GuidanceCourse(start, end)
        plan, passes = replace(runs.plan, guidance=course), course.passes(runs.plan)
        runs.shared(plan)  # calls of new sizes
        with Calls(patcher) as timed:
            took = seconds(lambda: runs.shared(plan), device, repeats)  # noqa: B023
            lines = list(timed.lines())
        outside = 1 - sum(line[-1] for line in lines) / took / repeats
        calls.append((f"{start:.0%} to {end:.0%}", lines))
        whole = whole or (passes, took)
        shares = passes / whole[0], took / whole[1]
        print(
            f"| {start:.0%} to {end:.0%} | {passes} | {shares[0]:.3f} | {took:.3f} | {shares[1]:.3f} | "
            f"{shares[0] / shares[1]:.3f} | {outside:.2%} |",
            flush=True,
        )
    print("\n| guidance | rows of a call | calls | ms a row, device | ms a call, CPU |\n|---|---|---|---|---|")
    for name, lines in calls:
        for rows, count, on_device, on_cpu, _ in lines:
            print(f"| {name} | {rows} | {count} | {on_device:.2f} | {on_cpu:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a narrow model on a CPU")
    parser.add_argument("--sets", nargs="+", default=["32x20", "12x20"], metavar="PROMPTSxSTEPS")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    patcher = random_sdxl(options.small)
    card = "CPU" if options.small else torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}")
    for asked in options.sets:
        prompts, steps = map(int, asked.split("x"))
        measure(patcher, prompts, steps, 8 if options.small else 128, options.repeats)


if __name__ == "__main__":
    main()
