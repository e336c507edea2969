"""The command line's pictures, drawn on workers: what was finished is in the folder, whatever dies then."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .draw_command import BAR, Bar, Drawing, sampling_settings
from .files import whole_files
from .files.picture_marks import whole_picture
from .files.set_folder import file_name
from .kandinsky.guidance import passes_per_row
from .kandinsky.loading import load_decoder
from .kandinsky.shared import shared_rows
from .kandinsky.workers_early import EarlyWorkers
from .kandinsky.workers_run import Run, lost_in_words, make_ready, part_to_draw, run_of, run_on
from .picture_files import PictureFiles, raise_first, writing
from .previews import BranchLatents
from .sampling.executor import NO_RAY, Workers
from .sampling.executor_cut import Lost
from .sampling.observer import Observers
from .sampling.progress import RunProgress, left_in_words
from .set_trunk import digest_of

if TYPE_CHECKING:
    from .embeddings import PromptEmbeddings
    from .files.set_folder import DrawnSet
    from .plan.plan import Plan

EARLY = ("scheduler", "width", "height", "micro_batch", "acceleration")  # settings that workers prepare calls for


def workers_of(options: argparse.Namespace) -> Workers | None:
    """Who draws, if not this process; `ValueError` for options that do not go together, and without Ray."""
    if options.workers is None and options.ray is None:
        if options.collect:
            raise ValueError("--collect is for pictures that workers draw: add --workers or --ray")
        return None
    if options.advise:
        raise ValueError("advise measures on one device: leave --workers and --ray out")
    for name in ("keep", "grow"):
        if getattr(options, name):
            raise ValueError(
                f"--{name} needs what was evaluated, and workers keep none of it: leave --{name} or the workers out"
            )
    if importlib.util.find_spec("ray") is None:
        raise ValueError(NO_RAY)
    return Workers(options.workers or 0, options.ray or "")


def workers_words(options: argparse.Namespace) -> str:
    """The options of workers as a command line has them."""
    words = [] if options.workers is None else ["--workers", str(options.workers or "auto")]
    words += ["--ray", shlex.quote(options.ray)] if options.ray is not None else []
    return "".join(f" {word}" for word in [*words, *(["--collect"] if options.collect else [])])


def device_here(options: argparse.Namespace) -> str:
    """Where this process embeds and decodes; workers may have a GPU where it has none."""
    on_workers = options.workers is not None or options.ray is not None
    there = torch.cuda.is_available() or not options.device.startswith("cuda")
    return "cpu" if on_workers and not there else options.device


def load_for_workers(folder: str | Path, device: str) -> Any:
    """The decoder as workers on a device have it, in main memory: the device is theirs."""
    return load_decoder(folder, torch.float32 if device == "cpu" else torch.float16, "cpu")


def early_workers(options: argparse.Namespace, tell: Callable[[str], Any]) -> EarlyWorkers | None:
    """The workers that the options ask for, not started yet; None where this process draws."""
    workers = workers_of(options)
    if workers is None:
        return None
    settings = {name: getattr(options, name) for name in EARLY}
    return EarlyWorkers(workers, options.decoder.absolute(), options.device, tell=tell, **settings)


def draw_on_workers(
    workers: EarlyWorkers,
    decoder: Any,
    embeddings: PromptEmbeddings,
    plan: Plan,
    drawn: DrawnSet,
    options: argparse.Namespace,
    there: Mapping[int, Image.Image],
    tell: Callable[[str], Any],
) -> Drawing:
    """Have a set drawn, decoded and written by workers.

    Parameters
    ----------
    workers : EarlyWorkers
        Started or not; they are ended as soon as all is drawn.
    decoder : KandinskyV22Pipeline
        From `load_for_workers`; afterwards it is where figures are decoded.
    embeddings : PromptEmbeddings
        Of N prompts.
    plan : Plan
        For N prompts.
    drawn : DrawnSet
        Where pictures go.
    options : argparse.Namespace
        Of the command line.
    there : mapping of int to PIL picture
        Pictures that are written already, by their prompts.
    tell : callable
        ``tell(text)`` is given what a user should know.

    Returns
    -------
    Drawing

    Raises
    ------
    ValueError
        If Ray does not start, or a worker cannot begin.
    OSError
        If some prompts could not be drawn, once all others are; or a picture not written.
    """
    branches = KeptBranches(plan, drawn.trunk, drawn.note["set"], tell)
    there_already = np.array([i in there for i in range(plan.num_prompts)]) & branches.covered
    run = command_run(decoder, embeddings, plan, drawn, options, there, branches)
    spared = plan.clusters_per_step - [len(step.parents) for step in part_to_draw(run, there_already).steps]

    def begin() -> RunProgress:
        shared = shared_rows(plan, run.found, run.setup["device"])
        passes = passes_per_row(plan, options.guidance, options.guidance_interval, shared)
        progress = RunProgress(plan, passes=passes)
        progress.on_stored(spared)
        return progress

    with writing() as writers:
        finished = Finished(drawn, PictureFiles(drawn, writers, plan.num_prompts, there), branches)
        if there_already.all():
            lost, progress = [], begin()
        else:
            lost, progress = draw_rest(workers, run, finished, begin, there_already, tell)
        progress.end()
    raise_first(finished.pictures.failures)
    if lost:
        count = f"{drawn.count} of {plan.num_prompts} pictures are in {drawn.folder}"
        raise OSError(f"{lost_in_words(lost, embeddings.prompts)}; {count}")
    for_figures(decoder, device_here(options))
    images = [whole_picture(drawn.folder / file_name(i)) for i in range(plan.num_prompts)]
    found: list[Any] = [image or there[i] for i, image in enumerate(images)]
    bad = sorted(finished.not_finite)
    return Drawing(found, finished.pictures.files, branches, bad, progress.times(), int(spared.sum()))


def draw_rest(
    workers: EarlyWorkers,
    run: Run,
    finished: Finished,
    begin: Callable[[], RunProgress],
    there: np.ndarray,
    tell: Callable[[str], Any],
) -> tuple[list[Lost], RunProgress]:
    """Have workers draw the prompts that are not there; those that cannot be drawn, and what `begin` has made."""
    with workers, shared_token(finished.drawn, run):
        executor = workers.ready()
        make_ready(executor, run)
        finished.drawn.begin()
        progress = begin()
        with tqdm(total=round(progress.work[1]), desc="sampling", bar_format=BAR) as bar:
            shares: list[str] = []
            watching = Observers(finished.branches, progress, WorkersBar(bar, progress, executor.count))
            lost = run_on(executor, run, finished, watching, there, shares.append)
    for text in shares:  # below the bar
        tell(text)
    return lost, progress


class Finished:
    """Hears of finished prompts: their pictures are counted, or written here.

    Parameters
    ----------
    drawn : DrawnSet
        Where pictures go.
    pictures : PictureFiles
        Writes those that are sent.
    branches : KeptBranches
        Of the run.

    Attributes
    ----------
    not_finite : set of int
        Prompts whose latents hold NaN or infinity.
    """

    def __init__(self, drawn: DrawnSet, pictures: PictureFiles, branches: KeptBranches):
        self.drawn, self.pictures, self.branches = drawn, pictures, branches
        self.not_finite: set[int] = set()

    def __call__(self, done: Mapping[str, Any]) -> None:
        """Hear of some.

        Parameters
        ----------
        done : mapping
            As in `run_on`.
        """
        self.not_finite.update(done["not_finite"].tolist())
        if done["pixels"] is not None:
            self.pictures.add(done["pictures"], torch.from_numpy(done["pixels"]).float() / 255)
        else:
            for i in done["pictures"].tolist():
                self.pictures.files[i] = self.drawn.note_written(i)
        self.branches.keep()


def command_run(
    decoder: Any,
    embeddings: PromptEmbeddings,
    plan: Plan,
    drawn: DrawnSet,
    options: argparse.Namespace,
    there: Mapping[int, Image.Image],
    branches: KeptBranches,
) -> Run:
    """What workers are told: pictures instead of latents, and small latents for the tree alone."""
    run = run_of(
        decoder,
        embeddings,
        plan,
        **sampling_settings(options),
        folder=options.decoder.absolute(),
        device=options.device.partition(":")[0],
    )
    written = {} if options.collect else {"folder": str(drawn.folder.absolute())}
    marks = {i: {"file": file_name(i), "mark": drawn.mark(i)} for i in range(plan.num_prompts) if i not in there}
    setup = {**run.setup, "latents": False, "ends": branches.ends, "pictures": written}
    return replace(run, setup=setup, marks=marks)


@contextlib.contextmanager
def shared_token(drawn: DrawnSet, run: Run) -> Iterator[None]:
    """A hidden file in the set's folder, by which workers that write there see that they have the same folder."""
    path = drawn.folder / f"{whole_files.BEFORE}{drawn.note['set']}{whole_files.AFTER}"  # one, whoever is killed
    token = secrets.token_hex(8)
    try:
        if "folder" in run.setup["pictures"]:
            path.write_text(token, encoding="utf-8")
            run.setup["pictures"].update(token_file=path.name, token=token)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def for_figures(decoder: Any, device: str) -> None:
    """Have a decoder where its figures are decoded; on a CPU in float32."""
    if device != "cpu":
        decoder.movq.to(device)
    elif decoder.movq.dtype != torch.float32:
        decoder.movq.float()


