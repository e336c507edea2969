"""The training: its mathematics, its loop, and a whole run of a few steps that both pipelines can load."""

import importlib
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace

import losses
import pytest
import torch
import train
from assemble import OF_THIS_MACHINE
from clip_pair import nearest_distances, noisy, soft_contrast
from config import FULL, SMOKE, UNET_SCHEDULER, Optimisation
from conftest import REPO_ROOT
from diffusers import DDPMScheduler, UnCLIPScheduler
from guidance import COUNT, WAYS, Toy
from loop import Run, ema_decay, is_finished, learning_rate, mark_finished
from movq import fold_statistics, normalised
from PIL import Image
from prepared_process import PREPARED
from prior import guided, noised, rollout
from stage import run_stage
from tokens import BEGIN, END, keep_tokenizer, vocabulary_of
from unet import Posterior, clip_range, min_snr_weight

TRAINING = REPO_ROOT / "training"
CPU = torch.device("cpu")


def test_learning_rate_warms_up_over_steps_and_falls_to_zero_over_time():
    optimisation = Optimisation(batch=1, learning_rate=2.0, warm_up=4)
    assert [learning_rate(optimisation, step, 0.0) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(optimisation, 9, 0.5) == pytest.approx(1.0)
    assert learning_rate(optimisation, 9, 1.0) == learning_rate(optimisation, 9, 1.2) == 0.0


def test_averages_forget_the_first_weights():
    optimisation = Optimisation(batch=1, learning_rate=1.0, ema=0.99)
    decays = [ema_decay(optimisation, step) for step in range(2000)]
    assert decays[0] == 0.1
    assert decays == sorted(decays)
    assert decays[-1] == 0.99
    assert math.prod(decays[:100]) < 1e-6


def regression(folder, **changes):
    """A run that learns the sum of four numbers."""
    optimisation = replace(Optimisation(batch=32, learning_rate=0.1, warm_up=5, ema=0.9, max_steps=200), **changes)
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 1)
    run = Run(folder, {"net": network}, optimisation, minutes=5, device=CPU)

    def loss():
        x = torch.randn((optimisation.batch, 4), generator=run.generator)
        return (network(x) - x.sum(1, keepdim=True)).square().mean(), {}

    return run, loss


def test_a_run_learns_and_logs(tmp_path):
    run, loss = regression(tmp_path)
    figures = run.train(loss)
    torch.testing.assert_close(run.networks["net"].weight, torch.ones(1, 4), atol=0.02, rtol=0)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 200
    assert {"loss", "gradient", "steps_per_second"} <= set(figures)


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(tmp_path):
    whole, loss = regression(tmp_path / "whole")
    whole.train(loss)
    first, loss = regression(tmp_path / "parts")
    for _ in range(90):
        first.take_step(loss)
    first.save()
    first.take_step(loss)  # lost
    second, loss = regression(tmp_path / "parts")
    assert second.step == 90
    assert second.seconds >= first.seconds - 1
    second.train(loss)
    torch.testing.assert_close(second.networks["net"].weight, whole.networks["net"].weight)


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path):
    run, loss = regression(tmp_path)
    before = run.networks["net"].weight.clone()

    def broken():
        value, figures = loss()
        return value * float("nan"), figures

    run.take_step(broken)
    torch.testing.assert_close(run.networks["net"].weight, before, rtol=0, atol=0)
    run.take_step(loss)
    assert not torch.equal(run.networks["net"].weight, before)


def test_a_run_that_breaks_says_so_and_keeps_its_checkpoint(tmp_path):
    run, loss = regression(tmp_path)
    run.save()

    def broken():
        value, figures = loss()
        return value * float("inf"), figures

    with pytest.raises(RuntimeError, match="not finite"):
        run.train(broken)
    assert regression(tmp_path)[0].step == 0


def test_training_goes_on_where_torch_compile_fails(tmp_path, capsys):
    run, loss = regression(tmp_path)
    compiled = run.compile(run.networks["net"])

    def broken(*_):
        raise RuntimeError("no compiler")

    compiled.call = broken

    def compiled_loss():
        value, figures = loss()
        return value + 0 * compiled(torch.zeros(1, 4)).sum(), figures

    run.take_step(compiled_loss)
    assert run.step == 1
    assert "no compiler" in capsys.readouterr().out


