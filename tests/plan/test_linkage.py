"""Linkage and flat clusters: SciPy's own numbers, and what differs on purpose (equal rows, errors)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_isomorphic, linkage
from scipy.spatial.distance import pdist

from hierdiff_core.plan.linkage import METRICS, check_linkage, flat_clusters, merge_errors, ward_linkage

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


def random_embeddings(seed, num_prompts, width=6, duplicates=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_prompts, width))
    return np.concatenate([rows, rows[rng.integers(num_prompts, size=duplicates)]])


seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 25)


def squared_error(x, labels):
    """Squared distances of the unit vectors from their clusters' means; equal rows count once."""
    clusters = [np.unique(x[labels == c], axis=0) for c in set(labels.tolist())]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in clusters]
    return sum(((rows - rows.mean(axis=0)) ** 2).sum() for rows in unit)


@given(seeds, sizes)
def test_cosine_linkage_equals_scipy(seed, n):
    x = random_embeddings(seed, n)
    np.testing.assert_array_equal(ward_linkage(x), linkage(pdist(x, "cosine"), method="ward"))


@given(seeds, sizes)
def test_chord_linkage_is_euclidean_ward_of_unit_vectors(seed, n):
    x = random_embeddings(seed, n)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_array_equal(ward_linkage(x, "chord"), linkage(unit, method="ward"))


@given(seeds, sizes, st.floats(0, 1))
def test_chord_heights_account_for_the_squared_error_of_any_cut(seed, n, share):
    x = random_embeddings(seed, n, duplicates=2)
    Z = ward_linkage(x, "chord")
    t = share * 1.01 * Z[-1, 2]
    error = squared_error(x, flat_clusters(Z, t))
    merged = Z[Z[:, 2] <= t, 2]
    assert (merged**2).sum() / 2 == pytest.approx(error, abs=1e-9)


@given(seeds, sizes, st.integers(0, 3))
def test_chord_merges_cost_half_their_squared_height(seed, n, duplicates):
    x = random_embeddings(seed, n, duplicates=duplicates)
    Z = ward_linkage(x, "chord")
    np.testing.assert_allclose(merge_errors(Z, x), Z[:, 2] ** 2 / 2, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, duplicates=st.integers(0, 3))
def test_errors_of_merges_add_up_to_the_squared_error_of_every_cut(metric, seed, n, duplicates):
    x = random_embeddings(seed, n, duplicates=duplicates)
    Z = ward_linkage(x, metric)
    errors = merge_errors(Z, x)
    for height in Z[:, 2]:
        error = squared_error(x, flat_clusters(Z, height))
        assert errors[Z[:, 2] <= height].sum() == pytest.approx(error, abs=1e-12)
    assert (errors >= 0).all()


def test_errors_of_merges_do_not_depend_on_the_lengths_of_the_embeddings():
    x = random_embeddings(0, 9)
    Z = ward_linkage(x)
    longer = torch.from_numpy(x * np.arange(1, 10)[:, None])
    np.testing.assert_allclose(merge_errors(Z, longer), merge_errors(Z, x), rtol=1e-6)
    assert merge_errors(np.empty((0, 4)), x[:1]).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, duplicates=st.integers(0, 5))
def test_heights_never_decrease(metric, seed, n, duplicates):
    Z = ward_linkage(random_embeddings(seed, n, width=3, duplicates=duplicates), metric)
    assert (np.diff(Z[:, 2]) >= 0).all()
    assert Z.shape == (n + duplicates - 1, 4)
    assert Z[-1, 3] == n + duplicates


@given(seeds, sizes, st.floats(0, 4))
def test_flat_clusters_equal_fcluster_at_any_height(seed, n, t):
    Z = ward_linkage(random_embeddings(seed, n))
    labels = flat_clusters(Z, t)
    assert is_isomorphic(labels, fcluster(Z, t, criterion="distance"))
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))


@given(seeds, sizes)
def test_clusters_merge_at_their_very_height_and_not_below(seed, n):
    Z = ward_linkage(random_embeddings(seed, n))
    for merges, height in enumerate(Z[:, 2], start=1):
        at, below = flat_clusters(Z, height), flat_clusters(Z, np.nextafter(height, 0))
        assert at.max() + 1 == n - merges
        assert below.max() + 1 == n - merges + 1
        assert is_isomorphic(at, fcluster(Z, height, criterion="distance"))


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, duplicates=st.integers(1, 6))
def test_duplicates_change_nothing_but_themselves(metric, seed, n, duplicates):
    x = random_embeddings(seed, n, duplicates=duplicates)
    x = x[np.random.default_rng(seed).permutation(len(x))]
    first = np.sort(np.unique(x, axis=0, return_index=True)[1])
    Z, without = ward_linkage(x, metric), ward_linkage(x[first], metric)
    assert check_linkage(Z)[-1, 3] == len(x)
    np.testing.assert_array_equal(Z[duplicates:, 2], without[:, 2])  # bit-identical
    np.testing.assert_allclose(merge_errors(Z, x)[duplicates:], merge_errors(without, x[first]), rtol=1e-12)
    for height in without[:, 2]:
        np.testing.assert_array_equal(
            *(labels[:, None] == labels for labels in (flat_clusters(Z, height)[first], flat_clusters(without, height)))
        )


