"""What the scripts of the stages share: their options, the pictures, and how a network is kept."""

import argparse
import sys
from pathlib import Path

import torch
from config import FULL, SMOKE
from emoji import DEFAULT as DATA
from emoji import load_emoji
from loop import is_finished, mark_finished, prepare

ROOT = Path(__file__).resolve().parent.parent
RUN = DATA.parent / "run"


def parse_options(description, minutes=None):
    """Options that every script has.

    Returns
    -------
    options : Namespace   out and data (Path), minutes (float), smoke (bool), device (str or None), config (Config)
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=RUN, help="folder of the run (.training/run)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the pictures (.training/data)")
    parser.add_argument("--minutes", type=float, default=minutes, help="time for the training")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few pictures, to see that all works")
    parser.add_argument("--device", help="cuda if there is one, else cpu")
    options = parser.parse_args()
    options.config = SMOKE if options.smoke else FULL
    if options.minutes is None:
        options.minutes = options.config.minutes
    return options


def read_pictures(data, config):
    """The `EmojiSet` of a data folder."""
    emoji = load_emoji(data, limit=config.limit)
    print(f"{len(emoji.names)} names, {emoji.pictures.shape[1]} styles", flush=True)
    return emoji


def flat_pictures(emoji, device):
    """(P, 3, H, W) uint8 on the device, one after the other: the styles of the first name, of the second, ..."""
    return emoji.pictures.flatten(0, 1).to(device)


def trained_indices(emoji, device):
    """(T,) int64: the pictures that are not held out."""
    return emoji.training.flatten().nonzero().flatten().to(device)


def to_signed(pictures):
    """uint8 pictures as float32 in -1 ... 1."""
    return pictures.float() / 127.5 - 1


def exact_distances(rows, others):
    """Euclidean distances, not by a matrix product, which is rough with small ones on a GPU."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def hide_progress_bars():
    """No bars of the libraries for loading and saving: a network here takes no time."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@torch.no_grad()
def rounded_to_half(module):
    """The module with the weights that its float16 file will hold, in float32 for exact arithmetic."""
    return module.half().float()


def batches(count, size):
    """Slices of at most `size` that cover 0 ... count."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def run_stage(name, train, description):
    """Train a stage as the options say, or go on with it; nothing to do if it is finished.

    Parameters
    ----------
    name : str            folder of the stage in that of the run
    train : callable      ``train(out, emoji, config, minutes, device) -> figures to keep``: the folder of the run, the
        `EmojiSet`, the `Config`, the stage's minutes and the torch.device
    description : str     for --help
    """
    options = parse_options(description)
    if is_finished(options.out / name):
        return print(f"{name} is trained", flush=True)
    hide_progress_bars()
    try:
        device = prepare(options.device)
        emoji = read_pictures(options.data, options.config)
        mark_finished(options.out / name, train(options.out, emoji, options.config, options.minutes, device))
    except KeyboardInterrupt:
        sys.exit("stopped; run again to go on")
