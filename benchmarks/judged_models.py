"""The two bundled models, each with sets of prompts and a judge that knows what the pictures should show.

The emoji model decides late, the scene model early. Both have the same few methods, for adherence.py and advice.py:
`start` a seed, `draw` plans of all sets at once, ask for `adherence` and for what the judge finds `right`.
"""

import itertools
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", "scripts", "training"))

from emoji_sets import CALIBRATION, SETS
from quality import joined_embeddings, split

from hierdiff_core import PromptTree, decode, embed_prompts, load_decoder, load_prior, sample
from hierdiff_core.kandinsky.adherence import DecoderDenoiser
from hierdiff_core.measure.adherence import LEVELS, adherence
from hierdiff_core.measure.detail import detail_loss
from hierdiff_core.plan.joining import join
from hierdiff_core.prompts.prompt_set import parse_prompts
from hierdiff_core.sampling.noise import common_noise

ROOT = Path(__file__).resolve().parent.parent
GPU_ROWS = 512  # pictures per call
SCENES, JUDGES = ROOT / "models" / "emoji-scenes", ROOT / ".training"
KINDS = ("style", "template", "relations", "unrelated")


@dataclass(frozen=True)
class Drawing:
    """What came out for all prompts of all sets.

    latents : (N, ...) tensor
    pictures : (N, H, W, 3) float32 tensor   in 0 ... 1, on the CPU
    passes : float or None                   per picture, where a step cache left fewer than the plan has
    """

    latents: torch.Tensor
    pictures: torch.Tensor
    passes: float | None = None


def device_of():
    return "cuda" if torch.cuda.is_available() else "cpu"


def joined(plans):
    """Plans of several sets as one, with the guidance that all of them have."""
    plans = list(plans)
    whole = join([replace(plan, guidance=None) for plan in plans])
    return replace(whole, guidance=plans[0].guidance)


def by_level(latents, denoiser, levels):
    """(L, N) adherence at each noise level."""
    return np.stack([adherence(latents, denoiser.noised, denoiser.denoised, [level]) for level in levels])


class Emoji:
    """The bundled Kandinsky-shaped model: DDPM, 40 steps, guidance 3.

    Parameters
    ----------
    sets : dict of str to list of str   prompts by the name of their set
    judge : Judge or None               of training/judge.py; None: nothing is judged
    same_noise : bool                   DDPM adds the same to all, so that pictures differ by their conditioning alone
    """

    name, steps, size = "emoji", 40, 128

    def __init__(self, sets, judge=None, guidance=3.0, scheduler="DDPM", same_noise=False):
        self.sets, self.judge, self.guidance, self.scheduler = sets, judge, guidance, scheduler
        self.same_noise = same_noise
        self.prior, self.decoder = emoji_networks()
        self.texts = list(itertools.chain(*sets.values()))

    def start(self, seed):
        """Embeddings and trees of a seed."""
        self.seed = seed
        self.embeddings = embed_prompts(self.prior, self.texts, guidance=4.0, seed=seed, batch_size=256)
        parts = split(self.embeddings, self.sets.values())
        self.parts = dict(zip(self.sets, parts, strict=True))
        self.trees = {name: PromptTree.of(part.positive, "chord", part.prompts) for name, part in self.parts.items()}

    def draw(self, plans, cache=""):
        """A plan of each set, in the order of the sets."""
        latents = sample(
            self.decoder,
            joined_embeddings(self.parts.values()),
            joined(plans),
            seed=self.seed,
            guidance=self.guidance,
            scheduler=self.scheduler,
            width=self.size,
            height=self.size,
            micro_batch=GPU_ROWS,
            noise=common_noise(self.seed) if self.same_noise else None,
        )
        return Drawing(latents, decode(self.decoder, latents, micro_batch=256))

    def workbench(self, samples, seed, steps, caches=False):
        """The advisor's, of all prompts as one set."""
        from hierdiff_core.kandinsky.workbench import DecoderWorkbench

        tree = PromptTree.of(self.embeddings.positive, "chord", self.texts)
        settings = {"guidance": self.guidance, "scheduler": self.scheduler, "width": self.size, "height": self.size}
        batch = {"micro_batch": GPU_ROWS}
        return DecoderWorkbench(
            self.decoder, self.embeddings, tree, steps, samples=samples, seed=seed, **settings, **batch
        ), tree

    def adherence(self, latents, levels):
        return by_level(latents, DecoderDenoiser(self.decoder, self.embeddings, GPU_ROWS), levels)

    def right(self, pictures):
        """(N,) bool whether emoji and style are right, and (N,) share of the two that are."""
        from emoji import STYLES, caption
        from judge import judged

        known = {
            caption(name, style): (i, s) for i, name in enumerate(self.judge.names) for s, style in enumerate(STYLES)
        }
        truth = torch.tensor([known[text] for text in self.texts])
        found = torch.stack(judged(self.judge, pictures.permute(0, 3, 1, 2)), dim=1)
        return shares(found == truth)


