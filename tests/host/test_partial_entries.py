"""Conditionings of CLIP Embedding for some of the plan's prompts each, joined by Conditioning (Combine).

Each may have a LoRA hook, a ControlNet, an area of its own; its prompts must get what the host gives them alone.
"""

import importlib

import numpy as np
import pytest
import torch
from shared_runs import N, one_noise, rows_of, shared_model, sigmas_of

from hierdiff_core import build_plan
from hierdiff_core.plan.keys import text_key

pytestmark = pytest.mark.host

STEPS, SEED, SPLIT = 4, 7, 3
PROMPTS = tuple(f"prompt {i}" for i in range(N))
Z = [[0, 1, 1.0, 2], [2, 3, 1.0, 2], [4, 5, 1.0, 2], [6, 7, 2.0, 4], [8, 9, 2.0, 6]]
EQUAL, FIRST = "share only if equal", "first prompt's while shared"


def plan_of(*thresholds, prompts=PROMPTS):
    return build_plan(Z, thresholds, [text_key(prompt) for prompt in prompts], prompts=prompts)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXTS, HINTS = random(N, 5, 16, seed=1), random(N, 3, 64, 64, seed=4).sigmoid()
NEGATIVES = random(2, 5, 16, seed=9)


@pytest.fixture(scope="module")
def loras(host):
    """Two HOOKS, as Create Hook LoRA makes them."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    made = []
    for seed in (4, 5):
        lora = {f"{key}.lora_up.weight": random(64, 4, seed=seed) * 0.5}
        lora[f"{key}.lora_down.weight"] = random(4, 16, seed=seed + 10) * 0.5
        made.append(host.hooks.create_hook_lora(lora, 1.0, 0.0))
    return made


@pytest.fixture(params=[1, 2], ids=["one row a call", "two rows a call"])
def agree(request, host, monkeypatch):
    """Compares with the host: bit-identical where a call holds one row."""
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: request.param)

    def check(samples, expected):
        assert samples.isfinite().all()
        if request.param == 1:
            assert torch.equal(samples, expected)
        else:
            assert (samples - expected).abs().max() < 1e-4 * expected.abs().max()

    return check


def entry(host, rows, texts=TEXTS, **values):
    """As CLIP Embedding makes it of these prompts, with more values set."""
    return [texts[rows], {host.rows.PROMPTS: tuple(PROMPTS[i] for i in rows), **values}]


def negative(**values):
    return [[torch.zeros(1, 5, 16), values]]


def run(host, model, positive, negative, rows, on_step=lambda guider, i: None):
    """The host's own guider and an euler that says when a step begins."""
    guider = host.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(4.0)

    def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            on_step(guider, i)
            denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return x

    sampler, sigmas = host.samplers.KSAMPLER(euler), sigmas_of(host, model, "euler", STEPS)
    latents = torch.zeros(rows, 4, 8, 8)
    return guider.sample(one_noise(host, rows), latents, sampler, sigmas, disable_pbar=True, seed=SEED)


def shared(host, model, plan, positive, negative, choice=EQUAL, **options):
    patched, reports = shared_model(host, model, plan, per_prompt=choice, micro_batch=2, **options)
    return run(host, patched, positive, negative, N), reports[0]


# --- LoRA hooks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [EQUAL, FIRST])
@pytest.mark.parametrize("strict", [False, True])
def test_each_prompt_is_drawn_with_the_lora_of_its_entry(host, model, loras, agree, choice, strict):
    positive = [entry(host, [0, 1, 2], hooks=loras[0]), entry(host, [3, 5], hooks=loras[1]), entry(host, [4])]
    samples, report = shared(host, model, plan_of(0, 0, 0, 0), positive, negative(), choice, strict=strict)
    hooks = [loras[0]] * 3 + [loras[1], None, loras[1]]
    for i in (0, 3, 4):
        values = {"hooks": hooks[i]} if hooks[i] else {}
        agree(samples[i : i + 1], run(host, model, [[TEXTS[i : i + 1], values]], negative(), 1))
    without = run(host, model, [[TEXTS[:1], {}]], negative(), 1)
    assert not torch.allclose(samples[:1], without, rtol=1e-2)
    assert rows_of(report) == N * STEPS
    assert "⚠" not in report


@pytest.mark.parametrize("choice", [EQUAL, FIRST])
def test_pairs_with_one_lora_share_without_loss(host, model, loras, agree, choice):
    texts = TEXTS[[0, 0, 1, 1, 2, 2]]
    positive = [entry(host, [0, 1], texts, hooks=loras[0]), entry(host, [2, 3, 4, 5], texts, hooks=loras[1])]
    plan = plan_of(1, 1, 1, 0)
    samples, report = shared(host, model, plan, positive, negative(), choice)
    for i in (1, 4):
        own = [[texts[i : i + 1], {"hooks": loras[int(i > 1)]}]]
        agree(samples[i : i + 1], run(host, model, own, negative(), 1))
    assert rows_of(report) == plan.nfe
    assert "⚠" not in report


