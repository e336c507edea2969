"""What stands for a cluster while its prompts share steps: an experiment on any MODEL and CLIP of ComfyUI.

The mean of the encoded tokens (as shipped), the medoid (the member nearest to it), or the words' embeddings averaged
before the text encoder, where the encoder takes embeddings. One trunk of all prompts down to several noise levels, then
each alone: the same rows for each way. The loss is the squared distance of the latents to full sampling, as a share of
the spread between the prompts' own; on the bundled scene model it is what a judge finds, and adherence.

    python benchmarks/conditioning.py --scenes [--scene-judge FILE] [--scenes-folder FOLDER] [--sets 8] [--seeds S]
    python benchmarks/conditioning.py --checkpoint FILE [--cpu] [--prompts "{a|b} ..."] [--steps K] [--seeds S]
    python benchmarks/conditioning.py --small        random weights, of no meaning, on the CPU
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
for folder in ("", "scripts", "tests"):
    sys.path.insert(0, str(ROOT / folder))

from comfyui_host import import_pack  # noqa: E402

from hierdiff_core import Budget, Profile, PromptTree, build_plan, plan_for  # noqa: E402
from hierdiff_core.plan.algebra import alone  # noqa: E402
from hierdiff_core.plan.noise_levels import unshared_steps  # noqa: E402
from hierdiff_core.prompts.prompt_set import parse_prompts  # noqa: E402

WAYS = ("mean", "medoid", "words")
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5)
PROMPTS = "a {photo|watercolor} of a {red|green} {apple|teapot} on a table"


def word_table(clip: Any, key: str) -> torch.Tensor:
    """The embeddings of an encoder's words, (V, D), by the key of its tokens.

    Raises
    ------
    ValueError
        If the encoder hands out none.
    """
    model = clip.cond_stage_model
    encoder = getattr(model, f"clip_{key}", getattr(model, key, None))
    if encoder is None or not hasattr(getattr(encoder, "transformer", None), "get_input_embeddings"):
        raise ValueError(f"the text encoder '{key}' takes no embeddings of words")
    return encoder.transformer.get_input_embeddings().weight


def mean_words(clip: Any, prompts: list[str]) -> dict[str, list]:
    """Tokens as the host's tokenizer gives them, in which words that differ are the mean of their embeddings.

    Raises
    ------
    ValueError
        If the prompts have different numbers of chunks.
    """
    tokenized = [clip.tokenize(prompt) for prompt in prompts]
    found: dict[str, list] = {}
    for key, chunks in tokenized[0].items():
        others = [tokens[key] for tokens in tokenized]
        if len({len(own) for own in others}) > 1 or len({tuple(map(len, own)) for own in others}) > 1:
            raise ValueError("prompts with different numbers of chunks have no mean of words")
        table = word_table(clip, key)
        found[key] = [
            [mean_word(table, [own[c][i] for own in others]) for i in range(len(chunk))]
            for c, chunk in enumerate(chunks)
        ]
    return found


def mean_word(table: torch.Tensor, words: list[tuple]) -> tuple:
    """One place of the prompts: the word itself where all have it."""
    ids = [word[0] for word in words]
    if len(set(ids)) == 1:
        return words[0]
    return (table[torch.tensor(ids)].float().mean(dim=0).cpu(), float(np.mean([word[1] for word in words])))


@dataclass
class Standing:
    """What stands for clusters, in the place of the pack's own mean.

    Parameters
    ----------
    rows : module
        The pack's `nodes.host.cond_rows`.
    clip : CLIP
    prompts : N str
    positive : (N, T, D) tensor
        Their encoded tokens.
    way : one of WAYS
    """

    rows: Any
    clip: Any
    prompts: list[str]
    positive: torch.Tensor
    way: str
    encoded: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def reduced_rows(self, rows, clusters, name, takes_first=False):
        """As the function of this name in `nodes/host/cond_rows.py`."""
        usual = self.mean(rows, clusters, name, takes_first)
        if self.way == "mean" or len(rows) != len(self.prompts) or self.rows.has_no_mean(name, rows):
            return usual
        if self.way == "medoid":
            return rows[torch.tensor([self.medoid(members) for members in self.members(clusters)])]
        if name != "c_crossattn":  # pooled outputs: the mean
            return usual
        return torch.cat([self.of_words(members) for members in self.members(clusters)]).to(rows)

    def members(self, clusters) -> list[list[int]]:
        return [np.flatnonzero(clusters.labels == c).tolist() for c in range(len(clusters.first))]

    def medoid(self, members: list[int]) -> int:
        """The member whose tokens are nearest to the mean's."""
        own = self.positive[members].float().flatten(1)
        return members[int((own - own.mean(dim=0)).square().sum(dim=1).argmin())]

    def of_words(self, members: list[int]) -> torch.Tensor:
        """(1, T, D): the mean of the words, encoded."""
        if tuple(members) not in self.encoded:
            tokens = mean_words(self.clip, [self.prompts[i] for i in members])
            made = self.positive[members] if len(members) == 1 else self.clip.encode_from_tokens(tokens)
            self.encoded[tuple(members)] = made
        return self.encoded[tuple(members)]

    @contextlib.contextmanager
    def in_force(self):
        """A context: runs with shared steps take what stands here."""
        self.mean, self.rows.reduced_rows = self.rows.reduced_rows, self.reduced_rows
        try:
            yield
        finally:
            self.rows.reduced_rows = self.mean


