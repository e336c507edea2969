"""A run of `sample_on`: what its workers are told, what they are given to do, and what they say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..plan.part import Part, whole
from ..sampling.executor import Done, Executor, Failure, Job, NoWorkers, Task, Told
from ..sampling.executor_cut import Lost, Piece, Pieces, on_its_own, without
from ..sampling.executor_plain import Begin, plain_part
from ..sampling.executor_speeds import shares_in_words
from ..sampling.finite import MOST_NAMED
from ..sampling.noise import BranchNoise, keyed_noise
from ..sampling.plan_numbers import plan_numbers
from .decoder import check_sample_inputs, first_rows
from .fingerprint import decoder_fingerprint
from .guidance import strengths
from .plan_embeddings import PlanEmbeddings, embeddings_for
from .schedulers import make_scheduler
from .shared import shared_families

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings
    from ..plan.plan import Plan
    from ..sampling.observer import Observer
    from .plan_embeddings import Leaves

GPU_BATCH = 8  # rows that take a GPU hardly longer than one does: docs/measurements/performance.md
ENTRY = "kandinsky.workers_process:make_worker"


@dataclass(frozen=True, eq=False)
class Run:
    """What is drawn, for workers.

    Attributes
    ----------
    plan : Plan
    found : PlanEmbeddings
        What its means are made of.
    first : (G, ...) float32 array
        The latents that branches start from.
    setup : dict
        What each worker is told once, plain: see `run_of`.
    make : callable
        ``make() -> Work`` in this process, with the driver's decoder.
    marks : mapping of int to dict
        Prompts whose pictures are wanted, and the file and mark of each, where workers write them.
    """

    plan: Plan
    found: PlanEmbeddings
    first: np.ndarray
    setup: dict[str, Any]
    make: Callable[[dict[str, Any]], Any]
    marks: Mapping[int, dict[str, Any]]


def run_of(
    decoder: KandinskyV22Pipeline,
    embeddings: PromptEmbeddings,
    plan: Plan,
    *,
    seed: int,
    guidance: float,
    scheduler: str,
    width: int,
    height: int,
    micro_batch: int,
    rescale_means: bool,
    acceleration: str,
    guidance_interval: Sequence[float],
    leaves: Leaves | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
) -> Run:
    """Check what `sample_on` was given, and make what workers are told.

    Parameters
    ----------
    decoder, embeddings, plan : KandinskyV22Pipeline, PromptEmbeddings, Plan
        As in `sample_on`.
    seed, guidance, scheduler, width, height, micro_batch, rescale_means : int, float, str, int, int, int, bool
        As in `sample_on`.
    acceleration, guidance_interval, leaves : str, (float, float), PromptEmbeddings or mapping
        As in `sample_on`.
    folder, device : str, str
        As in `sample_on`.

    Returns
    -------
    run : Run
        Its workers say latents, and all rows; pictures are not made.

    Raises
    ------
    ValueError
        If the inputs do not fit each other.
    """
    check_sample_inputs(decoder, embeddings, plan, width, height, micro_batch, guidance, guidance_interval)
    found = embeddings_for(plan, embeddings, leaves, None)
    made = make_scheduler(scheduler, decoder.scheduler.config, plan.num_steps)
    noise = BranchNoise(keyed_noise(seed), plan, found.own.keys)
    factors = strengths(plan, guidance, guidance_interval, made)
    setup = {
        "folder": str(folder or folder_of(decoder) or ""),
        "fingerprint": decoder_fingerprint(decoder),
        "dtype": str(decoder.unet.dtype).removeprefix("torch."),
        "device": device or decoder.unet.device.type,
        "threads": torch.get_num_threads(),
        "plan": plan_numbers(plan, noise),
        "num_steps": plan.num_steps,
        "guidance": [np.asarray(own, dtype=np.float64) for own in factors],
        "families": shared_families(plan, found, device or decoder.unet.device.type),
        "seed": int(seed),
        "scheduler": scheduler,
        "micro_batch": int(micro_batch),
        "acceleration": acceleration,
        "rescale_means": bool(rescale_means),
        "latents": True,
        "ends": None,
        "pictures": None,
    }
    first = first_rows(decoder, made, noise, width, height).cpu().numpy()

    def make(setup: dict[str, Any]) -> Any:
        from .workers_process import DecoderWorker

        return DecoderWorker(decoder, setup)

    return Run(plan, found, first, setup, make, {})


def folder_of(decoder: KandinskyV22Pipeline) -> Path | None:
    """Where a decoder was loaded from; None where it does not say so."""
    named = getattr(decoder.unet, "config", {}).get("_name_or_path")
    folder = Path(named).absolute().parent if named else None
    return folder if folder is not None and (folder / "model_index.json").exists() else None


def make_ready(executor: Executor, run: Run) -> None:
    """Have an executor make its workers for a run; `ValueError` where one cannot be made."""
    executor.begin(Job(ENTRY, run.setup, lambda: run.make(run.setup)))


def run_on(
    executor: Executor,
    run: Run,
    on_done: Callable[[Mapping[str, Any]], Any],
    observer: Observer | None = None,
    drawn: np.ndarray | None = None,
    on_shares: Callable[[str], Any] | None = None,
) -> list[Lost]:
    """Have a run drawn.

    Parameters
    ----------
    executor : Executor
        With its workers made for the run, by `make_ready`.
    run : Run
    on_done : callable
        ``on_done(done)`` as prompts are finished: a dict of "prompts", "not_finite" among them, perhaps "latents", and
        of "pictures", those that there are pictures of, with "pixels" where these were sent.
    observer : Observer, optional
        Hears of rows, once of each, and is asked several times a second, by `before_call`, whether to go on.
    drawn : (N,) bool array, optional
        Prompts that are there already.
    on_shares : callable, optional
        ``on_shares(text)`` says at the end how many rows each worker has drawn.

    Returns
    -------
    lost : list of Lost
        What could not be drawn: all else is.

    Raises
    ------
    OSError
        If a worker cannot write.
    """
    part = part_to_draw(run, drawn)
    batch = GPU_BATCH if run.setup["device"] != "cpu" else 1
    alike = len(set(filter(None, executor.kinds))) < 2
    pieces = Pieces(part, Begin(run.first), executor.count, batch, alike=alike)
    heard = Heard(run, pieces, on_done, observer)
    try:
        for said in executor.run(heard.next_task):
            heard.hear(said)
    except NoWorkers as gone:
        pieces.give_up(str(gone))
    if on_shares is not None and (text := shares_in_words(pieces.shares, executor.kinds)):
        on_shares(text)
    return pieces.lost


def part_to_draw(run: Run, drawn: np.ndarray | None = None) -> Part:
    """What is drawn of a run, when some of its prompts, (N,) bool, are there already."""
    part = whole(run.plan, run.found.known)
    return part if drawn is None else without(part, drawn)


class Heard:
    """Hands out the tasks of a run and hears what workers say.

    Parameters
    ----------
    run : Run
    pieces : Pieces
        Of the run.
    on_done : callable
        As in `run_on`.
    observer : Observer or None
        As in `run_on`.
    """

    def __init__(self, run: Run, pieces: Pieces, on_done: Callable[..., Any], observer: Observer | None):
        self.run, self.pieces, self.on_done, self.observer = run, pieces, on_done, observer
        self.seen = [np.zeros(step.num_clusters, dtype=bool) for step in run.plan.steps]

    def next_task(self, worker: int) -> Task | None:
        """What an idle worker should do."""
        piece = self.pieces.take(worker)
        return None if piece is None else (piece.number, task_of(piece, self.run))

    def hear(self, said: tuple[int, Any] | None) -> None:
        """Hear what a worker says, or that none says anything."""
        if self.observer is not None:
            self.observer.before_call()
        if said is None:
            return
        number, what = said
        if isinstance(what, Told):
            self.told(self.pieces.running[number], what.value)
        elif isinstance(what, Done):
            self.pieces.done(number, Begin(what.value["rows"], what.value["state"]) if what.value else None)
        elif isinstance(what, Failure):
            if what.disk:
                raise OSError(what.reason)
            logging.info("HierDiff: a part is drawn again: %s", what.reason)
            self.pieces.failed(number, what.reason)

    def told(self, piece: Piece, value: Mapping[str, Any]) -> None:
        """Hear of rows, or of finished prompts."""
        if "k" in value:
            self.rows(value["k"], np.array(value["clusters"]), value["x0"])
            return
        own = piece.part.prompts
        new = ~self.pieces.finished[own[value["prompts"]]]
        self.pieces.told_finished(piece.number, own[value["prompts"]])
        if new.all():
            numbers = {name: own[value[name]] for name in ("prompts", "not_finite", "pictures") if name in value}
            others = {name: np.array(value[name]) for name in ("latents", "pixels") if name in value}
            self.on_done({"pictures": own[:0], "pixels": None, **numbers, **others})

    def rows(self, k: int, clusters: np.ndarray, x0: np.ndarray | None) -> None:
        """Tell the observer of rows that it has not heard of."""
        new = ~self.seen[k][clusters]
        self.seen[k][clusters] = True
        if self.observer is not None and new.any():
            rows: Any = None if x0 is None else torch.from_numpy(np.array(x0[new]))
            self.observer.on_rows(k, clusters[new], rows)


def task_of(piece: Piece, run: Run) -> dict[str, Any]:
    """What a worker is told of a piece: plain data."""
    head = piece.stop is not None
    part = replace(piece.part, steps=piece.part.steps[: piece.stop]) if head else piece.part
    own, leaves = on_its_own(part)
    prompts = [] if head else part.prompts.tolist()
    return {
        "part": plain_part(own),
        "head": head,
        "rows": piece.begin.rows,
        "state": piece.begin.state,
        "embeddings": run.found.leaves[:, torch.from_numpy(leaves)].transpose(0, 1).contiguous().numpy(),
        "marks": {i: run.marks[prompt] for i, prompt in enumerate(prompts) if prompt in run.marks},
    }


def lost_in_words(lost: Sequence[Lost], prompts: Sequence[str]) -> str:
    """What to say of prompts that could not be drawn."""
    rows = sorted(i for own in lost for i in own.prompts)
    names = [f'{i} ("{prompts[i][:60]}")' for i in rows[:MOST_NAMED]]
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    reasons = "; ".join(dict.fromkeys(own.reason for own in lost[:3]))
    return f"prompt{'s' * (len(rows) > 1)} {', '.join(names)}{more} could not be drawn: {reasons}"
