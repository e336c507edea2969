"""Rows of the host's conditioning: checked, averaged over clusters, sliced for micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...hierdiff_core.plan.matching import check_plan_prompts
from ...hierdiff_core.sampling.pooling import cluster_means
from .clusters import Clusters, rows_equal, rows_for_all
from .control_rows import check_control
from .prompt_vectors import digest
from .token_lengths import lengths_of, taken_lengths

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan

# In the values of a conditioning entry: the texts of its rows. The host hands on entries that it does not know.
PROMPTS = "hierdiff_prompts"
APPLIES = "hierdiff_applies"  # (N,) bool tensor: the prompts that an entry is for; without it, all
TEXTS = {"cross_attn", "c_crossattn", "pooled_output", "conditioning_llama3", "encoder_hidden_states_llama3"}
PICTURES = {"clip_vision_output", "clip_fea"}  # of an image, with as many dimensions as a text


def check_conds(conds: list[dict], name: str, num_prompts: int) -> None:
    """Refuse conditioning that has neither 1 row nor N.

    Parameters
    ----------
    conds : list of dict
        Entries of one side, as a guider keeps them.
    name : str
        The side, such as "positive" or "negative".
    num_prompts : int
        Of the plan, N.

    Raises
    ------
    ValueError
        Naming the side, what was found and what to do.
    """
    for entry in conds:
        for key in ("cross_attn", "pooled_output"):
            rows = entry.get(key)
            if torch.is_tensor(rows) and rows.shape[0] not in (1, num_prompts):
                raise ValueError(
                    f"the {name} conditioning has {rows.shape[0]} rows ({key}), but the plan is for {num_prompts} "
                    "prompts; make it with CLIP Embedding from the same prompts, or give one row for all"
                )
        mask = entry.get("mask")
        if torch.is_tensor(mask) and mask.ndim > 2:
            rows_for_all(mask, num_prompts, f"the mask of the {name} conditioning", "give one for all, or one for each")
        check_control(entry.get("control"), name, num_prompts)


def check_rows_differ(conds: dict[str, list[dict]], tensors: list, plan: Plan) -> None:
    """Refuse a run in which every picture would be the same.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them.
    tensors : list of tensor
        What the sampler starts from, and its mask or None.
    plan : Plan
        For N prompts.

    Raises
    ------
    ValueError
        If neither conditioning nor tensors differ from prompt to prompt, although the plan's prompts do.
    """
    given = tensors_with_rows(conds, tensors, plan.num_prompts)
    if plan.num_distinct == 1 or plan.rerolls or any(not torch.equal(rows, rows[:1].expand_as(rows)) for rows in given):
        return
    if any(lengths.differ for entries in conds.values() for entry in entries if (lengths := lengths_of(entry))):
        return
    many = tensors_with_rows(conds, [], plan.num_prompts)
    raise ValueError(
        f"the conditioning {'is the same for all' if many else 'has one row, but the plan is for'} {plan.num_prompts} "
        "prompts: all pictures would be the same; connect the conditioning of CLIP Embedding, made from the plan's "
        "prompts, in place of CLIP Text Encode's"
    )


def check_prompts(conds: list[dict], plan: Plan) -> None:
    """Refuse a positive conditioning whose prompts are known, and are not the plan's.

    Of several entries one must have the plan's prompts: others may add what they like to the pictures.
    """
    problem = None
    for prompts in prompts_of(conds, plan.num_prompts):
        try:
            check_plan_prompts(plan, prompts)
        except ValueError as error:
            problem = problem or error
        else:
            return
    if problem is not None:
        raise problem


def prompts_of(conds: list[dict], num_prompts: int) -> Iterator[tuple[str, ...]]:
    """The texts of each entry that knows them and still has a row for each."""
    for entry in conds:
        prompts, rows = entry.get(PROMPTS), entry.get("cross_attn")
        if prompts and torch.is_tensor(rows) and len(prompts) == len(rows) == num_prompts:
            yield prompts


def check_texts(positive: list, prompts: Sequence[str] | None, what: str) -> None:
    """Refuse a positive conditioning that is known to be of other prompts than something else.

    Parameters
    ----------
    positive : list
        The host's CONDITIONING.
    prompts : N str or None
        Of `what`; None where it knows no texts.
    what : str
        Names it.

    Raises
    ------
    ValueError
        Naming the first prompt that differs.
    """
    if prompts is None:
        return
    conds = [{**values, "cross_attn": cond} for cond, values in positive]
    known = list(prompts_of(conds, len(prompts)))
    if known and tuple(prompts) not in known:
        i = next(i for i, pair in enumerate(zip(known[0], prompts, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"the positive conditioning and the {what} are of different prompts: prompt {i} is "
            f'"{known[0][i][:60]}" and "{prompts[i][:60]}"; make both with one CLIP Embedding'
        )


def tensors_with_rows(conds: dict[str, list[dict]], tensors: list, num_prompts: int) -> list[torch.Tensor]:
    """Those of a guider's conditioning, and of some more tensors, that have a row for each prompt."""
    values = [value for entries in conds.values() for entry in entries for value in entry.values()]
    values += [item for value in values if isinstance(value, (list, tuple)) for item in value]
    return [v for v in [*values, *tensors] if torch.is_tensor(v) and v.ndim and len(v) == num_prompts]


