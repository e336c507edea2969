"""Plans from plans: what was there stays, cuts still nest, and drawing says so too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import assert_same_plan

from hierdiff_core import (
    Budget,
    Profile,
    PromptTree,
    build_plan,
    linear_thresholds,
    plan_for,
    read_plan,
    ward_linkage,
    write_plan,
)
from hierdiff_core.plan.algebra import alone, attach, edited, removed, rerolled
from hierdiff_core.plan.frozen import FrozenTree, restricted, with_leaf
from hierdiff_core.plan.joining import join
from hierdiff_core.plan.linkage import check_linkage, cut
from hierdiff_core.plan.matching import separated
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.sampling.loop import denoise_plan
from hierdiff_core.sampling.state import State

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

seeds = st.integers(0, 2**32 - 1)


class Set:
    """Prompts with embeddings by key, and plans of some of them."""

    def __init__(self, rng, count, metric="chord", equal=0):
        rows = rng.normal(size=(count, 5)) + rng.normal(size=(count, 5))[rng.integers(max(count // 3, 1), size=count)]
        rows = np.concatenate([rows, rows[rng.integers(count, size=equal)]])
        self.keys = [int(key) for key in rng.permutation(10 * len(rows))[: len(rows)]]
        self.rows, self.metric, self.rng = dict(zip(self.keys, rows, strict=True)), metric, rng

    def of(self, keys):
        return np.array([self.rows[key] for key in keys])

    def plan(self, keys, num_steps):
        Z = ward_linkage(self.of(keys), self.metric)
        tree = PromptTree(Z, self.metric, prompts=[str(key) for key in keys], keys=keys)
        tree = replace(tree, errors=np.square(Z[:, 2]) / 2)
        share = self.rng.uniform(0, 1.5)
        return plan_for(tree, Budget("root share", share), Profile(num_steps))

    def attached(self, plan, keys):
        return attach(plan, self.of(plan.leaf_keys), self.of(keys), keys, [str(key) for key in keys])

    def edited(self, plan, i, key):
        return edited(plan, i, self.of(plan.leaf_keys), self.rows[key], key, str(key))


@st.composite
def sets(draw, least=2):
    """A set, a plan of some of its prompts, and the keys of the others."""
    rng = np.random.default_rng(draw(seeds))
    prompts = Set(
        rng, draw(st.integers(least, 12)), draw(st.sampled_from(["chord", "cosine"])), draw(st.integers(0, 2))
    )
    first = draw(st.integers(1, len(prompts.keys)))
    return prompts, prompts.plan(prompts.keys[:first], draw(st.integers(1, 8))), prompts.keys[first:]


def clusters(plan, k, keys):
    """The clusters of a step as sets of keys, of some of the prompts."""
    labels = plan.steps[k].labels
    found = [{plan.prompt_keys[i] for i in np.flatnonzero(labels == c)} & set(keys) for c in range(labels.max() + 1)]
    return sorted(sorted(part) for part in found if part)


def identities(plan, k):
    """What the cluster of each prompt of step k is known by, and whose embeddings its mean is made of."""
    keys, founders = plan.branch_keys(k), plan.founders(k)
    names = [(key, tuple(sorted(plan.leaf_keys[i] for i in own))) for key, own in zip(keys, founders, strict=True)]
    return {key: names[c] for key, c in zip(plan.prompt_keys, plan.steps[k].labels, strict=True)}


def assert_valid(plan):
    """Cuts nest, parents are where members were, first and counts fit, and the tree is one."""
    check_linkage(plan.Z)
    before = np.zeros(plan.num_prompts, dtype=int)
    for threshold, step in zip(plan.thresholds, plan.steps, strict=True):
        np.testing.assert_array_equal(step.parents[step.labels], before)
        for c in range(step.num_clusters):
            members = np.flatnonzero(step.labels == c)
            assert (step.first[c], step.counts[c]) == (members[0], len(members))
        np.testing.assert_array_equal(step.labels, cut(plan.Z, threshold))
        before = step.labels
    assert plan.nfe == sum(len(set(step.labels.tolist())) for step in plan.steps)


# --- attach, edited, removed: what was there stays


@given(sets())
def test_attached_prompts_leave_old_clusters_their_keys_and_their_means(found):
    prompts, plan, more = found
    if not more:
        return
    grown = prompts.attached(plan, more)
    assert_valid(grown)
    assert grown.prompt_keys == (*plan.prompt_keys, *more)
    assert grown.prompts == tuple(str(key) for key in grown.prompt_keys)
    for k in range(plan.num_steps):
        assert clusters(grown, k, plan.prompt_keys) == clusters(plan, k, plan.prompt_keys)
        new = identities(grown, k)
        assert {key: new[key] for key in plan.prompt_keys} == identities(plan, k)


@given(sets())
def test_prompts_attached_one_by_one_are_those_attached_together(found):
    prompts, plan, more = found
    if not more:
        return
    one_by_one = plan
    for key in more:
        one_by_one = prompts.attached(one_by_one, [key])
    together = prompts.attached(plan, more)
    np.testing.assert_array_equal(one_by_one.Z, together.Z)
    assert [one_by_one.branch_keys(k) for k in range(plan.num_steps)] == [
        together.branch_keys(k) for k in range(plan.num_steps)
    ]


@given(sets(), st.data())
def test_what_an_attached_prompt_costs_is_the_steps_that_it_takes_alone(found, data):
    prompts, plan, more = found
    if not more:
        return
    grown = prompts.attached(plan, more[:1])
    own = [k for k in range(plan.num_steps) if grown.steps[k].counts[grown.steps[k].labels[-1]] == 1]
    assert grown.nfe - plan.nfe == len(own)
    assert own == list(range(plan.num_steps - len(own), plan.num_steps))
    for k in own:
        assert identities(grown, k)[more[0]] == (more[0], (more[0],))


@given(sets(), st.data())
def test_removed_prompt_leaves_the_others_alone(found, data):
    _, plan, _ = found
    if plan.num_prompts == 1:
        return
    i = data.draw(st.integers(0, plan.num_prompts - 1))
    smaller = removed(plan, i)
    assert_valid(smaller)
    left = tuple(np.delete(np.array(plan.prompt_keys), i))
    assert smaller.prompt_keys == left
    for k in range(plan.num_steps):
        before = identities(plan, k)
        assert clusters(smaller, k, left) == clusters(plan, k, left)
        assert identities(smaller, k) == {key: before[key] for key in left}


@given(sets(), st.data())
def test_prompt_that_is_edited_and_edited_back_gives_the_first_plan(found, data):
    prompts, plan, more = found
    if not more:
        return
    i, key = data.draw(st.integers(0, plan.num_prompts - 1)), data.draw(st.sampled_from(more))
    other = prompts.edited(plan, i, key)
    assert_valid(other)
    assert other.prompt_keys[i] == key
    assert [k for j, k in enumerate(other.prompt_keys) if j != i] == [
        k for j, k in enumerate(plan.prompt_keys) if j != i
    ]
    for k in range(plan.num_steps):
        before, after = identities(plan, k), identities(other, k)
        assert {name: after[name] for name in after if name != key} == {
            name: before[name] for name in before if name != plan.prompt_keys[i]
        }
    assert_same_plan(prompts.edited(other, i, plan.prompt_keys[i]), plan)


@given(sets(least=6), st.data())
def test_any_sequence_of_edits_leaves_what_it_does_not_touch(found, data):
    prompts, plan, more = found
    waiting = list(more)
    for _ in range(data.draw(st.integers(1, 8))):
        before = plan
        kind = data.draw(st.sampled_from(["attach", "remove", "edit"]))
        if kind == "remove" and plan.num_prompts > 1:
            i = data.draw(st.integers(0, plan.num_prompts - 1))
            waiting.append(plan.prompt_keys[i])
            plan, touched = removed(plan, i), {plan.prompt_keys[i]}
        elif kind == "attach" and waiting:
            touched = {waiting.pop(0)}
            plan = prompts.attached(plan, list(touched))
        elif kind == "edit" and waiting:
            i = data.draw(st.integers(0, plan.num_prompts - 1))
            new = waiting.pop(0)
            waiting.append(plan.prompt_keys[i])
            plan, touched = prompts.edited(plan, i, new), {new, plan.prompt_keys[i]}
        else:
            continue
        assert_valid(plan)
        assert plan.num_prompts == len(plan.prompts) == len(plan.prompt_keys)
        for k in range(plan.num_steps):
            old, now = identities(before, k), identities(plan, k)
            assert {key: now[key] for key in now if key not in touched} == {
                key: old[key] for key in old if key not in touched
            }


def test_attached_prompt_with_the_smallest_key_takes_no_branch_over():
    rows = np.array([[1, 0.0], [1, 0.1], [0, 1.0]])
    plan = plan_for(
        PromptTree(ward_linkage(rows, "chord"), "chord", keys=[5, 6, 7]), Budget("root share", 2), Profile(6)
    )
    grown = attach(plan, rows, [[1, 0.05]], [1])
    assert plan.branch_keys(0) == grown.branch_keys(0) == [5]
    assert [branch.key for branch in grown.branches if 3 in branch.members and len(branch.members) > 1] == [5] * sum(
        3 in branch.members and len(branch.members) > 1 for branch in grown.branches
    )
    assert sorted(grown.branch_keys(5)) == [1, 5, 6, 7]


@pytest.mark.parametrize("metric", ["chord", "cosine"])
def test_attached_prompt_parts_at_wards_own_height_where_it_joins_one_prompt(metric):
    rows = np.array([[1, 0.0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    new = np.array([0.1, 1.0, 0.05])
    tree = PromptTree(ward_linkage(rows, metric), metric, keys=[1, 2, 3])
    grown = attach(plan_for(tree, Budget("root share", 1), Profile(9)), rows, [new], [4])
    expected = ward_linkage([rows[1], new], metric)[0, 2]
    pair = grown.Z[(grown.Z[:, :2] == [1, 3]).all(axis=1)]
    assert pair[0, 2] == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["chord", "cosine"])
@given(seeds)
def test_height_of_the_whole_set_is_wards(metric, seed):
    """A prompt far from all others is merged last by Ward's method too."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([1 + 0.1 * rng.normal(size=(6, 8)), -1 + 0.1 * rng.normal(size=(1, 8))])
    Z = ward_linkage(rows, metric)
    tree = PromptTree(ward_linkage(rows[:6], metric), metric, keys=range(6))
    grown = attach(plan_for(tree, Budget("root share", 1), Profile(4)), rows[:6], rows[6:], [6])
    assert grown.Z[-1, 2] == pytest.approx(Z[-1, 2], rel=1e-9)


