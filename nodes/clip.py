"""CLIP Embedding: prompts -> a conditioning with a row per prompt, and the embeddings to cluster them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..hierdiff_core.embeddings import PromptEmbeddings
from ..hierdiff_core.prompts.rows import as_rows, own_negatives
from ..hierdiff_core.sampling.lineage import content
from . import types
from .host.cond_rows import PROMPTS
from .host.decoration import Decorations
from .host.device import free_main_memory
from .host.encode_set import NO_MASK, PAD_LEFT, PAD_RIGHT, REPEAT, length_counts, merge
from .host.known_embeddings import clip_digest, known_in_words, of_clips, value_digest
from .host.prompt_vectors import POOLED, TOKEN_MEAN, prompt_vectors
from .host.search import search_words
from .host.token_counts import reading_notes
from .host.token_lengths import LENGTHS
from .host.ui import Progress, tell

if TYPE_CHECKING:
    from .host.prompt_vectors import Vectors

POOLING = ["auto", POOLED, TOKEN_MEAN]
SLOW_REPEAT = 4  # times the longest prompt: as far as the host goes to save a call
T5_NAMES = {"t5xxl", "pile_t5xl", "t5base", "mt5xl", "umt5xxl"}  # those that the node T5TokenizerOptions sets
PADDED = (
    "shorter prompts were padded to {longest} tokens; samplers with shared steps leave the padding out and draw each "
    "prompt as alone"
)
MASKED = "Other samplers hand it to the model with a mask, which some models heed and others draw like another prompt."
UNMASKED = (
    "⚠ only for Share Steps and the Hierarchical samplers: others draw the padded prompts like different prompts{fix}"
)
T5_FIX = (
    ". For those, put the node T5TokenizerOptions with min_length {longest} between the CLIP and this node: then all "
    "prompts have the same number of tokens"
)
TOO_LONG = "shorten some: repeated to a common number of tokens they would take too much time or memory"


class ClipEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffClipEmbedding",
            display_name="CLIP Embedding",
            category="HierDiff",
            **search_words("batch prompts", "prompt list", "encode prompts", "clip text encode"),
            description="Encodes each prompt with a model's text encoder: one conditioning for the whole set, and the "
            "embeddings for Ward Linkage.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder (CLIP) of the model that makes the images."),
                types.Prompts.Input("prompts", tooltip="From Prompt Set or Prompt Table."),
                io.Combo.Input(
                    "pooling",
                    options=POOLING,
                    default=POOLING[0],
                    tooltip="How each prompt becomes one vector for clustering; the conditioning is not affected. "
                    "pooled: the encoder's own summary. token mean: the mean of the tokens. auto: pooled if it tells "
                    "all prompts apart, else token mean.",
                ),
                io.String.Input(
                    "negative_prompt",
                    optional=True,
                    force_input=True,  # without a widget, for which the node would have no room in saved workflows
                    tooltip="For the output negative: what to avoid in all images but those of prompts with a negative "
                    "of their own (Prompt Table). Not connected: an empty text.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="One entry with a row per prompt, in the order of the prompts.",
                ),
                types.Embeddings.Output(display_name="embeddings", tooltip="One vector per prompt, for Ward Linkage."),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The negatives: one row for all prompts, or one per prompt where they differ.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, clip: Any, prompts: tuple[str, ...], pooling: str, negative_prompt: str | None = None
    ) -> io.NodeOutput:
        tell(cls, f"Moving the text encoder to the device and encoding {len(prompts)} prompts …")
        clip_known = known_of(clip)
        tokens, entries, known = encode_each(clip, prompts, clip_known)
        lengths = [entry[0].shape[1] for entry in entries]
        lengthen = how_to_lengthen(clip, tokens, lengths)
        free = free_main_memory()
        conditioning = merge(entries, prompts, lengthen, TOO_LONG, free / 2)
        conditioning[1][PROMPTS] = prompts if isinstance(prompts, tuple) else tuple(prompts)
        vectors = prompt_vectors(entries, prompts, pooling)
        embeddings = PromptEmbeddings(vectors.rows, torch.zeros_like(vectors.rows), prompts, kind_of(clip, vectors))
        decorations = Decorations()
        negative, negatives = negatives_of(clip, prompts, negative_prompt, free / 2, clip_known)
        pooled = vectors.pooling == POOLED
        notes: list[str] = decorations.attempt(
            "counting tokens", reading_notes, clip, tokens, prompts, pooled, otherwise=[]
        )
        fix = T5_FIX.format(longest=max(lengths)) if any(T5_NAMES & t.keys() for t in tokens) else ""
        lines = [describe(embeddings, vectors.pooling, conditioning, lengths, fix), *known, *negatives]
        text = "\n".join([*lines, *notes, *vectors.notes])
        return io.NodeOutput([conditioning], embeddings, negative and [negative], ui=decorations.show(cls, text))


# --- Encoding --------------------------------------------------------------------------------------------------------


def known_of(clip: Any) -> bytes | None:
    """The digest of a CLIP, see `clip_digest`; None also where it cannot be read: all is encoded then."""
    if clip is None:
        raise ValueError(
            "there is no CLIP: this checkpoint holds no text encoder. Load one with Load CLIP and connect it here."
        )
    return Decorations().attempt("what is known of the text encoder", clip_digest, clip)


def encode_each(
    clip: Any, prompts: Sequence[str], clip_known: bytes | None = None
) -> tuple[list[Any], list[Any], list[str]]:
    """Tokens and conditioning of every prompt, encoded alone, so that it does not depend on the others.

    Parameters
    ----------
    clip : the host's CLIP
    prompts : N str
    clip_known : bytes or None
        Digest of the CLIP; None: nothing is taken from what was encoded before.

    Returns
    -------
    tokens : list of N dict
        Encoder name -> chunks of (token, weight).
    entries : list of N [cond, dict]
        Equal prompts share theirs.
    known : list of str
        What to say of prompts that were encoded before.
    """
    distinct = list(dict.fromkeys(prompts))
    progress = Progress(len(distinct))
    encoded, new = {}, 0
    for prompt in distinct:
        progress.check_cancelled()
        tokens = clip.tokenize(prompt)
        entry, was_new = encoded_tokens(clip, tokens, prompt, clip_known)
        encoded[prompt] = tokens, entry
        new += was_new
        progress.advance(1)
    known = known_in_words(new, len(distinct))
    return [encoded[prompt][0] for prompt in prompts], [encoded[prompt][1] for prompt in prompts], known


def encoded_tokens(clip: Any, tokens: Any, prompt: str, clip_known: bytes | None) -> tuple[list[Any], bool]:
    """The conditioning of a prompt's tokens, [cond, dict], and whether it had to be encoded."""
    read = None if clip_known is None else value_digest(tokens)
    key = None if clip_known is None or read is None else content(clip_known, read)
    found = of_clips.get(key)
    if found is None:
        entry = only_entry(clip.encode_from_tokens_scheduled(tokens), prompt)
        check_finite(entry, prompt)
        of_clips.put(key, [entry[0], dict(entry[1])])
        return entry, True
    return [found[0], dict(found[1])], False


