"""`--resume`: what was finished is not drawn again, and the rest is what it would have been; killed processes too."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import hierdiff_core.__main__ as command_line
import hierdiff_core.kandinsky.decoding as decoding
from hierdiff_core.__main__ import main
from hierdiff_core.files import whole_files
from hierdiff_core.files.folder_lock import held
from hierdiff_core.files.picture_marks import as_png, mark_of
from hierdiff_core.files.set_folder import TRUNK
from hierdiff_core.kandinsky.decoder_step import DecoderStep
from hierdiff_core.kandinsky.model_digest import model_digest
from hierdiff_core.kandinsky.model_folder import BUNDLED, DECODER_CLASS
from hierdiff_core.picture_files import PictureFiles

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ["{tiger|lion|cat} face, {noto|flat} style"]
SETTINGS = ["--width", "64", "--height", "64", "--steps", "5", "--prior-steps", "3", "--saving", "0.4"]
DEEP = ["--order", "depth first", *SETTINGS]
# The command in parts of two branches, which stops for long at a call of MoVQ or of the UNet
STOPPING = """
import signal, sys, time
import torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
torch.set_num_threads({threads})
import hierdiff_core.kandinsky.decoder as decoder
import hierdiff_core.kandinsky.decoder_step as decoder_step
import hierdiff_core.kandinsky.decoding as decoding
from hierdiff_core.__main__ import main
decoder.LEAST_PART = 1
calls = []
def stopping(whole):
    def call(*args):
        calls.append(1)
        if len(calls) == {stop}:
            print("stopped", flush=True)
            time.sleep(600)
        return whole(*args)
    return call
if {of_unet}:
    decoder_step.DecoderStep.predict = stopping(decoder_step.DecoderStep.predict)
else:
    decoding.decode = stopping(decoding.decode)
sys.exit(main({arguments!r}))
"""


@pytest.fixture(autouse=True)
def parts_of_two_branches(monkeypatch):
    monkeypatch.setattr("hierdiff_core.kandinsky.decoder.LEAST_PART", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hierdiff_core.kandinsky.decoder.LEAST_PART", 1)
        assert main([*PROMPTS, *DEEP, "--out", str(folder)]) == 0
    return files(folder)


def files(folder):
    """Bytes of all files by name; of the report, what does not change from run to run."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    if "report.json" in found:
        report = json.loads(found["report.json"])
        kept = {key: value for key, value in report.items() if not key.startswith(("seconds", "reused"))}
        kept["settings"] = {key: value for key, value in kept["settings"].items() if key not in ("out", "overwrite")}
        found["report.json"] = kept
    return found


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


