"""The whole pipeline without ComfyUI: the command `hierdiff`, where the library is installed.

python -m hierdiff_core "a red apple" "a green apple" --saving 0.5 --out DIR
"""

import argparse
import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

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
)
from .advise_command import ADVICE, PLOT, advised_plan, check_advising, run_advice
from .draw_command import Drawing, draw
from .embeddings import IMAGE_EMBEDDINGS
from .files.folder_lock import held
from .files.picture_marks import as_png
from .files.set_folder import REPORT, DrawnSet, files_of_sets, prepare_folder
from .files.whole_files import try_writing
from .kandinsky.model_folder import DECODER_CLASS, PRIOR_CLASS, check_folder
from .limits import check_limits
from .measure.advice import Advice, read_advice
from .options import NO_SETTINGS, SENSITIVITY, parse_arguments
from .pictures.contact_sheet import contact_sheet
from .pictures.dendrogram import draw_dendrogram
from .pictures.schedule import draw_schedule
from .pictures.tree import draw_tree
from .plan.advised import advised_data
from .plan.seeds import seed_groups
from .plan_options import guidance_course, private_steps
from .previews import to_pictures
from .prompts.files import add_file
from .prompts.prompt_set import PromptReader, check_prompts
from .prompts.rows import PromptRows, as_rows, own_seeds, with_texts
from .prompts.wildcards import Wildcards
from .sampling.pace import in_words
from .sampling.progress import Times, times_in_words
from .set_note import (
    check_grown,
    check_same,
    finished_pictures,
    images_of,
    note_path,
    noted_prompts,
    read_set,
    set_note,
)
from .set_trunk import SetTrunk
from .shard_command import SHARD, shard
from .workers_command import device_here, draw_on_workers, early_workers, load_for_workers, workers_of, workers_words


def read_prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """Prompts of the arguments, then of the file; what was skipped, or may not mean what it says, is told."""
    if options.resume and not options.prompts and not options.file:
        return prompts_there(options)
    reader = PromptReader(Wildcards(options.wildcards))
    for number, argument in enumerate(options.prompts, start=1):
        reader.add_argument(argument, f"argument {number}")
    if options.file:
        add_file(reader, options.file)
    prompts = PromptRows(reader.rows)
    for line in [*reader.remarks.notes(), *reader.remarks.warnings(prompts)]:
        tell(line)
    return with_texts(prompts, check_prompts(prompts))


def prompts_there(options: argparse.Namespace) -> tuple[str, ...]:
    """The prompts of the set that is to be gone on with."""
    path = note_path(options.out)
    note = read_set(path)
    if note is None:
        raise ValueError(f"--resume: there is no set in {options.out}; give prompts to begin one")
    prompts = noted_prompts(note, path)
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
    tree = PromptTree.of(embeddings.positive, options.metric, embeddings.prompts, device=device_here(options))
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
    workers = workers_of(options)
    prompts = read_prompts(options)
    check_device(device_here(options) if workers else options.device)
    check_folder(options.prior, PRIOR_CLASS)
    check_folder(options.decoder, DECODER_CLASS)
    return prompts


def embed(prompts: Sequence[str], options: argparse.Namespace) -> PromptEmbeddings:
    """Embeddings of the prompts; the prior is loaded for them alone.

    A seed is the prior's and the decoder's here, so that of a prompt of its own is too.
    """
    prior, rows = load_prior(options.prior, device=device_here(options)), as_rows(prompts).rows
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
    note = set_note(options, prompts)
    check_grown(options, note)
    with (
        prepared(options, note, prompts) as there,
        drawn_set(options, note, prompts, there) as drawn,
        SetTrunk(drawn.trunk, note["set"], options.trunk_gb, tell) as trunk,
        early_workers(options, tell) or contextlib.nullcontext() as workers,
    ):
        if workers is not None and len(there) < len(prompts):
            tell("starting the workers")
            workers.start()
        drawn.make_room = trunk.make_room
        began = time.monotonic()
        if options.grow:
            trunk.take_over(options.grow, read_set(options.grow / REPORT) or {})
        embeddings = trunk.embeddings(prompts, lambda prompts: embed(prompts, options))
        load = load_decoder if workers is None else load_for_workers
        decoder = load(options.decoder, device=options.device)
        plan = make_plan(embeddings, profile, advice, decoder, options)
        plan = trunk.plan(plan, options.keep, options.grown_from is not None)
        if workers is None:
            drawing = draw(decoder, embeddings, plan, drawn, options, there, trunk.store)
        else:
            drawing = draw_on_workers(workers, decoder, embeddings, plan, drawn, options, there, tell)
        draw_figures(drawn, drawing, decoder, plan, prompts)
        report = {**note, **make_report(options, prompts, plan, drawing.files, time.monotonic() - began)}
        report["not_finite"], report["reused"], times = drawing.not_finite, drawing.reused, drawing.times
        report["seconds_sampling"], report["seconds_full_sampling"] = rounded(times.elapsed), rounded(times.full)
        trunk.flush()  # or a file would come after the others are removed
        drawn.finish(report, options.keep)
    if strays := drawn.strays():
        some = f"{', '.join(strays[:5])}{' …' * (len(strays) > 5)}"
        tell(f"{options.out} keeps pictures that this command has not drawn: {some}")
    return report