def encoded(clip: Any, prompts: list[str]) -> list:
    """CONDITIONING with a row for each prompt, whole and with its padding."""
    made = [clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for prompt in prompts]
    pooled = [] if made[0][1] is None else [("pooled_output", torch.cat([own[1] for own in made]))]
    return [[torch.cat([own[0] for own in made]), dict(pooled)]]


@dataclass
class Experiment:
    """A model, a set of prompts, and how they are drawn."""

    pack: Any
    model: Any
    clip: Any
    prompts: list[str]
    steps: int
    cfg: float
    latents: torch.Tensor
    sampler: str = "euler"
    scheduler: str = "normal"

    def __post_init__(self):
        host = importlib.import_module(f"{self.pack.__name__}.nodes.host")
        self.samplers = importlib.import_module(f"{host.__name__}.samplers")
        self.rows = importlib.import_module(f"{host.__name__}.cond_rows")
        levels = importlib.import_module(f"{host.__name__}.noise_levels").noise_levels
        sigmas_of = importlib.import_module(f"{host.__name__}.samplers_by_name").sigmas_of
        self.positive, self.negative = encoded(self.clip, self.prompts), encoded(self.clip, [""])
        self.sigmas = sigmas_of(self.model, self.steps, self.sampler, self.scheduler)
        sampling = self.model.get_model_object("model_sampling")
        self.levels = levels(sampling, self.sigmas[:-1])
        self.tree = PromptTree.of(self.positive[0][0].mean(dim=1), "chord", self.prompts)

    def trunk(self, level: float):
        """One cluster of all prompts down to a noise level, then each alone."""
        unshared = min(unshared_steps(self.levels, level), self.steps)
        return plan_for(self.tree, Budget("root share", 1.0), Profile(self.steps, "trunk", unshared))

    def draw(self, plan, seed: int) -> torch.Tensor:
        """Final latents, (N, ...)."""
        guider = self.samplers.make_guider(
            self.model, self.positive, self.negative, self.cfg, plan, 0, show_tree=False, tell=lambda _: None
        )
        return self.samplers.sample(guider, self.latents, self.sampler, self.sigmas, seed).cpu()

    def losses(self, seeds: int, levels=LEVELS):
        """(level, rows for each picture, {way: loss of each seed}) for each depth of the trunk."""
        full = [self.draw(alone(len(self.prompts), len(self.sigmas) - 1), seed) for seed in range(seeds)]
        for level in levels:
            plan = self.trunk(level)
            found = {}
            for way in WAYS:
                standing = Standing(self.rows, self.clip, self.prompts, self.positive[0][0], way)
                with standing.in_force():
                    drawn = [self.draw(plan, seed) for seed in range(seeds)]
                found[way] = [relative_loss(own, other) for own, other in zip(drawn, full, strict=True)]
            yield level, plan.nfe / len(self.prompts), found


def relative_loss(latents: torch.Tensor, full: torch.Tensor) -> float:
    """Squared distance to full sampling, as a share of the spread between its pictures."""
    spread = (full - full.mean(dim=0)).square().mean()
    return float((latents - full).square().mean() / spread)


def judged_losses(model: Any, seeds: int, levels=LEVELS):
    """What the ways lose on the scene model, and what they cost.

    Parameters
    ----------
    model : judged_models.Scenes
        With a judge.
    seeds : int
    levels : floats

    Yields
    ------
    level, rows of each picture, {way: {kind of the sets: (right less than full sampling, loss of adherence)}}
    """
    rows = model.host.cond_rows
    full, steps = [], model.steps
    for seed in range(seeds):
        model.start(1000 + seed)
        full.append(scored_by(model, [alone(tree.num_prompts, steps, tree.keys) for tree in model.trees.values()]))
    for level in levels:
        shared = round((1 - level) * steps)
        plans = [
            build_plan(tree.Z, [float(tree.Z[-1, 2])] * shared + [0.0] * (steps - shared), tree.keys)
            for tree in model.trees.values()
        ]
        found = {}
        for way in WAYS:
            standing = Standing(rows, model.clip, model.texts, model.positive[0][0], way)
            drawn = []
            with standing.in_force():
                for seed in range(seeds):
                    model.start(1000 + seed)
                    drawn.append(scored_by(model, plans))
            found[way] = by_kind(model, full, drawn)
        yield level, sum(plan.nfe for plan in plans) / len(model.texts), found