def test_prompt_that_equals_another_is_drawn_with_it():
    rows = np.array([[1, 0.0], [0, 1.0]])
    plan = plan_for(PromptTree(ward_linkage(rows, "chord"), "chord", keys=[5, 6]), Budget("tau", 0), Profile(4))
    grown = attach(plan, rows, rows[1:], [2])
    assert (grown.nfe, grown.num_distinct, grown.num_prompts) == (plan.nfe, 2, 3)
    assert grown.steps[-1].labels[2] == grown.steps[-1].labels[1]
    assert sorted(grown.branch_keys(3)) == [5, 6]
    assert sorted(own.tolist() for own in grown.founders(3)) == [[0], [1]]


def test_changed_plan_is_cut_again_with_its_history():
    rows = np.random.default_rng(3).normal(size=(6, 4))
    tree = PromptTree.of(rows, "chord", [f"prompt {i}" for i in range(6)])
    plan = plan_for(tree, Budget("saving", 0.4), Profile(8))
    smaller = removed(attach(plan, rows, rows[:1] + 0.01, [1], ["new"]), 0)
    for other in (smaller.resampled(13), smaller.straight_line()):
        assert_valid(other)
        assert other.frozen is smaller.frozen
        assert other.leaf_keys == smaller.leaf_keys
    assert smaller.distortion is None
    assert smaller.resampled(13).branch_keys(0) == plan.resampled(13).branch_keys(0)