@contextlib.contextmanager
def prepared(
    options: argparse.Namespace, note: dict[str, Any], prompts: Sequence[str]
) -> Iterator[dict[int, Image.Image]]:
    """Make the folder, look at what is in it, and keep others out of it; yields the pictures that are there."""
    if not (options.resume and files_of_sets(options.out)):
        prepare_folder(options.out, options.overwrite, len(prompts))
        with held(options.out):
            yield {}
        return
    with held(options.out):
        path = note_path(options.out)
        check_same(options, read_set(path), note, prompts)
        if path.name == REPORT:
            raise SetFinished(f"the set in {options.out} is finished: {len(prompts)} pictures")
        try_writing(options.out / REPORT)
        yield finished_pictures(options.out, note["set"], len(prompts))


class SetFinished(Exception):
    """Nothing is left to draw."""


def drawn_set(
    options: argparse.Namespace, note: dict[str, Any], prompts: Sequence[str], there: Collection[int]
) -> DrawnSet:
    """Where pictures go."""
    return DrawnSet(
        options.out,
        prompts,
        options.overwrite,
        note=note,
        finished=there,
        images=images_of(prompts),
        go_on=f"{options.prog} --resume --out {shlex.quote(str(options.out))}{workers_words(options)}",
        resume=options.resume,
    )


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


def draw_figures(drawn: DrawnSet, drawing: Drawing, decoder: Any, plan: Plan, prompts: Sequence[str]) -> None:
    """Draw and write figures; one that cannot be drawn is left out: the pictures and the report are worth more."""

    def branches(wanted: list[int]) -> list[Image.Image]:
        return to_pictures(decode(decoder, drawing.branches.stacked(wanted)))

    figures: dict[str, Callable[[], Image.Image]] = {
        "contact_sheet": lambda: contact_sheet(drawing.images, prompts),
        "dendrogram": lambda: draw_dendrogram(plan.Z, prompts, plan.tau, trees=len(plan.groups()[1])),
        "schedule": lambda: draw_schedule(plan),
        "tree": lambda: draw_tree(plan, prompts, branches),
    }
    for name, figure in figures.items():
        try:
            data = as_png(figure(), drawn.figure_mark(name))
        except Exception as error:
            logging.exception("HierDiff: the figure %s failed", name)
            tell(f"{name}.png is missing, since it failed ({type(error).__name__}: {error})")
            continue
        drawn.add_figure(f"{name}.png", data)


def check_device(name: str) -> None:
    """Refuse a device that torch does not know, or that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda, cuda:1 or the like; got {name[:80]!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here")


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def tell(message: object) -> None:
    print(f"hierdiff: {message}", file=sys.stderr)


def make_report(
    options: argparse.Namespace, prompts: Sequence[str], plan: Plan, files: Sequence[str], seconds: float
) -> dict[str, Any]:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {
        "images": [{"file": file, **image} for file, image in zip(files, images_of(prompts), strict=True)],
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


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is drawn; 1: refused, or it could not be written; 2: wrong usage; 130: interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [SHARD]:
        return shard(words[1:])
    try:
        options = parse_arguments(arguments)
        if options.advise:
            return told(advise(options), options)
        report = run(options)
    except (ValueError, OSError) as error:
        tell(error)
        return 1
    except SetFinished as finished:
        tell(finished)
        return 0
    except KeyboardInterrupt as interrupt:
        tell(f"interrupted; {interrupt or 'no picture was finished'}")
        return 130
    times = Times(report["seconds_sampling"], 0.0, report["seconds_full_sampling"])
    reused = f"reused {report['reused']} of {report['nfe']} UNet rows\n" if report["reused"] else ""
    print(
        f"{times_in_words(times, len(report['images']))}\n{reused}{report['nfe']} UNet rows instead of "
        f"{report['nfe_standard']}, {report['saved']:.1%} saved; with loading and writing {in_words(report['seconds'])}"
        f"\nin {options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
