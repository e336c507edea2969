"""Ways of drawing a set: how many steps, what is shared how long, where there is guidance. Numbers only.

Legend: K steps, M prompts that differ. The spread of a cluster is the root of the mean squared distance of its prompts'
unit vectors from their mean, 0 ... 1: unlike a height of Ward's, it does not grow with the number of prompts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from ..plan.algebra import with_variants
from ..plan.building import build_plan
from ..plan.checks import is_finite, shown
from ..plan.guidance import GuidanceCourse
from ..plan.keys import hashed
from ..plan.plan import Plan
from ..plan.sensitivity import LONGEST_TEXT, array_of, is_number, shortened
from ..plan.tree import PromptTree

# Of a cut, so large a share of the prompts may lie in clusters that are so much wider than the prompts' mean.
WIDER, WIDEST = 0.05, 2.0
MOST_POINTS = 100  # of a file's sharing
ROUNDING = 1e-9  # of spreads and levels


@dataclass(frozen=True)
class Way:
    """One way of drawing a set of prompts.

    Attributes
    ----------
    levels : tuple of K float
        Noise levels that the steps begin at: shares of noise in the latents, 0 ... 1, falling.
    trunk : float
        All prompts share one latent until the noise level has fallen to this; 1: never.
    sharing : tuple of (float, float)
        Noise levels, falling, and spreads: until the level is reached, prompts share latents with others as far away as
        this on average (`height_for`). Below the last one nothing is shared.
    guidance : GuidanceCourse
        Where, and how strongly, the run is guided.
    cache : str
        Name of a step cache; "" for none.

    Raises
    ------
    ValueError
        If levels rise or do not lie between 0 and 1, or spreads rise or are negative.

    Notes
    -----
    A step is shared if it ends at the level or above: in a run of few steps one that begins above it may end far below.

    Examples
    --------
    >>> from hierdiff_core import PromptTree
    >>> from hierdiff_core.measure.ways import Way
    >>> tree = PromptTree.of([[1, 0], [0.8, 0.6], [0, 1]], "chord")
    >>> way = Way((1.0, 0.8, 0.6, 0.4, 0.2), trunk=0.6, sharing=((0.4, 0.4),))
    >>> way.plan(tree).clusters_per_step.tolist(), round(way.passes(tree), 2)
    ([1, 1, 2, 3, 3], 6.67)
    """

    levels: tuple[float, ...]
    trunk: float = 1.0
    sharing: tuple[tuple[float, float], ...] = ()
    guidance: GuidanceCourse = field(default_factory=GuidanceCourse)
    cache: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
        object.__setattr__(self, "sharing", tuple((float(level), float(spread)) for level, spread in self.sharing))
        if not self.levels:
            raise ValueError("levels must be one for each step; got none")
        _check_falling("levels", self.levels)
        _check_falling("trunk", [self.trunk])
        _check_falling("noise levels of sharing", [level for level, _ in self.sharing])
        _check_falling("spreads of sharing", [spread for _, spread in self.sharing])

    @property
    def steps(self) -> int:
        """Denoising steps, K."""
        return len(self.levels)

    def thresholds(self, tree: PromptTree) -> np.ndarray:
        """Thresholds that share as this way says.

        Parameters
        ----------
        tree : PromptTree
            To be cut.

        Returns
        -------
        thresholds : (K,) float64
            Heights in the tree's metric, not rising, the last 0.
        """
        ends, allowed = np.array(self.levels[1:]) + ROUNDING, np.zeros(self.steps)
        all_share = [(self.trunk, np.inf)] if self.trunk < 1 else []
        for down_to, spread in [*self.sharing[::-1], *all_share]:
            allowed[:-1][ends >= down_to] = spread
        heights = {spread: height_for(tree, spread) for spread in set(allowed.tolist())}
        return np.minimum.accumulate([heights[spread] for spread in allowed.tolist()])

    def plan(self, tree: PromptTree) -> Plan:
        """The plan of this way for a tree, with its guidance.

        Parameters
        ----------
        tree : PromptTree
            What is to be drawn.

        Returns
        -------
        plan : Plan
        """
        thresholds = tree.within(self.thresholds(tree))
        plan = build_plan(tree.Z, thresholds, tree.keys, tree.errors, prompts=tree.prompts, seeds=tree.seeds)
        known = {"metric": tree.metric, "vectors": tree.vectors, "made_by": self.asked(tree)}
        return with_variants(replace(plan, guidance=self.guidance, **known), tree.variants or ())

    def asked(self, tree: PromptTree) -> dict[str, Any]:
        """What this way was asked for, as JSON's types: two plans with the same are of one schedule (`Plan.made_by`).

        Parameters
        ----------
        tree : PromptTree
            What is to be drawn.

        Returns
        -------
        asked : dict
            Of numbers and short texts.
        """
        numbers = {"noise levels": self.levels, "sharing": [value for pair in self.sharing for value in pair]}
        digests = {name: f"{hashed(np.round(values, 6).tobytes()):016x}" for name, values in numbers.items()}
        return {"steps": self.steps, "trunk": round(self.trunk, 6), **digests, "metric": tree.metric}

    def passes(self, tree: PromptTree, guided: bool = True) -> float:
        """Passes for each picture, of prompts that differ: a guided step of a latent is two, any other one.

        Parameters
        ----------
        tree : PromptTree
            What is to be drawn.
        guided : bool
            Whether the sampler guides at all.

        Returns
        -------
        passes : float
            A step cache, which makes fewer, is not counted.
        """
        shared = np.searchsorted(tree.heights, self.thresholds(tree), side="right")
        costs = 1 + self.guidance.inside(self.steps) if guided else np.ones(self.steps)
        return float((tree.num_distinct - shared) @ costs / tree.num_distinct)


def spreads(tree: PromptTree) -> np.ndarray:
    """Spread of the cluster that each merge makes.

    Parameters
    ----------
    tree : PromptTree
        Where it knows no merge errors, they are those of its heights: exact for "chord", near for "cosine".

    Returns
    -------
    spreads : (N-1,) float64
    """
    return clusters_of(tree)[0]


@lru_cache(maxsize=8192)
def height_for(tree: PromptTree, spread: float) -> float:
    """The greatest height that keeps the prompts' root mean squared distance from their clusters' means in bounds.

    Parameters
    ----------
    tree : PromptTree
        To be cut.
    spread : float
        The bound, of all prompts that differ: those that are alone count as 0.

    Returns
    -------
    height : float
        At which, besides, no more than `WIDER` of the prompts lie in clusters wider than `WIDEST` times the bound.
    """
    widths, counts, left, right = clusters_of(tree)
    if spread == 0 or not len(widths):
        return 0.0
    heights, num = tree.Z[:, 2], tree.num_prompts
    squares = np.concatenate([np.zeros(num), counts[num:] * widths**2])
    wide = np.where(np.concatenate([np.zeros(num), widths]) > WIDEST * spread, counts, 0.0)
    mean, share = (np.cumsum(x[num:] - x[left] - x[right]) / tree.num_distinct for x in (squares, wide))
    too_much = np.flatnonzero((mean > spread**2 * (1 + ROUNDING)) | (share > WIDER))
    if not len(too_much):
        return float(heights[-1])
    below = heights[heights < heights[too_much[0]]]
    return float(below[-1]) if len(below) else 0.0


def spread_at(tree: PromptTree, height: float) -> float:
    """The root mean squared distance of the prompts from their clusters' means, where a tree is cut at a height."""
    widths, counts, left, right = clusters_of(tree)
    squares = np.concatenate([np.zeros(tree.num_prompts), counts[tree.num_prompts :] * widths**2])
    joined = tree.Z[:, 2] <= height
    added = squares[tree.num_prompts :] - squares[left] - squares[right]
    return float(np.sqrt(added[joined].sum() / tree.num_distinct))


