"""The pack's own socket types, and the seed input. Names are permanent: workflows match sockets as strings."""

from typing import Any

from comfy_api.latest import io

Prompts = io.Custom("HIERDIFF_PROMPTS")  # tuple of str
Prior = io.Custom("HIERDIFF_PRIOR")  # models.LoadedModel of a KandinskyV22PriorPipeline
Embeddings = io.Custom("HIERDIFF_EMBEDDINGS")  # hierdiff_core.PromptEmbeddings
Linkage = io.Custom("HIERDIFF_LINKAGE")  # linkage.Linkage
Sensitivity = io.Custom("HIERDIFF_SENSITIVITY")  # hierdiff_core.Sensitivity
Plan = io.Custom("HIERDIFF_PLAN")  # hierdiff_core.Plan
Decoder = io.Custom("HIERDIFF_DECODER")  # models.LoadedModel of a KandinskyV22Pipeline


def seed_input(name: str, tooltip: str) -> Any:
    """A seed as the host's own samplers take it, which may change after each run."""
    return io.Int.Input(name, default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)
