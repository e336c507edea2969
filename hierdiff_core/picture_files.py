"""Pictures written by other threads while later ones are drawn."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .previews import to_pictures

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from .files.set_folder import DrawnSet


def as_png(picture: Image.Image) -> bytes:
    """Bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


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

    Attributes
    ----------
    images : list of N PIL pictures
        In prompt order.
    files : list of N str
        Their names, "" for those that are not written.
    failures : list of OSError
        What went wrong.
    """

    def __init__(self, drawn: DrawnSet, writers: ThreadPoolExecutor, num_prompts: int):
        self.drawn = drawn
        self.writers = writers
        self.images: list[Any] = [None] * num_prompts
        self.files = [""] * num_prompts
        self.failures: list[OSError] = []

    def add(self, prompts: np.ndarray, pixels: torch.Tensor) -> None:
        """Write some pictures; those that could not be written before are told of here."""
        raise_first(self.failures)  # a full disk ends the run now, not when all is drawn
        for i, image in zip(prompts.tolist(), to_pictures(pixels), strict=True):
            self.images[i] = image
            self.writers.submit(self._write, i)

    def _write(self, i: int) -> None:
        try:
            self.files[i] = self.drawn.add(i, as_png(self.images[i]))
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
