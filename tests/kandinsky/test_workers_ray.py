"""Workers of a real Ray cluster: processes that are killed, stopped and short of memory, and nodes that are lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import ray
import torch

import hierdiff_core.kandinsky.workers_run as workers_run
import hierdiff_core.sampling.ray_executor as ray_executor
import hierdiff_core.workers_command as workers_command
from hierdiff_core import (
    Budget,
    Observer,
    Profile,
    PromptEmbeddings,
    PromptTree,
    decode,
    load_decoder,
    plan_for,
    sample,
)
from hierdiff_core.__main__ import main
from hierdiff_core.files.picture_marks import mark_of
from hierdiff_core.files.set_folder import TRUNK, UNFINISHED
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.kandinsky.workers import sample_on
from hierdiff_core.kandinsky.workers_early import EarlyWorkers
from hierdiff_core.previews import to_pictures
from hierdiff_core.sampling.executor import Workers
from hierdiff_core.sampling.ray_cluster import SETTINGS, environment, loopback, open_ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
PROMPTS = ["{tiger|lion|cat|dog} face, {noto|flat|3d} style"]
SETTINGS_OF_SET = ["--width", "64", "--height", "64", "--steps", "5", "--prior-steps", "3", "--saving", "0.4"]
SMALL = {"width": 64, "height": 64, "seed": 3}
# The command, whose driver stops for long when the first prompts are finished
STOPPING = """
import sys, time
import torch
torch.set_num_threads({threads})
import hierdiff_core.workers_command as command
from hierdiff_core.__main__ import main
def stop(*_):
    print("stopped", flush=True)
    time.sleep(600)
command.KeptBranches.keep = stop
sys.exit(main({arguments!r}))
"""
# Ray as it is started for one machine, in the background, and where it listens
STARTED_HERE = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.kandinsky.workers_early import EarlyWorkers
from hierdiff_core.sampling.executor import Workers
from hierdiff_core.sampling.ray_cluster import open_ports
with EarlyWorkers(Workers(1), BUNDLED / "decoder", "cpu") as early:
    early.start()
    (slot,) = early.ready().slots
    import ray
    assert ray.get(slot.actor.__ray_call__.remote(lambda worker: 1)) == 1
    print(open_ports(), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two workers and this process have two cores, and threads that wait for each other wait long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of two cores each, on 127.0.0.1."""
    from ray.cluster_utils import Cluster

    with environment(SETTINGS), loopback(True):
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        found.second = found.add_node(num_cpus=2)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def executor(cluster):
    with EarlyWorkers(Workers(2, cluster.address), BUNDLED / "decoder", "cpu") as early:
        early.start()
        yield early.ready()


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


@pytest.fixture(scope="module")
def embeddings(decoder):
    noise, width = torch.Generator().manual_seed(0), decoder.unet.config.encoder_hid_dim
    rows = torch.randn(6, width, generator=noise).repeat_interleave(3, 0)
    rows = rows + 0.3 * torch.randn(len(rows), width, generator=noise)
    return PromptEmbeddings(rows, torch.zeros_like(rows), [f"prompt {i}" for i in range(len(rows))])


@pytest.fixture(scope="module")
def plan(embeddings):
    tree = PromptTree.of(embeddings.positive, "chord", embeddings.prompts)
    return plan_for(tree, Budget("saving", 0.4, clamp=True), Profile(8))


@pytest.fixture(scope="module")
def expected(decoder, embeddings, plan):
    return sample(decoder, embeddings, plan, **SMALL)


class Meddling(Observer):
    """Does something once, when some rows of a step are heard of; counts rows and prompts."""

    def __init__(self, step=3, meddle=lambda: None):
        self.step, self.meddle, self.rows, self.finished = step, meddle, [], []

    def on_rows(self, k, clusters, x0):
        self.rows += [(k, cluster) for cluster in clusters.tolist()]
        if k == self.step and self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle()

    def on_finished(self, prompts, latents):
        self.finished += prompts.tolist()


def busy(executor):
    """Workers that have a task, as processes."""
    return [psutil.Process(slot.pid) for slot in executor.slots if slot.task is not None]


