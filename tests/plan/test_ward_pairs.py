"""Ward linkage by pairs of nearest neighbours: SciPy's tree, and where distances tie, one that is as good."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_isomorphic

from hierdiff_core.plan import linkage as core
from hierdiff_core.plan import linkage_process, ward_torch_pairs
from hierdiff_core.plan.linkage import (
    SMALLEST_DISTANCE,
    check_linkage,
    flat_clusters,
    linkage_seconds,
    merge_errors,
    unit_rows,
    ward_linkage,
)
from hierdiff_core.plan.scipy_ward import ward_tree
from hierdiff_core.plan.ward_torch_pairs import Clusters, ward_pairs, weighted_merges

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")
seeds = st.integers(0, 2**32 - 1)


class Cancelled(Exception):
    pass


def pairs(x, check=None):
    return ward_pairs(np.asarray(x, dtype=float), SMALLEST_DISTANCE, "cpu", check)


def grouped(seed, n, width=8):
    """Rows in groups, as related prompts have them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(n // 10, 2), width))
    return centres[rng.integers(len(centres), size=n)] + 0.3 * rng.normal(size=(n, width))


def assert_each_merge_is_of_a_nearest_pair(Z, x):
    """Ward's method written out: every distance of all clusters before every merge."""
    check_linkage(Z)
    clusters = {i: (row, 1) for i, row in enumerate(unit_rows(np.asarray(x, dtype=float)))}
    for j, (a, b, height, size) in enumerate(Z):
        means, counts = (np.array(values) for values in zip(*clusters.values(), strict=True))
        squared = np.square(means[:, None] - means).sum(axis=-1)
        squared *= 2 * counts * counts[:, None] / (counts + counts[:, None])
        np.fill_diagonal(squared, np.inf)
        (mean, n), (other, m) = clusters.pop(int(a)), clusters.pop(int(b))
        own = np.sqrt(2 * n * m / (n + m) * np.square(mean - other).sum())
        assert height == pytest.approx(own, abs=1e-7)
        assert own == pytest.approx(np.sqrt(squared.min()), abs=1e-7)
        assert size == n + m
        clusters[len(x) + j] = ((n * mean + m * other) / (n + m), n + m)


@given(seed=seeds, n=st.integers(2, 300))
def test_tree_is_that_of_scipy(seed, n):
    x = grouped(seed, n)
    Z, expected = pairs(x), ward_tree(x, "chord", SMALLEST_DISTANCE)
    check_linkage(Z)
    np.testing.assert_allclose(Z[:, 2], expected[:, 2], rtol=1e-9, atol=1e-9)
    for height in expected[:: max(n // 8, 1), 2] * (1 + 1e-9):
        labels = (fcluster(tree, height, criterion="distance") for tree in (Z, expected))
        assert is_isomorphic(*labels)


@given(seed=seeds, n=st.integers(2, 24), kind=st.sampled_from(["signs", "axes", "grid", "circle"]))
def test_every_merge_is_of_a_nearest_pair_where_distances_tie(seed, n, kind):
    rng = np.random.default_rng(seed)
    turns = 2 * np.pi * np.arange(n) / n
    x = {
        "signs": rng.integers(0, 2, size=(n, 6)) * 2.0 - 1,
        "axes": np.eye(24)[:n],
        "grid": rng.integers(1, 4, size=(n, 3)).astype(float),
        "circle": np.stack([np.cos(turns), np.sin(turns)], axis=1),
    }[kind]
    x = np.unique(x, axis=0)
    if len(x) > 1:
        assert_each_merge_is_of_a_nearest_pair(pairs(x), x)


@pytest.mark.parametrize("least", [1, 3])
def test_tree_is_the_same_however_few_rows_are_searched_at_once(least, monkeypatch):
    x = grouped(1, 200)
    expected = pairs(x)
    monkeypatch.setattr(ward_torch_pairs, "LEAST_SEARCHED", least)
    monkeypatch.setattr(ward_torch_pairs, "SEARCHED_PER_MERGE", 0)
    monkeypatch.setattr(ward_torch_pairs, "MOST_DISTANCES", 900)
    np.testing.assert_allclose(pairs(x), expected, rtol=0, atol=1e-12)


def test_a_set_takes_few_searches(monkeypatch):
    searched, search = [], Clusters.search
    monkeypatch.setattr(Clusters, "search", lambda self, places: (searched.append(len(places)), search(self, places)))
    pairs(grouped(0, 2000, 16))
    assert sum(searched) < 6 * 2000  # the chain takes 3 for each, one after the other
    assert len(searched) < 200


def test_parallel_embeddings_of_unequal_length_do_not_share_a_leaf():
    x = np.array([[0.1, 0.7, 0.3], [0.2, 1.4, 0.6], [3.0, -1.0, 0.0]])
    assert len(set(flat_clusters(pairs(x), 0).tolist())) == 3


def test_clusters_of_several_rows_are_joined_as_in_the_tree_of_all_rows():
    x = grouped(4, 120)
    Z, unit = ward_linkage(x, "chord"), unit_rows(x)
    labels = flat_clusters(Z, Z[-12, 2])
    means = np.stack([unit[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    merges = weighted_merges(means, np.bincount(labels), SMALLEST_DISTANCE)
    np.testing.assert_allclose(np.sort(merges[:, 2]), Z[-11:, 2], rtol=1e-9)


def test_it_can_be_stopped():
    checks = []

    def cancel():
        checks.append(1)
        if len(checks) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        pairs(grouped(0, 100), cancel)


def test_sets_whose_distances_do_not_fit_are_merged_in_pairs(monkeypatch):
    x = np.concatenate([grouped(2, 80), grouped(2, 80)[:5]])
    expected = ward_linkage(x, "chord")
    monkeypatch.setattr(linkage_process, "SMALL_TREE", 0)
    monkeypatch.setattr(linkage_process, "free_host_memory", lambda: 1000)
    monkeypatch.setattr(linkage_process, "LONGEST_IN_PROCESS", -1.0)
    np.testing.assert_allclose(ward_linkage(x, "chord"), expected, rtol=0, atol=1e-9)
    assert linkage_seconds(100_000, 1280, "chord", "cpu") > 10
    with pytest.raises(ValueError, match="free; take metric chord, which can do without"):
        ward_linkage(x, "cosine")


def test_large_sets_of_a_gpu_are_merged_in_pairs(monkeypatch):
    calls = []

    def spy(vectors, smallest, device, check):
        calls.append(device)
        return ward_pairs(vectors, smallest, "cpu", check)

    monkeypatch.setattr(core, "MOST_IN_CHAIN", 50)
    monkeypatch.setattr(ward_torch_pairs, "ward_pairs", spy)
    x = grouped(3, 60)
    np.testing.assert_allclose(ward_linkage(x, "chord", "cuda:1"), ward_linkage(x, "chord"), rtol=0, atol=1e-9)
    assert calls == ["cuda:1"]
    assert not core.in_pairs(60, 8, "cosine", "cuda")


@given(seed=seeds, n=st.integers(2, 60), copies=st.integers(0, 8))
def test_errors_of_chord_are_half_the_squared_heights(seed, n, copies):
    x = grouped(seed, n)
    x = np.concatenate([x, x[:copies]])
    Z = ward_linkage(x, "chord")
    np.testing.assert_allclose(merge_errors(Z, x), np.square(Z[:, 2]) / 2, atol=1e-12)
