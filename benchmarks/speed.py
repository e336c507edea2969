"""How long a set takes, against the paper's own loop and the UNet's limit; tables in docs/measurements/performance.md.

    python benchmarks/speed.py [--small] [--only PART ...]

On a CUDA device Kandinsky 2.2 is built at its published size with random weights, float16, 512 x 512 pixels, 40 steps,
guidance 10. --small takes the bundled model, few prompts and steps, and runs on a CPU: it shows that all parts work.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(min(16, os.cpu_count() or 1)))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import diffusers
import numpy as np
import paper_loop
import torch
from full_size import random_decoder, random_prior
from PIL import Image
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist
from timing import seconds, shares_outside

from hierdiff_core import (
    Budget,
    Profile,
    PromptEmbeddings,
    PromptTree,
    decode,
    embed_prompts,
    load_decoder,
    load_prior,
    plan_for,
    sample,
    ward_linkage,
)
from hierdiff_core.devices import AsyncHostCopy
from hierdiff_core.kandinsky.acceleration import ACCELERATIONS, unet_calls
from hierdiff_core.kandinsky.decoding import BackgroundDecoder
from hierdiff_core.kandinsky.guidance import step_guidance
from hierdiff_core.plan.linkage import MOST_TREE_ON_CPU, SMALLEST_DISTANCE
from hierdiff_core.plan.ward_torch import ward_chain
from hierdiff_core.plan.ward_torch_pairs import ward_pairs
from hierdiff_core.previews import BranchLatents, latents_to_rgb, preview_grid, shrunk, tile_sheet, to_pictures
from hierdiff_core.prompts.prompt_set import parse_prompts
from hierdiff_core.sampling.loop import ORDERS
from hierdiff_core.sampling.observer import Observer

RELATED = "{cat face|dog face|tiger face|red apple|strawberry|fire engine|tulip|snowman}, " + (
    "{noto|twemoji|flat|3d|fluent|line art|pixel|paper} style"
)
PARSED = parse_prompts(RELATED)
SAVING = 0.6
# What the whole table is made for; the other ways are timed breadth first only.
BEST = "auto"
SECONDS_BETWEEN_PREVIEWS = 0.3  # the sampler node's
PARTS = (0.0, 1.0), (0.0, 0.8), (0.2, 0.8)  # of the steps, with guidance
TURNS = "in turns", "meanwhile"
LARGE_RUN = ["", "prompts", "peak memory MiB", "final latents MiB", "first picture s", "sampled s", "all on disk s"]


@dataclass
class Setting:
    """What is measured: models, sizes and repeats."""

    device: str
    prior: object
    decoder: object
    prompts: list
    side: int  # latent pixels
    num_steps: int
    prior_steps: int
    guidance: float
    repeats: int
    many: int  # prompts of the large set
    prior_prompts: int
    branches: tuple  # sizes of the curve
    ward_sizes: tuple
    ways: tuple = ACCELERATIONS
    paper_prompts: int = 64  # that the paper's prior is timed with

    @property
    def pixels(self):
        return {"width": 8 * self.side, "height": 8 * self.side}


def full_setting(with_prior):
    prior = None
    if with_prior:
        bundled = load_prior()
        prior = random_prior("cuda", tokenizer=bundled.tokenizer, image_processor=bundled.image_processor)
        prior.set_progress_bar_config(disable=True)
    sizes = (1, 2, 4, 8, 12, 16, 24, 32), (2000, 5000, 50_000, 100_000)
    return Setting("cuda", prior, random_decoder("cuda"), PARSED, 64, 40, 25, 10.0, 3, 2000, 500, *sizes)


def small_setting():
    prompts = parse_prompts("{cat face|red apple}, {noto|flat} style")
    return Setting("cpu", load_prior(), load_decoder(), prompts, 8, 6, 4, 3.0, 1, 12, 6, (1, 2), (60,), (BEST,), 4)


def table(title, head, rows):
    """Print a table, each row as soon as `rows` gives it."""
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def plan_of(setting):
    """A plan from the tree that the bundled prior, a trained one, makes of the prompts."""
    embeddings = embed_prompts(load_prior(), setting.prompts, guidance=4.0, num_steps=setting.prior_steps)
    return saving_plan(PromptTree.of(embeddings.positive, "cosine"), setting.num_steps)


def saving_plan(tree, num_steps, saving=SAVING):
    return plan_for(tree, Budget("saving", saving), Profile(num_steps))


# --- parts ---


@torch.no_grad()
def curve(setting):
    """Time of a guidance pair in UNet calls of several sizes; returns the best of any way."""
    unet, device = setting.decoder.unet, setting.device
    times = {}
    for way in setting.ways:
        network = unet_calls(unet, way)
        t = torch.tensor(500, device=device)
        for branches in setting.branches:
            if way == "torch.compile" and branches > 16:
                continue  # never asked for, see `LARGEST_COMPILED`
            x = torch.randn(2 * branches, 4, setting.side, setting.side, device=device, dtype=unet.dtype)
            embeds = torch.randn(2 * branches, unet.config.encoder_hid_dim, device=device, dtype=unet.dtype)
            times[way, branches] = 1000 / branches * seconds(partial(network, x, t, embeds), device, repeats=5, warm=3)
    ways = dict.fromkeys(way for way, _ in times)
    rows = [[n, *(f"{times[way, n]:.2f}" if (way, n) in times else "" for way in ways)] for n in setting.branches]
    table("UNet, ms a row (a guidance pair)", ["rows a call", *ways], rows)
    return min(times.values()) / 1000


def job(setting):
    """The whole job, and sampling alone, for both sides."""
    plan, device = plan_of(setting), setting.device
    theirs = their_times(setting, plan)
    prior_first = seconds(lambda: our_embeddings(setting), device)
    prior_time = seconds(lambda: our_embeddings(setting), device, setting.repeats)
    embeddings = our_embeddings(setting)
    latents = torch.randn(len(setting.prompts), 4, setting.side, setting.side, device=device)
    decode_time = seconds(lambda: decode(setting.decoder, latents), device, setting.repeats, warm=1)

    def rows():
        yield "the paper's loop", *(f"{x:.2f}" for x in (*theirs, sum(theirs))), "1", "1", ""
        for way in setting.ways:
            for order in ORDERS if device == "cpu" or way == BEST else ORDERS[:1]:
                run = our_sampling(setting, embeddings, plan, way, order=order)
                first = seconds(run, device)
                took = seconds(run, device, setting.repeats)
                times = prior_time, took, decode_time
                ratios = f"{sum(times) / sum(theirs):.3f}", f"{took / theirs[1]:.3f}"
                yield f"{way}, {order}", *(f"{x:.2f}" for x in (*times, sum(times))), *ratios, f"{first:.2f}"

    print(f"\nThe prior's first run: {prior_first:.2f} s", flush=True)
    head = [
        "",
        "prior s",
        "sampling s",
        "decoding s",
        "job s",
        "job / paper's",
        "sampling / paper's",
        "first sampling s",
    ]
    table(f"{plan.num_prompts} prompts, {plan.num_steps} steps, {plan.saved:.1%} saved, {plan.nfe} rows", head, rows())


def limit(setting):
    """Our run against our own with tau = 0, and against rows times the best time of a row."""
    best, plan, device = curve(setting), plan_of(setting), setting.device
    whole = plan_for(plan.tree, Budget("tau", 0.0), Profile(setting.num_steps))
    embeddings = our_embeddings(setting)

    def rows():
        for way in setting.ways:
            took = seconds(our_sampling(setting, embeddings, plan, way), device, setting.repeats, warm=1)
            alone = seconds(our_sampling(setting, embeddings, whole, way), device)
            yield way, *limit_row(plan, whole, took, alone, best)

    head = ["", "shared s", "tau = 0 s", "speed-up", "rows' ratio", "of it", "limit s", "time / limit"]
    table("Against our own tau = 0 run, and against rows times the best time of a row", head, rows())


def their_times(setting, plan):
    """(prior, sampling, decoding) seconds of the paper's loop."""
    device, decoder = setting.device, setting.decoder
    unet_calls(decoder.unet, "none")
    paper_loop.embed(setting.prior, setting.prompts[:1], setting.prior_steps)
    few = setting.prompts[: setting.paper_prompts]
    prior_time = seconds(lambda: paper_loop.embed(setting.prior, few, setting.prior_steps), device)
    prior_time *= len(setting.prompts) / len(few)
    embeds = torch.randn(2, len(setting.prompts), decoder.unet.config.encoder_hid_dim, device=device)
    embeds = embeds.to(decoder.unet.dtype)
    arguments = embeds, setting.prompts, plan.Z, plan.thresholds, setting.guidance, setting.side
    took = seconds(lambda: paper_loop.sample(decoder, *arguments), device, setting.repeats, warm=1)
    latents = torch.randn(len(setting.prompts), 4, setting.side, setting.side, device=device)
    return prior_time, took, seconds(lambda: paper_loop.decode(decoder, latents), device, setting.repeats, warm=1)


