"""What is heard of a run that draws one group of its prompts after another: by its progress, its tree, and the host.

Legend: N prompts of the run, P of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...hierdiff_core.sampling.observer import Observer
from ...hierdiff_core.sampling.progress import RunProgress
from .decoration import LIVE_TREE
from .device import stop_if_cancelled
from .ui import moves_bar

if TYPE_CHECKING:
    from .group_runs import Group
    from .sharing_run import SharingRun


class GroupProgress(RunProgress):
    """Counts the calls of a group in the progress of the whole run, but for rows that an earlier group has evaluated.

    Parameters
    ----------
    group : Group
    whole : RunProgress
        Of the run.
    """

    def __init__(self, group: Group, whole: RunProgress):
        super().__init__(group.part.plan)
        self.whole = whole
        pairs = zip(group.labels, group.before, strict=True)
        self._again = [len(before.intersection(labels.tolist())) for labels, before in pairs]
        self._call: tuple[int, int] | None = None  # step and rows of the call that is under way
        self._found = 0  # of its rows, in a store

    def on_call(self, k: int, rows: int) -> None:
        """Note a call: of its rows some were evaluated by groups before this one."""
        self._call, self._found = (k, rows), 0
        self.rows += rows

    def on_reused(self, rows: int) -> None:
        """Note rows of the call that a store had."""
        self._found += rows

    def on_evaluated(self) -> None:
        """Count the call."""
        if self._call is None:
            return
        (k, rows), again = self._call, self._again[self._call[0]]
        self._call = None
        self.whole.on_reused(max(self._found - again, 0))
        self.whole.on_rows(k, range(rows - min(self._found, again)))

    def expect(self, steps: Sequence[int]) -> None:
        """Note the steps of all calls: each group makes the same."""
        self.whole.expect(steps)

    @property
    def work(self) -> tuple[float, float]:
        """That of the whole run."""
        return self.whole.work


class ShownPart(Observer):
    """Shows in the tree of the whole run what a group draws, but for what an earlier one has.

    Parameters
    ----------
    run : SharingRun
        The whole.
    own : SharingRun
        Of the group.
    group : Group
    """

    def __init__(self, run: SharingRun, own: SharingRun, group: Group):
        self.run, self.own, self.group = run, own, group
        self._next = own.current.first_step

    def before_call(self) -> None:
        """Raise the host's interruption if there is one."""
        stop_if_cancelled()

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Show a step, and those before it that the sampler did not tell of."""
        steps = self.group.part.plan.steps
        for j in range(self._next, k + 1):
            labels, rows = self.group.labels[j][steps[j].first], steps[k].labels[steps[j].first]
            new = [c for c in np.argsort(labels).tolist() if int(labels[c]) not in self.group.before[j]]
            if new:
                self.run.tell_rows(j, labels[new], x0[torch.from_numpy(rows[new]).to(x0.device)])
        self._next = max(self._next, k + 1)

    def end(self, model: Any, samples: torch.Tensor) -> None:
        """Show what came after the last step that was told."""
        k = self.own.current.last_step
        if self.run.is_shown and self._next <= k:
            first = self.group.part.plan.steps[k].first
            latents = model.process_latent_in(samples[torch.from_numpy(first).to(samples.device)])
            self.run.decorations.attempt(LIVE_TREE, self.on_rows, k, np.arange(len(first)), latents)


class AllRows:
    """A host's callback of each step, which is told of one group after another, and gets rows of all prompts.

    Parameters
    ----------
    num_prompts : int
    callback : callable or None

    Attributes
    ----------
    prompts : (P,) int64
        Of the group that is being drawn. Prompts of groups that have not begun have the first row of the first one.
    """

    def __init__(self, num_prompts: int, callback: Callable | None):
        self.num_prompts, self.callback = num_prompts, callback
        self.prompts = np.arange(0)
        self.moves_bar = callback is not None and moves_bar(callback)
        self._rows: dict[str, torch.Tensor] = {}

    def __call__(self, step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        """Tell the host of a step of the group."""
        if self.callback is not None:
            self.callback(step, self._all("x0", x0), self._all("x", x), total_steps)

    def _all(self, name, rows):
        if rows is None:
            return None
        if name not in self._rows:
            self._rows[name] = rows[:1].repeat(self.num_prompts, *[1] * (rows.ndim - 1))
        whole = self._rows[name].clone()  # the host may keep what it was told before
        whole[torch.from_numpy(self.prompts).to(rows.device)] = rows
        self._rows[name] = whole
        return whole
