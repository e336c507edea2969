"""Kandinsky: the shards of a plan draw what the whole plan draws, bit for bit."""

from dataclasses import replace

import pytest
import torch

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, load_decoder, plan_for, sample
from hierdiff_core.plan.algebra import removed, rerolled
from hierdiff_core.plan.guidance import GuidanceCourse
from hierdiff_core.plan.in_set import numbers_in_set
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.shards import shard_of
from hierdiff_core.prompts.rows import PromptRow, PromptRows

SMALL = {"width": 64, "height": 64, "seed": 3}
N, STEPS, SHARDS = 7, 5, 3


@pytest.fixture(scope="module")
def decoder():
    torch.set_num_threads(1)
    return load_decoder()


@pytest.fixture(scope="module")
def embeddings(decoder):
    generator = torch.Generator().manual_seed(2)
    width = decoder.unet.config.encoder_hid_dim
    rows = torch.randn(2, width, generator=generator)[[0, 1, 0, 1, 0, 0, 1]]
    rows += 0.4 * torch.randn(N, width, generator=generator)
    rows[4] = rows[0]
    texts = ["a", "b", "c", "d", "e", "f", "b"]  # one text twice, with another embedding
    return PromptEmbeddings(rows, 0.1 * rows.flip(0), texts)


def planned(embeddings):
    tree = PromptTree.of(embeddings.positive, "chord", embeddings.prompts)
    return plan_for(tree, Budget("saving", 0.45), Profile(STEPS))


def drawn_in_shards(decoder, embeddings, plan, **settings):
    """The latents of all shards, put together in the order of the set."""
    shards = [shard_of(plan, index, SHARDS) for index in range(1, SHARDS + 1)]
    made = [sample(decoder, embeddings, shard, **settings, **SMALL) for shard in shards]
    latents = torch.full((plan.num_prompts, *made[0].shape[1:]), torch.nan)
    for shard, own in zip(shards, made, strict=True):
        latents[torch.from_numpy(numbers_in_set(shard))] = own
    return latents


@pytest.mark.parametrize(("scheduler", "order"), [("DDPM", "breadth first"), ("DPM++ 2M", "depth first")])
def test_shards_draw_the_pictures_of_the_whole_plan(decoder, embeddings, scheduler, order):
    plan, settings = planned(embeddings), {"scheduler": scheduler, "order": order}
    whole = sample(decoder, embeddings, plan, **settings, **SMALL)
    assert torch.equal(drawn_in_shards(decoder, embeddings, plan, **settings), whole)


def with_history(plan):
    leaf = removed(plan, 2)
    return rerolled(leaf, [Reroll(int(leaf.frozen.present[3]), 1, 1), Reroll(int(leaf.frozen.present[0]), 3, 2)])


def boosted(plan):
    return replace(plan, guidance=GuidanceCourse(boost=1.8, boost_steps=2, end=0.8))


@pytest.mark.parametrize("change", [with_history, boosted, lambda plan: boosted(with_history(plan))])
def test_so_do_those_of_plans_with_history_rerolls_and_a_course_of_guidance(decoder, embeddings, change):
    plan = change(planned(embeddings))
    whole = sample(decoder, embeddings, plan, scheduler="DDIM", **SMALL)
    assert torch.equal(drawn_in_shards(decoder, embeddings, plan, scheduler="DDIM"), whole)


def test_so_do_those_of_rows_with_seeds_and_variants(decoder, embeddings):
    own = [(None, None), (7, None), (None, None), (7, None), (None, (1, 0.5)), (None, None), (None, None)]
    rows = [PromptRow(text, seed=seed, variant=v) for text, (seed, v) in zip(embeddings.prompts, own, strict=True)]
    embeddings = PromptEmbeddings(embeddings.positive, embeddings.negative, PromptRows(rows))
    plan = planned(embeddings)
    whole = sample(decoder, embeddings, plan, **SMALL)
    assert torch.equal(drawn_in_shards(decoder, embeddings, plan), whole)
