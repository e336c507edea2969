"""Runs of any MODEL that keep what it evaluated: the same pictures, and only what is new is evaluated."""

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from shared_runs import K, ksampler, modules_of, one_negative, positive_of, sigmas_of, vectors_of_prompts

from hierdiff_core import Budget, Profile, PromptTree, build_plan, linear_thresholds, plan_for, ward_linkage
from hierdiff_core.plan.algebra import attach, edited, removed, rerolled
from hierdiff_core.plan.guidance import GuidanceCourse
from hierdiff_core.plan.keys import text_key
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.sampling.store import Store

pytestmark = pytest.mark.host

REFUSED = {"dpm_adaptive"}
# What remembers the noise cannot begin from another one where it does not begin anew.
NOT_REROLLED = {"lms", "ipndm", "deis", "uni_pc", "gradient_estimation"}
TEXTS = ["a fox", "an owl", "a bus"]
VECTORS = vectors_of_prompts()[[0, 3, 1]]  # the first two are alike
NEW = VECTORS[2:] + 0.1 * torch.randn(1, 16, generator=torch.Generator().manual_seed(5))
NEW_KEY = 7  # smaller than all others: a branch keeps its noise whatever key a newcomer has


@pytest.fixture(scope="module")
def host(pack):
    names = ("keeping", "run_parts", "made_of", "run_price", "plan_rows", "fingerprint")
    for_keeping = {name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in names}
    return SimpleNamespace(**vars(modules_of(pack)), **for_keeping)


@pytest.fixture(scope="module")
def model(host):
    return host.native_models.unet_model(shape=host.native_models.SHALLOW)


def plan_of(vectors=VECTORS, keys=(100, 101, 102), texts=None):
    Z = ward_linkage(vectors)
    return build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 2), keys, prompts=texts)


def run(host, model, plan, store, vectors=VECTORS, sampler="euler", sides=None, **options):
    """Latents, and what was told: the report in lines, rows and those that were reused."""
    told = SimpleNamespace(lines=[], reused=0, rows=0)

    def tell(report, **data):
        told.lines = report.splitlines()
        vars(told).update(data.get("hierdiff_edits", [{}])[0])

    keeping = host.keeping.Keeping(store, owner=options.pop("owner", "node"), fresh=options.pop("fresh", None))
    sharing = host.sharing.Sharing(plan, show_tree=False, tell=tell, keeping=keeping)
    patched = host.sharing.share_steps(model, sharing)
    sides = sides or (positive_of(vectors), one_negative())
    return ksampler(host, patched, *sides, sampler, **options), told


def store_of(host, model, plan, **options):
    store = Store(2**24)
    samples, told = run(host, model, plan, store, **options)
    assert told.reused == 0
    return store, samples, told


def test_of_every_sampler_what_was_drawn_stays_when_a_prompt_joins(host, model):
    """Those that draw noise, remember steps, or call the model several times a step: all rows come from the store."""
    plan = plan_of()
    grown, vectors = attach(plan, VECTORS, NEW, [NEW_KEY], metric="chord"), torch.cat([VECTORS, NEW])
    assert grown.nfe > plan.nfe
    for name in host.samplers.SAMPLER_NAMES:
        if name in REFUSED:
            continue
        store, samples, first = store_of(host, model, plan, sampler=name)
        more, told = run(host, model, grown, store, vectors, name)
        assert torch.equal(more[:3], samples), name
        assert not torch.equal(more[3], more[2]), name
        assert told.reused == first.rows < told.rows, name
        assert f"reused {told.reused} of {told.rows} rows" in told.lines, name
        if name in ("dpmpp_2m", "dpmpp_sde", "uni_pc"):
            assert torch.equal(more, run(host, model, grown, None, vectors, name)[0]), name


def test_prompts_that_are_gone_or_edited_leave_the_others_what_they_were(host, model):
    """What is gone still belongs to the mean of its branch, from the store or from inputs that have more prompts."""
    plan = plan_of()
    store, samples, _ = store_of(host, model, plan)
    fewer, told = run(host, model, removed(plan, 0), store, VECTORS[1:])
    assert torch.equal(fewer, samples[1:])
    assert told.reused == told.rows
    other = edited(plan, 1, VECTORS, NEW[0], NEW_KEY, metric="chord")
    both, told = run(host, model, other, store, torch.cat([VECTORS[:1], NEW, VECTORS[2:]]))
    assert torch.equal(both[[0, 2]], samples[[0, 2]])
    assert 0 < told.reused < told.rows
    unknown, told = run(host, model, removed(plan, 0), Store(2**24), VECTORS[1:])
    assert not torch.equal(unknown, samples[1:])
    assert [line for line in told.lines if "1 prompt that is gone is not kept any more" in line]


