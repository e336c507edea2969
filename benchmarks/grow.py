"""What a set costs that is changed instead of drawn again: rows and seconds, and whether the other pictures stay.

    python benchmarks/grow.py [--models emoji scenes native full] [--prompts 30] [--steps N] [--saving 0.5]
                              [--device cpu] [--small] [--repeat 1] [--out grow.md]

A set is drawn once with a store. Then one prompt is edited, three are added, two are rerolled from half of the steps
on, one gets four variants from there, and a run that was stopped at half of its rows goes on; each after the same first
run. Beside each: the changed set planned anew and drawn without a store. Seconds are of sampling alone, the least of
--repeat. Pictures that were not touched are compared with those of the first run: on a CPU they must be bit-identical.

emoji: the bundled Kandinsky-shaped model. scenes: the bundled scene model under ComfyUI's Euler. native: a tiny UNet of
ComfyUI's classes with random weights, for what the machinery costs; on a CPU alone. These two need COMFYUI_DIR or a
ComfyUI in .comfyui. full: Kandinsky 2.2 at full size with random weights, only if it is named; it needs a GPU.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", "scripts", "training", "tests"))

from judged_models import emoji_sets, encoded, host_modules, scene_networks

from hierdiff_core import (
    Budget,
    Profile,
    PromptEmbeddings,
    PromptTree,
    Store,
    embed_prompts,
    load_decoder,
    load_prior,
    plan_for,
    sample,
)
from hierdiff_core.plan.algebra import attach, edited, rerolled
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.prompts.prompt_set import parse_prompts
from hierdiff_core.sampling.observer import Observer, Observers
from hierdiff_core.sampling.progress import RunProgress

ROOT = Path(__file__).resolve().parent.parent
SEED, NEW, VARIANTS = 7, 4, 4
EDITED, REROLLED, VARIED = 7, (3, 11), 5
STORE = 2**33  # bytes
SCENE_PROMPTS = (
    "a {koala|mushroom|fox} to the left of a {rocket|teapot|guitar}, {flat|noto} style, on a {blue|yellow} background"
)


class Run(NamedTuple):
    """One run: (N, ...) latents on the CPU, rows evaluated and reused, seconds."""

    latents: torch.Tensor
    rows: int
    reused: int
    seconds: float


class Stopped(Exception):
    """At half of the rows."""


class Model:
    """A model with a pool of prompts, the first of which are the set.

    texts : list of str          all prompts
    vectors : (P, D) array       their embeddings, for trees
    steps, metric : of plans
    """

    texts: list[str]
    vectors: Any
    steps: int

    def tree(self, places):
        """The tree of some prompts of the pool."""
        return PromptTree.of(self.vectors[places], "chord", [self.texts[i] for i in places])

    def places(self, plan):
        """Where a plan's prompts stand in the pool."""
        return [self.texts.index(text) for text in plan.prompts]

    def run(self, plan, store=None, stop=None) -> Run:
        """Draw a plan; `stop` evaluations are the last that a run makes which is stopped."""
        raise NotImplementedError


class Emoji(Model):
    """The bundled Kandinsky-shaped model: DDPM, 40 steps, guidance 3, 128 pixels."""

    name, size, scheduler = "emoji", 128, "DDPM"

    def __init__(self, count, device, small):
        self.device, self.steps = device, 8 if small else 40
        self.size = 64 if small else 128
        sets = [prompt for prompts in emoji_sets(None, 24).values() for prompt in prompts]
        self.texts = spread(sets, count + NEW)
        self.embeddings = embed_prompts(load_prior(device=device), self.texts, seed=SEED)
        self.vectors = self.embeddings.positive
        self.decoder = self.make_decoder(device)

    def make_decoder(self, device):
        return load_decoder(device=device)

    def run(self, plan, store=None, stop=None):
        places = self.places(plan)
        own = self.embeddings
        embeddings = PromptEmbeddings(own.positive[places], own.negative[places], plan.prompts, own.kind)
        progress = RunProgress(plan)
        watching = progress if stop is None else Observers(progress, Stopping(stop))
        settings = {"seed": SEED, "guidance": 3.0, "width": self.size, "height": self.size}
        settings["scheduler"] = self.scheduler
        began = time.perf_counter()
        latents = sample(self.decoder, embeddings, plan, observer=watching, store=store, **settings)
        latents = latents.cpu()
        return Run(latents, progress.rows, progress.reused, time.perf_counter() - began)


class Full(Emoji):
    """Kandinsky 2.2 at full size with random weights, for the time that it takes: DDPM, 40 steps, 512 pixels.

    Its embeddings are the bundled prior's, turned into as many numbers as it takes.
    """

    name = "full size"

    def __init__(self, count, device, small):
        from full_size import UNET

        super().__init__(count, device, small)
        self.size = 64 if small else 512
        own, width = self.embeddings, UNET["encoder_hid_dim"]
        turn = torch.randn(own.width, width, generator=torch.Generator().manual_seed(SEED)) / width**0.5
        self.embeddings = PromptEmbeddings(own.positive @ turn, own.negative @ turn, own.prompts, own.kind)
        self.vectors = self.embeddings.positive

    def make_decoder(self, device):
        from full_size import random_decoder

        return random_decoder(device)


