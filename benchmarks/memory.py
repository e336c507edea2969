"""Device memory of the networks' calls beside the estimates that choose how many rows a call gets, and small cards.

    python benchmarks/memory.py [--only estimates graphs cards] [--small]

Full-size Kandinsky 2.2 with random weights. *cards*: what a card of 24, 16, 12 or 8 GiB would do (`small_card`).
"""

import argparse
import functools
import sys
import time
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size import random_decoder
from small_card import small_card
from timing import seconds

from hierdiff_core import PromptEmbeddings, build_plan, sample, ward_linkage
from hierdiff_core.kandinsky import acceleration
from hierdiff_core.kandinsky.acceleration import unet_calls
from hierdiff_core.kandinsky.call_memory import rows_per_call, unet_bytes_per_row
from hierdiff_core.kandinsky.decoding import movq_bytes_per_row
from hierdiff_core.sampling import microbatch

CARDS = (24, 16, 12, 8)
WAYS = ("auto", "none")
ROWS = (1, 2, 8, 16, 24, 32)
MOVQ_ROWS = (1, 8)
OTHER_ROWS = (8, 12, 16, 24, 32)
SMALL_ROWS = (1, 2)
PROMPTS = 33
CARD_HEAD = ["card GiB", "pixels", "chosen", "ms a row", "best that fits", "its ms a row", "chosen / best"]
CARD_HEAD += ["a run's ms a row", "peak GiB", "reserved GiB", "tried again", "calls made smaller", "graphs work"]
CARD_HEAD += ["ms a row by rows"]


def table(head):
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)


def line(*cells):
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def peak_of(call):
    """Bytes that `call` needs beyond what was allocated before."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def unet_call(network, unet, rows, side):
    """A call of `rows` branches, with guidance."""
    x = torch.randn(2 * rows, 4, side, side, device="cuda", dtype=unet.dtype)
    embeds = torch.randn(2 * rows, unet.config.encoder_hid_dim, device="cuda", dtype=unet.dtype)
    t = torch.tensor(500, device="cuda")
    return lambda: network(x, t, embeds)


def movq_call(movq, rows, side):
    z = torch.randn(rows, 4, side, side, device="cuda", dtype=movq.dtype)
    return lambda: movq.decode(z, force_not_quantize=True)


@torch.no_grad()
def estimates(decoder, small):
    """Peaks of calls beside estimates, and the time of a row; MiB of a row. Graphs are another part."""
    unet, movq = decoder.unet, decoder.movq
    table(["network", "pixels", "rows", "measured MiB a row", "estimated", "estimate / measured", "ms a row"])

    def told(name, side, rows, call, estimate):
        measured = peak_of(call) / rows
        took = 1000 * seconds(call, "cuda", repeats=2) / rows
        shown = f"{measured / 2**20:.1f}", f"{estimate / 2**20:.1f}", f"{estimate / measured:.2f}"
        line(name, side * 8, rows, *shown, f"{took:.2f}")

    for side in (64,) if small else (64, 96, 128):
        for way in WAYS:
            network = unet_calls(unet, way)
            network.records = False
            estimate = unet_bytes_per_row(unet, side, side, way)
            for rows in SMALL_ROWS if small else ROWS:
                told(f"UNet, {way}", side, rows, unet_call(network, unet, rows, side), estimate)
            network.records = True
        for rows in SMALL_ROWS if small else MOVQ_ROWS:
            told("MoVQ", side, rows, movq_call(movq, rows, side), movq_bytes_per_row(movq, side, side))


@torch.no_grad()
def graphs(decoder, small):
    """Calls of few rows launched and replayed, and what their graphs keep: which sizes are worth one."""
    unet, way = decoder.unet, WAYS[0]
    network = unet_calls(unet, way)
    table(
        [
            "pixels",
            "rows",
            "launched ms",
            "the CPU's ms",
            "replayed ms",
            "kept MiB, all so far",
            "MiB of that row's call",
        ]
    )
    with (
        mock.patch.object(acceleration, "GRAPH_ROWS", (2, 4, 8, 16, 24)),
        mock.patch.object(acceleration, "GRAPH_POSITIONS", 2**40),
    ):
        for side in (64,) if small else (64, 96, 128):
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            for rows in SMALL_ROWS if small else (12, 8, 4, 2, 1):
                call, times = unet_call(network, unet, rows, side), []
                for network.records in (False, True):
                    times.append(1000 * seconds(call, "cuda", repeats=5, warm=4))
                    if not network.records:
                        launch = 1000 * launch_time(call)
                torch.cuda.empty_cache()
                kept = (torch.cuda.memory_reserved() - before) / 2**20
                own = rows * unet_bytes_per_row(unet, side, side, way) / 2**20
                line(side * 8, rows, f"{times[0]:.1f}", f"{launch:.1f}", f"{times[1]:.1f}", f"{kept:.0f}", f"{own:.0f}")
            network.close()


def launch_time(call):
    """Seconds that the CPU takes for a call that finds the device idle."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    took = time.perf_counter() - began
    torch.cuda.synchronize()
    return took