def drawn(executor, decoder, embeddings, plan, observer=None, **options):
    """Latents; each row and prompt was heard of once, whatever happened."""
    observer = observer or Meddling()
    latents = sample_on(executor, decoder, embeddings, plan, **SMALL, observer=observer, **options)
    assert sorted(observer.finished) == list(range(plan.num_prompts))
    assert sorted(observer.rows) == [(k, c) for k, step in enumerate(plan.steps) for c in range(step.num_clusters)]
    return latents


def loaded(worker):
    """Its process, and the decoder that it has when all is done that waits."""
    import os
    import queue
    import sys

    done = queue.SimpleQueue()
    worker.waiting.put(lambda: done.put(None))
    done.get()
    return os.getpid(), [id(one) for one in sys.modules["hierdiff_core.kandinsky.workers_process"]._loaded.values()]


def test_workers_that_were_started_early_have_loaded_what_they_draw_with(executor, decoder, embeddings, plan, expected):
    before = [ray.get(slot.actor.__ray_call__.remote(loaded)) for slot in executor.slots]
    assert [len(decoders) for _, decoders in before] == [1, 1]
    assert not any(slot.ready for slot in executor.slots)
    assert torch.equal(drawn(executor, decoder, embeddings, plan), expected)
    assert [ray.get(slot.actor.__ray_call__.remote(loaded)) for slot in executor.slots] == before
    assert [slot.pid for slot in executor.slots] == [pid for pid, _ in before]


def test_two_workers_draw_and_decode_what_one_device_does(executor, decoder, embeddings, plan, expected):
    pictures = {}
    latents = drawn(
        *(executor, decoder, embeddings, plan),
        on_pictures=lambda prompts, images: pictures.update(zip(prompts.tolist(), images, strict=True)),
    )
    assert torch.equal(latents, expected)
    own = to_pictures(decode(decoder, expected))
    theirs = to_pictures(torch.stack([pictures[i] for i in range(len(own))]))
    assert all(one.tobytes() == other.tobytes() for one, other in zip(own, theirs, strict=True))
    assert open_ports() == []


def test_a_worker_that_is_killed_costs_its_task_and_is_replaced(executor, decoder, embeddings, plan, expected):
    killed = []

    def kill():
        killed.append(busy(executor)[0])
        killed[0].kill()

    assert torch.equal(drawn(executor, decoder, embeddings, plan, Meddling(3, kill)), expected)
    assert not killed[0].is_running()


@pytest.mark.parametrize("wakes", [True, False], ids=["slow", "hangs"])
def test_a_worker_that_stands_still(executor, decoder, embeddings, plan, expected, wakes):
    """One is stopped until the other has done all that it can do without it; then it goes on, or counts as dead."""
    stopped = []

    class Watching(Meddling):
        def before_call(self):
            others = [slot for slot in executor.slots if slot not in stopped]
            if stopped and stopped[0].pid == pids[0] and all(slot.task is None for slot in others):
                if wakes:
                    psutil.Process(pids[0]).resume()
                else:
                    stopped[0].heard = -1e9

    def stop():
        stopped.append(next(slot for slot in executor.slots if slot.task is not None))
        pids.append(stopped[0].pid)
        psutil.Process(pids[0]).suspend()

    pids = []
    try:
        assert torch.equal(drawn(executor, decoder, embeddings, plan, Watching(3, stop)), expected)
        assert wakes or stopped[0].pid != pids[0] or not stopped[0].ready
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pids[0]).resume()


def test_a_poisoned_part_is_named_and_the_rest_is_drawn(
    executor, decoder, embeddings, plan, expected, monkeypatch, caplog
):
    task_of = workers_run.task_of

    def poisoned(piece, run):
        task = task_of(piece, run)
        if piece.stop is None and 7 in piece.part.prompts:
            task["embeddings"] = task["embeddings"][:, :, :-1]
        return task

    monkeypatch.setattr(workers_run, "task_of", poisoned)
    monkeypatch.setattr(ray_executor, "REST", 0.01)
    monkeypatch.setattr(ray_executor, "MOST_FAILURES", 100)  # a new process would not do better
    latents = sample_on(executor, decoder, embeddings, plan, **SMALL)
    others = [i for i in range(plan.num_prompts) if i != 7]
    assert torch.equal(latents[others], expected[others])
    assert torch.isnan(latents[7]).all()
    assert 'prompt 7 ("prompt 7") could not be drawn: RuntimeError' in caplog.text