def test_rows_of_more_prompts_are_found_by_their_texts(host, model):
    plan = plan_of(keys=[text_key(text) for text in TEXTS], texts=TEXTS)
    sides = [[positive_of(VECTORS)[0][0], {"hierdiff_prompts": tuple(TEXTS)}]], one_negative()
    store, samples, _ = store_of(host, model, plan, sides=sides)
    picked, told = run(host, model, removed(plan, 1), store, sides=sides, rows=3)
    assert torch.equal(picked, samples[[0, 2]])
    assert told.reused == told.rows
    alone, _ = run(host, model, removed(plan, 1), None, sides=sides)  # those that are gone are there
    assert torch.equal(alone, picked)
    moved = [2, 0, 1]
    mixed = [[sides[0][0][0][moved], {"hierdiff_prompts": tuple(TEXTS[i] for i in moved)}]], one_negative()
    with pytest.raises(ValueError, match="these prompts in another order"):
        run(host, model, plan, store, sides=mixed)
    assert torch.equal(run(host, model, removed(plan, 1), store, sides=mixed)[0], samples[[0, 2]])


def test_padded_prompts_are_known_without_their_padding(host):
    """A longer prompt joins: the rows of the others are padded further, and are what they were."""
    import text_models

    model, shape = text_models.text_model("Chroma")
    joining = importlib.import_module(f"{host.keeping.__name__.rsplit('.', 1)[0]}.encode_set")

    def sides_of(lengths):
        seeds = [torch.Generator().manual_seed(i) for i in range(len(lengths))]
        pairs = zip(lengths, seeds, strict=True)
        entries = [[torch.randn(1, n, 48, generator=g), {"pooled_output": torch.zeros(1, 24)}] for n, g in pairs]
        names = [str(i) for i in range(len(lengths))]
        return [joining.merge(entries, names, "pad without a mask")], [
            [torch.zeros(1, 7, 48), {"pooled_output": torch.zeros(1, 24)}]
        ]

    plan = plan_of()
    grown = attach(plan, VECTORS, NEW, [NEW_KEY], metric="chord")
    options = {"latents": torch.zeros(1, *shape[1:]) if len(shape) == 4 else torch.zeros(1, *shape)}
    store, samples, first = store_of(host, model, plan, sides=sides_of([7, 9, 7]), **options)
    more, told = run(host, model, grown, store, sides=sides_of([7, 9, 7, 12]), **options)
    assert torch.equal(more[:3], samples)
    assert told.reused == first.rows


@pytest.mark.parametrize("sampler", ["euler", "heunpp2", "dpmpp_2m", "res_multistep", "dpmpp_2m_sde", "lcm"])
def test_a_rerolled_prompt_changes_alone(host, model, sampler):
    """By noise of its own where the sampler draws some, else from a fresh amount of it."""
    plan = plan_of()
    store, samples, _ = store_of(host, model, plan, sampler=sampler)
    pictures = [samples[0]]
    for step, number in ((0, 1), (3, 1), (3, 2)):
        rows, told = run(host, model, rerolled(plan, [Reroll(0, step, number)]), store, sampler=sampler)
        assert torch.equal(rows[1:], samples[1:])
        assert told.reused > 0
        pictures.append(rows[0])
    assert len({row.numpy().tobytes() for row in pictures}) == 4
    assert torch.equal(rows, run(host, model, rerolled(plan, [Reroll(0, 3, 2)]), None, sampler=sampler)[0])


@pytest.mark.parametrize("sampler", sorted(NOT_REROLLED))
def test_samplers_that_remember_the_noise_are_refused_for_rerolls(host, silent_model, model, sampler):
    with pytest.raises(ValueError, match="remembers of the noise, so that prompts cannot be rerolled at step 4"):
        run(host, silent_model, rerolled(plan_of(), [Reroll(0, 3, 1)]), None, sampler=sampler)
    run(host, model, rerolled(plan_of(), [Reroll(0, 0, 1)]), None, sampler=sampler)