class Scenes:
    """The bundled scene model under ComfyUI's own samplers: Euler, 20 steps, cfg 3.

    Parameters
    ----------
    sets : dict of str to (N, 6) int64 array   scenes by the name of their set, see `scene_sets`
    names : sequence of str                    of the emoji
    judge : SceneJudge or None                 of training/scenes/judge.py
    folder : Path                              the model's
    """

    name, steps = "scenes", 20

    def __init__(self, sets, names, judge=None, folder=SCENES, cfg=3.0, sampler="euler", scheduler="simple"):
        from scenes.captions import Scene, canonical

        self.sets = {name: [canonical(Scene(*row), names) for row in rows.tolist()] for name, rows in sets.items()}
        self.truth = torch.from_numpy(np.concatenate(list(sets.values())))
        self.judge, self.cfg, self.sampler, self.scheduler = judge, cfg, sampler, scheduler
        self.texts = list(itertools.chain(*self.sets.values()))
        self.host = host_modules()
        self.model, self.clip, self.vae = scene_networks(folder)
        self.positive, self.vectors = encoded(self.host, self.clip, self.texts)
        self.negative = encoded(self.host, self.clip, [""])[0]
        self.empty = self.host.samplers.latents_for(self.model, torch.zeros(1, 4, 16, 16))
        ends = np.cumsum([0, *map(len, self.sets.values())]).tolist()
        self.places = [list(range(a, b)) for a, b in itertools.pairwise(ends)]
        trees = (PromptTree.of(self.vectors[rows], "chord", [self.texts[i] for i in rows]) for rows in self.places)
        self.trees = dict(zip(self.sets, trees, strict=True))

    def start(self, seed):
        self.seed = seed

    @torch.no_grad()
    def draw(self, plans, cache=""):
        """A plan of each set, in the order of the sets; with a step cache each set by itself, as it decides by set."""
        plans, everything = list(plans), list(range(len(self.texts)))
        runs = list(zip(plans, self.places, strict=True)) if cache else [(joined(plans), everything)]
        model, counted = self.with_cache(cache)
        latents = torch.cat([self.run(model, plan, rows) for plan, rows in runs])
        return Drawing(latents, self.vae.decode(latents).cpu().float(), counted[0] / len(everything) if cache else None)

    def run(self, model, plan, rows):
        samplers = self.host.samplers
        positive = self.host.cond_rows.rows_of(self.positive, rows, len(self.texts), "positive")
        options = {"show_tree": False, "tell": lambda _: None}
        guider = samplers.make_guider(model, positive, self.negative, self.cfg, plan, GPU_ROWS, **options)
        sigmas = self.host.samplers_by_name.sigmas_of(model, plan.num_steps, self.sampler, self.scheduler)
        return samplers.sample(guider, self.empty, self.sampler, sigmas, self.seed)

    def with_cache(self, cache):
        """The model with one of the host's step caches, and where the rows that it still evaluates are counted."""
        counted = [0]
        if not cache:
            return self.model, counted
        bench = self.host.advisor_bench
        return bench.counting(bench.host_caches()[cache](self.model), counted), counted

    def workbench(self, samples, seed, steps, caches=False):
        """The advisor's, of all prompts as one set."""
        tree = PromptTree.of(self.vectors, "chord", self.texts)
        bench = self.host.advisor_bench.ModelWorkbench(
            self.model,
            self.positive,
            self.negative,
            {"samples": self.empty},
            tree,
            sampler_name=self.sampler,
            scheduler=self.scheduler,
            steps=steps,
            cfg=self.cfg,
            seed=seed,
            samples=samples,
            vae=self.vae,
        )
        bench.caches = bench.caches if caches else ()
        return bench, tree

    def adherence(self, latents, levels):
        ask = self.host.adherence.ModelDenoiser
        return by_level(latents, ask(self.model, self.positive, self.negative, len(self.texts), GPU_ROWS), levels)

    def right(self, pictures):
        """(N,) bool whether all six parts are right, and (N,) share of those that are."""
        from scenes.judge import judged

        return shares(judged(self.judge, pictures.permute(0, 3, 1, 2) * 2 - 1) == self.truth)


def shares(right):
    """(N, P) bool -> (N,) bool of all, (N,) float of their mean."""
    return right.all(dim=1).numpy(), right.float().mean(dim=1).numpy()


@lru_cache(maxsize=1)
def emoji_networks():
    return load_prior(device=device_of()), load_decoder(device=device_of())


@lru_cache(maxsize=1)
def scene_networks(folder):
    """MODEL, CLIP and VAE"""
    return host_modules().scene_model.load_scene_folder(Path(folder))


