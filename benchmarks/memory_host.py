"""Kandinsky 2.2's nodes inside ComfyUI's memory management on a small card, and decoding while they sample.

    python benchmarks/memory_host.py [--only job prior beside native cards] [--card 8] [--pixels 512 768] [--small]

*job*: loaders, prior, plan, sampler with and without saving, VAE Decode, twice, on a card of 8 GiB (`small_card`).
*prior*: Prior Embedding with all networks of the prior loaded as one, and with its image encoder apart.
*beside*: how long saving takes that happens while Branching Sampler draws, depth first; *native*: the same for
Hierarchical KSampler with a UNet of SDXL's size and a VAE of the host's, and whether its pictures stay. Full size with
random weights; --small is the bundled model on a CPU, which shows that all parts work.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib
import io
import itertools
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from comfyui_host import import_pack
from full_size import random_decoder, random_prior
from small_card import GIB, Peaks, small_card

NAME = "emoji-kandinsky (bundled)"
PLACES = "harbour", "forest", "village", "desert", "castle", "market", "station", "garden"
TIMES = "dawn", "noon", "night", "rain", "snow", "fog", "autumn", "spring"


def prompts_of(count):
    return tuple(f"a {PLACES[i // 8 % 8]} in {TIMES[i % 8]}" for i in range(count))


def module(name):
    return importlib.import_module(f"hierdiff_pack.{name}")


@functools.cache
def kandinsky_of(pack, small):
    return Kandinsky(pack, small)


class Kandinsky:
    """What the loaders' nodes give: full-size models with random weights, or the bundled ones."""

    def __init__(self, pack, small):
        self.nodes, self.small = pack.nodes, small
        if not small:
            bundled = module("hierdiff_core.kandinsky.loading").load_prior()
            prior = random_prior("cuda", tokenizer=bundled.tokenizer, image_processor=bundled.image_processor).to("cpu")
            decoder = random_decoder("cuda").to("cpu")  # made where it is fast
            module("nodes.prior").load_prior = lambda *_: prior
            module("nodes.decoder").load_decoder = lambda *_: decoder
            self.pipeline = decoder
        self.side = 64 if small else 512

    def load(self):
        precision = "fp32" if self.small else "fp16"
        self.prior = self.nodes.PriorLoader.execute(NAME, precision).args[0]
        self.decoder, self.vae = self.nodes.DecoderLoader.execute(NAME, precision).args

    def embed(self, prompts, steps=25):
        settings = {"steps": [steps], "guidance": [4.0], "seed": [1], "noise": ["per prompt"]}
        out = self.nodes.PriorEmbedding.execute([self.prior], [prompts], [""], **settings)
        return out.args[0][0]

    def plan(self, embeddings, steps, saving=0.6):
        linkage = self.nodes.WardLinkage.execute(embeddings, "chord").args[0]
        return self.nodes.ThresholdSchedule.execute(linkage, steps, "saving", saving, 1).args[0]

    def sample(self, embeddings, plan, side, **inputs):
        return self.nodes.BranchingSampler.execute(
            self.decoder, embeddings, plan, 1, 4.0, "DDPM", side, side, 0, **inputs
        )

    def saving(self, prompts, folder):
        return self.nodes.SaveAsDrawn.execute(prompts, folder, "png", "none", "{index:04d}").args[0]


# --- a small card ---


class Stages:
    """Runs the stages of a job, and prints what each took."""

    def __init__(self, peaks):
        self.peaks, self.rows, self.fewer = peaks, [], 0
        core = module("hierdiff_core.kandinsky.decoder")
        chosen = core.rows_per_call
        core.rows_per_call = lambda *given: self.noted(chosen(*given))
        batches = module("hierdiff_core.sampling.microbatch").MicroBatches
        plain = batches._try

        def counted(one, evaluate, rows):
            output = plain(one, evaluate, rows)
            self.fewer += output is None
            return output

        batches._try = counted
        head = [
            "stage",
            "",
            "s",
            "peak GiB",
            "reserved GiB",
            "tried again",
            "rows a call",
            "made smaller",
            "then loaded",
        ]
        print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)

    def noted(self, rows):
        self.rows.append(rows)
        return rows

    def run(self, name, call):
        import comfy.model_management

        self.peaks.begin()
        self.rows, self.fewer, result, said = [], 0, None, "ok"
        began = time.monotonic()
        try:
            result = call()
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            traceback.print_exc(limit=-6)
        synchronize()
        took = time.monotonic() - began
        loaded = [
            f"{one.model.model.__class__.__name__} {one.model_loaded_memory() / GIB:.1f}"
            for one in comfy.model_management.current_loaded_models
        ]
        used, reserved, again, _ = self.peaks.told()
        cells = name, said, f"{took:.2f}", used, reserved, again, self.rows, self.fewer, ", ".join(loaded)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        gc.collect()
        return result


