"""Parts of a plan: what is below some of its branches. Depth first, and on many machines, each is run alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .checks import check_drawable
from .guidance import GuidanceCourse

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True, eq=False)
class PartStep:
    """The clusters of one step of a part, numbered 0 ... C - 1.

    Attributes
    ----------
    clusters : (C,) int64 array
        Their labels in the whole plan, ascending.
    labels : (M,) int64 array
        Cluster of each prompt of the part.
    counts : (C,) int64 array
        Prompts of each cluster that count in its mean.
    parents : (C,) int64 array
        Row of the latents before this step that each cluster is copied from.
    """

    clusters: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    parents: np.ndarray


@dataclass(frozen=True, eq=False)
class Part:
    """What is left of a plan below some branches; numbers only, so that it can be sent anywhere.

    Attributes
    ----------
    start : int
        Its first step.
    prompts : (M,) int64 array
        Indices of its prompts in the whole plan, ascending.
    distinct : (D,) int64 array
        Places in `prompts` of those that count in means: of prompts with equal embeddings the first.
    steps : tuple of PartStep
        Steps `start` ... K - 1.
    guidance : GuidanceCourse, or None
        The whole plan's.
    """

    start: int
    prompts: np.ndarray
    distinct: np.ndarray
    steps: tuple[PartStep, ...]
    guidance: GuidanceCourse | None = None

    @property
    def counted(self) -> np.ndarray:
        """Indices, in the whole plan, of the prompts that count in means."""
        return self.prompts[self.distinct]


def whole(plan: Plan) -> Part:
    """All of a plan as a part.

    Parameters
    ----------
    plan : Plan
        For N prompts and K steps.

    Returns
    -------
    Part
        Begins at one row: the latent that all prompts start from; where prompts have seeds of their own, at a row for
        each group of `Plan.groups`.

    Raises
    ------
    ValueError
        If prompts were attached to the plan or removed from it: its means are of other prompts than its own.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> part = whole(build_plan(np.array([[0, 1, 0.5, 2]]), [1.0, 0.0]))
    >>> [step.parents.tolist() for step in part.steps]
    [[0], [0, 0]]
    """
    check_drawable(plan)
    distinct = plan.distinct
    equal = len(distinct) < plan.num_prompts
    steps, groups = [], plan.groups()[0]
    for k, step in enumerate(plan.steps):
        parents = step.parents if k else groups[step.first]
        counts = np.bincount(step.labels[distinct], minlength=step.num_clusters) if equal else step.counts
        steps.append(PartStep(np.arange(step.num_clusters), step.labels, counts, parents))
    return Part(0, np.arange(plan.num_prompts), distinct, tuple(steps), plan.guidance)


def below(part: Part, i: int, clusters: np.ndarray) -> Part:
    """The part below some clusters of a step.

    Parameters
    ----------
    part : Part
        What they belong to.
    i : int
        Step `part.start + i`, where the new part begins.
    clusters : (C,) int64 array
        Numbers of the clusters in that step of the part, ascending.

    Returns
    -------
    Part
        Its first step is copied from the same rows as that of `part`: a row of the latents before it stays that row.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> Z = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]])
    >>> right = below(whole(build_plan(Z, [0.25, 0.15, 0.0])), 1, np.array([1, 2]))
    >>> right.start, right.prompts.tolist(), [step.parents.tolist() for step in right.steps]
    (1, [2, 3], [[1, 1], [0, 1]])
    """
    inside = _marked(clusters, len(part.steps[i].parents))[part.steps[i].labels]
    distinct = np.flatnonzero(_marked(part.distinct, len(part.prompts))[inside])
    steps, before = [], None
    for step in part.steps[i:]:
        labels = step.labels[inside]
        marked = _marked(labels, len(step.parents))
        kept, number = np.flatnonzero(marked), np.cumsum(marked) - 1
        parents = step.parents[kept] if before is None else before[step.parents[kept]]
        steps.append(PartStep(step.clusters[kept], number[labels], step.counts[kept], parents))
        before = number
    return Part(part.start + i, part.prompts[inside], distinct, tuple(steps), part.guidance)


def _marked(places: np.ndarray, size: int) -> np.ndarray:
    """Boolean array of a size, True at some places."""
    marked = np.zeros(size, dtype=bool)
    marked[places] = True
    return marked
