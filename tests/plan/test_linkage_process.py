"""Large trees in a process of their own: the same tree, a cancel that is heard, memory looked at first."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from hierdiff_core import host_memory
from hierdiff_core.host_memory import free_host_memory
from hierdiff_core.plan import linkage_process, scipy_ward
from hierdiff_core.plan.linkage import METRICS, SMALLEST_DISTANCE, linkage_seconds, ward_linkage
from hierdiff_core.plan.linkage_process import check_tree_fits, tree_bytes, tree_seconds
from hierdiff_core.plan.ward_torch import ward_chain


class Cancelled(Exception):
    pass


def random_vectors(count=80, duplicates=0):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, 8))
    return np.concatenate([rows, rows[rng.integers(count, size=duplicates)]])


@pytest.fixture
def long_ago(monkeypatch):
    """Every tree counts as one that takes long."""
    monkeypatch.setattr(linkage_process, "LONGEST_IN_PROCESS", -1.0)


@pytest.fixture
def children(monkeypatch, long_ago):
    """The processes that are started; `program(text)` replaces what they run."""
    started = []

    class Spy(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Spy)
    return started


@pytest.fixture
def program(monkeypatch, tmp_path):
    def replace(text):
        (tmp_path / "program.py").write_text(text)
        monkeypatch.setattr(linkage_process, "PROGRAM", tmp_path / "program.py")

    return replace


@pytest.mark.parametrize("metric", METRICS)
def test_tree_of_a_process_is_the_same_to_the_bit(metric, children):
    x = random_vectors(60, duplicates=20)
    expected = scipy_ward.ward_tree(x, metric, SMALLEST_DISTANCE)
    checks = []
    made = linkage_process.ward_tree(x, metric, SMALLEST_DISTANCE, lambda: checks.append(1))
    assert made.tobytes() == expected.tobytes()
    assert len(children) == 1
    assert checks


def test_process_finds_its_libraries_whatever_lies_in_the_folder(children, tmp_path, monkeypatch):
    for name in ("numpy", "scipy", "runpy", "linkage"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert linkage_process.ward_tree(random_vectors(), "chord", SMALLEST_DISTANCE).shape == (79, 4)
    assert len(children) == 1


def test_cancel_is_heard_while_the_process_works_and_ends_it(children, program):
    program("import time; time.sleep(600)")
    checks = []

    def cancel():
        checks.append(1)
        if len(checks) == 3:
            raise Cancelled

    began = time.monotonic()
    with pytest.raises(Cancelled):
        ward_linkage(random_vectors(), check=cancel)
    assert time.monotonic() - began < 30
    assert children[0].poll() is not None


def test_memory_is_looked_at_before_a_process_starts(children, monkeypatch):
    monkeypatch.setattr(linkage_process, "free_host_memory", lambda: 2**31)
    check_tree_fits(15_000, 8)
    message = r"a tree of 20000 prompts takes 3\.3 GiB of main memory .* 2\.0 GiB are free; .* two sets"
    with pytest.raises(ValueError, match=message):
        check_tree_fits(20_000, 8)
    monkeypatch.setattr(linkage_process, "free_host_memory", lambda: 1000)
    with pytest.raises(ValueError, match="a tree of 80 prompts takes"):
        ward_linkage(random_vectors())
    assert not children


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("raise MemoryError", ValueError, "main memory ran out while a tree of 80 prompts was made"),
        ("import os; os.kill(os.getpid(), 9)", ValueError, "main memory ran out"),
        ("raise TypeError('odd')", RuntimeError, "clustering 80 prompts failed: TypeError: odd"),
        ("raise SystemExit(7)", RuntimeError, "clustering 80 prompts failed: exit code 7"),
    ],
)
def test_process_that_fails_says_why(children, program, text, error, message):
    program(text)
    with pytest.raises(error, match=message):
        ward_linkage(random_vectors())


@pytest.mark.parametrize(("name", "value"), [("frozen", True), ("executable", "/opt/krita"), ("executable", None)])
def test_tree_is_made_here_where_there_is_no_python_to_start(children, monkeypatch, name, value):
    monkeypatch.setattr(sys, name, value, raising=False)
    x = random_vectors()
    assert ward_linkage(x).tobytes() == scipy_ward.ward_tree(x, "cosine", SMALLEST_DISTANCE).tobytes()
    assert not children


def test_tree_is_made_here_where_no_file_can_be_written(children, monkeypatch):
    monkeypatch.setattr(linkage_process.tempfile, "TemporaryFile", lambda: open("/dev/full/none"))  # noqa: SIM115
    assert len(ward_linkage(random_vectors())) == 79
    assert not children


def test_usual_sets_start_no_process(monkeypatch):
    monkeypatch.setattr(linkage_process, "start", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(linkage_process, "check_tree_fits", lambda *_: pytest.fail("memory was looked at"))
    ward_linkage(np.random.default_rng(0).normal(size=(500, 1280)), check=lambda: pytest.fail("nothing to check"))
    assert tree_seconds(2000, 1280, "chord") < linkage_process.LONGEST_IN_PROCESS < tree_seconds(5000, 128, "chord")


def test_foreseen_time_and_memory_of_a_large_set():
    assert 20 < linkage_seconds(20_000, 128, "chord", "cpu") < 90
    assert linkage_seconds(20_000, 128, "chord", "cuda:0") == 0
    distances = 8 * 20_000 * 19_999 // 2
    assert 2 * distances < tree_bytes(20_000, 128) < 2.4 * distances


@pytest.mark.parametrize("metric", METRICS)
def test_chain_of_merges_can_be_stopped(metric):
    checks = []

    def cancel():
        checks.append(1)
        if len(checks) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        ward_chain(random_vectors(), metric, SMALLEST_DISTANCE, torch.device("cpu"), cancel)


def test_limit_of_a_container_counts_but_not_its_cached_files(monkeypatch, tmp_path):
    texts = {"max": "8000000", "current": "5000000", "stat": "anon 1\ninactive_file 1500000\nactive_file 500000\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    paths = tuple(str(tmp_path / name) for name in texts)
    monkeypatch.setattr(host_memory, "CONTAINERS", ((str(tmp_path / "none"),) * 3, paths))
    assert free_host_memory() == 5_000_000
    (tmp_path / "max").write_text("max")
    assert free_host_memory() > 5_000_000


def test_node_passes_the_cancel_on_and_names_the_time(pack, monkeypatch):
    import comfy.model_management as host

    module = sys.modules[f"{pack.__name__}.hierdiff_core.plan.linkage_process"]
    monkeypatch.setattr(module, "LONGEST_IN_PROCESS", -1.0)
    core = sys.modules[f"{pack.__name__}.hierdiff_core.embeddings"]
    positive = torch.from_numpy(random_vectors()).float()
    embeddings = core.PromptEmbeddings(positive, positive, tuple(map(str, range(len(positive)))))
    said = []
    monkeypatch.setattr(pack.nodes.linkage, "LONG_SECONDS", -1)
    monkeypatch.setattr(pack.nodes.linkage, "tell", lambda cls, text: said.append(text))
    host.interrupt_current_processing(True)
    with pytest.raises(host.InterruptProcessingException):
        pack.nodes.linkage.WardLinkage.execute(embeddings, "chord")
    assert said == ["Clustering 80 prompts on the CPU takes about 10 seconds; it can be cancelled …"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(12, "about 10 seconds"), (47, "about 50 seconds"), (150, "about 2 minutes")]
)
def test_times_are_said_in_round_numbers(pack, seconds, words):
    assert pack.nodes.linkage.about(seconds) == words