def test_evaluation_sees_the_averages_and_training_goes_on_with_the_weights(tmp_path):
    run, loss = regression(tmp_path)
    for _ in range(5):
        run.take_step(loss)
    weight, average = run.networks["net"].weight.clone(), run.averages[0].clone()
    assert not torch.equal(weight, average)
    with run.averaged():
        assert torch.equal(run.networks["net"].weight, average)
        assert not run.networks["net"].training
    assert torch.equal(run.networks["net"].weight, weight)
    assert run.networks["net"].training


@pytest.mark.slow
def test_a_killed_process_loses_little(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3] + sys.argv[4:]\n"
        "import loop, time\nfrom pathlib import Path\nfrom test_training import regression\n"
        "loop.CHECKPOINT_SECONDS = 0.2\n"
        "run, loss = regression(Path(sys.argv[3]), max_steps=10**9)\n"
        "print('ready', flush=True)\nrun.train(loss)\n"
    )
    tests = REPO_ROOT / "tests"
    folders = [str(TRAINING), str(tests / "training"), str(tmp_path), str(tests)]
    with subprocess.Popen([sys.executable, "-c", code, *folders], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(3)
        process.send_signal(signal.SIGKILL)
    run, _ = regression(tmp_path, max_steps=10**9)
    assert run.step > 0
    assert 1.5 < run.elapsed < 4


def test_a_finished_stage_is_marked(tmp_path):
    assert not is_finished(tmp_path)
    mark_finished(tmp_path, {"loss": 1.0})
    assert is_finished(tmp_path)


def test_begin_and_end_are_the_highest_tokens_and_every_byte_is_one():
    tokens, merges = vocabulary_of([("a", "b"), ("ab", "c</w>"), ("d", "e")], most=516)
    assert merges == [("a", "b"), ("ab", "c</w>")]
    assert tokens[512:] == ["ab", "abc</w>", BEGIN, END]
    assert len(set(tokens)) == 516


def test_a_tokenizer_is_trained_once_and_reads_anything(tmp_path):
    folder = tmp_path / "run" / "tokenizer"
    folder.parent.mkdir()
    tokenizer = keep_tokenizer(["tiger face, 3d style", "tiger, flat style"] * 3, folder)
    again = keep_tokenizer(["other texts"], folder)
    text = "Tiger face, zażółć 🙂"
    ids = tokenizer(text).input_ids
    assert ids == again(text).input_ids
    assert ids[0] == len(tokenizer) - 2
    assert ids[-1] == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower().replace(",", " ,")
    assert tokenizer.model_max_length == 24


def test_equal_pictures_and_captions_are_all_right_answers():
    images = torch.eye(3)[[0, 0, 1]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    found = soft_contrast(images, images, torch.tensor(50.0), same)
    assert float(found) == pytest.approx(2 / 3 * math.log(2), abs=1e-4)  # two equal ones cannot be told apart
    assert soft_contrast(images, images, torch.tensor(50.0), torch.eye(3, dtype=torch.bool)) == pytest.approx(found)
    assert soft_contrast(images, images[[2, 2, 0]], torch.tensor(50.0), same) > 40


def test_noise_of_embeddings_is_in_deviations():
    embeddings = 10 * torch.randn((4000, 2), generator=torch.Generator().manual_seed(0))
    added = noisy(embeddings, 0.25, torch.Generator().manual_seed(1)) - embeddings
    torch.testing.assert_close(added.std(0), torch.full((2,), 2.5), rtol=0.1, atol=0)


def test_nearest_distances():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0], [30.0, 40.0]])
    torch.testing.assert_close(nearest_distances(rows), torch.tensor([5.0, 5.0, 45.0]) / 2**0.5)


