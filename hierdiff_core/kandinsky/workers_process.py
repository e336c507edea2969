"""A worker of `sample_on`: draws parts of a plan with a decoder of its own, and what it finished with its pictures."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..devices import AsyncHostCopy, free_memory
from ..files.picture_marks import as_png, mark_of
from ..files.whole_files import write_new
from ..plan.part import Part
from ..plan.unconditional import families_of_part, shares_rows
from ..previews import LARGEST_KEPT, shrunk, to_pictures
from ..sampling.executor_plain import part_of, plain_state, state_of, to_tensor
from ..sampling.finite import rows_not_finite
from ..sampling.loop import denoise_part
from ..sampling.microbatch import MicroBatches
from ..sampling.noise import BranchNoise, keyed_noise
from ..sampling.observer import Observer
from ..sampling.plan_numbers import PlanNumbers
from ..sampling.pooling import cluster_means, rescaled_means
from .acceleration import graph_sizes, unet_calls
from .call_memory import rows_per_call
from .call_sizes import PaddedCalls, steady_sizes
from .decoder import LEAST_PART
from .decoder_step import DecoderStep
from .decoding import decode
from .fingerprint import decoder_fingerprint
from .loading import load_decoder
from .model_folder import title
from .schedulers import make_scheduler

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

Tell = Callable[[Any], None]
ROOM = 20 * 2**30  # free bytes of a card, from which on it holds the decoder while a prior may be at work on it, too
CALLS = 4  # of a size that is prepared: with the third a graph is recorded of it, where graphs are
_loaded: dict[tuple[str, str, str], Any] = {}  # the decoder of this process
_loading = threading.Lock()
_wanted = threading.Event()  # a run begins: nothing more is prepared for it


def make_worker(setup: dict[str, Any]) -> DecoderWorker:
    """Make a worker in a process that is a worker and nothing else.

    Parameters
    ----------
    setup : dict
        From `workers_run.run_of`.

    Returns
    -------
    worker : DecoderWorker

    Raises
    ------
    ValueError
        If the decoder's folder is not here or holds other weights, or the set's folder is not seen from here.
    """
    check_shared(setup["pictures"])
    _wanted.set()
    with _loading:
        decoder = loaded(setup).to(setup["device"])
    if decoder_fingerprint(decoder) != setup["fingerprint"]:
        raise ValueError(
            f"{title(setup['folder'])} holds another decoder here than on the machine that draws; copy the same folder "
            "to each machine"
        )
    return DecoderWorker(decoder, setup)


def loaded(setup: dict[str, Any]) -> Any:
    """The decoder of this process, in main memory if it was not there before; a CPU works with so many threads."""
    if setup["device"] == "cpu":
        torch.set_num_threads(setup["threads"])
    key = (setup["folder"], setup["dtype"], setup["device"])
    if key not in _loaded:
        _loaded.clear()
        dtype: torch.dtype = getattr(torch, setup["dtype"])
        _loaded[key] = load_decoder(setup["folder"], dtype)
    return _loaded[key]


def make_ready_early(setup: dict[str, Any]) -> None:
    """Load the decoder before it is known what is to be drawn, and prepare calls for as long as it is not.

    Parameters
    ----------
    setup : dict
        From `workers_early.EarlyWorkers`.
    """
    with _loading:
        if _wanted.is_set():
            return
        decoder, device = loaded(setup), torch.device(setup["device"])
        if device.type != "cpu" and free_memory(device) > ROOM:
            prepare_calls(decoder.to(device), setup, _wanted.is_set)


@torch.no_grad()
def prepare_calls(decoder: KandinskyV22Pipeline, setup: dict[str, Any], enough: Callable[[], bool]) -> None:
    """Call the UNet in each size that runs call it in: libraries choose their kernels, and graphs are recorded.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        On its device.
    setup : dict
        As of `make_ready_early`.
    enough : callable
        Asked before each call whether to stop.
    """
    config, device = decoder.unet.config, decoder.unet.device
    side = [setup[name] // decoder.movq_scale_factor for name in ("height", "width")]
    latent = torch.zeros(1, config.in_channels, *side, device=device)
    network = unet_calls(decoder.unet, setup["acceleration"])
    limit = rows_per_call(decoder, latent, setup["micro_batch"], network.acceleration)
    made = make_scheduler(setup["scheduler"], decoder.scheduler.config, 2)
    t, given = made.timesteps.to(device)[0], torch.zeros(1, config.encoder_hid_dim, device=device)
    graphed = graph_sizes(side[0] * side[1])
    for size in reversed(steady_sizes(limit)):
        rows, means = (own.to(network.dtype).repeat(size, *[1] * (own.ndim - 1)) for own in (latent, given))
        for _ in range(CALLS if size in graphed else 1):
            if enough():
                return
            network(rows, t, means)


def check_shared(pictures: dict[str, Any] | None) -> None:
    """Refuse to write pictures into a folder that is another here: `ValueError`."""
    if pictures is None or pictures.get("folder") is None:
        return
    path = Path(pictures["folder"]) / pictures["token_file"]
    try:
        seen = path.read_text(encoding="utf-8")
    except OSError:
        seen = ""
    if seen != pictures["token"]:
        raise ValueError(
            f"{pictures['folder']} is not seen from here; add --collect, and pictures are sent to the machine that "
            "the command runs on"
        )


def kind_of(device: torch.device) -> str:
    """What a worker computes on: workers with the same are about equally fast."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU of {socket.gethostname()}"


