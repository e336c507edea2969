"""What the command line takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .files.set_folder import TRUNK
from .kandinsky.acceleration import ACCELERATIONS
from .kandinsky.guidance import WHOLE_RUN
from .kandinsky.model_folder import BUNDLED, suitable_settings
from .kandinsky.prior import PRIOR_NOISE
from .kandinsky.schedulers import SCHEDULERS
from .measure.advised_way import GOALS, MEASURES
from .plan.linkage import METRICS
from .plan.profile import SHAPES
from .prompts.text_form import whole_characters
from .sampling.loop import ORDERS
from .set_note import note_path, noted_settings, read_set

TRUNK_GB = 4.0
# Options that a report does not list among its settings
NO_SETTINGS = (
    "prompts",
    "budget_given",
    "advise",
    "resume",
    "grow",
    "keep",
    "trunk_gb",
    "prog",
    "grown_from",
    "workers",
    "ray",
    "collect",
)
ADVISE = "advise"  # the first argument, where what pays is to be measured
SENSITIVITY = "sensitivity.json"  # a decoder may carry this file beside its model_index.json


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; with ``advise`` as its first word those of the advisor too."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    advise = words[:1] == [ADVISE]
    parser = drawing_parser()
    if advise:
        add_advising(parser)
    options = parser.parse_args(words[advise:])
    note = begun_with(parser, options)
    if note is not None:
        options = parser.parse_args(words[advise:])  # what is not given is as it was
        options.budget_given = note.get("budget_given") is True
    options.advise, options.prog, options.grown_from = advise, parser.prog, grown_from(options, note)
    fill_defaults(options)
    return options


def begun_with(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any] | None:
    """The note of the set that is to be gone on with, or grown; its settings become the parser's defaults."""
    path = note_path(options.out) if options.resume else None
    if options.grow and not (path and path.exists()):
        path = note_path(options.grow)
    note = read_set(path) if path else None
    if path is not None and note is not None:
        parser.set_defaults(**noted_settings(parser, note, path))
    return note


def grown_from(options: argparse.Namespace, note: dict[str, Any] | None) -> str | None:
    """The set that this one grows from, if it does."""
    if options.grow:
        found = read_set(note_path(options.grow))
        if found is None:
            raise ValueError(f"--grow: there is no set in {options.grow}")
        return found["set"]
    return note.get("grown_from") if note and options.resume else None


def add_advising(parser: argparse.ArgumentParser) -> None:
    """Options of ``advise``."""
    parser.prog += f" {ADVISE}"
    parser.description = (
        "Measure what saves compute on a model and what it costs, on a few of the prompts; advice.json, which "
        "--advice takes, and advice.png are written to the folder."
    )
    parser.epilog = "Interrupted, it keeps what was measured, and goes on from there when it is started again."
    parser.set_defaults(out=Path("hierdiff_advice"))
    parser.add_argument("--goal", choices=GOALS, default=GOALS[0])
    parser.add_argument(
        "--value",
        type=float,
        help="of the goal: the loss that is allowed, in per cent (default: 3), or guided rows per picture",
    )
    parser.add_argument("--samples", type=int, default=8, help="prompts that are drawn")
    parser.add_argument("--measure", choices=MEASURES, default=MEASURES[0])


def drawing_parser() -> argparse.ArgumentParser:
    """What drawing a set takes."""
    parser = argparse.ArgumentParser(
        prog="hierdiff" if Path(sys.argv[0]).stem == "hierdiff" else "python -m hierdiff_core",
        description="Draw a set of images from a set of prompts that share their early denoising steps.",
        epilog="Interrupted, it leaves the pictures that are finished, and --resume goes on from there.",
    )
    parser.add_argument(
        "prompts", nargs="*", help="prompts, each in quotes; {a|b} gives all combinations; nothing in them is a comment"
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="more prompts: a text file with one per line (lines that begin with # or //, and whole lines from /* to "
        "*/, are skipped), a .csv or .tsv with a column prompt, text or caption, a .jsonl or .json with such fields, "
        "and perhaps with negative, seed, pictures and caption of each prompt; in UTF-8, or UTF-16 with a byte "
        "order mark",
    )
    parser.add_argument(
        "--wildcards",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="of files for __name__; repeatable",
    )
    parser.add_argument("--out", type=Path, default=Path("hierdiff_output"), help="folder for pictures and report.json")
    add_folder_options(parser)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--saving", type=float, help="share of UNet rows to save (0.5 when no budget is given)")
    budget.add_argument("--tau", type=float, help="first threshold, in the metric's own height")
    budget.add_argument("--root-share", type=float, help="first threshold, as a share of the tree's height")
    budget.add_argument(
        "--advice", type=Path, metavar="FILE", help="share, guide and step as the command advise has found to pay"
    )
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
    add_workers(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Who draws."""
    parser.add_argument(
        "--workers",
        type=count_of_workers,
        metavar="auto|N",
        help="draw on N processes, one on each GPU, by Ray; auto: one for each GPU of this machine, or of the cluster; "
        "without a GPU, one for every two cores",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="of a running Ray cluster whose workers draw: host:6379, ray://host:10001, or auto for the one that this "
        "machine belongs to; the decoder's folder must have the same name on each machine",
    )
    parser.add_argument(
        "--collect",
        action="store_true",
        help="pictures are sent here to be written, where workers do not share the folder's disk",
    )


def count_of_workers(text: str) -> int:
    """How many workers, 0 for auto."""
    if text == "auto":
        return 0
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be auto or a number of 1 or more; got {text[:80]!r}")
    return int(text)


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """What happens to a set that is in the folder."""
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--overwrite", action="store_true", help="replace an earlier set in the folder")
    there.add_argument(
        "--resume",
        action="store_true",
        help="go on with the unfinished set in the folder, or begin one; prompts and settings need not be given again",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help=f"keep what was evaluated when the set is finished, in {TRUNK} in the folder, for --grow",
    )
    parser.add_argument(
        "--grow",
        type=Path,
        metavar="FOLDER",
        help="of a finished set that was drawn with --keep: new prompts are hung onto its tree, and what was evaluated "
        "of the others is taken from there; settings need not be given again",
    )
    parser.add_argument(
        "--trunk-gb",
        type=float,
        default=TRUNK_GB,
        metavar="GB",
        help=f"most that {TRUNK} may take while a set is drawn; 0: what is not finished is evaluated again",
    )


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
    budgets = (options.saving, options.tau, options.root_share)
    if not hasattr(options, "budget_given"):
        options.budget_given = any(budget is not None for budget in budgets)
    if all(budget is None for budget in budgets):
        options.saving = 0.5
    if options.sensitivity is None and (options.decoder / SENSITIVITY).is_file():
        options.sensitivity = options.decoder / SENSITIVITY
