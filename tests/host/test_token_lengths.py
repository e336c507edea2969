"""Prompts with different numbers of tokens in one run: the model gets each as the host would give it alone.

On small models of the host's own classes, with random weights; what padding does to them is measured here, too.
"""

import pytest
import torch
from shared_runs import SEED, N, modules_of, shared_model, vectors_of_prompts

from hierdiff_core import build_plan, linear_thresholds, ward_linkage

pytestmark = pytest.mark.host

STEPS = 4
TOKENS = [7, 9, 7, 12, 9, 34]
PAIRS = [7, 7, 9, 9, 12, 12]
MASKED = {"OmniGen 2", "LTX-Video", "Lumina 2", "Z-Image"}  # by their encoders, always
MASKED_WHERE_PADDED = {"Qwen-Image", "HunyuanVideo"}
EVERY_MODEL = ["Lumina 2", "Z-Image", "Qwen-Image", "OmniGen 2", "LTX-Video", "Chroma", "HunyuanVideo", "PixArt"]


@pytest.fixture(scope="module")
def host(pack):
    found = modules_of(pack)
    found.joining = pack.nodes.host.encode_set
    found.alone = pack.nodes.host.rows_alone
    return found


@pytest.fixture(scope="module")
def models(host):
    """(model, shape of a latent) of each name, made once."""
    import text_models

    made = {}
    return lambda name: made.setdefault(name, text_models.text_model(name))


def text(length, seed):
    return torch.randn(1, length, 48, generator=torch.Generator().manual_seed(seed))


def entry_of(length, seed, masked):
    """What a text encoder gives for a prompt."""
    values = {"pooled_output": text(1, seed)[0, :, :24]}
    if masked:
        values["attention_mask"] = torch.ones(1, length, dtype=torch.long)
    return [text(length, seed), values]


def entries_for(name, lengths=TOKENS, seeds=None):
    return [entry_of(n, seed, name in MASKED) for n, seed in zip(lengths, seeds or range(len(lengths)), strict=True)]


def merged(host, entries, lengthen=None):
    lengthen = lengthen or ("pad right" if "attention_mask" in entries[0][1] else "pad without a mask")
    return [host.joining.merge(entries, [f"prompt {i}" for i in range(len(entries))], lengthen)]


def negative_for(name):
    return [entry_of(5, 99, name in MASKED)]


def draw(host, model, shape, positive, negative, rows=1, **options):
    """Latents of the host's KSampler."""
    latents = options.pop("latents", torch.zeros(shape))
    noise = host.sample.prepare_noise(latents[:1], SEED).repeat(rows, *[1] * (len(shape) - 1))
    settings = {"disable_pbar": True, "seed": SEED, **options}
    return host.sample.sample(model, noise, STEPS, 3.0, "euler", "normal", positive, negative, latents, **settings)


def draw_shared(host, model, shape, positive, negative, plan, micro_batch=0, **options):
    patched, reports = shared_model(host, model, plan, micro_batch=micro_batch)
    return draw(host, patched, shape, positive, negative, **options), reports


def plan_of(vectors, tau, steps=STEPS):
    return build_plan(ward_linkage(vectors), linear_thresholds(steps, tau), range(100, 100 + len(vectors)))