class Stopping(Observer):
    """Stops a run after so many rows."""

    def __init__(self, most):
        self.left = most

    def on_rows(self, k, clusters, x0):
        self.left -= len(clusters)
        if self.left < 0:
            raise Stopped


class Native(Model):
    """A model of ComfyUI's own, under its Euler."""

    sampler, scheduler, cfg = "euler", "simple", 3.0

    def prepare(self, model, positive, negative, empty):
        self.host = host_modules()
        self.positive, self.negative, self.empty = positive, negative, empty
        self.model = model

    @torch.no_grad()
    def run(self, plan, store=None, stop=None):
        host = self.host
        positive = host.cond_rows.rows_of(self.positive, self.places(plan), len(self.texts), "positive")
        keeping = None if store is None else host.keeping.Keeping(store, owner="benchmark")
        said = []
        tell = {"show_tree": False, "tell": lambda text, **_: said.append(text)}
        sharing = host.share_steps.Sharing(plan, keeping=keeping, **tell)
        guider = host.sharing_guider.SharingGuider(self.model, sharing)
        guider.set_conds(positive, self.negative)
        guider.set_cfg(self.cfg)
        sigmas = host.samplers_by_name.sigmas_of(self.model, plan.num_steps, self.sampler, self.scheduler)
        callback = None if stop is None else stopping(plan, stop)
        began = time.perf_counter()
        latents = host.samplers.sample(guider, self.empty, self.sampler, sigmas, SEED, callback=callback).cpu()
        seconds = time.perf_counter() - began
        rows = rows_evaluated(said[-1])
        return Run(latents, rows, plan.nfe - rows, seconds)


def stopping(plan, most):
    """A callback of the host's samplers that stops a run after so many rows."""
    done = np.cumsum(plan.clusters_per_step)

    def callback(step, *_):
        if done[step] > most:
            raise Stopped

    return callback


def rows_evaluated(report):
    """Rows that the model evaluated, by a report."""
    line = next(line for line in report.splitlines() if line.startswith("model rows"))
    return int(line.split()[2])


class Scenes(Native):
    """The bundled scene model: Euler, 20 steps, cfg 3, 128 pixels."""

    name = "scenes"

    def __init__(self, count, device, small):
        texts = list(parse_prompts(SCENE_PROMPTS))
        self.texts, self.steps = spread(texts, count + NEW), 6 if small else 20
        host = host_modules()
        model, clip, _ = scene_networks(ROOT / "models" / "emoji-scenes")
        positive, self.vectors = encoded(host, clip, self.texts)
        negative = encoded(host, clip, [""])[0]
        self.prepare(model, positive, negative, host.samplers.latents_for(model, torch.zeros(1, 4, 16, 16)))


class Tiny(Native):
    """A tiny UNet of ComfyUI's classes, with random weights."""

    name, scheduler = "native", "normal"

    def __init__(self, count, device, small):
        host_modules()
        import native_models

        self.texts, self.steps = [f"prompt {i}" for i in range(count + NEW)], 6 if small else 20
        generator = torch.Generator().manual_seed(1)
        centres = torch.randn(6, 16, generator=generator)
        noise = 0.3 * torch.randn(len(self.texts), 16, generator=generator)
        self.vectors = torch.stack([centres[i % 6] for i in range(len(self.texts))]) + noise
        rows = self.vectors[:, None, :] * torch.linspace(0.5, 1.5, 5)[None, :, None]
        self.prepare(native_models.unet_model(), [[rows, {}]], [[torch.zeros(1, 5, 16), {}]], torch.zeros(1, 4, 8, 8))


def spread(texts, count):
    """So many of them, evenly."""
    if len(texts) < count:
        raise ValueError(f"there are {len(texts)} prompts; at most {len(texts) - NEW} can be a set")
    return [texts[i] for i in np.linspace(0, len(texts) - 1, count).round().astype(int)]


# --- what is changed -------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A set that was changed: its plan, the prompts of the pool that it has, and which pictures stay, by (new, old)."""

    name: str
    plan: Any
    places: list[int]
    untouched: list[tuple[int, int]]


def changes_of(model, base, count):
    """The set after each change."""
    everyone, half = list(range(count)), base.num_steps // 2
    keys = PromptTree.of(model.vectors, "chord", model.texts).keys
    known, pool = model.vectors[:count], model.texts
    one = edited(base, EDITED, known, model.vectors[count], keys[count], pool[count])
    others = [i for i in everyone if i != EDITED]
    yield Change("edit 1", one, [count if i == EDITED else i for i in everyone], [(i, i) for i in others])
    three = slice(count + 1, count + NEW)
    more = attach(base, known, model.vectors[three], keys[three], pool[three])
    yield Change("add 3", more, [*everyone, *range(count + 1, count + NEW)], [(i, i) for i in everyone])
    again = rerolled(base, [Reroll(i, half, 1) for i in REROLLED])
    yield Change("reroll 2", again, everyone, [(i, i) for i in everyone if i not in REROLLED])
    yield variants(model, base, count, half)


