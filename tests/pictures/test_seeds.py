"""Prompts of several seeds in pictures: a tree for each, side by side, and a noise of its own to start from."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageChops

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.pictures.dendrogram import draw_dendrogram
from hierdiff_core.pictures.tree import LEFT, draw_tree

TEXTS = [f"prompt {i}" for i in range(6)]


def test_trees_of_several_seeds_are_not_joined():
    tree = PromptTree.of(np.random.default_rng(3).normal(size=(6, 5)), "chord", TEXTS, seeds=[None, 7, 7, None, 7, 9])
    apart, joined = (draw_dendrogram(tree.Z, TEXTS, trees=trees) for trees in (tree.num_trees, 1))
    assert apart.size == joined.size
    assert ImageChops.difference(apart, joined).getbbox() is not None
    plan = plan_for(tree, Budget("saving", 0.3), Profile(6))

    def starts(drawn):
        """How many lines there are at the left of the branches, where the noise is: one for each noise."""
        picture = draw_tree(drawn, TEXTS, lambda wanted: [Image.new("RGB", (8, 8))] * len(wanted)).convert("L")
        dark = np.asarray(picture)[76:, LEFT - 18] < 128  # through the dots
        return int((np.diff(dark.astype(int)) == 1).sum())

    assert (starts(plan), starts(replace(plan, seeds=None))) == (3, 1)
