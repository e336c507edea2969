"""The pack's own socket types, and the seed input. Names are permanent: workflows match sockets as strings."""

from typing import Any

from comfy_api.latest import io

Prompts = io.Custom("HIERDIFF_PROMPTS")  # hierdiff_core.prompts.rows.PromptRows, or tuple of str
Prior = io.Custom("HIERDIFF_PRIOR")  # models.LoadedModel of a KandinskyV22PriorPipeline
Embeddings = io.Custom("HIERDIFF_EMBEDDINGS")  # hierdiff_core.PromptEmbeddings
Linkage = io.Custom("HIERDIFF_LINKAGE")  # hierdiff_core.plan.tree.PromptTree
Sensitivity = io.Custom("HIERDIFF_SENSITIVITY")  # hierdiff_core.Sensitivity
Plan = io.Custom("HIERDIFF_PLAN")  # hierdiff_core.Plan
Advice = io.Custom("HIERDIFF_ADVICE")  # hierdiff_core.measure.advice.Advice
Decoder = io.Custom("HIERDIFF_DECODER")  # models.LoadedModel of a KandinskyV22Pipeline
Trunk = io.Custom("HIERDIFF_TRUNK")  # hierdiff_core.sampling.store.Store
Saving = io.Custom("HIERDIFF_SAVING")  # saving.Saving
Workers = io.Custom("HIERDIFF_WORKERS")  # hierdiff_core.sampling.executor.Workers


def rarely_useful(entry: io.WidgetInput) -> io.WidgetInput:
    """The input marked as advanced: Nodes 2.0 shows it on request only, other pages as ever. Workflows do not change.

    As an option of the input, since hosts before ComfyUI 0.10 refuse it as an argument.
    """
    entry.extra_dict = {**entry.extra_dict, "advanced": True}
    return entry


def seed_input(name: str, tooltip: str) -> Any:
    """A seed as the host's own samplers take it, which may change after each run."""
    return io.Int.Input(name, default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)