def test_prompts_of_one_lora_share_where_others_are_apart(host, model, loras):
    positive = [entry(host, [0, 1, 2], hooks=loras[0]), entry(host, [3, 4, 5], hooks=loras[1])]
    samples, report = shared(host, model, plan_of(2, 2, 2, 0), positive, negative())
    assert rows_of(report) == 2 * 3 + N
    assert "⚠ positive conditionings" in report
    assert len({row.numpy().tobytes() for row in samples}) == N


def test_cluster_is_drawn_with_its_first_prompts_entry_until_it_splits(host, model, loras, agree):
    """Its text too: the others have none in that entry."""
    positive = [entry(host, [0, 1, 2], hooks=loras[0]), entry(host, [3, 4, 5], hooks=loras[1])]
    plan = plan_of(1, 1, 1, 0)
    samples, report = shared(host, model, plan, positive, negative(), FIRST)
    both = [[TEXTS[2:3], {"hooks": loras[0]}], [TEXTS[3:4], {"hooks": loras[1]}]]
    kept = []

    def on_step(guider, i):
        kept.append(guider.conds["positive"])
        if i in (0, SPLIT):
            guider.conds["positive"] = [kept[0][int(i == SPLIT)]]

    agree(samples[3:4], run(host, model, both, negative(), 1, on_step))
    assert rows_of(report) == plan.nfe
    assert "⚠" not in report


