"""The tree of prompts: what is clustered, how, and what each merge costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..prompts.rows import own_seeds, own_variants
from .checks import check_lengths, checked_keys
from .keys import text_key
from .linkage import check_linkage, check_metric, merge_errors, ward_linkage
from .seeds import Seeds, check_trees, checked_seeds, forest, seed_groups, within_trees

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class PromptTree:
    """A linkage matrix, and what its leaves are.

    Attributes
    ----------
    Z : (N-1, 4) float64
        Linkage matrix, SciPy layout; (0, 4) for a single prompt.
    metric : "cosine", "chord" or None
        Unit of its heights; None where that is not known.
    errors : (N-1,) float64, or None
        Squared error that each merge adds, see `merge_errors`.
    prompts : tuple of N str, or None
        For those who show the tree; nothing is looked up by them.
    keys : tuple of N int, or None
        What the prompts' noise is a function of, see `hierdiff_core.plan.keys`.
    seeds : tuple of N (int or None), or None
        Of prompts that have a seed of their own: one tree for each seed, joined by the last merges, which no threshold
        reaches (`hierdiff_core.plan.seeds`). None: no prompt has one.
    vectors : (N, D) array or tensor, or None
        The embeddings that were clustered, by reference.
    variants : tuple of N ((int, float) or None), or None
        Of prompts that are variants of others: number, and share of the steps at which they part (`PromptRow.variant`).

    Raises
    ------
    ValueError
        If `Z` is no linkage matrix, the metric is unknown, the other lists do not fit `Z`, a key is no whole
        number from 0 to 2**64, or prompts of different seeds are in one tree.

    Examples
    --------
    >>> from hierdiff_core import PromptTree
    >>> tree = PromptTree.of([[1, 0], [0.8, 0.6], [0, 1]], "chord", ["a cat", "a lynx", "a bus"])
    >>> tree.num_prompts, tree.metric
    (3, 'chord')
    >>> tree.Z[:, :2].tolist(), round(tree.root_height, 3)
    ([[0.0, 1.0], [2.0, 3.0]], 1.317)
    """

    Z: np.ndarray
    metric: str | None = None
    errors: np.ndarray | None = None
    prompts: tuple[str, ...] | None = None
    keys: tuple[int, ...] | None = None
    seeds: Seeds | None = None
    vectors: Any = None
    variants: tuple[tuple[int, float] | None, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "Z", check_linkage(self.Z))
        if self.metric is not None:
            check_metric(self.metric)
        for name in ("errors", "prompts", "keys", "variants"):
            value = getattr(self, name)
            if value is None:
                continue
            value = np.asarray(value, dtype=np.float64) if name == "errors" else tuple(value)
            check_lengths(self.num_prompts, **{name: value})
            object.__setattr__(self, name, checked_keys(name, value) if name == "keys" else value)
        object.__setattr__(self, "seeds", checked_seeds(self.seeds, self.num_prompts))
        if self.seeds is not None:
            check_trees(self.Z, self.seeds)

    @classmethod
    def of(
        cls,
        positive: ArrayLike | torch.Tensor,
        metric: str = "chord",
        prompts: Sequence[str] | None = None,
        *,
        device: Any = "cpu",
        check: Callable[[], Any] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> PromptTree:
        """Cluster embeddings.

        Parameters
        ----------
        positive : (N, D) array or tensor
            One embedding a prompt, finite and not zero.
        metric : "cosine" or "chord"
            See `ward_linkage`. Unlike there, the default is what the nodes and the command line take.
        prompts : N str, optional
            Their texts, from which the keys follow.
        device : str or torch.device
            A CUDA device takes over large sets.
        check : callable, optional
            Called many times while a large set is clustered; may raise to stop.
        seeds : N (int or None), optional
            Their seeds, where some have one of their own; without, those that come with the prompts (`PromptRows`).

        Returns
        -------
        tree : PromptTree
            Of each seed one tree.

        Raises
        ------
        ValueError
            As `ward_linkage`, and if there are not as many prompts as embeddings.
        """
        if prompts is not None and len(prompts) != len(positive):  # pyright: ignore[reportArgumentType]
            raise ValueError(f"prompts must name each embedding: {len(prompts)} names, {len(positive)} embeddings")  # pyright: ignore[reportArgumentType]
        seeds = own_seeds(prompts) if seeds is None and prompts is not None else seeds
        own = checked_seeds(seeds, len(positive))  # pyright: ignore[reportArgumentType]
        if own is None:
            Z = ward_linkage(positive, metric, device, check)
        else:
            Z = forest(positive, own, metric, device, check)
        texts = None if prompts is None else tuple(prompts)
        keys = None if texts is None else tuple(text_key(text) for text in texts)
        variants = None if prompts is None else own_variants(prompts)
        return cls(Z, metric, merge_errors(Z, positive), texts, keys, own, positive, variants)

    @property
    def num_prompts(self) -> int:
        """Leaves of the tree, N."""
        return len(self.Z) + 1

    @property
    def num_distinct(self) -> int:
        """Prompts that differ: those with equal embeddings merge at height 0 and are drawn once."""
        return len(self.heights) + self.num_trees

    @property
    def num_trees(self) -> int:
        """Seeds, each with a tree of its own: 1 where no prompt has one."""
        return len(seed_groups(self.seeds, self.num_prompts)[1])

    @property
    def merges(self) -> np.ndarray:
        """`Z` without the merges that join the trees of different seeds: (N-G, 4) float64."""
        return within_trees(self.Z, self.num_trees)

    @property
    def heights(self) -> np.ndarray:
        """Heights at which prompts that differ merge, rising: float64."""
        return self.merges[self.merges[:, 2] > 0, 2]

    @property
    def root_height(self) -> float:
        """Height of the last merge, the highest root of several trees; 0 for a single prompt."""
        return float(self.merges[-1, 2]) if len(self.merges) else 0.0

    def within(self, thresholds: np.ndarray) -> np.ndarray:
        """Thresholds that reach no merge of different seeds; the same ones where no prompt has a seed."""
        return thresholds if self.seeds is None else np.minimum(thresholds, self.root_height)
