"""benchmarks/conditioning.py: what may stand for a cluster, on a tiny model with random weights."""

import importlib

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.host

PROMPTS = ["a red apple", "a green apple", "a red teapot", "a blue teapot"]


@pytest.fixture(scope="module")
def script(pack):
    return importlib.import_module("benchmarks.conditioning")


@pytest.fixture(scope="module")
def experiment(script, pack):
    model = importlib.import_module("native_models").unet_model()
    return script.Experiment(pack, model, script.small_clip(), PROMPTS, 6, 4.0, torch.zeros(1, 4, 8, 8))


def test_mean_of_equal_words_is_the_prompts_own_encoding(script, experiment):
    tokens = script.mean_words(experiment.clip, [PROMPTS[0]] * 3)
    assert torch.equal(experiment.clip.encode_from_tokens(tokens), experiment.positive[0][0][:1])


def test_mean_of_words_is_of_their_embeddings_alone(script, experiment):
    """Two prompts that differ in one word: only its place is a mean."""
    (chunk,) = script.mean_words(experiment.clip, PROMPTS[:2])["l"]
    (own,), (other,) = (experiment.clip.tokenize(prompt)["l"] for prompt in PROMPTS[:2])
    table = script.word_table(experiment.clip, "l")
    places = [i for i, word in enumerate(chunk) if torch.is_tensor(word[0])]
    assert len(places) == 1
    expected = (table[own[places[0]][0]] + table[other[places[0]][0]]) / 2
    torch.testing.assert_close(chunk[places[0]][0], expected.float())
    assert not torch.equal(experiment.clip.encode_from_tokens({"l": [chunk]}), experiment.positive[0][0][:1])


def test_medoid_is_the_member_nearest_to_the_mean(script, experiment):
    rows = torch.tensor([[[0.0]], [[1.0]], [[1.2]], [[3.0]]])
    standing = script.Standing(experiment.rows, experiment.clip, PROMPTS, rows, "medoid")
    assert standing.medoid([0, 1, 3]) == 1
    assert standing.medoid([2, 3]) in (2, 3)


def test_each_way_is_heeded_at_equal_rows_and_the_mean_is_as_shipped(script, experiment):
    plan = experiment.trunk(0.6)
    assert plan.clusters_per_step[0] == 1
    drawn = {None: experiment.draw(plan, 0)}
    for way in script.WAYS:
        standing = script.Standing(experiment.rows, experiment.clip, PROMPTS, experiment.positive[0][0], way)
        with standing.in_force():
            drawn[way] = experiment.draw(plan, 0)
    assert torch.equal(drawn["mean"], drawn[None])
    assert len({latents.numpy().tobytes() for latents in drawn.values()}) == 3
    assert torch.equal(experiment.draw(plan, 0), drawn[None])  # nothing stays behind


def test_losses_grow_from_nothing_with_the_trunk(script, experiment):
    found = list(experiment.losses(1, levels=(1.0, 0.3)))
    assert [rows for _, rows, _ in found] == sorted((rows for _, rows, _ in found), reverse=True)
    (_, rows, nothing), (_, _, shared) = found
    assert rows == 6
    assert all(loss == [0.0] for loss in nothing.values())
    assert all(np.isfinite(loss).all() and loss[0] > 0 for loss in shared.values())
