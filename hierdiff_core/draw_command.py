"""The command line's pictures: sampled, decoded and written, those alone that are not there yet."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from .kandinsky.decoder import sample
from .kandinsky.decoding import BackgroundDecoder
from .kandinsky.guidance import passes_per_row
from .kandinsky.plan_embeddings import embeddings_for
from .kandinsky.shared import shared_rows
from .picture_files import PictureFiles, raise_first, writing
from .previews import BranchLatents
from .sampling.finite import rows_not_finite
from .sampling.observer import Callbacks, Observer, Observers
from .sampling.progress import RunProgress, Times, left_in_words

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .embeddings import PromptEmbeddings
    from .files.set_folder import DrawnSet
    from .plan.plan import Plan
    from .sampling.store import Store

# Of sampling, by the names that `sample` and `workers_run.run_of` have for them
SETTINGS = (
    *("seed", "guidance", "scheduler", "width", "height", "micro_batch", "rescale_means", "acceleration"),
    "guidance_interval",
)
# Seconds by the work that is left, in place of tqdm's own by their number
BAR = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} passes{postfix}"


class Drawing(NamedTuple):
    """What came of a run.

    Attributes
    ----------
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
    reused : int
        Rows that a store had.
    """

    images: list[Image.Image]
    files: list[str]
    branches: BranchLatents
    not_finite: list[int]
    times: Times
    reused: int


def draw(
    decoder: Any,
    embeddings: PromptEmbeddings,
    plan: Plan,
    drawn: DrawnSet,
    options: argparse.Namespace,
    there: Mapping[int, Image.Image] | None = None,
    store: Store | None = None,
) -> Drawing:
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
    there : mapping of int to PIL picture, optional
        Pictures that are written already, by their prompts.
    store : Store, optional
        Of what was evaluated.

    Returns
    -------
    Drawing
    """
    branches = BranchLatents(plan)
    found = embeddings_for(plan, embeddings, None, None if store is None else store.leaves)
    shared = shared_rows(plan, found, decoder.unet.device.type)
    passes = passes_per_row(plan, options.guidance, options.guidance_interval, shared)
    progress = RunProgress(plan, passes=passes)
    with tqdm(total=round(progress.work[1]), desc="sampling", bar_format=BAR) as bar, writing() as writers:
        pictures = PictureFiles(drawn, writers, plan.num_prompts, there)
        with BackgroundDecoder(decoder, pictures.add) as decoded:
            latents = sample(
                decoder,
                embeddings,
                plan,
                **sampling_settings(options),
                order=options.order,
                observer=Observers(
                    branches, progress, Bar(bar, progress), Callbacks(on_finished=pictures.missing(decoded))
                ),
                store=store,
            )
            not_finite = rows_not_finite(latents)  # waits for the device
            progress.end()
    raise_first(pictures.failures)
    return Drawing(pictures.images, pictures.files, branches, not_finite, progress.times(), progress.reused)


def sampling_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of sampling, by the names that `sample` and `workers_run.run_of` have for it."""
    return {name: getattr(options, name) for name in SETTINGS}


class Bar(Observer):
    """The work that is done and the seconds, on a progress bar; `progress` hears of each step before."""

    def __init__(self, bar: tqdm, progress: RunProgress):
        self.bar, self.progress = bar, progress

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Move on."""
        self.bar.set_postfix_str(left_in_words(self.progress.times()), refresh=False)
        done, self.bar.total = map(round, self.progress.work)  # which a store makes less
        self.bar.update(done - self.bar.n)
