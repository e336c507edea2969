"""The whole pipeline without ComfyUI: the command `hierdiff`, where the library is installed.

python -m hierdiff_core "a red apple" "a green apple" --saving 0.5 --out DIR
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from . import (
    Budget,
    Plan,
    Profile,
    PromptEmbeddings,
    PromptTree,
    Sensitivity,
    decode,
    embed_prompts,
    load_decoder,
    load_prior,
    plan_for,
    read_sensitivity,
    sample,
)
from .advise_command import ADVICE, PLOT, advised_plan, check_advising, run_advice
from .embeddings import IMAGE_EMBEDDINGS
from .files.set_folder import DrawnSet, prepare_folder
from .kandinsky.decoding import BackgroundDecoder
from .kandinsky.guidance import passes_per_row
from .kandinsky.model_folder import DECODER_CLASS, PRIOR_CLASS, check_folder
from .limits import check_limits
from .measure.advice import Advice, read_advice
from .options import NO_SETTINGS, SENSITIVITY, parse_arguments
from .picture_files import PictureFiles, as_png, raise_first, writing
from .pictures.contact_sheet import contact_sheet
from .pictures.dendrogram import draw_dendrogram
from .pictures.schedule import draw_schedule
from .pictures.tree import draw_tree
from .plan.advised import advised_data
from .plan.seeds import seed_groups
from .plan_options import guidance_course, private_steps
from .previews import BranchLatents, to_pictures
from .prompts.files import add_file
from .prompts.prompt_set import PromptReader, check_prompts
from .prompts.rows import PromptRow, PromptRows, as_rows, own_seeds, with_texts
from .prompts.wildcards import Wildcards
from .sampling.finite import rows_not_finite
from .sampling.observer import Callbacks, Observer, Observers
from .sampling.pace import in_words
from .sampling.progress import RunProgress, Times, left_in_words, times_in_words

# Seconds by the work that is left, in place of tqdm's own by their number
BAR = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} passes{postfix}"


def read_prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """Prompts of the arguments, then of the file; what was skipped, or may not mean what it says, is told."""
    reader = PromptReader(Wildcards(options.wildcards))
    for number, argument in enumerate(options.prompts, start=1):
        reader.add_argument(argument, f"argument {number}")
    if options.file:
        add_file(reader, options.file)
    prompts = PromptRows(reader.rows)
    for line in [*reader.remarks.notes(), *reader.remarks.warnings(prompts)]:
        tell(line)
    return with_texts(prompts, check_prompts(prompts))


def make_profile(options: argparse.Namespace, sensitivity: Sensitivity | None) -> Profile:
    """How the threshold falls; refused here, before models are loaded, when something is missing."""
    if options.shape == "calibrated" and sensitivity is None:
        raise ValueError(
            f"--shape calibrated needs the model's sensitivity, and {options.decoder} has no {SENSITIVITY}; name one "
            "that Calibrate Schedule has saved with --sensitivity, or choose another shape"
        )
    return Profile(options.steps, options.shape, private_steps(options), options.power, sensitivity)


def make_plan(
    embeddings: PromptEmbeddings, profile: Profile, advice: Advice | None, decoder: Any, options: argparse.Namespace
) -> Plan:
    """The plan of a set; as much is saved as can be, and a saving that was asked for and is out of reach is told."""
    tree = PromptTree.of(embeddings.positive, options.metric, embeddings.prompts, device=options.device)
    if advice is not None:
        return advised_plan(advice, tree, decoder, options)
    budgets = {"tau": options.tau, "root share": options.root_share, "saving": options.saving}
    unit = next(unit for unit, value in budgets.items() if value is not None)
    budget = Budget(unit, budgets[unit], clamp=True)
    if options.budget_given and (missed := budget.missed(tree, profile)):
        tell(missed)
    return replace(plan_for(tree, budget, profile), guidance=guidance_course(options))


def checked_prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """The prompts; numbers, device and model folders are looked at before anything is loaded."""
    check_limits(options)
    prompts = read_prompts(options)
    check_device(options.device)
    check_folder(options.prior, PRIOR_CLASS)
    check_folder(options.decoder, DECODER_CLASS)
    return prompts


def embed(prompts: Sequence[str], options: argparse.Namespace) -> PromptEmbeddings:
    """Embeddings of the prompts; the prior is loaded for them alone.

    A seed is the prior's and the decoder's here, so that of a prompt of its own is too.
    """
    prior, rows = load_prior(options.prior, device=options.device), as_rows(prompts).rows
    settings = {
        "negative_prompt": options.negative_prompt,
        "num_steps": options.prior_steps,
        "guidance": options.prior_guidance,
        "noise": options.prior_noise,
    }
    groups, seeds = seed_groups(own_seeds(prompts), len(rows))
    if len(seeds) == 1 and seeds[0] is None:
        return embed_prompts(prior, prompts, seed=options.seed, **settings)
    positive, negative = [], []
    members = [np.flatnonzero(groups == group) for group in range(len(seeds))]
    for seed, own in zip(seeds, members, strict=True):
        seed = options.seed if seed is None else seed
        part = embed_prompts(prior, PromptRows(rows[i] for i in own), seed=seed, **settings)
        positive.append(part.positive)
        negative.append(part.negative)
    order = np.argsort(np.concatenate(members))
    return PromptEmbeddings(torch.cat(positive)[order], torch.cat(negative)[order], prompts, IMAGE_EMBEDDINGS)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Embed, cluster, sample, decode and write; returns the report."""
    prompts = checked_prompts(options)
    sensitivity = read_sensitivity(options.sensitivity) if options.sensitivity else None
    advice = read_advice(options.advice) if options.advice else None
    profile = make_profile(options, sensitivity)
    guidance_course(options)  # refused before anything is loaded
    prepare_folder(options.out, options.overwrite)
    began = time.monotonic()
    embeddings = embed(prompts, options)
    decoder = load_decoder(options.decoder, device=options.device)
    plan = make_plan(embeddings, profile, advice, decoder, options)
    with DrawnSet(options.out, prompts, options.overwrite) as drawn:
        images, files, branches, not_finite, times = draw(decoder, embeddings, plan, drawn, options)
        draw_figures(
            drawn,
            contact_sheet=lambda: contact_sheet(images, prompts),
            dendrogram=lambda: draw_dendrogram(plan.Z, prompts, plan.tau, trees=len(plan.groups()[1])),
            schedule=lambda: draw_schedule(plan),
            tree=lambda: draw_tree(
                plan, prompts, lambda wanted: to_pictures(decode(decoder, branches.stacked(wanted)))
            ),
        )
        report = make_report(options, prompts, plan, files, time.monotonic() - began)
        report["not_finite"] = not_finite
        report["seconds_sampling"], report["seconds_full_sampling"] = rounded(times.elapsed), rounded(times.full)
        drawn.finish(report)
    if strays := drawn.strays():
        tell(f"{options.out} keeps pictures that no report named: {', '.join(strays[:5])}{' …' * (len(strays) > 5)}")
    return report


