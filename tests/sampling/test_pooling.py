"""Cluster means: plain averages, exact in counts and order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core.sampling.pooling import cluster_means, rescaled_means

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


@st.composite
def labelled_rows(draw):
    """(N, 2, D) float32 rows, contiguous labels and their counts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clusters = draw(st.integers(1, 6))
    labels = rng.permutation(np.append(np.arange(clusters), rng.integers(clusters, size=draw(st.integers(0, 20)))))
    rows = torch.from_numpy(rng.normal(size=(len(labels), 2, 3)).astype(np.float32))
    return rows, labels, np.bincount(labels)


@given(labelled_rows())
def test_mean_of_each_cluster_is_numpys(problem):
    rows, labels, counts = problem
    means = cluster_means(rows, labels, counts)
    expected = np.stack([rows.numpy()[labels == c].astype(np.float64).mean(axis=0) for c in range(len(counts))])
    assert means.dtype == torch.float32
    np.testing.assert_array_equal(means.numpy(), expected.astype(np.float32))


@given(labelled_rows(), st.randoms(use_true_random=False))
def test_order_of_the_rows_does_not_change_the_means_by_a_bit(problem, random):
    rows, labels, counts = problem
    order = list(range(len(labels)))
    random.shuffle(order)
    assert torch.equal(cluster_means(rows[order], labels[order], counts), cluster_means(rows, labels, counts))


def test_mean_of_one_row_is_the_row_itself():
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cluster_means(rows, np.arange(5), np.ones(5, dtype=np.int64)), rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_more_members_than_half_precision_can_count(dtype):
    rows = torch.ones(4099, 2, dtype=dtype)
    means = cluster_means(rows, np.zeros(4099, dtype=np.int64), np.array([4099]))
    assert means.dtype == torch.float32
    assert torch.equal(means, torch.ones(1, 2))


def test_values_of_unequal_size_do_not_swallow_each_other():
    rows = torch.tensor([[1e8], [1.0], [-1e8], [1.0]])
    assert cluster_means(rows, np.zeros(4, dtype=np.int64), np.array([4])).item() == 0.5


@given(labelled_rows())
def test_rescaled_means_point_as_the_means_do_and_are_as_long_as_their_members(problem):
    rows, labels, counts = problem
    means, rescaled = cluster_means(rows, labels, counts), rescaled_means(rows, labels, counts)
    expected = torch.stack([rows[labels == c].norm(dim=-1).mean(dim=0) for c in range(len(counts))])
    assert rescaled.dtype == torch.float32
    torch.testing.assert_close(rescaled.norm(dim=-1), expected)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(rescaled, dim=-1), unit(means, dim=-1))
    assert torch.equal(rescaled[counts == 1], means[counts == 1])


def test_rescaled_mean_of_one_row_is_the_row_itself():
    rows = torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rescaled_means(rows, np.arange(5), np.ones(5, dtype=np.int64)), rows)


def test_means_without_a_direction_stay_zero():
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 0], [0, 0], [0, 0]])
    rescaled = rescaled_means(rows, np.array([0, 0, 1, 1, 2]), np.array([2, 2, 1]))
    assert torch.equal(rescaled, torch.zeros(3, 2))