def test_parts_of_a_cluster_that_were_separated_are_known_by_their_own_prompts():
    rows = np.array([[1, 0.0], [1, 0.0], [0, 1.0]])
    tree = PromptTree(ward_linkage(rows, "chord"), "chord", keys=[5, 6, 7])
    plan = removed(attach(plan_for(tree, Budget("tau", 0), Profile(3)), rows, [[0.5, 1]], [8]), 2)
    apart = separated(plan, [0, 1, 2])
    assert sorted(plan.branch_keys(2)) == [5, 8]
    assert sorted(apart.branch_keys(2)) == [5, 6, 8]


# --- what cannot be changed is refused


def plan_of_three(**more):
    return build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0], **more)


def grown_three(
    known=("a", "b", "c"), leaves=((1, 0, 0), (0, 1, 0), (0, 0, 1)), new=((1, 1, 0),), keys=(4,), prompts=("d",)
):
    return attach(plan_of_three(prompt_keys=[1, 2, 3], prompts=known), leaves, new, keys, prompts, metric="chord")


def edited_three(known=("a", "b", "c"), i=1, new=(1, 1, 0), key=4, prompt="d"):
    return edited(plan_of_three(prompt_keys=[1, 2, 3], prompts=known), i, np.eye(3), new, key, prompt, metric="chord")