def way_data(way: Way) -> dict[str, Any]:
    """What a file holds of a way, as JSON's types."""
    return {name: asdict(way)[name] for name in ("levels", "trunk", "sharing", "guidance", "cache")}


def way_of(data: Any) -> Way:
    """A `Way` from what `way_data` gave, or somebody else made; `ValueError` if it is something else."""
    if not isinstance(data, dict) or not data.keys() >= {"levels", "trunk", "sharing", "guidance", "cache"}:
        raise ValueError(f"a way must have levels, trunk, sharing, guidance and cache; got {shortened(data)}")
    levels = tuple(array_of(data["levels"], "levels", is_number, float))
    sharing = data["sharing"]
    if not isinstance(sharing, (list, tuple)) or len(sharing) > MOST_POINTS:
        raise ValueError(f"sharing must be a list of at most {MOST_POINTS} pairs; got {shortened(sharing)}")
    points = [array_of(point, "a point of sharing", is_number, float) for point in sharing]
    if any(len(point) != 2 for point in points):
        raise ValueError(f"sharing must be pairs of a noise level and a spread; got {shortened(sharing)}")
    if not isinstance(data["guidance"], dict):
        raise ValueError(f"guidance must be its start, end and boost; got {shortened(data['guidance'])}")
    course: dict[str, Any] = {name: data["guidance"].get(name) for name in GuidanceCourse.__dataclass_fields__}
    if not isinstance(data["cache"], str) or len(data["cache"]) > LONGEST_TEXT:
        raise ValueError(f"cache must be a short text; got {shortened(data['cache'])}")
    return Way(levels, data["trunk"], tuple((p[0], p[1]) for p in points), GuidanceCourse(**course), data["cache"])


@lru_cache(maxsize=8)
def clusters_of(tree: PromptTree) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spreads of the merges, prompts that differ of all 2N - 1 clusters, and both children of each merge."""
    Z, num = tree.Z, tree.num_prompts
    errors = tree.errors
    if errors is None:
        errors = Z[:, 2] if tree.metric == "cosine" else Z[:, 2] ** 2 / 2
    left, right = (Z[:, side].astype(np.int64) for side in (0, 1))
    counts, squares = np.ones(2 * num - 1), np.zeros(2 * num - 1)
    for j in range(len(Z)):
        a, b, same = left[j], right[j], Z[j, 2] == 0
        counts[num + j] = counts[a] if same else counts[a] + counts[b]
        squares[num + j] = squares[a] if same else squares[a] + squares[b] + errors[j]
    return np.sqrt(squares[num:] / counts[num:]), counts, left, right


def _check_falling(name: str, values: list[float] | tuple[float, ...]) -> None:
    for value in values:
        if not (is_finite(value) and 0 <= value <= 1):
            raise ValueError(f"{name} must lie between 0 and 1; got {shown(value)}")
    if any(later > before for before, later in pairwise(values)):
        raise ValueError(f"{name} must not rise from step to step")
