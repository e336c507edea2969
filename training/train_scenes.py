"""Train the scene model, all of it, or one stage; or its judges; or measure it.

    python training/train_scenes.py [all] [--minutes M] [--out FOLDER] [--smoke] [--device D]
    python training/train_scenes.py judge --minutes 1.3
    python training/train_scenes.py evaluate
    python training/train_scenes.py emoji        (the emoji model's half of the table)

The stages of `all` (vae, text, denoiser) run as processes of their own. What was interrupted goes on where it was.
"""

import argparse
import importlib
import signal
import sys
import time
from pathlib import Path

from scenes.denoiser import train_denoiser
from scenes.evaluate import evaluate
from scenes.icons import load_icons
from scenes.judge import train_judges
from scenes.stage import add_options, completed, run_stage
from scenes.text import train_text
from scenes.vae import train_vae
from train import run_phase

STAGES = {"vae": train_vae, "text": train_text, "denoiser": train_denoiser, "judge": train_judges}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="all", choices=["all", *STAGES, "evaluate", "emoji"])
    add_options(parser)
    options = parser.parse_args()
    return completed(options, options.what)


def train_all(options):
    """The stages, each in a process of its own."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the stages must not stay behind
    load_icons(options.icons, options.data, options.config.names)  # drawn once, before any stage wants them
    given = ["--icons", options.icons, "--work", options.work]
    try:
        for shares in options.config.phases:
            run_phase(shares, options, lambda name: [Path(__file__).resolve(), name, *given])
    except KeyboardInterrupt:
        sys.exit("\nstopped; run again to go on")
    print(f"{options.out / 'model'}: {time.monotonic() - began:.0f} s")


def main():
    options = parse_arguments()
    if options.what == "all":
        train_all(options)
    elif options.what == "evaluate":
        evaluate(options)
    elif options.what == "emoji":
        importlib.import_module("scenes.emoji_table").measure_emoji(options)
    else:
        run_stage(options.what, STAGES[options.what], options)


if __name__ == "__main__":
    main()
