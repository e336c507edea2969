"""A whole training of the scene model in a few steps, and what it leaves, read by diffusers and transformers."""

import json
import signal
import sys

import pytest
import torch
import train
import train_scenes
from assemble import OF_THIS_MACHINE
from conftest import REPO_ROOT
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from prepared_process import PREPARED
from safetensors.torch import load_file
from scenes.config import PICTURE
from scenes.sampling import draw, load_model, starting_noise
from transformers import CLIPTextModel, CLIPTokenizer

SCRIPT = REPO_ROOT / "training" / "train_scenes.py"


def command(out, *arguments):
    where = ["--out", str(out), "--icons", str(out / "icons.safetensors")]
    return [str(SCRIPT), *arguments, "--smoke", "--device", "cpu", *where]


def run(out, *arguments):
    """In this process, since another one imports for eight seconds; the stages of a training run as scripts anyway."""
    terminated, precision = signal.getsignal(signal.SIGTERM), torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(out, *arguments))
        patch.setattr(train, "subprocess", PREPARED)
        patch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)  # back as it was
        patch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        try:
            train_scenes.main()
        finally:
            signal.signal(signal.SIGTERM, terminated)
            torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """The stages, the judges and the evaluation."""
    out = tmp_path_factory.mktemp("scenes")
    run(out)
    run(out, "judge")
    run(out, "evaluate")
    return out


def test_diffusers_and_transformers_load_what_was_trained(smoke_run):
    folder = smoke_run / "model"
    text, notes = CLIPTextModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.shift == 1.0
    ids = tokenizer(["tacos, flat style"], padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, 77)
    assert ids.max() == tokenizer.eos_token_id == text.config.eos_token_id == text.config.vocab_size - 1
    hidden = text.float()(input_ids=ids).last_hidden_state
    latents = unet(torch.randn(1, vae.config.latent_channels, 16, 16), 500.0, hidden).sample
    assert vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample.shape == (1, 3, 128, 128)


def test_the_text_encoders_weights_have_stable_diffusions_names(smoke_run):
    names = load_file(smoke_run / "model" / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    assert "text_model.embeddings.token_embedding.weight" in names


def test_the_model_is_small_and_in_float16(smoke_run):
    folder = smoke_run / "model"
    for path in folder.rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    vocabulary = 960 - json.loads((folder / "text_encoder" / "config.json").read_text())["vocab_size"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size + vocabulary * 2 * 256 <= 25e6  # with the words of all emoji


def test_the_model_says_its_licences_and_nothing_of_the_machine(smoke_run):
    folder = smoke_run / "model"
    assert "emoji-scenes" in (folder / "LICENSES.md").read_text()
    assert (folder / "LICENSE-APACHE-2.0.txt").is_file()
    for path in folder.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert str(smoke_run) not in text
        assert not set(OF_THIS_MACHINE) & set(json.loads(text)), path


def test_drawing_with_the_model_that_is_read_back(smoke_run):
    model = load_model(smoke_run / "model", "cpu")
    noise = starting_noise(2, 0, model.device)
    pictures = model.pictures(draw(model, ["a cat", "orange background"], noise, steps=1))
    assert pictures.shape == (2, 3, PICTURE, PICTURE)
    assert torch.isfinite(pictures).all()


def test_what_was_measured_is_written(smoke_run):
    figures = json.loads((smoke_run / "evaluation.json").read_text())
    assert {"early", "quality", "negatives", "sheet"} <= set(figures)
    assert [row["shared"] for row in figures["early"]] == [0, 1]
    assert len(figures["sheet"]) == 2
    assert len(figures["negatives"]) == 3
    assert "| real pictures | " in (smoke_run / "evaluation.md").read_text()
    assert Image.open(smoke_run / "sheet.png").size == (2 * PICTURE, PICTURE)


@pytest.mark.parametrize("stage", ["vae", "judge"])
def test_finished_stages_are_not_trained_again(smoke_run, stage, capsys):
    before = {path: path.stat().st_mtime_ns for path in (smoke_run / "work").rglob("*") if path.is_file()}
    run(smoke_run, stage)
    assert f"{stage} is trained" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