@pytest.fixture(scope="module")
def plans():
    vectors = vectors_of_prompts()
    height = float(ward_linkage(vectors)[-1, 2])
    found = {"alone": plan_of(vectors, 0.0), "shared": plan_of(vectors, 2 * height)}
    assert len(set(found["shared"].clusters_per_step)) > 2
    pairs = torch.stack([vectors[i // 2 * 2 // 2] for i in range(N)])
    pairs = pairs + 1e-3 * torch.randn(pairs.shape, generator=torch.Generator().manual_seed(2))
    found["pairs"] = plan_of(pairs, 0.05 * float(ward_linkage(pairs)[-1, 2]))
    assert found["pairs"].clusters_per_step[0] == 3
    return found


# --- As alone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_each_prompt_is_drawn_as_alone(host, models, plans, name):
    model, shape = models(name)
    entries, negative = entries_for(name), negative_for(name)
    alone = torch.cat([draw(host, model, shape, [entry], negative) for entry in entries])
    lengthen = "pad right" if name in MASKED_WHERE_PADDED else None
    found, _ = draw_shared(host, model, shape, merged(host, entries, lengthen), negative, plans["alone"])
    assert alone.isfinite().all()
    assert torch.equal(found, alone)
    assert len({row.numpy().tobytes() for row in found}) == N


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_prompts_that_are_equal_in_pairs_are_shared_without_loss(host, models, plans, name):
    model, shape = models(name)
    entries, negative = entries_for(name, PAIRS, [0, 0, 1, 1, 2, 2]), negative_for(name)
    alone = torch.cat([draw(host, model, shape, [entry], negative) for entry in entries])
    found, _ = draw_shared(host, model, shape, merged(host, entries), negative, plans["pairs"])
    assert torch.equal(found, alone)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_clusters_of_prompts_of_different_lengths_share(host, models, plans, name):
    model, shape = models(name)
    entries, negative = entries_for(name), negative_for(name)
    found, (report,) = draw_shared(host, model, shape, merged(host, entries), negative, plans["shared"])
    assert found.isfinite().all()
    assert f"model rows: {plans['shared'].nfe} instead of {N * STEPS}" in report
    assert len({row.numpy().tobytes() for row in found}) == N


# --- Whatever stands beside it ---------------------------------------------------------------------------------------


def test_negatives_of_different_lengths_too(host, models, plans):
    model, shape = models("Lumina 2")
    entries = entries_for("Lumina 2")
    negatives = entries_for("Lumina 2", [5, 5, 20, 8, 5, 8], range(50, 56))
    alone = torch.cat([draw(host, model, shape, [p], [n]) for p, n in zip(entries, negatives, strict=True)])
    sides = merged(host, entries), merged(host, negatives)
    assert torch.equal(draw_shared(host, model, shape, *sides, plans["alone"])[0], alone)


def test_tokens_padded_on_the_left(host, models, plans):
    model, shape = models("Lumina 2")
    entries, negative = entries_for("Lumina 2"), negative_for("Lumina 2")
    alone = torch.cat([draw(host, model, shape, [entry], negative) for entry in entries])
    padded = merged(host, entries, "pad left")
    assert torch.equal(draw_shared(host, model, shape, padded, negative, plans["alone"])[0], alone)


def areas(conditioning):
    return host_node("ConditioningSetArea", conditioning, width=32, height=64, x=0, y=0, strength=1.0)


def times(conditioning):
    return host_node("ConditioningSetTimestepRange", conditioning, start=0.0, end=0.5)


def zero(conditioning):
    return host_node("ConditioningZeroOut", conditioning)


def with_more_tokens(conditioning):
    more, values = entry_of(6, 70, True)
    return host_node("ConditioningConcat", conditioning, [[more.expand(len(conditioning[0][0]), -1, -1), values]])


def averaged(conditioning):
    return host_node("ConditioningAverage", conditioning, [entry_of(6, 70, True)], 0.5)


def combined(conditioning):
    return host_node("ConditioningCombine", conditioning, areas([entry_of(6, 70, True)]))


def host_node(name, *args, **kwargs):
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[name]
    return getattr(node(), node.FUNCTION)(*args, **kwargs)[0]


@pytest.mark.parametrize("change", [areas, times, zero, with_more_tokens, averaged, combined])
@pytest.mark.parametrize("name", ["Lumina 2", "Qwen-Image"])
def test_nodes_that_change_the_conditioning_change_it_as_alone(host, models, plans, name, change):
    model, shape = models(name)
    entries, negative = entries_for(name), negative_for(name)
    rest = [entry_of(10, 60, name in MASKED)] if change is times else []
    alone = torch.cat([draw(host, model, shape, change([entry]) + rest, negative) for entry in entries])
    changed = change(merged(host, entries)) + rest
    assert torch.equal(draw_shared(host, model, shape, changed, negative, plans["alone"])[0], alone)


def test_area_of_the_negative_gives_the_positive_one_with_its_own_texts(host, models, plans):
    model, shape = models("Lumina 2")
    entries, negative = entries_for("Lumina 2"), areas(negative_for("Lumina 2")) + negative_for("Lumina 2")
    alone = torch.cat([draw(host, model, shape, [entry], negative) for entry in entries])
    assert torch.equal(draw_shared(host, model, shape, merged(host, entries), negative, plans["alone"])[0], alone)


def test_reference_latents_stay_with_their_prompts(host, models, plans):
    model, shape = models("Qwen-Image")
    entries, negative = entries_for("Qwen-Image"), negative_for("Qwen-Image")
    picture = torch.randn(shape, generator=torch.Generator().manual_seed(5))

    def edited(conditioning):
        return host.node_helpers.conditioning_set_values(conditioning, {"reference_latents": [picture]}, append=True)

    alone = torch.cat([draw(host, model, shape, edited([entry]), negative) for entry in entries])
    found, _ = draw_shared(host, model, shape, edited(merged(host, entries)), negative, plans["alone"])
    assert torch.equal(found, alone)


def test_inpainting_of_one_picture(host, models, plans):
    model, shape = models("Lumina 2")
    entries, negative = entries_for("Lumina 2"), negative_for("Lumina 2")
    picture = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, *shape[2:])
    mask[..., :4] = 1
    options = {"latents": picture, "noise_mask": mask}
    alone = torch.cat([draw(host, model, shape, [entry], negative, **options) for entry in entries])
    found, _ = draw_shared(host, model, shape, merged(host, entries), negative, plans["alone"], **options)
    assert torch.equal(found, alone)


@pytest.mark.parametrize("name", ["Z-Image", "OmniGen 2"])
def test_prompts_of_equal_length_whose_encoder_gives_a_mask(host, models, plans, name):
    """OmniGen 2 counts the mask's tokens over the whole batch."""
    model, shape = models(name)
    entries, negative = entries_for(name, [9] * N), negative_for(name)
    alone = torch.cat([draw(host, model, shape, [entry], negative) for entry in entries])
    found, _ = draw_shared(host, model, shape, merged(host, entries), negative, plans["alone"])
    assert torch.equal(found, alone)


def test_order_of_the_prompts_changes_no_picture(host, models):
    model, shape = models("Lumina 2")
    vectors, entries, order = vectors_of_prompts(), entries_for("Lumina 2"), [3, 5, 0, 2, 4, 1]
    tau = 2 * float(ward_linkage(vectors)[-1, 2])
    shuffled = build_plan(ward_linkage(vectors[order]), linear_thresholds(STEPS, tau), [100 + i for i in order])
    negative = negative_for("Lumina 2")
    first, _ = draw_shared(host, model, shape, merged(host, entries), negative, plan_of(vectors, tau))
    mixed = merged(host, [entries[i] for i in order])
    assert torch.equal(draw_shared(host, model, shape, mixed, negative, shuffled)[0], first[order])


# --- In batches ------------------------------------------------------------------------------------------------------


def rows_of_calls(model):
    """(a clone of a model, [rows of each call's text, (rows, tokens), for one side at a time])."""
    calls = []

    def note(apply_model, options):
        calls.append(tuple(options["c"]["c_crossattn"].shape[:2]))
        return apply_model(options["input"], options["timestep"], **options["c"])

    noting = model.clone()
    noting.set_model_unet_function_wrapper(note)
    return noting, calls


@pytest.mark.parametrize("micro_batch", [2, 6])
def test_prompts_of_equal_length_go_together(host, models, plans, micro_batch, monkeypatch):
    model, shape = models("Lumina 2")
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    noting, calls = rows_of_calls(model)
    entries, negative = entries_for("Lumina 2"), negative_for("Lumina 2")
    alone = torch.cat([draw(host, model, shape, [entry], negative) for entry in entries])
    found, _ = draw_shared(host, noting, shape, merged(host, entries), negative, plans["alone"], micro_batch)
    torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-4)
    positive = [(rows, tokens) for rows, tokens in calls if tokens != 5]
    assert positive[: len(positive) // STEPS] == [(2, 7), (2, 9), (1, 12), (1, 34)]


def test_mixed_clusters_have_as_many_tokens_as_their_longest(host, models, plans):
    model, shape = models("Lumina 2")
    noting, calls = rows_of_calls(model)
    draw_shared(host, noting, shape, merged(host, entries_for("Lumina 2")), negative_for("Lumina 2"), plans["shared"])
    counts = [max(TOKENS[i] for i in members) for step in plans["shared"].steps for members in step.members]
    assert sorted(tokens for _, tokens in calls if tokens != 5) == sorted(counts)


def test_calibration_keeps_the_lengths_of_its_rows(host):
    conditioning = merged(host, entries_for("Lumina 2"))
    ((cond, values),) = host.rows.rows_of(conditioning, [3, 0], N, "positive")
    assert values["hierdiff_lengths"][0] == (12, 7)
    assert len(cond) == 2
    one = merged(host, entries_for("Lumina 2", [7]))
    assert host.rows.rows_of(one, [3, 0], N, "negative")[0][1]["hierdiff_lengths"][0] == (7,)


def test_guider_that_hides_its_sampler_is_refused_before_the_first_call(host, models, plans):
    class Hiding(host.samplers.CFGGuider):
        def inner_sample(self, noise, latent_image, device, sampler, sigmas, mask, callback, quiet, seed, **kwargs):
            self.conds = host.samplers.process_conds(self.inner_model, noise, self.conds, device, latent_image, mask)
            return sampler.sample(self, sigmas, {"model_options": self.model_options}, callback, noise, latent_image)

    model, shape = models("Lumina 2")
    noting, calls = rows_of_calls(model)
    patched, _ = shared_model(host, noting, plans["alone"])
    guider = Hiding(patched)
    guider.set_conds(merged(host, entries_for("Lumina 2")), negative_for("Lumina 2"))
    latents = torch.zeros(shape)
    noise = host.sample.prepare_noise(latents, SEED)
    sigmas = host.samplers.KSampler(model, STEPS, "cpu", "euler", "normal").sigmas
    with pytest.raises(ValueError, match=r"positive conditioning have different numbers of tokens.*this guider"):
        guider.sample(noise, latents, host.samplers.sampler_object("euler"), sigmas, seed=SEED)
    assert calls == []
