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
from .files.set_folder import DrawnSet, prepare_folder
from .kandinsky.acceleration import ACCELERATIONS
from .kandinsky.decoding import BackgroundDecoder
from .kandinsky.guidance import WHOLE_RUN
from .kandinsky.model_folder import BUNDLED, DECODER_CLASS, PRIOR_CLASS, check_folder, suitable_settings
from .kandinsky.prior import PRIOR_NOISE
from .kandinsky.schedulers import SCHEDULERS
from .limits import check_limits
from .picture_files import PictureFiles, as_png, raise_first, writing
from .pictures.contact_sheet import contact_sheet
from .pictures.dendrogram import draw_dendrogram
from .pictures.schedule import draw_schedule
from .pictures.tree import draw_tree
from .plan.linkage import METRICS
from .plan.profile import SHAPES
from .plan_options import guidance_course, private_steps
from .previews import BranchLatents, to_pictures
from .prompts.files import add_file
from .prompts.prompt_set import PromptReader, check_prompts
from .prompts.text_form import whole_characters
from .sampling.finite import rows_not_finite
from .sampling.loop import ORDERS
from .sampling.observer import Callbacks, Observer, Observers

NO_SETTINGS = ("prompts", "budget_given")  # options that a report does not list among its settings
SENSITIVITY = "sensitivity.json"  # a decoder may carry this file beside its model_index.json


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hierdiff" if Path(sys.argv[0]).stem == "hierdiff" else "python -m hierdiff_core",
        description="Draw a set of images from a set of prompts that share their early denoising steps.",
        epilog="Interrupted, it leaves the pictures that are finished, and unfinished.json, which says what they show.",
    )
    parser.add_argument(
        "prompts", nargs="*", help="prompts, each in quotes; {a|b} gives all combinations; nothing in them is a comment"
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="more prompts: a text file with one per line (lines that begin with # or //, and whole lines from /* to "
        "*/, are skipped), a .csv or .tsv with a column prompt, text or caption, a .jsonl or .json with such fields; "
        "in UTF-8, or UTF-16 with a byte order mark",
    )
    parser.add_argument("--out", type=Path, default=Path("hierdiff_output"), help="folder for pictures and report.json")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier set in the folder")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--saving", type=float, help="share of UNet rows to save (0.5 when no budget is given)")
    budget.add_argument("--tau", type=float, help="first threshold, in the metric's own height")
    budget.add_argument("--root-share", type=float, help="first threshold, as a share of the tree's height")
    parser.add_argument("--prior", type=Path, default=BUNDLED / "prior", help="prior folder (diffusers format)")
    parser.add_argument("--decoder", type=Path, default=BUNDLED / "decoder", help="decoder folder (diffusers format)")
    parser.add_argument("--negative-prompt", type=whole_characters, default="")
    parser.add_argument("--metric", choices=METRICS, default="chord", help="default: chord; the paper's is cosine")
    parser.add_argument("--prior-noise", choices=PRIOR_NOISE, default=PRIOR_NOISE[0])
    parser.add_argument("--prior-steps", type=int, default=25)
    parser.add_argument("--prior-guidance", type=float, help="default: what suits the model, else 4")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--private-steps", type=int, default=1, help="number of final steps that are not shared")
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0], help="how the threshold falls")
    parser.add_argument(
        "--share-above",
        type=float,
        default=0.0,
        help="only steps with more noise than this, a noise level from 0 to 1, are shared; 0: no limit",
    )
    parser.add_argument("--power", type=float, default=2.0, help="exponent of shape power; 1 is the straight line")
    parser.add_argument(
        "--sensitivity",
        type=Path,
        metavar="FILE",
        help=f"what Calibrate Schedule saved, for shape calibrated; default: the decoder's {SENSITIVITY}, if any",
    )
    parser.add_argument(
        "--rescale-means",
        action="store_true",
        help="rarely useful: rescale mean embeddings to their members' mean length",
    )
    parser.add_argument("--guidance", type=float, help="default: what suits the model, else 10")
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("START", "END"),
        default=WHOLE_RUN,
        help="shares of the steps, 0 to 1, between which there is guidance; the others cost half as much",
    )
    parser.add_argument(
        "--boost",
        type=float,
        nargs=3,
        metavar=("FACTOR", "STEPS", "ABOVE"),
        help="multiply guidance for so many steps after each split, while the noise level is above 0 to 1",
    )
    parser.add_argument("--scheduler", choices=list(SCHEDULERS), default="DDPM")
    parser.add_argument("--width", type=int, help="pixels; default: what suits the model, else 512")
    parser.add_argument("--height", type=int, help="pixels; default: what suits the model, else 512")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--micro-batch", type=int, default=0, help="branches per UNet call; 0 chooses")
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default=ORDERS[0],
        help="depth first writes the first pictures while others are drawn",
    )
    parser.add_argument(
        "--acceleration", choices=ACCELERATIONS, default=ACCELERATIONS[0], help="of the UNet, on a CUDA device"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    fill_defaults(options)
    return options


def fill_defaults(options: argparse.Namespace) -> None:
    """Settings that were not given: what suits the model, else Kandinsky's and the paper's."""

    def recommended(settings, name, otherwise):
        return settings[name][1] if name in settings else otherwise

    prior, decoder = suitable_settings(options.prior), suitable_settings(options.decoder)
    defaults = {
        "prior_guidance": recommended(prior, "guidance", 4.0),
        "guidance": recommended(decoder, "guidance", 10.0),
        "width": recommended(decoder, "width", 512),
        "height": recommended(decoder, "height", 512),
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.budget_given = any(budget is not None for budget in (options.saving, options.tau, options.root_share))
    if not options.budget_given:
        options.saving = 0.5
    if options.sensitivity is None and (options.decoder / SENSITIVITY).is_file():
        options.sensitivity = options.decoder / SENSITIVITY


def read_prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """Prompts of the arguments, then of the file; what was skipped, or may not mean what it says, is told."""
    reader = PromptReader()
    for number, argument in enumerate(options.prompts, start=1):
        reader.add_argument(argument, f"argument {number}")
    if options.file:
        add_file(reader, options.file)
    for line in [*reader.remarks.notes(), *reader.remarks.warnings(reader.prompts)]:
        tell(line)
    return check_prompts(reader.prompts)


def make_profile(options: argparse.Namespace, sensitivity: Sensitivity | None) -> Profile:
    """How the threshold falls; refused here, before models are loaded, when something is missing."""
    if options.shape == "calibrated" and sensitivity is None:
        raise ValueError(
            f"--shape calibrated needs the model's sensitivity, and {options.decoder} has no {SENSITIVITY}; name one "
            "that Calibrate Schedule has saved with --sensitivity, or choose another shape"
        )
    return Profile(options.steps, options.shape, private_steps(options), options.power, sensitivity)


def make_plan(embeddings: PromptEmbeddings, profile: Profile, options: argparse.Namespace) -> Plan:
    """The plan of a set; as much is saved as can be, and a saving that was asked for and is out of reach is told."""
    tree = PromptTree.of(embeddings.positive, options.metric, embeddings.prompts, device=options.device)
    budgets = {"tau": options.tau, "root share": options.root_share, "saving": options.saving}
    unit = next(unit for unit, value in budgets.items() if value is not None)
    budget = Budget(unit, budgets[unit], clamp=True)
    if options.budget_given and (missed := budget.missed(tree, profile)):
        tell(missed)
    return replace(plan_for(tree, budget, profile), guidance=guidance_course(options))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Embed, cluster, sample, decode and write; returns the report."""
    check_limits(options)
    prompts = read_prompts(options)
    check_device(options.device)
    check_folder(options.prior, PRIOR_CLASS)
    check_folder(options.decoder, DECODER_CLASS)
    sensitivity = read_sensitivity(options.sensitivity) if options.sensitivity else None
    profile = make_profile(options, sensitivity)
    guidance_course(options)  # refused before anything is loaded
    prepare_folder(options.out, options.overwrite)
    began = time.monotonic()
    prior = load_prior(options.prior, device=options.device)
    embeddings = embed_prompts(
        prior,
        prompts,
        negative_prompt=options.negative_prompt,
        num_steps=options.prior_steps,
        guidance=options.prior_guidance,
        seed=options.seed,
        noise=options.prior_noise,
    )
    del prior
    plan = make_plan(embeddings, profile, options)
    decoder = load_decoder(options.decoder, device=options.device)
    with DrawnSet(options.out, prompts, options.overwrite) as drawn:
        images, files, branches, not_finite = draw(decoder, embeddings, plan, drawn, options)
        draw_figures(
            drawn,
            contact_sheet=lambda: contact_sheet(images, prompts),
            dendrogram=lambda: draw_dendrogram(plan.Z, prompts, plan.tau),
            schedule=lambda: draw_schedule(plan),
            tree=lambda: draw_tree(
                plan, prompts, lambda wanted: to_pictures(decode(decoder, branches.stacked(wanted)))
            ),
        )
        report = make_report(options, prompts, plan, files, time.monotonic() - began)
        report["not_finite"] = not_finite
        drawn.finish(report)
    if strays := drawn.strays():
        tell(f"{options.out} keeps pictures that no report named: {', '.join(strays[:5])}{' …' * (len(strays) > 5)}")
    return report


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
) -> tuple[list[Image.Image], list[str], BranchLatents, list[int]]:
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
    """
    branches = BranchLatents(plan)
    with tqdm(total=plan.nfe, unit="row", desc="sampling") as bar, writing() as writers:
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
                observer=Observers(branches, Bar(bar), Callbacks(on_finished=decoded)),
            )
    raise_first(pictures.failures)
    return pictures.images, pictures.files, branches, rows_not_finite(latents)


class Bar(Observer):
    """The rows that are done, on a progress bar."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Count them."""
        self.bar.update(len(clusters))


def tell(message: object) -> None:
    print(f"hierdiff: {message}", file=sys.stderr)


def make_report(
    options: argparse.Namespace, prompts: Sequence[str], plan: Plan, files: Sequence[str], seconds: float
) -> dict[str, Any]:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {
        "images": [{"file": file, "prompt": prompt} for file, prompt in zip(files, prompts, strict=True)],
        "tau": plan.tau,
        "nfe": plan.nfe,
        "nfe_standard": plan.nfe_standard,
        "duplicates": plan.num_prompts - plan.num_distinct,
        "saved": plan.saved,
        "expected_distortion": plan.distortion,
        "expected_distortion_straight_line": None if plan.distortion is None else plan.straight_line().distortion,
        "clusters_per_step": plan.clusters_per_step.tolist(),
        "seconds": round(seconds, 2),
        "settings": {key: value for key, value in settings.items() if key not in NO_SETTINGS},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is drawn; 1: refused, or it could not be written; 2: wrong usage; 130: interrupted."""
    try:
        options = parse_arguments(arguments)
        report = run(options)
    except (ValueError, OSError) as error:
        tell(error)
        return 1
    except KeyboardInterrupt as interrupt:
        tell(f"interrupted; {interrupt or 'no picture was finished'}")
        return 130
    print(
        f"{len(report['images'])} pictures in {options.out}: {report['nfe']} UNet rows instead of "
        f"{report['nfe_standard']}, {report['saved']:.1%} saved, {report['seconds']:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