def test_a_sampler_of_another_pack_that_does_not_take_the_noise_is_told_of(host, model):
    def stubborn(denoise, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            denoised = denoise(x.clone(), sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))
            x = denoised + (x - denoised) * (sigmas[i + 1] / sigmas[i])
        return x

    told = []
    sharing = host.sharing.Sharing(rerolled(plan_of(), [Reroll(0, 3, 1)]), show_tree=False, tell=told.append)
    guider = host.samplers.CFGGuider(host.sharing.share_steps(model, sharing))
    guider.set_conds(positive_of(VECTORS), one_negative())
    noise = host.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 7)
    sampler, sigmas = host.samplers.KSAMPLER(stubborn), sigmas_of(host, model, "euler")
    guider.sample(noise, torch.zeros(1, 4, 8, 8), sampler, sigmas, disable_pbar=True, seed=7)
    assert "did not take the noise of rerolled prompts at step 4" in told[0]


# --- What may be reused, and what not --------------------------------------------------------------------------------


def test_another_model_sampler_or_seed_reuses_nothing_and_is_named(host, model):
    store, _, _ = store_of(host, model, plan_of())
    for options, said in (
        ({"sampler": "heun"}, "the sampler changed: nothing could be reused"),
        ({"seed": 8, "noise": torch.ones(1, 4, 8, 8)}, "the sampler and the seed changed: nothing could be reused"),
    ):
        _, told = run(host, model, plan_of(), store, **options)
        assert told.reused == 0
        assert said in told.lines
    other = host.native_models.unet_model(shape=host.native_models.SHALLOW)
    weight = next(other.model.diffusion_model.parameters())
    weight.data.view(-1)[weight.numel() // 2] += 1e-3  # of all weights a single one, which no sample of them sees
    assert host.fingerprint.model_fingerprint(other) == host.fingerprint.model_fingerprint(model)
    _, told = run(host, other, plan_of(), store, owner="another")
    assert told.reused == 0
    _, told = run(host, model, plan_of(), store, owner="another")
    assert told.reused == told.rows  # what the first run kept is there still, whoever asks


def test_patches_are_told_apart_by_what_they_hold(host, model):
    def patched(picture):
        def function(args):
            return args["denoised"] + picture

        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(function)
        return clone

    store, samples, _ = store_of(host, patched(torch.zeros(4, 8, 8)), plan_of())
    again, told = run(host, patched(torch.zeros(4, 8, 8)), plan_of(), store)
    assert torch.equal(again, samples)
    assert told.reused == told.rows
    _, told = run(host, patched(torch.ones(4, 8, 8) * 1e-3), plan_of(), store)
    assert told.reused == 0
    assert "the patches of the model changed: nothing could be reused" in told.lines


def test_guidance_that_measures_over_all_rows_never_takes_rows_of_another_set(host, model):
    """The latents of a branch then depend on the others: rows are known by them too."""

    def mixing():
        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(
            lambda args: args["denoised"] * (1 + 0.01 * args["denoised"].mean().sin())
        )
        return clone

    plan = plan_of()
    grown, vectors = attach(plan, VECTORS, 3 * NEW, [NEW_KEY], metric="chord"), torch.cat([VECTORS, 3 * NEW])
    store, samples, first = store_of(host, mixing(), plan)
    assert torch.equal(run(host, mixing(), plan, store)[0], samples)
    more, told = run(host, mixing(), grown, store, vectors)
    assert told.reused < first.rows
    assert torch.equal(more, run(host, mixing(), grown, None, vectors)[0])


def test_a_lora_is_told_by_each_of_its_weights(host):
    """The host's adapters each hold the names of all weights, a set of thousands."""

    def patches(change):
        names = {f"weight {i}" for i in range(2000)}
        tensors = [torch.full((4, 4), float(i)) for i in range(150)]
        tensors[33][1, 2] += change
        return {f"layer {i}": [(1.0, SimpleNamespace(loaded_keys=names, weights=(w,)))] for i, w in enumerate(tensors)}

    assert host.made_of.made_of(patches(0.0)) == host.made_of.made_of(patches(0.0))
    assert host.made_of.made_of(patches(0.0)) != host.made_of.made_of(patches(1e-3))


def test_what_cannot_be_known_is_not_kept(host, model):
    def with_wrapper():
        clone = model.clone()
        clone.add_wrapper_with_key(
            "predict_noise", "a_pack", lambda executor, *args, **kwargs: executor(*args, **kwargs)
        )
        return clone

    def drawing():
        clone = model.clone()

        def function(apply_model, args):
            return apply_model(args["input"], args["timestep"], **args["c"]) + 0 * torch.randn(1)

        clone.set_model_unet_function_wrapper(function)
        return clone

    def opaque():
        clone = model.clone()
        clone.model_options["a_pack"] = iter(())
        return clone

    for make, said in (
        (with_wrapper, "stands between the sampler and the model"),
        (drawing, "draws random numbers"),
        (opaque, "nobody can tell what it is made of"),
    ):
        store = Store(2**24)
        _, told = run(host, make(), plan_of(), store)
        assert store.rows == 0
        assert [line for line in told.lines if line.startswith("⚠ nothing") and said in line], said


def test_a_store_that_is_too_small_says_so_and_the_run_goes_on(host, model):
    expected, _ = run(host, model, plan_of(), None)
    store = Store(1000)
    samples, told = run(host, model, plan_of(), store)
    assert torch.equal(samples, expected)
    assert [line for line in told.lines if "too small for a single row" in line]


def test_the_price_of_edits_is_what_they_cost(host, model, monkeypatch):
    plan = plan_of()
    monkeypatch.setattr(host.run_price, "apply_edits", lambda fresh, edits, keep, leaves: SimpleNamespace(plan=edits))
    monkeypatch.setattr(host.run_price, "read_edits", lambda edits: edits)
    prices = []
    made = host.run_price.price_of
    monkeypatch.setattr(host.sharing, "price_of", lambda *args: prices.append(made(*args)))
    for sampler in ("euler", "dpmpp_2s_ancestral"):
        store = Store(2**24)
        run(host, model, plan, store, sampler=sampler, fresh=plan)
        for other in (plan, rerolled(plan, [Reroll(0, 3, 1)]), rerolled(plan, [Reroll(2, 6, 1)])):
            rows, reused, seconds = prices[-1](other)
            told = run(host, model, other, store, sampler=sampler, fresh=plan)[1]
            assert (rows, reused) == (told.rows, told.reused)
            assert (seconds > 0) == (reused < rows)  # known of the run before where one evaluated nothing


def test_the_price_knows_where_the_plan_guides_and_how_strongly(host, model, monkeypatch):
    """A split that moves changes the guidance after it, and a step without guidance costs half."""
    plan = replace(plan_of(), guidance=GuidanceCourse(end=0.8, boost=1.5, boost_steps=2))
    monkeypatch.setattr(host.run_price, "apply_edits", lambda fresh, edits, keep, leaves: SimpleNamespace(plan=edits))
    monkeypatch.setattr(host.run_price, "read_edits", lambda edits: edits)
    prices = []
    made = host.run_price.price_of
    monkeypatch.setattr(host.sharing, "price_of", lambda *args: prices.append(made(*args)))
    store = Store(2**24)
    run(host, model, plan, store, fresh=plan)
    for step in (3, K - 1):
        other = rerolled(plan, [Reroll(0, step, 1)])
        known = prices[-1].__self__
        rows, reused, seconds = known.price(other)
        told = run(host, model, other, store, fresh=plan)[1]
        assert (rows, reused) == (told.rows, told.reused)
    assert rows - reused == 1
    assert seconds == pytest.approx(known.seconds / 2)


# --- The nodes -------------------------------------------------------------------------------------------------------


def test_with_keep_off_and_no_edits_nothing_is_other_than_before(host, model):
    plan = plan_of()
    for edits, trunk, notes in (("", None, 0), (" \n", Store(1), 1)):
        found, keeping = host.keeping.kept_plan(plan, False, edits, trunk)
        assert (found, keeping.store, keeping.told, len(keeping.notes)) == (plan, None, "", notes)
    with pytest.raises(ValueError, match="edits must be JSON"):
        host.node.ShareSteps.execute(model, plan, edits="a lynx")


def test_nodes_with_one_store_do_not_mix(host, model):
    """Two sampler nodes and two clients at once, with other seeds, cfg and prompts."""
    store = Store(2**24)
    runs = [{"seed": seed, "noise": torch.full((1, 4, 8, 8), float(seed)), "owner": str(seed)} for seed in (1, 2)]
    expected = [run(host, model, plan_of(), None, **each)[0] for each in runs]
    for _ in range(2):
        found = [run(host, model, plan_of(), store, **each) for each in runs]
        assert all(torch.equal(samples, want) for (samples, _), want in zip(found, expected, strict=True))
    assert all(told.reused == told.rows for _, told in found)


def test_what_is_told_gives_the_run_again(host, model):
    plan = replace(plan_of(keys=[text_key(text) for text in TEXTS], texts=TEXTS), metric="chord", vectors=VECTORS)
    store = Store(2**24)
    kept, keeping = host.keeping.kept_plan(plan, True, "", store)
    assert keeping.store is store
    assert json.loads(keeping.told)["kept"]["plan"]
    again, _ = host.keeping.kept_plan(plan, True, keeping.told, store)
    assert [step.labels.tolist() for step in again.steps] == [step.labels.tolist() for step in kept.steps]
    changes = [{"do": "reroll", "prompts": [f"{text_key(TEXTS[0]):016x}"], "step": 3, "of": K, "number": 1}]
    other, _ = host.keeping.kept_plan(plan, True, json.dumps({**json.loads(keeping.told), "changes": changes}), store)
    assert other.fresh(3).any()
    gone = [{**changes[0], "prompts": ["00000000000000ab"]}]
    _, keeping = host.keeping.kept_plan(plan, True, json.dumps({"version": 1, "kept": None, "changes": gone}), store)
    assert any("⚠" in note for note in keeping.notes)


def texts_with_plan(texts, vectors):
    """positive conditioning and plan, as CLIP Embedding, Ward Linkage and Threshold Schedule make them."""
    tree = PromptTree.of(vectors, "chord", texts)
    plan = plan_for(tree, Budget("saving", 0.4), Profile(K))
    return [[positive_of(vectors)[0][0], {"hierdiff_prompts": tuple(texts)}]], plan


def test_one_prompt_of_a_set_is_edited_and_back(host, model):
    """The Hierarchical KSampler by itself, as a page runs it: each run is given what the one before has told."""
    node, store = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({}), Store(2**24)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}

    def drawn(texts, vectors, edits, keep=True):
        positive, plan = texts_with_plan(texts, vectors)
        sides = positive, one_negative()
        settings = {"micro_batch": 0, "keep": keep, "edits": edits, "trunk": store}
        out = node.execute(model, *sides, latent, plan, 7, 4.0, "dpmpp_2m", "normal", 1.0, **settings)
        return out.args[0]["samples"], out.args[1], out.ui["hierdiff_edits"][0]

    samples, _, told = drawn(TEXTS, VECTORS, "")
    assert torch.equal(samples, drawn(TEXTS, VECTORS, "", keep=False)[0])
    vectors, texts = torch.cat([VECTORS[:2], NEW]), [*TEXTS[:2], "a coach"]
    other, report, changed = drawn(texts, vectors, told["edits"])
    assert torch.equal(other[:2], samples[:2])
    assert not torch.equal(other[2], samples[2])
    assert 0 < changed["reused"] < changed["rows"]
    assert f"reused {changed['reused']} of {changed['rows']} rows" in report
    assert f"model rows: {changed['rows']} instead of {3 * K}" in report  # as the bar above the tree has it
    assert torch.equal(other, drawn(texts, vectors, told["edits"])[0])  # the same inputs, the same pictures
    back, _, again = drawn(TEXTS, VECTORS, changed["edits"])
    assert torch.equal(back, samples)
    assert again["reused"] == again["rows"]
    named = json.loads(again["edits"])
    change = {"do": "reroll", "prompts": again["keys"][:1], "step": 4, "of": K, "number": 1}
    rerolls, _, more = drawn(TEXTS, VECTORS, json.dumps({**named, "changes": [change]}))
    assert torch.equal(rerolls[1:], samples[1:])
    assert not torch.equal(rerolls[0], samples[0])
    assert 0 < more["reused"] < more["rows"]
