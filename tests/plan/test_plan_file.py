"""Plans as JSON: bit for bit there and back, and nothing else is taken for one."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import assert_same_plan

from hierdiff_core import (
    Budget,
    Plan,
    Profile,
    PromptTree,
    Sensitivity,
    Step,
    build_plan,
    plan_for,
    read_plan,
    ward_linkage,
    write_plan,
)
from hierdiff_core.plan import plan_file
from hierdiff_core.plan.advised import Advised, advised_data
from hierdiff_core.plan.algebra import alone, attach, edited, removed
from hierdiff_core.plan.joining import join
from hierdiff_core.plan.matching import separated
from hierdiff_core.plan.plan_file import plan_json, plan_of_json

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")

ADVISED = Advised("5f1c", {"sampler": "euler", "steps": 3, "模型": "小"}, "slight", 0.1 + 0.2, 12.25, "looks as good")
MEASURED = Sensitivity(6, [1, 4, 5, 6], [1e-6, 0.16, 0.74, 1], {"model": "小さい", "guidance": 3.0})
GOOD = build_plan([[0, 1, 0.2, 2], [2, 3, 0.5, 3]], [0.6, 0.4, 0], [1, 2, 3], [0.1, 0.2], None, ["a", "b", "c"])


@st.composite
def plans(draw):
    """Plans of every kind: cut, changed, parted, joined, made by hand."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(draw(st.integers(1, 8)), 4))
    rows = np.concatenate([rows, rows[rng.integers(len(rows), size=draw(st.integers(0, 2)))]])
    prompts = [f"prompt {i} 猫 \n🐈" for i in range(len(rows))] if draw(st.booleans()) else None
    tree = PromptTree.of(rows, draw(st.sampled_from(["chord", "cosine"])), prompts)
    keys = tuple(int(key) for key in rng.integers(2**63, size=len(rows), dtype=np.uint64))
    profile = Profile(draw(st.integers(1, 9)), sensitivity=draw(st.sampled_from([None, MEASURED])))
    plan = plan_for(replace(tree, keys=keys), Budget("root share", rng.uniform(0, 2)), profile)
    kind = draw(st.sampled_from(["cut", "attached", "removed", "separated", "joined", "alone", "no keys"]))
    if draw(st.booleans()):
        plan = replace(plan, advised=ADVISED)
    if kind == "attached":
        return attach(plan, rows, rng.normal(size=(1, 4)), [2**63 - 1], prompts and ["new"])
    if kind == "removed" and len(rows) > 1:
        return removed(attach(plan, rows, rng.normal(size=(1, 4)), [7], prompts and ["new"]), 0)
    if kind == "separated":
        return separated(plan, rng.integers(2, size=len(rows)))
    if kind == "joined":
        return join([plan, alone(2, plan.num_steps)])
    return {"alone": alone(3, 4, [5, 6, 7]), "no keys": replace(plan, prompt_keys=None)}.get(kind, plan)


def without_objects(plan):
    return replace(plan, sensitivity=None, frozen=None)


@given(plans())
def test_plan_comes_back_bit_for_bit(plan):
    text = plan_json(plan)
    again = plan_of_json(text)
    assert_same_plan(without_objects(again), without_objects(plan))
    assert plan_json(again) == text
    assert again.distortion == plan.distortion
    if plan.sensitivity:
        np.testing.assert_array_equal(again.sensitivity.change, plan.sensitivity.change)
        assert again.sensitivity.settings == plan.sensitivity.settings
    for k in range(plan.num_steps):
        assert again.branch_keys(k) == plan.branch_keys(k)
        assert [own.tolist() for own in again.founders(k)] == [own.tolist() for own in plan.founders(k)]
    assert [branch.key for branch in again.branches] == [branch.key for branch in plan.branches]


