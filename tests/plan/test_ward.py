"""Ward linkage with torch against SciPy's, on the CPU: the same code runs on a GPU (tests/test_gpu.py)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_isomorphic, linkage
from scipy.spatial.distance import squareform

from hierdiff_core.plan import linkage as core
from hierdiff_core.plan import scipy_ward
from hierdiff_core.plan.linkage import (
    METRICS,
    SMALLEST_DISTANCE,
    check_linkage,
    flat_clusters,
    linkage_bytes,
    ward_linkage,
)
from hierdiff_core.plan.ward_torch import (
    DistanceMatrix,
    chain_merges,
    check_matrix_fits,
    condensed_distances,
    pairwise_distances,
    to_linkage_matrix,
    ward_chain,
)

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


def scipy_distances(x, metric):
    return scipy_ward.condensed_distances(x, metric, SMALLEST_DISTANCE)


CPU = torch.device("cpu")
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 40)


def random_embeddings(seed, n, duplicates):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 6))
    rows = np.concatenate([rows, rows[rng.integers(n, size=duplicates)]])
    return rows[rng.permutation(len(rows))]


def tree_of_scipy(x, metric):
    """SciPy's own tree, in which equal rows count as often as they are there."""
    return linkage(scipy_distances(x, metric), "ward")


def assert_same_tree(Z, expected):
    check_linkage(Z)
    np.testing.assert_allclose(Z[:, 2], expected[:, 2], rtol=0, atol=1e-5)
    for height in np.unique(expected[:, 2]):
        t = height * (1 + 1e-9) + 1e-12  # above the rounding of both
        assert is_isomorphic(fcluster(Z, t, criterion="distance"), fcluster(expected, t, criterion="distance"))


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, duplicates=st.integers(0, 12))
def test_chain_makes_the_tree_of_scipy(metric, seed, n, duplicates):
    x = random_embeddings(seed, n, duplicates)
    Z = ward_chain(x, metric, SMALLEST_DISTANCE, CPU)
    assert_same_tree(Z, tree_of_scipy(x, metric))
    same = (x[:, None] == x[None]).all(axis=-1)
    labels = flat_clusters(Z, 0)
    np.testing.assert_array_equal(labels[:, None] == labels[None], same)


@given(st.integers(2, 40), st.integers(0, 2), seeds)
def test_points_that_are_all_equally_far_apart_merge_as_in_scipy(n, copies, seed):
    x = np.concatenate([np.eye(n)] * (copies + 1))[np.random.default_rng(seed).permutation(n * (copies + 1))]
    expected = tree_of_scipy(x, "cosine")
    assert_same_tree(chain_of_matrix(scipy_distances(x, "cosine")), expected)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, width=st.sampled_from([4, 16, 64]), kind=st.sampled_from(["signs", "axes"]))
def test_ties_of_embeddings_are_decided_as_in_scipy_where_it_makes_the_tree(metric, seed, n, width, kind):
    rng = np.random.default_rng(seed)  # unit vectors without rounding: many distances are bit-identical
    x = rng.integers(0, 2, size=(n, width)) * 2.0 - 1 if kind == "signs" else np.eye(width)[rng.integers(width, size=n)]
    made = linkage(condensed_distances(x, metric, SMALLEST_DISTANCE, CPU), "ward")
    assert_same_tree(made, tree_of_scipy(x, metric))


@given(st.integers(3, 40), seeds)
def test_every_tie_between_distances_is_decided_as_in_scipy(n, seed):
    small = np.random.default_rng(seed).integers(1, 4, size=n * (n - 1) // 2).astype(float)  # few values, many ties
    assert_same_tree(chain_of_matrix(small), linkage(small, "ward"))


def chain_of_matrix(condensed):
    clusters = DistanceMatrix(torch.from_numpy(squareform(condensed)))
    return to_linkage_matrix(np.array(list(chain_merges(clusters))))


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, n=sizes, duplicates=st.integers(0, 5))
def test_distances_are_those_of_scipy(metric, seed, n, duplicates):
    x = random_embeddings(seed, n, duplicates)
    made = condensed_distances(x, metric, SMALLEST_DISTANCE, CPU)
    expected = scipy_distances(x, metric)
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(made == 0, expected == 0)


def test_distances_in_several_blocks_are_symmetric_and_complete(monkeypatch):
    monkeypatch.setattr("hierdiff_core.plan.ward_torch.BLOCK", 7)
    x = random_embeddings(0, 30, 5)
    distances = pairwise_distances(x, "chord", SMALLEST_DISTANCE, CPU)
    assert torch.equal(distances, distances.T)
    np.testing.assert_allclose(
        squareform(distances.numpy(), checks=False),
        scipy_distances(x, "chord"),
        atol=1e-7,
    )


def test_centroids_of_a_set_that_shrinks_many_times_stay_in_place():
    x = random_embeddings(3, 400, 60)
    assert_same_tree(ward_chain(x, "chord", SMALLEST_DISTANCE, CPU), tree_of_scipy(x, "chord"))


def test_parallel_embeddings_of_unequal_length_do_not_share_a_leaf():
    x = np.array([[0.1, 0.7, 0.3], [0.2, 1.4, 0.6], [0.1, 0.7, 0.3], [3.0, -1.0, 0.0]])
    for metric in METRICS:
        labels = flat_clusters(ward_chain(x, metric, SMALLEST_DISTANCE, CPU), 0)
        assert labels[0] == labels[2]
        assert len(set(labels.tolist())) == 3


@pytest.mark.parametrize(
    ("prompts", "device", "chosen"),
    [
        (40, "cpu", "scipy"),
        (10, "cuda", "scipy"),
        (20, "cuda", "distances"),
        (40, "cuda", "chain"),
    ],
)
def test_size_and_device_choose_who_makes_the_tree(monkeypatch, prompts, device, chosen):
    monkeypatch.setattr(core, "MOST_ON_CPU", 10)
    monkeypatch.setattr(core, "MOST_TREE_ON_CPU", 20)
    calls = []

    def spy(name, function):
        def call(vectors, metric, smallest, device, check=None):
            calls.append((name, device))
            return function(vectors, metric, smallest, "cpu")

        monkeypatch.setattr(f"hierdiff_core.plan.ward_torch.{function.__name__}", call)

    spy("chain", ward_chain)
    spy("distances", condensed_distances)
    x = random_embeddings(1, prompts, 0)
    assert_same_tree(ward_linkage(x, "chord", device), linkage(scipy_distances(x, "chord"), "ward"))
    assert calls == ([] if chosen == "scipy" else [(chosen, "cuda")])


def test_matrix_that_does_not_fit_is_refused_with_what_to_take_instead(monkeypatch):
    monkeypatch.setattr("hierdiff_core.plan.ward_torch.free_memory", lambda device: 2**33)
    check_matrix_fits(30_000, torch.device("cuda"))
    with pytest.raises(ValueError, match=r"40000 embeddings have 12 GiB of cosine distances.* use metric chord"):
        check_matrix_fits(40_000, torch.device("cuda"))


@pytest.mark.parametrize(("prompts", "device"), [(2000, "cpu"), (500, "cuda")])
def test_small_sets_and_the_cpu_take_no_memory_of_a_device(prompts, device):
    assert linkage_bytes(prompts, 1280, "chord", device) == 0


def test_memory_of_large_sets_is_that_of_the_centroids_or_of_the_distances():
    assert linkage_bytes(50_000, 1280, "chord", "cuda") < 4.2 * 2**30  # 3.7 were measured
    assert linkage_bytes(20_000, 1280, "cosine", "cuda:0") > 8 * 20_000**2