def variants(model, base, count, half):
    """Four further pictures of a prompt, which share its branch up to half of the steps."""
    tree = model.tree([*range(count), *[VARIED] * VARIANTS])
    plan = plan_for(tree, Budget("tau", base.tau), profile(model, base.num_steps))
    plan = rerolled(plan, [Reroll(count + i, half, i + 1) for i in range(VARIANTS)])
    return Change("variants × 4", plan, [*range(count), *[VARIED] * VARIANTS], [(i, i) for i in range(count)])


def profile(model, steps):
    return Profile(steps)


# --- the table -------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of the table; `difference` is the largest of the pictures that were not touched."""

    model: str
    what: str
    changed: Run
    nfe: int
    fresh: Run
    difference: float
    stay: int


def measured(model, count, saving, repeat, tell):
    """Yield the lines of a model."""
    base_tree = model.tree(list(range(count)))
    base = plan_for(base_tree, Budget("saving", saving), profile(model, model.steps))
    warm_up(model, base)
    plain = least(lambda: model.run(base), repeat)
    stores = [Store(STORE) for _ in range(repeat)]
    runs = iter(stores)
    first = least(lambda: model.run(base, next(runs)), repeat)
    yield Line(
        model.name, f"first run of {count}, into a store", first, base.nfe, plain, *compared(first, plain, count)
    )
    for change in changes_of(model, base, count):
        tell(f"{model.name}: {change.name}")
        runs = iter(stores)  # what other changes have put there is no part of this one
        found = least(lambda plan=change.plan, runs=runs: model.run(plan, next(runs)), repeat)
        anew = plan_for(model.tree(change.places), Budget("saving", saving), profile(model, model.steps))
        fresh = least(lambda anew=anew: model.run(anew), repeat)
        new, old = (list(side) for side in zip(*change.untouched, strict=True))
        difference = largest(found.latents[new], first.latents[old])
        yield Line(model.name, change.name, found, change.plan.nfe, fresh, difference, len(new))
    tell(f"{model.name}: resume")
    found = least(lambda: resumed(model, base), repeat)
    yield Line(model.name, "resume at half", found, base.nfe, plain, *compared(found, first, count))


def compared(run, other, count):
    return largest(run.latents, other.latents), count


def largest(some, others):
    """Largest difference of two lots of latents; 0 only where all bits are the same."""
    return 0.0 if torch.equal(some, others) else float((some - others).abs().max()) or float("nan")


def warm_up(model, base):
    """The first evaluations of a process take longer."""
    with contextlib.suppress(Stopped):
        model.run(base, stop=1)


def resumed(model, base):
    """A run after one that was stopped at half of its rows."""
    store = Store(STORE)
    try:
        model.run(base, store, stop=base.nfe // 2)
    except Stopped:
        return model.run(base, store)
    raise RuntimeError("the run was not stopped")


def least(run: Callable[[], Run], repeat: int) -> Run:
    """The quickest of some runs."""
    return min((run() for _ in range(repeat)), key=lambda each: each.seconds)


HEADER = """| model | change | rows evaluated | reused | s | anew: rows | s | pictures that stay | largest difference |
|---|---|---:|---:|---:|---:|---:|---:|---|"""


def row_of(line):
    """A line as Markdown."""
    return (
        f"| {line.model} | {line.what} | {line.changed.rows} | {line.changed.reused} of {line.nfe} | "
        f"{line.changed.seconds:.2f} | {line.fresh.rows} | {line.fresh.seconds:.2f} | {line.stay} | "
        f"{'bit-identical' if line.difference == 0 else f'{line.difference:.2g}'} |"
    )


def table(lines):
    """The lines as Markdown."""
    return "\n".join([HEADER, *map(row_of, lines)])


def tell(text):
    print(text, file=sys.stderr, flush=True)


MODELS = {"emoji": Emoji, "scenes": Scenes, "native": Tiny, "full": Full}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What a set costs that is changed instead of drawn again.")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["emoji", "scenes", "native"])
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--steps", type=int, help="default: 40 for emoji, else 20")
    parser.add_argument("--saving", type=float, default=0.5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="few prompts and steps, to see that it runs")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    count = 14 if options.small else options.prompts
    lines = []
    for name in options.models:
        model = MODELS[name](count, options.device, options.small)
        model.steps = options.steps or model.steps
        for line in measured(model, count, options.saving, options.repeat, tell):
            tell(row_of(line))
            lines.append(line)
    print(table(lines))
    if options.out:
        options.out.write_text(table(lines) + "\n", encoding="utf-8")
    moved = [line for line in lines if line.difference != 0 and options.device == "cpu"]
    return f"not bit-identical on a CPU: {', '.join(f'{m.model} {m.what}' for m in moved)}" if moved else 0


if __name__ == "__main__":
    sys.exit(main())