def test_changed_plan_goes_on_changing_after_it_was_read(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 4))
    tree = PromptTree.of(rows, "chord", list("abcde"))
    plan = plan_for(tree, Budget("saving", 0.4), Profile(8))
    other = edited(plan, 1, rows, rows[0] + 0.1, 99, "new")
    write_plan(other, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    by_key = dict(zip((*tree.keys, 99), [*rows, rows[0] + 0.1], strict=True))
    leaves = np.array([by_key[key] for key in again.leaf_keys])
    assert_same_plan(edited(again, 1, leaves, rows[1], tree.keys[1], "b"), plan)


def test_plan_that_nothing_was_measured_for_says_nothing_of_it():
    assert "advised" not in json.loads(plan_json(GOOD))
    assert plan_of_json(plan_json(replace(GOOD, advised=ADVISED))).advised == ADVISED


def test_cuts_are_not_stored_and_clusters_made_by_hand_are():
    assert json.loads(plan_json(GOOD))["labels"] is None
    steps = GOOD.steps[0], GOOD.steps[0], GOOD.steps[1]
    kept = [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert json.loads(plan_json(replace(GOOD, steps=steps)))["labels"] == kept == [s.labels.tolist() for s in steps]


def test_steps_that_do_not_follow_from_their_labels_are_not_written(tmp_path):
    step = GOOD.steps[-1]
    strange = Plan(np.zeros(1), (Step(step.labels, step.first, step.counts, step.parents + 1),))
    with pytest.raises(ValueError, match="steps must follow from their labels to be kept"):
        write_plan(strange, tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_json_cannot_hold_are_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        plan_json(replace(GOOD, merge_errors=np.array([0.1, np.nan])))


def with_(**changes):
    return {**json.loads(plan_json(GOOD)), **changes}


def changed(**changes):
    return {**advised_data(ADVISED), **changes}


LATER = {"Z": [[0, 1, 0.2, 2], [2, 3, 0.5, 3]], "keys": [1, 2, 3], "generations": [0, 0, 1], "present": [0, 1, 2]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "its format is not hierdiff-plan-1"),
        (with_(format="hierdiff-plan-2"), "its format is not hierdiff-plan-1"),
        (with_(num_prompts=2.5), "num_prompts must be whole numbers from 1 to"),
        (with_(num_prompts=0), "num_prompts must be whole numbers from 1 to"),
        (with_(num_prompts=True), "num_prompts must be whole numbers from 1 to"),
        (with_(num_prompts=10**9), "num_prompts must be whole numbers from 1 to 200000"),
        (with_(thresholds=None), "thresholds must be a list; got None"),
        (with_(thresholds=[0.6, "0.4", 0]), "thresholds must be finite numbers; got '0.4' at place 1"),
        (with_(thresholds=[0.6, float("nan"), 0]), "thresholds must be finite numbers; got nan at place 1"),
        (with_(thresholds=[0.1, 0.4, 0]), "thresholds must not increase"),
        (with_(thresholds=[0.0] * 1001), "thresholds must be at most 1000 entries; got 1001"),
        (with_(Z=[[0, 1, 0.2, 2]]), "Z must be a list of 2 merges; got a list of 1"),
        (with_(Z=[[0, 1, 0.2, 2], [2, 3, 0.5]]), "Z must be 4 entries; got 3"),
        (with_(Z=[[0, 1, 0.2, 2], [2, 3, 1e999, 3]]), "Z must be finite numbers; got inf at place 2"),
        (with_(Z=[[0, 1, 0.7, 2], [2, 3, 0.5, 3]]), "Z must have heights that do not decrease"),
        (with_(Z=None), "it lacks labels, which a plan without Z must have"),
        (with_(metric="l1"), "metric must be one of cosine, chord; got 'l1'"),
        (with_(prompt_keys=[1, 2]), "prompt_keys must be 3 entries; got 2"),
        (with_(prompt_keys=[1, 2, 3.0]), r"prompt_keys must be whole numbers up to 2\*\*64; got 3.0 at place 2"),
        (with_(prompt_keys=[1, 2, 2**65]), r"prompt_keys must be whole numbers up to 2\*\*64"),
        (with_(prompts=["a", "b", 3]), "prompts must be texts of at most 100000 characters; got 3 at place 2"),
        (with_(prompts=["a", "b", "x" * 100_001]), "prompts must be texts of at most 100000 characters; got 'x+'?…"),
        (with_(prompts=["a", "b", "\ud800"]), "surrogates not allowed"),
        (with_(merge_errors=[1]), "merge_errors must be 2 entries; got 1"),
        (with_(sensitivity={"num_steps": 3}), "its format is not hierdiff-sensitivity-1"),
        (with_(labels=[[0, 0, 0]]), "labels must be a list for each of 3 steps"),
        (with_(labels=[[0, 0, 0], [0, 0], [0, 1, 2]]), "labels must be 3 entries; got 2"),
        (with_(labels=[[0, 0, 0], [0, 0, 3], [0, 1, 2]]), "labels must be whole numbers from 0 to 2; got 3 at place 2"),
        (with_(labels=[[0, 0, 0], [0, 2, 2], [0, 1, 2]]), "labels of step 1 must number its clusters from 0 without"),
        (with_(labels=[[0, 1, 1], [0, 0, 1], [0, 1, 2]]), "labels of step 1 must part the clusters of the step before"),
        (with_(differ=[]), "differ must name at least one prompt, rising"),
        (with_(differ=[1, 1]), "differ must name at least one prompt, rising"),
        (with_(differ=[1, 3]), "differ must be whole numbers from 0 to 2; got 3 at place 1"),
        (with_(frozen=[]), r"frozen must hold a tree; got \[\]"),
        (with_(frozen={**LATER, "keys": None}), "a tree can be frozen when it has the keys of its prompts"),
        (with_(frozen={**LATER, "generations": [0, 0]}), "generations must be 3 entries; got 2"),
        (with_(frozen={**LATER, "present": [0, 1]}), "frozen must be a tree that holds that of Z"),
        (
            with_(frozen={**LATER, "present": [0, 1, 2], "keys": [1, 2, 4]}, prompt_keys=[1, 2, 3]),
            "frozen .* prompt_keys",
        ),
        (with_(frozen=LATER, prompt_keys=None), r"frozen must have the plan's prompt_keys; got \(1, 2, 3\)"),
        (
            with_(frozen=LATER, prompt_keys=[1, 2, 3], prompts=list("abc")),
            "frozen must have the plan's prompts; got None",
        ),
        (
            with_(frozen={**LATER, "prompts": list("abx")}),
            "frozen must have the plan's prompts",
        ),
        (
            with_(frozen={**LATER, "metric": "cosine"}, prompts=None, metric="chord"),
            "frozen must have the plan's metric; got 'cosine'",
        ),
        (with_(advised=[]), r"advised must have model, settings, verdict, loss, passes, measure; got \[\]"),
        (with_(advised=changed(verdict="great")), "advised: verdict must be one of none, slight, visible; got 'great'"),
        (with_(advised=changed(model="x" * 501)), "advised: model must be a text of 1 to 500 characters; got 'x+'?…"),
        (with_(advised=changed(measure="")), "advised: measure must be a text of 1 to 500 characters; got ''"),
        (with_(advised=changed(loss="0")), r"advised: loss must be a number from -1e\+12 to 1e\+12; got '0'"),
        (with_(advised=changed(loss=float("nan"))), r"advised: loss must be a number from -1e\+12 to 1e\+12; got nan"),
        (with_(advised=changed(passes=-1)), r"advised: passes must be a number from 0 to 1e\+12; got -1"),
        (with_(advised=changed(settings={"a": []})), r"advised: settings must be texts of at most 500 .* got \[\] for"),
        (with_(frozen={**LATER, "Z": [[0, 1, 0.3, 2], [2, 3, 0.5, 3]]}), "frozen must be a tree that holds that of Z"),
    ],
)
def test_what_is_no_plan_is_refused_by_the_name_of_the_file_and_of_the_entry(tmp_path, data, message):
    path = tmp_path / "shared.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"shared.json holds no plan: .*{message}"):
        read_plan(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("\x00\xff", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        (f'{{"format": "hierdiff-plan-1", "num_prompts": {"1" * 5000}}}', "Exceeds the limit"),
    ],
)
def test_damaged_file_is_refused(tmp_path, text, message):
    path = tmp_path / "shared.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"shared.json holds no plan: {message}"):
        read_plan(path)
    with pytest.raises(ValueError, match=r"missing.json holds no plan: .*No such file"):
        read_plan(tmp_path / "missing.json")


def test_file_that_is_too_large_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_file, "MOST_BYTES", 1 << 16)
    path = tmp_path / "shared.json"
    path.write_bytes(b" " * (1 << 24))
    tracemalloc.start()
    with pytest.raises(ValueError, match="it has more than 64 kB"):
        read_plan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_more_labels_than_a_plan_may_have_are_refused(monkeypatch):
    monkeypatch.setattr(plan_file, "MOST_LABELS", 8)
    with pytest.raises(ValueError, match="3 steps of 3 prompts are too many: at most 8 in all"):
        plan_of_json(json.dumps(with_()))


def test_plan_of_two_thousand_prompts_is_kept(tmp_path):
    tree = PromptTree(ward_linkage(np.random.default_rng(0).normal(size=(2000, 8)), "chord"), keys=range(2000))
    plan = plan_for(tree, Budget("saving", 0.5), Profile(40))
    write_plan(plan, tmp_path / "plan.json")
    assert_same_plan(read_plan(tmp_path / "plan.json"), plan)
    assert (tmp_path / "plan.json").stat().st_size < 300_000
