"""Clustering by two levels: a valid tree, near the exact one, that of the groups inside of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.plan import coarse
from hierdiff_core.plan.coarse import coarse_labels, two_level_linkage
from hierdiff_core.plan.linkage import check_linkage, flat_clusters, merge_errors, unit_rows, ward_linkage

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


def embeddings(seed, n, width=8):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(n // 15, 2), width))
    return centres[rng.integers(len(centres), size=n)] + 0.3 * rng.normal(size=(n, width))


@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 12), st.integers(0, 6))
def test_it_is_a_valid_tree_whose_equal_embeddings_are_one_leaf(seed, n, groups, copies):
    x = embeddings(seed, n)
    x = np.concatenate([x, x[:copies]])
    Z = check_linkage(two_level_linkage(x, groups))
    assert len(Z) == len(x) - 1
    assert flat_clusters(Z, 0).max() + 1 == n


@pytest.mark.parametrize("groups", [1, 7])
def test_it_is_that_of_ward_linkage_inside_a_group(groups):
    x = embeddings(1, 150)
    Z, labels = two_level_linkage(x, groups), coarse_labels(unit_rows(x), groups)
    for group in range(labels.max() + 1):
        rows = np.flatnonzero(labels == group)
        exact = ward_linkage(x[rows], "chord")
        for t in exact[:, 2]:
            own, cut = flat_clusters(exact, t * (1 + 1e-12)), flat_clusters(Z, t * (1 + 1e-12))[rows]
            assert len(np.unique(np.stack([own, cut]), axis=1).T) == own.max() + 1 == len(np.unique(cut))


def test_separate_groups_give_the_exact_tree():
    rng = np.random.default_rng(0)
    x = np.repeat(np.eye(6), 20, axis=0) + 0.01 * rng.normal(size=(120, 6))
    np.testing.assert_allclose(two_level_linkage(x, 6), ward_linkage(x, "chord"), rtol=0, atol=1e-9)


def test_it_saves_about_what_the_exact_tree_saves_at_little_more_error():
    x, profile = embeddings(2, 600, 16), Profile(40)
    error = []
    for Z in (ward_linkage(x, "chord"), two_level_linkage(x, 8)):
        errors = merge_errors(Z, x)
        plan = plan_for(PromptTree(Z, "chord", errors), Budget("saving", 0.6), profile)
        assert plan.saved == pytest.approx(0.6, abs=0.01)
        error.append(sum(errors[Z[:, 2] <= t].sum() for t in plan.thresholds))
    assert error[0] < error[1] < 1.25 * error[0]


def test_groups_are_the_same_each_time_and_of_a_sample(monkeypatch):
    monkeypatch.setattr(coarse, "MOST_SAMPLED", 100)
    x = unit_rows(embeddings(3, 500))
    labels = coarse_labels(x, 9)
    np.testing.assert_array_equal(labels, coarse_labels(x, 9))
    assert 2 <= len(np.unique(labels)) == labels.max() + 1 <= 9


def test_what_cannot_be_grouped_is_refused_by_name():
    x = embeddings(0, 10)
    with pytest.raises(ValueError, match=r"two levels need metric chord.* got 'cosine'"):
        two_level_linkage(x, 3, "cosine")
    with pytest.raises(ValueError, match="groups must be at least 1; got 0"):
        two_level_linkage(x, 0)


def test_it_can_be_stopped():
    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        two_level_linkage(embeddings(0, 50), 4, check=cancel)