def test_minus_zero_equals_zero():
    Z = ward_linkage(np.array([[0.0, 1.0], [1.0, 0.5], [-0.0, 1.0]]))
    assert Z[0].tolist() == [0, 2, 0, 2]


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, duplicates=st.integers(1, 6))
def test_equal_embeddings_merge_at_exactly_zero_and_no_others_do(metric, seed, n, duplicates):
    x = random_embeddings(seed, n, duplicates=duplicates).astype(np.float32)
    Z = ward_linkage(x, metric)
    labels = flat_clusters(Z, 0)
    same = (x[:, None] == x[None]).all(axis=-1)
    np.testing.assert_array_equal(labels[:, None] == labels[None], same)
    assert np.count_nonzero(Z[:, 2] == 0) == duplicates


@pytest.mark.parametrize("metric", METRICS)
def test_parallel_embeddings_of_unequal_length_do_not_share_a_leaf(metric):
    x = np.array([[0.1, 0.7, 0.3], [0.2, 1.4, 0.6], [0.1, 0.7, 0.3], [3.0, -1.0, 0.0]], dtype=np.float32)
    Z = ward_linkage(x, metric)
    labels = flat_clusters(Z, 0)
    assert labels[0] == labels[2]
    assert len(set(labels.tolist())) == 3
    assert 0 < Z[1, 2] < 1e-6


def test_embeddings_a_rounding_error_apart_do_not_share_a_leaf():
    x = np.ones((6, 4), dtype=np.float32)
    x[3:, 0] = np.nextafter(np.float32(1), np.float32(2))
    np.testing.assert_array_equal(
        flat_clusters(ward_linkage(x), 0) == flat_clusters(ward_linkage(x), 0)[0], x[:, 0] == 1
    )


@pytest.mark.parametrize("metric", METRICS)
def test_single_prompt_is_one_leaf(metric):
    Z = ward_linkage([[1.0, 2.0]], metric)
    assert Z.shape == (0, 4)
    assert flat_clusters(Z, 0).tolist() == [0]
    assert flat_clusters(Z, 5.0).tolist() == [0]


def test_labels_are_int64_in_prompt_order():
    labels = flat_clusters(ward_linkage(np.eye(3)), 0)
    assert labels.dtype == np.int64
    assert sorted(labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensors_are_accepted_as_arrays_are(dtype):
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    np.testing.assert_array_equal(ward_linkage(x), ward_linkage(x.detach().float().numpy()))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, 1], "embedding 2 holds NaN or infinity"),
        ([1, -np.inf], "embedding 2 holds NaN or infinity"),
        ([0, 0], "embedding 2 is zero"),
    ],
)
def test_error_names_the_embedding_that_has_no_direction(row, message):
    with pytest.raises(ValueError, match=message):
        ward_linkage([[1, 0], [0, 1], row, [0, 0]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [2.0**495, 2.0**-460])
def test_scale_of_the_embeddings_changes_nothing_to_the_bit(metric, scale):
    x = random_embeddings(0, 12)
    np.testing.assert_array_equal(ward_linkage(x * scale, metric), ward_linkage(x, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e155, 1e160, 1e300, 1e-160, 1e-300])
def test_embeddings_whose_squares_are_no_numbers_are_refused(metric, scale):
    x = random_embeddings(0, 12)
    x[5] *= scale
    with pytest.raises(ValueError, match=r"the largest number of embedding 5 is .*e.*scale the embeddings"):
        ward_linkage(x, metric)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 0), (2, 3, 4)])
def test_embeddings_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"positive must have shape \(N, D\) with N >= 1; got \("):
        ward_linkage(np.ones(shape))


def test_unknown_metric_is_refused_by_name():
    with pytest.raises(ValueError, match="metric must be one of cosine, chord; got 'l1'"):
        ward_linkage(np.eye(3), "l1")


@pytest.mark.parametrize("t", [-0.1, float("nan")])
def test_height_below_zero_or_nan_is_refused(t):
    with pytest.raises(ValueError, match="t must be a height >= 0; got"):
        flat_clusters(ward_linkage(np.eye(3)), t)


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        ([1.0, 2.0, 3.0, 4.0], r"Z must be a linkage matrix of shape \(N-1, 4\); got shape \(4,\)"),
        (np.zeros((2, 3)), r"got shape \(2, 3\)"),
        ([[0, 1, np.nan, 2]], "Z must be finite"),
        ([[0, 1, np.inf, 2]], "Z must be finite"),
        ([[0, 1, -0.5, 2]], "Z of two prompts must merge 0 and 1 at a height >= 0; got"),
        ([[0, 7, 0.5, 2]], "Z of two prompts must merge 0 and 1 at a height >= 0; got"),
        ([[0, 1, -0.5, 2], [2, 3, 0.4, 3]], "negative distances"),
        ([[0, 7, 0.5, 2], [2, 3, 0.6, 3]], "uses non-singleton cluster before it is formed"),
        ([[0, 1, 0.5, 2], [0, 3, 0.6, 3]], "uses the same cluster more than once"),
        ([[0, 1, 0.5, 2], [2, 3, 0.4, 3]], "Z must have heights that do not decrease"),
    ],
)
def test_broken_linkage_matrix_is_refused(Z, message):
    with pytest.raises(ValueError, match=message):
        check_linkage(Z)
    with pytest.raises(ValueError, match=message):
        flat_clusters(Z, 1.0)
