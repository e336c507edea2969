"""`python -m hierdiff_core advise`, and a Kandinsky decoder on the advisor's workbench."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import hierdiff_core.__main__ as command_line
from hierdiff_core import PromptEmbeddings, PromptTree, decode, load_decoder, sample
from hierdiff_core.__main__ import main
from hierdiff_core.kandinsky.schedulers import SCHEDULERS
from hierdiff_core.kandinsky.workbench import DecoderWorkbench, decoder_fingerprint
from hierdiff_core.measure.advice import read_advice
from hierdiff_core.measure.ways import Way
from hierdiff_core.plan.guidance import GuidanceCourse

SIZE = {"width": 64, "height": 64}
TINY = ["--width", "64", "--height", "64", "--steps", "3", "--prior-steps", "2"]
ADVISE = ["advise", "{tiger|lion} face, {noto|flat} style", *TINY, "--samples", "2", "--measure", "looks the same"]


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


def bench_of(decoder, **options):
    rows = torch.eye(5, decoder.unet.config.encoder_hid_dim)
    rows[1] += 2 * rows[0]
    embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), [f"prompt {i}" for i in range(5)])
    tree = PromptTree.of(rows, "chord", embeddings.prompts)
    return embeddings, DecoderWorkbench(decoder, embeddings, tree, 4, samples=3, guidance=3.0, **SIZE, **options)


@pytest.fixture
def models_forbidden(monkeypatch):
    for name in ("load_prior", "load_decoder"):
        monkeypatch.setattr(command_line, name, lambda *args, **kwargs: pytest.fail("a model was loaded"))


# --- the workbench


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_noise_levels_fall_for_every_scheduler_and_number_of_steps(decoder, scheduler):
    _, bench = bench_of(decoder, scheduler=scheduler)
    for steps in (2, 4, 15):
        levels = bench.levels(steps)
        assert len(levels) == steps
        assert (np.diff(levels) < 0).all()
        assert levels[0] <= 1
        assert levels[-1] > 0
        assert Way(tuple(levels)).steps == steps
    assert levels[0] > 0.9


def test_workbench_draws_what_the_sampler_draws_of_the_same_prompts(decoder):
    embeddings, bench = bench_of(decoder, seed=5)
    way = Way(tuple(bench.levels(4)), trunk=float(bench.levels(4)[2]), guidance=GuidanceCourse(end=0.5))
    plan = way.plan(bench.tree)
    assert plan.clusters_per_step.tolist() == [1, 1, 3, 3]
    chosen = PromptEmbeddings(
        embeddings.positive[bench.rows], embeddings.negative[bench.rows], [f"prompt {i}" for i in bench.rows]
    )
    for repeat in (0, 1):
        drawn = bench.draw(way, plan, repeat)
        expected = sample(decoder, chosen, plan, seed=5 + repeat, guidance=3.0, scheduler="DDPM", **SIZE)
        assert torch.equal(drawn.latents, expected)
        assert torch.equal(drawn.pictures, decode(decoder, expected))
    shares = bench.adherence(drawn.latents)
    assert shares.shape == (3,)
    assert (np.abs(shares) <= 1).all()


def test_guidance_of_the_plan_is_what_the_decoder_is_asked_for(decoder):
    _, bench = bench_of(decoder)
    calls = []
    bench.before_call = lambda: calls.append(1)
    levels = tuple(bench.levels(4))
    bench.draw(Way(levels), Way(levels).plan(bench.tree))
    whole = len(calls)
    cut = Way(levels, guidance=GuidanceCourse(end=0.5))
    assert not torch.equal(
        bench.draw(cut, cut.plan(bench.tree)).latents, bench.draw(Way(levels), Way(levels).plan(bench.tree)).latents
    )
    assert whole > 0
    assert bench.guided
    assert not DecoderWorkbench(
        decoder, bench.embeddings, PromptTree.of(bench.embeddings.positive, "chord"), 4, samples=2, guidance=1.0, **SIZE
    ).guided


def test_cancelling_reaches_every_call(decoder):
    _, bench = bench_of(decoder)
    way = Way(tuple(bench.levels(4)))
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    bench.before_call = stop
    with pytest.raises(KeyboardInterrupt):
        bench.draw(way, way.plan(bench.tree))
    assert len(calls) == 3


def test_fingerprint_is_that_of_the_weights(decoder):
    known = decoder_fingerprint(decoder)
    again = load_decoder()
    assert decoder_fingerprint(again) == known
    with torch.no_grad():
        next(again.unet.parameters()).mul_(1.01)
    assert decoder_fingerprint(again) != known


# --- the command


def advised(folder, *arguments):
    assert main([*ADVISE, "--out", str(folder), *map(str, arguments)]) == 0
    return read_advice(folder / "advice.json")


def test_advice_is_told_written_found_again_and_drawn_by(tmp_path, capsys):
    advice = advised(tmp_path / "advice", "--value", 30)
    said = capsys.readouterr()
    assert advice.sentences[0] in said.out
    assert "Draw so: --advice" in said.out
    assert "measuring on 2 prompts:" in said.err
    assert said.err.count("full sampling") == 4
    assert Image.open(tmp_path / "advice" / "advice.png").size == (1000, 700)
    assert advice.settings == {"scheduler": "DDPM", "guidance": 3.0, "steps": 3, **SIZE}
    assert set(advice.chosen.losses) == {"fidelity"}

    assert advised(tmp_path / "advice", "--value", 30) == advice
    assert "% " not in capsys.readouterr().err  # nothing was drawn

    prompts = ["{tiger|lion|cat} face, {noto|flat} style", *TINY, "--advice", str(tmp_path / "advice" / "advice.json")]
    assert main([*prompts, "--out", str(tmp_path / "set")]) == 0
    report = json.loads((tmp_path / "set" / "report.json").read_text(encoding="utf-8"))
    assert len(report["images"]) == 6
    assert report["advised"]["model"] == advice.model
    assert report["advised"]["verdict"] == advice.verdict
    assert len(report["clusters_per_step"]) == advice.chosen.way.steps
    assert report["nfe"] <= 18


def test_interrupted_measurement_is_kept(tmp_path, capsys, monkeypatch):
    draw, calls = DecoderWorkbench.draw, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(self, *args)

    monkeypatch.setattr(DecoderWorkbench, "draw", interrupted)
    assert main([*ADVISE, "--out", str(tmp_path)]) == 130
    assert f"what was measured is kept in {tmp_path / 'measured'}" in capsys.readouterr().err
    assert not (tmp_path / "advice.json").exists()
    first = advised(tmp_path)
    resumed = len(calls) - 4
    assert advised(tmp_path / "fresh") == first
    fresh = len(calls) - 4 - resumed
    assert fresh - 3 <= resumed < fresh  # of three that were kept, full sampling may be drawn again to compare with


def test_advice_of_another_scheduler_or_decoder_is_refused_by_name(tmp_path, capsys):
    advised(tmp_path)
    drawing = ["a", "b", *TINY, "--advice", str(tmp_path / "advice.json"), "--out", str(tmp_path / "set")]
    assert main([*drawing, "--scheduler", "Euler", "--guidance", "2"]) == 1
    said = capsys.readouterr().err
    assert "scheduler is 'Euler', it was measured with 'DDPM'; guidance is 2.0, it was measured with 3.0" in said
    text = (tmp_path / "advice.json").read_text(encoding="utf-8")
    model = json.loads(text)["model"]
    (tmp_path / "advice.json").write_text(text.replace(model, "0" * 16), encoding="utf-8")
    assert main(drawing) == 1
    assert "the model is another one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--saving", "0.5"], "advise finds out how much to share; leave --saving out"),
        (["--root-share", "0.5"], "leave --root-share out"),
        (["--guidance-interval", "0", "0.5"], "leave --guidance-interval out"),
        (["--samples", "1"], "--samples must lie between 2 and 1000; got 1"),
        (["--value", "nan"], "value must be the loss that is allowed, in per cent, above 0; got nan"),
        (["--goal", "rows per picture"], "--goal 'rows per picture' needs --value: guided rows per picture, of 3"),
        (["--steps", "0"], "--steps must lie between 1 and 1000; got 0"),
        (["--scheduler", "DDPM", "--device", "toaster"], "--device must be cpu"),
    ],
)
def test_what_cannot_be_advised_is_refused_before_models_are_loaded(
    tmp_path, capsys, models_forbidden, arguments, message
):
    assert main([*ADVISE, "--out", str(tmp_path / "advice"), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "message"),
    [(["a pear"], "there is one prompt: nothing can be shared"), (["a pear"] * 3, "all 3 prompts are equal")],
)
def test_prompts_of_which_nothing_can_be_learned_are_refused(tmp_path, capsys, prompts, message):
    assert main(["advise", *prompts, *TINY, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_file_that_is_no_advice_is_refused_before_models_are_loaded(tmp_path, capsys, models_forbidden):
    (tmp_path / "advice.json").write_text("{}")
    drawing = ["a", "b", *TINY, "--out", str(tmp_path / "set"), "--advice", str(tmp_path / "advice.json")]
    assert main(drawing) == 1
    assert "advice.json is no advice saved by What Pays Here?" in capsys.readouterr().err


def test_advise_is_a_prompt_anywhere_but_at_the_beginning():
    options = command_line.parse_arguments(["a pear", "advise"])
    assert options.prompts == ["a pear", "advise"]
    assert not options.advise
    assert command_line.parse_arguments(["advise", "advise"]).prompts == ["advise"]
