"""Parts of a plan: what is below some of its branches. Depth first, and on many machines, each is run alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    founders : (F,) int64 array, or None
        Leaves of the whole plan that count in means, rising, where these are others than the prompts that differ: of
        plans that prompts were attached to or removed from.
    founded : (F,) int64 array, or None
        Cluster that each of `founders` counts in.
    """

    clusters: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    parents: np.ndarray
    founders: np.ndarray | None = None
    founded: np.ndarray | None = None


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

    def means_of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """What the means of a step are made of.

        Parameters
        ----------
        i : int
            Step `start + i`.

        Returns
        -------
        leaves : (F,) int64 array
            Rows of the embeddings of the whole plan, rising.
        clusters : (F,) int64 array
            Cluster that each of them counts in.
        """
        step = self.steps[i]
        if step.founders is None or step.founded is None:
            return self.counted, step.labels[self.distinct]
        return step.founders, step.founded

    def same_means(self, i: int) -> bool:
        """Whether a step that does not split has the means of the step before: a leaf that is gone may part there."""
        now, before = self.steps[i], self.steps[i - 1]
        pairs = ((now.founders, before.founders), (now.founded, before.founded))
        return all(own is None or theirs is None or np.array_equal(own, theirs) for own, theirs in pairs)


def whole(plan: Plan, known: np.ndarray | None = None) -> Part:
    """All of a plan as a part.

    Parameters
    ----------
    plan : Plan
        For N prompts, L leaves (`Plan.leaf_keys`) and K steps.
    known : (L,) bool array, optional
        Leaves whose embeddings are there, the prompts' own among them; all when None. A mean is of those founders that
        are known; of the cluster's prompts where none is.

    Returns
    -------
    Part
        Begins at one row: the latent that all prompts start from; where prompts have seeds of their own, at a row for
        each group of `Plan.groups`.

    Examples
    --------
    >>> import numpy as np
    >>> from hierdiff_core import build_plan
    >>> part = whole(build_plan(np.array([[0, 1, 0.5, 2]]), [1.0, 0.0]))
    >>> [step.parents.tolist() for step in part.steps]
    [[0], [0, 0]]
    """
    distinct = plan.distinct
    equal = len(distinct) < plan.num_prompts
    steps, groups = [], plan.groups()[0]
    for k, step in enumerate(plan.steps):
        parents, everyone = step.parents if k else groups[step.first], np.arange(step.num_clusters)
        if has_founders(plan):
            leaves, clusters = founders_of(plan, k, known)
            counts = np.bincount(clusters, minlength=step.num_clusters)
            steps.append(PartStep(everyone, step.labels, counts, parents, leaves, clusters))
            continue
        counts = np.bincount(step.labels[distinct], minlength=step.num_clusters) if equal else step.counts
        steps.append(PartStep(everyone, step.labels, counts, parents))
    return Part(0, np.arange(plan.num_prompts), distinct, tuple(steps), plan.guidance)


def has_founders(plan: Plan) -> bool:
    """Whether means are of other prompts than a cluster's members that differ."""
    return plan.frozen is not None or bool(plan.rerolls)


def founders_of(plan: Plan, k: int, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What the means of a step of a whole plan are made of, by `Plan.founders`.

    Parameters
    ----------
    plan : Plan
    k : int
        Step.
    known : (L,) bool array, optional
        As in `whole`.

    Returns
    -------
    leaves : (F,) int64 array
        Rising.
    clusters : (F,) int64 array
        Cluster that each of them counts in.
    """
    found = plan.founders(k)
    if known is not None and not known.all():
        own = np.arange(plan.num_prompts) if plan.frozen is None else plan.frozen.present
        left = [leaves[known[leaves]] for leaves in found]
        members = plan.steps[k].members
        found = [leaves if len(leaves) else np.sort(own[members[c]]) for c, leaves in enumerate(left)]
    leaves, clusters = np.concatenate(found), np.repeat(np.arange(len(found)), [len(leaves) for leaves in found])
    order = np.argsort(leaves, kind="stable")
    return leaves[order].astype(np.int64), clusters[order]


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
        founders = founded = None
        if step.founders is not None and step.founded is not None:
            own = marked[step.founded]
            founders, founded = step.founders[own], number[step.founded[own]]
        steps.append(PartStep(step.clusters[kept], number[labels], step.counts[kept], parents, founders, founded))
        before = number
    return Part(part.start + i, part.prompts[inside], distinct, tuple(steps), part.guidance)


def below_each(part: Part, i: int, groups: Sequence[np.ndarray]) -> list[Part]:
    """`below` for each of some groups of clusters, in one pass: a plan of 100,000 prompts is dealt out in a second.

    Parameters
    ----------
    part : Part
        What they belong to.
    i : int
        Step `part.start + i`, where the new parts begin.
    groups : list of (C,) int64 arrays
        As `clusters` of `below`, no cluster in two of them.

    Returns
    -------
    list of Part
        One for each group.
    """
    count = len(groups)
    group = np.full(len(part.steps[i].parents), count)  # of each cluster; `count`: of none
    for number, clusters in enumerate(groups):
        group[clusters] = number
    of_prompt = group[part.steps[i].labels]
    distinct = _marked(part.distinct, len(part.prompts))
    prompts, counted = _dealt(of_prompt, count, part.prompts, distinct)
    steps: list[list[PartStep]] = [[] for _ in groups]
    places = None  # of each cluster of the step before, in its group
    for step in part.steps[i:]:
        group = group if places is None else group[step.parents]
        parents = step.parents if places is None else places[step.parents]
        places = _places(group, count)
        own = _dealt(group, count, step.clusters, step.counts, parents)
        (labels,), founders = _dealt(of_prompt, count, places[step.labels]), None
        if step.founders is not None and step.founded is not None:
            founders = _dealt(group[step.founded], count, step.founders, places[step.founded])
        for number, (clusters, counts, above) in enumerate(zip(*own, strict=True)):
            known = (None, None) if founders is None else (founders[0][number], founders[1][number])
            steps[number].append(PartStep(clusters, labels[number], counts, above, *known))
    start, guidance = part.start + i, part.guidance
    return [
        Part(start, own, np.flatnonzero(first), tuple(found), guidance)
        for own, first, found in zip(prompts, counted, steps, strict=True)
    ]


def _dealt(group: np.ndarray, count: int, *values: np.ndarray) -> list[list[np.ndarray]]:
    """Arrays, each by the groups of their entries, in their order; those of group `count` are left out."""
    order = np.argsort(group, kind="stable")
    edges = np.cumsum(np.bincount(group, minlength=count + 1)[:count])
    return [np.split(own[order], edges)[:count] for own in values]


def _places(group: np.ndarray, count: int) -> np.ndarray:
    """Place of each entry among those of its group."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=count + 1)
    places = np.empty(len(group), dtype=np.int64)
    places[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def _marked(places: np.ndarray, size: int) -> np.ndarray:
    """Boolean array of a size, True at some places."""
    marked = np.zeros(size, dtype=bool)
    marked[places] = True
    return marked
