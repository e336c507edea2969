"""Ward Linkage: embeddings -> a tree of prompts."""

from functools import partial

import numpy as np
from comfy_api.latest import io

from ..hierdiff_core.pictures.dendrogram import draw_dendrogram
from ..hierdiff_core.plan.linkage import METRICS, linkage_bytes, linkage_seconds
from ..hierdiff_core.plan.tree import PromptTree
from . import types
from .host.decoration import Decorations
from .host.device import main_device, make_room, stop_if_cancelled
from .host.plan_texts import seeds_in_words
from .host.search import search_words
from .host.ui import tell

# From here on a node says beforehand how long it takes.
LONG_SECONDS = 5


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
        device = main_device()
        needed = linkage_bytes(len(embeddings), embeddings.width, metric, device)
        if needed:  # models that are loaded make room, rather than the clustering fail
            make_room(needed, device)
        seconds = linkage_seconds(len(embeddings), embeddings.width, metric, device)
        long = f" on the CPU takes {about(seconds)}; it can be cancelled" if seconds > LONG_SECONDS else ""
        tell(cls, f"Clustering {len(embeddings)} prompts{long} …")
        tree = PromptTree.of(embeddings.positive, metric, embeddings.prompts, device=device, check=stop_if_cancelled)
        decorations = Decorations()
        draw = partial(draw_dendrogram, tree.Z, embeddings.prompts, trees=tree.num_trees)
        picture = decorations.picture("the dendrogram", draw)
        return io.NodeOutput(tree, picture, ui=decorations.show(cls, describe(tree), picture))


def about(seconds):
    """A time of which only the size is known, in words."""
    if seconds < 90:
        return f"about {round(seconds, -1) or 10:.0f} seconds"
    return f"about {seconds / 60:.0f} minutes"


def describe(tree):
    """What the tree looks like, in words."""
    if tree.num_prompts == 1:
        return "1 prompt: nothing to share"
    heights, equal = tree.heights, tree.num_prompts - tree.num_distinct
    lines = [f"{tree.num_prompts} prompts, {tree.metric} distance"]
    if len(heights):
        lowest, middle, root = heights[0], np.median(heights), tree.root_height
        lines.append(f"merge heights: lowest {lowest:.4g}, median {middle:.4g}, root {root:.4g}")
    if equal:
        lines.append(f"{equal} prompt{'s equal' if equal > 1 else ' equals'} another: sampled once")
    lines += seeds_in_words(tree)
    return "\n".join(lines)