class NoPeaks:
    """On a CPU."""

    def begin(self):
        pass

    def told(self):
        return "", "", "", ""


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def job(pack, options):
    """The nodes of the Kandinsky template, twice: the second run finds models of the first on the card."""
    kandinsky = kandinsky_of(pack, options.small)
    prompts = prompts_of(6 if options.small else 32)
    steps = 4 if options.small else 6
    with contextlib.nullcontext(NoPeaks()) if options.small else small_card(options.card) as peaks:
        stages = Stages(peaks)
        stages.run("load from disk", kandinsky.load)
        for i, side in enumerate((64,) if options.small else options.pixels):
            own = [f"{prompt}, {side}" for prompt in prompts]
            embeddings = stages.run(f"prior, {len(own)} prompts", lambda own=own: kandinsky.embed(tuple(own)))
            if embeddings is None:
                embeddings = module("hierdiff_core.embeddings").PromptEmbeddings(
                    *torch.randn(2, len(own), 1280), tuple(own), "image embeddings"
                )
            edited = ("an edited prompt", *own[1:])
            stages.run("prior, one prompt edited", lambda edited=edited: kandinsky.embed(edited))
            plan = stages.run("tree and plan", lambda e=embeddings: kandinsky.plan(e, steps))
            out = stages.run(f"sampler, {side}", lambda e=embeddings, p=plan, s=side: kandinsky.sample(e, p, s))
            if out is not None:
                samples = out.args[0]["samples"]
                stages.run("VAE Decode", lambda z=samples: kandinsky.vae.decode(z))
            saving = kandinsky.saving(tuple(own), f"job{i}")
            how = {"order": "depth first", "saving": saving}
            call = functools.partial(kandinsky.sample, embeddings, plan, side, **how)
            out = stages.run(f"sampler with saving, {side}", call)
            if out is not None:
                print("\n".join(line for line in out.args[2].splitlines() if "saved" in line or "⚠" in line))


def prior(pack, options):
    """The prior's node with all of its networks loaded together, as one, and with the image encoder apart."""
    kandinsky = kandinsky_of(pack, options.small)
    prompts = prompts_of(6 if options.small else 40)
    with contextlib.nullcontext(NoPeaks()) if options.small else small_card(options.card) as peaks:
        stages = Stages(peaks)
        stages.run("load from disk", kandinsky.load)
        apart, pipeline = kandinsky.prior, kandinsky.prior.pipeline
        whole = module("nodes.host.models").make_patcher(pipeline.prior, pipeline.text_encoder, pipeline.image_encoder)
        for name, model in (
            ("as one", dataclasses.replace(apart, patcher=whole, image_patcher=whole)),
            ("apart", apart),
        ):
            kandinsky.prior = model
            for i in (1, 2):
                own = tuple(f"{prompt}, {name} {i}" for prompt in prompts)
                stages.run(f"prior {name}, set {i}", lambda own=own: kandinsky.embed(own))
            stages.run(f"prior {name}, all known", lambda own=own: kandinsky.embed(own))
            own = (f"an edited prompt, {name}", *own[1:])
            stages.run(f"prior {name}, one edited", lambda own=own: kandinsky.embed(own))
            module("nodes.prior").of_priors._values.clear()


# --- decoding beside sampling ---


def timed(call, repeats):
    times = []
    for _ in range(repeats):
        synchronize()
        began = time.monotonic()
        call()
        synchronize()
        times.append(time.monotonic() - began)
    return times


def one_by_one(call):
    """A call with the tree's pictures written as they were before there were threads for it."""

    def png(pixels, chunks):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG", compress_level=1)
        return data.getvalue()

    one = ThreadPoolExecutor(1)
    with mock.patch.multiple(module("nodes.host.tree_files"), png_bytes=png, writers=lambda: one, MOST_WAITING=0):
        call()


def beside(pack, options):
    """Branching Sampler, depth first: without saving, with saving, and decoded and saved afterwards."""
    kandinsky = kandinsky_of(pack, options.small)
    kandinsky.load()
    prompts = prompts_of(6 if options.small else 64)
    embeddings = kandinsky.embed(prompts, 4)
    saving_module, folders = module("nodes.saving"), iter(range(10**6))
    load_beside, Beside = saving_module.load_beside, saving_module.Beside
    print("\n| steps | | s | peak GiB reserved |\n|---|---|---|---|")
    for steps in (4,) if options.small else options.steps:
        plan = kandinsky.plan(embeddings, steps)
        peaks = NoPeaks() if options.small else Peaks()

        def draw(plan=plan, **inputs):
            return kandinsky.sample(embeddings, plan, kandinsky.side, order="depth first", **inputs)

        def saved(way, draw=draw):
            saving_module.load_beside = lambda *given: (load_beside(*given), way)[way is not None]
            draw(saving=kandinsky.saving(prompts, f"beside{next(folders)}"))

        z = draw().args[0]["samples"]
        files = len(list(Path(module("nodes.host.tree_files").temporary_folder(), "hierdiff").glob("*.png")))
        print(f"| {steps} | files of the tree: {files} | | |")
        kandinsky.vae.decode(z[:8])
        ways = {
            "sampling alone": draw,
            "sampling alone, the tree's files one by one by Pillow": lambda draw=draw: one_by_one(draw),
            "decoding alone": lambda z=z: kandinsky.vae.decode(z),
            "decoded in a stream of its own": lambda saved=saved: saved(None),
            "decoded in turns": lambda saved=saved: saved(Beside(True)),
            "decoded at the end": lambda saved=saved: saved(Beside(False)),
        }
        for name, call in ways.items():
            peaks.begin()
            times = timed(call, options.repeats)
            print(f"| {steps} | {name} | {', '.join(f'{t:.2f}' for t in times)} | {peaks.told()[1]} |", flush=True)
        saving_module.load_beside = load_beside


