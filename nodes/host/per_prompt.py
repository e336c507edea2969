"""What a prompt has of its own beside its text: a start latent, masks, ControlNet images, entries with hooks.

Texts that differ are what sharing averages; of these there is no mean. Prompts share steps while all of them are
equal, or a cluster uses its first prompt's, as the user chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...hierdiff_core.plan.matching import check_no_shard, crossed, refined, separated
from .cond_rows import APPLIES, PICTURES, has_no_mean, tensors_with_rows
from .control_rows import chain_of, hints_of
from .prompt_vectors import digest

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan

SHARE_IF_EQUAL, FIRST_PROMPTS = "share only if equal", "first prompt's while shared"
START = "start latents"
CHOICES = [SHARE_IF_EQUAL, FIRST_PROMPTS]


class OwnInput(NamedTuple):
    """An input that is not the same for all prompts.

    name : str              in words, in the plural
    groups : (N,) int64     equal where the input is
    """

    name: str
    groups: np.ndarray


def own_inputs(conds: dict[str, list[dict]], tensors: dict[str, Any], num_prompts: int) -> list[OwnInput]:
    """Inputs with a row for each prompt of which some differ.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them.
    tensors : dict of tensor
        Other rows by name, such as the latents to begin with; None for what there is not.
    num_prompts : int

    Returns
    -------
    inputs : list of OwnInput
        Empty where only texts differ.
    """
    named = [*tensors.items(), *(found for side, entries in conds.items() for found in _rows_of(side, entries))]
    inputs = []
    for name, rows in named:
        if torch.is_tensor(rows) and rows.ndim and len(rows) == num_prompts > 1:
            groups = equal_rows(rows)
            if groups.any():
                inputs.append(OwnInput(name, groups))
    return inputs


def _rows_of(side: str, entries: Iterable[dict]) -> Iterator[tuple[str, Any]]:
    for entry in entries:
        yield f"{side} conditionings", entry.get(APPLIES)
        for control in chain_of(entry.get("control")):
            for hint in hints_of(control):
                yield f"ControlNet images of the {side} conditioning", hint
        for key, value in entry.items():
            if key == APPLIES:
                continue
            for rows in _tensors_of(value, key in PICTURES):
                if key == "mask":
                    yield f"masks of the {side} conditioning", rows
                elif has_no_mean(key, rows):
                    yield f"{key} of the {side} conditioning", rows


def _tensors_of(value: Any, is_output: bool) -> list[torch.Tensor]:
    """A value's tensors: itself, those of a list, or those of what a vision model of the host gives."""
    values = [value, *(value if isinstance(value, (list, tuple)) else ())]
    values += getattr(value, "__dict__", {}).values() if is_output else ()
    return [each for each in values if torch.is_tensor(each)]


def equal_rows(rows: torch.Tensor) -> np.ndarray:
    """(N,) int64 from (N, ...): the first row that each is bit-identical with."""
    found: dict[bytes, int] = {}
    return np.array([found.setdefault(digest(row), i) for i, row in enumerate(rows)], dtype=np.int64)


def groups_of(inputs: Sequence[OwnInput], num_prompts: int) -> np.ndarray:
    """(N,) int64, equal for prompts that have all inputs in common."""
    groups = np.zeros(num_prompts, dtype=np.int64)
    for each in inputs:
        groups = crossed(groups, each.groups)
    return groups


def equal_inputs(conds: dict[str, list[dict]], own: Sequence[OwnInput], num_prompts: int) -> np.ndarray:
    """(N,) int64, equal for prompts that have conditioning and all other inputs in common."""
    groups = groups_of(own, num_prompts)
    for rows in tensors_with_rows(conds, [], num_prompts):
        groups = crossed(groups, equal_rows(rows))
    return groups


class Plans(NamedTuple):
    """The plan of a run, before and after it was refined.

    cut : as the tree is cut for the run
    known : with prompts of equal embeddings apart, whose pictures must differ, where the threshold is 0
    run : with prompts apart that have inputs of their own
    telling : inputs by which the prompts' pictures differ: not all, where clusters use their first prompt's
    parting : those by which it was refined
    goes_on : whether no noise is added: the latents are those of a run that was begun
    """

    cut: Plan
    known: Plan
    run: Plan
    telling: list[OwnInput]
    parting: list[OwnInput]
    goes_on: bool

    @classmethod
    def of(
        cls,
        plan: Plan,
        groups: np.ndarray,
        own: list[OwnInput],
        first_step: int = 0,
        takes_first: bool = False,
        goes_on: bool = False,
    ) -> Plans:
        """Those of a plan.

        Parameters
        ----------
        plan : Plan
            For the run.
        groups : (N,) int64
            Of prompts whose pictures are equal, by their conditioning.
        own : list of OwnInput
            All that differ.
        first_step : int
            Of the run. Where its clusters have their inputs in common, the plan stays as it is.
        takes_first : bool
            Clusters use their first prompt's inputs. Not its latent where a run goes on: it has parted from the others.
        goes_on : bool
            Whether no noise is added.

        Raises
        ------
        ValueError
            If the plan is a shard, and prompts have inputs of their own.
        """
        if own:
            check_no_shard(plan, " and ".join(dict.fromkeys(each.name for each in own)))
        parting = [each for each in own if not takes_first or (goes_on and each.name == START)]
        telling = parting if takes_first else own
        known = separated(plan, crossed(groups, groups_of(own, plan.num_prompts)))
        step = known.steps[first_step]
        parting = [each for each in parting if (each.groups != each.groups[step.first][step.labels]).any()]
        return cls(plan, known, refined(known, groups_of(parting, plan.num_prompts)), telling, parting, goes_on)


def parted_by(plans: Plans, steps: slice) -> list[str]:
    """A warning where some steps of a run share less than the plan, since prompts have inputs of their own."""
    planned, spent = (int(each.clusters_per_step[steps].sum()) for each in (plans.known, plans.run))
    if spent == planned:
        return []
    names = list(dict.fromkeys(each.name for each in plans.parting))
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    nothing = spent == plans.run.num_distinct * len(plans.run.clusters_per_step[steps])
    said = (
        f"⚠ {listed} differ between prompts that the plan lets share, so {'none' if nothing else 'fewer'} share: "
        f"{spent} model rows a pass instead of {planned}"
    )
    if names == [START] and plans.goes_on:
        return [f"{said}. They come from a run that parted them"]
    first = " (they then start from that prompt's latent)" if START in names else ""
    return [f'{said}. To share as planned, set per_prompt_inputs to "{FIRST_PROMPTS}"{first}']
