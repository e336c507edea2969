"""Any MODEL: the shards of a plan draw what the whole plan draws, bit for bit."""

from dataclasses import replace

import pytest
import torch
from shared_runs import PROMPTS, K, N, ksampler, one_negative, positive_of, shared_model

from hierdiff_core import Budget, Profile, plan_for
from hierdiff_core.plan.algebra import removed, rerolled
from hierdiff_core.plan.guidance import GuidanceCourse
from hierdiff_core.plan.in_set import numbers_in_set
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.shards import shard_of

pytestmark = pytest.mark.host
SHARDS = 3


@pytest.fixture(scope="module")
def texts_of_set(tree):
    """Conditioning of all prompts, with their texts, as CLIP Embedding gives it."""
    positive = positive_of(torch.as_tensor(tree.vectors))
    return [[positive[0][0], {"hierdiff_prompts": tuple(PROMPTS)}]], one_negative()


@pytest.fixture(scope="module")
def plan(tree):
    return plan_for(tree, Budget("saving", 0.4), Profile(K))


def with_history(plan):
    smaller = removed(plan, 2)
    return rerolled(smaller, [Reroll(int(smaller.frozen.present[i]), step, 1) for i, step in ((0, 2), (3, 4))])


def boosted(plan):
    return replace(plan, guidance=GuidanceCourse(boost=1.8, boost_steps=2, end=0.8))


RUNS = [("euler", None), ("dpmpp_2m", with_history), ("euler_ancestral", with_history), ("euler", boosted)]


@pytest.mark.parametrize(("sampler", "change"), RUNS)
def test_shards_draw_the_pictures_of_the_whole_plan(host, model, plan, texts_of_set, sampler, change):
    plan = plan if change is None else change(plan)
    assert plan.clusters_per_step[0] < plan.num_prompts
    whole = ksampler(host, shared_model(host, model, plan)[0], *texts_of_set, sampler)
    drawn = torch.full_like(whole, torch.nan)
    for index in range(1, SHARDS + 1):
        shard = shard_of(plan, index, SHARDS)
        patched, _ = shared_model(host, model, shard)
        drawn[torch.from_numpy(numbers_in_set(shard))] = ksampler(host, patched, *texts_of_set, sampler)
    assert torch.equal(drawn, whole)


@pytest.mark.parametrize("rows", [N, 2])
def test_start_latents_of_their_own_are_refused(host, model, plan, texts_of_set, rows):
    """Whether others of the set start from an equal one is not known to a shard."""
    shard = shard_of(plan, 1, SHARDS)
    assert shard.num_prompts == 2
    latents = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match="start latents differ between the prompts of a shard: only texts, seeds"):
        ksampler(host, shared_model(host, model, shard)[0], *texts_of_set, latents=latents)
