"""Inputs of which each prompt has its own: start latents, masks, ControlNet images, pictures, entries with hooks.

Two things must hold for every kind and both choices of the user. With tau = 0 each prompt has what the host gives it
alone; and prompts that are equal in pairs share, and have that too.
"""

import functools
import importlib
from types import SimpleNamespace

import pytest
import torch
from shared_runs import N, modules_of, one_noise, rows_of, shared_model, sigmas_of

from hierdiff_core import build_plan
from hierdiff_core.plan.keys import text_key

pytestmark = pytest.mark.host

STEPS, SEED, SPLIT = 4, 7, 3
PAIRS = [0, 0, 1, 1, 2, 2]
PROMPTS = tuple(f"prompt {i}" for i in range(N))
KEYS = [text_key(prompt) for prompt in PROMPTS]
CHOICES = ["share only if equal", "first prompt's while shared"]
# three clusters of two up to height 1, all of them together up to 2
Z = [[0, 1, 1.0, 2], [2, 3, 1.0, 2], [4, 5, 1.0, 2], [6, 7, 2.0, 4], [8, 9, 2.0, 6]]


class Modules(SimpleNamespace):
    """One that can be looked up by."""

    __hash__ = object.__hash__


@pytest.fixture(scope="module")
def host(pack):
    return Modules(**vars(modules_of(pack)))


@pytest.fixture(scope="module")
def models(host):
    class Pictured(importlib.import_module("comfy.model_base").BaseModel):
        """Conditioned by a picture and by whole numbers, as edit models are."""

        def extra_conds(self, **kwargs):
            conds = super().extra_conds(**kwargs)
            for name in ("picture", "ids"):
                if name in kwargs:
                    conds[name] = host.conds.CONDRegular(kwargs[name])
            return conds

        def _apply_model(self, x, t, *args, picture=None, ids=None, **kwargs):
            x = x if picture is None else x + 0.3 * picture
            return super()._apply_model(x if ids is None else x + 0.1 * ids[..., None, None], t, *args, **kwargs)

    inpainting = host.native_models.unet_model(in_channels=9)
    inpainting.model.set_inpaint()
    pictured = host.native_models.unet_model(Pictured)
    return Modules(plain=host.native_models.unet_model(), pictured=pictured, inpainting=inpainting)


@pytest.fixture(scope="module")
def plans():
    """tau = 0; pairs that share all steps but the last; and all six together for two steps."""

    def plan(*thresholds):
        return build_plan(Z, thresholds, KEYS, prompts=PROMPTS)

    return SimpleNamespace(none=plan(0, 0, 0, 0), pairs=plan(1, 1, 1, 0), all=plan(2, 2, 1, 0))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXTS = random(N, 5, 16, seed=1)
LATENTS, PICTURES = random(N, 4, 8, 8, seed=2), random(N, 4, 8, 8, seed=3)
HINTS = random(N, 3, 64, 64, seed=4).sigmoid()
MASKS = (random(N, 1, 8, 8, seed=5) > 0).float()
AREAS = (random(N, 64, 64, seed=6) > 0.5).float()


# --- One kind of input: what the run of some prompts takes, and how one prompt's becomes another's in mid-run ---------


class Kind:
    """A run without anything of a prompt's own but its text."""

    model, denoise = "plain", 1.0

    def latents(self, own):
        return torch.zeros(len(own), 4, 8, 8)

    def mask(self, own):
        return None

    def sides(self, host, texts, own):
        return [[TEXTS[texts], {**self.values(host, own)}]], [[torch.zeros(1, 5, 16), {}]]

    def values(self, host, own):
        return {}

    def switch(self, guider, inpainting, extra_args, own):
        """Make a run of the host's, of one prompt, go on with another's input."""


class StartLatents(Kind):
    denoise = 0.6

    def latents(self, own):
        return LATENTS[own]


class NoiseMasks(StartLatents):
    def mask(self, own):
        return MASKS[own]

    def switch(self, guider, inpainting, extra_args, own):
        inpainting.latent_image = guider.inner_model.process_latent_in(LATENTS[own])
        extra_args["denoise_mask"] = MASKS[own].expand(-1, 4, -1, -1)


class SoftMasks(StartLatents):
    """As Differential Diffusion takes them: what is kept falls from step to step."""

    def mask(self, own):
        return random(N, 1, 8, 8, seed=5)[own].sigmoid()


