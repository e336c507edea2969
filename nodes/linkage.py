"""Ward Linkage: embeddings -> a tree of prompts."""

from typing import NamedTuple

import comfy.model_management
import numpy as np
from comfy_api.latest import io

from ..hierdiff_core.pictures.dendrogram import draw_dendrogram
from ..hierdiff_core.plan.linkage import METRICS, linkage_bytes, linkage_seconds, merge_errors, ward_linkage
from . import types
from .host.decoration import Decorations
from .host.search import search_words
from .host.ui import tell

# From here on a node says beforehand how long it takes.
LONG_SECONDS = 5


class Linkage(NamedTuple):
    """What HIERDIFF_LINKAGE carries: the linkage matrix, what its leaves are, and what each merge costs."""

    Z: np.ndarray
    metric: str
    prompts: tuple[str, ...]
    errors: np.ndarray


class WardLinkage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffWardLinkage",
            display_name="Ward Linkage",
            category="HierDiff",
            **search_words("clustering", "hierarchical clustering", "dendrogram", "group prompts"),
            description="Stage 2: clusters the embeddings into a tree, in which similar prompts join low.",
            inputs=[
                types.Embeddings.Input("embeddings", tooltip="From Prior Embedding or CLIP Embedding."),
                io.Combo.Input(
                    "metric",
                    options=list(METRICS),
                    default="chord",
                    tooltip="chord: straight-line distance between unit vectors; images come closer to full sampling. "
                    "cosine: 1 - cosine of the angle, as in the paper. tau is not comparable between metrics.",
                ),
            ],
            outputs=[
                types.Linkage.Output(display_name="linkage", tooltip="For Threshold Schedule."),
                io.Image.Output(display_name="dendrogram", tooltip="Picture of the tree, with heights on its axis."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, embeddings, metric):
        device = comfy.model_management.get_torch_device()
        needed = linkage_bytes(len(embeddings), embeddings.width, metric, device)
        if needed:  # models that are loaded make room, rather than the clustering fail
            comfy.model_management.free_memory(needed, device)
        seconds = linkage_seconds(len(embeddings), embeddings.width, metric, device)
        long = f" on the CPU takes {about(seconds)}; it can be cancelled" if seconds > LONG_SECONDS else ""
        tell(cls, f"Clustering {len(embeddings)} prompts{long} …")
        stop = comfy.model_management.throw_exception_if_processing_interrupted
        Z = ward_linkage(embeddings.positive, metric, device, check=stop)
        decorations = Decorations()
        picture = decorations.picture("the dendrogram", draw_dendrogram, Z, embeddings.prompts)
        linkage = Linkage(Z, metric, embeddings.prompts, merge_errors(Z, embeddings.positive))
        return io.NodeOutput(linkage, picture, ui=decorations.show(cls, describe(linkage), picture))


def about(seconds):
    """A time of which only the size is known, in words."""
    if seconds < 90:
        return f"about {round(seconds, -1) or 10:.0f} seconds"
    return f"about {seconds / 60:.0f} minutes"


def describe(linkage):
    """What the tree looks like, in words."""
    merges = linkage.Z[:, 2]
    if not len(merges):
        return "1 prompt: nothing to share"
    heights = merges[merges > 0]
    equal = len(merges) - len(heights)
    lines = [f"{len(linkage.prompts)} prompts, {linkage.metric} distance"]
    if len(heights):
        lowest, middle, root = heights[0], np.median(heights), heights[-1]
        lines.append(f"merge heights: lowest {lowest:.4g}, median {middle:.4g}, root {root:.4g}")
    if equal:
        lines.append(f"{equal} prompt{'s equal' if equal > 1 else ' equals'} another: sampled once")
    return "\n".join(lines)
