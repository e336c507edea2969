"""Each call of the model with what its prompts have of their own: hint images, and the entries that are for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from .cond_rows import APPLIES, sliced_cond
from .control_rows import ControlRows
from .partial_entries import applying


class OwnRows:
    """Evaluates rows of which each stands for a prompt.

    Parameters
    ----------
    num_prompts : int
    """

    def __init__(self, num_prompts: int):
        self.controls = ControlRows(num_prompts)

    def evaluate(
        self,
        execute: Callable[[list, torch.Tensor, torch.Tensor], list[torch.Tensor]],
        conds: list[list[dict] | None],
        x: torch.Tensor,
        timestep: torch.Tensor,
        prompts: np.ndarray,
    ) -> torch.Tensor:
        """(rows, sides, ...): what ``execute(conds, x, timestep)`` gives for each side.

        Parameters
        ----------
        execute : callable
            One evaluation of the host's, with the entries of each side.
        conds : list of list of dict
            With the rows of this call; a side may be None.
        x, timestep : (rows, ...) tensor
            What is evaluated.
        prompts : (rows,) int64
            Whose hints and entries the rows take.
        """
        if not any(APPLIES in entry for entries in conds for entry in entries or ()):
            return self._of_prompts(execute, conds, x, timestep, prompts)
        groups = defaultdict(list)  # rows by their entries: the host takes those of a call together
        for row, prompt in enumerate(prompts.tolist()):
            groups[tuple(applying(entries, prompt) for entries in conds)].append(row)
        output = None
        for which, rows in groups.items():
            own = [
                entries
                and [sliced_cond(entry, rows, len(x)) for entry, here in zip(entries, side, strict=True) if here]
                for entries, side in zip(conds, which, strict=True)
            ]
            part = self._of_prompts(execute, own, x[rows], timestep[rows], prompts[rows])
            output = part.new_empty((len(x), *part.shape[1:])) if output is None else output
            output[rows] = part
        assert output is not None
        return output

    def _of_prompts(self, execute, conds, x, timestep, prompts):
        conds = [self.controls.of(entries, tuple(prompts.tolist())) for entries in conds]
        return torch.stack(execute(conds, x, timestep), dim=1)