def random_vae():
    """The host's VAE of SD and SDXL with random weights."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    shape |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    torch.manual_seed(0)
    return comfy.sd.VAE(sd=AutoencoderKL(ddconfig=shape, embed_dim=4).state_dict())


def native(pack, options):
    """A MODEL: its pictures saved as they finish, decoded beside the sampler and in turns with it."""
    from speed_native import Runs, random_sdxl

    patcher, vae = random_sdxl(options.small), random_vae()
    last = patcher.model.diffusion_model.out[-1]
    last.weight.mul_(1e-2), last.bias.zero_()  # or the pictures of random weights would all be NaN, and decoded once
    count, steps, side = (6, 4, 16) if options.small else (32, 10, 128)
    prompts, folders = prompts_of(count), itertools.count()
    runs = Runs(patcher, count, steps, side, texts=prompts)
    samplers, saving_module = module("nodes.host.samplers"), module("nodes.saving")
    said = []

    def draw(saving=None):
        given = patcher, runs.positive, runs.negative, 7.0, runs.plan, 0
        tell = lambda text, **_: said.append(text)  # noqa: E731
        guider = samplers.make_guider(*given, show_tree=False, tell=tell, vae=vae, saving=saving)
        rest = runs.noise, torch.zeros_like(runs.noise), runs.sampler, runs.sigmas
        return guider.sample(*rest, disable_pbar=True, seed=0)

    def as_finished():
        asked = pack.nodes.SaveAsDrawn.execute(prompts, f"n{next(folders)}", "png", "none", "{index:04d}").args[0]
        return draw(saving_module.saving_in_run(asked, vae, runs.plan))

    def in_turns():
        with mock.patch.object(module("nodes.host.finishing"), "vae_beside", return_value=None):
            return as_finished()

    z = draw()
    vae.decode(z[:1])
    print(f"{len(set(map(bytes, z.cpu().numpy())))} different latents, all finite: {bool(z.isfinite().all())}")
    print("\n| | s | report |\n|---|---|---|")
    ways = {
        "all in one batch, nothing saved": draw,
        "decoding alone": lambda: vae.decode(z),
        "saved as they finish, in turns": in_turns,
        "saved as they finish, beside": as_finished,
    }
    for name, call in ways.items():
        said[:] = [""]
        times = timed(call, options.repeats)
        notes = "; ".join(line for line in said[-1].splitlines() if "groups" in line or "\u26a0" in line)
        print(f"| {name} | {', '.join(f'{t:.2f}' for t in times)} | {notes} |", flush=True)
    folder = Path(importlib.import_module("folder_paths").get_output_directory())
    sets = [[pixels_of(file) for file in sorted((folder / f"n{i}").glob("*.png"))] for i in (0, next(folders) - 1)]
    largest = max(int(np.abs(one - other).max()) for one, other in zip(*sets, strict=True))
    print(f"\n{len(sets[0])} pictures of both ways: the largest difference is {largest} of 255")


def pixels_of(file):
    with Image.open(file) as picture:
        return np.asarray(picture, dtype=int)


def cards(pack, options):
    """The part of that name of `memory.py`, in this process."""
    import comfy.model_management
    import memory

    comfy.model_management.unload_all_models()

    kandinsky = kandinsky_of(pack, options.small)
    memory.cards(kandinsky.pipeline.to("cuda"), options.small)


PARTS = {"job": job, "prior": prior, "beside": beside, "native": native, "cards": cards}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--card", type=float, default=8, help="GiB of the small card")
    parser.add_argument("--pixels", type=int, nargs="+", default=[512, 768])
    parser.add_argument("--repeats", type=int, default=1 if "--small" in sys.argv else 3)
    parser.add_argument("--steps", type=int, nargs="+", default=[40], help="of the part beside")
    parser.add_argument("--small", action="store_true", help="the bundled model on a CPU")
    options = parser.parse_args()
    began = time.monotonic()
    pack = import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    print("CPU" if options.small else torch.cuda.get_device_name(), f"torch {torch.__version__}", sep=", ")
    with torch.inference_mode():  # as the host runs nodes
        for part in options.only:
            print(f"\n**{part}** ({time.monotonic() - began:.0f} s)")
            PARTS[part](pack, options)
            gc.collect()


if __name__ == "__main__":
    main()