def scored_by(model: Any, plans: list) -> dict[str, np.ndarray]:
    from judged_models import scored

    return scored(model, model.draw(plans))


def by_kind(model: Any, full: list, drawn: list) -> dict[str, tuple[float, float]]:
    """Losses of the sets of each kind together, over all seeds."""
    from judged_models import slices

    kinds = np.concatenate(
        [[name.split()[0]] * (here.stop - here.start) for name, here in zip(model.trees, slices(model), strict=True)]
    )
    found = {}
    for kind in (*dict.fromkeys(kinds), "all"):
        rows = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
        right, best = (np.mean([own["right"][rows].mean() for own in every]) for every in (drawn, full))
        mine, theirs = (np.mean([own["adherence"][rows].mean() for own in every]) for every in (drawn, full))
        found[kind] = (float(best - right), float(1 - mine / theirs))
    return found


def measure_scenes(options: argparse.Namespace) -> None:
    """Print the table of the scene model."""
    from judged_models import Scenes, device_of, scene_judge, scene_sets

    judge = scene_judge(options.scene_judge, device_of())
    if judge is None:
        sys.exit("nothing can be judged")
    sets = scene_sets(options.sets, options.size, len(judge.names))
    model = Scenes(sets, judge.names, judge, options.scenes_folder)
    model.steps = options.steps
    print("Right pictures lost / adherence lost, in per cent, against full sampling\n")
    kinds = [*dict.fromkeys(name.split()[0] for name in sets), "all"]
    print("| trunk down to noise level | rows per picture | what stands | " + " | ".join(kinds) + " |")
    print("|---" * (3 + len(kinds)) + "|")
    for level, rows, found in judged_losses(model, options.seeds, LEVELS[1:2] if options.few else LEVELS):
        for way, losses in found.items():
            cells = (f"{100 * losses[kind][0]:.1f} / {100 * losses[kind][1]:.1f}" for kind in kinds)
            print(f"| {level} | {rows:.1f} | {way} | " + " | ".join(cells) + " |", flush=True)


def small_clip() -> Any:
    """SD 1's text encoder with random weights, as wide as the tiny UNet wants it."""
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    config = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    options = {"dtype": torch.float32, "clip_l_model_config": config}
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options=options)
    generator = torch.Generator().manual_seed(0)
    for parameter in clip.cond_stage_model.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="a file that ComfyUI's Load Checkpoint reads")
    parser.add_argument("--small", action="store_true", help="random weights on the CPU")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--prompts", default=PROMPTS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=7.0)
    parser.add_argument("--side", type=int, default=64, help="of the latents")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scenes", action="store_true", help="the bundled scene model, judged")
    parser.add_argument("--scenes-folder", type=Path, default=ROOT / "models" / "emoji-scenes")
    parser.add_argument(
        "--scene-judge", type=Path, default=ROOT / ".training" / "scenes" / "judges" / "judge-202.safetensors"
    )
    parser.add_argument("--sets", type=int, default=8, help="of the scene model")
    parser.add_argument("--size", type=int, default=24, help="prompts of each of these sets")
    parser.add_argument("--few", action="store_true", help="one depth of the trunk only")
    options = parser.parse_args()
    if options.scenes:
        with torch.no_grad():
            return measure_scenes(options)
    if not (options.small or options.checkpoint):
        parser.error("take --scenes, name a --checkpoint, or take --small")
    pack = import_pack(Path(tempfile.mkdtemp()), cpu=options.small or options.cpu)
    if options.small:
        model, clip = importlib.import_module("native_models").unet_model(), small_clip()
        options.steps, options.side = 8, 8
    else:
        load = importlib.import_module("comfy.sd").load_checkpoint_guess_config
        model, clip, *_ = load(options.checkpoint, output_vae=False)
    channels = model.model.latent_format.latent_channels
    latents = torch.zeros(1, channels, options.side, options.side)
    prompts = list(parse_prompts(options.prompts))
    experiment = Experiment(pack, model, clip, prompts, options.steps, options.cfg, latents)
    print("| trunk down to noise level | rows per picture | " + " | ".join(WAYS) + " |")
    print("|---" * (2 + len(WAYS)) + "|")
    for level, rows, found in experiment.losses(options.seeds):
        cells = (f"{np.mean(found[way]):.3f} ± {np.std(found[way]):.3f}" for way in WAYS)
        print(f"| {level} | {rows:.1f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
