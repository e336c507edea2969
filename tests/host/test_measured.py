"""What reports and the tree say of a plan's loss: what was measured on this model, and with what else it was."""

import dataclasses
import importlib
import types

import pytest
import torch
from shared_runs import SEED, N, ksampler, shared_model

from hierdiff_core import Budget, GuidanceCourse, Plan, Profile, PromptTree, Sensitivity, load_decoder, plan_for
from hierdiff_core.kandinsky.workbench import decoder_fingerprint
from hierdiff_core.measure.advice import most_passes
from hierdiff_core.plan.advised import Advised

pytestmark = pytest.mark.host
SETTINGS = {"sampler": "euler", "scheduler": "normal", "cfg": 4.0, "latent": "8 x 8", "steps": 20}


@pytest.fixture(scope="module")
def measured(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.measured")


@pytest.fixture(scope="module")
def own(pack, model):
    """The model's fingerprint."""
    return importlib.import_module(f"{pack.__name__}.nodes.host.fingerprint").model_fingerprint(model)


def advised(plan, own, verdict="none", **settings):
    known = Advised(own, {**SETTINGS, **settings}, verdict, 0.003, 12.34, "looks as good")
    return dataclasses.replace(plan, advised=known)


def line_of(report):
    (line,) = [line for line in report.splitlines() if "measured" in line and "straight line" not in line]
    return line


def report_of(host, model, sides, plan, **options):
    patched, reports = shared_model(host, model, plan)
    ksampler(host, patched, *sides, **options)
    return reports[-1]


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        ("none", "measured on this model: no visible loss (looks as good), 12.3 passes per picture"),
        ("slight", "measured on this model: slight loss (looks as good), 12.3 passes per picture"),
        ("visible", "⚠ measured on this model: visible loss (looks as good), 12.3 passes per picture"),
    ],
)
def test_what_was_measured_is_said_where_it_holds(host, model, sides, plans, own, verdict, line):
    assert line_of(report_of(host, model, sides, advised(plans.shared, own, verdict))) == line


def test_plan_that_nothing_was_measured_for_says_how_to(host, model, sides, plans):
    line = line_of(report_of(host, model, sides, plans.shared))
    assert line == "not measured for this model: run What Pays Here? (about 2,560 passes)"
    assert "measured" not in report_of(host, model, sides, plans.none)  # nothing is saved, and nothing lost


def test_advice_of_another_model_is_named(host, model, sides, plans, own):
    other = host.native_models.fill(host.native_models.unet_model().model.diffusion_model, seed=5)
    changed = host.native_models.unet_model()
    changed.model.diffusion_model = other
    line = line_of(report_of(host, changed, sides, advised(plans.shared, own)))
    assert line.startswith("⚠ not measured for this model: the plan's advice (no visible loss) is of another model")
    assert line.endswith("run What Pays Here? (about 2,560 passes)")


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({"sampler": "heun"}, "sampler heun, not euler"),
        ({"sampler": "ddim"}, "sampler ddim, not euler"),  # the same function with other options
        ({"cfg": 7.5}, "cfg 7.5, not 4"),
        ({"latent": "64 x 64"}, "latent 64 x 64, not 8 x 8"),
        ({"scheduler": "karras"}, "the sigmas of karras, which the run's are not"),
        ({"cache": "EasyCache"}, "cache EasyCache, not none"),
        ({"cfg": 7.5, "sampler": "heun"}, "sampler heun, not euler; cfg 7.5, not 4"),
    ],
)
def test_other_settings_are_named(host, model, sides, plans, own, settings, differs):
    line = line_of(report_of(host, model, sides, advised(plans.shared, own, **settings)))
    assert line.startswith(f"⚠ measured on this model (no visible loss), but with {differs}: run What Pays Here?")


def test_another_number_of_steps_is_named(host, model, sides, plans, own):
    plan = advised(plans.shared, own)
    patched, reports = shared_model(host, model, plan)
    noise, latents = host.sample.prepare_noise(torch.zeros(1, 4, 8, 8), SEED), torch.zeros(1, 4, 8, 8)
    host.sample.sample(patched, noise, 5, 4.0, "euler", "normal", *sides, latents, disable_pbar=True, seed=SEED)
    assert "but with 8 steps, not 5: run What Pays Here?" in line_of(reports[-1])


def test_inputs_that_differ_between_prompts_are_named(host, model, sides, plans, own):
    latents = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    report = report_of(host, model, sides, advised(plans.shared, own), latents=latents, rows=N)
    assert "but with inputs that are the same for all prompts, which here are not" in line_of(report)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "uni_pc", "dpmpp_2m_sde"])
