"""`python -m hierdiff_core`: the pipeline without ComfyUI."""

import json

import pytest
from PIL import Image

from hierdiff_core.__main__ import main

QUICK = ["--steps", "5", "--prior-steps", "3"]


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