def our_embeddings(setting):
    return embed_prompts(setting.prior, setting.prompts, num_steps=setting.prior_steps)


def our_sampling(setting, embeddings, plan, acceleration, **options):
    options |= {"guidance": setting.guidance, "acceleration": acceleration, **setting.pixels}
    return lambda: sample(setting.decoder, embeddings, plan, **options)


def limit_row(plan, whole, took, alone, best):
    ratio, limit = whole.nfe / plan.nfe, plan.nfe * best
    faster = alone / took
    cells = f"{took:.2f}", f"{alone:.2f}", f"{faster:.2f}", f"{ratio:.2f}", f"{faster / ratio:.3f}"
    return *cells, f"{limit:.2f}", f"{took / limit:.3f}"


def outside(setting):
    """Share of sampling's time in which no UNet call is on the device: planning, means, copies, noise, scheduler."""
    plan, embeddings = plan_of(setting), our_embeddings(setting)

    def rows():
        for way in setting.ways:
            calls = type(unet_calls(setting.decoder.unet, way))
            our_sampling(setting, embeddings, plan, way)()  # warm-up
            for what, options in ("no previews", {}), ("previews", {"observer": Previews(plan)}):
                run = our_sampling(setting, embeddings, plan, way, **options)
                for _ in range(setting.repeats):
                    shares = shares_outside(calls, "__call__", run, setting.device)
                    yield f"{way}, {what}", *(f"{share:.2%}" for share in (sum(shares), *shares))

    head = ["", "of sampling's time", "before the first call", "between calls", "after the last"]
    table("Outside the UNet", head, rows())