def picture_groups(conds: dict[str, list[dict]], tensors: list, plan: Plan) -> np.ndarray:
    """Prompts whose pictures are equal, since all that goes into them is.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them.
    tensors : list of tensor
        Other rows, such as the latents to begin with.
    plan : Plan

    Returns
    -------
    groups : (N,) int64 array
        Equal for the prompts of a plan's last clusters whose conditioning and other rows are equal.
    """
    rows = tensors_with_rows(conds, tensors, plan.num_prompts)
    groups = np.zeros(plan.num_prompts, dtype=np.int64)
    for members in (members for members in plan.steps[-1].members if len(members) > 1):
        digests = [digest([tensor[i] for tensor in rows]) for i in members]
        groups[members] = [digests.index(found) for found in digests]
    return groups


def has_no_mean(name: str, rows: torch.Tensor) -> bool:
    """Whether rows of the conditioning are pictures, masks of pictures or whole numbers, rather than texts.

    Texts are (N, tokens, width) at most, and have masks of their tokens.
    """
    if name in TEXTS or "attention_mask" in name:
        return False
    if name in PICTURES or rows.ndim >= 4:
        return True
    if "mask" in name:
        return rows.ndim == 3 and min(rows.shape[1:]) > 1
    return not rows.is_floating_point()


def reduced_cond(entry: dict, clusters: Clusters, takes_first: bool = False) -> dict:
    """A copy of a conditioning entry with one row per cluster: the mean of its members' rows that it is for."""
    reduced = dict(entry)
    if APPLIES in entry:
        clusters = clusters.counting(entry[APPLIES].numpy())
    reduced["model_conds"] = {
        name: _map_rows(cond, lambda rows, name=name: reduced_rows(rows, clusters, name, takes_first))
        for name, cond in entry["model_conds"].items()
    }
    mask = entry.get("mask")
    if torch.is_tensor(mask) and has_row_each(mask, clusters):
        reduced["mask"] = mask[clusters.first]
    return reduced


def reduced_rows(rows: torch.Tensor, clusters: Clusters, name: str, takes_first: bool = False) -> torch.Tensor:
    """(1, ...) as it is, (N, ...) -> (C, ...) in the same dtype.

    Means are taken over the members. Attention masks take the largest value: a token counts for a cluster if it counts
    for a member. Pictures and whole numbers have no mean: a cluster `takes_first` its first member's, or they must be
    equal.
    """
    n, dtype = len(clusters.labels), rows.dtype
    if rows.shape[0] == 1 and clusters.founders is None:
        return rows
    if not has_row_each(rows, clusters):
        if rows.shape[0] == 1:
            return rows
        raise ValueError(f"conditioning '{name}' has {rows.shape[0]} rows; step sharing needs 1 or {n}")
    if clusters.founders is not None:
        return _of_founders(rows, clusters.founders, clusters.first, name, takes_first)
    if len(clusters.first) == n or rows_equal(rows, clusters):
        return rows[clusters.first]
    if has_no_mean(name, rows):
        if takes_first:
            return rows[clusters.first]
        raise ValueError(f"conditioning '{name}' differs between prompts of a cluster and has no mean ({rows.dtype})")
    if "mask" in name:
        return _largest(rows, clusters)
    labels, counts, rows = clusters.labels, clusters.counts, rows.float()
    if clusters.distinct is not None and len(clusters.distinct) < n:
        labels, rows = labels[clusters.distinct], rows[clusters.distinct]
        counts = np.bincount(labels, minlength=len(counts)).clip(min=1)  # 0: none of it is in the entry's prompts
    return cluster_means(rows, labels, counts).to(dtype)


