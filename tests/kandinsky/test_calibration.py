"""Calibration: what a probe compares, and that it measures the sensitivity of a model that is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cut_tree

from hierdiff_core import PromptEmbeddings, build_plan, calibrate, load_decoder, sample, ward_linkage
from hierdiff_core.measure.calibration import calibrate_with
from hierdiff_core.measure.probe import Probe, probed_prompts, probed_steps
from hierdiff_core.sampling.loop import denoise_plan
from hierdiff_core.sampling.noise import common_noise
from hierdiff_core.sampling.state import State

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

TINY = {"samples": 3, "resolution": 3, "width": 64, "height": 64}


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
    num_steps, samples, resolution = draw(st.integers(1, 12)), draw(st.integers(2, 8)), draw(st.integers(1, 14))
    return positive, Probe(positive, num_steps, samples, resolution, draw(st.integers(0, 2**64 - 1)))


def of_leaves(probe, values):
    """Values of the plan's leaves as (B + 1, S, ...)."""
    return values.reshape(len(probe.shared_steps) + 1, len(probe.prompts), *values.shape[1:])


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


# --- which prompts


@given(embeddings(), st.integers(2, 20), st.integers(0, 2**64 - 1))
def test_prompts_are_one_of_each_flat_cluster(positive, samples, seed):
    prompts = probed_prompts(positive, samples, seed)
    distinct = len(np.unique(positive.numpy(), axis=0))
    assert len(prompts) == min(samples, distinct)
    assert (np.diff(prompts) > 0).all()
    clusters = cut_tree(ward_linkage(positive, "chord"), n_clusters=len(prompts)).ravel()
    assert sorted(clusters[prompts]) == list(range(len(prompts)))
    np.testing.assert_array_equal(prompts, probed_prompts(positive, samples, seed))


def test_prompts_come_from_all_parts_of_the_set_and_their_seed_matters():
    part = np.array([0] * 10 + [1] * 2 + [2, 3])
    ends = torch.eye(4)[part] + 0.05 * torch.randn(14, 4, generator=torch.Generator().manual_seed(0))
    drawn = [probed_prompts(ends, 4, seed) for seed in range(100)]
    assert all(part[prompts].tolist() == [0, 1, 2, 3] for prompts in drawn)
    assert set(np.concatenate(drawn)) == set(range(14))


@pytest.mark.parametrize("count", range(2, 9))
def test_prompts_that_are_all_as_far_apart_are_as_many_as_asked_for(count):
    for samples in range(2, count + 1):
        assert len(Probe(torch.eye(count), 5, samples).prompts) == samples


@given(probes())
def test_squared_error_is_that_of_the_unit_vectors_from_their_mean(problem):
    positive, probe = problem
    unit = positive[probe.prompts].double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    between = np.square(unit[:, None] - unit).sum()  # each two prompts, both ways
    assert probe.squared_error == pytest.approx(between / (2 * len(unit)), rel=1e-9)


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [[1.0, 2.0]] * 5])
def test_prompts_that_do_not_differ_are_refused(rows):
    with pytest.raises(ValueError, match="needs two with different embeddings; add prompts"):
        Probe(torch.tensor(rows), 10)


@pytest.mark.parametrize("lengths", [[1, 2], [1, 3, 5, 7], list(range(1, 40))])
def test_prompts_that_differ_in_length_only_are_refused(lengths):
    rows = torch.outer(torch.tensor(lengths, dtype=torch.float32), torch.tensor([1.0, 0.3, -0.7]))
    with pytest.raises(ValueError, match="these point the same way; add prompts that differ"):
        Probe(rows, 10)


@pytest.mark.parametrize(
    ("name", "argument", "least"),
    [("steps", "num_steps", 1), ("samples", "samples", 2), ("resolution", "resolution", 1)],
)
def test_settings_below_the_least_are_refused(name, argument, least):
    assert Probe(torch.eye(3), **{"num_steps": 5, argument: least}).plan.nfe > 0
    for value in (least - 1, -3):
        with pytest.raises(ValueError, match=f"{name} must be at least {least}; got {value}"):
            Probe(torch.eye(3), **{"num_steps": 5, argument: value})


