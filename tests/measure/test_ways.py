"""Ways of drawing as plans, prompts that stand for a set, and how sharing is carried from one tree to another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import ToyBench, prompts

from hierdiff_core import PromptTree, flat_clusters
from hierdiff_core.measure.menu import FULL, TOGETHER, Menu, Mix
from hierdiff_core.measure.sampled import sampled_prompts, sampled_tree
from hierdiff_core.measure.ways import WIDER, WIDEST, Way, height_for, spread_at, spreads, way_data, way_of
from hierdiff_core.plan.guidance import GuidanceCourse

settings.register_profile("ways", deadline=None, max_examples=40)
settings.load_profile("ways")


@st.composite
def sets(draw):
    """(N, D) embeddings in groups, some of them equal, two at least different."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = prompts(draw(st.integers(2, 6)), draw(st.integers(1, 5)), draw(st.floats(0.05, 1)), int(rng.integers(1000)))
    return np.concatenate([rows, rows[rng.integers(len(rows), size=draw(st.integers(0, 4)))]])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(sets(), st.sampled_from(["chord", "cosine"]))
def test_spreads_are_those_of_the_clusters(rows, metric):
    tree = PromptTree.of(rows, metric)
    members = [[i] for i in range(len(rows))]
    for a, b, *_ in tree.Z:
        members.append(members[int(a)] + members[int(b)])
    for own, spread in zip(members[len(rows) :], spreads(tree), strict=True):
        points = np.unique(unit(rows[own]).round(12), axis=0)
        expected = np.sqrt(np.square(points - points.mean(axis=0)).sum(axis=1).mean())
        assert spread == pytest.approx(expected, abs=1e-6)


@given(sets(), st.floats(0.01, 1.2))
def test_height_keeps_the_spread_and_the_next_one_does_not(rows, spread):
    tree = PromptTree.of(rows, "chord")
    height = height_for(tree, spread)
    assert spread_at(tree, height) <= spread * (1 + 1e-6)
    labels = flat_clusters(tree.Z, height) if len(tree.Z) else np.zeros(1, int)
    points, at = np.unique(unit(rows).round(12), axis=0, return_inverse=True)
    at = at.ravel()
    wide = 0
    for label in range(labels.max() + 1):
        own = points[np.unique(at[labels == label])]
        wide += len(own) * (
            np.sqrt(np.square(own - own.mean(axis=0)).sum(axis=1).mean()) > WIDEST * spread * (1 + 1e-6)
        )
    assert wide <= WIDER * tree.num_distinct
    assert height == 0 or height in tree.heights


def test_sharing_means_the_same_for_a_set_of_more_of_the_same_prompts():
    """Ward's heights grow with the number of prompts: the spread does not."""
    way = Way(tuple(np.linspace(1, 0.1, 10)), sharing=((0.5, 0.25),))
    counts = []
    for each in (4, 12, 40):
        tree = PromptTree.of(prompts(4, each, near=0.25, seed=5), "chord")
        counts.append(way.plan(tree).clusters_per_step[0] / 4)
        assert tree.heights.max() > 0
    assert max(counts) <= 2
    assert counts[0] == pytest.approx(counts[2], abs=1)


@given(
    sets(),
    st.integers(1, 12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
def test_passes_are_those_of_the_plan(rows, steps, trunk, level, spread, end, guided):
    tree = PromptTree.of(rows, "chord")
    way = Way(tuple(np.linspace(1, 0.05, steps)), trunk, ((level, spread),), GuidanceCourse(end=end))
    plan = way.plan(tree)
    assert plan.num_steps == steps
    assert plan.guidance == way.guidance
    assert plan.clusters_per_step[-1] == plan.num_distinct
    rows_of = plan.guidance.passes(plan) if guided else plan.nfe
    assert way.passes(tree, guided) == pytest.approx(rows_of / plan.num_distinct)


def test_step_that_begins_above_the_level_and_ends_below_is_not_shared():
    tree = PromptTree.of(prompts(), "chord")
    for steps, shared in ((40, 12), (10, 3), (7, 2), (3, 0)):
        levels = np.linspace(1, 0, steps + 1)[:-1]
        assert np.count_nonzero(Way(tuple(levels), trunk=0.7).plan(tree).clusters_per_step == 1) == shared


def test_trunk_that_is_never_shared_is_not_where_levels_stay_at_the_top():
    tree = PromptTree.of(prompts(), "chord")
    assert Way((1.0, 1.0, 0.5)).plan(tree).clusters_per_step.tolist() == [36] * 3
    assert Way((1.0, 1.0, 0.5), trunk=0.5).plan(tree).clusters_per_step.tolist() == [1, 1, 36]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"levels": ()}, "levels must be one for each step"),
        ({"levels": (0.5, 0.6)}, "levels must not rise"),
        ({"levels": (1.5,)}, r"levels must lie between 0 and 1; got 1.5"),
        ({"trunk": float("nan")}, "trunk must lie between 0 and 1; got nan"),
        ({"sharing": ((0.5, 0.2), (0.4, 0.3))}, "spreads of sharing must not rise"),
    ],
)
def test_ways_that_are_none_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        Way(**{"levels": (1.0, 0.5), **values})