@pytest.fixture
def stopped(tmp_path):
    """Runs the command in a process of its own until it has stopped at a call of MoVQ; returns it."""
    running = []

    def start(stop, *arguments, of_unet=False):
        given = list(arguments) or [*PROMPTS, *DEEP, "--out", str(tmp_path / "set")]
        threads = torch.get_num_threads()
        code = STOPPING.format(stop=stop, threads=threads, of_unet=of_unet, arguments=given)
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout.readline() == "stopped\n", process.stderr.read()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A set that was interrupted when some of its pictures were there."""
    folder = tmp_path_factory.mktemp("interrupted") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hierdiff_core.kandinsky.decoder.LEAST_PART", 1)
        stop_decoding(patch, 3, KeyboardInterrupt)
        assert main([*PROMPTS, *DEEP, "--out", str(folder)]) == 130
    assert 0 < len(pictures(folder)) < 6
    return folder


@pytest.fixture
def begun(interrupted, tmp_path):
    """A copy of it."""
    return shutil.copytree(interrupted, tmp_path / "set")


def stop_decoding(monkeypatch, stop, error):
    decode_latents, calls = decoding.decode, []

    def decode(*args):
        calls.append(args)
        if len(calls) == stop:
            raise error
        return decode_latents(*args)

    monkeypatch.setattr(decoding, "decode", decode)


def resume(folder, *arguments):
    return main(["--resume", "--out", str(folder), *map(str, arguments)])


def test_interrupted_then_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    stopped, tmp_path, whole, monkeypatch, capsys
):
    folder = tmp_path / "set"
    go_on = end_by_ctrl_c(stopped(6, of_unet=True), folder)
    process = stopped(2, *go_on)
    assert resume(folder) == 1
    assert f"another run is drawing into {folder} now" in capsys.readouterr().err
    until(lambda: pictures(folder))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = pictures(folder)
    assert 0 < len(before) < 6
    assert {name: data for name, data in whole.items() if name in before} == before
    times = {name: (folder / name).stat().st_mtime_ns for name in before}
    decoded = []
    monkeypatch.setattr(PictureFiles, "add", counted(PictureFiles.add, decoded))
    assert resume(folder) == 0
    assert sum(decoded) == 6 - len(before)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == times
    reused = json.loads((folder / "report.json").read_text())["reused"]
    assert 0 < reused < 18
    assert f"reused {reused} of 18 UNet rows" in capsys.readouterr().out
    assert files(folder) == whole


def end_by_ctrl_c(process, folder):
    """End a run that has no picture yet by Ctrl-C; the arguments that its last line gives."""
    until(lambda: list(folder.glob(f"{TRUNK}/rows/*.safetensors")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    end = f"hierdiff: interrupted; {len(pictures(folder))} of 6 pictures are in {folder}; go on with: "
    last = said.splitlines()[-1]
    assert last.startswith(end)
    assert "Traceback" not in said
    words = last[len(end) :].split()
    assert words[-3:] == ["--resume", "--out", str(folder)]
    return words[words.index("--resume") :]


def counted(add, counts):
    def call(self, prompts, pixels):
        counts.append(len(prompts))
        add(self, prompts, pixels)

    return call


def test_what_was_evaluated_costs_nothing_twice_and_damaged_files_cost_time_alone(begun, tmp_path, whole, capsys):
    damaged = shutil.copytree(begun, tmp_path / "damaged")
    evaluated, monkeypatch = [], pytest.MonkeyPatch()
    predict = DecoderStep.predict
    monkeypatch.setattr(DecoderStep, "predict", lambda *args: evaluated.append(1) or predict(*args))
    with monkeypatch.context():
        monkeypatch.setattr(command_line, "load_prior", lambda *args, **kwargs: pytest.fail("embedded again"))
        assert resume(begun) == 0
        reused = json.loads((begun / "report.json").read_text())["reused"]
        assert reused >= 10
        assert len(evaluated) == 18 - reused
    monkeypatch.undo()
    assert files(begun) == whole
    stored = sorted(damaged.glob(f"{TRUNK}/**/*.safetensors"))
    assert len(stored) >= 2
    for path in stored:  # which rows lie where depends on when the run was interrupted: damage all numbers
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        path.write_bytes(data[:header] + bytes(len(data) - header))
    (damaged / TRUNK / "rows" / "mine.txt").write_text("mine")
    capsys.readouterr()
    assert resume(damaged) == 0
    said = capsys.readouterr().err
    assert "embeddings.safetensors cannot be used (its numbers are not those that were written)" in said
    assert "trunk.safetensors in the folder rows cannot be used" in said
    assert files(damaged) == {**whole, f"{TRUNK}/rows/mine.txt": b"mine"}


def test_full_disk_gives_up_what_was_evaluated_before_it_refuses_a_picture(tmp_path, monkeypatch, whole):
    written, folder, full = whole_files.written_aside, tmp_path / "set", []

    def no_room(path, data):
        if Path(path).name == "0003.png" and list(folder.glob(f"{TRUNK}/rows/*.safetensors")):
            full.append(path)
            raise OSError(28, "No space left on device", str(path))
        return written(path, data)

    monkeypatch.setattr("hierdiff_core.files.image_set.written_aside", no_room)
    monkeypatch.setattr("hierdiff_core.sampling.trunk_files.SECONDS", 0.01)
    decode_latents = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *args: time.sleep(0.2) or decode_latents(*args))
    assert main([*PROMPTS, *DEEP, "--out", str(folder)]) == 0
    assert full
    assert files(folder) == whole


def test_disk_that_takes_no_rows_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys, whole):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("hierdiff_core.sampling.trunk_files.write_new", full)
    monkeypatch.setattr("hierdiff_core.set_trunk.replace", full)
    assert main([*PROMPTS, *DEEP, "--out", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().err
    assert "the embeddings are not kept (No space left on device); the run goes on" in said
    assert "nothing more of this run is kept in the folder rows (No space left on device); the run goes on" in said
    assert files(tmp_path / "set") == whole


def test_kept_set_draws_again_without_evaluating_anything(tmp_path, monkeypatch, whole):
    folder = tmp_path / "set"
    assert main([*PROMPTS, *DEEP, "--out", str(folder), "--keep"]) == 0
    kept = {name for name in files(folder) if name.startswith(TRUNK)}
    assert len(kept) >= 2
    (folder / "report.json").unlink()
    monkeypatch.setattr(DecoderStep, "predict", lambda *args: pytest.fail("evaluated again"))
    assert main([*PROMPTS, *DEEP, "--out", str(folder), "--overwrite"]) == 0
    assert files(folder) == whole
    assert main([*PROMPTS, *DEEP, "--out", str(tmp_path / "none"), "--trunk-gb", "-1"]) == 1


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_lock_of_a_run_that_is_gone_is_nobodys(tmp_path):
    (tmp_path / ".hierdiff-lock").write_bytes(b"")
    with held(tmp_path), pytest.raises(ValueError, match="another run"), held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_what_was_finished_and_says_how_to_go_on(tmp_path, capsys, monkeypatch, whole):
    written, room = whole_files.written_aside, []

    def full(path, data):
        if Path(path).name.startswith("0"):
            room.append(path)
        if len(room) > 2:
            raise OSError(28, "No space left on device", str(path))
        return written(path, data)

    folder = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr("hierdiff_core.files.image_set.written_aside", full)
        assert main([*PROMPTS, *DEEP, "--out", str(folder)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in said
    assert (
        f"2 of 6 images were written to {folder}; go on with: python -m hierdiff_core --resume --out {folder}" in said
    )
    assert len(pictures(folder)) == 2
    assert resume(folder) == 0
    assert files(folder) == whole


def test_damaged_picture_is_drawn_again(begun, whole):
    folder = begun
    path = sorted(folder.glob("0*.png"))[0]
    path.write_bytes(path.read_bytes()[:-500])
    assert "set" in mark_of(path)
    assert resume(folder) == 0
    assert files(folder) == whole


def test_picture_of_somebody_else_is_never_replaced(begun, capsys, monkeypatch):
    folder = begun
    place = next(folder / f"{i:04d}.png" for i in range(6) if not (folder / f"{i:04d}.png").exists())
    forbid_models(monkeypatch)
    for data in (b"mine", as_png(Image.new("RGB", (64, 64))), as_png(Image.new("RGB", (64, 64)), {"set": "1"})):
        place.write_bytes(data)
        assert resume(folder) == 1
        assert f"{place.name} in {folder} is not of this set" in capsys.readouterr().err
        assert place.read_bytes() == data


def forbid_models(monkeypatch):
    for name in ("load_prior", "load_decoder"):
        monkeypatch.setattr(command_line, name, lambda *args, **kwargs: pytest.fail("a model was loaded"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "6"], "--steps was 5 and is 6"),
        (["--seed", "1"], "--seed was 0 and is 1"),
        (["--tau", "0.5"], "--tau was not given and is 0.5"),
        (["--scheduler", "DDIM"], "--scheduler was DDPM and is DDIM"),
        (["--decoder", "{other}"], "--decoder holds another model"),
        (["a cat", "a dog"], "there were 6 prompts and are 2"),
        (["{tiger|lion|cow} face, {noto|flat} style"], "prompt 4 was"),
    ],
)
def test_another_set_is_refused_by_what_is_another(begun, tmp_path, capsys, monkeypatch, arguments, said):
    folder = begun
    before = files(folder)
    if "{other}" in arguments:
        other = shutil.copytree(BUNDLED / "decoder", tmp_path / "other")
        change_a_weight(other / "unet" / "diffusion_pytorch_model.safetensors")
        arguments = ["--decoder", str(other)]
    forbid_models(monkeypatch)
    assert resume(folder, *arguments) == 1
    error = capsys.readouterr().err
    assert f"--resume: {folder} holds another set: " in error
    assert said in error
    assert files(folder) == before


def change_a_weight(path):
    data = bytearray(path.read_bytes())
    data[100_000:] = bytes(byte ^ 1 for byte in data[100_000:])
    path.write_bytes(data)


def test_model_is_known_by_its_files_and_not_by_its_place(tmp_path):
    copy = shutil.copytree(BUNDLED / "decoder", tmp_path / "copy")
    assert model_digest(copy, DECODER_CLASS) == model_digest(BUNDLED / "decoder", DECODER_CLASS)
    change_a_weight(copy / "movq" / "diffusion_pytorch_model.safetensors")
    assert model_digest(copy, DECODER_CLASS) != model_digest(BUNDLED / "decoder", DECODER_CLASS)


def test_what_changes_no_picture_may_be_another(begun, whole):
    folder = begun
    note = json.loads((folder / "unfinished.json").read_text())
    assert resume(folder, *PROMPTS, *SETTINGS, "--order", "breadth first") == 0
    assert pictures(folder) == {name: data for name, data in whole.items() if name.startswith("0")}
    assert json.loads((folder / "report.json").read_text())["set"] == note["set"]


def test_resume_of_what_is_finished_or_not_begun(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "set"
    assert resume(folder) == 1
    assert f"--resume: there is no set in {folder}; give prompts to begin one" in capsys.readouterr().err
    assert resume(folder, *PROMPTS, *DEEP) == 0
    before = files(folder)
    forbid_models(monkeypatch)
    assert resume(folder) == 0
    assert f"the set in {folder} is finished: 6 pictures" in capsys.readouterr().err
    assert resume(folder, "--seed", 2) == 1
    assert "--seed was 0 and is 2" in capsys.readouterr().err
    assert files(folder) == before
    (folder / "report.json").unlink()
    assert main([*PROMPTS, *DEEP, "--out", str(folder)]) == 1
    assert "holds a set already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda note: note.update(format="hierdiff-set-0"), "is of an earlier version, or not of this command"),
        (lambda note: note["settings"].update(steps="5"), "steps cannot be '5'"),
        (lambda note: note["settings"].update(scheduler="Best"), "scheduler cannot be 'Best'"),
        (lambda note: note["settings"].update(guidance_interval=[0]), "guidance_interval cannot be '[0]'"),
        (lambda note: note.update(settings=3), "settings must be an object"),
        (lambda note: note["settings"].update(steps=10**9), "--steps must lie between 1 and 1000"),
        (lambda note: note["images"][0].pop("prompt"), "images must list a prompt each"),
        (lambda note: note["images"][0].update(seed="x"), "seeds must be whole numbers"),
        (lambda note: note.update(set="1"), "its note was changed"),
    ],
)
def test_note_that_was_changed_is_refused(begun, capsys, monkeypatch, change, said):
    folder = begun
    note = json.loads((folder / "unfinished.json").read_text())
    change(note)
    (folder / "unfinished.json").write_text(json.dumps(note))
    forbid_models(monkeypatch)
    assert resume(folder) == 1
    assert said in capsys.readouterr().err


def test_overwrite_leaves_nothing_of_the_old_set(tmp_path, capsys):
    folder = tmp_path / "set"
    assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--keep"]) == 0
    assert len(pictures(folder)) == 6
    (folder / "report.json").unlink()  # the pictures say themselves what they are
    (folder / "0007.png").write_bytes(b"mine")
    assert main(["a pear", "a plum", *SETTINGS, "--out", str(folder), "--overwrite"]) == 0
    figures = ["contact_sheet.png", "dendrogram.png"]
    assert sorted(files(folder)) == [
        "0000.png",
        "0001.png",
        "0007.png",
        *figures,
        *sorted(["report.json", "schedule.png", "tree.png"]),
    ]
    assert (folder / "0007.png").read_bytes() == b"mine"
    assert "keeps pictures that this command has not drawn: 0007.png" in capsys.readouterr().err
    assert not (folder / TRUNK).exists()


# --- growing


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A set with what was evaluated of it."""
    folder = tmp_path_factory.mktemp("kept") / "set"
    assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--keep"]) == 0
    return folder


