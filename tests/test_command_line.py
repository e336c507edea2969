"""`python -m hierdiff_core`: the pipeline without ComfyUI."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import hierdiff_core.__main__ as command_line
import hierdiff_core.decoding as decoding
from hierdiff_core import Sensitivity, write_sensitivity
from hierdiff_core.__main__ import main
from hierdiff_core.loading import BUNDLED

QUICK = ["--steps", "5", "--prior-steps", "3"]
ANIMALS = ["{tiger|lion|cat} face, {noto|flat} style", "--width", "64", "--height", "64", *QUICK]


@pytest.fixture
def decoder(tmp_path):
    """A copy of the bundled decoder that nobody has calibrated."""
    return shutil.copytree(BUNDLED / "decoder", tmp_path / "decoder", ignore=shutil.ignore_patterns("sensitivity.json"))


@pytest.fixture
def models_forbidden(monkeypatch):
    for name in ("load_prior", "load_decoder"):
        monkeypatch.setattr(command_line, name, lambda *args, **kwargs: pytest.fail("a model was loaded"))


def draw(folder, *arguments):
    """The report and the pictures of a run."""
    assert main([*ANIMALS, "--out", str(folder), *map(str, arguments)]) == 0
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report, [Image.open(folder / image["file"]).tobytes() for image in report["images"]]


def test_two_prompts_give_pictures_plots_and_a_report(tmp_path, capsys):
    assert main(["a red apple", "a green apple", "--saving", "0.4", "--out", str(tmp_path / "set"), *QUICK]) == 0
    report = json.loads((tmp_path / "set" / "report.json").read_text(encoding="utf-8"))
    assert [image["prompt"] for image in report["images"]] == ["a red apple", "a green apple"]
    assert report["nfe"] == sum(report["clusters_per_step"]) == 6
    assert report["saved"] == pytest.approx(0.4)
    for image in report["images"]:
        assert Image.open(tmp_path / "set" / image["file"]).size == (128, 128)
    for name in ("contact_sheet", "dendrogram", "schedule", "tree"):
        assert Image.open(tmp_path / "set" / f"{name}.png").width > 100
    assert "6 UNet rows instead of 10, 40.0% saved" in capsys.readouterr().out


def test_first_pictures_are_written_while_others_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("hierdiff_core.kandinsky.LEAST_PIECE", 1)  # pieces of two branches
    there, decode_latents = [], decoding.decode

    def look(decoder, latents, *args):
        there.append(len(list(tmp_path.glob("deep/[0-9]*.png"))))
        return decode_latents(decoder, latents, *args)

    options = ["--saving", "0.4"]
    monkeypatch.setattr(decoding, "decode", look)
    monkeypatch.setattr(command_line, "ThreadPoolExecutor", AtOnce)
    deep, pictures = draw(tmp_path / "deep", *options, "--order", "depth first")
    assert len(there) >= 3
    assert there == sorted(there)
    assert 0 < there[-1] < 6
    _, others = draw(tmp_path / "broad", *options)
    assert pictures == others
    assert deep["settings"]["order"] == "depth first"


class AtOnce(ThreadPoolExecutor):
    """Runs a job before the next line does."""

    def submit(self, *args, **kwargs):
        job = super().submit(*args, **kwargs)
        job.result()
        return job


def test_guidance_for_a_part_of_the_steps(tmp_path):
    report, pictures = draw(tmp_path / "part", "--guidance-interval", "0", "0.6")
    _, whole = draw(tmp_path / "whole")
    assert report["settings"]["guidance_interval"] == [0.0, 0.6]
    assert pictures != whole


def test_saving_beyond_reach_saves_what_can_be_saved_and_says_so(tmp_path, capsys):
    assert main(["a red apple", "a green apple", "--saving", "0.5", "--out", str(tmp_path), *QUICK]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["nfe"] == 6
    assert "2 prompts in 5 steps can save 40.00% at most, not 50.00%" in capsys.readouterr().err


def test_prompts_come_from_a_file_with_alternatives(tmp_path):
    (tmp_path / "prompts.txt").write_text("# fruit\n{red|green} apple\n\npear\n", encoding="utf-8")
    arguments = ["--file", str(tmp_path / "prompts.txt"), "--tau", "0", "--out", str(tmp_path / "set"), "--steps", "2"]
    assert main([*arguments, "--prior-steps", "2"]) == 0
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert [image["prompt"] for image in report["images"]] == ["red apple", "green apple", "pear"]
    assert report["saved"] == 0


def test_an_earlier_set_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "report.json").write_text("{}")
    assert main(["a red apple", "--out", str(tmp_path), *QUICK]) == 1
    assert "holds a set already" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there are no prompts"),
        (["a {red apple"], "line 1"),
        (["a", "b", "--decoder", "no/such/folder"], "folder is not a model in diffusers layout"),
        (["a", "b", "--width", "100"], "width must be a multiple of 64"),
        (["a", "b", "--tau", "-1"], "tau must be a finite height"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path / "set"), *QUICK]) == 1
    assert message in capsys.readouterr().err


# --- the shape of the schedule


def test_calibrated_schedule_finds_the_decoders_sensitivity_and_reports_what_it_leaves(tmp_path, decoder):
    write_sensitivity(Sensitivity(10, [2, 4, 6, 8, 10], [1e-4, 1e-3, 0.01, 0.1, 1]), decoder / "sensitivity.json")
    options = ["--decoder", decoder, "--metric", "chord", "--saving", 0.5]
    calibrated, _ = draw(tmp_path / "set", *options, "--shape", "calibrated")
    assert 0 < calibrated["expected_distortion"] < calibrated["expected_distortion_straight_line"]
    assert calibrated["saved"] >= 0.5
    assert calibrated["settings"]["sensitivity"] == str(decoder / "sensitivity.json")
    line, _ = draw(tmp_path / "line", *options)
    assert line["expected_distortion"] == pytest.approx(line["expected_distortion_straight_line"])
    assert line["expected_distortion"] > calibrated["expected_distortion"]


def test_report_without_a_sensitivity_expects_nothing_and_rescaled_means_change_pictures(tmp_path, decoder):
    options = ["--decoder", decoder, "--root-share", 1, "--shape", "power", "--power", 30]
    report, pictures = draw(tmp_path / "plain", *options)
    assert report["expected_distortion"] is None
    assert report["expected_distortion_straight_line"] is None
    assert report["clusters_per_step"] == [1, 6, 6, 6, 6]
    assert report["settings"]["rescale_means"] is False
    rescaled, others = draw(tmp_path / "rescaled", *options, "--rescale-means")
    assert rescaled["settings"]["rescale_means"] is True
    assert all(picture != other for picture, other in zip(pictures, others, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "calibrated"], "--shape calibrated needs the model's sensitivity, and {decoder} has no sensi"),
        (["--shape", "calibrated", "--sensitivity", "{folder}/none.json"], "none.json holds no sensitivity"),
        (["--sensitivity", "{decoder}/model_index.json"], "model_index.json holds no sensitivity"),
        (["--shape", "power", "--power", "0"], "power must be a finite number above 0; got 0.0"),
        (["--private-steps", "6"], "private_steps must lie between 1 and the number of steps (5); got 6"),
    ],
)
def test_schedule_that_cannot_be_made_is_refused_before_models_are_loaded(
    tmp_path, capsys, decoder, models_forbidden, arguments, message
):
    names = {"decoder": decoder, "folder": tmp_path}
    arguments = [argument.format(**names) for argument in arguments]
    assert main(["a", "b", "--decoder", str(decoder), "--out", str(tmp_path / "set"), *arguments, *QUICK]) == 1
    assert message.format(**names) in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


# --- what the prior takes


def test_prior_of_one_step_is_refused_in_one_clear_line(tmp_path, capsys):
    assert main(["a", "b", "--out", str(tmp_path / "set"), *QUICK, "--prior-steps", "1"]) == 1
    assert "hierdiff: num_steps of the prior must be 2 to 1000; got 1" in capsys.readouterr().err
