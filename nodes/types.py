"""The pack's own socket types. Their names are permanent: saved workflows match them as strings."""

from comfy_api.latest import io

Prompts = io.Custom("HIERDIFF_PROMPTS")  # tuple of str
Prior = io.Custom("HIERDIFF_PRIOR")  # models.LoadedModel of a KandinskyV22PriorPipeline
Embeddings = io.Custom("HIERDIFF_EMBEDDINGS")  # hierdiff_core.PromptEmbeddings
Linkage = io.Custom("HIERDIFF_LINKAGE")  # linkage.Linkage
Plan = io.Custom("HIERDIFF_PLAN")  # hierdiff_core.Plan
Decoder = io.Custom("HIERDIFF_DECODER")  # models.LoadedModel of a KandinskyV22Pipeline