def run_of(prompts, width, steps=16):
    """Embeddings and a plan with few branches for many steps, whose calls become graphs, and all at the end."""
    positive = torch.randn(prompts, width, generator=torch.Generator().manual_seed(0))
    embeddings = PromptEmbeddings(positive, torch.zeros_like(positive), [f"prompt {i}" for i in range(prompts)])
    Z = ward_linkage(positive, "cosine")
    cut = [float(Z[-few, 2]) for few in (1, 1, 1, 4, 4, 4, 8, 8, 8)]
    return embeddings, build_plan(Z, [*cut, *[0.0] * (steps - len(cut))])


@torch.no_grad()
def time_or_none(call):
    """Seconds of a call; None where the memory does not suffice."""
    try:
        return seconds(call, "cuda", repeats=1, warm=1)
    except torch.OutOfMemoryError:
        return None


def cards(decoder, small):
    """Rows of a call that are chosen on smaller cards, beside all other numbers."""
    unet, way = decoder.unet, WAYS[0]
    network = unet_calls(unet, way)
    embeddings, plan = run_of(PROMPTS, unet.config.encoder_hid_dim)
    table(CARD_HEAD)
    for gib in CARDS:
        for side in (64,) if small else (64, 96):
            network.close()
            with small_card(gib) as peaks:
                times, network.records = {}, False
                for rows in SMALL_ROWS if small else OTHER_ROWS:
                    took = time_or_none(unet_call(network, unet, rows, side))
                    if took is not None:
                        times[rows] = 1000 * took / rows
                chosen = rows_per_call(decoder, torch.zeros(1, 4, side, side, device="cuda"), 0, way)
                own = time_or_none(unet_call(network, unet, chosen, side))
                best, network.records = min(times, key=times.get), True
                peaks.begin()
                with halved() as fewer:
                    run = functools.partial(sample, decoder, embeddings, plan, width=side * 8, height=side * 8)
                    took = 1000 * seconds(run, "cuda") / plan.nfe
                used, reserved, again, _ = peaks.told()
            own = float("nan") if own is None else 1000 * own / chosen
            other = ", ".join(f"{rows}: {took:.2f}" for rows, took in times.items())
            ratio = f"{own:.2f}", best, f"{times[best]:.2f}", f"{own / times[best]:.3f}", f"{took:.2f}"
            line(gib, side * 8, chosen, *ratio, used, reserved, again, fewer.count, network.records, other)


class halved:
    """Within the block: how often a call did not fit and was made smaller."""

    def __enter__(self):
        self.count, self.plain = 0, microbatch.MicroBatches._try
        counter = self

        def counted(batches, evaluate, rows):
            output = counter.plain(batches, evaluate, rows)
            counter.count += output is None
            return output

        microbatch.MicroBatches._try = counted
        return self

    def __exit__(self, *_):
        microbatch.MicroBatches._try = self.plain


PARTS = {"estimates": estimates, "graphs": graphs, "cards": cards}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="one size, few rows")
    options = parser.parse_args()
    decoder = random_decoder("cuda")
    for name, network in (("UNet", decoder.unet), ("MoVQ", decoder.movq)):
        print(f"{name}: {sum(p.numel() for p in network.parameters()) / 1e6:.0f} M parameters")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float16")
    for part in options.only:
        PARTS[part](decoder, options.small)


if __name__ == "__main__":
    main()
