"""Prompts -> image embeddings, by a `diffusers.KandinskyV22PriorPipeline`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..embeddings import IMAGE_EMBEDDINGS, PromptEmbeddings
from ..plan.checks import whole_number
from ..plan.keys import negative_key, text_key
from ..prompts.negatives import check_negatives, distinct_pairs
from ..prompts.prompt_set import check_prompts
from ..prompts.rows import own_negatives, with_texts
from ..prompts.text_form import normal_form
from ..prompts.tokens import log_unread, without_their_warnings
from ..sampling.microbatch import PRIOR_TOO_LARGE, MicroBatches
from ..sampling.noise import FIRST_LATENT, checked_seed, keyed_generator
from .schedulers import check_prior_steps

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_prior import KandinskyV22PriorPipeline

PRIOR_NOISE = ("per prompt", "shared")

LARGEST_PRIOR = 64  # larger batches gain nothing (docs/measurements/performance.md)


def embed_prompts(
    prior: KandinskyV22PriorPipeline,
    prompts: str | Iterable[str],
    *,
    negative_prompt: str | Sequence[str] = "",
    num_steps: int = 25,
    guidance: float = 4.0,
    seed: int = 0,
    noise: str = "per prompt",
    batch_size: int = 0,
    on_step: Callable[[], None] | None = None,
    black: torch.Tensor | None = None,
    known: PromptEmbeddings | None = None,
) -> PromptEmbeddings:
    """Predict image embeddings for prompts.

    Parameters
    ----------
    prior : KandinskyV22PriorPipeline
    prompts : str, or iterable of N str
        A `PromptRows` may have negatives and seeds of single prompts: the seeds are for the decoder.
    negative_prompt : str, or N str
        For all prompts, or one for each, unless a prompt has one of its own. "" takes the embedding of a black image
        as negative, as the paper does.
    num_steps : int
        Denoising steps of the prior, 2 or more.
    guidance : float
        Classifier-free guidance of the prior; 1 is none.
    seed : int in 0 ... 2**64 - 1
    noise : "per prompt" or "shared"
        Each prompt's own noise (the paper), or one noise for all, which leaves only the texts to tell the
        embeddings apart: they come closer and share more steps.
    batch_size : int
        Prompts per call; 0 chooses (one at a time on a CPU, so that an embedding is bit-identical whatever the other
        prompts are).
    on_step : callable, optional
        Called with no argument after every step of every batch.
    black : (1, D) tensor, optional
        The prior's `black_image`, where it is known: its image encoder is then not called, and may be on any device.
    known : PromptEmbeddings, optional
        Made before by this prior with these settings: prompts that are among them, with the same negative, are not
        predicted again. Of a set of 500 in which one is edited, one is.

    Returns
    -------
    embeddings : PromptEmbeddings
        In the order of `prompts`. A prompt's depends on its text, its negative and the seed; prompts that are equal in
        both have equal embeddings, whatever their white space and Unicode form.

    Raises
    ------
    ValueError
        If there are no prompts, one is empty, negatives are not as many as prompts, a number is not whole or out of
        range, an embedding comes out NaN or zero, or `known` cannot be this prior's.

    Notes
    -----
    What the text encoder cannot read, such as the end of a long prompt, is logged (`prompt_tokens.text_warnings`).

    Source: Decatur et al. 2025, Algorithm 1, line 1.

    Examples
    --------
    >>> from hierdiff_core import embed_prompts, load_prior
    >>> embeddings = embed_prompts(load_prior(), ["red apple, flat style", "cat face, noto style"], num_steps=2)
    >>> embeddings.positive.shape
    torch.Size([2, 128])
    """
    prompts = prompts if isinstance(prompts, (str, tuple)) else tuple(prompts)
    prompts = with_texts(prompts, check_prompts(prompts))
    found = {} if known is None else by_pair(known, negative_prompt, prior)
    negative_prompt = own_negatives(prompts, negative_prompt)
    if noise not in PRIOR_NOISE:
        raise ValueError(f"noise must be one of {', '.join(PRIOR_NOISE)}; got {noise!r}")
    seed, num_steps = checked_seed(seed), whole_number("num_steps", num_steps)
    batch_size = whole_number("batch_size", batch_size, 0)
    check_prior_steps(num_steps, prior.scheduler.config.num_train_timesteps)
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be a finite number; got {guidance}")
    groups, places = distinct_pairs(prompts, check_negatives(negative_prompt, len(prompts)))
    log_unread(prior, prompts, negative_prompt)

    pairs = [pair for group in groups for pair in group]
    new = [own for group in groups if (own := [pair for pair in group if pair not in found])]
    if black is None and not all(negative for group in new for _, negative in group):
        black = black_image(prior)

    def told(*_) -> Any:
        return on_step() or {} if on_step else {}

    def embed(batch):
        texts, negatives = ([pair[i] for pair in batch] for i in (0, 1))
        if not negatives[0]:
            negatives = None  # the pipeline's own: a black image
        keys = [*map(text_key, texts), *map(negative_key, negatives or [])]
        with without_image_encoder(prior, black):
            output: Any = prior(
                texts,
                negative_prompt=negatives,
                num_inference_steps=num_steps,
                guidance_scale=guidance,
                generator=[keyed_generator(seed, 0 if noise == "shared" else key, FIRST_LATENT) for key in keys],
                callback_on_step_end=told,
            )
        return torch.stack([output.image_embeds.float(), output.negative_image_embeds.float()], dim=1).cpu()

    prior.set_progress_bar_config(disable=True)
    batches = MicroBatches(batch_size or prior_batch_size(prior), too_large=PRIOR_TOO_LARGE)
    with without_their_warnings():
        for group in new:
            rows = batches.map(lambda part, group=group: embed(group[part]), len(group))
            found.update(zip(group, rows, strict=True))
    rows = torch.stack([found[pairs[place]] for place in places])  # (N, 2, D)
    return PromptEmbeddings(rows[:, 0], rows[:, 1], prompts, IMAGE_EMBEDDINGS)


def by_pair(
    known: PromptEmbeddings, negative_prompt: str | Sequence[str], prior: KandinskyV22PriorPipeline
) -> dict[tuple[str, str], torch.Tensor]:
    """(2, D) embeddings by prompt and negative, as `distinct_pairs` has them."""
    if not isinstance(negative_prompt, str):
        raise ValueError("known needs one negative_prompt for all: give prompts negatives of their own in PromptRows")
    if known.kind != IMAGE_EMBEDDINGS or known.width != prior.prior.config.embedding_dim:
        raise ValueError(
            f"known must be {IMAGE_EMBEDDINGS} with {prior.prior.config.embedding_dim} numbers each; got "
            f"{known.kind or 'embeddings of unknown origin'} with {known.width}"
        )
    negatives = check_negatives(own_negatives(known.prompts, negative_prompt), len(known))
    pairs = zip(map(normal_form, known.prompts), negatives, strict=True)
    return dict(zip(pairs, known.stacked().unbind(dim=1), strict=True))


@torch.no_grad()
def black_image(prior: KandinskyV22PriorPipeline) -> torch.Tensor:
    """(1, D) embedding of a black image, on the CPU: the negative of prompts that have none.

    The one thing that the image encoder, the largest part of a prior, is for.
    """
    return prior.get_zero_embed(1, device=prior.image_encoder.device).cpu()


@contextlib.contextmanager
def without_image_encoder(prior: KandinskyV22PriorPipeline, black: torch.Tensor | None) -> Iterator[None]:
    """Within the block a prior knows what its image encoder makes of a black image, and has none.

    With one on another device older diffusers would take that device for the prior's.
    """
    attributes = vars(prior)  # past the pipeline's own way to set them, which changes its configuration
    encoder = attributes["image_encoder"]

    def zero_embed(batch_size: int = 1, device: torch.device | None = None) -> torch.Tensor:
        assert black is not None  # asked for by prompts without a negative alone
        return black.to(device or prior.device).repeat(batch_size, 1)

    attributes["image_encoder"], attributes["get_zero_embed"] = None, zero_embed
    try:
        yield
    finally:
        attributes["image_encoder"] = encoder
        del attributes["get_zero_embed"]


def prior_calls(prior: KandinskyV22PriorPipeline, prompts: Sequence[str], negative_prompt: str | Sequence[str]) -> int:
    """How often `embed_prompts` calls the prior, if the memory lasts; each call takes all of its steps."""
    negatives = check_negatives(own_negatives(prompts, negative_prompt), len(prompts))
    groups, _ = distinct_pairs(prompts, negatives)
    return sum(-(-len(group) // prior_batch_size(prior)) for group in groups)


def prior_batch_size(prior: KandinskyV22PriorPipeline) -> int:
    """Prompts per call of the prior: one on a CPU, where an embedding then depends on no other prompt at all."""
    return 1 if prior.prior.device.type == "cpu" else LARGEST_PRIOR