def test_one_other_prompt_costs_one_branch_and_the_others_stay(kept, tmp_path, capsys, monkeypatch):
    before, embedded = files(kept), []
    embed = command_line.embed_prompts
    monkeypatch.setattr(command_line, "embed_prompts", lambda p, t, **more: embedded.extend(t) or embed(p, t, **more))
    texts = [image["prompt"] for image in before["report.json"]["images"]]
    texts[2] = "owl, noto style"
    folder = tmp_path / "grown"
    assert main([*texts, "red apple, flat style", "--grow", str(kept), "--out", str(folder), "--keep"]) == 0
    assert embedded == ["owl, noto style", "red apple, flat style"]
    report = json.loads((folder / "report.json").read_text())
    assert report["nfe"] - report["reused"] <= 10
    assert [image["prompt"] for image in report["images"]] == [*texts, "red apple, flat style"]
    pixels = {name: Image.open(folder / name).tobytes() for name in pictures(folder)}
    assert len(pixels) == 7
    same = [name for name in pictures(kept) if Image.open(kept / name).tobytes() == pixels[name]]
    assert sorted(same) == ["0000.png", "0001.png", "0003.png", "0004.png", "0005.png"]
    assert files(kept) == before
    # back again, on the grown tree: nothing is evaluated
    monkeypatch.setattr(DecoderStep, "predict", lambda *args: pytest.fail("evaluated again"))
    again = tmp_path / "again"
    assert main([*PROMPTS, "--grow", str(folder), "--out", str(again)]) == 0
    for name in pictures(again):
        assert Image.open(again / name).tobytes() == Image.open(kept / name).tobytes()
    assert not (again / TRUNK).exists()