class Previews(Observer):
    """What the sampler node shows while it runs: a grid of pictures now and then, and a picture of each branch."""

    def __init__(self, plan):
        self.branches = BranchLatents(plan)
        self.factors = torch.rand(5, 3)
        self.arriving = []
        self.last = 0.0

    def on_rows(self, k, clusters, x0):
        self.branches.on_rows(k, clusters, x0)
        if self.arriving:
            grid, tiles = (rgb.wait() for rgb in self.arriving)
            Image.fromarray(grid.numpy()).save(io.BytesIO(), "JPEG")
            tree = Image.fromarray(tile_sheet(tiles).numpy())
            tree.save(io.BytesIO(), "JPEG", quality=85, subsampling=0)
            self.arriving = []
        if time.monotonic() - self.last > SECONDS_BETWEEN_PREVIEWS:
            grid = preview_grid(latents_to_rgb(x0, self.factors))
            self.arriving = [AsyncHostCopy(grid), AsyncHostCopy(latents_to_rgb(shrunk(x0, 64), self.factors))]
            self.last = time.monotonic()


def interval(setting):
    """Guidance for a part of the steps."""
    plan, embeddings = plan_of(setting), our_embeddings(setting)

    def rows():
        for way in [way for way in setting.ways if way in ("none", BEST)]:
            whole = None
            for part in PARTS:
                run = our_sampling(setting, embeddings, plan, way, guidance_interval=part)
                took = seconds(run, setting.device, setting.repeats, warm=1)
                whole = whole or took
                guided = step_guidance(plan.num_steps, setting.guidance, part) > 1
                passes = (plan.clusters_per_step * (1 + guided)).sum() / (2 * plan.nfe)
                yield (
                    f"{way}, guidance from {part[0]:.0%} to {part[1]:.0%}",
                    f"{passes:.1%}",
                    f"{took:.2f}",
                    f"{took / whole:.3f}",
                )

    table("Guidance for a part of the steps", ["", "of the passes", "sampling s", "of the time"], rows())
    table(
        "The same, bundled model", ["guidance", "difference from all steps, levels of 255"], interval_changes(setting)
    )


