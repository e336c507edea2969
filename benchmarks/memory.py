"""Device memory of the networks' calls beside the estimates that choose how many rows a call gets, and small cards.

    python benchmarks/memory.py [--only estimates graphs cards] [--small]

Full-size Kandinsky 2.2 with random weights. *cards*: what a card of 24, 16, 12 or 8 GiB would do (`small_card`).
"""

import argparse
import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size import random_decoder
from small_card import small_card
from timing import seconds

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, plan_for, sample
from hierdiff_core.kandinsky.acceleration import ACCELERATIONS, unet_calls
from hierdiff_core.kandinsky.decoder import rows_per_call, unet_bytes_per_row
from hierdiff_core.kandinsky.decoding import movq_bytes_per_row
from hierdiff_core.sampling import microbatch

CARDS = (24, 16, 12, 8)
ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
OTHER_ROWS = (8, 12, 16, 24, 32)
SMALL_ROWS = (1, 2)
PROMPTS = 33
CARD_HEAD = ["card GiB", "pixels", "chosen", "ms a row", "best that fits", "its ms a row", "chosen / best"]
CARD_HEAD += ["a run's ms a row", "peak GiB", "reserved GiB", "tried again", "calls made smaller", "ms a row by rows"]


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
    """Peaks beside estimates, and the time of a row; MiB of a row."""
    unet, movq = decoder.unet, decoder.movq
    table(["network", "pixels", "rows", "measured MiB a row", "estimated", "estimate / measured", "ms a row"])
    for side in (64,) if small else (64, 96, 128):
        for rows in SMALL_ROWS if small else ROWS:
            calls = [
                ("UNet", unet_call(unet_calls(unet, "none"), unet, rows, side), unet_bytes_per_row(unet, side, side))
            ]
            if rows <= 8:
                calls.append(("MoVQ", movq_call(movq, rows, side), movq_bytes_per_row(movq, side, side)))
            for name, call, estimate in calls:
                measured = peak_of(call) / rows
                took = 1000 * seconds(call, "cuda", repeats=2) / rows
                shown = f"{measured / 2**20:.1f}", f"{estimate / 2**20:.1f}", f"{estimate / measured:.2f}"
                line(name, side * 8, rows, *shown, f"{took:.2f}")


@torch.no_grad()
def graphs(decoder, small):
    """What CUDA graphs of small calls keep, and a large call beside them; MiB in all."""
    unet = decoder.unet
    network = unet_calls(unet, "CUDA graphs")
    table(["pixels", "rows", "graphs", "reserved MiB beside the weights", "estimate of 32 rows, MiB"])
    for side in (64,) if small else (64, 96):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        for rows in SMALL_ROWS if small else (1, 2, 4, 8, 32):
            unet_call(network, unet, rows, side)()
            held = (torch.cuda.memory_reserved() - before) / 2**20
            line(
                side * 8,
                rows,
                len(network.graphs),
                f"{held:.0f}",
                f"{32 * unet_bytes_per_row(unet, side, side) / 2**20:.0f}",
            )
        network.forget()


def unshared_plan(prompts, width, steps=2):
    """Embeddings of prompts and a plan that shares nothing."""
    positive = torch.randn(prompts, width, generator=torch.Generator().manual_seed(0))
    embeddings = PromptEmbeddings(positive, torch.zeros_like(positive), [f"prompt {i}" for i in range(prompts)])
    tree = PromptTree.of(positive, "cosine", embeddings.prompts)
    return embeddings, plan_for(tree, Budget("tau", 0.0), Profile(steps))


@torch.no_grad()
def time_or_none(call):
    """Seconds of a call; None where the memory does not suffice."""
    try:
        return seconds(call, "cuda", repeats=1, warm=1)
    except torch.OutOfMemoryError:
        return None


def cards(decoder, small):
    """Rows of a call that are chosen on smaller cards, beside all other numbers."""
    unet, way = decoder.unet, ACCELERATIONS[0]
    network = unet_calls(unet, way)
    embeddings, plan = unshared_plan(4 if small else PROMPTS, unet.config.encoder_hid_dim)
    table(CARD_HEAD)
    for gib in CARDS:
        for side in (64,) if small else (64, 96):
            with small_card(gib) as peaks:
                times = {}
                for rows in SMALL_ROWS if small else OTHER_ROWS:
                    took = time_or_none(unet_call(network, unet, rows, side))
                    if took is not None:
                        times[rows] = 1000 * took / rows
                chosen = rows_per_call(decoder, torch.zeros(1, 4, side, side, device="cuda"), 0, way)
                own = time_or_none(unet_call(network, unet, chosen, side))
                best = min(times, key=times.get)
                peaks.begin()
                with halved() as fewer:
                    run = functools.partial(sample, decoder, embeddings, plan, width=side * 8, height=side * 8)
                    took = 1000 * seconds(run, "cuda") / plan.nfe
                used, reserved, again, _ = peaks.told()
            own = float("nan") if own is None else 1000 * own / chosen
            other = ", ".join(f"{rows}: {took:.2f}" for rows, took in times.items())
            ratio = f"{own:.2f}", best, f"{times[best]:.2f}", f"{own / times[best]:.3f}", f"{took:.2f}"
            line(gib, side * 8, chosen, *ratio, used, reserved, again, fewer.count, other)


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
