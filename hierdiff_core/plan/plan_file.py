"""Plans as JSON: kept bit for bit, and checked when they are read, for files are shared between users.

Clusters are stored where they are not what the linkage matrix gives at the thresholds: of plans made by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from typing import Any

import numpy as np

from ..files.whole_files import replace
from .advised import advised_data, advised_of
from .branching import cut_steps, plan_leaves
from .checks import check_thresholds
from .file_values import LARGEST, items, keys_of, numbers, optional, texts_of, whole, wholes
from .frozen import FrozenTree
from .guidance import GuidanceCourse
from .linkage import METRICS, check_linkage
from .plan import Plan
from .rerolls import LARGEST_NUMBER, Reroll, checked_rerolls, groups_by_step
from .seeds import Seeds, check_apart, checked_seeds
from .sensitivity import LONGEST_TEXT, as_data, bounded_text, is_number, of_data, shortened
from .steps import Step, linked_steps
from .tree import PromptTree

FORMAT = "hierdiff-plan-1"
MOST_BYTES = 1 << 26
MOST_PROMPTS, MOST_STEPS, MOST_LABELS = 200_000, 1000, 10_000_000
MOST_ASKED = 32  # entries of what a schedule was asked for


def plan_json(plan: Plan) -> bytes:
    """Bytes of the file of a plan.

    Parameters
    ----------
    plan : Plan
        To be kept.

    Returns
    -------
    data : bytes
        JSON, from which `plan_of_json` makes an equal plan, but for its `vectors`.

    Raises
    ------
    ValueError
        If its steps do not follow from the clusters' labels, or it is larger than what is read again.
    """
    text = (json.dumps(plan_data(plan), allow_nan=False) + "\n").encode()
    plan_of_json(text)  # what could not be read again is not written
    return text


def plan_data(plan: Plan) -> dict[str, Any]:
    """What the file of a plan holds, as JSON's types.

    Parameters
    ----------
    plan : Plan
        To be kept.

    Returns
    -------
    data : dict
        From which `plan_of_data` makes an equal plan.

    Raises
    ------
    ValueError
        If its steps do not follow from the clusters' labels.
    """
    labels = [step.labels for step in plan.steps]
    if not same_steps(plan.steps, linked_steps(labels)):
        raise ValueError("steps must follow from their labels to be kept: first, counts or parents say something else")
    by_hand = plan.Z is None or not same_steps(
        plan.steps, cut_steps(plan.Z, plan.thresholds, plan.rerolls, plan_leaves(plan), plan.num_leaves)
    )
    data = {
        "format": FORMAT,
        "num_prompts": plan.num_prompts,
        "thresholds": plan.thresholds.tolist(),
        "labels": [own.tolist() for own in labels] if by_hand else None,
        "Z": listed(plan.Z),
        "metric": plan.metric,
        "prompt_keys": listed(plan.prompt_keys),
        "prompts": listed(plan.prompts),
        "merge_errors": listed(plan.merge_errors),
        "sensitivity": None if plan.sensitivity is None else as_data(plan.sensitivity),
        "differ": listed(plan.differ),
        "frozen": None if plan.frozen is None else frozen_data(plan.frozen),
        "guidance": None if plan.guidance is None else asdict(plan.guidance),
    }
    if plan.seeds is not None:
        data["seeds"] = listed(plan.seeds)
    if plan.rerolls:
        data["rerolls"] = [list(astuple(reroll)) for reroll in plan.rerolls]
    if plan.made_by is not None:
        data["made_by"] = dict(plan.made_by)
    if plan.advised is not None:  # files of plans that nothing was measured for stay what they were
        data["advised"] = advised_data(plan.advised)
    return data


def plan_of_json(text: str | bytes) -> Plan:
    """A plan from its JSON.

    Parameters
    ----------
    text : str or bytes
        What `plan_json` gave, or what somebody else made.

    Returns
    -------
    plan : Plan
        Checked.

    Raises
    ------
    ValueError
        If it is no plan; it names the entry.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return plan_of_data(data)