# --- the plan


@given(probes())
def test_all_share_one_trunk_as_long_as_they_should_and_then_go_alone(problem):
    _, probe = problem
    counts = [0, *probe.shared_steps]
    for k, step in enumerate(probe.plan.steps):
        clusters = of_leaves(probe, step.labels)
        shared = np.concatenate([clusters[i] for i, count in enumerate(counts) if count > k])
        alone = np.concatenate([clusters[i] for i, count in enumerate(counts) if count <= k] or [shared[:0]])
        assert len(set(shared)) == 1
        assert sorted([shared[0], *alone]) == list(range(step.num_clusters))  # no two of these in one cluster


@given(probes())
def test_plan_is_made_as_other_plans_are(problem):
    _, probe = problem
    before = np.zeros(len(probe.rows), dtype=int)
    for step in probe.plan.steps:
        np.testing.assert_array_equal(step.parents[step.labels], before)
        np.testing.assert_array_equal(step.counts, np.bincount(step.labels))
        np.testing.assert_array_equal(step.labels[step.first], np.arange(step.num_clusters))
        before = step.labels
    assert probe.plan.num_prompts == len(probe.rows) == len(probe.prompts) * (len(probe.shared_steps) + 1)


@given(probes())
def test_cost_is_one_trunk_and_a_row_of_each_prompt_for_each_step_that_is_not_shared(problem):
    _, probe = problem
    alone = sum(probe.num_steps - count for count in [0, *probe.shared_steps])
    assert probe.plan.nfe == probe.num_steps + len(probe.prompts) * alone


def test_cost_counted_by_hand():
    probe = Probe(torch.eye(3), 5, samples=3, resolution=3)
    assert probe.shared_steps.tolist() == [3, 4, 5]
    trunk, unshared = 1, 3
    assert probe.plan.clusters_per_step.tolist() == [
        trunk + unshared,
        trunk + unshared,
        trunk + unshared,
        trunk + unshared + 3,  # those who shared three
        trunk + unshared + 3 + 3,
    ]
    assert probe.plan.nfe == 29


@pytest.mark.parametrize(("num_steps", "rows"), [(40, 1176), (20, 756)])
def test_cost_of_the_nodes_defaults(num_steps, rows):
    assert Probe(torch.eye(30), num_steps).plan.nfe == rows  # as their help says


@given(probes())
def test_leaves_are_the_prompts_once_for_each_number_of_shared_steps(problem):
    positive, probe = problem
    prompts = [f"prompt {i}" for i in range(len(positive))]
    leaves = probe.leaves(PromptEmbeddings(positive, -positive, prompts))
    for part in of_leaves(probe, leaves.positive):
        assert torch.equal(part, positive[torch.from_numpy(probe.prompts)])
    assert torch.equal(leaves.negative, -leaves.positive)
    assert leaves.prompts == tuple(prompts[i] for i in probe.prompts) * (len(probe.shared_steps) + 1)


# --- the measurement, on a model that is known


@given(probes(), st.integers(0, 2**32 - 1))
def test_linear_model_is_measured_exactly(problem, seed):
    positive, probe = problem
    unit = torch.nn.functional.normalize(positive, dim=1)
    pulls = np.random.default_rng(seed).uniform(0.1, 1, size=probe.num_steps)
    decay = 0.9

    def step(latents, k, clusters, means, state):
        return decay * latents + pulls[k] * means[0], state

    def draw(plan, leaves):
        assert plan is probe.plan
        embeddings = torch.stack([unit[leaves], unit[leaves]])
        return denoise_plan(plan, torch.zeros(1, 5), State(), step, embeddings)

    measured = calibrate_with(draw, probe, scheduler="toy")
    reach = np.cumsum(pulls * decay ** np.arange(probe.num_steps)[::-1])  # of an error in all steps so far
    np.testing.assert_allclose(measured.change, reach[probe.shared_steps - 1] ** 2 / 5, rtol=1e-3)
    assert measured.num_steps == probe.num_steps
    assert measured.shared_steps.tolist() == probe.shared_steps.tolist()
    assert measured.settings == {"prompts": len(probe.prompts), "rows": probe.plan.nfe, "scheduler": "toy"}


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.full((12, 4, 2, 2), torch.nan), "the final latents hold NaN or infinity; load the model in fp32"),
        (torch.zeros(12, 4, 2, 2), "sharing changed no latent"),
    ],
)
def test_latents_that_say_nothing_are_refused(latents, message):
    probe = Probe(torch.eye(3), 5, samples=3, resolution=3)
    with pytest.raises(ValueError, match=message):
        probe.sensitivity(latents)


