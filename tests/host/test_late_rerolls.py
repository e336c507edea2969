"""Rerolls that begin too late to change anything: moved to a step where they do, and told of."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from shared_runs import K, ksampler, modules_of, one_negative, positive_of, vectors_of_prompts

from hierdiff_core import Budget, Profile, PromptTree, build_plan, linear_thresholds, plan_for, ward_linkage
from hierdiff_core.kandinsky.schedulers import SCHEDULERS, last_reroll, make_scheduler
from hierdiff_core.plan.algebra import rerolled, rerolled_until
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.sampling.store import Store

pytestmark = pytest.mark.host

VECTORS = vectors_of_prompts()[[0, 3]]
LATE = Reroll(0, K - 1, 1)


@pytest.fixture(scope="module")
def host(pack):
    names = ("keeping", "run_price", "edited_run", "late_rerolls")
    ours = {name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in names}
    return SimpleNamespace(**vars(modules_of(pack)), **ours)


@pytest.fixture(scope="module")
def plan():
    Z = ward_linkage(VECTORS)
    return build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 2), (100, 101), prompts=["a fox", "an owl"])


def drawn(host, model, plan, sampler, store=None):
    told = SimpleNamespace()

    def tell(report, **data):
        vars(told).update(data["hierdiff_edits"][0], report=report)

    keeping = host.keeping.Keeping(store, owner="node", fresh=plan)
    sharing = host.sharing.Sharing(plan, show_tree=False, tell=tell, keeping=keeping)
    patched = host.sharing.share_steps(model, sharing)
    return ksampler(host, patched, positive_of(VECTORS), one_negative(), sampler), told


@pytest.mark.parametrize(
    ("sampler", "last"), [("euler", K - 1), ("euler_ancestral", K - 2), ("dpmpp_sde", K - 2), ("dpmpp_2m_sde", K - 2)]
)
def test_a_reroll_at_the_end_makes_another_picture_in_any_case(host, model, plan, sampler, last, monkeypatch):
    before, told = drawn(host, model, plan, sampler)
    assert told.last_reroll == last
    other, told = drawn(host, model, rerolled(plan, [LATE]), sampler)
    assert not torch.equal(other[0], before[0])
    assert torch.equal(other[1], before[1])
    notes = [line for line in told.report.splitlines() if "adds no noise after" in line]
    assert len(notes) == (last < K - 1)
    if not notes:
        return
    assert notes[0].startswith(f"⚠ {sampler} adds no noise after step {K - 1} of {K}")
    assert notes[0].endswith('taken from that step on for prompt 0 ("a fox")')
    monkeypatch.setattr(host.sharing, "in_time", lambda plan, last, name: (plan, []))  # it is the last one indeed
    same, _ = drawn(host, model, rerolled(plan, [LATE]), sampler)
    assert torch.equal(same, before)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_a_prompt_that_shares_no_step_any_more_is_rerolled_too(host, model, plan, sampler):
    """It does not split from anybody there; and the rows of what it was are not taken for what it becomes."""
    store, k = Store(2**24), K - 2
    assert plan.clusters_per_step[k - 1] == 2
    before, _ = drawn(host, model, plan, sampler, store)
    other, told = drawn(host, model, rerolled(plan, [Reroll(0, k, 1)]), sampler, store)
    assert torch.equal(other, drawn(host, model, rerolled(plan, [Reroll(0, k, 1)]), sampler)[0])
    assert torch.equal(other[1], before[1])
    assert not torch.equal(other[0], before[0])
    assert told.rows - told.reused == 2


def test_a_run_that_nobody_knows_the_end_of_moves_nothing(host, model):
    guider = host.samplers.CFGGuider(model)
    sampler, sigmas, latents = host.samplers.sampler_object("euler"), torch.tensor([2.0, 1.0]), torch.zeros(1, 4, 8, 8)
    assert host.late_rerolls.last_reroll(guider, sampler, sigmas, latents) is None
    others = host.samplers.KSAMPLER(lambda model, x, sigmas, **options: x)
    assert host.late_rerolls.last_reroll(guider, others, torch.tensor([2.0, 1.0, 0.0]), latents) is None


def test_prompts_that_are_gone_are_moved_too_and_those_of_others_stay(plan):
    both = rerolled(plan, [LATE, Reroll(1, 2, 3)])
    moved, prompts = rerolled_until(both, K - 3)
    assert prompts == [0]
    assert sorted((own.prompt, own.step, own.number) for own in moved.rerolls) == [(0, K - 3, 1), (1, 2, 3)]
    assert rerolled_until(both, K - 1) == (both, [])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_of_each_scheduler_of_kandinsky_it_is_known(name):
    """By a step of each on numbers: noise of the last step makes no difference where it is said to be too late."""
    config = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
    made = make_scheduler(name, config, K)
    drawing = name in ("DDPM", "Euler ancestral")
    assert last_reroll(made) == K - 1 - drawing
    if drawing:
        made.scale_model_input(torch.ones(1, 1, 2, 2), made.timesteps[0])
        for k, differs in ((K - 2, True), (K - 1, False)):
            ends = set()
            for seed in (1, 2):
                again = make_scheduler(name, config, K)
                again._step_index = k if hasattr(again, "_step_index") else None
                x, t, generator = torch.ones(1, 1, 2, 2), again.timesteps[k], torch.Generator().manual_seed(seed)
                again.scale_model_input(x, t)
                ends.add(again.step(x / 2, t, x, generator=generator).prev_sample.numpy().tobytes())
            assert (len(ends) == 2) == differs


def test_the_page_and_the_price_know_it(host, model):
    """Through the node: what is told, what it costs, and what is drawn."""
    texts = ["a fox", "an owl"]
    tree = PromptTree.of(VECTORS, "chord", texts)
    plan, prices = plan_for(tree, Budget("saving", 0.3), Profile(K)), []
    key = f"{plan.prompt_keys[0]:016x}"
    changes = [{"do": "reroll", "prompts": [key], "step": K - 1, "of": K, "number": 1}]
    edits = json.dumps({"version": 1, "kept": None, "changes": changes})
    edited = host.edited_run.edited_run(plan, True, edits, None, K - 2, "DDPM")
    assert edited.plan.rerolls[0].step == K - 2
    assert edited.notes[-1].startswith("⚠ DDPM adds no noise after step 7 of 8")
    assert json.loads(edited.told)["changes"][0]["step"] == K - 1  # what the user asked for stays in the workflow
    known = host.run_price.PricedRun(plan, edited.store, b"", None, torch.ones(K + 1), 0, {}, (), 1.0, K - 2)
    assert known.last_reroll == K - 2
    assert prices == []
