"""Pictures saved by a sampler as they finish: what Save Pictures as They Finish asks for, and how it is done."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..hierdiff_core.devices import is_out_of_memory
from ..hierdiff_core.files.image_set import FORMATS, SetTree
from ..hierdiff_core.files.names import caption_of, file_parts
from ..hierdiff_core.prompts.rows import as_rows
from ..hierdiff_core.sampling.observer import Observer
from .host import finishing
from .host.decode_beside import Beside, decoded_beside, load_beside, side_stream
from .host.decoration import Decorations
from .host.folders import output_folder, writes_metadata
from .host.runs import running, sent_along
from .host.tree_files import writers
from .host.upstream import is_taken
from .host.vae import latent_key
from .save_set import EXIF_MAKE, OWN, SOURCES, Told, encode, megabytes, to_picture

if TYPE_CHECKING:
    import numpy as np

    from ..hierdiff_core.devices import SideStream
    from ..hierdiff_core.plan.plan import Plan
    from .host.known_embeddings import Known

MOST_OF_A_NAME = 10_000  # files name.png, name_2.png and so on that are looked at
SAVING = "saving the pictures"
LATENTS = 0  # output of the sampler
SAVER = "saver"  # a node that the workflow does not have: it would be saved from after the sampler


@dataclass(frozen=True)
class Saving:
    """How a sampler is to save its pictures: the inputs of Save Image Set.

    Attributes
    ----------
    prompts : N str
        Of the pictures.
    parts : tuple of str
        Folder below the output folder.
    format, captions, name, caption : str
        As of Save Image Set.
    strip_tags : bool
        As of Save Image Set.
    start : int
        Number of the first.
    """

    prompts: Sequence[str]
    parts: tuple[str, ...]
    format: str
    captions: str
    name: str
    caption: str
    strip_tags: bool
    start: int


class Saver(Observer):
    """Decodes and saves pictures whose prompts are done, and nothing that is saved already.

    Parameters
    ----------
    saving : Saving
    decode : callable
        ``decode(latents) -> (M, H, W, 3) images``.
    at_once : bool
        Whether it can be called during the run; else all is decoded at its end.
    side : SideStream, optional
        Where it is called while others are sampled; without it the two take turns.
    known : Known, optional
        Gets the images, for a node that decodes the same latents afterwards.

    Attributes
    ----------
    skipped : int
        Pictures that were there already.
    decorations : Decorations
        Keep what fails here from the run, and say so.
    """

    def __init__(
        self,
        saving: Saving,
        decode: Callable[[torch.Tensor], torch.Tensor],
        at_once: bool,
        side: SideStream | None = None,
        known: Known | None = None,
    ) -> None:
        self.saving, self.decode, self.at_once, self.side, self.known = saving, decode, at_once, side, known
        self.count, self.skipped = len(saving.prompts), 0
        self.decorations = Decorations()
        sent = sent_along()
        self.workflow = [(key, json.dumps(value)) for key, value in sent.items()] if writes_metadata() else []
        self.about = told_by(saving, sent.get("prompt"), running().node)
        self.tree = SetTree(Path(os.path.abspath(output_folder()), *saving.parts), saving.captions, self.count)
        self.writer = ThreadPoolExecutor(1, "HierDiff saver")
        self.jobs: list[Future[None]] = []
        self.waiting: list[tuple[np.ndarray, torch.Tensor]] = []

    def on_finished(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Decode the pictures of some prompts, and have them written while others are sampled."""
        if self.side is not None:
            self.side.run(lambda rows: self.decorations.attempt(SAVING, self.save_if_it_fits, prompts, rows), latents)
        elif self.at_once:
            self.decorations.attempt(SAVING, self.save_if_it_fits, prompts, latents)
        else:
            self.waiting.append((prompts, latents))

    def save_if_it_fits(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Decode and write, or leave that for the end of the run, when the sampler needs no memory any more."""
        try:
            self.save(prompts, latents)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.waiting.append((prompts, latents))

    def save(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Decode and write what is not there yet."""
        self.raise_failure()
        keys = [latent_key(latent) for latent in latents.cpu()]
        places = [file_parts(self.saving.name, self.about.picture(i, self.saving.strip_tags)[0]) for i in prompts]
        new = [
            row
            for row, parts in enumerate(places)
            if not is_saved(self.tree.folder.joinpath(*parts), self.saving.format, keys[row].hex())
        ]
        images = self.decode(latents[new]) if new else []
        self.skipped += len(places) - len(new)
        for row, pixels in zip(new, images, strict=True):
            i = int(prompts[row])
            if self.known is not None:
                self.known.put(keys[row], pixels.clone())  # or all that were decoded with it would be kept
            data = writers().submit(self.file_of, i, keys[row].hex(), pixels)
            self.jobs.append(self.writer.submit(self.write, i, places[row], data))

    def file_of(self, i: int, key: str, pixels: torch.Tensor) -> bytes:
        """One picture's file; several are made at a time."""
        own = [(name, json.dumps({**json.loads(text), "key": key})) for name, text in self.about.own(i)]
        return encode(to_picture(pixels), self.saving.format, [*self.workflow, *own])

    def write(self, i: int, parts: list[str], data: Future[bytes]) -> None:
        """Write one picture and its caption; one after the other, in order."""
        captioned = self.about.picture(i, self.saving.strip_tags)[1]
        self.tree.add(parts, self.saving.format, data.result(), caption_of(self.saving.caption, captioned))

    def raise_failure(self) -> None:
        """Raise what went wrong with a picture that was written."""
        for job in self.jobs:
            if job.done():
                job.result()

    def settle(self) -> None:
        """Wait for what is decoded beside the run."""
        if self.side is not None:
            self.side.end()

    def end(self) -> None:
        """Save what is left at the end of a run."""
        self.settle()
        for prompts, latents in self.waiting:
            self.decorations.attempt(SAVING, self.save, prompts, latents)
        self.close()

    def close(self) -> None:
        """Wait for what is being written: what was decoded is saved, whatever ended the run."""
        self.settle()
        self.writer.shutdown()
        self.decorations.attempt(SAVING, self.raise_failure)

    def lines(self) -> list[str]:
        """What a report says."""
        count = len(self.tree.files)
        lines = [f"saved in output/{'/'.join(self.saving.parts)}: {count} of {self.count}, {megabytes(self.tree.size)}"]
        if self.skipped:
            lines.append(f"{self.skipped} {'were' if self.skipped > 1 else 'was'} saved already, by an earlier run")
        return [*lines, *self.decorations.notes]


@contextlib.contextmanager
def saving_as_drawn(
    saving: Saving | None,
    decoder: Any,
    prompts: Sequence[str],
    size: tuple[int, int],
    rows: int,
    acceleration: str | None = None,
) -> Iterator[list[Saver]]:
    """What saves during the run of the `with` block: one observer, or none.

    Parameters
    ----------
    saving : Saving, optional
    decoder : LoadedModel
    prompts : sequence of str
        Of the run.
    size : (int, int)
        Width and height, in pixels.
    rows : int
        Branches of a call.
    acceleration : str, optional
        Of the calls that are made beside it; None where the decoder does not sample here.

    Raises
    ------
    ValueError
        Before anything is sampled, if the prompts are not those of the run.
    """
    if saving is None:
        yield []
        return
    check_prompts_of(saving, prompts)
    here = acceleration is not None
    beside = load_beside(decoder, *size, rows, acceleration) if here else Beside(True)
    decode = functools.partial(decoded_beside, decoder, pictures=beside.pictures) if here else decoder.vae.decode
    saver = Saver(saving, decode, beside.fits, side_stream(decoder, beside), pictures_kept(decoder))
    try:
        yield [saver]
    except BaseException:
        saver.close()
        raise
    saver.settle()
    if saver.waiting:
        saver.decode = decoder.vae.decode
    saver.end()


def pictures_kept(decoder: Any) -> Known | None:
    """Where a decoder's VAE finds what was saved, if a node takes the latents: a VAE Decode, as a rule."""
    decoder.vae.saved.clear()  # of an earlier run
    return decoder.vae.saved if is_taken(sent_along().get("prompt"), running().node, LATENTS) else None


def saving_in_run(saving: Saving | None, vae: Any, plan: Plan) -> finishing.Saving | None:
    """How the runs of a MODEL save the pictures of a plan; None where nothing is to be saved.

    Parameters
    ----------
    saving : Saving or None
    vae : the host's VAE or None
    plan : Plan
        Of one prompt that is drawn alone nothing is saved: it is no set.

    Raises
    ------
    ValueError
        Before anything is sampled, if there is no VAE, or the prompts are not those of the plan.
    """
    if saving is None or plan.one_of is not None:
        return None
    if vae is None:
        raise ValueError("saving needs a vae: connect the one that decodes the images, or leave saving unconnected")
    if plan.prompts is not None or len(saving.prompts) != plan.num_prompts:
        check_prompts_of(saving, plan.prompts or [""] * plan.num_prompts)
    decoded = finishing.DecodedOnce(vae)
    return finishing.Saving(decoded, lambda: closing(Saver(saving, decoded.decode, True), decoded))


@contextlib.contextmanager
def closing(saver: Saver, decoded: finishing.DecodedOnce) -> Iterator[Saver]:
    """A context around a run: what was decoded is saved when it ends, also by an error or a cancel."""
    try:
        yield saver
    finally:
        saver.close()
        decoded.forget()


def check_prompts_of(saving: Saving, prompts: Sequence[str]) -> None:
    """Refuse prompts that are not those of the run."""
    own, theirs = list(as_rows(saving.prompts)), list(prompts)
    if own == theirs:
        return
    raise ValueError(
        f"saving is for {len(own)} prompts and the run for {len(theirs)}"
        f"{', which are others' if len(own) == len(theirs) else ''}: connect the prompts that the embeddings were made "
        "from, all of them and in the same order"
    )


def told_by(saving: Saving, workflow: dict[str, Any] | None, sampler: str | None) -> Told:
    """What there is to say of the pictures of a run: as if they were saved after the sampler."""
    graph = {**(workflow or {}), SAVER: {"inputs": {SOURCES[1]: [str(sampler), 0]}}}
    return Told.of(SimpleNamespace(hidden=SimpleNamespace(prompt=graph, unique_id=SAVER)), saving.prompts, saving.start)


def is_saved(path: Path, format: str, key: str) -> bool:
    """Whether a picture has been saved under a name, or under one that was given because that name was taken."""
    for number in range(1, MOST_OF_A_NAME):
        stem = f"{path.name}{f'_{number}' if number > 1 else ''}"
        there = [ending for ending in (*FORMATS, "txt") if path.with_name(f"{stem}.{ending}").exists()]
        if format in there and own_of(path.with_name(f"{stem}.{format}")).get("key") == key:
            return True
        if not there:
            return False
    return False


def own_of(path: Path) -> dict[str, Any]:
    """What a picture file says of itself; empty where it says nothing that can be read."""
    try:
        with Image.open(path) as picture:
            texts = [picture.info.get(OWN, "")]
            texts += [str(value) for tag, value in picture.getexif().items() if tag <= EXIF_MAKE]
        text = next((text.removeprefix(f"{OWN}:") for text in texts if text.startswith((f"{OWN}:", "{"))), "")
        found = json.loads(text)
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):
        return {}
    return found if isinstance(found, dict) else {}
