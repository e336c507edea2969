"""Load Kandinsky 2.2 Prior, and Prior Embedding: prompts -> image embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..hierdiff_core.embeddings import IMAGE_EMBEDDINGS, PromptEmbeddings
from ..hierdiff_core.kandinsky.loading import load_prior
from ..hierdiff_core.kandinsky.model_folder import PRIOR_CLASS, suitable_settings
from ..hierdiff_core.kandinsky.prior import PRIOR_NOISE, black_image, embed_prompts, prior_calls
from ..hierdiff_core.kandinsky.schedulers import LEAST_PRIOR_STEPS
from ..hierdiff_core.prompts.negatives import check_negatives, distinct_pairs
from ..hierdiff_core.prompts.prompt_set import check_prompts, flat_texts
from ..hierdiff_core.prompts.rows import own_negatives, with_texts
from ..hierdiff_core.prompts.tokens import text_warnings
from ..hierdiff_core.sampling.lineage import content
from . import types
from .host.known_embeddings import known_in_words, of_priors, prior_digest
from .host.lists import runs
from .host.models import (
    PRECISIONS,
    LoadedModel,
    choose_dtype,
    make_patcher,
    model_folder,
    model_names,
    size_on_disk,
    validate_model,
)
from .host.search import search_words
from .host.ui import Progress, show, tell, telling, unsuitable

if TYPE_CHECKING:
    from .host.models import LoadedModel


class PriorLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffPriorLoader",
            display_name="Load Kandinsky 2.2 Prior",
            category="HierDiff",
            **search_words("kandinsky", "unclip", "load prior"),
            description="Loads the model that predicts an image embedding from a prompt.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_names(PRIOR_CLASS),
                    tooltip="The small bundled model, or a folder in diffusers format under models/diffusers.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip="Precision of the weights. auto: ComfyUI's choice for this device (fp32 on a CPU).",
                ),
            ],
            outputs=[types.Prior.Output(display_name="prior", tooltip="For Prior Embedding.")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return validate_model(model, PRIOR_CLASS)

    @classmethod
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        folder = model_folder(model, PRIOR_CLASS)
        with telling(cls, f"Loading the prior from disk, {size_on_disk(folder)} …"):
            pipeline = load_prior(folder, choose_dtype(precision))
        patcher, image = make_patcher(pipeline.prior, pipeline.text_encoder), make_patcher(pipeline.image_encoder)
        return io.NodeOutput(LoadedModel(pipeline, patcher, model, suitable_settings(folder), image_patcher=image))


class PriorEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffPriorEmbedding",
            display_name="Prior Embedding",
            category="HierDiff",
            **search_words("kandinsky", "image embedding", "unclip", "embed prompts"),
            description="Stage 1: the prior predicts an image embedding for each prompt, in batches.",
            is_input_list=True,  # for a list of negatives; other lists make several runs, as in any node
            inputs=[
                types.Prior.Input("prior", tooltip="From Load Kandinsky 2.2 Prior."),
                types.Prompts.Input("prompts", tooltip="From Prompt Set or Prompt Table."),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What to avoid in all images but those of prompts with a negative of their own; connect a "
                    "list to give each its own. Empty: the embedding of a black image, as in the paper.",
                ),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=LEAST_PRIOR_STEPS,
                    max=1000,
                    tooltip="Denoising steps of the prior. They are cheap.",
                ),
                io.Float.Input(
                    "guidance",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance (CFG) of the prior. Use 4 for Kandinsky and the bundled model.",
                ),
                types.seed_input(
                    "seed",
                    tooltip="Seed of the prior's noise. A prompt's embedding does not depend on the other prompts.",
                ),
                io.Combo.Input(
                    "noise",
                    options=list(PRIOR_NOISE),
                    default=PRIOR_NOISE[0],
                    tooltip="per prompt: each prompt has its own noise, as in the paper. shared: the same noise for "
                    "all prompts, which made no measurable difference on the bundled model.",
                ),
            ],
            outputs=[
                types.Embeddings.Output(
                    display_name="embeddings",
                    is_output_list=True,  # more than one after several runs
                    tooltip="A positive and a negative embedding for each prompt.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        prior: list[LoadedModel],
        prompts: list[tuple[str, ...]],
        negative_prompt: list[Any],
        steps: list[int],
        guidance: list[float],
        seed: list[int],
        noise: list[str],
    ) -> io.NodeOutput:
        made, said = [], []
        lists = {
            "prior": prior,
            "prompts": prompts,
            "negative_prompt": [text or "" for _, text in flat_texts(negative_prompt, "negative_prompt")],
            "steps": steps,
            "guidance": guidance,
            "seed": seed,
            "noise": noise,
        }
        paired = pairs_negatives(lists)
        jobs = runs(lists | {"negative_prompt": [lists["negative_prompt"]]} if paired else lists)
        if not paired and len(lists["negative_prompt"]) > 1:
            said.append(
                f"⚠ {len(lists['negative_prompt'])} negative prompts make {len(jobs)} sets of pictures; for one "
                f"negative per prompt, connect {len(lists['prompts'][0])}"
            )
        for job in jobs:
            embeddings, lines = embed(cls, **job)
            made.append(embeddings)
            said += lines
        return io.NodeOutput(made, ui=show(cls, "\n".join(said)))


def pairs_negatives(lists: Mapping[str, Sequence[Any]]) -> bool:
    """Whether there is one negative for each prompt, and not one for each run of another list."""
    count = len(lists["negative_prompt"])
    others = max(len(values) for name, values in lists.items() if name != "negative_prompt")
    return count > 1 and count != others and all(len(prompts) == count for prompts in lists["prompts"])


def embed(
    cls: Any,
    prior: LoadedModel,
    prompts: tuple[str, ...],
    negative_prompt: str | Sequence[str],
    steps: int,
    guidance: float,
    seed: int,
    noise: str,
) -> tuple[PromptEmbeddings, list[str]]:
    """Embeddings of a set, and what to say about them, in lines."""
    given = negative_prompt.strip() if isinstance(negative_prompt, str) else [text.strip() for text in negative_prompt]
    negatives = own_negatives(prompts, given)
    settings = {"num_steps": steps, "guidance": guidance, "seed": seed, "noise": noise}
    embeddings, known = with_known(cls, prior, prompts, negatives, settings)
    lines = [f"{len(prompts)} embeddings, {embeddings.width} numbers each ({len(set(prompts))} distinct prompts)"]
    lines += known
    if not isinstance(negatives, str):
        lines.append(f"a negative for each prompt, {len(set(negatives))} of them distinct")
    lines += unsuitable(prior, guidance=guidance, steps=steps)
    lines += [f"⚠ {line}" for line in text_warnings(prior.pipeline, prompts)]
    lines += [f"⚠ {line}" for line in text_warnings(prior.pipeline, negatives, "negative prompt")]
    return embeddings, lines


def with_known(
    cls: Any, prior: LoadedModel, prompts: tuple[str, ...], negatives: str | Sequence[str], settings: dict[str, Any]
) -> tuple[PromptEmbeddings, list[str]]:
    """Embeddings of a set, of which those are predicted that were not before; what to say of the others, in lines."""
    texts = with_texts(prompts, check_prompts(prompts))
    groups, places = distinct_pairs(texts, check_negatives(negatives, len(texts)))
    pairs = [pair for group in groups for pair in group]
    made_by = prior_digest(prior)
    keys = [content(made_by, *map(str, settings.values()), *pair) for pair in pairs]
    rows = [of_priors.get(key) for key in keys]
    new = [i for i, row in enumerate(rows) if row is None]
    if new:
        asked = [pairs[i] for i in new]
        black = None if all(negative for _, negative in asked) else known_black_image(cls, prior, made_by)
        made = predict(cls, prior, asked, len(pairs), settings, black).stacked().unbind(dim=1)
        for i, row in zip(new, made, strict=True):
            rows[i] = row.clone()
            of_priors.put(keys[i], rows[i])
    positive, negative = torch.stack([rows[place] for place in places], dim=1)
    return PromptEmbeddings(positive, negative, texts, IMAGE_EMBEDDINGS), known_in_words(len(new), len(pairs))


def known_black_image(cls: Any, prior: LoadedModel, made_by: bytes) -> torch.Tensor:
    """The embedding of a black image by a prior of a digest: its image encoder is on the device for the first alone."""
    key = content(made_by, "black image")
    black = of_priors.get(key)
    if black is None:
        tell(cls, "Moving the prior's image encoder to the device …")
        prior.load_image_encoder()
        black = black_image(prior.pipeline)
        of_priors.put(key, black)
    return black


def predict(
    cls: Any,
    prior: LoadedModel,
    pairs: Sequence[tuple[str, str]],
    count: int,
    settings: dict[str, Any],
    black: torch.Tensor | None,
) -> PromptEmbeddings:
    """Embeddings of pairs of prompt and negative, some of the `count` of a set; `black`: see `embed_prompts`."""
    prompts, negatives = ([pair[i] for pair in pairs] for i in (0, 1))
    tell(cls, "Moving the prior to the device …")
    prior.load()
    others = f", {count - len(pairs)} are known" if len(pairs) < count else ""
    tell(cls, f"Embedding {len(pairs)} prompts{others} …")
    progress = Progress(prior_calls(prior.pipeline, prompts, negatives) * settings["num_steps"])
    return embed_prompts(
        prior.pipeline, prompts, negative_prompt=negatives, on_step=lambda: progress.advance(1), black=black, **settings
    )
