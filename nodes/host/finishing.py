"""What becomes of pictures as they are finished: shown in the tree and saved, before others are drawn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .made_of import CannotTell, made_of
from .tree_files import AT_ONCE, parts

if TYPE_CHECKING:
    from ...hierdiff_core.sampling.observer import Observer
    from .group_runs import Drawing
    from .sharing_run import SharingRun

UNFINISHED = "⚠ nothing was saved: the sampler stops before its end, so that there are no pictures yet"
IN_GROUPS = "drawn in {count} groups of subtrees, each saved before the next was begun"
ALL_AT_ONCE = "⚠ pictures were saved when all were drawn, not as they were finished: {reason}"


class DecodedOnce:
    """A VAE that decodes each latent once, for the tree and for a file: the host's VAE to those who ask for that.

    Parameters
    ----------
    vae : the host's VAE
    """

    def __init__(self, vae: Any):
        self.vae = vae
        self._images: dict[bytes, torch.Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where it decodes."""
        return getattr(self.vae, "device", torch.device("cpu"))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) images of (B, ...) latents; of a video of one frame this frame."""
        keys = [made_of(row) for row in latents.cpu()]
        new = [i for i, key in enumerate(keys) if key not in self._images]
        for some in parts(len(new), 1 if self.device.type == "cpu" else AT_ONCE):  # on a CPU whatever the others are
            images = self.vae.decode(latents[new[some]])
            images = images[:, 0] if images.ndim == 5 else images
            self._images.update(zip((keys[i] for i in new[some]), images, strict=True))
        return torch.stack([self._images[key] for key in keys])

    def forget(self) -> None:
        """Give up the images."""
        self._images.clear()


class Saving(NamedTuple):
    """How the pictures of a run are saved.

    vae : DecodedOnce
    open : callable   gives a context manager around a run: it yields what hears of pictures that are finished
                      (`Observer.on_finished`), and has `lines()` for the report
    """

    vae: DecodedOnce
    open: Callable[[], AbstractContextManager[Any]]


class Finishing:
    """Shows and saves the pictures of a run.

    Parameters
    ----------
    run : SharingRun
    saver : Observer
        Hears of pictures that are finished.
    vae : DecodedOnce
        That both take their images from.
    """

    def __init__(self, run: SharingRun, saver: Observer, vae: DecodedOnce):
        self.run, self.saver, self.vae = run, saver, vae

    def __call__(self, prompts: np.ndarray, samples: torch.Tensor) -> None:
        """Show and save the final latents (P, ...) of some prompts."""
        self.run.add_pictures(prompts, samples)
        self.saver.on_finished(prompts, samples)
        self.vae.forget()

    def all(self, samples: torch.Tensor) -> None:
        """Show and save all of (N, ...), some at a time."""
        for some in parts(len(samples), AT_ONCE):
            self(np.arange(len(samples))[some], samples[some])


def saved_as_finished(drawing: Drawing, saving: Saving) -> tuple[torch.Tensor, list[str]]:
    """Draw a run whose pictures are saved as they are finished.

    Parameters
    ----------
    drawing : Drawing
    saving : Saving

    Returns
    -------
    samples : (N, ...) tensor
    lines : list of str
        For the report.
    """
    if float(drawing.inputs.sigmas[-1]) > 0:
        return drawing.one_batch(), [UNFINISHED]
    groups, notes = None, []
    try:
        groups = drawing.groups()
    except CannotTell as reason:
        notes.append(ALL_AT_ONCE.format(reason=reason))
    with saving.open() as saver:
        finishing = Finishing(drawing.run, saver, saving.vae)
        if groups is not None:
            samples = groups.drawn(finishing)
            notes.append(IN_GROUPS.format(count=len(groups.groups)))
        else:
            samples = drawing.one_batch()
            finishing.all(samples)
    return samples, [*saver.lines(), *notes]