def has_row_each(rows: torch.Tensor, clusters: Clusters) -> bool:
    """Whether a tensor has a row for each prompt, or for each and those that are gone."""
    n = len(clusters.labels)
    return rows.shape[0] == n > 1 or (clusters.founders is not None and rows.shape[0] in (n, clusters.founders.count))


def _of_founders(rows, founders, first, name, takes_first):
    """(C, ...) of the rows that founded the clusters; what has no mean is the first prompt's."""
    if has_no_mean(name, rows):
        made = rows[first]
        if not takes_first and not all(torch.equal(rows[i], made[c]) for i, c in zip(*founders[:2], strict=True)):
            raise ValueError(
                f"conditioning '{name}' differs between prompts of a cluster and has no mean ({rows.dtype})"
            )
        return made
    founders = founders.of_rows(np.arange(len(rows)))
    counts = np.bincount(founders.labels, minlength=len(first))
    if "mask" in name:
        own = [rows[founders.rows[founders.labels == c]] for c in range(len(first))]
        return torch.stack([each.amax(dim=0) if len(each) else rows[first[c]] for c, each in enumerate(own)])
    means = cluster_means(rows[founders.rows].float(), founders.labels, counts.clip(min=1)).to(rows.dtype)
    only = np.flatnonzero(counts == 1)  # of one the row itself, bit-identical in any dtype
    places = {int(c): int(i) for i, c in zip(*founders[:2], strict=True)}
    for c in only.tolist():
        means[c] = rows[places[c]]
    return means


def _largest(rows, clusters):
    return torch.stack([rows[torch.from_numpy(clusters.labels == c)].amax(dim=0) for c in range(len(clusters.first))])


def cond_bytes(entry: dict) -> int:
    """Bytes of an entry's tensors."""
    found = []
    for cond in entry["model_conds"].values():
        _map_rows(cond, found.append)
    return sum(tensor.nbytes for tensor in found)


def cond_on_device(entry: dict, device: torch.device) -> dict:
    """A copy of an entry with its tensors on a device."""
    conds = {name: _map_rows(cond, lambda rows: rows.to(device)) for name, cond in entry["model_conds"].items()}
    return {**entry, "model_conds": conds}


def sliced_cond(entry: dict, rows: slice | list[int], count: int) -> dict:
    """A copy of an entry with `count` rows that keeps some of them; single rows serve everywhere."""

    def take(tensor):
        return tensor[rows] if tensor.shape[0] == count > 1 else tensor

    sliced = dict(entry)
    sliced["model_conds"] = {name: _map_rows(cond, take) for name, cond in entry["model_conds"].items()}
    if torch.is_tensor(entry.get("mask")):
        sliced["mask"] = take(entry["mask"])
    return sliced


def has_rows(entry: dict, num_rows: int) -> bool:
    """Whether an entry has tensors with that many rows, more than one."""
    found = []
    for cond in entry["model_conds"].values():
        _map_rows(cond, found.append)
    return any(len(tensor) == num_rows > 1 for tensor in found)


def _map_rows(cond, change):
    """The host's COND object with `change` applied to its tensors; constants pass."""
    if torch.is_tensor(cond.cond) and cond.cond.ndim > 0:
        return cond._copy_with(change(cond.cond))
    if isinstance(cond.cond, list) and all(torch.is_tensor(item) for item in cond.cond):
        return cond._copy_with([change(item) for item in cond.cond])
    return cond


def rows_of(conditioning: list, rows: list[int], num_prompts: int, name: str) -> list:
    """The host's CONDITIONING with these prompts' rows; entries with one row serve all.

    Raises
    ------
    ValueError
        If an entry has another number of rows.
    """

    def take(value):
        many = torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == num_prompts > 1
        return value[rows] if many else value

    for cond, _ in conditioning:
        if cond.shape[0] not in (1, num_prompts):
            raise ValueError(
                f"the {name} conditioning has {cond.shape[0]} rows, but there are {num_prompts} embeddings; "
                "make both with one CLIP Embedding, or give one row for all"
            )
    # the rows are no longer all prompts
    kept = [
        (cond, {key: take(value) for key, value in values.items() if key != PROMPTS}) for cond, values in conditioning
    ]
    return [[take(cond), taken_lengths(values, rows, num_prompts)] for cond, values in kept]