def test_noised_embeddings_are_the_schedulers():
    scheduler = UnCLIPScheduler(prediction_type="sample")
    x0, noise, timesteps = torch.randn(3, 8), torch.randn(3, 8), torch.tensor([0, 500, 999])
    found = noised(x0, noise, scheduler.alphas_cumprod[timesteps])
    torch.testing.assert_close(found, scheduler.add_noise(x0, noise, timesteps))


def test_a_rollout_ends_where_the_predictions_lead():
    scheduler = UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
    target = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    start = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    states, timesteps, result = rollout(
        lambda x, t: (target, target), scheduler, 10, start, torch.full((2, 1), 4.0), torch.Generator().manual_seed(0)
    )
    assert states.shape == (10, 2, 2)
    assert timesteps[0] == 999
    assert timesteps[-1] == 0
    torch.testing.assert_close(result, target, rtol=0.01, atol=0.01)  # the scheduler is no more exact
    torch.testing.assert_close(guided(torch.zeros(2), torch.ones(2), 4.0), torch.full((2,), 4.0))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_the_comparison_trains_and_samples(way, tmp_path):
    toy = Toy(way, 2, tmp_path)
    toy.train()
    share, error = toy.measure(4.0, steps=3)
    assert share * COUNT == pytest.approx(round(share * COUNT))
    assert 0 < error < 100


def test_min_snr_weight():
    snr = torch.tensor([0.1, 5.0, 50.0])
    torch.testing.assert_close(min_snr_weight(snr / (1 + snr), 5.0), torch.tensor([1.0, 1.0, 0.1]))


def test_the_variance_is_the_one_that_the_scheduler_samples_with():
    scheduler = DDPMScheduler(**UNET_SCHEDULER)
    scheduler.set_timesteps(40)
    posterior = Posterior(scheduler.alphas_cumprod, 25)
    output = torch.randn(3, 4, 2, 2)
    timesteps = torch.tensor([25, 500, 975])
    wanted = [scheduler._get_variance(t, v) for t, v in zip(timesteps, output, strict=True)]
    torch.testing.assert_close(posterior.log_variance(output, timesteps), torch.stack(wanted))


def test_the_divergence_is_that_of_two_gaussians():
    scheduler = DDPMScheduler(**UNET_SCHEDULER, clip_sample_range=100.0)
    scheduler.set_timesteps(40)
    posterior = Posterior(scheduler.alphas_cumprod, 25)
    t = torch.tensor([500])
    noise, predicted, output = (torch.randn(1, 4, 2, 2) for _ in range(3))
    x = torch.randn(1, 4, 2, 2)

    def step(prediction):  # its mean: the generator draws the same noise
        return scheduler.step(torch.cat([prediction, -output], 1), 500, x, torch.Generator().manual_seed(0)).prev_sample

    mean_error = step(predicted) - step(noise)
    true, found = posterior.log_smallest[500], posterior.log_variance(output, t)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.zeros_like(x), (true / 2).exp().expand_as(x)),
        torch.distributions.Normal(mean_error, (found / 2).exp()),
    )
    found = posterior.divergence(output, predicted - noise, t)
    torch.testing.assert_close(found, wanted.mean((1, 2, 3)), rtol=1e-3, atol=1e-4)
    assert posterior.divergence(output, predicted - noise, torch.tensor([0])) == 0


def test_folded_statistics_normalise_the_latents():
    convolution = torch.nn.Conv2d(4, 4, 1)
    x = 3 + 2 * torch.randn(16, 4, 8, 8)
    before = convolution(x).detach()
    fold_statistics(convolution, before.mean((0, 2, 3)), before.std((0, 2, 3)))
    torch.testing.assert_close(convolution(x), normalised(before), atol=1e-3, rtol=1e-3)
    assert clip_range(torch.tensor([-2.123, 1.0])) == 2.13


def test_shares_of_the_minutes_leave_time_for_the_rest():
    assert 0.85 < sum(max(shares.values()) for shares in FULL.phases) < 1.0
    assert list(FULL.phases[0]) + list(FULL.phases[1]) == ["clip_pair", "movq", "prior", "unet"]
    assert SMOKE.phases == FULL.phases


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """A whole training of a few steps; its stages are scripts, and what starts them is here: it imports for seconds."""
    out, terminated = tmp_path_factory.mktemp("run"), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "subprocess", PREPARED)
        patch.setattr(sys, "argv", ["train.py", "--smoke", "--device", "cpu", "--out", str(out)])
        try:
            train.main()
        finally:
            signal.signal(signal.SIGTERM, terminated)
    return out