BAD_KEYS = [(1.0, "1.0"), ("1", "'1'"), (None, "None"), (-1, "-1"), (2**64 + 1, str(2**64 + 1)), (np.float64(2), "2.0")]


@pytest.mark.parametrize(("key", "said"), BAD_KEYS)
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("keys", lambda key: PromptTree([[0, 1, 0.2, 2]], keys=[0, key])),
        ("prompt_keys", lambda key: build_plan([[0, 1, 0.2, 2]], [0], [0, key])),
        ("prompt_keys", lambda key: alone(2, 4, [0, key])),
        ("keys", lambda key: grown_three(keys=[key])),
        ("key", lambda key: edited_three(key=key)),
    ],
)
def test_key_that_is_no_whole_number_in_range_is_refused(name, use, key, said):
    with pytest.raises(ValueError, match=rf"{name} must be (a )?whole numbers?( from 0 to 2\*\*64)?; got {said}"):
        use(key)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, torch.tensor])
def test_keys_of_numpy_are_kept_as_plain_ints(tmp_path, kind):
    keys = [kind(5), kind(0), kind(2**31 - 1)]
    rows = np.eye(3)
    plans = [
        alone(3, 2, keys),
        build_plan(ward_linkage(rows), [1, 0], keys),
        plan_for(PromptTree(ward_linkage(rows), keys=keys), Budget("tau", 0), Profile(2)),
        grown_three(keys=keys[:1]),
        edited_three(key=keys[0]),
    ]
    for plan in plans:
        assert {type(key) for key in plan.leaf_keys} == {int}
        write_plan(plan, tmp_path / "plan.json")
        assert read_plan(tmp_path / "plan.json").prompt_keys == plan.prompt_keys