def interval_changes(setting):
    """How far pictures of the bundled, trained model move: mean absolute difference of their pixels."""
    embeddings = embed_prompts(load_prior(), setting.prompts, guidance=4.0)
    plan = saving_plan(PromptTree.of(embeddings.positive, "chord"), setting.num_steps)
    decoder, whole = load_decoder(device=setting.device), None
    for part in PARTS:
        latents = sample(decoder, embeddings, plan, guidance=3.0, width=128, height=128, guidance_interval=part)
        pictures = decode(decoder, latents)
        whole = pictures if whole is None else whole
        yield f"from {part[0]:.0%} to {part[1]:.0%}", f"{255 * (pictures - whole).abs().mean():.2f}"


def prior(setting):
    """The prior, in batches and one prompt at a time; the latter on a part of the prompts."""
    prompts = [f"{prompt}, number {i}" for i, prompt in zip(range(setting.prior_prompts), setting.prompts * 99)]  # noqa: B905
    few, device, steps = prompts[:32], setting.device, setting.prior_steps
    embed_prompts(setting.prior, prompts[:64], num_steps=steps)
    batched = seconds(lambda: embed_prompts(setting.prior, prompts, num_steps=steps), device)
    paper_loop.embed(setting.prior, few[:2], steps)
    single = seconds(lambda: paper_loop.embed(setting.prior, few, steps), device) * len(prompts) / len(few)
    row = [len(prompts), f"{batched:.2f}", f"{single:.2f} (from {len(few)} prompts)", f"{batched / single:.3f}"]
    table("Prior", ["prompts", "in batches s", "one at a time s", "ratio"], [row])


def large_set(setting):
    """Memory of a small and a large set, and when the first picture of the large one is on disk.

    Few steps: they change neither the memory nor the order of the work.
    """

    def rows():
        for order, written in (*((order, None) for order in ORDERS), *((ORDERS[1], way) for way in TURNS)):
            for count in len(setting.prompts), setting.many:
                what = f"{order}, {f'pictures to disk, decoded {written}' if written else 'sampling only'}"
                yield what, count, *large_run(setting, order, count, written)

    if setting.device == "cuda" and setting.prior is not None:
        setting.prior.to("cpu")
    title = "Memory, and when pictures are there; 4 steps, half of the rows saved, no acceleration"
    table(title, LARGE_RUN, rows())


