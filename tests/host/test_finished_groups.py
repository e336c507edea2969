"""Any MODEL finishes and saves a few pictures at a time: they are those of one run, and no row is evaluated twice."""

import contextlib
import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shared_runs import K, N, ksampler, modules_of, one_negative, positive_of, rows_of, vectors_of_prompts

from hierdiff_core import build_plan, linear_thresholds, ward_linkage
from hierdiff_core.plan.algebra import alone, attach, removed, rerolled
from hierdiff_core.plan.guidance import GuidanceCourse
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.sampling.store import Store

pytestmark = pytest.mark.host

# One call a step; several, and noise; a path of noise; memory of earlier steps; calls at sigmas of its own.
KINDS = ("euler", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_2m", "dpm_fast")


@pytest.fixture(scope="module")
def host(pack):
    names = ("keeping", "group_watch", "finishing", "run_checks", "live_tree")
    ours = {name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in names}
    interrupted = importlib.import_module("comfy.model_management").InterruptProcessingException
    return SimpleNamespace(**vars(modules_of(pack)), **ours, interrupted=interrupted)


@pytest.fixture(scope="module")
def plan():
    """Of two trees: the second splits where the first does not, which samplers that remember steps heed."""
    Z = ward_linkage(vectors_of_prompts())
    return build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 0.95), range(100, 100 + N))


class Saved:
    """Hears of pictures that are finished."""

    def __init__(self):
        self.groups, self.latents, self.images = [], {}, {}

    def on_finished(self, prompts, latents):
        self.groups.append(prompts.tolist())
        self.latents |= dict(zip(prompts.tolist(), latents, strict=True))

    def lines(self):
        return [f"saved {len(self.latents)}"]


class Decoder:
    """Stands for a VAE."""

    device = torch.device("cpu")

    def __init__(self):
        self.decoded = 0

    def decode(self, latents):
        self.decoded += len(latents)
        return latents.movedim(1, -1)[..., :3].sigmoid()


def drawn(host, model, plan, saving=True, vectors=None, sampler="euler", **options):
    """Latents, the saver, and the report in lines."""
    saver, told = options.pop("saver", Saved()), []
    vae = host.finishing.DecodedOnce(options.pop("decoder", Decoder()))
    made = host.finishing.Saving(vae, lambda: contextlib.nullcontext(saver)) if saving else None
    known = {"show_tree": False, "vae": vae, "tell": lambda report, **data: told.append(report)}
    known |= {name: options.pop(name) for name in ("keeping", "per_prompt", "show_tree") if name in options}
    patched = host.sharing.share_steps(model, host.sharing.Sharing(plan, saving=made, **known))
    vectors = vectors_of_prompts() if vectors is None else vectors
    sides = options.pop("sides", None) or (positive_of(vectors), one_negative())
    samples = ksampler(host, patched, *sides, sampler, **options)
    return samples, saver, told[0]


@contextlib.contextmanager
def counted(model):
    """Rows that the model really evaluates, of the conditional pass."""
    rows = []
    network = model.model.diffusion_model
    handle = network.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("sampler", KINDS)
def test_of_every_kind_of_sampler_the_pictures_are_those_of_one_run(host, model, plan, sampler):
    one, _, report = drawn(host, model, plan, False, sampler=sampler)
    with counted(model) as rows:
        several, saver, other = drawn(host, model, plan, sampler=sampler)
    assert torch.equal(one, several)
    assert len(saver.groups) == 2
    assert sorted(i for group in saver.groups for i in group) == list(range(N))
    assert all(torch.equal(latent, one[i]) for i, latent in saver.latents.items())
    assert rows_of(report) == rows_of(other) == sum(rows) / 2  # a pass with the negative as well
    assert "drawn in 2 groups of subtrees, each saved before the next was begun" in other


