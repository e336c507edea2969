"""`python -m hierdiff_core`: the pipeline without ComfyUI."""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import hierdiff_core.__main__ as command_line
import hierdiff_core.kandinsky.decoding as decoding
from hierdiff_core import Sensitivity, load_decoder, write_sensitivity
from hierdiff_core.__main__ import main
from hierdiff_core.files import whole_files
from hierdiff_core.files.set_folder import DrawnSet
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.kandinsky.schedulers import make_scheduler, noise_levels
from hierdiff_core.limits import LIMITS
from hierdiff_core.picture_files import writing

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
    said = capsys.readouterr().out
    assert re.search(r"^2 pictures in [\d.]+ s; full sampling", said)
    assert "6 UNet rows instead of 10, 40.0% saved" in said


def test_figure_that_fails_and_a_latent_that_overflowed_lose_no_report(tmp_path, monkeypatch, capsys, caplog):
    whole = command_line.load_decoder

    def overflowing(*arguments, **options):
        """The sixth and last row, which is the last step of the second branch, comes out as NaN."""
        decoder = whole(*arguments, **options)
        forward, calls = decoder.unet.forward, []

        def call(*inputs, **others):
            output = forward(*inputs, **others)
            calls.append(0)
            return (output[0] * (float("nan") if len(calls) == 6 else 1), *output[1:])

        decoder.unet.forward = call
        return decoder

    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(command_line, "load_decoder", overflowing)
    monkeypatch.setattr(command_line, "draw_tree", fail)
    out = tmp_path / "set"
    size = ["--width", "64", "--height", "64"]
    assert main(["a red apple", "a green apple", "--saving", "0.4", "--out", str(out), *QUICK, *size]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert len(report["images"]) == 2
    assert len(report["not_finite"]) == 1
    text = report["images"][report["not_finite"][0]]["prompt"]
    assert (
        f"1 of 2 latents hold NaN or infinity, and their pictures will be black: prompt {report['not_finite'][0]}"
        in (caplog.text)
    )
    assert text in caplog.text
    assert "tree.png is missing, since it failed (RuntimeError: no font)" in capsys.readouterr().err
    assert (out / "schedule.png").exists()
    assert not (out / "tree.png").exists()


def test_first_pictures_are_written_while_others_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("hierdiff_core.kandinsky.decoder.LEAST_PART", 1)  # parts of two branches
    there, decode_latents = [], decoding.decode

    def look(decoder, latents, *args):
        there.append(len(list(tmp_path.glob("deep/[0-9]*.png"))))
        return decode_latents(decoder, latents, *args)

    options = ["--saving", "0.4"]
    monkeypatch.setattr(decoding, "decode", look)
    monkeypatch.setattr("hierdiff_core.picture_files.ThreadPoolExecutor", AtOnce)
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


def test_steps_by_noise_level_and_guidance_after_splits(tmp_path, capsys):
    """The level of each of the decoder's own steps decides which are shared."""
    trunk = ["--shape", "trunk", "--root-share", "1"]
    report, pictures = draw(tmp_path / "trunk", *trunk, "--share-above", "0.6")
    scheduler = make_scheduler("DDPM", load_decoder().scheduler.config, 5)
    shared = int((noise_levels(scheduler) > 0.6).sum())
    assert 0 < shared < 4
    assert report["clusters_per_step"] == [1] * shared + [6] * (5 - shared)
    assert report["settings"]["share_above"] == 0.6
    raised, others = draw(tmp_path / "raised", *trunk, "--share-above", "0.6", "--boost", "2", "1", "0")
    assert others != pictures
    assert raised["nfe"] == report["nfe"]
    for wrong, said in (
        (["--boost", "2", "1.5", "0"], "--boost must have a whole number of steps; got 1.5"),
        (["--boost", "0", "1", "0"], "--boost: boost must be above 0"),
        (["--share-above", "2"], "--share-above must lie between 0 and 1; got 2.0"),
    ):
        assert main(["a red apple", "a green apple", "--out", str(tmp_path / "no"), *QUICK, *wrong]) == 1
        assert said in capsys.readouterr().err


def test_saving_beyond_reach_saves_what_can_be_saved_and_says_so(tmp_path, capsys):
    assert main(["a red apple", "a green apple", "--saving", "0.5", "--out", str(tmp_path), *QUICK]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["nfe"] == 6
    assert "2 prompts in 5 steps, 1 of them unshared, can save 40.0% at most" in capsys.readouterr().err


def test_default_saving_beyond_reach_is_no_news(tmp_path, capsys):
    assert main(["a red apple", "a green apple", "--out", str(tmp_path), *QUICK]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["nfe"], report["settings"]["saving"]) == (6, 0.5)
    assert "budget_given" not in report["settings"]
    assert "out of reach" not in capsys.readouterr().err


def test_prompts_come_from_a_file_with_alternatives(tmp_path):
    (tmp_path / "prompts.txt").write_text("# fruit\n{red|green} apple\n\npear\n", encoding="utf-8")
    arguments = ["--file", str(tmp_path / "prompts.txt"), "--tau", "0", "--out", str(tmp_path / "set"), "--steps", "2"]
    assert main([*arguments, "--prior-steps", "2"]) == 0
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert [image["prompt"] for image in report["images"]] == ["red apple", "green apple", "pear"]
    assert report["saved"] == 0


def prompts_of(*arguments):
    return command_line.read_prompts(command_line.parse_arguments(list(map(str, arguments))))


def test_arguments_are_never_comments_and_what_files_skip_is_told(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_bytes("\ufeffa __cat__\n# b\n// c\n".encode())
    prompts = prompts_of("#1 {fan|hat}", "", "// d\ne", "x \udce9", "--file", tmp_path / "prompts.txt")
    assert prompts == ("#1 fan", "#1 hat", "// d", "e", "x \ufffd", "a __cat__")
    assert capsys.readouterr().err.splitlines() == [
        "hierdiff: argument 3 has 2 lines: one prompt each",
        f"hierdiff: 2 comment lines skipped of {tmp_path / 'prompts.txt'}: 2, 3",
        "hierdiff: argument 2 is empty and was left out",
        "hierdiff: argument 4 has a broken character, replaced by \ufffd",
        f"hierdiff: prompt 5 ({tmp_path / 'prompts.txt'}, line 1) has __cat__: there is no wildcard file of this name; "
        "it is used as written",
        "hierdiff: prompt 2 has //: only whole lines can be comments; it is used as written",
    ]


def test_wildcards_are_read_from_folders(tmp_path, capsys):
    for name, text in {"a/x.txt": "red\nblue", "b/y.txt": "Jürg"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="cp1252")
    folders = ("--wildcards", tmp_path / "a", "--wildcards", tmp_path / "b")
    assert prompts_of("__x__ __y__", *folders) == ("red Jürg", "blue Jürg")
    assert "hierdiff: y.txt is not UTF-8 and was read as Windows-1252" in capsys.readouterr().err


def test_tables_may_be_added_to_arguments_and_count_for_the_limit(tmp_path, capsys):
    (tmp_path / "a.csv").write_text('id,prompt\n1,"a cat, red"\n2,a dog\n', encoding="utf-8")
    assert prompts_of("a {x}", "a dog", "--file", tmp_path / "a.csv") == ("a x", "a dog", "a cat, red", "a dog")
    said = capsys.readouterr().err
    assert "prompt 0 (argument 1, line 1) has {x}: a single alternative" in said
    assert "1 of 4 prompts is equal to an earlier one: 3 to 1" in said
    with pytest.raises(ValueError, match=r"a.csv, line 2: more than 10000 prompts in a set"):
        prompts_of("{a|b|c|d|e|f|g|h|i|j}" * 4, "--file", tmp_path / "a.csv")


def test_an_earlier_set_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "report.json").write_text("{}")
    assert main(["a red apple", "--out", str(tmp_path), *QUICK]) == 1
    assert "holds a set already" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there are no prompts"),
        (["b", "a {red apple"], "argument 2, line 1: '{' is not closed"),
        (["--file", "no/such/file.txt"], "no/such/file.txt"),
        (["a", "b", "--decoder", "no/such/folder"], "no/such/folder is not a model in diffusers format"),
        (["a", "b", "--width", "100"], "width must be a multiple of 64"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path / "set"), *QUICK]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1000000000"], "--steps must lie between 1 and 1000; got 1000000000"),
        (["--steps", "9" * 4000], "--steps must lie between 1 and 1000; got a number of 4000 digits"),
        (["--prior-steps", "0"], "--prior-steps must lie between 2 and 1000; got 0"),
        (["--private-steps", "-1"], "--private-steps must lie between 1 and 1000; got -1"),
        (["--seed", "-1"], "--seed must lie between 0 and 18446744073709551615; got -1"),
        (["--saving", "nan"], "--saving must lie between 0 and 1; got nan"),
        (["--tau", "-1"], "--tau must lie between 0 and 10000; got -1.0"),
        (["--root-share", "inf"], "--root-share must lie between 0 and 10000; got inf"),
        (["--guidance", "nan"], "--guidance must lie between 0 and 100; got nan"),
        (["--prior-guidance", "1e9"], "--prior-guidance must lie between 0 and 100"),
        (["--guidance-interval", "0.5", "nan"], "--guidance-interval must be two shares of the steps between 0 and 1"),
        (["--width", "1000000"], "--width must lie between 64 and 4096; got 1000000"),
        (["--height", "0"], "--height must lie between 64 and 4096; got 0"),
        (["--micro-batch", "-1"], "--micro-batch must lie between 0 and 4096; got -1"),
        (["--device", "toaster"], "--device must be cpu, cuda, cuda:1 or the like; got 'toaster'"),
        (["--device", "cuda:99"], "--device cuda:99: there are"),
        (["--decoder", "no/such/folder"], "no/such/folder is not a model in diffusers format"),
        (["--prior", "no/such/folder"], "no/such/folder is not a model in diffusers format"),
        (["--prior", str(BUNDLED / "decoder")], "decoder holds a KandinskyV22Pipeline"),
        (["--sensitivity", "no/such/file"], "file is not a sensitivity"),
    ],
)
def test_options_are_refused_before_models_are_loaded(tmp_path, capsys, models_forbidden, arguments, message):
    assert main(["a", "b", "--out", str(tmp_path / "set"), *QUICK, *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_every_number_has_limits():
    options = vars(command_line.parse_arguments(["a", "--tau", "1", "--guidance-interval", "0", "1"]))
    numbers = {name for name, value in options.items() if type(value) in (int, float)}
    assert numbers | {"saving", "root_share"} == LIMITS.keys()


# --- the folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_interrupted_set_says_what_is_finished_and_is_replaced_as_a_whole(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hierdiff_core.kandinsky.decoder.LEAST_PART", 1)  # parts of two branches
    decode_latents, calls = decoding.decode, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode_latents(*args)

    monkeypatch.setattr(decoding, "decode", interrupted)
    arguments = [*ANIMALS, "--out", str(tmp_path), "--saving", "0.4", "--order", "depth first"]
    assert main(arguments) == 130
    pictures = sorted(tmp_path.glob("0*.png"))
    assert 0 < len(pictures) < 6
    end = f"interrupted; {len(pictures)} of 6 pictures are in {tmp_path}; go on with: python -m hierdiff_core --resume "
    assert end + f"--out {tmp_path}" in capsys.readouterr().err.splitlines()[-1]
    noted = json.loads((tmp_path / "unfinished.json").read_text())["images"]
    assert [image["file"] for image in noted] == [f"000{i}.png" for i in range(6)]
    assert noted[1]["prompt"] == "tiger face, flat style"
    before = {path: path.read_bytes() for path in pictures}

    assert main(arguments) == 1
    assert "holds a set already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in pictures} == before

    (tmp_path / "mine.png").write_bytes(b"1")
    assert main(["a pear", "a plum", "--out", str(tmp_path), "--overwrite", *QUICK]) == 0
    figures = ["contact_sheet.png", "dendrogram.png", "mine.png", "report.json", "schedule.png", "tree.png"]
    assert names(tmp_path) == ["0000.png", "0001.png", *figures]


def test_full_disk_is_one_line_with_the_file_and_the_count(tmp_path, capsys, monkeypatch):
    resource = pytest.importorskip("resource")  # POSIX
    monkeypatch.setattr(whole_files, "TRIAL_BYTES", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # a picture has more bytes
    try:
        assert main([*ANIMALS, "--out", str(tmp_path)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"File too large \({tmp_path}/000\d\.png\): 0 of 6 images were written to {tmp_path}", error)
    assert names(tmp_path) == []


@pytest.mark.parametrize("report", ["{}", "[]", "", '{"images": [{"file": "../mine.png"}, {"file": "mine.png"}, 3]}'])
def test_no_file_is_removed_because_a_report_says_so(tmp_path, report):
    """A report that names no picture is somebody else's, and stays as well."""
    (tmp_path / "mine.png").write_bytes(b"1")
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("mine.png", "0007.png", "00080.txt"):
        (folder / name).write_bytes(b"1")
    (folder / "report.json").write_text(report)
    with DrawnSet(folder, ["a", "b"], overwrite=True) as drawn:
        assert "report.json" in names(folder)  # the old set is there until the new one has a picture
        drawn.add(1, b"2")
    assert drawn.strays() == ["0007.png"]
    theirs = [] if "images" in report else ["report.json"]
    assert names(folder) == ["0001.png", "0007.png", "00080.txt", "mine.png", *theirs, "unfinished.json"]
    assert (tmp_path / "mine.png").exists()


@pytest.mark.parametrize("name", ["0001.png", "tree.png", "report.json", "unfinished.json"])
def test_file_of_somebody_else_is_not_replaced(tmp_path, capsys, models_forbidden, name):
    (tmp_path / name).write_bytes(b"1")
    assert main(["a", "b", "--out", str(tmp_path), "--overwrite", *QUICK]) == 1
    assert f"{tmp_path} has {name}, which this command has not written" in capsys.readouterr().err
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"1"


@pytest.mark.parametrize("name", ["0000.png", "0123.png", "tree.png", "report.json", "unfinished.json"])
def test_folder_with_anything_of_a_set_is_refused(tmp_path, capsys, models_forbidden, name):
    (tmp_path / name).write_bytes(b"1")
    assert main(["a", "b", "--out", str(tmp_path), *QUICK]) == 1
    assert f"holds a set already ({name})" in capsys.readouterr().err
    assert names(tmp_path) == [name]


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    DrawnSet(tmp_path, ["a"], overwrite=False)
    with pytest.raises(OSError, match=r"File exists \(.*unfinished\.json\): 0 of 2 images were written"):
        DrawnSet(tmp_path, ["a", "b"], overwrite=False)


def test_smaller_set_in_the_place_of_a_larger_one_leaves_no_strays(tmp_path):
    for count in (5, 2):
        with DrawnSet(tmp_path, ["a"] * count, overwrite=True) as drawn:
            for i in range(count):
                drawn.add(i, b"%d" % count)
            drawn.add_file("tree.png", b"1")
            drawn.finish({"images": [{"file": f"{i:04d}.png", "prompt": "a"} for i in range(count)]})
    assert names(tmp_path) == ["0000.png", "0001.png", "report.json", "tree.png"]
    assert (tmp_path / "0001.png").read_bytes() == b"2"
    assert drawn.strays() == []


def test_failed_run_that_may_overwrite_leaves_the_old_set(tmp_path):
    (tmp_path / "0000.png").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt, match="no picture was finished"), DrawnSet(tmp_path, ["a"], overwrite=True):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["0000.png"]


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
        (["--shape", "calibrated", "--sensitivity", "{folder}/none.json"], "none.json is not a sensitivity"),
        (["--sensitivity", "{decoder}/model_index.json"], "model_index.json is not a sensitivity"),
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
    assert "hierdiff: --prior-steps must lie between 2 and 1000; got 1" in capsys.readouterr().err


def test_ctrl_c_waits_for_the_writers_that_are_at_work_and_for_no_others(monkeypatch):
    done, shutdown, calls = [], ThreadPoolExecutor.shutdown, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 1:  # all is drawn, and the last pictures are being written
            raise KeyboardInterrupt
        shutdown(self, *args, **kwargs)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", interrupted)

    def write():
        time.sleep(0.05)
        done.append(1)

    def draw():
        with writing() as writers:
            for _ in range(200):
                writers.submit(write)

    with pytest.raises(KeyboardInterrupt):
        draw()
    count = len(done)
    time.sleep(0.3)
    assert len(done) == count < 200