def overlap(setting):
    """Decoding between the parts of a run, and while the next ones are sampled."""
    count = max(12, setting.many // 5)
    large_run(setting, ORDERS[1], count, "meanwhile")
    rows = ((f"decoded {way}", count, *large_run(setting, ORDERS[1], count, way)) for way in TURNS * setting.repeats)
    table("Depth first, pictures to disk; 4 steps, half of the rows saved, no acceleration", LARGE_RUN, rows)


def large_run(setting, order, count, written):
    """(peak MiB, MiB of the latents, seconds to the first file, to the last latent, to the last file)"""
    embeddings = random_embeddings(count, setting.decoder.unet.config.encoder_hid_dim)
    plan = saving_plan(PromptTree.of(embeddings.positive, "chord", device=setting.device), 4, 0.5)
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as writers:

        def write(index, picture):
            picture.save(Path(folder) / f"{index:04d}.png")
            times.append(time.monotonic() - began)

        def on_pictures(prompts, images):
            for index, picture in zip(prompts.tolist(), to_pictures(images), strict=True):
                writers.submit(write, index, picture)

        with BackgroundDecoder(setting.decoder, on_pictures) as meanwhile:
            in_turns = lambda prompts, latents: on_pictures(prompts, decode(setting.decoder, latents))  # noqa: E731
            finished = {None: None, "in turns": in_turns, "meanwhile": meanwhile}[written]
            latents = our_sampling(setting, embeddings, plan, "none", order=order, on_finished=finished)()
            if setting.device == "cuda":
                torch.cuda.current_stream().synchronize()
            sampled = time.monotonic() - began
    peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if setting.device == "cuda" else "not measured"
    size = f"{latents.numel() * latents.element_size() / 2**20:.0f}"
    first, last = (f"{f(times):.2f}" if times else "" for f in (min, max))
    return peak, size, first, f"{sampled:.2f}", last


def random_embeddings(count, width):
    """Embeddings in groups, as related prompts have them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(count // 20, 2), width))
    rows = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, width))
    return PromptEmbeddings(torch.from_numpy(rows).float(), torch.zeros(count, width))


def ward(setting):
    """Clustering by SciPy and by a GPU."""
    head = [
        "prompts",
        "SciPy s",
        "ward_linkage s",
        "one merge after the other on the device s",
        "in pairs s",
        "memory GiB",
        "largest difference",
    ]
    rows = (ward_row(count, setting.device) for count in setting.ward_sizes)
    table("Ward linkage, chord, 1280 numbers an embedding", head, rows)


def ward_row(count, device):
    x = random_embeddings(count, 1280).positive.double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    ward_linkage(x[:600], "chord", device)  # loads the device's libraries
    before = 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    chosen, heights = wall_clock(lambda: ward_linkage(x, "chord", device)[:, 2])
    memory = f"{(torch.cuda.max_memory_allocated() - before) / 2**30:.2f}" if device == "cuda" else "not measured"
    pairs, Z = wall_clock(lambda: ward_pairs(x, SMALLEST_DISTANCE, torch.device(device)))
    chain, other = wall_clock(lambda: ward_chain(x, "chord", SMALLEST_DISTANCE, torch.device(device)))
    scipy_time = ""
    if count <= MOST_TREE_ON_CPU:
        scipy_time, other = wall_clock(lambda: linkage(pdist(unit), "ward"))
        scipy_time = f"{scipy_time:.2f}"
    error = f"{max(np.abs(other[:, 2] - made).max() for made in (heights, Z[:, 2])):.1e}"
    return count, scipy_time, f"{chosen:.2f}", f"{chain:.2f}", f"{pairs:.2f}", memory, error


def wall_clock(call):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main():
    parts = {part.__name__: part for part in (job, limit, curve, outside, interval, prior, overlap, large_set, ward)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the bundled model on a CPU")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=parts,
        default=[name for name in parts if name != "curve"],
        metavar="PART",
        help=f"in this order: {', '.join(parts)}",
    )
    parser.add_argument("--ways", nargs="+", choices=ACCELERATIONS, default=ACCELERATIONS, help="in this order")
    parser.add_argument("--repeats", type=int, default=3, help="runs that the times are medians of")
    parser.add_argument("--paper-prompts", type=int, default=64, help="that the paper's prior is timed with, of 64")
    options = parser.parse_args()
    with_prior = bool({"job", "limit", "outside", "interval", "prior"} & set(options.only))
    setting = small_setting() if options.small else full_setting(with_prior)
    if setting.device == "cuda":
        setting.ways, setting.repeats = tuple(options.ways), options.repeats
        setting.paper_prompts = options.paper_prompts
    card = torch.cuda.get_device_name() if setting.device == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}, diffusers {diffusers.__version__}, {setting.decoder.unet.dtype}")
    for name in options.only:
        began = time.monotonic()
        parts[name](setting)
        print(f"\n({name}: {time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