class CondMasks(Kind):
    def values(self, host, own):
        return {"mask": AREAS[own], "mask_strength": 0.8}

    def sides(self, host, texts, own):
        positive, negative = super().sides(host, texts, own)
        return [*positive, [torch.ones(1, 5, 16) * 0.3, {}]], negative

    def switch(self, guider, inpainting, extra_args, own):
        areas = torch.nn.functional.interpolate(AREAS[own][:, None], size=(8, 8), mode="bilinear")[:, 0]
        guider.conds["positive"][0]["mask"] = areas


class Hints(Kind):
    def control(self, host, own):
        return host.native_models.control_net().set_cond_hint(HINTS[own], 0.8, (0.0, 0.9))

    def values(self, host, own):
        return {"control": self.control(host, own), "control_apply_to_uncond": True}

    def switch(self, guider, inpainting, extra_args, own):
        control = guider.conds["positive"][0]["control"]
        control.cond_hint_original, control.cond_hint = HINTS[own], None


class ChainedHints(Hints):
    """Hints for each prompt below one for all, which is not on the negative side."""

    def values(self, host, own):
        control = host.native_models.control_net().set_cond_hint(HINTS[:1] * 0.5, 0.5, (0.0, 1.0))
        control.set_previous_controlnet(self.control(host, own))
        return {"control": control, "control_apply_to_uncond": False}

    def switch(self, guider, inpainting, extra_args, own):
        control = guider.conds["positive"][0]["control"].previous_controlnet
        control.cond_hint_original, control.cond_hint = HINTS[own], None


class InpaintingHints(Hints):
    """As ControlNets for inpainting take them: beside the image a mask."""

    def control(self, host, own):
        control = host.native_models.control_net(hint_channels=4)
        return control.set_cond_hint(HINTS[own], 0.8, (0.0, 1.0), extra_concat=[MASKS[own]])

    def switch(self, guider, inpainting, extra_args, own):
        super().switch(guider, inpainting, extra_args, own)
        guider.conds["positive"][0]["control"].extra_concat_orig = [MASKS[own]]


class Adapter(torch.nn.Module):
    """A network of a T2I-Adapter: it sees the hint once, and what it makes is kept."""

    unshuffle_amount, xl = 8, False

    def forward(self, hint):
        small = torch.nn.functional.adaptive_avg_pool2d(hint, (8, 8))
        return {"input": [None, None, small.repeat(1, 11, 1, 1)[:, :32]]}


class AdapterHints(Hints):
    def control(self, host, own):
        adapter = importlib.import_module("comfy.controlnet").T2IAdapter(Adapter(), 3, 8, "nearest-exact")
        adapter.device = torch.device("cpu")
        return adapter.set_cond_hint(HINTS[own], 0.8, (0.0, 1.0))


class ConditioningPictures(Kind):
    model = "pictured"

    def values(self, host, own):
        return {"picture": PICTURES[own]}

    def sides(self, host, texts, own):
        positive, negative = super().sides(host, texts, own)
        return positive, [[negative[0][0], self.values(host, own)]]

    def switch(self, guider, inpainting, extra_args, own):
        for side in ("positive", "negative"):
            conds = guider.conds[side][0]["model_conds"]
            for name, value in self.values(None, own).items():
                conds[name] = conds[name]._copy_with(value)


class InpaintingModels(ConditioningPictures):
    """As InpaintModelConditioning makes it: pictures and masks are channels of the model's input."""

    model = "inpainting"

    def values(self, host, own):
        return {"concat_latent_image": PICTURES[own], "concat_mask": MASKS[own]}

    def switch(self, guider, inpainting, extra_args, own):
        given = {**self.values(None, own), "noise": PICTURES[own], "device": torch.device("cpu"), "cross_attn": None}
        made = guider.inner_model.extra_conds(**given, latent_image=PICTURES[own])["c_concat"]
        for side in ("positive", "negative"):
            guider.conds[side][0]["model_conds"]["c_concat"] = made


class WholeNumbers(ConditioningPictures):
    def values(self, host, own):
        return {"ids": torch.arange(N)[own][:, None]}


KINDS = [
    StartLatents(),
    NoiseMasks(),
    CondMasks(),
    Hints(),
    ChainedHints(),
    InpaintingHints(),
    AdapterHints(),
    ConditioningPictures(),
    InpaintingModels(),
    WholeNumbers(),
]