def advise(options: argparse.Namespace) -> Advice:
    """Embed, and measure what pays."""
    check_advising(options)
    prompts = checked_prompts(options)
    embeddings = embed(prompts, options)
    return run_advice(load_decoder(options.decoder, device=options.device), embeddings, options, tell)


def told(advice: Advice, options: argparse.Namespace) -> int:
    """Print what pays, and how to draw so."""
    print("\n".join(advice.sentences))
    print(f"Draw so: --advice {options.out / ADVICE}   (chart: {options.out / PLOT})")
    return 0


def draw_figures(drawn: DrawnSet, **figures: Callable[[], Image.Image]) -> None:
    """Draw and write figures; one that cannot be drawn is left out: the pictures and the report are worth more."""
    for name, figure in figures.items():
        try:
            data = as_png(figure())
        except Exception as error:
            logging.exception("HierDiff: the figure %s failed", name)
            tell(f"{name}.png is missing, since it failed ({type(error).__name__}: {error})")
            continue
        drawn.add_file(f"{name}.png", data)


def check_device(name: str) -> None:
    """Refuse a device that torch does not know, or that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda, cuda:1 or the like; got {name[:80]!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here")


def draw(
    decoder: Any, embeddings: PromptEmbeddings, plan: Plan, drawn: DrawnSet, options: argparse.Namespace
) -> tuple[list[Image.Image], list[str], BranchLatents, list[int], Times]:
    """Sample, decode and write; a picture is written while later ones are drawn, as far as the order of work allows.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Of N prompts.
    plan : Plan
        For N prompts.
    drawn : DrawnSet
        Where pictures go.
    options : argparse.Namespace
        Of the command line.

    Returns
    -------
    images : list of N PIL pictures
        In prompt order.
    files : list of N str
        Their names.
    branches : BranchLatents
        For the tree's picture.
    not_finite : list of int
        Prompts whose latents hold NaN or infinity.
    times : Times
        Of the sampling.
    """
    branches = BranchLatents(plan)
    progress = RunProgress(plan, passes=passes_per_row(plan, options.guidance, options.guidance_interval))
    with tqdm(total=round(progress.work[1]), desc="sampling", bar_format=BAR) as bar, writing() as writers:
        pictures = PictureFiles(drawn, writers, plan.num_prompts)
        with BackgroundDecoder(decoder, pictures.add) as decoded:
            latents = sample(
                decoder,
                embeddings,
                plan,
                seed=options.seed,
                guidance=options.guidance,
                scheduler=options.scheduler,
                width=options.width,
                height=options.height,
                micro_batch=options.micro_batch,
                rescale_means=options.rescale_means,
                order=options.order,
                acceleration=options.acceleration,
                guidance_interval=options.guidance_interval,
                observer=Observers(branches, progress, Bar(bar, progress), Callbacks(on_finished=decoded)),
            )
            not_finite = rows_not_finite(latents)  # waits for the device
            progress.end()
    raise_first(pictures.failures)
    return pictures.images, pictures.files, branches, not_finite, progress.times()


class Bar(Observer):
    """The work that is done and the seconds, on a progress bar; `progress` hears of each step before."""

    def __init__(self, bar: tqdm, progress: RunProgress):
        self.bar, self.progress = bar, progress

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Move on."""
        self.bar.set_postfix_str(left_in_words(self.progress.times()), refresh=False)
        self.bar.update(round(self.progress.work[0]) - self.bar.n)


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def tell(message: object) -> None:
    print(f"hierdiff: {message}", file=sys.stderr)