@pytest.mark.parametrize("count", [0, 11, 13, 24])
def test_latents_that_are_not_those_of_the_leaves_are_refused(count):
    probe = Probe(torch.eye(3), 5, samples=3, resolution=3)
    with pytest.raises(ValueError, match=rf"each of the plan's 12 leaves \(Probe.rows\); got {count}$"):
        probe.sensitivity(torch.rand(count, 3, 4))


@pytest.mark.parametrize("to", [torch.Tensor.bfloat16, lambda x: x.clone().requires_grad_(), torch.Tensor.tolist])
def test_embeddings_may_be_of_any_precision_and_hold_a_graph(to):
    rows = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.25, 1.0]])
    expected, probe = Probe(rows, 5, samples=3), Probe(to(rows), 5, samples=3)
    assert (probe.squared_error, probe.rows.tolist()) == (expected.squared_error, expected.rows.tolist())


# --- the bundled model


@pytest.fixture(scope="module")
def four():
    reference = np.load(Path(__file__).parent.parent / "data" / "reference_images.npz")
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
    assert measured.settings == {"prompts": 3, "rows": 25, "scheduler": "DDPM", "guidance": 3.0, "seed": 0}


def test_prompts_that_share_some_steps_are_runs_of_their_own(decoder, four):
    options = {"noise": common_noise(7), "guidance": 3.0, "width": 64, "height": 64}
    probe = Probe(four.positive, 4, samples=3, resolution=3, seed=7)
    shared = of_leaves(probe, sample(decoder, probe.leaves(four), probe.plan, **options))
    some = [four.prompts[i] for i in probe.prompts]
    some = PromptEmbeddings(four.positive[probe.prompts], four.negative[probe.prompts], some)
    Z = ward_linkage(some.positive, "chord")
    runs = [sample(decoder, some, build_plan(Z, [2.0] * count + [0.0] * (4 - count)), **options) for count in (0, 2, 3)]
    for latents, run in zip(shared[:3], runs, strict=True):
        torch.testing.assert_close(latents, run, rtol=1e-4, atol=1e-4)
    assert torch.equal(shared[3], shared[3][[0, 0, 0]])  # all steps shared: one picture for all
    measured = calibrate(decoder, four, 4, seed=7, guidance=3.0, **TINY)
    unit = torch.nn.functional.normalize(some.positive, dim=1)
    squared_error = (unit - unit.mean(dim=0)).square().sum()
    expected = [float((run - runs[0]).square().mean(dim=(1, 2, 3)).sum() / squared_error) for run in runs[1:]]
    assert measured.shared_steps.tolist() == [2, 3, 4]
    assert measured.change[:2].tolist() == pytest.approx(expected, rel=1e-4)


def test_calibration_is_the_same_every_time_and_its_seed_matters(decoder, four):
    first, again, other = (calibrate(decoder, four, 2, seed=seed, **TINY).change for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_prompt_is_refused_before_the_unet_runs(decoder, four, monkeypatch):
    monkeypatch.setattr(decoder.unet, "forward", lambda *args, **kwargs: pytest.fail("the UNet was called"))
    one = PromptEmbeddings(four.positive[[0, 0]], four.negative[[0, 0]], [four.prompts[0]] * 2)
    with pytest.raises(ValueError, match="calibration compares prompts, and needs two with different embeddings"):
        calibrate(decoder, one, 4, **TINY)