def plan_of_data(data: Any) -> Plan:
    """A plan from what `plan_data` gave, or somebody else made; `ValueError` that names the entry if it is none."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    count = whole(data, "num_prompts", 1, MOST_PROMPTS)
    thresholds = check_thresholds(numbers(data, "thresholds", most=MOST_STEPS))
    seeds = optional(data, "seeds", lambda: checked_seeds(items(data, "seeds", count, None), count))
    tree = tree_of(data, count, "prompt_keys", "merge_errors", seeds)
    sensitivity = None if data.get("sensitivity") is None else of_data(data["sensitivity"])
    differ = optional(data, "differ", lambda: wholes(data, "differ", 0, count - 1, most=count))
    if differ is not None and (not len(differ) or (np.diff(differ) < 1).any()):
        raise ValueError("differ must name at least one prompt, rising")
    frozen = frozen_of(data["frozen"]) if data.get("frozen") is not None else None
    if frozen is not None:
        check_frozen(frozen, tree)
    leaves = count if frozen is None else frozen.tree.num_prompts
    rerolls = optional(data, "rerolls", lambda: rerolls_of(data, leaves, len(thresholds))) or ()
    places = np.arange(count) if frozen is None else frozen.present
    steps = steps_of(data, count, thresholds, tree, lambda Z: cut_steps(Z, thresholds, rerolls, places, leaves))
    check_apart(steps, seeds)
    check_rerolls(steps, rerolls, places, leaves)
    return Plan(
        thresholds,
        steps,
        Z=None if tree is None else tree.Z,
        prompt_keys=optional(data, "prompt_keys", lambda: keys_of(data, "prompt_keys", count)),
        merge_errors=None if tree is None else tree.errors,
        sensitivity=sensitivity,
        prompts=optional(data, "prompts", lambda: texts_of(data, count)),
        metric=None if tree is None else tree.metric,
        frozen=frozen,
        differ=differ,
        guidance=optional(data, "guidance", lambda: guidance_of(data["guidance"])),
        advised=optional(data, "advised", lambda: advised_of(data["advised"])),
        seeds=seeds,
        rerolls=rerolls,
        made_by=optional(data, "made_by", lambda: made_by_of(data["made_by"])),
    )


def write_plan(plan: Plan, path: str | os.PathLike) -> None:
    """Save as JSON, whole or not at all, in the place of a file that may be there.

    Parameters
    ----------
    plan : Plan
        To be saved.
    path : str or Path
        Of the file.

    Raises
    ------
    ValueError
        If the plan's steps do not follow from its clusters' labels, or it is too large.
    OSError
        If it cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> from hierdiff_core import build_plan, read_plan, write_plan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "plan.json")
    ...     write_plan(build_plan([[0, 1, 0.2, 2]], [0.3, 0.1, 0]), path)
    ...     read_plan(path).clusters_per_step.tolist()
    [1, 2, 2]
    """
    replace(path, plan_json(plan))


def read_plan(path: str | os.PathLike) -> Plan:
    """Load what `write_plan` saved.

    Parameters
    ----------
    path : str or Path
        Of the file.

    Returns
    -------
    plan : Plan
        With the same numbers, bit for bit.

    Raises
    ------
    ValueError
        If the file is missing, too large, or holds something else; it names the file and the entry.

    Examples
    --------
    >>> import os, tempfile
    >>> from hierdiff_core import build_plan, read_plan, write_plan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "plan.json")
    ...     write_plan(build_plan([[0, 1, 0.2, 2]], [0.3, 0.1, 0], prompts=["a cat", "a dog"]), path)
    ...     read_plan(path).prompts
    ('a cat', 'a dog')
    """
    try:
        return plan_of_json(bounded_text(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no plan: {error}") from error


# --- writing


def listed(values: Any) -> list | None:
    """An array or tuple as a list."""
    return values if values is None else values.tolist() if isinstance(values, np.ndarray) else list(values)


def frozen_data(frozen: FrozenTree) -> dict[str, Any]:
    """A frozen tree as JSON's types."""
    tree = frozen.tree
    return {
        "Z": listed(tree.Z),
        "metric": tree.metric,
        "keys": listed(tree.keys),
        "prompts": listed(tree.prompts),
        "errors": listed(tree.errors),
        "generations": listed(frozen.generations),
        "present": listed(frozen.present),
        **({} if tree.seeds is None else {"seeds": listed(tree.seeds)}),
    }


def same_steps(steps: tuple[Step, ...], others: tuple[Step, ...]) -> bool:
    """Whether all their arrays are equal."""
    names = ("labels", "first", "counts", "parents")
    return all(
        np.array_equal(getattr(own, name), getattr(other, name))
        for own, other in zip(steps, others, strict=True)
        for name in names
    )


# --- reading


def steps_of(
    data: dict, count: int, thresholds: np.ndarray, tree: PromptTree | None, cuts: Callable[..., tuple[Step, ...]]
) -> tuple[Step, ...]:
    """The steps: as their labels say, else as the tree's cuts."""
    if len(thresholds) * count > MOST_LABELS:
        raise ValueError(f"{len(thresholds)} steps of {count} prompts are too many: at most {MOST_LABELS} in all")
    if data.get("labels") is None:
        if tree is None:
            raise ValueError("it lacks labels, which a plan without Z must have")
        return cuts(tree.Z)
    rows = data["labels"]
    if not isinstance(rows, list) or len(rows) != len(thresholds):
        raise ValueError(f"labels must be a list for each of {len(thresholds)} steps; got {shortened(rows)}")
    labels = [wholes({"labels": row}, "labels", 0, count - 1, exactly=count) for row in rows]
    before = np.zeros(count, dtype=np.int64)
    for k, own in enumerate(labels):
        if not np.array_equal(np.unique(own), np.arange(own.max() + 1)):
            raise ValueError(f"labels of step {k} must number its clusters from 0 without a gap")
        first = np.unique(own, return_index=True)[1]
        if not np.array_equal(before[first][own], before):
            raise ValueError(f"labels of step {k} must part the clusters of the step before, not merge them")
        before = own
    return linked_steps(labels)