def test_groups_take_from_the_store_of_one_run_and_fill_it(host, model, plan):
    """Whatever draws a set, its rows are known by the same keys; a prompt joins and another is gone."""
    vectors = vectors_of_prompts()
    for first, second in ((True, False), (False, True)):
        store = Store(2**24)
        keeping = host.keeping.Keeping(store, owner="node", fresh=plan)
        one, _, report = drawn(host, model, plan, first, sampler="dpmpp_2m", keeping=keeping)
        assert "reused" not in report
        other, _, report = drawn(host, model, plan, second, sampler="dpmpp_2m", keeping=keeping)
        assert torch.equal(one, other)
        assert f"reused {plan.nfe} of {plan.nfe} rows" in report
    new = vectors[:1] + 0.2
    grown = removed(attach(plan, vectors, new, [7], metric="chord"), 2)
    rows = torch.cat([vectors, new])[[0, 1, 3, 4, 5, 6]]
    made = [drawn(host, model, grown, saving, rows, "dpmpp_2m", keeping=keeping) for saving in (False, True)]
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[1][0][:2], one[:2])
    assert f"reused {grown.nfe} of {grown.nfe} rows" in made[1][2]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_variants_and_rerolls_in_other_groups_change_nothing(host, model, sampler):
    """Samplers that remember steps begin anew where the whole set says so; prompts of equal embeddings stay equal."""
    vectors = vectors_of_prompts()[[0, 0, 1, 2, 3, 3, 4, 5]]
    Z = ward_linkage(vectors)
    plan = build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 2), [100, 100, 101, 102, 103, 103, 104, 105])
    plan = rerolled(plan, [Reroll(1, 2, 1), Reroll(3, 0, 1), Reroll(4, 5, 1)])
    one, _, report = drawn(host, model, plan, False, vectors, sampler)
    several, saver, other = drawn(host, model, plan, True, vectors, sampler)
    assert torch.equal(one, several)
    assert len(saver.groups) > 1
    assert rows_of(report) == rows_of(other)


def test_prompts_with_seeds_and_start_latents_of_their_own(host, model, plan):
    own = replace(alone(N, K, range(100, 100 + N)), seeds=(None, 3, None, 4, 4, None))
    assert_one_run_says_why(host, model, own, "the plan does not know its tree")
    latents = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for per_prompt, why in (
        ("share only if equal", "inputs of their own are apart"),
        ("first prompt's while shared", "inputs of their first prompt"),
    ):
        options = {"latents": latents, "noise": torch.ones(1, 4, 8, 8), "per_prompt": per_prompt, "denoise": 0.6}
        assert_one_run_says_why(host, model, plan, why, **options)
    equal = {"latents": latents[:1], "denoise": 0.6}
    one, several = (drawn(host, model, plan, saving, **equal) for saving in (False, True))
    assert torch.equal(one[0], several[0])
    assert len(several[1].groups) == 2


def assert_one_run_says_why(host, model, plan, why, **options):
    samples, saver, report = drawn(host, model, plan, **options)
    assert [i for group in saver.groups for i in group] == list(range(N))
    assert all(torch.equal(latent, samples[i]) for i, latent in saver.latents.items())
    line = next(line for line in report.splitlines() if "saved when all were drawn, not as they were finished" in line)
    assert line.startswith("⚠")
    assert why in line


def test_what_may_look_at_all_pictures_together_keeps_one_run(host, model, plan):
    def mixing():
        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(
            lambda args: args["denoised"] * (1 + 0.01 * args["denoised"].mean().sin())
        )
        return clone

    def patched():
        clone = model.clone()
        clone.set_model_attn2_output_patch(lambda out, extra: out * 0.9)
        return clone

    def between():
        clone = model.clone()
        clone.add_wrapper_with_key(
            "predict_noise", "a_pack", lambda executor, *args, **kwargs: executor(*args, **kwargs)
        )
        return clone

    guided = replace(plan, guidance=GuidanceCourse(end=0.7))
    for changed, planned, why in (
        (mixing(), plan, "may look at all pictures together"),
        (patched(), plan, "test_what_may_look_at_all_pictures_together_keeps_one_run"),
        (between(), plan, "stands between the sampler and the model"),
        (model, guided, "Plan Guidance looks at all splits"),
    ):
        assert_one_run_says_why(host, changed, planned, why)