def test_hierarchical_ksampler_says_it_too(host, model, sides, plans, own, sampler):
    node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    plan = advised(plans.shared, own, sampler=sampler)
    out = node.execute(model, *sides, latent, plan, SEED, 4.0, sampler, "normal", 1.0, 0)
    assert line_of(out.args[1]).startswith("measured on this model: no visible loss")


def test_report_stands_where_measuring_fails(host, model, sides, plans, own, monkeypatch):
    monkeypatch.setattr(host.sharing, "verdict_on_run", lambda *_: 1 / 0)
    report = report_of(host, model, sides, advised(plans.shared, own))
    assert "model rows:" in report
    assert "⚠ what was measured failed (ZeroDivisionError" in report


def test_page_gets_the_verdict_with_the_tree(host, model, sides, plans, own, monkeypatch):
    begun = []
    monkeypatch.setattr(host.run.LiveTree, "__enter__", lambda self: begun.append(self.beginning()) or self)
    for plan in (plans.none, plans.shared, advised(plans.shared, own, "slight")):
        report_of_tree, reports = shared_model(host, model, plan, show_tree=True)
        ksampler(host, report_of_tree, *sides)
        assert reports
    told = [message["measured"] for message in begun]
    assert told == [None, {"verdict": "unknown", "passes": 2560}, {"verdict": "slight", "passes": 2560}]


# --- Kandinsky -------------------------------------------------------------------------------------------------------


def test_decoder(measured):
    decoder = types.SimpleNamespace(pipeline=load_decoder())
    found = decoder_fingerprint(decoder.pipeline)
    tree = PromptTree.of(torch.eye(4), "chord", list("abcd"))
    plan = plan_for(tree, Budget("saving", 0.4), Profile(10))
    settings = {"scheduler": "DDPM", "guidance": 3.0, "width": 128, "height": 128}
    known = dataclasses.replace(plan, advised=Advised(found, settings, "none", 0.0, 9.0, "looks the same"))

    def verdict(plan, interval=None, **changes):
        return measured.verdict_on_decoder(plan, decoder, interval, {**settings, **changes})

    assert verdict(known).line == "measured on this model: no visible loss (looks the same), 9.0 passes per picture"
    assert verdict(plan).line == "not measured for this model: run What Pays Here? (about 3,200 passes)"
    assert verdict(plan, guidance=1).passes == 1600
    assert "but with scheduler DDPM, not DDIM; guidance 3, not 4:" in verdict(known, scheduler="DDIM", guidance=4).line
    assert "but with the plan's guidance, not the sampler's own interval:" in verdict(known, (0, 0.8)).line
    with torch.no_grad():
        next(decoder.pipeline.unet.parameters()).flatten()[0].add_(1)
    assert "is of another model" in verdict(known).line


def test_plan_that_only_cuts_guidance_has_something_to_measure(measured):
    decoder = types.SimpleNamespace(pipeline=None)
    tree = PromptTree.of(torch.eye(3), "chord", list("abc"))
    plan: Plan = plan_for(tree, Budget("saving", 0.0), Profile(10))
    assert measured.verdict_on_decoder(plan, decoder, None, {}) is None
    cut = dataclasses.replace(plan, guidance=GuidanceCourse(end=0.6))
    assert measured.verdict_on_decoder(cut, decoder, None, {}).kind == "unknown"


def test_expected_distortion_is_put_into_words(pack):
    ui = importlib.import_module(f"{pack.__name__}.nodes.host.ui")
    tree = PromptTree.of(torch.eye(4) + 0.1 * torch.arange(4.0), "chord", list("abcd"))
    late = Sensitivity(8, [4, 7, 8], [1e-7, 1e-4, 1.0])
    plan = plan_for(tree, Budget("saving", 0.1), Profile(8, sensitivity=late))
    first = ui.distortion(plan)[0]
    assert (
        first == "by the sensitivity, sharing changes next to nothing of what one picture for all prompts would change"
    )
    words = [ui.amount(share) for share in (0, 9e-5, 0.0123, 0.456)]
    assert words == ["next to nothing", "next to nothing", "1.23%", "46%"]
    more = plan_for(tree, Budget("saving", 0.65), Profile(8, shape="power", power=0.2, sensitivity=late))
    assert more.distortion is not None
    assert f"changes {more.distortion / (tree.errors.sum() / 4):.2%} of what" in ui.distortion(more)[0]


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_what_measuring_takes_is_said_about_right(measured, steps, guided):
    bench = types.SimpleNamespace(
        tree=PromptTree.of(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), "chord", list("abcdefgh")),
        steps=steps,
        guided=guided,
        caches=("EasyCache", "LazyCache"),
        adherence_passes=10,
        levels=lambda steps: 1 - torch.arange(steps).numpy() / steps,
    )
    most = most_passes(bench)
    assert most / 3 < measured.about(steps, guided) < most