@pytest.mark.parametrize("to", [lambda x: x, lambda x: x.bfloat16(), lambda x: x.half().requires_grad_(), list])
def test_new_embeddings_may_be_of_any_precision_and_hold_a_graph(to):
    expected, new = edited_three(new=np.array([1.0, 0.5, 0])), to(torch.tensor([1.0, 0.5, 0]))
    assert_same_plan(replace(edited_three(new=new), frozen=None), replace(expected, frozen=None))
    rows = new if isinstance(new, list) else new[None]
    attached = grown_three(new=[rows] if isinstance(new, list) else rows)
    np.testing.assert_array_equal(attached.Z, grown_three(new=[[1.0, 0.5, 0]]).Z)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: removed(alone(3, 2, [1, 2, 3]), 0), "a plan without Z cannot be changed"),
        (lambda: removed(plan_of_three(), 0), "a plan without prompt_keys cannot be changed"),
        (lambda: removed(plan_of_three(prompt_keys=[1, 2, 3]), 3), "there is no prompt 3: the plan has prompts 0 to 2"),
        (lambda: removed(plan_of_three(prompt_keys=[1, 2, 3]), -1), "there is no prompt -1"),
        (lambda: removed(build_plan(np.empty((0, 4)), [0], [1]), 0), "the only prompt of a plan cannot be removed"),
        (
            lambda: attach(plan_of_three(prompt_keys=[1, 2, 3]), np.eye(3), np.eye(3)[:1], [4]),
            "metric must be one of cosine, chord; got None: .* pass metric=",
        ),
        (
            lambda: attach(plan_of_three(prompt_keys=[1, 2, 3]), np.eye(2), np.eye(2)[:1], [4], metric="chord"),
            "leaves must be the embeddings of the plan's 3 leaf_keys, 2 numbers wide",
        ),
        (
            lambda: attach(plan_of_three(prompt_keys=[1, 2, 3]), np.eye(3), np.eye(3), [4], metric="chord"),
            "keys must be one for each of 3 new embeddings; got 1",
        ),
        (lambda: grown_three(prompts=["d", "e"]), "prompts must be one for each of 1 new embeddings; got 2"),
        (lambda: grown_three(keys=[]), "keys must be one for each of 1 new embeddings; got 0"),
        (lambda: grown_three(new=np.empty((0, 3)), keys=[], prompts=[]), r"new must have shape .*; got \(0, 3\)"),
        (lambda: grown_three(new=np.zeros((1, 3))), "new: embedding 0 is zero"),
        (lambda: grown_three(leaves=np.eye(3)[0]), r"leaves must have shape \(N, D\) with N >= 1; got \(3,\)"),
        (lambda: grown_three(leaves=np.full((3, 3), np.nan)), "leaves: embedding 0 holds NaN"),
        (lambda: grown_three(prompts=None), "prompts must be given: the plan has the texts"),
        (lambda: grown_three(known=None), "prompts must be left out: the plan has no texts"),
        (lambda: edited_three(prompt=None), "prompt must be given: the plan has the texts"),
        (lambda: edited_three(known=None), "prompt must be left out: the plan has no texts"),
        (lambda: edited_three(new=[[1, 0, 0]]), r"new must have shape \(D,\), of one prompt; got \(1, 3\)"),
        (lambda: edited_three(new=1.0), r"new must have shape \(D,\), of one prompt; got \(\)"),
        (lambda: edited_three(i=1.0), "i must be a whole number; got 1.0"),
        (lambda: removed(plan_of_three(prompt_keys=[1, 2, 3]), 1.0), "i must be a whole number; got 1.0"),
        (lambda: alone(3.0, 5), "num_prompts must be a whole number; got 3.0"),
        (lambda: alone(3, "5"), "num_steps must be a whole number; got '5'"),
        (lambda: alone(0, 4), "a plan needs at least 1 prompt and 1 step; got 0 and 4"),
        (lambda: alone(2, 4, [1]), "prompt_keys must be one for each of 2 prompts; got 1"),
        (lambda: join([]), "plans to join must be at least one and of equal numbers of steps"),
        (lambda: join([alone(2, 3), alone(2, 4)]), r"of equal numbers of steps; got \[3, 4\]"),
        (
            lambda: join([removed(plan_of_three(prompt_keys=[1, 2, 3]), 0), alone(2, len(plan_of_three().steps))]),
            "a plan without Z cannot be changed",
        ),
    ],
)
def test_what_cannot_be_changed_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change()


@pytest.mark.parametrize(
    ("generations", "present", "message"),
    [
        ([0, 0], [0, 1, 2], "generations must be 3 numbers"),
        ([0, 0, -1], [0, 1, 2], "generations must be 3 numbers of 0 or more"),
        ([0, 0, 1], [0, 3], "present must name at least one of the leaves 0 ... 2"),
        ([0, 0, 1], [], "present must name at least one"),
        ([0, 0, 1], [1, 1], "one is named twice"),
    ],
)
def test_history_that_does_not_fit_its_tree_is_refused(generations, present, message):
    tree = PromptTree([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], keys=[1, 2, 3])
    with pytest.raises(ValueError, match=message):
        FrozenTree(tree, generations, present)


# --- trees with a leaf more or less


@given(seeds, st.integers(1, 14), st.data())
def test_leaf_that_is_hung_and_taken_away_gives_the_first_tree(seed, count, data):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 4))
    Z = ward_linkage(np.concatenate([rows, rows[rng.integers(count, size=data.draw(st.integers(0, 2)))]]), "chord")
    leaves = len(Z) + 1
    node = data.draw(st.integers(0, 2 * leaves - 2))
    above = [height for a, b, height, _ in Z if node in (a, b)]
    low = Z[node - leaves, 2] if node >= leaves else 0.0
    height = data.draw(st.floats(low, above[0] if above else low + 1))
    longer, place = with_leaf(Z, node, height)
    check_linkage(longer)
    assert longer[place, 2] == height
    back, merges = restricted(longer, np.arange(leaves))
    np.testing.assert_array_equal(back, Z)
    np.testing.assert_array_equal(merges, np.delete(np.arange(leaves), place))


# --- join and alone, by drawing


def denoise(latents, k, embeddings):
    positive, negative = embeddings
    return torch.sin(latents * (k + 1)) + positive - 0.3 * negative