def euler(switch_at=None, switch=None):
    """The host's euler, with something happening before a step."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        extra_args = dict(extra_args or {})
        for i in range(len(sigmas) - 1):
            if i == switch_at:
                switch(model, extra_args)
            denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return x

    return sample


@functools.cache
def alone(host, models, kind, text, first, then=None, split=SPLIT):
    """What the host gives one prompt, which goes on with the input of another."""
    model = getattr(models, kind.model)
    guider = host.samplers.CFGGuider(model)
    guider.set_conds(*kind.sides(host, [text], [first]))
    guider.set_cfg(4.0)
    sampler = euler(split, lambda inpainting, extra: kind.switch(guider, inpainting, extra, [then]))
    sampler = host.samplers.KSAMPLER(sampler if then is not None else euler())
    sigmas = sigmas_of(host, model, "euler", STEPS, kind.denoise)
    return guider.sample(
        one_noise(host, 1), kind.latents([first]), sampler, sigmas, kind.mask([first]), disable_pbar=True, seed=SEED
    )


def together(host, models, kind, plan, texts, own, choice, strict=False):
    """Samples of a run with shared steps, and its report."""
    model = getattr(models, kind.model)
    patched, reports = shared_model(host, model, plan, per_prompt=choice, micro_batch=2, strict=strict)
    guider = host.samplers.CFGGuider(patched)
    guider.set_conds(*kind.sides(host, texts, own))
    guider.set_cfg(4.0)
    sampler, sigmas = host.samplers.KSAMPLER(euler()), sigmas_of(host, model, "euler", STEPS, kind.denoise)
    samples = guider.sample(
        one_noise(host), kind.latents(own), sampler, sigmas, kind.mask(own), disable_pbar=True, seed=SEED
    )
    return samples, reports[0]


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


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_without_sharing_each_prompt_has_what_the_host_gives_it_alone(host, models, plans, agree, kind, choice):
    samples, report = together(host, models, kind, plans.none, list(range(N)), list(range(N)), choice)
    for i in (0, 1, N - 1):
        agree(samples[i : i + 1], alone(host, models, kind, i, i))
    assert not torch.equal(alone(host, models, kind, 0, 0), alone(host, models, kind, 0, 1))
    assert rows_of(report) == N * STEPS
    assert "⚠" not in report


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_pairs_of_equal_prompts_and_inputs_share_without_loss(host, models, plans, agree, kind, choice):
    samples, report = together(host, models, kind, plans.pairs, PAIRS, PAIRS, choice)
    for i in (0, 3, N - 1):
        agree(samples[i : i + 1], alone(host, models, kind, PAIRS[i], PAIRS[i]))
    assert rows_of(report) == plans.pairs.nfe
    assert "⚠" not in report


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_prompts_share_only_while_their_inputs_are_equal(host, models, plans, agree, kind):
    """Of four prompts with one text two have one input."""
    texts, own = [0, 0, 0, 0, 1, 1], [0, 1, 0, 2, 3, 4]
    samples, report = together(host, models, kind, plans.all, texts, own, CHOICES[0])
    for i in (1, 2, 3):
        agree(samples[i : i + 1], alone(host, models, kind, texts[i], own[i]))
    assert rows_of(report) == 5 + 5 + 6 + 6
    (warning,) = [line for line in report.splitlines() if line.startswith("⚠")]
    assert (
        "differ between prompts that the plan lets share, so fewer share: 22 model rows a pass instead of 11" in warning
    )
    assert 'set per_prompt_inputs to "first prompt\'s while shared"' in warning


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_cluster_uses_its_first_prompts_input_until_it_splits(host, models, plans, agree, kind):
    samples, report = together(host, models, kind, plans.pairs, PAIRS, list(range(N)), CHOICES[1])
    for i in (0, 3, N - 1):
        agree(samples[i : i + 1], alone(host, models, kind, PAIRS[i], i - i % 2, i))
    assert rows_of(report) == plans.pairs.nfe
    assert "⚠" not in report


# --- Neighbours ------------------------------------------------------------------------------------------------------


def run_sampler(host, model, plan, kind, sampler, choice, own, texts=None):
    patched, reports = shared_model(host, model, plan, per_prompt=choice)
    guider = host.samplers.CFGGuider(patched)
    guider.set_conds(*kind.sides(host, list(range(N)) if texts is None else texts, own))
    guider.set_cfg(4.0)
    samples = guider.sample(
        one_noise(host),
        kind.latents(own),
        host.samplers.sampler_object(sampler),
        sigmas_of(host, model, sampler, STEPS, kind.denoise),
        kind.mask(own),
        disable_pbar=True,
        seed=SEED,
    )
    return samples, reports[0]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc", "heun", "euler_ancestral", "dpmpp_sde", "ddim", "dpm_fast"])
def test_first_prompts_masks_with_any_sampler(host, models, plans, sampler):
    """Each keeps what its own mask keeps; and pairs of equal prompts have what they have without sharing."""
    kind = NoiseMasks()
    samples, report = run_sampler(host, models.plain, plans.pairs, kind, sampler, CHOICES[1], list(range(N)))
    assert "⚠" not in report
    if sampler not in ("dpm_fast", "uni_pc"):  # these end a little above 0
        kept = (1 - MASKS).expand_as(samples).bool()
        torch.testing.assert_close(samples[kept], LATENTS[kept], atol=1e-4, rtol=1e-4)
    pairs, _ = run_sampler(host, models.plain, plans.pairs, kind, sampler, CHOICES[1], PAIRS, PAIRS)
    exact, _ = run_sampler(host, models.plain, plans.pairs, kind, sampler, CHOICES[0], PAIRS, PAIRS)
    assert torch.equal(pairs, exact)


def test_first_prompts_masks_with_differential_diffusion(host, models, plans):
    """It puts a function of its own where ours goes."""
    node = importlib.import_module("comfy_extras.nodes_differential_diffusion").DifferentialDiffusion
    model = node.execute(models.plain).args[0]
    kind = SoftMasks()
    samples, _ = run_sampler(host, model, plans.none, kind, "euler", CHOICES[1], list(range(N)))
    exact, _ = run_sampler(host, model, plans.none, kind, "euler", CHOICES[0], list(range(N)))
    assert torch.equal(samples, exact)
    plain, _ = run_sampler(host, models.plain, plans.none, kind, "euler", CHOICES[0], list(range(N)))
    assert not torch.equal(samples, plain)
    _, report = run_sampler(host, model, plans.pairs, kind, "euler", CHOICES[1], list(range(N)))
    assert "⚠" not in report


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_order_of_the_prompts_changes_no_picture_of_equal_inputs(host, models, sampler):
    order, own = [4, 0, 3, 1, 5, 2], [0, 1, 0, 1, 1, 0]

    def plan(order):
        place = {prompt: i for i, prompt in enumerate(order)}
        moved = [[place.get(int(a), a), place.get(int(b), b), height, size] for a, b, height, size in Z]
        moved = [[min(a, b), max(a, b), height, size] for a, b, height, size in moved]
        return build_plan(moved, [2, 2, 1, 0], [KEYS[i] for i in order])

    kind, ordered = Hints(), [own[i] for i in order]
    samples, _ = run_sampler(host, models.plain, plan(range(N)), kind, sampler, CHOICES[0], own)
    moved, _ = run_sampler(host, models.plain, plan(order), kind, sampler, CHOICES[0], ordered, order)
    assert torch.equal(moved, samples[order])


def test_controlnets_are_loaded_once_and_copies_of_batches_are_let_go(host, models, plans, monkeypatch):
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: 2)
    rows = host.calls.ControlRows(N)
    control = Hints().control(host, list(range(N)))
    entries = [{"control": control}, {"control": control}, {}]
    (one, again, none) = rows.of(entries, (1, 4))
    assert one["control"] is again["control"] is not control  # the host evaluates both in one call
    assert "control" not in none
    assert one["control"].control_model_wrapped is control.control_model_wrapped
    assert torch.equal(one["control"].cond_hint_original, HINTS[[1, 4]])
    (alone,) = rows.of(entries[:1], (3,))
    rows.forget_batches()
    assert rows.of(entries[:1], (3,))[0]["control"] is alone["control"]
    assert rows.of(entries[:1], (1, 4))[0]["control"] is not one["control"]
    assert rows.of(entries[:1], tuple(range(N)))[0] is entries[0]
    assert rows.of(None, (1,)) is None
    assert len(control.cond_hint_original) == N


def test_clones_for_other_gpus_have_the_same_hints(host):
    control, clone = (Hints().control(host, list(range(N))) for _ in range(2))
    control.multigpu_clones = {"cuda:1": clone}
    (made,) = host.calls.ControlRows(N).of([{"control": control}], (2, 3))
    assert torch.equal(made["control"].multigpu_clones["cuda:1"].cond_hint_original, HINTS[2:4])
    assert len(clone.cond_hint_original) == N


def test_images_of_a_video_are_one_hint(host):
    control = Hints().control(host, list(range(N)))
    control.vae = SimpleNamespace(latent_dim=3)
    entry = {"control": control}
    assert host.calls.ControlRows(N).of([entry], (1,))[0] is entry
    host.rows.check_conds([entry], "positive", 4)


def test_masks_that_bound_areas_are_the_hosts_batch(host, models, plans):
    """The host takes the bounds of all masks together."""
    masks = torch.zeros(N, 64, 64)
    for i in range(N):
        masks[i, 8 * i : 8 * i + 16, :32] = 1
    positive = [[TEXTS, {"mask": masks, "set_area_to_bounds": True}], [torch.ones(1, 5, 16) * 0.3, {}]]
    patched, _ = shared_model(host, models.plain, plans.none)
    results = []
    for model in (patched, models.plain):
        guider = host.samplers.CFGGuider(model)
        guider.set_conds(positive, [[torch.zeros(1, 5, 16), {}]])
        guider.set_cfg(4.0)
        sigmas = sigmas_of(host, models.plain, "euler", STEPS)
        sampler = host.samplers.sampler_object("euler")
        results.append(guider.sample(one_noise(host), torch.zeros(N, 4, 8, 8), sampler, sigmas, disable_pbar=True))
    torch.testing.assert_close(*results, atol=1e-2, rtol=1e-3)


def test_whole_numbers_that_slip_through_are_named(host, plans):
    """Made by a model of something that has a mean."""
    clusters = host.clusters.in_prompt_order(plans.all.steps[0])
    ids = torch.arange(N)[:, None]
    with pytest.raises(ValueError, match="conditioning 'ids' differs between prompts of a cluster and has no mean"):
        host.rows.reduced_rows(ids, clusters, "ids")
    assert host.rows.reduced_rows(ids, clusters, "ids", takes_first=True).tolist() == [[0]]


def test_plan_stays_where_the_runs_clusters_have_their_inputs_in_common(host, plans):
    """As in the last part of a run, whose latents have parted by the plan."""
    per_prompt, groups = host.per_prompt, plans.all.steps[0].labels
    own = [per_prompt.OwnInput(per_prompt.START, plans.all.steps[2].labels)]
    assert per_prompt.Plans.of(plans.all, groups, own, 2).run is plans.all
    made = per_prompt.Plans.of(plans.all, groups, own, 1)
    assert made.run.clusters_per_step.tolist() == [3, 3, 3, 6]
    assert [each.name for each in made.parting] == ["start latents"]
    assert per_prompt.Plans.of(plans.all, groups, own, takes_first=True).run is plans.all
    assert per_prompt.Plans.of(plans.all, groups, own, takes_first=True, goes_on=True).run.nfe == 15


# --- The nodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, *CHOICES])
def test_nodes_hand_the_choice_on(host, models, plans, choice):
    """Old workflows have none."""
    sides, latent = Kind().sides(host, list(range(N)), []), {"samples": LATENTS}
    settings = {"micro_batch": 0, **({"per_prompt_inputs": choice} if choice else {})}
    node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
    run = node.execute(models.plain, *sides, latent, plans.all, SEED, 4.0, "euler", "normal", 0.5, **settings)
    assert rows_of(run.args[1]) == (plans.all.nfe if choice == CHOICES[1] else N * STEPS)
    guider = host.guider.Guider.execute(models.plain, *sides, 4.0, plans.all, **settings).args[0]
    patched = host.node.ShareSteps.execute(models.plain, plans.all, **settings).args[0]
    plain = host.samplers.CFGGuider(patched)
    plain.set_conds(*sides)
    plain.set_cfg(4.0)
    for each in (guider, plain):
        sampler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, models.plain, "euler", STEPS, 0.5)
        samples = each.sample(one_noise(host), LATENTS, sampler, sigmas, disable_pbar=True, seed=SEED)
        assert torch.equal(samples, run.args[0]["samples"])


def test_nodes_refuse_another_choice(host, models, plans):
    with pytest.raises(ValueError, match="per_prompt_inputs must be one of share only if equal, first prompt's while"):
        host.node.ShareSteps.execute(models.plain, plans.all, per_prompt_inputs="the last one's")


@pytest.mark.parametrize("choice", CHOICES)
def test_tree_on_the_page_is_that_of_the_run(host, models, plans, monkeypatch, choice):
    trees = []

    class Recorded(host.run.LiveTree):
        def __enter__(self):
            trees.append(self)
            return super().__enter__()

    monkeypatch.setattr(host.run, "LiveTree", Recorded)
    patched, reports = shared_model(host, models.plain, plans.all, per_prompt=choice, show_tree=True)
    guider = host.samplers.CFGGuider(patched)
    guider.set_conds(*Kind().sides(host, list(range(N)), []))
    sampler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(host, models.plain, "euler", STEPS, 0.5)
    guider.sample(one_noise(host), LATENTS, sampler, sigmas, disable_pbar=True, seed=SEED)
    (tree,) = trees
    roots = 1 if choice == CHOICES[1] else N
    assert [parent for _, _, parent, _ in tree.branches].count(-1) == roots
    assert (tree.state, tree.progress["rows"]) == ("done", rows_of(reports[0]))
    assert set(tree.tiles) == set(range(len(tree.branches)))
    assert "failed" not in reports[0]