class WorkersBar(Bar):
    """The work that is done, rows per second, workers, and when the run will end."""

    def __init__(self, bar: tqdm, progress: RunProgress, count: int):
        super().__init__(bar, progress)
        self.workers = f"{count} worker{'s' * (count > 1)}"
        self.began: float | None = None

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Move on."""
        super().on_rows(k, clusters, x0)
        if self.began is None:
            self.began = time.monotonic()
            return
        rate = self.progress.rows / max(time.monotonic() - self.began, 1e-3)
        times = self.progress.times()
        end = time.strftime(", until %H:%M", time.localtime(time.time() + times.left)) if times.left else ""
        said = f"{left_in_words(times)}{end}, {rate:.3g} rows/s, {self.workers}"
        self.bar.set_postfix_str(said, refresh=False)


class KeptBranches(BranchLatents):
    """Branches' small latents, kept in the set's folder until it is finished: a run that goes on has them for its tree.

    Parameters
    ----------
    plan : Plan
        Of the run.
    folder : Path
        Of what was evaluated.
    name : str
        Of the set.
    tell : callable
        ``tell(text)`` is given what a user should know.

    Attributes
    ----------
    ends : list of (C_k,) bool arrays
        Clusters of each step at which a branch ends.
    """

    def __init__(self, plan: Plan, folder: Path, name: str, tell: Callable[[str], Any]):
        super().__init__(plan)
        self.plan, self.folder, self.name, self.tell = plan, folder, name, tell
        self.ends = [np.zeros(step.num_clusters, dtype=bool) for step in plan.steps]
        for branch in plan.branches:
            self.ends[branch.stop - 1][branch.cluster] = True
        self._kept: set[int] = set()
        self._files = 0
        for path in sorted(folder.glob(f"{name}.branches-*.safetensors")):
            self._read(path)

    @property
    def covered(self) -> np.ndarray:
        """Prompts, (N,) bool, all of whose branches are known."""
        found = np.ones(self.plan.num_prompts, dtype=bool)
        for branch, latent in zip(self.plan.branches, self.latents, strict=True):
            if latent is None:
                found[branch.members] = False
        return found

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Keep the rows of branches that end at step k; where none does, there is no `x0`."""
        if x0 is not None:
            super().on_rows(k, clusters, x0)

    def keep(self) -> None:
        """Write what is new."""
        from safetensors.torch import save

        new = [i for i, latent in enumerate(self.latents) if latent is not None and i not in self._kept]
        if not new:
            return
        rows = {"branches": torch.tensor(new), "latents": self.stacked(new).contiguous()}
        path = self._free()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            whole_files.replace(path, save(rows, {"digest": digest_of(list(rows.values()))}))
        except OSError as error:
            if not self._kept:
                self.tell(f"latents of branches are not kept ({error.strerror or error}); the run goes on")
        self._kept.update(new)

    def _free(self) -> Path:
        while True:
            path = self.folder / f"{self.name}.branches-{self._files:05d}.safetensors"
            self._files += 1
            if not path.exists():
                return path

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                rows = [file.get_tensor(name) for name in ("branches", "latents")]
                said = (file.metadata() or {}).get("digest")
            places: Sequence[int] = rows[0].tolist()
            if said != digest_of(rows) or rows[1].ndim != 4 or len(places) != len(rows[1]):
                raise ValueError("its numbers are not those that were written")
            if not all(0 <= i < len(self.latents) for i in places):
                raise ValueError("it is of another plan")
        except (OSError, ValueError, SafetensorError) as error:
            self.tell(f"{path.name} cannot be used ({str(error)[:200]}): its branches are drawn again")
            return
        for i, latent in zip(places, rows[1], strict=True):
            self.latents[i] = latent
        self._kept.update(places)
