"""What becomes of pictures as they are finished: shown in the tree and saved, before others are drawn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from .made_of import CannotTell, made_of
from .tree_files import AT_ONCE, parts
from .vae_beside import vae_beside

if TYPE_CHECKING:
    from ...hierdiff_core.sampling.observer import Observer
    from .group_runs import Drawing, GroupRuns
    from .sharing_run import SharingRun
    from .vae_beside import VaeBeside

KEY = "hierdiff_finishing"  # of the wrapper
NOISE = 4  # of what a sampler is given: guider, sigmas, extra_args, callback, noise, ...
UNFINISHED = "⚠ nothing was saved: the sampler stops before its end, so that there are no pictures yet"
ASIDE = "drawn in {count} groups of subtrees; {aside} pictures were decoded and saved while others were sampled"
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
        keys, new = self._new(latents)
        for some in parts(len(new), 1 if self.device.type == "cpu" else AT_ONCE):  # on a CPU whatever the others are
            self._keep([keys[i] for i in new[some]], self.vae.decode(latents[new[some]]))
        return torch.stack([self._images[key] for key in keys])

    def decode_by(self, decode: Callable[[torch.Tensor], torch.Tensor], latents: torch.Tensor, at_once: int) -> None:
        """Know the images of latents, by another way to decode than the host's, so many together."""
        keys, new = self._new(latents)
        for start in range(0, len(new), at_once):
            some = new[start : start + at_once]
            self._keep([keys[i] for i in some], decode(latents[some]))

    def _new(self, latents):
        keys = [made_of(row) for row in latents.cpu()]
        return keys, [i for i, key in enumerate(keys) if key not in self._images and key not in keys[:i]]

    def _keep(self, keys, images):
        images = images[:, 0] if images.ndim == 5 else images
        self._images.update(zip(keys, images, strict=True))

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
    beside : VaeBeside, optional
        Decodes pictures while others are sampled.

    Attributes
    ----------
    aside : int
        Pictures that were decoded while others were sampled.
    """

    def __init__(self, run: SharingRun, saver: Observer, vae: DecodedOnce, beside: VaeBeside | None = None):
        self.run, self.saver, self.vae, self.beside = run, saver, vae, beside
        self.aside = 0
        self._waiting: tuple[np.ndarray, torch.Tensor] | None = None
        self._is_saved = False  # what waits

    def __call__(self, prompts: np.ndarray, samples: torch.Tensor) -> None:
        """Show and save the final latents (P, ...) of some prompts, now or while the sampler is at work again."""
        self.settle()
        self._waiting, self._is_saved = (prompts, samples), False
        if self.beside is None:
            self.settle()

    def settle(self) -> None:
        """Show and save what waits, but for what was done aside."""
        if self._waiting is None:
            return
        (prompts, samples), self._waiting = self._waiting, None
        self.run.add_pictures(prompts, samples)
        if not self._is_saved:
            self.saver.on_finished(prompts, samples)
        self.vae.forget()

    def while_sampling(self, executor: Any, *given: Any, **more: Any) -> torch.Tensor:
        """A SAMPLER_SAMPLE wrapper: what waits is decoded meanwhile. The host loads before it, and frees after it."""
        job = self._begun(given[NOISE].shape)
        try:
            return executor(*given, **more)
        finally:
            if job is not None:
                job.result()

    def _begun(self, rows):
        if self._waiting is None or self.beside is None:
            return None
        prompts, samples = self._waiting
        decode, at_once = self.beside.decode, self.beside.at_once(rows, samples.shape)
        if not at_once:
            return None
        return self.beside.side.run(lambda own: self._decode(prompts, own, decode, at_once), samples)

    def _decode(self, prompts, samples, decode, at_once):
        """In the thread: whatever fails here is decoded by the host once the sampler is done."""
        try:
            self.vae.decode_by(decode, samples, at_once)
        except Exception:
            logging.warning("HierDiff: a picture was not decoded while others were sampled", exc_info=True)
            self.beside = None
            return
        self.saver.on_finished(prompts, samples)
        self._is_saved = True
        self.aside += len(prompts)

    def all(self, samples: torch.Tensor) -> None:
        """Show and save all of (N, ...), some at a time."""
        for some in parts(len(samples), AT_ONCE):
            self(np.arange(len(samples))[some], samples[some])

    def attach(self, model_options: dict) -> None:
        """Take part in a run's samplers; the options are its own."""
        wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        wrappers.setdefault(WrappersMP.SAMPLER_SAMPLE, {})[KEY] = [self.while_sampling]


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
    guider = drawing.executor.class_obj
    beside = None if groups is None else vae_beside(saving.vae.vae, guider, drawing.inputs.sampler, groups.largest)
    with saving.open() as saver:
        finishing = Finishing(drawing.run, saver, saving.vae, beside)
        if groups is None:
            samples = drawing.one_batch()
            finishing.all(samples)
        else:
            samples = drawn_in_groups(groups, finishing, guider.model_options)
            how = ASIDE if finishing.aside else IN_GROUPS
            notes.append(how.format(count=len(groups.groups), aside=finishing.aside))
    return samples, [*saver.lines(), *notes]


def drawn_in_groups(groups: GroupRuns, finishing: Finishing, model_options: dict) -> torch.Tensor:
    """(N, ...) samples of all groups; what was finished is saved, whatever ends the run."""
    if finishing.beside is None:
        return groups.drawn(finishing)
    side = finishing.beside.side
    finishing.attach(model_options)
    try:
        return groups.drawn(finishing)
    finally:
        side.end()
        finishing.settle()
