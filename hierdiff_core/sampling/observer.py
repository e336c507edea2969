"""What a run tells while it goes on: one object for progress, previews, the tree and finished pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


class Observer:
    """Hears of a run. Derive from it and override what you want to hear; an exception of any method stops the run.

    Its methods are called in the thread that samples, in the order: `before_call` before each evaluation of the model,
    `on_rows` when a step of some branches is done, `on_finished` when their prompts are.
    """

    def before_call(self) -> None:
        """Hear that the model is about to be evaluated. The place to stop a run that a user cancels."""

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Hear that step `k` of some branches is done, or that the device will be done with it.

        Parameters
        ----------
        k : int
            Denoising step.
        clusters : (C,) int64 array
            Which clusters of the plan's step `k` these are; all of them breadth first.
        x0 : (C, ...) tensor
            The clean latents that they are heading for, on the device.
        """

    def on_finished(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Hear that prompts are done: breadth first once, depth first as they come.

        Parameters
        ----------
        prompts : (M,) int64 array
            Their indices, ascending.
        latents : (M, ...) tensor
            Their final latents, on the device.
        """


class Observers(Observer):
    """Several observers as one, called in order."""

    def __init__(self, *observers: Observer):
        self.observers = observers

    def before_call(self) -> None:
        for observer in self.observers:
            observer.before_call()

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        for observer in self.observers:
            observer.on_rows(k, clusters, x0)

    def on_finished(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        for observer in self.observers:
            observer.on_finished(prompts, latents)
