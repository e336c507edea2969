"""Calibration: what a probe compares, and that it measures the sensitivity of a model that is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import PromptEmbeddings, build_plan, calibrate, load_decoder, sample, ward_linkage
from hierdiff_core.calibration import Probe, probed_pairs, probed_steps
from hierdiff_core.noise import common_noise
from hierdiff_core.sampling import sample_branches

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

TINY = {"samples": 2, "resolution": 3, "width": 64, "height": 64}


@st.composite
def embeddings(draw):
    """(N, D) of unequal lengths, some of them equal, two at least different."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(2, 12))
    rows = rng.normal(size=(n, 5)) * rng.uniform(0.5, 2, size=(n, 1))
    rows = np.concatenate([rows, rows[rng.integers(n, size=draw(st.integers(0, 4)))]])
    return torch.from_numpy(rows[rng.permutation(len(rows))].astype(np.float32))


@st.composite
def probes(draw):
    positive = draw(embeddings())
    num_steps, samples, resolution = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 14))
    return positive, Probe(positive, num_steps, samples, resolution, draw(st.integers(0, 2**64 - 1)))


def of_leaves(probe, values):
    """Values of the plan's leaves as (B + 1, P, 2, ...)."""
    return values.reshape(len(probe.shared_steps) + 1, len(probe.pairs), 2, *values.shape[1:])


# --- which steps


@given(st.integers(1, 300), st.integers(1, 320))
def test_probed_steps_rise_to_the_last_and_lie_closer_towards_the_end(num_steps, resolution):
    steps = probed_steps(num_steps, resolution)
    widths = np.diff(np.append(0, steps))
    assert len(steps) == min(num_steps, resolution)
    assert steps[-1] == num_steps
    assert (widths >= 1).all()
    assert (np.diff(widths) <= 1).all()  # whole steps: rounding may widen an interval by one
    assert widths[-1] == 1 or len(steps) == 1


def test_probed_steps_of_the_default_run():
    assert probed_steps(40, 12).tolist() == [11, 20, 25, 30, 33, 34, 35, 36, 37, 38, 39, 40]
    assert probed_steps(4, 99).tolist() == [1, 2, 3, 4]
    assert probed_steps(40, 1).tolist() == [40]


# --- which pairs


@given(embeddings(), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_pairs_are_prompts_that_differ_and_each_from_a_merge_of_its_own(positive, samples, seed):
    pairs = probed_pairs(positive, samples, seed)
    distinct = len(np.unique(positive.numpy(), axis=0))
    assert pairs.shape == (min(samples, distinct - 1), 2)
    assert (positive[pairs[:, 0]] != positive[pairs[:, 1]]).any(dim=1).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
    np.testing.assert_array_equal(pairs, probed_pairs(positive, samples, seed))


def test_pairs_come_from_both_sides_of_near_and_far_merges():
    ends = torch.tensor([[1, 0.0], [1, 0.1], [0, 1], [0.1, 1]])  # two near pairs, far from each other
    near, other, far = probed_pairs(ends, 3).tolist()
    assert {frozenset(near), frozenset(other)} == {frozenset({0, 1}), frozenset({2, 3})}
    assert sorted(i // 2 for i in far) == [0, 1]
    (root,) = {frozenset(i // 2 for i in pair) for pair in probed_pairs(ends, 2)[1:].tolist()}
    assert root == {0, 1}


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [[1.0, 2.0]] * 5])
def test_prompts_that_do_not_differ_are_refused(rows):
    with pytest.raises(ValueError, match="needs two with different embeddings; add prompts"):
        Probe(torch.tensor(rows), 10)


@pytest.mark.parametrize(("name", "argument"), [("steps", "num_steps"), ("samples",) * 2, ("resolution",) * 2])
def test_settings_below_one_are_refused(name, argument):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        Probe(torch.eye(3), **{"num_steps": 5, argument: 0})


# --- the plan


@given(probes())
def test_each_pair_shares_the_steps_it_should_and_then_goes_alone(problem):
    _, probe = problem
    counts = [0, *probe.shared_steps]
    for k, step in enumerate(probe.plan.steps):
        clusters = of_leaves(probe, step.labels)
        trunks = [clusters[i] for i, count in enumerate(counts) if count > k]
        alone = [clusters[i] for i, count in enumerate(counts) if count <= k]
        trunk_of_pair = trunks[0][:, 0]
        assert all((trunk == trunk_of_pair[:, None]).all() for trunk in trunks)
        labels = np.concatenate([trunk_of_pair, *(part.ravel() for part in alone)])
        assert sorted(labels) == list(range(step.num_clusters))  # no two of these in one cluster


@given(probes())
def test_plan_is_made_as_other_plans_are(problem):
    _, probe = problem
    before = np.zeros(len(probe.rows), dtype=int)
    for step in probe.plan.steps:
        np.testing.assert_array_equal(step.parents[step.labels], before)
        np.testing.assert_array_equal(step.counts, np.bincount(step.labels))
        np.testing.assert_array_equal(step.labels[step.first], np.arange(step.num_clusters))
        before = step.labels
    assert probe.plan.num_prompts == len(probe.rows) == 2 * len(probe.pairs) * (len(probe.shared_steps) + 1)


@given(probes())
def test_cost_is_a_trunk_for_each_pair_and_two_rows_for_each_step_that_is_not_shared(problem):
    _, probe = problem
    alone = sum(probe.num_steps - count for count in [0, *probe.shared_steps])
    assert probe.plan.nfe == len(probe.pairs) * (probe.num_steps + 2 * alone)


@given(probes())
def test_leaves_are_the_prompts_of_the_pairs(problem):
    positive, probe = problem
    prompts = [f"prompt {i}" for i in range(len(positive))]
    leaves = probe.leaves(PromptEmbeddings(positive, -positive, prompts))
    for part in of_leaves(probe, leaves.positive):
        assert torch.equal(part, positive[torch.from_numpy(probe.pairs)])
    assert torch.equal(leaves.negative, -leaves.positive)
    assert leaves.prompts[:2] == tuple(prompts[i] for i in probe.pairs[0])


# --- the measurement, on a model that is known


@given(probes(), st.integers(0, 2**32 - 1))
def test_linear_model_is_measured_exactly(problem, seed):
    positive, probe = problem
    unit = torch.nn.functional.normalize(positive, dim=1)
    pulls = np.random.default_rng(seed).uniform(0.1, 1, size=probe.num_steps)
    decay = 0.9

    def denoise(latents, k, means):
        return decay * latents + pulls[k] * means[0]

    leaves = probe.leaves(PromptEmbeddings(unit, unit))
    latents = sample_branches(denoise, torch.zeros(1, 5), probe.plan, leaves.stacked())
    measured = probe.sensitivity(latents, scheduler="toy")
    reach = np.cumsum(pulls * decay ** np.arange(probe.num_steps)[::-1])  # of an error in all steps so far
    np.testing.assert_allclose(measured.change, reach[probe.shared_steps - 1] ** 2 / 5, rtol=1e-3)
    assert measured.num_steps == probe.num_steps
    assert measured.shared_steps.tolist() == probe.shared_steps.tolist()
    assert measured.settings == {"pairs": len(probe.pairs), "rows": probe.plan.nfe, "scheduler": "toy"}


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.full((16, 4, 2, 2), torch.nan), "the final latents hold NaN or infinity; load the model in fp32"),
        (torch.zeros(16, 4, 2, 2), "sharing changed no latent"),
    ],
)
def test_latents_that_say_nothing_are_refused(latents, message):
    probe = Probe(torch.eye(3), 5, samples=2, resolution=3)
    with pytest.raises(ValueError, match=message):
        probe.sensitivity(latents)