def test_way_is_kept_as_it_is():
    way = Way((1.0, 0.5), 0.7, ((0.4, 0.2),), GuidanceCourse(end=0.6, boost=2, boost_steps=3), "EasyCache")
    assert way_of(way_data(way)) == way


# --- prompts that stand for a set


@given(sets(), st.integers(2, 12), st.integers(0, 100))
def test_sampled_prompts_differ_and_are_as_many_as_there_can_be(rows, samples, seed):
    tree = PromptTree.of(rows, "chord")
    chosen = sampled_prompts(tree, samples, seed)
    assert len(chosen) == min(samples, tree.num_distinct)
    assert (np.diff(chosen) > 0).all()
    assert len(np.unique(unit(rows[chosen]).round(12), axis=0)) == len(chosen)
    np.testing.assert_array_equal(chosen, sampled_prompts(tree, samples, seed))


def test_sampled_prompts_are_neighbours_from_all_parts_of_the_tree():
    parts = np.repeat(np.arange(4), 12)
    tree = PromptTree.of(prompts(4, 12, near=0.2), "chord")
    chosen = parts[sampled_prompts(tree, 8)]
    assert np.bincount(chosen).tolist() == [2, 2, 2, 2]


@given(sets(), st.integers(2, 10))
def test_sampled_tree_has_the_merges_of_the_whole_one(rows, samples):
    tree = PromptTree.of(rows, "chord", [f"prompt {i}" for i in range(len(rows))])
    chosen = sampled_prompts(tree, samples)
    sample = sampled_tree(tree, chosen)
    assert sample.prompts == tuple(f"prompt {i}" for i in chosen)
    assert sample.keys == tuple(tree.keys[i] for i in chosen)
    for height in [0.0, *sample.heights]:
        ours, whole = flat_clusters(sample.Z, height), flat_clusters(tree.Z, height)[chosen]
        np.testing.assert_array_equal(ours[:, None] == ours, whole[:, None] == whole)


def test_spreads_of_a_sampled_tree_are_those_of_the_prompts_on_average():
    rows = prompts(5, 8, near=0.4, seed=2)
    tree, ratios = PromptTree.of(rows, "chord"), []
    for seed in range(30):
        chosen = sampled_prompts(tree, 8, seed)
        own = unit(rows[chosen])
        exact = np.sqrt(np.square(own - own.mean(axis=0)).sum(axis=1).mean())
        ratios.append(spreads(sampled_tree(tree, chosen))[-1] / exact)
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


# --- the menu


def test_menu_goes_from_gentle_to_severe_and_only_real_pairs_are_neighbours():
    menu = Menu(ToyBench(prompts()))
    tree = menu.workbench.tree
    for kind in ("steps", "trunk", "near", "ends"):
        count = {"steps": menu.step_counts, "trunk": menu.depths, "near": menu.near_depths, "ends": menu.guided_shares}
        passes = [menu.way(Mix(**{kind: degree})).passes(tree) for degree in range(len(count[kind]))]
        assert passes == sorted(passes, reverse=True)
        assert passes[0] < menu.way(Mix()).passes(tree)
    assert Menu(ToyBench(np.eye(6))).near_depths == ()


def test_mixes_are_named_by_their_means_and_ordered_by_severity():
    assert Mix().means == FULL
    assert Mix(steps=2).means == "fewer steps"
    assert Mix(trunk=1, boost=2.0).means == "stronger guidance after a split"
    assert Mix(steps=2, ends=0).means == TOGETHER
    assert Mix(cache="EasyCache").means == "EasyCache"
    assert Mix(steps=2, ends=0).severer(Mix(steps=2))
    assert not Mix(steps=2).severer(Mix(steps=1, trunk=0))
    assert Mix(trunk=3).severer(Mix(near=3))
    assert not Mix(trunk=3, boost=2.0).severer(Mix(trunk=3))


def test_changes_are_counted_by_means():
    assert Mix(steps=2).changes(Mix(steps=2)) == 0
    assert Mix(steps=2, trunk=1, near=4).changes(Mix(steps=2)) == 1
    assert Mix(steps=2, trunk=1, boost=2.0, ends=0).changes(Mix(steps=1)) == 4


def test_guidance_goes_on_after_the_last_split():
    menu = Menu(ToyBench(prompts()))
    deep = menu.depths.index(36)
    assert not menu.guides_splits(Mix(trunk=deep, ends=0))
    assert menu.guides_splits(Mix(trunk=0, ends=0))
    assert menu.guides_splits(Mix(trunk=deep))