def drawn(plan, embeddings):
    """The latents of a plan with a model of algebra."""

    def step(rows, k, clusters, means, state):
        return denoise(rows, k, means), state

    return denoise_plan(plan, torch.tensor([[1.0, -2.0, 0.5]]), State(), step, embeddings)


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_joined_plans_draw_what_each_of_them_draws(seed, parts, num_steps):
    rng = np.random.default_rng(seed)
    plans, embeddings = [], []
    for _ in range(parts):
        rows = rng.normal(size=(rng.integers(1, 7), 2, 3)).astype(np.float32)
        rows = np.concatenate([rows, rows[rng.integers(len(rows), size=rng.integers(0, 3))]])  # some are equal
        embeddings.append(torch.from_numpy(rows).transpose(0, 1))
        Z = ward_linkage(embeddings[-1][0])
        plans.append(build_plan(Z, linear_thresholds(num_steps, float(rng.uniform(0, 3)))))
    together = join(plans)
    assert together.nfe == sum(plan.nfe for plan in plans)
    assert together.nfe_standard == sum(plan.nfe_standard for plan in plans)
    result = drawn(together, torch.cat(embeddings, dim=1))
    each = [drawn(*one) for one in zip(plans, embeddings, strict=True)]
    assert torch.equal(result, torch.cat(each))


def test_joined_plan_knows_keys_and_prompts_if_all_do():
    first = plan_of_three(prompt_keys=[1, 2, 3], prompts=["a", "b", "c"])
    both = join([first, build_plan(np.empty((0, 4)), [0.1, 0.1, 0], [1], prompts=["d"])])
    assert (both.prompt_keys, both.prompts) == ((1, 2, 3, 1), ("a", "b", "c", "d"))
    assert join([first, alone(2, 3)]).prompt_keys is join([first, alone(2, 3)]).prompts is None


@given(st.integers(1, 9), st.integers(1, 9))
def test_plan_alone_shares_nothing(count, num_steps):
    plan, cuts = alone(count, num_steps, range(count)), build_plan(ward_linkage(np.eye(count)), np.zeros(num_steps))
    assert plan.nfe == plan.nfe_standard == cuts.nfe == count * num_steps
    for k, step in enumerate(plan.steps):
        assert plan.branch_keys(k) == list(range(count))
        np.testing.assert_array_equal(step.parents, np.arange(count) if k else np.zeros(count))
    embeddings = torch.from_numpy(np.random.default_rng(0).normal(size=(2, count, 3))).float()
    assert torch.equal(drawn(plan, embeddings), drawn(cuts, embeddings))


@given(sets(3), st.data())
def test_plans_with_a_history_are_joined_with_it(found, data):
    prompts, plan, more = found
    grown = prompts.attached(plan, more) if more else plan
    grown = removed(grown, data.draw(st.integers(0, grown.num_prompts - 1))) if grown.num_prompts > 1 else grown
    grown = rerolled(grown, [Reroll(0, data.draw(st.integers(0, grown.num_steps - 1)), 1)])
    both = join([grown, plan])
    for k in range(plan.num_steps):
        assert courses(both, k) == courses(grown, k) + courses(plan, k)
        assert both.steps[k].num_clusters == grown.steps[k].num_clusters + plan.steps[k].num_clusters


def courses(plan, k):
    """Of each prompt, its cluster at a step: key, salt, and keys of the founders."""
    names = [
        (key, salt, tuple(plan.leaf_keys[i] for i in own))
        for key, salt, own in zip(plan.branch_keys(k), plan.salts(k), plan.founders(k), strict=True)
    ]
    return [names[c] for c in plan.steps[k].labels]


@given(sets(3), st.integers(1, 12), st.data())
def test_rerolls_of_another_number_of_steps_begin_at_the_same_share(found, num_steps, data):
    _, plan, _ = found
    step = data.draw(st.integers(0, plan.num_steps - 1))
    again = rerolled(plan, [Reroll(0, step, 1)]).resampled(num_steps)
    begin = [k for k in range(num_steps) if again.fresh(k)[again.steps[k].labels[0]]]
    assert len(begin) == 1
    assert abs(begin[0] / num_steps - step / plan.num_steps) <= 1 / min(num_steps, plan.num_steps)