class DecoderWorker:
    """Draws parts of one run.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        On its device.
    setup : dict
        From `workers_run.run_of`.

    Attributes
    ----------
    kind : str
        What it computes on.
    """

    def __init__(self, decoder: KandinskyV22Pipeline, setup: dict[str, Any]):
        self.decoder, self.setup, self.kind = decoder, setup, kind_of(decoder.unet.device)
        plan: Any = PlanNumbers(setup["plan"])
        self.noise = BranchNoise(keyed_noise(setup["seed"]), plan, [])
        self.network = unet_calls(decoder.unet, setup["acceleration"])
        self.pool = rescaled_means if setup["rescale_means"] else cluster_means

    @torch.no_grad()
    def __call__(self, task: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Draw a part.

        Parameters
        ----------
        task : dict
            From `workers_run.task_of`.
        tell : callable
            Told what was done: rows of a step, finished prompts.

        Returns
        -------
        end : dict
            What the parts below a head begin with; empty for others.
        """
        device = self.decoder.unet.device
        part, rows = part_of(task["part"]), to_tensor(task["rows"], device)
        embeddings = to_tensor(task["embeddings"], device)
        teller = Teller(tell, self.setup["ends"])
        made = make_scheduler(self.setup["scheduler"], self.decoder.scheduler.config, self.setup["num_steps"])
        limit = rows_per_call(self.decoder, rows, self.setup["micro_batch"], self.network.acceleration)
        families, network = None, self.network
        if shares_rows(device.type):
            families = families_of_part(self.setup["families"], part)
            network = PaddedCalls(network, steady_sizes(limit), most=1.0)
        settings = self.setup["guidance"], self.noise, MicroBatches(limit), teller
        step = DecoderStep(network, made, *settings, families=families)
        state = step.first if task["state"] is None else state_of(task["state"], device)
        if task["head"]:
            return self.head(part, rows, state, step, embeddings, teller)
        most = max(2 * limit, LEAST_PART)
        finished = denoise_part(part, rows, state, step, embeddings, pool=self.pool, most_rows=most)
        with Finishing(self.decoder, self.setup, task["marks"], teller) as finishing:
            for prompts, latents in finished:
                finishing.add(prompts, latents)
        return {}

    def head(
        self, part: Part, rows: torch.Tensor, state: Any, step: DecoderStep, embeddings: torch.Tensor, teller: Teller
    ) -> dict[str, Any]:
        """Latents and state after the steps of a head."""
        last = []

        def kept(*args: Any) -> tuple[torch.Tensor, Any]:
            last[:] = step(*args)
            return last[0], last[1]

        for _ in denoise_part(part, rows, state, kept, embeddings, pool=self.pool):
            pass
        teller.flush()
        return {"rows": last[0].cpu().numpy(), "state": plain_state(last[1])}


class Teller(Observer):
    """Tells the driver of rows; on a GPU a step later, so that nothing waits for it.

    Parameters
    ----------
    tell : callable
        From the executor.
    ends : list of (C_k,) bool arrays, or None
        Clusters whose clean latents are wanted: those of a step are told if one of them is. All when None.
    """

    def __init__(self, tell: Tell, ends: list[np.ndarray] | None):
        self.tell, self.ends = tell, ends
        self.waiting: list[tuple[int, np.ndarray, AsyncHostCopy | None]] = []

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Hear of a step."""
        wanted = self.ends is None or self.ends[k][clusters].any()
        before, self.waiting = self.waiting, []
        self.waiting.append((k, clusters, AsyncHostCopy(shrunk(x0, LARGEST_KEPT)) if wanted else None))
        self._tell(before)
        if x0.device.type == "cpu":
            self.flush()

    def flush(self) -> None:
        """Tell all that was heard."""
        waiting, self.waiting = self.waiting, []
        self._tell(waiting)

    def _tell(self, heard: list[tuple[int, np.ndarray, AsyncHostCopy | None]]) -> None:
        for k, clusters, copy in heard:
            self.tell({"k": k, "clusters": clusters, "x0": None if copy is None else copy.wait().numpy()})


class Finishing:
    """Decodes what is finished, writes its pictures or sends them, and says so; a context manager around a part.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    setup : dict
        From `workers_run.run_of`.
    marks : dict of int to dict
        Prompts of the part whose pictures are wanted, and what these say of themselves.
    teller : Teller
        Of the task.
    """

    def __init__(self, decoder: Any, setup: dict[str, Any], marks: dict[int, dict[str, Any]], teller: Teller):
        self.decoder, self.setup, self.marks, self.teller = decoder, setup, marks, teller
        self.jobs: list[Future[None]] = []

    def __enter__(self) -> Finishing:
        self.pool = ThreadPoolExecutor(1, "HierDiff pictures")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for job in self.jobs:
                job.result()

    def add(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Take prompts that are done."""
        self.teller.flush()  # what their rows were is heard before
        said: dict[str, Any] = {"prompts": prompts, "not_finite": prompts[rows_not_finite(latents)]}
        if self.setup["latents"]:
            said["latents"] = latents.cpu().numpy()
        wanted = [row for row, i in enumerate(prompts.tolist()) if i in self.marks]
        pixels = decode(self.decoder, latents[wanted]) if self.setup["pictures"] is not None and wanted else None
        self.jobs.append(self.pool.submit(self.finish, said, prompts[wanted], pixels))

    def finish(self, said: dict[str, Any], prompts: np.ndarray, pixels: torch.Tensor | None) -> None:
        """Write or send pictures, and say that their prompts are done."""
        if pixels is not None:
            said["pictures"] = prompts
            pictures, folder = to_pictures(pixels), self.setup["pictures"].get("folder")
            if folder is None:
                said["pixels"] = np.stack([np.asarray(picture) for picture in pictures])
            else:
                for i, picture in zip(prompts.tolist(), pictures, strict=True):
                    write_marked(Path(folder) / self.marks[i]["file"], picture, self.marks[i]["mark"])
        self.teller.tell(said)


def write_marked(path: Path, picture: Any, mark: dict[str, Any]) -> None:
    """Write a picture, unless a worker that died had written it; `FileExistsError` if another file has its name."""
    try:
        write_new(path, as_png(picture, mark))
    except FileExistsError:
        if mark_of(path) != mark:
            raise
