"""The command with workers, which are threads here: its set is that of one process, whatever fails."""

import json
import re

import pytest

import hierdiff_core.kandinsky.workers_run as workers_run
import hierdiff_core.sampling.ray_executor as ray_executor
import hierdiff_core.workers_command as workers_command
from hierdiff_core.__main__ import main
from hierdiff_core.files.set_folder import TRUNK, UNFINISHED
from hierdiff_core.sampling.executor import Threads

PROMPTS = ["{tiger|lion|cat|dog} face, {noto|flat} style", "cat face, flat style"]
SETTINGS = ["--width", "64", "--height", "64", "--steps", "5", "--prior-steps", "3", "--saving", "0.4"]


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(ray_executor, "RayExecutor", lambda *_: Threads(2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set that one process draws."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    assert main([*PROMPTS, *SETTINGS, "--out", str(folder)]) == 0
    return files(folder)


def files(folder):
    """Bytes of all files by name; of the report, what does not change from run to run."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    report = json.loads(found["report.json"])
    kept = {key: value for key, value in report.items() if not key.startswith(("seconds", "reused"))}
    kept["settings"] = {key: value for key, value in kept["settings"].items() if key not in ("out", "overwrite")}
    return {**found, "report.json": kept}


def rows_by_worker(said):
    """Rows of all workers, as the command says them."""
    line = next(line for line in said.splitlines() if "UNet rows by worker: " in line)
    return sum(int(rows) for rows in re.findall(r"(\d+)(?: \([^)]*\))?(?:, |$)", line))


def poisoned(prompt, task_of=workers_run.task_of):
    """Tasks of which those fail that finish a prompt."""

    def poison(piece, run):
        task = task_of(piece, run)
        if piece.stop is None and prompt in piece.part.prompts:
            task["embeddings"] = task["embeddings"][:, :, :-1]
        return task

    return poison


@pytest.mark.parametrize("how", [[], ["--collect"]], ids=["written", "sent"])
def test_the_set_is_that_of_one_process(tmp_path, whole, how, capsys):
    folder = tmp_path / "set"
    assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--workers", "2", *how]) == 0
    assert files(folder) == whole
    said = capsys.readouterr()
    assert "rows/s, 2 workers" in said.err
    assert rows_by_worker(said.err) == json.loads((folder / "report.json").read_text())["nfe"]
    assert "9 pictures in" in said.out


def test_a_prompt_that_fails_is_named_and_all_others_are_there(tmp_path, whole, monkeypatch, capsys):
    folder = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(workers_run, "task_of", poisoned(3))
        assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--workers", "auto"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'prompt 3 ("lion face, flat style") could not be drawn: RuntimeError: ' in said
    assert f"8 of 9 pictures are in {folder}; go on with: " in said
    assert said.endswith(f"--resume --out {folder} --workers auto")
    assert (folder / UNFINISHED).exists()
    assert sorted(path.name for path in folder.glob("0*.png")) == [f"000{i}.png" for i in range(9) if i != 3]
    assert main(["--resume", "--out", str(folder), "--workers", "2"]) == 0
    assert files(folder) == whole


def test_a_run_that_ended_before_its_report_draws_nothing_again(tmp_path, whole, monkeypatch):
    folder = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(workers_command, "for_figures", interrupted)
        assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--workers", "2"]) == 130
    monkeypatch.setattr(ray_executor, "RayExecutor", lambda *_: pytest.fail("workers were started"))
    assert main(["--resume", "--out", str(folder), "--workers", "2"]) == 0
    assert files(folder) == whole


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("resumed", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_workers_and_one_process_go_on_with_each_others_sets(tmp_path, whole, monkeypatch, resumed):
    folder = tmp_path / "set"
    begun = [] if resumed else ["--workers", "2"]
    with monkeypatch.context() as patch:
        if begun:
            patch.setattr(workers_run, "task_of", poisoned(3))
        else:
            patch.setattr("hierdiff_core.__main__.draw_figures", interrupted)
        assert main([*PROMPTS, *SETTINGS, "--out", str(folder), *begun]) in (1, 130)
    assert main(["--resume", "--out", str(folder), *resumed]) == 0
    assert files(folder) == whole


def test_damaged_latents_of_branches_cost_time_alone(tmp_path, whole, monkeypatch, capsys):
    folder = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(workers_run, "task_of", poisoned(3))
        assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--workers", "2"]) == 1
    kept = sorted((folder / TRUNK).glob("*.branches-*.safetensors"))
    assert kept
    for path, change in zip(
        kept, [lambda data: data[:50], lambda data: data[:-4] + b"\1\2\3\4"] * len(kept), strict=False
    ):
        path.write_bytes(change(path.read_bytes()))
    assert main(["--resume", "--out", str(folder), "--workers", "2"]) == 0
    assert "cannot be used" in capsys.readouterr().err
    assert files(folder) == whole


def test_workers_that_do_not_see_the_folder_say_so_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    class Apart(Threads):
        def begin(self, job):
            from hierdiff_core.kandinsky.workers_process import check_shared

            check_shared({**job.setup["pictures"], "folder": str(tmp_path / "elsewhere")})

    monkeypatch.setattr(ray_executor, "RayExecutor", lambda *_: Apart(2))
    folder = tmp_path / "set"
    assert main([*PROMPTS, *SETTINGS, "--out", str(folder), "--workers", "2"]) == 1
    assert "is not seen from here; add --collect" in capsys.readouterr().err
    assert not list(folder.glob("*.png"))
