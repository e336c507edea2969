"""What a run tells while it goes on: one object for progress, previews, the tree and finished pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


class Observer:
    """Hears of a run. Derive from it and override what you want to hear; an exception of any method stops the run.

    Its methods are called in the thread that samples, in the order: `on_stored` once, where a store is used;
    `before_call` before each evaluation of the model, `on_reused` where a store had rows of a step, `on_rows` when a
    step of some branches is done, `on_finished` when their prompts are.

    Examples
    --------
    >>> class Rows(Observer):
    ...     total = 0
    ...     def on_rows(self, k, clusters, x0):
    ...         self.total += len(clusters)
    >>> rows = Rows()
    >>> rows.on_rows(0, [0, 1], None)  # as a run calls it
    >>> rows.total
    2
    """

    def before_call(self) -> None:
        """Hear that the model is about to be evaluated. The place to stop a run that a user cancels."""

    def on_stored(self, rows: np.ndarray) -> None:
        """Hear, before the first step, how many rows of each step a store has.

        Parameters
        ----------
        rows : (K,) int64 array
            They are not evaluated again.
        """

    def on_reused(self, rows: int) -> None:
        """Hear that a store had some rows of the step that `on_rows` tells next.

        Parameters
        ----------
        rows : int
            How many.
        """

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
    """Several observers as one, called in order.

    Parameters
    ----------
    *observers : Observer
        Those that hear of the run.
    """

    def __init__(self, *observers: Observer):
        self.observers = observers

    def before_call(self) -> None:
        """Tell each of them."""
        for observer in self.observers:
            observer.before_call()

    def on_stored(self, rows: np.ndarray) -> None:
        """Tell each of them."""
        for observer in self.observers:
            observer.on_stored(rows)

    def on_reused(self, rows: int) -> None:
        """Tell each of them."""
        for observer in self.observers:
            observer.on_reused(rows)

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Tell each of them."""
        for observer in self.observers:
            observer.on_rows(k, clusters, x0)

    def on_finished(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Tell each of them."""
        for observer in self.observers:
            observer.on_finished(prompts, latents)


class Callbacks(Observer):
    """The older spelling of an observer: a function for each thing that a run tells.

    Parameters
    ----------
    on_step : callable, optional
        ``on_step(k, x0)`` after each step.
    before_call : callable, optional
        ``before_call()`` before each evaluation of the model.
    on_branches : callable, optional
        ``on_branches(k, clusters, x0)`` after each step, as `Observer.on_rows`.
    on_finished : callable, optional
        ``on_finished(prompts, latents)``, as `Observer.on_finished`.
    """

    def __init__(
        self,
        on_step: Callable[..., Any] | None = None,
        before_call: Callable[..., Any] | None = None,
        on_branches: Callable[..., Any] | None = None,
        on_finished: Callable[..., Any] | None = None,
    ):
        self.step, self.call, self.branches, self.finished = on_step, before_call, on_branches, on_finished

    def before_call(self) -> None:
        """Call `before_call`."""
        if self.call is not None:
            self.call()

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Call `on_step`, then `on_branches`."""
        if self.step is not None:
            self.step(k, x0)
        if self.branches is not None:
            self.branches(k, clusters, x0)

    def on_finished(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Call `on_finished`."""
        if self.finished is not None:
            self.finished(prompts, latents)


def with_callbacks(observer: Observer | None, **callbacks: Callable[..., Any] | None) -> Observer | None:
    """Join an observer and callbacks of the older spelling.

    Parameters
    ----------
    observer : Observer or None
        Called first.
    **callbacks : callable or None
        As for `Callbacks`.

    Returns
    -------
    Observer or None
        None where nobody listens.
    """
    if all(callback is None for callback in callbacks.values()):
        return observer
    older = Callbacks(**callbacks)
    return older if observer is None else Observers(observer, older)
