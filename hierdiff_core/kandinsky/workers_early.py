"""Workers that are started before it is known what they are to draw: while prompts are embedded, clustered, planned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..sampling.executor import Executor, Workers
from .acceleration import ACCELERATIONS

ENTRY = "kandinsky.workers_process:make_ready_early"


class EarlyWorkers:
    """Workers of Ray that start in the background; a context manager, which ends whatever was started.

    Parameters
    ----------
    workers : Workers
        How many, and where.
    folder : str or Path
        Of the decoder, by the same name on each machine.
    device : str
        "cuda" or "cpu", of the workers.
    dtype : torch.dtype, optional
        Of the decoder; by default float32 on a CPU and float16 elsewhere.
    tell : callable, optional
        ``tell(text)`` is given what a user should know.
    scheduler, width, height, micro_batch, acceleration : str, int, int, int, str
        As of `sample_on`: workers prepare such calls, for as long as nothing is to be drawn.

    Examples
    --------
    Where Ray and two GPUs are::

        with EarlyWorkers(Workers(2), folder, "cuda") as early:
            early.start()
            embeddings, plan = ...  # takes a while
            latents = sample_on(early.ready(), decoder, embeddings, plan)
    """

    def __init__(
        self,
        workers: Workers,
        folder: str | Path,
        device: str,
        dtype: torch.dtype | None = None,
        tell: Callable[[str], Any] | None = None,
        *,
        scheduler: str = "DDPM",
        width: int = 512,
        height: int = 512,
        micro_batch: int = 0,
        acceleration: str = ACCELERATIONS[0],
    ):
        self.workers, self.device, self.tell = workers, device.partition(":")[0], tell
        known = torch.float32 if self.device == "cpu" else torch.float16
        self.setup = {
            "folder": str(folder),
            "dtype": str(dtype or known).removeprefix("torch."),
            "device": self.device,
            "threads": torch.get_num_threads(),
            "scheduler": scheduler,
            "width": width,
            "height": height,
            "micro_batch": micro_batch,
            "acceleration": acceleration,
        }
        self._thread: threading.Thread | None = None
        self._there, self._done = threading.Event(), threading.Event()
        self._executor: Any = None
        self._error: BaseException | None = None

    def __enter__(self) -> EarlyWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin, in a thread; nothing is waited for."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="HierDiff workers", daemon=True)
            self._thread.start()

    def ready(self) -> Executor:
        """The executor, which is begun if it was not; its workers may still be loading.

        Raises
        ------
        ValueError
            If Ray is missing or does not start, or there are too few GPUs.
        """
        self.start()
        self._there.wait()
        if self._error is not None:
            raise self._error
        return self._executor

    def close(self) -> None:
        """End the workers, and Ray where it was started for them."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        """Have an executor until it is not wanted any more, in one thread: what Ray has started ends with that."""
        from ..sampling import ray_executor

        try:
            with ray_executor.RayExecutor(self.workers, self.device, self.tell) as self._executor:
                if not self._done.is_set():
                    self._executor.early(ENTRY, self.setup)
                self._there.set()
                self._done.wait()
        except BaseException as error:  # it is raised where the workers are wanted
            self._error = error
        finally:
            self._there.set()
