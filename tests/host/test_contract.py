"""What other packs can read of a run in `transformer_options`, and a patch that follows by it."""

import importlib
import re

import pytest
import torch
from attached_nodes import SIDES, alone, shared
from shared_runs import ENDS, K, N, ksampler, shared_model

pytestmark = pytest.mark.host

MEANINGS = {"version", "prompts", "step", "split", "guard", "rows", "members", "keys", "clusters", "parents"}


def listening(model, heard):
    """A model that notes what it is told at each call; it only listens."""

    def note(apply_model, args):
        options = args["c"]["transformer_options"]
        sigma, rows = float(args["timestep"][0]), len(args["input"]) // len(args["cond_or_uncond"])
        heard.append((sigma, rows, options["hierdiff"], "ad_params" in options))
        return apply_model(args["input"], args["timestep"], **args["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(note)
    return patched


@pytest.mark.parametrize("micro_batch", [None, 2, 0])
def test_each_call_is_told_of(host, model, plans, monkeypatch, micro_batch):
    """The rows of this call alone: on a CPU one at a time, else micro-batches, or all clusters."""
    if micro_batch is not None:
        monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    heard = []
    shared(host, listening(model, heard), plans.shared, micro_batch=micro_batch or 0)
    sizes = {len(told["rows"]) for _, _, told, _ in heard}
    assert sizes == {None: {1}, 2: {1, 2}, 0: set(plans.shared.clusters_per_step)}[micro_batch]
    before, steps = None, {}
    for _, rows, told, window in heard:
        assert set(told) == MEANINGS
        assert (told["version"], told["prompts"], len(told["rows"]), window) == (1, N, rows, False)
        assert not told["guard"]
        assert told["rows"] == [members[0] for members in told["members"]]
        steps.setdefault(told["step"], []).append(told)
    for k in range(K):
        step = plans.shared.steps[k]
        rows = [row for told in steps[k] for row in told["rows"]]
        assert rows == sorted(step.first.tolist())
        members = [members for told in steps[k] for members in told["members"]]
        assert members == [step.members[step.labels[row]].tolist() for row in rows]
        keys = dict(zip(step.first.tolist(), plans.shared.branch_keys(k), strict=True))
        assert [key for told in steps[k] for key in told["keys"]] == [keys[row] for row in rows]
        assert [place for told in steps[k] for place in told["clusters"]] == list(range(len(rows)))
        splits = {told["split"] for told in steps[k]}
        parents = [parent for told in steps[k] for parent in told["parents"]]
        assert splits == {before is not None and len(rows) > len(before)}
        had = before if splits == {True} else members
        assert parents == [next(i for i, held in enumerate(had) if row in held) for row in rows]
        before = members


def test_later_calls_of_one_step_are_no_splits(host, model, plans):
    heard = []
    shared(host, listening(model, heard), plans.shared, sampler="heun")
    calls: list[set] = []
    for _, _, told, _ in heard:
        if told["clusters"][0] == 0:
            calls.append(set())
        calls[-1].add(told["split"])
    assert len(calls) == 2 * K - 1
    assert all(len(splits) == 1 for splits in calls)
    assert calls.count({True}) == len(set(plans.shared.clusters_per_step)) - 1


def test_nothing_is_left_outside_of_the_calls(host, model, plans):
    seen = []

    def after(args):
        seen.append(sorted(args["model_options"]["transformer_options"]))
        return args["denoised"]

    patched = listening(model, [])
    patched.set_model_sampler_post_cfg_function(after)
    kept, _ = shared_model(host, patched, plans.shared)
    before = sorted(kept.model_options["transformer_options"])
    ksampler(host, kept, *SIDES)
    assert len(seen) == K
    assert all("hierdiff" not in keys and "ad_params" not in keys for keys in seen)
    assert sorted(kept.model_options["transformer_options"]) == before


def test_it_is_plain_values(host, model, plans):
    heard = []
    shared(host, listening(model, heard), plans.shared)
    json = importlib.import_module("json")
    assert all(json.loads(json.dumps(told)) == told for _, _, told, _ in heard)


def test_a_window_of_somebody_else_stays(host, model, plans):
    """As AnimateDiff sets it for all rows of a call."""
    theirs, heard = {"sub_idxs": None, "full_length": 99, "context_length": 99}, []

    def heeds(h, options):
        heard.append(options["ad_params"])
        rows = options["hierdiff"]["rows"]
        return h + torch.tensor(rows, dtype=h.dtype).repeat(len(options["cond_or_uncond"]))[:, None, None, None] * 0.01

    patched = model.clone()
    patched.set_model_input_block_patch(heeds)
    patched.model_options["transformer_options"]["ad_params"] = theirs
    shared(host, patched, plans.shared)
    assert all(window == theirs for window in heard)


# --- The example of the docs ------------------------------------------------------------------------------------------


def momentum_by_prompt(code, model, kept):
    """The docs' own lines: a patch that keeps something of each row from step to step."""
    scope = {"kept": kept}
    exec(code, scope)
    patched = model.clone()
    patched.set_model_unet_function_wrapper(scope["unet_function"])
    return patched


@pytest.fixture(scope="module")
def example(repo_root):
    """kept -> a patch, by the lines that readers of the docs see."""
    page = (repo_root / "docs" / "for-other-packs.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return code


def test_the_example_follows(host, model, plans, example):
    """At tau = 0 each prompt is as alone; pairs split and go on from what their trunk had."""
    samples, _ = shared(host, momentum_by_prompt(example, model, {}), plans.none)
    for i in ENDS:
        assert torch.equal(samples[i : i + 1], alone(host, momentum_by_prompt(example, model, {}), i))
    assert not torch.equal(samples, shared(host, model, plans.none)[0])
    samples, report = shared(host, momentum_by_prompt(example, model, {}), plans.shared)
    assert f"model rows: {plans.shared.nfe} instead of {N * K}" in report
    assert len({row.numpy().tobytes() for row in samples}) == N