# --- the bundled model


@pytest.fixture(scope="module")
def four():
    reference = np.load(Path(__file__).parent / "data" / "reference_images.npz")
    positive, negative = torch.from_numpy(reference["E"][:, :4])
    return PromptEmbeddings(positive, negative, reference["prompts"][:4].tolist())


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


def test_more_shared_steps_change_more_of_the_bundled_models_latents(decoder, four):
    steps = []
    measured = calibrate(decoder, four, 4, guidance=3.0, on_step=lambda k, x0: steps.append(len(x0)), **TINY)
    assert measured.shared_steps.tolist() == [2, 3, 4]
    assert (np.diff(measured.change) > 0).all()
    assert measured.change[0] > 0
    assert sum(steps) == measured.settings["rows"]
    assert measured.settings == {"pairs": 2, "rows": 36, "scheduler": "DDPM", "guidance": 3.0, "seed": 0}


def test_measured_change_is_that_of_two_runs_of_their_own(decoder, four):
    two = PromptEmbeddings(four.positive[:2], four.negative[:2], four.prompts[:2])
    measured = calibrate(decoder, two, 4, seed=7, guidance=3.0, **TINY)
    Z = ward_linkage(two.positive, "chord")
    options = {"noise": common_noise(7), "guidance": 3.0, "width": 64, "height": 64}
    shared, alone = (
        sample(decoder, two, build_plan(Z, thresholds), **options) for thresholds in ([2, 2, 0, 0], [0] * 4)
    )
    squared_distances = Z[0, 2] ** 2 / 2
    assert measured.shared_steps[0] == 2
    expected = float((shared - alone).square().mean(dim=(1, 2, 3)).sum()) / squared_distances
    assert measured.change[0] == pytest.approx(expected, rel=1e-4)


def test_calibration_is_the_same_every_time_and_its_seed_matters(decoder, four):
    first, again, other = (calibrate(decoder, four, 2, seed=seed, **TINY).change for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_prompt_is_refused_before_the_unet_runs(decoder, four, monkeypatch):
    monkeypatch.setattr(decoder.unet, "forward", lambda *args, **kwargs: pytest.fail("the UNet was called"))
    one = PromptEmbeddings(four.positive[[0, 0]], four.negative[[0, 0]], [four.prompts[0]] * 2)
    with pytest.raises(ValueError, match="calibration compares prompts, and needs two with different embeddings"):
        calibrate(decoder, one, 4, **TINY)