def negatives_of(
    clip: Any, prompts: Sequence[str], others: str | None, room: float, clip_known: bytes | None = None
) -> tuple[Any, list[str]]:
    """As `encode_negatives`; where nobody has asked for any, an empty text whose failure loses no run."""
    if others is not None or not isinstance(own_negatives(prompts, ""), str):
        return encode_negatives(clip, prompts, others or "", room, clip_known)
    nothing: tuple[Any, list[str]] = (None, [])
    given = clip, prompts, "", room, clip_known
    return Decorations().attempt("the empty negative", encode_negatives, *given, otherwise=nothing)


def encode_negatives(
    clip: Any, prompts: Sequence[str], others: str, room: float, clip_known: bytes | None = None
) -> tuple[Any, list[str]]:
    """The negative of each prompt: its own, or that of the whole set.

    Parameters
    ----------
    clip : the host's CLIP
    prompts : N str
        `PromptRows` may have negatives of their own.
    others : str
        For all other prompts.
    room : float
        Bytes that the conditioning may take.
    clip_known : bytes or None
        See `encode_each`.

    Returns
    -------
    entry : [cond, dict]
        With one row where all prompts have the same, else N.
    lines : list of str
        What to say about it.
    """
    negatives = own_negatives(prompts, others.strip())
    if isinstance(negatives, str) or len(set(negatives)) == 1:
        text = negatives if isinstance(negatives, str) else negatives[0]
        return encoded_tokens(clip, clip.tokenize(text), text, clip_known)[0], []
    tokens, entries, _ = encode_each(clip, negatives, clip_known)
    lengthen = how_to_lengthen(clip, tokens, [entry[0].shape[1] for entry in entries])
    own = sum(row.negative is not None for row in as_rows(prompts).rows)
    line = f"negatives: {own} of {len(prompts)} prompts have one of their own, {len(set(negatives))} differ in all"
    return merge(entries, negatives, lengthen, TOO_LONG, room), [line]


