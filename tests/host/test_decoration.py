"""What only decorates may fail: the result of the run comes out, and the node says what failed."""

import types

import numpy as np
import pytest
import torch

from hierdiff_core import PromptEmbeddings, build_plan, linear_thresholds, ward_linkage
from hierdiff_core.embeddings import IMAGE_EMBEDDINGS
from hierdiff_core.plan.keys import text_key

PROMPTS = ("a cat", "a dog", "a red apple")
STEPS = 3


@pytest.fixture(scope="module")
def nodes(pack):
    return pack.nodes


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fail():
    def failing(*_, **__):
        raise RuntimeError("broken\nsecond line")

    return failing


# --- The mechanism ---------------------------------------------------------------------------------------------------


def test_failure_is_noted_and_logged_once_and_gives_the_substitute(nodes, fail, caplog):
    decorations, calls = nodes.host.decoration.Decorations(), []
    assert decorations.attempt("a plot", lambda x, y: calls.append(x) or x + y, 1, y=2) == 3
    assert decorations.attempt("a plot", fail, otherwise="blank") == "blank"
    assert decorations.attempt("a plot", lambda: pytest.fail("tried again"), otherwise="blank") == "blank"
    assert decorations.attempt("another", lambda: 5) == 5
    (note,) = decorations.notes
    assert note.startswith("⚠ a plot failed (RuntimeError: broken); the result is not affected")
    assert decorations.noted("text") == f"text\n{note}"
    assert caplog.text.count("Traceback") == 1