def test_both_pipelines_load_what_was_trained(smoke_run):
    from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline

    out = smoke_run
    prior = KandinskyV22PriorPipeline.from_pretrained(out / "model" / "prior", use_safetensors=True)
    decoder = KandinskyV22Pipeline.from_pretrained(out / "model" / "decoder", use_safetensors=True)
    prior.to(torch.float32)
    decoder.to(torch.float32)
    embeddings = prior("grinning face, 3d style", num_inference_steps=2)
    pictures = decoder(**embeddings, height=128, width=128, num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 128, 128, 3)


def test_the_core_samples_from_what_was_trained(smoke_run):
    from hierdiff_core import build_plan, decode, embed_prompts, load_decoder, load_prior, sample, ward_linkage

    model = smoke_run / "model"
    decoder = load_decoder(model / "decoder")
    embeddings = embed_prompts(load_prior(model / "prior"), ["grinning face, 3d style", "zażółć 🙂"], num_steps=2)
    plan = build_plan(ward_linkage(embeddings.positive.numpy()), [0.5, 0.0])
    latents = sample(decoder, embeddings, plan, width=128, height=128)
    pictures = decode(decoder, latents)
    assert pictures.shape == (2, 128, 128, 3)
    assert torch.isfinite(pictures).all()


def test_the_model_has_the_bundled_ones_files_and_is_not_larger(smoke_run):
    out = smoke_run
    bundled = REPO_ROOT / "models" / "emoji-kandinsky"
    made = out / "model"
    names = {path.relative_to(bundled) for path in bundled.rglob("*") if path.is_file()}
    extra = {"sensitivity.json"}  # measured on a finished model
    assert {path.relative_to(made) for path in made.rglob("*") if path.is_file()} == {
        name for name in names if name.name not in extra
    }
    sizes = {name: (made / name).stat().st_size for name in names if name.suffix == ".safetensors"}
    for name, size in sizes.items():
        assert size <= (bundled / name).stat().st_size
    assert sum(sizes.values()) <= 20.4 * 2**20
    for name in ("unet", "movq"):
        file = f"decoder/{name}/diffusion_pytorch_model.safetensors"
        assert (made / file).stat().st_size == (bundled / file).stat().st_size


def test_the_model_knows_nothing_of_the_machine_that_made_it(smoke_run):
    for path in (smoke_run / "model").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert str(smoke_run) not in text
        assert not set(OF_THIS_MACHINE) & set(json.loads(text)), path


def test_losses_of_a_run_as_a_table_and_a_picture(smoke_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["losses.py", "--out", str(smoke_run), "--picture", str(tmp_path / "losses.webp")])
    losses.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| clip_pair", "| movq", "| prior", "| unet"]
    assert all(row.split(" | ")[3] == str(SMOKE.unet.optimisation.max_steps) for row in rows if "movq" not in row)
    with Image.open(tmp_path / "losses.webp") as picture:
        assert picture.convert("L").getextrema()[0] < 128 < 255 == picture.convert("L").getextrema()[1]


def test_losses_of_an_unfinished_run_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["losses.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        losses.main()
    assert "has not finished clip_pair, movq, prior, unet; train first" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["clip_pair", "movq", "prior", "unet"])
def test_a_finished_stage_is_not_trained_again(smoke_run, stage, monkeypatch):
    train_stage = getattr(importlib.import_module(stage), f"train_{stage}")
    arguments = ["--smoke", "--minutes", "1", "--out", str(smoke_run), "--data", "there is no such folder"]
    monkeypatch.setattr(sys, "argv", [f"{stage}.py", *arguments])
    files = [path for path in smoke_run.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    run_stage(stage, train_stage, "")
    assert {path: path.stat().st_mtime_ns for path in files} == before
