"""What the stages of the scenes share: the options, and how one stage waits for another."""

import sys
import time
from pathlib import Path

from emoji import DEFAULT as DATA
from loop import is_finished, mark_finished, prepare
from stage import hide_progress_bars

from .config import FULL, SMOKE
from .icons import FILE, load_icons

TRAINING = DATA.parent
SECONDS_BETWEEN_LOOKS = 0.5


def add_options(parser):
    """Options that every stage has."""
    parser.add_argument("--out", type=Path, default=TRAINING / "scenes", help="folder for the model and its figures")
    parser.add_argument("--work", type=Path, help="folder for checkpoints; OUT/work by default")
    parser.add_argument("--icons", type=Path, default=TRAINING / FILE, help="file of the icons, drawn if it is missing")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the emoji packages (.training/data)")
    parser.add_argument("--minutes", type=float, help="time for the training")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a few scenes, to see that all works")
    parser.add_argument("--small", action="store_true", help="an evaluation for a CPU")
    parser.add_argument("--device", help="cuda if there is one, else cpu")


def completed(options, stage="all"):
    """Options with those that follow from others; minutes are those of the stage, if none are given."""
    options.config = SMOKE if options.smoke else FULL
    options.work = options.work or options.out / "work"
    if options.minutes is None:
        shares = {name: share for phase in options.config.phases for name, share in phase.items()}
        options.minutes = options.config.minutes * shares.get(stage, 1.0)
        if stage == "judge":
            options.minutes = options.config.judge.minutes
    return options


def wait_for(*folders):
    """Return when the stages of these folders have finished."""
    for folder in folders:
        if not is_finished(folder):
            print(f"waiting for {folder.name}", flush=True)
        while not is_finished(folder):
            time.sleep(SECONDS_BETWEEN_LOOKS)


def run_stage(name, train, options):
    """Train a stage, or go on with it; nothing to do if it is finished.

    Parameters
    ----------
    name : str            folder of the stage in that of the run
    train : callable      ``train(options, icons, device) -> figures to keep``
    options : Namespace   see `completed`; `minutes` are the stage's
    """
    if is_finished(options.work / name):
        return print(f"{name} is trained", flush=True)
    hide_progress_bars()
    try:
        device = prepare(options.device)
        icons = load_icons(options.icons, options.data, options.config.names)
        mark_finished(options.work / name, train(options, icons, device))
    except KeyboardInterrupt:
        sys.exit("stopped; run again to go on")