def test_other_weights_and_folders_that_are_not_there_are_refused(executor, decoder, embeddings, plan, tmp_path):
    with pytest.raises(ValueError, match=r"a worker on .* cannot begin: .*it has no readable model_index.json"):
        sample_on(executor, decoder, embeddings, plan, **SMALL, folder=tmp_path)
    other = load_decoder()
    with torch.no_grad():
        next(other.unet.parameters()).add_(1)
    with pytest.raises(ValueError, match="holds another decoder here than on the machine that draws"):
        sample_on(executor, other, embeddings, plan, **SMALL)


# --- the command


def files(folder):
    """Bytes of all files by name; of the report, what does not change from run to run."""
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}
    report = json.loads(found["report.json"])
    for name in ("seconds", "seconds_sampling", "seconds_full_sampling", "reused"):
        del report[name]
    del report["settings"]["out"]
    return {**found, "report.json": report}


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set that this process draws by itself."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    assert main([*PROMPTS, *SETTINGS_OF_SET, "--out", str(folder)]) == 0
    return files(folder)


def test_interrupted_then_killed_then_gone_on_with(executor, cluster, tmp_path, whole, monkeypatch, capsys):
    """A driver that is killed leaves what its workers had finished; the end is the set that one process draws."""
    folder, address = tmp_path / "set", cluster.address

    def interrupt(self):
        keep(self)
        raise KeyboardInterrupt

    keep = workers_command.KeptBranches.keep
    monkeypatch.setattr(ray_executor, "RayExecutor", lambda *_: contextlib.nullcontext(executor))  # as it started them
    with monkeypatch.context() as patch:
        patch.setattr(workers_command.KeptBranches, "keep", interrupt)
        arguments = [*PROMPTS, *SETTINGS_OF_SET, "--out", str(folder), "--workers", "2", "--ray", address]
        assert main(arguments) == 130
    first = pictures(folder)
    assert 0 < len(first) < 12
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"pictures are in {folder}; go on with: " in said
    assert said.endswith(f"--resume --out {folder} --workers 2 --ray {address}")
    code = STOPPING.format(threads=torch.get_num_threads(), arguments=said.split("hierdiff_core ")[-1].split())
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout.readline() == "stopped\n", driver.stderr.read()
    driver.kill()
    driver.communicate()
    second = pictures(folder)
    assert first.items() < second.items()
    assert (folder / UNFINISHED).exists()
    times = {name: (folder / name).stat().st_mtime_ns for name in second}
    assert main(["--resume", "--out", str(folder), "--workers", "2", "--ray", address, "--collect"]) == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in second} == times
    assert files(folder) == whole
    assert not (folder / TRUNK).exists()
    assert json.loads((folder / "report.json").read_text())["reused"] > 0
    assert mark_of(folder / "0000.png")["prompt"]


def test_what_does_not_go_together_is_refused_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hierdiff_core.__main__.load_prior", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    for arguments, said in [
        (["--collect"], "--collect is for pictures that workers draw"),
        (["--workers", "2", "--keep"], "--keep needs what was evaluated, and workers keep none of it"),
        (["--ray", "somewhere"], "address must be empty"),
    ]:
        assert main(["a cat", "a dog", "--out", str(tmp_path / "set"), *arguments]) == 1
        assert said in capsys.readouterr().err
    assert main(["advise", "a cat", "a dog", "--workers", "2"]) == 1
    assert "advise measures on one device" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["a cat", "a dog", "--out", str(tmp_path / "set"), "--workers", "2"]) == 1
    assert "Workers need Ray: pip install hierdiff[ray]" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_ray_of_one_machine_listens_there_alone_and_ends_with_ctrl_c(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", STARTED_HERE],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "[]\n", process.stderr.read()
        started = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in one.name() for one in started)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=60)
    finally:
        process.kill()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive


# --- last, since the cluster is smaller afterwards


def test_a_node_that_is_lost_costs_what_its_workers_had(cluster, executor, decoder, embeddings, plan, expected):
    def lose():
        threading.Thread(target=cluster.remove_node, args=(cluster.second,)).start()

    assert torch.equal(drawn(executor, decoder, embeddings, plan, Meddling(1, lose)), expected)
