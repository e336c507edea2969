"""A plan and what it is used with."""

import numpy as np
import pytest
import torch

from hierdiff_core import (
    Budget,
    Plan,
    Profile,
    PromptEmbeddings,
    PromptTree,
    Step,
    build_plan,
    linear_thresholds,
    plan_for,
    ward_linkage,
)
from hierdiff_core.embeddings import IMAGE_EMBEDDINGS, check_image_embeddings
from hierdiff_core.plan.algebra import attach
from hierdiff_core.plan.keys import text_key
from hierdiff_core.plan.matching import check_leaves, check_plan_prompts, separated
from hierdiff_core.sampling.finite import latents_not_finite, rows_not_finite

PROMPTS = ["a red apple", "a green apple", "a cat"]
VECTORS = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.0]])


def plan_of(prompts, texts=True):
    Z = ward_linkage(torch.eye(len(prompts)))
    return build_plan(Z, [0.0], [text_key(p) for p in prompts], prompts=prompts if texts else None)


@pytest.mark.parametrize("texts", [True, False])
def test_plan_of_other_prompts_is_refused_by_the_first_that_differs(texts):
    plan = plan_of(PROMPTS, texts)
    check_plan_prompts(plan, PROMPTS)
    there = 'is "a cat" in the plan' if texts else "is not the plan's"
    with pytest.raises(ValueError, match=rf'made from other prompts: prompt 2 {there}.* "a dog" here'):
        check_plan_prompts(plan, [*PROMPTS[:2], "a dog"])
    with pytest.raises(ValueError, match=r"made from these prompts in another order: prompt 0 is"):
        check_plan_prompts(plan, PROMPTS[::-1])


def test_plan_that_knows_no_prompts_passes():
    check_plan_prompts(build_plan(ward_linkage(torch.eye(3)), [0.0]), PROMPTS)


def test_plan_that_makes_one_picture_of_different_embeddings_is_refused():
    plan = build_plan(ward_linkage(VECTORS), [0.0])
    prompts = ["a", "b", "c", "d"]
    check_leaves(plan, PromptEmbeddings(VECTORS, VECTORS, prompts))
    other = VECTORS.clone()
    other[3, 1] = 1e-7
    with pytest.raises(ValueError, match=r'one picture of prompt 0 \("a"\) and prompt 3 \("d"\), whose embed'):
        check_leaves(plan, PromptEmbeddings(other, other, prompts))


def test_plan_made_by_hand_may_join_what_it_likes():
    one = Step(np.zeros(4, dtype=int), np.array([0]), np.array([4]), parents=np.array([0]))
    plan = Plan(np.zeros(1), (one,))
    check_leaves(plan, PromptEmbeddings(VECTORS, VECTORS))
    assert separated(plan, [0, 1, 2, 3]) is plan


@pytest.mark.parametrize("tau", [0.0, 3.0])
def test_groups_are_separated_where_the_threshold_is_zero(tau):
    plan = build_plan(ward_linkage(VECTORS), linear_thresholds(4, tau), range(4))
    assert separated(plan, [0, 0, 0, 0]) is plan
    assert separated(plan, [5, 1, 2, 5]) is plan
    parted = separated(plan, [0, 0, 0, 1])
    assert parted.steps[-1].num_clusters == 4
    assert parted.clusters_per_step[0] == (4 if tau == 0 else 1)
    previous = np.zeros(4, dtype=int)
    for threshold, ours, before in zip(plan.thresholds, parted.steps, plan.steps, strict=True):
        assert ours.num_clusters == before.num_clusters + (threshold == 0)
        assert (ours.labels[ours.first] == np.arange(ours.num_clusters)).all()
        assert (ours.counts == np.bincount(ours.labels)).all()
        assert (ours.parents == previous[ours.first]).all()
        assert (ours.parents[ours.labels] == previous).all()
        previous = ours.labels
    assert (parted.prompt_keys, parted.Z is plan.Z) == (plan.prompt_keys, True)


def test_embeddings_of_another_encoder_are_refused_though_they_are_as_wide():
    rows = torch.eye(2)
    check_image_embeddings(PromptEmbeddings(rows, rows), 2)
    check_image_embeddings(PromptEmbeddings(rows, rows, kind=IMAGE_EMBEDDINGS), 2)
    with pytest.raises(ValueError, match=r"embeddings are text embeddings, but this decoder takes image embeddings"):
        check_image_embeddings(PromptEmbeddings(rows, rows, kind="text embeddings"), 2)
    with pytest.raises(ValueError, match="embeddings are 2 wide, but this decoder takes 3"):
        check_image_embeddings(PromptEmbeddings(rows, rows), 3)


def test_latents_that_are_not_finite_are_named():
    latents = torch.ones(8, 4, 2, 2)
    assert latents_not_finite(latents, "abcdefgh", "") is None
    latents[1, 0, 0, 0], latents[3, 3, 1, 1] = torch.nan, -torch.inf
    assert rows_not_finite(latents) == [1, 3]
    problem = latents_not_finite(latents, "abcdefgh", "use fp32")
    assert problem.startswith("2 of 8 latents hold NaN or infinity")
    assert problem.endswith('prompts 1 ("b"), 3 ("d"); use fp32')
    latents[:7] = torch.nan
    assert '4 ("e") and 2 more; use fp32' in latents_not_finite(latents, "abcdefgh", "use fp32")
    with pytest.raises(ValueError, match="all 8 latents hold NaN or infinity; use fp32"):
        latents_not_finite(latents * torch.nan, "abcdefgh", "use fp32")


def test_plan_that_prompts_were_attached_to_is_for_all_of_them():
    rows = [[1, 0], [0.8, 0.6], [0, 1]]
    plan = plan_for(PromptTree.of(rows, "chord", PROMPTS), Budget("saving", 0.4), Profile(10))
    grown = attach(plan, rows, [[0.96, 0.28]], [text_key("a dog")], ["a dog"])
    check_plan_prompts(grown, [*PROMPTS, "a dog"])
    with pytest.raises(ValueError, match='prompt 3 is "a dog" in the plan, but "a cow" here'):
        check_plan_prompts(grown, [*PROMPTS, "a cow"])