@pytest.mark.parametrize("base", [Exception, BaseException])
def test_interruption_and_whatever_is_no_exception_pass(nodes, monkeypatch, base):
    import comfy.model_management as management

    class Interruption(base):
        pass

    def interrupt(*_):
        raise Interruption

    def leave(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(management, "InterruptProcessingException", Interruption)
    decorations = nodes.host.decoration.Decorations()
    for stop, kind in ((interrupt, Interruption), (leave, KeyboardInterrupt)):
        with pytest.raises(kind):
            decorations.attempt("a plot", stop)
        with (
            pytest.raises(kind),
            decorations.context("a tree", lambda stop=stop: types.SimpleNamespace(__enter__=stop)),
        ):
            pytest.fail("entered")
    assert decorations.notes == []


def test_error_of_the_run_itself_passes_and_ends_the_context(nodes):
    ended = []
    manager = types.SimpleNamespace(__enter__=lambda: "tree", __exit__=lambda *error: ended.append(error[0]))

    def run():
        with nodes.host.decoration.Decorations().context("a tree", lambda: manager) as tree:
            raise ValueError(f"the run under the {tree}")

    with pytest.raises(ValueError, match="the run under the tree"):
        run()
    assert ended == [ValueError]


def test_picture_that_fails_is_blank(nodes, fail):
    image = nodes.host.decoration.Decorations().picture("the plot", fail)
    assert image.ndim == 4
    assert image.shape[-1] == 3


def test_text_is_shown_where_the_picture_cannot_be_saved(nodes, fail, monkeypatch):
    monkeypatch.setattr(nodes.host.decoration.showing, "show", fail)
    ui = nodes.host.decoration.Decorations().show(None, "what was spent", None, more=["kept"])
    assert ui["text"][0].startswith("what was spent\n⚠ showing the result failed")
    assert ui["more"] == ["kept"]


# --- The Branching Sampler -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder(nodes):
    return nodes.DecoderLoader.execute("emoji-kandinsky (bundled)", "fp32").args[0]


@pytest.fixture(scope="module")
def embeddings(decoder):
    rows = torch.randn(3, decoder.pipeline.unet.config.encoder_hid_dim, generator=torch.Generator().manual_seed(0))
    return PromptEmbeddings(rows, torch.zeros_like(rows), PROMPTS, IMAGE_EMBEDDINGS)


@pytest.fixture(scope="module")
def plan(embeddings):
    Z = ward_linkage(embeddings.positive)
    thresholds = linear_thresholds(STEPS, float(Z[-1, 2]))
    return build_plan(Z, thresholds, embeddings.keys, prompts=PROMPTS)


@pytest.fixture(scope="module")
def sampler(nodes):
    return nodes.BranchingSampler.PREPARE_CLASS_CLONE({})


def drawn(sampler, decoder, embeddings, plan, **changes):
    settings = {"seed": 1, "guidance": 1.0, "scheduler": "DDPM", "width": 64, "height": 64, "micro_batch": 0, **changes}
    latent, tree, report = (out := sampler.execute(decoder, embeddings, plan, **settings)).args
    return latent["samples"], tree, report, out.ui


@pytest.fixture(scope="module")
def expected(sampler, decoder, embeddings, plan):
    latents, tree, report, ui = drawn(sampler, decoder, embeddings, plan)
    assert ui["images"]
    assert tree.shape[1] > 64
    assert "failed" not in report
    return latents


FAULTS = {
    "tree picture": "sampler.draw_tree",
    "kept latents": "sampler.BranchLatents.on_rows",
    "preview": "sampler.latents_to_rgb",
    "progress": "sampler.Progress.advance",
    "last preview": "sampler.Progress.finish",
    "live tree": "sampler.LiveTree.step",
    "pictures of the live tree": "sampler.LiveTree.show",
    "report": "sampler.describe",
    "warnings": "sampler.unsuitable",
    "show": "host.decoration.showing.show",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_decorates_a_run_loses_no_latents(
    nodes, sampler, decoder, embeddings, plan, expected, fail, monkeypatch, fault
):
    module, *path, name = fault.split(".")
    target = getattr(nodes, module)
    for part in path:
        target = getattr(target, part)
    monkeypatch.setattr(target, name, fail)
    latents, tree, _, ui = drawn(sampler, decoder, embeddings, plan)
    assert torch.equal(latents, expected)
    assert tree.shape[0] == 1
    warnings = [line for line in ui["text"][0].splitlines() if "failed (RuntimeError: broken)" in line]
    assert warnings
    assert all(line.startswith("⚠ ") for line in warnings)


def test_latents_that_overflow_are_named(sampler, decoder, embeddings, plan, expected, monkeypatch):
    forward = decoder.pipeline.unet.forward

    def overflow(sample, t, added_cond_kwargs, **options):
        output = forward(sample, t, added_cond_kwargs=added_cond_kwargs, **options)
        for row, embedding in zip(output[0], added_cond_kwargs["image_embeds"], strict=True):
            if which is None or torch.equal(embedding.float(), embeddings.positive[which]):
                row[0, 0, 0] = torch.nan
        return output

    monkeypatch.setattr(decoder.pipeline.unet, "forward", overflow)
    which = 1
    latents, _, report, ui = drawn(sampler, decoder, embeddings, plan)
    assert torch.equal(latents[[0, 2]], expected[[0, 2]])
    assert "⚠ 1 of 3 latents hold NaN or infinity" in report
    assert 'prompt 1 ("a dog"); load the decoder in fp32 or bf16' in ui["text"][0]
    which = None
    with pytest.raises(ValueError, match="all 3 latents hold NaN or infinity; load the decoder in fp32"):
        drawn(sampler, decoder, embeddings, plan)


def test_what_does_not_belong_together_is_refused_before_any_call(
    sampler, nodes, decoder, embeddings, plan, monkeypatch
):
    monkeypatch.setattr(decoder.pipeline.unet, "forward", lambda *_, **__: pytest.fail("the UNet was called"))
    rows = embeddings.positive
    with pytest.raises(ValueError, match='other prompts: prompt 1 is "a dog" in the plan, but "a bird" here'):
        drawn(sampler, decoder, PromptEmbeddings(rows, rows, ["a cat", "a bird", "a red apple"]), plan)
    with pytest.raises(ValueError, match="these prompts in another order: prompt 0 is"):
        drawn(sampler, decoder, PromptEmbeddings(rows.flip(0), rows, PROMPTS[::-1]), plan)
    joined = build_plan(ward_linkage(torch.ones(3, 2)), plan.thresholds, embeddings.keys)
    with pytest.raises(ValueError, match=r'makes one picture of prompt 0 \("a cat"\) and prompt 1 \("a dog"\)'):
        drawn(sampler, decoder, embeddings, joined)
    text = PromptEmbeddings(rows, rows, PROMPTS, "text embeddings (pooled of SDXLClipModel, from CLIP Embedding)")
    for use in (lambda: drawn(sampler, decoder, text, plan), lambda: nodes.KandinskyModel.execute(decoder, text)):
        with pytest.raises(
            ValueError, match=r"embeddings are text embeddings \(pooled of SDXL.*takes image embeddings"
        ):
            use()
    assert text_key("a cat") == plan.prompt_keys[0]


# --- Plots -----------------------------------------------------------------------------------------------------------


def test_plots_that_fail_lose_no_linkage_and_no_plan(nodes, embeddings, fail, monkeypatch):
    monkeypatch.setattr(nodes.linkage, "draw_dendrogram", fail)
    monkeypatch.setattr(nodes.schedule, "draw_schedule", fail)
    out = nodes.WardLinkage.PREPARE_CLASS_CLONE({}).execute(embeddings, "chord")
    assert "⚠ the dendrogram failed" in out.ui["text"][0]
    assert np.isfinite(out.args[0].Z).all()
    out = nodes.ThresholdSchedule.PREPARE_CLASS_CLONE({}).execute(out.args[0], 4, "saving", 0.2, 1)
    assert "⚠ the plot failed" in out.ui["text"][0]
    assert out.args[0].num_prompts == 3


def test_sensitivity_is_handed_on_though_its_plot_fails(nodes, fail, monkeypatch):
    from hierdiff_core import Sensitivity

    monkeypatch.setattr(nodes.calibration, "draw_sensitivity", fail)
    measured = Sensitivity(4, np.array([1, 2, 4]), np.array([0.1, 0.2, 0.4]), {})
    out = nodes.calibration.result(nodes.Calibrate.PREPARE_CLASS_CLONE({}), measured, {}, None)
    assert "⚠ the plot failed" in out.ui["text"][0]
    assert out.args[0].num_steps == 4
