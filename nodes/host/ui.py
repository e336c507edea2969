"""What a node shows of its result: text and pictures in the graph, progress while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import ui
from PIL import Image

from ...hierdiff_core.devices import AsyncHostCopy
from ...hierdiff_core.previews import preview_grid
from .results import say

if TYPE_CHECKING:
    from PIL import Image

    from ...hierdiff_core.plan.plan import Plan
    from .models import LoadedModel

PREVIEW_SIZE = 512
SECONDS_BETWEEN_PREVIEWS = 0.3
FINAL_PREVIEW_SIZE = 1024
LONGEST_LIST = 40
NEXT_TO_NOTHING = 1e-4
HOSTS_CALLBACK = "latent_preview", "prepare_callback.<locals>.callback"


def image_tensor(picture: Image.Image) -> torch.Tensor:
    """PIL picture -> ComfyUI IMAGE, (1, H, W, 3) float32 in 0 ... 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def show(cls: Any, text: str, image: torch.Tensor | list[torch.Tensor] | None = None, **extra: Any) -> dict[str, Any]:
    """`ui` of a node: `text` in the node and in the history, and a picture below it.

    Parameters
    ----------
    cls : the running node class
    text : str
        Plain text; lines that begin with "⚠ " are warnings, which the page shows first.
    image : (B, H, W, 3) tensor or None
    **extra : lists
        More entries for the history.
    """
    say(text, "done", **{name: value for name, value in extra.items() if name.startswith("hierdiff_")})
    pictures = ui.PreviewImage(image, cls=cls).as_dict() if image is not None else {}
    return {**pictures, "text": (text,), **extra}


def tell(cls: Any, text: str) -> None:
    """Show `text` in a node while it runs."""
    say(text)


@contextlib.contextmanager
def telling(cls: Any, text: str) -> Iterator[None]:
    """Show `text` in a node while something takes its time, and nothing afterwards."""
    tell(cls, text)
    try:
        yield
    finally:
        say("", "done")


def numbered(lines: Sequence[str]) -> str:
    """Lines with numbers from 0, cut after `LONGEST_LIST`."""
    shown = [f"{i}  {line}" for i, line in enumerate(lines[:LONGEST_LIST])]
    more = len(lines) - LONGEST_LIST
    return "\n".join(shown + ([f"… and {more} more"] if more > 0 else []))


def unsuitable(model: LoadedModel, **settings: float) -> list[str]:
    """Warnings, one a line, for settings outside of what suits a model; nothing is changed."""
    lines = []
    for name, value in settings.items():
        low, _, high = model.suitable.get(name, (value, value, value))
        if not low <= value <= high:
            wanted = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            lines.append(f"⚠ {name} {value:g} does not suit {model.name}: use {wanted}")
    return lines


def distortion(plan: Plan) -> list[str]:
    """Lines on what sharing is expected to change, for a plan that knows the model's sensitivity."""
    if plan.distortion is None or plan.sensitivity is None or plan.merge_errors is None:
        return []
    line = plan.straight_line()
    greatest = float(plan.sensitivity.weights(plan.num_steps).sum() * plan.merge_errors.sum() / plan.num_distinct)
    share = plan.distortion / greatest if greatest else 0.0
    unit = "per picture (mean squared change of the latent)"
    lines = [
        f"by the sensitivity, sharing changes {amount(share)} of what one picture for all prompts would change",
        f"expected distortion {plan.distortion:.3g} {unit}",
    ]
    if plan.distortion > 0 and line.distortion is not None:
        times = line.distortion / plan.distortion
        lines.append(f"the straight line with {line.nfe} rows: {line.distortion:.3g}, {times:.2g} times as much")
    return lines


def amount(share: float) -> str:
    """A share, 0 ... 1, in words that tell what is next to nothing."""
    return "next to nothing" if share < NEXT_TO_NOTHING else f"{share:.2%}" if share < 0.1 else f"{share:.0%}"


def moves_bar(callback: Callable) -> bool:
    """Whether a callback of each step is the host's own, whose numbers of steps are for its progress bar alone."""
    if getattr(callback, "moves_bar", False):  # ours, around the host's
        return True
    return (getattr(callback, "__module__", None), getattr(callback, "__qualname__", None)) == HOSTS_CALLBACK


class Progress:
    """The node's progress bar; stops the run when the user cancels."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.value = 0
        self.bar = comfy.utils.ProgressBar(total)
        self._last_preview = 0.0
        self._arriving: AsyncHostCopy | None = None

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def advance(self, amount: int, colours: Callable[[], torch.Tensor] | None = None) -> None:
        """Move on by `amount`.

        Parameters
        ----------
        amount : float
            In the unit of `total`.
        colours : callable, optional
            ``colours() -> (B, h, w, 3) uint8 tensor`` on any device, called when a new preview is due. It is drawn when
            it is there: from a busy GPU by the next call of `advance`.
        """
        self.check_cancelled()
        self.value = min(self.value + amount, self.total)
        preview = self.drawn()
        now, last = time.monotonic(), self.value == self.total
        if colours and (last or now - self._last_preview > SECONDS_BETWEEN_PREVIEWS):
            self._arriving = AsyncHostCopy(preview_grid(colours(), PREVIEW_SIZE))
            self._last_preview = now
            if last or self._arriving.here:
                preview = self.drawn()
        self.bar.update_absolute(self.value, self.total, preview)

    def drawn(self) -> Any:
        """The preview that was due, for the host's progress bar, or None."""
        if self._arriving is None:
            return None
        grid = Image.fromarray(self._arriving.wait().numpy())
        self._arriving = None
        return "JPEG", grid, PREVIEW_SIZE

    def finish(self, picture: Image.Image | None) -> None:
        """Leave a PIL picture in the node: the front end goes on showing the last preview."""
        self.bar.update_absolute(self.total, self.total, ("JPEG", picture, FINAL_PREVIEW_SIZE))