def test_small_sets_are_one_run_and_say_nothing(host, model):
    vectors = vectors_of_prompts()[:4]
    Z = ward_linkage(vectors)
    small = build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 0.95), range(4))
    _, saver, report = drawn(host, model, small, vectors=vectors)
    assert sorted(saver.latents) == [0, 1, 2, 3]
    assert not [line for line in report.splitlines() if "groups" in line or "all were drawn" in line]


def test_a_video_is_not_saved_as_if_it_were_a_picture(host):
    host.run_checks.check_no_video(torch.zeros(2, 4, 1, 8, 8))
    with pytest.raises(ValueError, match="a video of 5 frames: leave saving unconnected"):
        host.run_checks.check_no_video(torch.zeros(2, 4, 5, 8, 8))


def test_a_part_of_a_run_saves_nothing(host, model, plan):
    _, saver, report = drawn(host, model, plan, last_step=5, force_full_denoise=False)
    assert saver.latents == {}
    assert "nothing was saved: the sampler stops before its end" in report


def test_whoever_listens_to_the_sampler_gets_latents_of_all_prompts(host, model, plan):
    """SamplerCustomAdvanced gives the last of them as denoised_output."""
    heard = []
    samples, _, _ = drawn(host, model, plan, callback=lambda step, x0, x, steps: heard.append((step, x0, x)))
    assert {len(x0) for _, x0, _ in heard} == {len(x) for _, _, x in heard} == {N}
    assert torch.allclose(model.model.process_latent_out(heard[-1][1]), samples, atol=1e-5)


def test_what_was_finished_is_saved_when_the_run_is_cancelled(host, model, plan, monkeypatch):
    """In the middle of the second group; the next run goes on from there."""
    store = Store(2**24)
    options = {"keeping": host.keeping.Keeping(store, owner="node", fresh=plan)}
    saver, before = Saved(), host.group_watch.stop_if_cancelled

    def stop():
        if saver.latents and store.rows > plan.nfe - 4:
            raise host.interrupted
        before()

    monkeypatch.setattr(host.group_watch, "stop_if_cancelled", stop)
    with pytest.raises(host.interrupted):
        drawn(host, model, plan, saver=saver, **options)
    assert 0 < len(saver.latents) < N
    rows = store.rows
    assert plan.nfe - 4 < rows < plan.nfe
    monkeypatch.undo()
    samples, saver, report = drawn(host, model, plan, **options)
    assert f"reused {rows} of {plan.nfe} rows" in report
    assert torch.equal(samples, drawn(host, model, plan, False)[0])


def test_the_tree_shows_what_is_finished_while_others_are_drawn(host, model, plan, monkeypatch):
    """Its branches only ever grow, and no image is decoded twice."""
    sent, vae = [], Decoder()
    monkeypatch.setattr(host.live_tree, "send", lambda event, data, client: sent.append(data))
    monkeypatch.setattr(host.live_tree, "SECONDS_BETWEEN_UPDATES", 0)
    _, _, report = drawn(host, model, plan, show_tree=True, decoder=vae)
    assert sent[0]["kind"] == "begin"
    end = next(data for data in sent if data["kind"] == "end")
    reached = np.array([data["reached"] for data in sent if "reached" in data])
    assert (np.diff(reached, axis=0) >= 0).all()
    leaves = [i for i, (_, stop, *_) in enumerate(sent[0]["branches"]) if stop == K]
    done = (reached[:, leaves] == K).sum(axis=1)
    assert 0 < done[len(done) // 2] < N == done[-1]
    assert (end["rows"], end["standard"], end["share"]) == (plan.nfe, plan.nfe_standard, 1)
    assert vae.decoded == len(sent[0]["branches"])
    assert not [line for line in report.splitlines() if "failed" in line]