class Modules:
    """Ours in a ComfyUI of this process, by their last names."""

    def __init__(self, pack):
        self.pack = pack

    def __getattr__(self, name):
        place = "nodes" if name == "clip" else "nodes.host"
        return import_module(f"{self.pack.__name__}.{place}.{name}")


def host_modules():
    """A ComfyUI without a server, once for each process."""
    if "hierdiff_pack" not in sys.modules:
        from comfyui_host import import_pack

        import_pack(Path(tempfile.mkdtemp()), cpu=device_of() == "cpu")
        import_module("comfy.utils").PROGRESS_BAR_ENABLED = False
    return Modules(sys.modules["hierdiff_pack"])


def encoded(host, clip, texts):
    """The host's CONDITIONING with a row for each text, and (N, D) vectors, as CLIP Embedding makes them."""
    tokens, entries, _ = host.clip.encode_each(clip, texts)
    lengths = [entry[0].shape[1] for entry in entries]
    conditioning = host.encode_set.merge(entries, texts, host.clip.how_to_lengthen(clip, tokens, lengths))
    return [conditioning], host.prompt_vectors.prompt_vectors(entries, texts, "auto").rows


def scored(model, drawn, full=None):
    """Figures of each picture: right, parts, adherence (N,), and detail against full sampling of the same seed."""
    right, parts = model.right(drawn.pictures)
    found = {"right": right, "parts": parts, "adherence": model.adherence(drawn.latents, LEVELS).mean(axis=0)}
    reference = drawn if full is None else full
    found["detail"] = np.concatenate(
        [detail_loss(drawn.pictures[here], reference.pictures[here]) for here in slices(model)]
    )
    return found


def slices(model):
    """The pictures of each set."""
    ends = np.cumsum([0, *(tree.num_prompts for tree in model.trees.values())]).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


# --- sets ------------------------------------------------------------------------------------------------------------


def emoji_sets(count, size, calibration=False):
    """`count` sets of emoji_sets.py with `size` prompts each, spread over the set; or the one for calibrations."""
    texts = {"calibration": CALIBRATION} if calibration else dict(itertools.islice(SETS.items(), count))
    found = {}
    for name, text in texts.items():
        prompts = parse_prompts(text)
        places = np.unique(np.linspace(0, len(prompts) - 1, min(size, len(prompts))).round().astype(int))
        found[name] = [prompts[i] for i in places]
    return found


def scene_sets(count, size, num_names, seed=0):
    """Sets of scenes of four kinds: name -> (size, 6) int64 array, columns as `scenes.captions.PARTS`.

    *style*: one pair of objects in all styles and colours; *template*: one object with others; *relations*: one pair in
    all relations and sizes; *unrelated*: nothing in common.
    """
    rng = np.random.default_rng([11, seed])
    return {f"{KINDS[i % 4]} {i // 4 + 1}": scenes_of(KINDS[i % 4], size, num_names, rng) for i in range(count)}


def scenes_of(kind, size, num_names, rng):
    from scenes.captions import COLOURS, FRONT, SMALLER, STYLES, random_scenes, trained_pairs

    pairs = trained_pairs(num_names)
    rows = random_scenes(rng, size, pairs)
    grid = np.array(list(itertools.product(range(len(STYLES)), range(len(COLOURS)))))
    if kind == "style":
        rows[:, 1:5] = rows[0, 1:5]
        rows[:, [0, 5]] = grid[rng.permutation(len(grid))[np.arange(size) % len(grid)]]
    elif kind == "template":
        rows[:, [0, 1, 3, 4]] = rows[0, [0, 1, 3, 4]]
        others = rng.permutation(np.flatnonzero(pairs[rows[0, 1]]))[: max(1, size // 3)]
        rows[:, 2] = others[np.arange(size) % len(others)]
    elif kind == "relations":
        rows[:, [0, 1, 2]] = rows[0, [0, 1, 2]]
    rows[rows[:, 3] == FRONT, 4] = SMALLER
    return np.unique(rows, axis=0) if kind == "unrelated" else distinct(rows)


def distinct(rows):
    """Rows without repetitions, in their order."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


# --- judges ----------------------------------------------------------------------------------------------------------


def emoji_judge(folder, device):
    """The judge of the emoji, or None with a line of why not."""
    from judge import load_judge

    try:
        return load_judge(folder, device)
    except ValueError as error:
        print(f"emoji: not judged: {error}", file=sys.stderr, flush=True)
        return None


def scene_judge(path, device):
    """A judge of the scenes, or None with a line of why not."""
    from scenes.judge import load_judge

    try:
        return load_judge(path, device)
    except ValueError as error:
        print(f"scenes: not judged: {error}", file=sys.stderr, flush=True)
        return None
