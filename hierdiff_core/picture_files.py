"""Pictures written by other threads while later ones are drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from .devices import on_device
from .files.picture_marks import as_png
from .files.set_folder import file_name
from .previews import to_pictures

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .files.set_folder import DrawnSet


class PictureFiles:
    """Writes pictures in other threads as they come.

    Parameters
    ----------
    drawn : DrawnSet
        Where they go.
    writers : ThreadPoolExecutor
        Its threads write them.
    num_prompts : int
        Of the set, N.
    there : mapping of int to PIL picture
        Those that are written already, by their prompts.

    Attributes
    ----------
    images : list of N PIL pictures
        In prompt order.
    files : list of N str
        Their names, "" for those that are not written.
    failures : list of OSError
        What went wrong.
    """

    def __init__(
        self,
        drawn: DrawnSet,
        writers: ThreadPoolExecutor,
        num_prompts: int,
        there: Mapping[int, Image.Image] | None = None,
    ):
        self.drawn, self.writers, self.there = drawn, writers, there or {}
        self.images: list[Any] = [self.there.get(i) for i in range(num_prompts)]
        self.files = [file_name(i) if i in self.there else "" for i in range(num_prompts)]
        self.failures: list[OSError] = []

    def missing(self, then: Callable[[np.ndarray, torch.Tensor], Any]) -> Callable[[np.ndarray, torch.Tensor], Any]:
        """Hand on finished prompts and latents, but for those whose pictures are written already."""

        def on_finished(prompts: np.ndarray, latents: torch.Tensor) -> None:
            new = [row for row, i in enumerate(prompts.tolist()) if i not in self.there]
            if len(new) == len(prompts):
                then(prompts, latents)
            elif new:
                then(prompts[new], latents[on_device(np.array(new), latents.device)])

        return on_finished

    def add(self, prompts: np.ndarray, pixels: torch.Tensor) -> None:
        """Write some pictures; those that could not be written before are told of here."""
        raise_first(self.failures)  # a full disk ends the run now, not when all is drawn
        for i, image in zip(prompts.tolist(), to_pictures(pixels), strict=True):
            self.images[i] = image
            self.writers.submit(self._write, i)

    def _write(self, i: int) -> None:
        try:
            self.files[i] = self.drawn.add(i, as_png(self.images[i], self.drawn.mark(i)))
        except OSError as error:
            self.failures.append(error)


@contextlib.contextmanager
def writing() -> Iterator[ThreadPoolExecutor]:
    """Threads that write pictures; after an error, or Ctrl-C, none of them is at work when the pictures are counted."""
    writers = ThreadPoolExecutor()
    try:
        yield writers
        writers.shutdown()
    except BaseException:
        writers.shutdown(cancel_futures=True)
        raise


def raise_first(errors: Iterable[Exception]) -> None:
    for error in errors:
        raise error
