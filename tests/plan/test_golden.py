"""Plans and images against arrays that were made without this package (tests/data/make_*.py).

A folder `../shared/golden` beside the checkout, where there is one, gives more of them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hierdiff_core import PromptEmbeddings, build_plan, linear_thresholds, load_decoder, sample, ward_linkage
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.sampling.pooling import cluster_means

DATA = Path(__file__).parent.parent / "data"
SHARED = Path(__file__).parent.parent.parent.parent / "shared" / "golden"
# What drew the images there: its weights are not those of the bundled model.
SHARED_DECODER = SHARED.parent / "models" / "emoji-kandinsky" / "decoder"


def step_sets():
    paths = [path for path in (DATA / "reference.json", SHARED / "reference_steps.json") if path.exists()]
    return [
        pytest.param(reference, id=f"{path.parent.name}-{reference['N']}-prompts-{i}")
        for path in paths
        for i, reference in enumerate(json.loads(path.read_text()))
    ]


def image_sets():
    sets = (DATA / "reference_images.npz", BUNDLED / "decoder"), (SHARED / "reference_images.npz", SHARED_DECODER)
    return [pytest.param(*paths, id=paths[0].parent.name) for paths in sets if all(path.exists() for path in paths)]


def plan_of(reference):
    Z = ward_linkage(np.array(reference["embeddings"])[0])
    return build_plan(Z, linear_thresholds(reference["K"], reference["tau"]))


def renumbering(step, expected):
    """(C,) the reference's number of each of our clusters; fails unless the partitions are the same."""
    pairs = sorted(set(zip(step.labels.tolist(), expected["labels"], strict=True)))
    ours, theirs = zip(*pairs, strict=True)
    assert list(ours) == list(range(step.num_clusters))
    assert sorted(theirs) == list(range(step.num_clusters))
    return np.array(theirs)


@pytest.mark.parametrize("reference", step_sets())
def test_linkage_and_thresholds_equal_the_reference(reference):
    Z = ward_linkage(np.array(reference["embeddings"])[0])
    np.testing.assert_allclose(Z, reference["Z"], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(linear_thresholds(reference["K"], reference["tau"]), reference["phi"])


@pytest.mark.parametrize("reference", step_sets())
def test_every_field_of_the_plan_equals_the_reference(reference):
    plan = plan_of(reference)
    assert plan.nfe == reference["nfe"]
    assert plan.num_steps == len(reference["steps"]) == reference["K"]
    before = np.array([0])
    for step, expected in zip(plan.steps, reference["steps"], strict=True):
        number = renumbering(step, expected)
        np.testing.assert_array_equal(step.first, np.array(expected["first"])[number])
        np.testing.assert_array_equal(step.counts, np.array(expected["counts"])[number])
        np.testing.assert_array_equal(before[step.parents], np.array(expected["parents"])[number])
        before = number


@pytest.mark.parametrize("reference", step_sets())
def test_mean_embeddings_of_one_step_equal_the_reference(reference):
    half = reference["mean_embeddings_at_half"]
    step = plan_of(reference).steps[half["step"]]
    number = renumbering(step, reference["steps"][half["step"]])
    rows = torch.tensor(reference["embeddings"]).transpose(0, 1)
    means = cluster_means(rows, step.labels, step.counts).transpose(0, 1)
    np.testing.assert_allclose(means, np.array(half["value"])[:, number], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("path", "folder"), image_sets())
def test_latents_equal_the_paper_loop_written_out(path, folder, one_thread):
    reference = np.load(path)
    embeddings = PromptEmbeddings(*torch.from_numpy(reference["E"]), prompts=reference["prompts"].tolist())
    x0 = torch.from_numpy(reference["x0"])
    plan = build_plan(
        ward_linkage(embeddings.positive), linear_thresholds(int(reference["K"]), float(reference["tau"]))
    )
    assert plan.nfe == reference["nfe"]
    decoder = load_decoder(folder)  # before the seed: loading may draw from torch's global generator
    torch.manual_seed(int(reference["seed"]))
    assert torch.equal(torch.randn(x0.shape), x0)
    final = sample(
        decoder,
        embeddings,
        plan,
        guidance=float(reference["guidance"]),
        width=128,
        height=128,
        latents=x0,
        noise=lambda k, branches: None,
    )
    torch.testing.assert_close(final, torch.from_numpy(reference["final"]), rtol=0, atol=1e-4)


@pytest.fixture
def one_thread():
    """The model is so small that more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