def test_same_texts_with_each_of_several_loras(host, model, loras, agree):
    """The plan has each text twice; the first entry's are the first of them."""
    prompts = PROMPTS[:3] * 2
    positive = [entry(host, [0, 1, 2], hooks=hooks) for hooks in loras]
    samples, _ = shared(host, model, plan_of(0, 0, 0, 0, prompts=prompts), positive, negative())
    for i in (1, 4):
        own = [[TEXTS[1:2], {"hooks": loras[i // 3]}]]
        agree(samples[i : i + 1], run(host, model, own, negative(), 1))


def test_negatives_with_the_loras_go_with_their_positives(host, model, loras, agree):
    """As Cond Pair Set Props and Cond Pair Combine make them."""
    nodes = importlib.import_module("comfy_extras.nodes_hooks")
    props, combine = nodes.PairConditioningSetProperties(), nodes.PairConditioningCombine()
    pairs = [
        props.set_properties([entry(host, rows)], [[NEGATIVES[j : j + 1], {}]], 1.0, "default", hooks=loras[j])
        for j, rows in enumerate(([0, 1, 2], [3, 4, 5]))
    ]
    positive, negatives = combine.combine(*pairs[0], *pairs[1])
    samples, _ = shared(host, model, plan_of(0, 0, 0, 0), positive, negatives)
    for i in (0, 5):
        j = i // 3
        own = [[TEXTS[i : i + 1], {"hooks": loras[j]}]]
        alone = [[NEGATIVES[j : j + 1], {"hooks": loras[j]}]]
        agree(samples[i : i + 1], run(host, model, own, alone, 1))


# --- ControlNets and areas -------------------------------------------------------------------------------------------


def control(host, hints):
    return host.native_models.control_net().set_cond_hint(hints, 0.8, (0.0, 1.0))


@pytest.mark.parametrize("to_uncond", [False, True])
def test_controlnets_of_entries(host, model, agree, to_uncond):
    """One entry has an image for each of its prompts, one has a single image, one has none."""

    def values(hints):
        return {"control": control(host, hints), "control_apply_to_uncond": to_uncond}

    positive = [
        entry(host, [0, 1, 2], **values(HINTS[:3])),
        entry(host, [3, 4], **values(HINTS[3:4])),
        entry(host, [5]),
    ]
    samples, _ = shared(host, model, plan_of(0, 0, 0, 0), positive, negative())
    for i, own in ((1, values(HINTS[1:2])), (4, values(HINTS[3:4])), (5, {})):
        agree(samples[i : i + 1], run(host, model, [[TEXTS[i : i + 1], own]], negative(), 1))


def test_areas_of_entries(host, model, agree):
    """Beside an entry for all; two of the prompts are in two entries with areas."""
    left, right = {"area": (8, 4, 0, 0), "strength": 1.0}, {"area": (8, 4, 0, 4), "strength": 0.7}
    whole = [TEXTS * 0.5, {host.rows.PROMPTS: PROMPTS}]
    positive = [whole, entry(host, [0, 1, 2], **left), entry(host, [2, 3], **right)]
    samples, _ = shared(host, model, plan_of(0, 0, 0, 0), positive, negative())
    for i, own in ((1, [left]), (2, [left, right]), (3, [right]), (4, [])):
        entries = [[TEXTS[i : i + 1] * 0.5, {}], *([TEXTS[i : i + 1], values] for values in own)]
        agree(samples[i : i + 1], run(host, model, entries, negative(), 1))


@pytest.mark.parametrize("name", ["Guider_Basic", "Guider_DualCFG"])
def test_guiders_of_one_or_three_sides(host, model, loras, name):
    """The other sides' entries go with the positive ones."""
    kind = getattr(importlib.import_module("comfy_extras.nodes_custom_sampler"), name)

    def drawn(model, positive, rows):
        guider = kind(model)
        if name == "Guider_Basic":
            guider.set_conds(positive)
        else:
            guider.set_conds(positive, [[TEXTS[:1] * 0.2, {}]], negative())
            guider.set_cfg(4.0, 2.0)
        sampler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, model, "euler", STEPS)
        return guider.sample(one_noise(host, rows), torch.zeros(rows, 4, 8, 8), sampler, sigmas, disable_pbar=True)

    patched, _ = shared_model(host, model, plan_of(0, 0, 0, 0))
    positive = [entry(host, [0, 1, 2], hooks=loras[0]), entry(host, [3, 4, 5], hooks=loras[1])]
    samples = drawn(patched, positive, N)
    for i in (0, 4):
        own = [[TEXTS[i : i + 1], {"hooks": loras[i // 3]}]]
        assert torch.equal(samples[i : i + 1], drawn(model, own, 1))


class Gligen(torch.nn.Module):
    """As the host's: a patch for the network, made for each call."""

    def set_position(self, shape, positions, device):
        return lambda x, options: x + 0.1 * positions

    def set_empty(self, shape, device):
        return lambda x, options: x


def test_gligen_of_entries(host, model):
    """The host gives each negative one without boxes."""

    cpu = torch.device("cpu")
    boxes = host.model_patcher.ModelPatcher(Gligen(), cpu, cpu)

    def values(strength):
        return {"gligen": ("position", boxes, strength)}

    positive = [entry(host, [0, 1, 2], **values(1.0)), entry(host, [3, 4], **values(3.0)), entry(host, [5])]
    samples, _ = shared(host, model, plan_of(0, 0, 0, 0), positive, negative())
    for i, own in ((1, values(1.0)), (4, values(3.0)), (5, {})):
        assert torch.equal(samples[i : i + 1], run(host, model, [[TEXTS[i : i + 1], own]], negative(), 1))


# --- What they are not -----------------------------------------------------------------------------------------------


def test_one_row_beside_those_of_the_set_serves_all_prompts(host, model):
    """Even if its text is one of the plan's: a style for all, say."""
    whole = [TEXTS, {host.rows.PROMPTS: PROMPTS}]
    known, unknown = entry(host, [2]), [TEXTS[2:3], {}]
    samples = [shared(host, model, plan_of(1, 1, 1, 0), [whole, one], negative())[0] for one in (known, unknown)]
    assert torch.equal(*samples)


def test_prompt_that_is_in_no_entry_is_named(host, model):
    positive = [entry(host, [0, 1, 2]), entry(host, [3, 5])]
    with pytest.raises(ValueError, match=r'no entry of the positive conditioning is for prompt 4 \("prompt 4"\)'):
        shared(host, model, plan_of(0, 0, 0, 0), positive, negative())


def test_negatives_that_cannot_be_told_apart_are_refused(host, model):
    positive = [entry(host, [0, 1, 2], area=(8, 4, 0, 0)), entry(host, [3, 4, 5], area=(8, 4, 0, 4))]
    negatives = [[NEGATIVES[j : j + 1], {}] for j in range(2)]
    with pytest.raises(ValueError, match="which prompts they are for cannot be told; use one negative conditioning"):
        shared(host, model, plan_of(0, 0, 0, 0), positive, negatives)


def test_entries_of_other_prompts_stay_refused(host, model):
    others = [TEXTS[:3], {host.rows.PROMPTS: ("a", "b", "c")}]
    with pytest.raises(ValueError, match="the positive conditioning has 3 rows"):
        shared(host, model, plan_of(0, 0, 0, 0), [others, entry(host, [3, 4, 5])], negative())


def test_masks_of_tokens_and_lists_get_rows_for_all(host):
    values = {"attention_mask": torch.ones(2, 5), "reference_latents": [torch.arange(2)[:, None]], "strength": 0.5}
    made = host.partial.assigned(
        {"positive": [{"cross_attn": TEXTS[:2], host.rows.PROMPTS: PROMPTS[4:2:-1], **values}, {"cross_attn": TEXTS}]},
        plan_of(0, 0, 0, 0),
    )["positive"][0]
    assert made[host.rows.APPLIES].tolist() == [False, False, False, True, True, False]
    np.testing.assert_array_equal(made["reference_latents"][0][3:5, 0], [1, 0])
    assert made["cross_attn"].shape == TEXTS.shape
    assert made["attention_mask"].shape == (N, 5)
    assert made["strength"] == 0.5