def make_report(
    options: argparse.Namespace, prompts: Sequence[str], plan: Plan, files: Sequence[str], seconds: float
) -> dict[str, Any]:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {
        "images": [
            {"file": file, "prompt": row.text, **own_data(row)}
            for file, row in zip(files, as_rows(prompts).rows, strict=True)
        ],
        "tau": plan.tau,
        "nfe": plan.nfe,
        "nfe_standard": plan.nfe_standard,
        "duplicates": plan.num_prompts - plan.num_distinct,
        "saved": plan.saved,
        "advised": None if plan.advised is None else advised_data(plan.advised),
        "expected_distortion": plan.distortion,
        "expected_distortion_straight_line": None if plan.distortion is None else plan.straight_line().distortion,
        "clusters_per_step": plan.clusters_per_step.tolist(),
        "seconds": round(seconds, 2),
        "settings": {key: value for key, value in settings.items() if key not in NO_SETTINGS},
    }


def own_data(row: PromptRow) -> dict[str, Any]:
    """What a report says of a prompt beside its text: its own negative, seed and caption."""
    own = {"negative": row.negative, "seed": row.seed, "caption": row.caption}
    return {name: value for name, value in own.items() if value is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is drawn; 1: refused, or it could not be written; 2: wrong usage; 130: interrupted."""
    try:
        options = parse_arguments(arguments)
        if options.advise:
            return told(advise(options), options)
        report = run(options)
    except (ValueError, OSError) as error:
        tell(error)
        return 1
    except KeyboardInterrupt as interrupt:
        tell(f"interrupted; {interrupt or 'no picture was finished'}")
        return 130
    times = Times(report["seconds_sampling"], 0.0, report["seconds_full_sampling"])
    print(
        f"{times_in_words(times, len(report['images']))}\n{report['nfe']} UNet rows instead of "
        f"{report['nfe_standard']}, {report['saved']:.1%} saved; with loading and writing {in_words(report['seconds'])}"
        f"\nin {options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
