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
from hierdiff_core.kandinsky.model_digest import model_digest
from hierdiff_core.kandinsky.model_folder import BUNDLED, DECODER_CLASS

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ["{tiger|lion|cat} face, {noto|flat} style"]
SETTINGS = ["--width", "64", "--height", "64", "--steps", "5", "--prior-steps", "3", "--saving", "0.4"]
DEEP = ["--order", "depth first", *SETTINGS]
# The command in parts of two branches, which stops for long at a call of MoVQ
STOPPING = """
import sys, time
import torch
torch.set_num_threads({threads})
import hierdiff_core.kandinsky.decoder as decoder
import hierdiff_core.kandinsky.decoding as decoding
from hierdiff_core.__main__ import main
decoder.LEAST_PART = 1
whole, calls = decoding.decode, []
def decode(*args):
    calls.append(1)
    if len(calls) == {stop}:
        print("stopped", flush=True)
        time.sleep(600)
    return whole(*args)
decoding.decode = decode
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
        kept["settings"] = {key: value for key, value in kept["settings"].items() if key != "out"}
        found["report.json"] = kept
    return found


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


@pytest.fixture
def stopped(tmp_path):
    """Runs the command in a process of its own until it has stopped at a call of MoVQ; returns it."""
    running = []

    def start(stop, *arguments):
        code = STOPPING.format(
            stop=stop,
            threads=torch.get_num_threads(),
            arguments=[*PROMPTS, *DEEP, "--out", str(tmp_path / "set"), *arguments],
        )
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


@pytest.fixture
def begun(tmp_path, monkeypatch, capsys):
    """The folder of a set that was interrupted when some of its pictures were there."""

    def begin(*arguments, stop=3):
        with monkeypatch.context() as patch:
            stop_decoding(patch, stop, KeyboardInterrupt)
            assert main([*PROMPTS, *DEEP, "--out", str(tmp_path / "set"), *arguments]) == 130
        assert 0 < len(pictures(tmp_path / "set")) < 6
        capsys.readouterr()
        return tmp_path / "set"

    return begin


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


def test_killed_run_goes_on_and_ends_as_if_nothing_had_happened(stopped, tmp_path, whole, monkeypatch):
    process = stopped(3)
    folder = tmp_path / "set"
    until(lambda: len(pictures(folder)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = pictures(folder)
    assert 2 <= len(before) < 6
    assert {name: data for name, data in whole.items() if name in before} == before
    times = {name: (folder / name).stat().st_mtime_ns for name in before}
    decoded, decode_latents = [], decoding.decode
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", lambda d, z, *a: decoded.append(len(z)) or decode_latents(d, z, *a))
        assert resume(folder) == 0
    assert sum(decoded) == 6 - len(before)
    assert files(folder) == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == times


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_ends_in_one_line_that_says_how_to_go_on(stopped, tmp_path, whole):
    process, folder = stopped(3), tmp_path / "set"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    count = len(pictures(folder))
    end = f"hierdiff: interrupted; {count} of 6 pictures are in {folder}; go on with: "
    last = said.splitlines()[-1]
    assert last.startswith(end)
    assert "Traceback" not in said
    words = last[len(end) :].split()
    assert words[-3:] == ["--resume", "--out", str(folder)]
    assert main(words[words.index("--resume") :]) == 0
    assert files(folder) == whole


def test_run_in_a_folder_that_another_is_drawing_into_is_refused(stopped, tmp_path, capsys):
    stopped(2)
    assert resume(tmp_path / "set") == 1
    assert "another run is drawing into" in capsys.readouterr().err


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
    folder = begun()
    path = sorted(folder.glob("0*.png"))[0]
    path.write_bytes(path.read_bytes()[:-500])
    assert "set" in mark_of(path)
    assert resume(folder) == 0
    assert files(folder) == whole


def test_picture_of_somebody_else_is_never_replaced(begun, capsys, monkeypatch):
    folder = begun()
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
    folder = begun()
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
    folder = begun()
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
    folder = begun()
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
