"""The embeddings of a prompt set, checked once so that no later stage has to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from .plan.keys import text_key
from .sampling.lineage import content

if TYPE_CHECKING:
    from .plan.plan import Plan

IMAGE_EMBEDDINGS = "image embeddings of a prior"


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """Image embeddings that a prior predicts for N prompts.

    Attributes
    ----------
    positive : (N, D) float32 tensor, on the CPU
        Conditional embeddings.
    negative : (N, D) float32 tensor, on the CPU
        Unconditional embeddings, for classifier-free guidance.
    prompts : tuple of N str
        The texts, for display and for the noise keys; a `PromptRows` keeps what else is their own.
    kind : str
        What made them, in words; "" where that is not known.

    Raises
    ------
    ValueError
        If there is no prompt, the shapes differ, or an embedding is NaN, infinite or zero.

    Examples
    --------
    >>> import torch
    >>> from hierdiff_core import PromptEmbeddings
    >>> embeddings = PromptEmbeddings(torch.eye(2, 3), torch.zeros(2, 3), ["a cat", "a dog"])
    >>> len(embeddings), embeddings.width, embeddings.prompts
    (2, 3, ('a cat', 'a dog'))
    """

    positive: torch.Tensor
    negative: torch.Tensor
    prompts: Sequence[str] = field(default=())
    kind: str = ""

    def __post_init__(self):
        for name in ("positive", "negative"):
            rows = torch.as_tensor(getattr(self, name)).detach().to("cpu", torch.float32)
            object.__setattr__(self, name, rows)
        prompts = self.prompts or [f"prompt {i}" for i in range(len(self.positive))]
        object.__setattr__(self, "prompts", prompts if isinstance(prompts, tuple) else tuple(prompts))
        self._check()

    def _check(self):
        if self.positive.ndim != 2 or 0 in self.positive.shape:
            raise ValueError(f"positive must have shape (N, D) with N >= 1; got {tuple(self.positive.shape)}")
        if self.negative.shape != self.positive.shape:
            raise ValueError(
                f"negative must have the shape of positive, {tuple(self.positive.shape)}; "
                f"got {tuple(self.negative.shape)}"
            )
        if len(self.prompts) != len(self.positive):
            raise ValueError(f"prompts must name each embedding: {len(self.prompts)} names, {len(self)} embeddings")
        self._refuse(~torch.isfinite(self.positive).all(dim=1), "holds NaN or infinity; use precision fp32 or bf16")
        self._refuse(~torch.isfinite(self.negative).all(dim=1), "has a negative with NaN or infinity; use fp32 or bf16")
        self._refuse(~self.positive.any(dim=1), "is zero and has no direction to compare; reword or drop that prompt")

    def _refuse(self, bad, reason):
        for i in torch.nonzero(bad).flatten().tolist():
            raise ValueError(f'the embedding of prompt {i} ("{self.prompts[i]}") {reason}')

    def __len__(self) -> int:
        return len(self.positive)

    def of_prompt(self, plan: Plan) -> PromptEmbeddings:
        """Those of the prompt that a plan draws alone (`one_unshared`); of any other plan all."""
        if plan.one_of is None or len(self) != plan.one_of[0].num_prompts:
            return self
        i = plan.one_of[1]
        return replace(
            self, positive=self.positive[i : i + 1], negative=self.negative[i : i + 1], prompts=(self.prompts[i],)
        )

    @property
    def width(self) -> int:
        """Numbers per embedding, D."""
        return self.positive.shape[1]

    @property
    def keys(self) -> list[int]:
        """Noise key of each prompt; it depends on the text alone, never on the position."""
        return [text_key(prompt) for prompt in self.prompts]

    @property
    def digests(self) -> list[bytes]:
        """What tells each prompt's embeddings from any others, 16 bytes each: see `leaf_digest`."""
        return [leaf_digest(pair) for pair in self.stacked().unbind(dim=1)]

    def stacked(self) -> torch.Tensor:
        """(2, N, D) float32 tensor: positive, then negative, as the paper stacks them."""
        return torch.stack([self.positive, self.negative])


def leaf_digest(pair: torch.Tensor) -> bytes:
    """The digest of a prompt's embeddings.

    Parameters
    ----------
    pair : (2, D) tensor
        Positive, then negative.

    Returns
    -------
    digest : bytes
        16 of them.
    """
    rows = pair.detach().to("cpu", torch.float32).contiguous()
    return content("image embedding", *rows.shape, rows.numpy().tobytes())


def check_image_embeddings(embeddings: PromptEmbeddings, width: int) -> None:
    """Raise `ValueError` for embeddings that a decoder of image embeddings does not take.

    Parameters
    ----------
    embeddings : PromptEmbeddings
    width : int
        Numbers per embedding that the decoder takes; other encoders may give as many by chance.
    """
    if embeddings.kind not in ("", IMAGE_EMBEDDINGS):
        raise ValueError(
            f"embeddings are {embeddings.kind}, but this decoder takes {IMAGE_EMBEDDINGS}; connect Prior Embedding"
        )
    if embeddings.width != width:
        raise ValueError(
            f"embeddings are {embeddings.width} wide, but this decoder takes {width}; "
            "use the prior that matches the decoder"
        )
