"""A hint image for each prompt: the ControlNets of a call, with the images of its rows.

The host gives the hints of a batch to the rows of a call in their order, and keeps them from call to call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

HINT, EXTRA, PREPARED = "cond_hint_original", "extra_concat_orig", "cond_hint"
CLONES = "multigpu_clones"  # of newer hosts: for each of several GPUs one with the same hints


def chain_of(control: Any) -> Iterator[Any]:
    """A ControlNet and those that were applied before it."""
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def hints_of(control: Any) -> list[torch.Tensor]:
    """A ControlNet's hint images, and the masks or latents that some take beside them.

    None where its VAE makes one video of the images: that is for all prompts.
    """
    if getattr(getattr(control, "vae", None), "latent_dim", 2) == 3:
        return []
    hints = [getattr(control, HINT, None), *(getattr(control, EXTRA, None) or ())]
    return [hint for hint in hints if torch.is_tensor(hint)]


def check_control(control: Any, side: str, num_prompts: int) -> None:
    """Refuse a batch of hint images that is neither for all prompts nor for each.

    Raises
    ------
    ValueError
        Naming the side of the conditioning and the number of images.
    """
    for each in chain_of(control):
        for hint in hints_of(each):
            if hint.shape[0] not in (1, num_prompts):
                raise ValueError(
                    f"a ControlNet of the {side} conditioning has a batch of {hint.shape[0]} hint images, but the plan "
                    f"is for {num_prompts} prompts; give it one image for all, or one for each in their order"
                )


def with_hints(control: Any, take: Callable[[Any], Any]) -> Any:
    """A copy of a ControlNet, and of those before it, with other hints: ``take(hint) -> hint``.

    It shares the weights, and whatever the host has set up for a run. ControlNets have a `copy` of their own, which
    knows nothing of the run; some would load their weights anew.
    """
    if control is None:
        return None
    made = copy.copy(control)
    made.previous_controlnet = with_hints(getattr(control, "previous_controlnet", None), take)
    setattr(made, HINT, take(getattr(control, HINT, None)))
    setattr(made, EXTRA, [take(each) for each in getattr(control, EXTRA, None) or ()])
    setattr(made, PREPARED, None)
    clones = getattr(control, CLONES, None)
    if clones:
        setattr(made, CLONES, {device: with_hints(clone, take) for device, clone in clones.items()})
    return made


class ControlRows:
    """ControlNets with the hints of some prompts.

    Parameters
    ----------
    num_prompts : int

    Notes
    -----
    A copy lives until the clusters split, that of a single prompt until the run ends: it keeps its prepared hints. The
    host cleans up the original.
    """

    def __init__(self, num_prompts: int):
        self.num_prompts = num_prompts
        self._copies: dict[tuple, tuple] = {}  # by identity and prompts, with the original, so that it lives

    def of(self, entries: list[dict] | None, prompts: Iterable[int]) -> list[dict] | None:
        """One side of the conditioning, whose ControlNets have the hints of these prompts."""
        prompts = tuple(int(prompt) for prompt in prompts)
        return entries and [self._with_rows(entry, prompts) for entry in entries]

    def forget_batches(self, _: Any = None) -> None:
        """Let go of the hints of calls that will not come again; those of single prompts stay."""
        self._copies = {key: kept for key, kept in self._copies.items() if len(key[1]) == 1}

    def _with_rows(self, entry, prompts):
        control = entry.get("control")
        many = any(len(hint) == self.num_prompts > 1 for each in chain_of(control) for hint in hints_of(each))
        if not many or prompts == tuple(range(self.num_prompts)):
            return entry  # the host gives them to the rows in order

        def take(hint):
            return hint[list(prompts)] if torch.is_tensor(hint) and len(hint) == self.num_prompts else hint

        if (id(control), prompts) not in self._copies:
            self._copies[id(control), prompts] = control, with_hints(control, take)
        return {**entry, "control": self._copies[id(control), prompts][1]}