def test_interrupted_growth_goes_on_without_the_set_that_it_grows_from(kept, tmp_path, monkeypatch):
    texts = [image["prompt"] for image in files(kept)["report.json"]["images"]] + ["owl, noto style"]
    whole, old, folder = tmp_path / "whole", shutil.copytree(kept, tmp_path / "old"), tmp_path / "set"
    deep = ["--order", "depth first"]
    assert main([*texts, *deep, "--grow", str(old), "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_decoding(patch, 2, KeyboardInterrupt)
        assert main([*texts, *deep, "--grow", str(old), "--out", str(folder)]) == 130
    shutil.rmtree(old)
    assert resume(folder) == 0
    assert files(folder) == files(whole)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "6"], "was drawn in another way: --steps was 5 and is 6"),
        (["--trunk-gb", "0"], "--grow needs room for what was evaluated"),
        (["--grow", "{none}"], "--grow: there is no set in"),
        (["--grow", "{plain}"], "--grow: nothing is kept in"),
    ],
)
def test_what_cannot_grow_is_refused(kept, tmp_path, capsys, monkeypatch, arguments, said):
    plain = shutil.copytree(kept, tmp_path / "plain")
    shutil.rmtree(plain / TRUNK)
    forbid_models(monkeypatch)
    given = [argument.format(none=tmp_path / "none", plain=plain) for argument in arguments]
    assert main(["a cat", "--grow", str(kept), "--out", str(tmp_path / "set"), *given]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
