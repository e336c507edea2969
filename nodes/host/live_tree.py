"""What the browser hears of a run: the tree as it grows, and its state for a page that was loaded in mid-run.

The client that queued the run gets events of the type `hierdiff.tree`:

- ``begin``: node, run, workflow, prompt_id, steps, prompts, branches (start, stop, parent, members of the last ones),
  and measured: what is known of the loss (verdict, passes that measuring takes), or null
- ``progress``: node, run, step, clusters, rows, standard, and tiles: a sheet of small pictures of branches; where a
  store had rows also reused, how many of the rows; depth first also reached, the steps that are done along each branch
- ``end``: node, run, state (done or stopped), and tiles

All of them have share, that of the work which is done, and seconds: {elapsed, left, full}, where full is what full
sampling would take; each is a number or null.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from aiohttp import web
from PIL import Image

from ...hierdiff_core.devices import AsyncHostCopy, on_device
from ...hierdiff_core.previews import latents_to_rgb, shrunk, tile_sheet
from ...hierdiff_core.sampling.progress import Times
from .runs import COPIES, Kept, running, send, sent_along

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Branch, Plan

EVENT = "hierdiff.tree"
SECONDS_BETWEEN_UPDATES = 0.3
# Pictures of all branches together: what a message may hold, and the page keeps.
ALL_PIXELS = 2**20
LARGEST_TILE, SMALLEST_TILE = 64, 12
# Beyond it the page shows numbers only: a tree of that many leaves can be neither drawn nor read.
MOST_PROMPTS = 5000
MOST_KEPT = 16  # runs, for pages that are loaded later
Colours = Callable[[torch.Tensor, int], torch.Tensor | None]  # see `linear_colours`

_runs = itertools.count(1)
_kept = Kept(MOST_KEPT)
_lock = threading.Lock()


class LiveTree:
    """Tells the browser how the branches of one run grow. A context manager around the run.

    Parameters
    ----------
    plan : Plan
    to_rgb : callable or None
        Latents to small pictures, see `linear_colours`; None: a tree without pictures.
    measured : dict or None
        What is known of the plan's loss, see `measured.Verdict`.
    times : callable, optional
        Gives the run's `Times` as they are then.
    """

    def __init__(
        self,
        plan: Plan,
        to_rgb: Colours | None = None,
        measured: dict[str, Any] | None = None,
        times: Callable[[], Times] = Times,
    ) -> None:
        self.run = f"{time.time():.0f}-{next(_runs)}"
        self.client, self.node, self.workflow, self.prompt_id, self.signature = running()
        if (self.node or "").startswith(COPIES):
            self.client = None  # no page shows it
        self.queued = sent_along()  # to compare with
        self.state = "running"
        self.colours = to_rgb
        self.measured = measured
        self.times = times
        self.in_all: dict[str, Any] | None = None  # what was known of time when the run was over
        self.draw(plan)
        self.tiles: dict[int, torch.Tensor] = {}  # the latest picture of each branch
        self.unsent: set[int] = set()
        self.arriving: tuple[list, AsyncHostCopy] | None = None  # branches, and pictures on their way
        self.owed = False  # a message, which waits for these pictures
        self.last_due = 0.0

    def draw(self, plan: Plan) -> None:
        """Take the branches of a plan, of which nothing is done."""
        self.plan = plan
        self.progress = {"step": 0, "clusters": plan.steps[0].num_clusters, "rows": 0, "standard": 0}
        drawn = plan.branches if plan.num_prompts <= MOST_PROMPTS else ()
        self.branches = [describe(branch, plan) for branch in drawn]
        self.starts = np.array([branch.start for branch in drawn], dtype=np.int64)
        self.stops = np.array([branch.stop for branch in drawn], dtype=np.int64)
        self.first_members = np.array([branch.members[0] for branch in drawn], dtype=np.int64)
        self.reached = np.zeros(len(drawn), dtype=np.int64)  # steps that are done along each branch
        self.partly = False  # whether the work goes depth first
        self.side = tile_side(len(drawn))
        self.to_rgb = self.colours if self.side and drawn else None

    def begin_again(self, plan: Plan) -> None:
        """Show a finer plan, before any step: a page takes the second beginning of a run for its only one."""
        self.draw(plan)
        self.send("begin", **self.beginning())

    def __enter__(self):
        if self.node is not None and self.client is not None:  # or nobody can ask for it
            _kept.keep(self.client, self.workflow, self.node, self)
        self.send("begin", **self.beginning())
        return self

    def __exit__(self, kind, *_):
        self.state = "done" if kind is None else "stopped"
        try:
            self.deliver()
        finally:
            self.in_all = self.time_known()
            self.send("end", state=self.state, **self.progress, tiles=self.new_tiles())

    def beginning(self) -> dict[str, Any]:
        texts = self.plan.prompts or [""] * self.plan.num_prompts
        return {
            "workflow": self.workflow,
            "prompt_id": self.prompt_id,
            "steps": self.plan.num_steps,
            "prompts": list(texts) if self.branches else [],
            "branches": self.branches,
            "measured": self.measured,
        }

    def step(
        self,
        k: int,
        x0: torch.Tensor,
        rows: int,
        standard: int,
        clusters: np.ndarray | None = None,
        reused: int = 0,
    ) -> None:
        """Step k is done, or the device will be done with it; its pictures are sent when they are there.

        Parameters
        ----------
        k : int
        x0 : (C, ...) tensor
            The clean latents that the clusters of step k are heading for.
        rows, standard : int
            Model rows spent so far, and what separate runs would have spent.
        clusters : (C,) int64
            Which clusters these are; all of the step when None.
        reused : int
            Rows that a store had in the place of the model.
        """
        self.deliver()  # the device is at work on step k meanwhile
        last = k == self.plan.num_steps - 1
        due = last or time.monotonic() - self.last_due > SECONDS_BETWEEN_UPDATES
        since = min(k, self.progress["step"]) if clusters is None else k  # some samplers report every other step
        living, places = self.living(k, since, clusters)
        self.keep_tiles(k, x0, living, places, ending_only=not due)
        self.progress = {"step": k + 1, "clusters": len(x0), "rows": int(rows + reused), "standard": int(standard)}
        if reused:
            self.progress["reused"] = int(reused)
        if self.branches and clusters is not None:
            self.note_reached(k, clusters, living)
        if due:
            self.owed = True
            self.last_due = time.monotonic()
        if self.arriving is None or self.arriving[1].here:
            self.deliver()

    def deliver(self) -> None:
        """Take in the pictures of the step before, waiting for them if need be, and send the message that is owed."""
        if self.arriving:
            (indices, rgb), self.arriving = self.arriving, None
            self.add_tiles(indices, rgb.wait())
        if self.owed:
            self.owed = False
            self.send("progress", **self.progress, tiles=self.new_tiles())

    def living(self, k: int, since: int, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Branches that were alive from step `since` to k, and the rows of `clusters` that they are in."""
        found = np.flatnonzero((self.starts <= k) & (self.stops > since))
        places = self.plan.steps[k].labels[self.first_members[found]]
        if clusters is None:
            return found, places
        inside = np.isin(places, clusters)
        return found[inside], np.searchsorted(clusters, places[inside])

    def note_reached(self, k: int, clusters: np.ndarray, living: np.ndarray) -> None:
        self.reached[living] = k + 1
        self.partly = self.partly or len(clusters) < self.plan.steps[k].num_clusters
        if self.partly:
            self.progress["reached"] = self.reached.tolist()

    def keep_tiles(self, k: int, x0: torch.Tensor, living: np.ndarray, rows: np.ndarray, ending_only: bool) -> None:
        """Draw the branches of step k, or only those that end by then and would never be drawn again."""
        if self.to_rgb is None:
            return
        drawn = self.stops[living] <= (k + 1 if ending_only else self.plan.num_steps)
        wanted, rows = living[drawn], rows[drawn]
        if not len(wanted):
            return
        rgb = self.to_rgb(x0[on_device(rows, x0.device)], self.side)
        if rgb is not None:
            self.arriving = wanted.tolist(), AsyncHostCopy(rgb)

    def show(self, indices: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        """Better pictures of branches: `pictures` are PIL, one for each index into `plan.branches`."""
        if not (self.side and self.branches and pictures):
            return
        size = [max(1, round(n * self.side / max(pictures[0].size))) for n in pictures[0].size]
        small = [picture.convert("RGB").resize(size, Image.Resampling.LANCZOS) for picture in pictures]
        self.add_tiles(indices, torch.from_numpy(np.stack([np.asarray(picture) for picture in small])))

    def add_tiles(self, indices: Sequence[int], rgb: torch.Tensor) -> None:
        own = [picture.clone() for picture in rgb]  # a view would keep all the others in memory
        with _lock:
            self.tiles.update(zip(indices, own, strict=True))
            self.unsent.update(indices)

    def new_tiles(self) -> list[dict[str, Any]]:
        """`sheets` of the pictures that no message has had yet."""
        with _lock:
            tiles = {i: self.tiles[i] for i in sorted(self.unsent)}
            self.unsent.clear()
        return sheets(tiles)

    def send(self, kind: str, **data: Any) -> None:
        known = {"kind": kind, "node": self.node, "run": self.run, **self.time_known()}
        send(EVENT, {**known, **data}, self.client)

    def time_known(self) -> dict[str, Any]:
        """`share` and `seconds` of a message."""
        if self.in_all is not None:
            return self.in_all
        times = self.times()
        seconds = {name: rounded(getattr(times, name)) for name in ("elapsed", "left", "full")}
        return {"share": rounded(times.share, 4), "seconds": seconds}

    def snapshot(self, **place: Any) -> dict[str, Any]:
        """All that was sent so far, as one message for a page that was not there.

        `place` tells the workflow where it is another: that of a page which takes the run from the host's cache.
        """
        with _lock:
            tiles = dict(self.tiles)
        known = {"kind": "snapshot", "node": self.node, "run": self.run, "state": self.state, **self.time_known()}
        return {**known, **self.beginning(), **place, **self.progress, "tiles": sheets(tiles)}


def rounded(value: float | None, digits: int = 2) -> float | None:
    """A number for a message; None stays."""
    return None if value is None else round(value, digits)


def describe(branch: Branch, plan: Plan) -> list[Any]:
    """[start, stop, parent or -1, members]; members of branches that live to the end only, the others' follow."""
    members = branch.members.tolist() if branch.stop == plan.num_steps else []
    return [int(branch.start), int(branch.stop), -1 if branch.parent is None else int(branch.parent), members]


def tile_side(num_branches: int) -> int:
    """Pixels a side of each branch's picture; 0: too many branches for pictures."""
    side = min(LARGEST_TILE, math.isqrt(ALL_PIXELS // max(num_branches, 1)))
    return side if side >= SMALLEST_TILE else 0


def sheets(tiles: Mapping[int, torch.Tensor]) -> list[Any]:
    """Small pictures as JPEG sheets, one for each size: the first and the last of a run may differ.

    Parameters
    ----------
    tiles : dict of int to (h, w, 3) uint8 tensor

    Returns
    -------
    list of dict
        Branches, width and height of a tile, columns, image (a data URL).
    """
    by_size = {}
    for index, tile in tiles.items():
        by_size.setdefault(tuple(tile.shape), []).append(index)
    return [sheet(indices, torch.stack([tiles[i] for i in indices])) for indices in by_size.values()]


def sheet(indices: Sequence[int], tiles: torch.Tensor) -> dict[str, Any]:
    file, pixels = io.BytesIO(), tile_sheet(tiles).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=0)  # neighbours must not bleed
    image = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    height, width = tiles.shape[1:3]
    columns = math.ceil(math.sqrt(len(indices)))
    return {"branches": indices, "width": width, "height": height, "columns": columns, "image": image}


def linear_colours(factors: torch.Tensor, prepare: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Colours:
    """Latents to small pictures by a linear map.

    Parameters
    ----------
    factors : (C + 1, 3) tensor
        To colours in 0 ... 1; the last row is the bias.
    prepare : callable, optional
        Latents -> latents with the channels of `factors`.

    Returns
    -------
    to_rgb : callable
        Latents, longest side -> (B, h, w, 3) uint8 on their device; None for what is no picture.
    """

    def to_rgb(latents, side):
        latents = prepare(latents) if prepare else latents
        if latents.ndim == 5:
            latents = latents[:, :, 0]  # the first frame of a video
        if latents.ndim != 4 or latents.shape[1] != len(factors) - 1:
            return None
        return latents_to_rgb(shrunk(latents.float(), side), factors)

    return to_rgb


def host_colours(latent_format: Any) -> Colours | None:
    """`linear_colours` of a MODEL's latents, by the factors of the host's own previews; None where it has none."""
    factors = getattr(latent_format, "latent_rgb_factors", None)
    if factors is None:
        return None
    bias = getattr(latent_format, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0]
    factors = torch.tensor([*factors, bias]) / 2  # the host's map to -1 ... 1
    factors[-1] += 0.5
    return linear_colours(factors, getattr(latent_format, "latent_rgb_factors_reshape", None))


def tree_of_client(client: Any, run: Any) -> LiveTree | None:
    """The tree of a run that this client queued, or whose results the host's cache gave it."""
    return next((tree for _, _, tree in _kept.of_client(client) if tree.run == run), None)


async def trees_of_client(request: web.Request) -> web.Response:
    """GET /hierdiff/trees?clientId=…[&prompt_id=…][&known=…]: snapshots of runs that the page does not know yet.

    Those that this client queued; with `prompt_id` those that the host's cache gives it. `known` are runs, with commas.
    """
    known = request.query.get("known", "").split(",")
    trees = [entry for entry in _kept.asked(request.query) if entry[2].run not in known]
    return web.json_response([tree.snapshot(workflow=workflow) for workflow, _, tree in trees])