def tree_of(data: dict, count: int, keys: str, errors: str, seeds: Seeds | None = None) -> PromptTree | None:
    """The tree that `data` holds, of `count` leaves, whose keys and errors have these names; None without a Z."""
    rows = data.get("Z")
    if rows is None:
        return None
    if not isinstance(rows, list) or len(rows) != count - 1:
        raise ValueError(f"Z must be a list of {count - 1} merges; got {shortened(rows)}")
    merges = [numbers({"Z": row}, "Z", exactly=4) for row in rows]
    metric = data.get("metric")
    if metric is not None and metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {shortened(metric)}")
    return PromptTree(
        check_linkage(np.array(merges, dtype=np.float64).reshape(-1, 4)),
        metric,
        optional(data, errors, lambda: numbers(data, errors, exactly=count - 1)),
        optional(data, "prompts", lambda: texts_of(data, count)),
        optional(data, keys, lambda: keys_of(data, keys, count)),
        seeds,
    )


def frozen_of(data: Any) -> FrozenTree:
    """The tree with its history that `data` holds."""
    if not isinstance(data, dict) or not isinstance(data.get("Z"), list):
        raise ValueError(f"frozen must hold a tree; got {shortened(data)}")
    leaves = len(data["Z"]) + 1
    if leaves > MOST_PROMPTS:
        raise ValueError(f"frozen must have at most {MOST_PROMPTS} leaves; got {leaves}")
    seeds = optional(data, "seeds", lambda: checked_seeds(items(data, "seeds", leaves, None), leaves))
    tree = tree_of(data, leaves, "keys", "errors", seeds)
    assert tree is not None
    present = wholes(data, "present", 0, leaves - 1, most=leaves)
    return FrozenTree(tree, wholes(data, "generations", 0, MOST_PROMPTS, exactly=leaves), present)


def check_frozen(frozen: FrozenTree, tree: PromptTree | None) -> None:
    """`ValueError` for a history whose prompts are not those of the plan's tree."""
    own = frozen.of_prompts()
    if tree is None or not np.array_equal(own.Z, tree.Z):
        raise ValueError("frozen must be a tree that holds that of Z")
    for name, theirs, ours in (
        ("keys", own.keys, tree.keys),
        ("prompts", own.prompts, tree.prompts),
        ("metric", own.metric, tree.metric),
        ("seeds", own.seeds, tree.seeds),
    ):
        if theirs != ours:
            entry = "prompt_keys" if name == "keys" else name
            raise ValueError(f"frozen must have the plan's {entry}; got {shortened(theirs)}")


def guidance_of(data: Any) -> GuidanceCourse:
    """Where and how strongly to guide; every value must be there, and no other."""
    names = {field.name for field in fields(GuidanceCourse)}
    if not isinstance(data, dict) or data.keys() != names:
        raise ValueError(f"guidance must hold {', '.join(sorted(names))} and nothing else; got {shortened(data)}")
    for name, value in data.items():
        if not is_number(value):
            raise ValueError(f"{name} of guidance must be a number; got {shortened(value)}")
    try:
        return GuidanceCourse(**data)
    except ValueError as error:
        raise ValueError(f"guidance: {error}") from error


def rerolls_of(data: dict, leaves: int, num_steps: int) -> tuple[Reroll, ...]:
    """Rerolls of a file, checked."""
    rows = items(data, "rerolls", None, MOST_PROMPTS)
    most = max(leaves, num_steps, LARGEST_NUMBER)
    found = [wholes({"rerolls": row}, "rerolls", 0, most, exactly=3).tolist() for row in rows]
    if len({row[1] for row in found}) * leaves > MOST_LABELS:
        raise ValueError(f"rerolls at so many steps of {leaves} prompts are too many")
    return checked_rerolls([Reroll(*row) for row in found], leaves, num_steps)


def check_rerolls(steps: tuple[Step, ...], rerolls: tuple[Reroll, ...], places: np.ndarray, leaves: int) -> None:
    """`ValueError` where prompts of different rerolls share a step."""
    for k, groups in groups_by_step(rerolls, leaves).items():
        step, own = steps[k], groups[places]
        if not np.array_equal(own[step.first][step.labels], own):
            raise ValueError(f"labels of step {k} must part prompts that were rerolled from those that were not")


def made_by_of(data: Any) -> dict[str, Any]:
    """What a plan was made by: a few texts and numbers."""
    if not isinstance(data, dict) or len(data) > MOST_ASKED:
        raise ValueError(f"made_by must be at most {MOST_ASKED} entries; got {shortened(data)}")
    value: Any
    for name, value in data.items():
        fits = value is None or (isinstance(value, str) and len(value) <= LONGEST_TEXT)
        number = is_number(value) and abs(value) <= LARGEST  # pyright: ignore[reportArgumentType]
        if len(name) > LONGEST_TEXT or not (fits or number):
            raise ValueError(f"{shortened(name)} of made_by must be a number or a short text; got {shortened(value)}")
    return data
