"""What only decorates a run, such as pictures, previews and reports: where it fails, the run goes on."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import torch

from . import results
from . import ui as showing
from .runs import running

LIVE_TREE = "the live tree"
BLANK_SIDE = 64


class Decorations:
    """Runs what only decorates, and keeps its errors from a run's results.

    Attributes
    ----------
    notes : list of str
        A warning for each thing that failed, for the node's text.
    """

    def __init__(self) -> None:
        self.notes = []
        self.failed = set()

    def attempt(self, what: str, function: Callable[..., Any], *args: Any, otherwise: Any = None, **kwargs: Any) -> Any:
        """What a function returns, or `otherwise` where it fails; what has failed is not tried again.

        Parameters
        ----------
        what : str
            Names it, in the log and in the note.
        function : callable
            ``function(*args, **kwargs)``.
        *args : any
            For the function.
        otherwise : any
        **kwargs : any
            For the function.

        Raises
        ------
        InterruptProcessingException
            The host's interruption; and whatever is no `Exception`.
        """
        if what in self.failed:
            return otherwise
        try:
            return function(*args, **kwargs)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:
            self.failed.add(what)
            logging.exception("HierDiff: %s failed; the run goes on without it", what)
            message = (str(error).splitlines() or [""])[0][:200]
            self.notes.append(
                f"⚠ {what} failed ({type(error).__name__}: {message}); the result is not affected, the log says more"
            )
        return otherwise

    @contextlib.contextmanager
    def context(self, what: str, make: Callable[[], Any]) -> Iterator[Any]:
        """What the context manager from ``make()`` yields, or None where that fails."""
        manager, entered = self.attempt(what, make), None
        if manager is not None:
            entered = self.attempt(what, manager.__enter__)
        if manager is None or entered is None:
            yield None
            return
        end = f"the end of {what}"  # tried even where something before it has failed
        try:
            yield entered
        except BaseException:
            self.attempt(end, manager.__exit__, *sys.exc_info())
            raise
        self.attempt(end, manager.__exit__, None, None, None)

    def picture(self, what: str, draw: Callable[..., Any], *args: Any) -> torch.Tensor:
        """IMAGE of the PIL picture that a function draws; a small blank one where it fails."""
        image = self.attempt(what, lambda: showing.image_tensor(draw(*args)))
        return blank_image() if image is None else image

    def show(self, cls: Any, text: str, image: Any = None, **extra: Any) -> dict[str, Any]:
        """`ui` of a node as `show` gives it, with the notes below the text; without the picture where that fails."""
        ui = self.attempt("showing the result", showing.show, cls, self.noted(text), image, **extra)
        return {"text": (self.noted(text),), **extra} if ui is None else ui

    def noted(self, text: str) -> str:
        """A text and the notes, one a line."""
        return "\n".join([text, *self.notes])


def warn_running_node(text: str) -> None:
    """Log the warnings of a text, and show them in the node that runs, which is not ours."""
    warnings = logged_warnings(text)
    if warnings:
        hidden = SimpleNamespace(unique_id=running()[1])
        Decorations().attempt("showing a warning", showing.tell, SimpleNamespace(hidden=hidden), "\n".join(warnings))


def report_in_running_node(text: str, **data: Any) -> None:
    """Show a report in the node that runs, whoever's it is, with data for the page, and log its warnings."""
    logged_warnings(text)
    Decorations().attempt("showing the report", results.say, text, "done", True, **data)


def logged_warnings(text: str) -> list[str]:
    """The lines of a text that are warnings; they go to the log."""
    warnings = [line for line in text.splitlines() if line.startswith("⚠")]
    for line in warnings:
        logging.warning("HierDiff: %s", line[1:].strip())
    return warnings


def blank_image() -> torch.Tensor:
    """IMAGE of one grey picture, in place of one that could not be drawn."""
    return torch.full((1, BLANK_SIDE, BLANK_SIDE, 3), 0.5)