def only_entry(entries: Any, prompt: str) -> Any:
    """The single entry of a prompt's conditioning."""
    if len(entries) != 1:
        raise ValueError(
            f'"{prompt[:60]}" has {len(entries)} conditionings, one for each part of a schedule, because the CLIP has '
            "scheduled hooks. Set schedule_clip to false in Set CLIP Hooks, or connect the CLIP without hooks."
        )
    return entries[0]


def how_to_lengthen(clip: Any, tokens: Sequence[Any], lengths: Sequence[int]) -> str:
    """What `merge` may do with shorter prompts; see there why."""
    if all(_is_chunked(t, length, tokens[0]) for t, length in zip(tokens, lengths, strict=True)):
        return REPEAT
    # only what the encoder was built to mask may be masked: such models know what to do with a mask
    if any(getattr(module, "return_attention_masks", False) for module in _modules(clip)):
        left = any(getattr(tokenizer, "pad_left", False) for tokenizer in vars(clip.tokenizer).values())
        return PAD_LEFT if left else PAD_RIGHT
    return NO_MASK


def _modules(clip):
    model = getattr(clip, "cond_stage_model", None)
    return model.modules() if isinstance(model, torch.nn.Module) else ()


def _is_chunked(tokens, length, first):
    """Whether a prompt's conditioning is nothing but whole chunks, of the size that the set's `first` prompt has.

    Each of SDXL's two encoders reads all chunks, side by side. SD3 sets T5's tokens behind those of CLIP: there, the
    sum of one encoder is not the whole length.
    """
    size = len(next(iter(first.values()))[0])
    return all(
        all(len(chunk) == size for chunk in chunks) and size * len(chunks) == length for chunks in tokens.values()
    )


# --- Embeddings ------------------------------------------------------------------------------------------------------


def check_finite(entry: Any, prompt: str) -> None:
    """Refuse NaN, with the fix for a text encoder. Masks are left alone: they may hold infinities."""
    cond, values = entry
    for tensor in (cond, values.get("pooled_output")):
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ValueError(
                f'the embedding of "{prompt[:60]}" holds NaN or infinity; start ComfyUI with --fp32-text-enc, or load '
                "the text encoder from another file"
            )


def kind_of(clip: Any, vectors: Vectors) -> str:
    """What made the embeddings, for whoever takes other ones."""
    return f"text embeddings ({vectors.pooling} of {type(clip.cond_stage_model).__name__}, from CLIP Embedding)"


def describe(
    embeddings: PromptEmbeddings, pooling: str, conditioning: Any, lengths: Sequence[int], fix: str = ""
) -> str:
    """What was encoded, in words; `fix` says how others than samplers with shared steps can take padded prompts."""
    cond, values = conditioning
    longest, distinct = max(lengths), len(set(embeddings.prompts))
    lines = [
        f"{len(embeddings)} prompt{'s' if len(embeddings) > 1 else ''} ({distinct} distinct)",
        f"embeddings: {pooling}, {embeddings.width} numbers each",
        f"tokens: {length_counts(lengths)}",
        f"conditioning: {' × '.join(map(str, cond.shape))}",
    ]
    if min(lengths) < longest and LENGTHS in values:
        padded = PADDED.format(longest=longest)
        masked = "attention_mask" in values
        lines += [f"{padded}. {MASKED}"] if masked else [padded, UNMASKED.format(fix=fix)]
    elif min(lengths) < longest:
        slow = "⚠ " if cond.shape[1] > SLOW_REPEAT * longest else ""
        times = f": {cond.shape[1] / longest:.0f} times the longest, so steps are slower" if slow else ""
        lines.append(
            f"{slow}prompts were repeated to {cond.shape[1]} tokens, which cross-attention does not notice{times}"
        )
    return "\n".join(lines)
