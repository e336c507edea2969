"""Pictures of a tree's branches at full size, as files that the page can show, save and copy.

They lie in the host's temporary folder, which it empties when it starts, like the files of Preview Image.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...hierdiff_core.files.png import png_bytes
from ...hierdiff_core.files.whole_files import replace
from ...hierdiff_core.pictures.tree import leaf_branches
from ...hierdiff_core.previews import BranchLatents
from ...hierdiff_core.sampling.observer import Observer
from .device import stop_if_cancelled
from .folders import temporary_folder, writes_metadata
from .live_tree import SECONDS_BETWEEN_UPDATES, LiveTree
from .runs import sent_along

FOLDER = "hierdiff"
MOST_WRITERS = 8
MOST_WAITING = 32  # pictures that are not written yet
AT_ONCE = 4  # decoded together on a GPU; on a CPU one, whatever the others are


class TreeFiles:
    """The files of one run.

    Parameters
    ----------
    live : LiveTree
        Of the run; it gets small pictures too.
    """

    def __init__(self, live: LiveTree) -> None:
        self.live = live
        self.names: dict[int, str] = {}  # by index into the plan's branches
        self.metadata = png_texts()
        self.jobs: deque[tuple[int, Future[None]]] = deque()

    def add(self, indices: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        """Show pictures in the tree, and have a file written for each while others are made."""
        self.live.show(indices, pictures)
        folder = Path(temporary_folder()) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for index, picture in zip(indices, pictures, strict=True):
            name = f"{self.live.run}-{index}.png"
            self.jobs.append((index, writers().submit(self._write, folder / name, picture)))
            self.names[index] = name
        self.settle(MOST_WAITING)

    def _write(self, path: Path, picture: Image.Image) -> None:
        chunks = [] if self.metadata is None else [(kind, data) for kind, data, *_ in self.metadata.chunks]
        replace(path, png_bytes(np.asarray(picture.convert("RGB")), chunks))

    def settle(self, left: int = 0) -> None:
        """Wait until all files are written, or but a few; raise what went wrong with one."""
        while len(self.jobs) > left:
            index, job = self.jobs.popleft()
            if job.exception() is not None:
                self.names.pop(index)
            job.result()

    def told(self, whole: bool) -> dict[str, list[dict[str, Any]]]:
        """What the page has to know, as data of a node's result; `whole`: the leaves are no previews."""
        while self.jobs:
            with contextlib.suppress(Exception):  # `settle` says so; the page is told of the others
                self.settle()
        if not self.names:
            return {}
        files = {str(index): name for index, name in self.names.items()}
        return {"hierdiff_pictures": [{"run": self.live.run, "folder": FOLDER, "whole": whole, "files": files}]}


@functools.cache
def writers() -> ThreadPoolExecutor:
    """Threads that make the files of pictures."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_WRITERS), "HierDiff tree")


class LeafPictures(Observer):
    """Decodes what a run has made, once it is over: its leaves at full size, and small what its branches were before.

    Parameters
    ----------
    vae : the host's VAE
    live : LiveTree
        Of the run.
    """

    def __init__(self, vae: Any, live: LiveTree) -> None:
        self.vae, self.live = vae, live
        self.files = TreeFiles(live)
        self._told = 0.0
        self._begin()

    def _begin(self) -> None:
        self.plan, self.kept = self.live.plan, BranchLatents(self.live.plan)

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Keep the branches that end at step k."""
        if self.plan is not self.live.plan:  # refined, before any step
            self._begin()
        if x0.ndim in (4, 5):
            self.kept.on_rows(k, clusters, x0[:, :, 0] if x0.ndim == 5 else x0)

    def decoded(self, model: Any, samples: torch.Tensor) -> dict[str, list[dict[str, Any]]]:
        """Data for the page, see `TreeFiles.told`.

        Parameters
        ----------
        model : the host's
            Scales the latents of branches.
        samples : (N, ...) tensor
            The final latents.
        """
        if not self.live.branches:  # too many prompts for a tree
            return {}
        self.add(range(len(samples)), samples)
        files = self.files
        before = [i for i, latent in enumerate(self.kept.latents) if latent is not None and i not in files.names]
        for some in parts(len(before), self.at_once):
            latents = model.process_latent_out(self.kept.stacked(before[some]))
            latents = latents.unsqueeze(2) if samples.ndim == 5 else latents
            files.add(before[some], pictures_of(self.vae, latents.to(samples)))
            self._tell()
        self._tell(at_once=True)
        files.settle()
        return files.told(whole=True)

    def add(self, prompts: Sequence[int] | np.ndarray, samples: torch.Tensor) -> None:
        """Show the final pictures of some prompts, (P, ...), but for those that are shown."""
        row, plan = {int(prompt): row for row, prompt in enumerate(prompts)}, self.live.plan
        first = {i: int(plan.branches[i].members[0]) for i in leaf_branches(plan)} if self.live.branches else {}
        leaves = [i for i, prompt in first.items() if prompt in row and i not in self.files.names]
        for some in parts(len(leaves), self.at_once):
            self.files.add(leaves[some], pictures_of(self.vae, samples[[row[first[i]] for i in leaves[some]]]))
            self._tell()

    def _tell(self, at_once: bool = False) -> None:
        """Send the page what is decoded, now and then; the run itself is over, and its end was told."""
        now = time.monotonic()
        if at_once or now - self._told > SECONDS_BETWEEN_UPDATES:
            self._told = now
            self.live.owed = True
            self.live.deliver()

    @property
    def at_once(self) -> int:
        """Latents that are decoded together; the host decodes fewer where its memory is short."""
        return 1 if getattr(self.vae, "device", torch.device("cpu")).type == "cpu" else AT_ONCE


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`, between which the user can stop."""
    for start in range(0, count, size):
        stop_if_cancelled()
        yield slice(start, start + size)


def pictures_of(vae: Any, latents: torch.Tensor) -> list[Image.Image]:
    """PIL pictures of (B, ...) latents, rounded as the host's Save Image does; of a video its first frame."""
    images = vae.decode(latents)
    images = images[:, 0] if images.ndim == 5 else images
    values = (255.0 * images[..., :3]).clamp(0, 255).byte().cpu().numpy()
    return [Image.fromarray(pixels) for pixels in values]


def png_texts() -> PngInfo | None:
    """The workflow of the run, as the host's own nodes write it into their files."""
    if not writes_metadata():
        return None
    metadata = PngInfo()
    for key, value in sent_along().items():
        metadata.add_text(key, json.dumps(value))
    return metadata
