"""Who draws: what is refused, and tasks here and in threads."""

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from hierdiff_core.sampling.executor import Done, Failure, Here, Job, Threads, Told, Workers
from hierdiff_core.sampling.ray_cluster import (
    connected,
    is_loopback,
    on_loopback,
    remove_old,
    short_folder,
    workers_here,
)
from hierdiff_core.sampling.ray_executor import RayExecutor


@pytest.mark.parametrize("address", ["", "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379", "ray://head.local:10001"])
def test_addresses(address):
    assert Workers(3, f" {address} ").address == address


@pytest.mark.parametrize(
    ("count", "address", "said"),
    [
        (-1, "", "count of workers must be 0"),
        (10**6, "", "count of workers must be 0"),
        (1.5, "", "count of workers must be a whole number"),
        (0, "head", "address must be empty"),
        (0, "head:70000", "address must be empty"),
        (0, "http://head:80", "address must be empty"),
        (0, "head:6379; rm", "address must be empty"),
        (0, None, "address must be empty"),
    ],
)
def test_what_is_no_place_is_refused_by_name(count, address, said):
    with pytest.raises(ValueError, match=said):
        Workers(count, address)


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match=r"Workers need Ray: pip install hierdiff\[ray\]"),
        RayExecutor(Workers(), "cpu"),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "error", "mode", "said"),
    [
        ("ray://h:1", ValueError("requires pip package `ray[client]`"), None, 'pip install "ray\\[client\\]", or give'),
        ("ray://h:1", ConnectionError("timeout"), None, r"timeout\). Newer .* RAY_AUTH_MODE=token in its environment"),
        ("ray://h:1", ConnectionError("timeout"), "token", r"timeout\)$"),
        ("h:1", ConnectionError("timeout"), None, r"timeout\)$"),
    ],
)
def test_a_cluster_that_does_not_answer_says_what_to_do(monkeypatch, address, error, mode, said):
    def init(**_):
        raise error

    ray = SimpleNamespace(init=init, shutdown=lambda: None, is_initialized=lambda: False)
    monkeypatch.setenv("RAY_AUTH_MODE", mode) if mode else monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ValueError, match=said), connected(ray, address, 1, gpus=False):
        pass


def test_workers_of_this_machine(monkeypatch):
    for cores, workers in ((1, 1), (2, 1), (9, 4)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert workers_here(0, gpus=False) == workers
    assert workers_here(5, gpus=False) == 5
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert workers_here(0, gpus=True) == 2
    with pytest.raises(ValueError, match="3 workers need a GPU each, and this machine has 2"):
        workers_here(3, gpus=True)


def test_addresses_of_this_machine_alone():
    assert all(map(is_loopback, ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.2", "::ffff:10.0.0.1"]))
    assert all(map(on_loopback, ["127.0.0.1:6379", "localhost:6379", "[::1]:6379", "ray://127.0.0.1:10001"]))
    assert not any(map(on_loopback, ["", "auto", "local", "head:6379", "10.0.0.1:6379"]))


def test_names_of_sockets_stay_short(monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/var/folders/" + "x" * 60)
    assert len(short_folder()) <= 40


def test_folders_of_killed_processes_are_removed(tmp_path):
    for name in (f"hdray-{os.getpid()}-a", "hdray-999999999-b", "hdray-c", "other-999999999-d"):
        (tmp_path / name).mkdir()
    remove_old(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"hdray-{os.getpid()}-a", "hdray-c", "other-999999999-d"}


def squares(value, tell):
    tell(value)
    if value == 3:
        raise RuntimeError("three")
    if value == 4:
        raise OSError(28, "No space left on device")
    return value * value


@pytest.mark.parametrize("executor", [Here(), Threads(1), Threads(3)], ids=["here", "thread", "threads"])
def test_tasks_are_done_and_what_they_say_is_heard(executor):
    tasks = [(number, number + 1) for number in range(6)]
    with executor:
        executor.begin(Job("", {}, lambda: squares))
        heard = [said for said in executor.run(lambda worker: tasks.pop() if tasks else None) if said]
    ended = {number: said for number, said in heard if not isinstance(said, Told)}
    assert {number: said.value for number, said in ended.items() if isinstance(said, Done)} == {
        0: 1,
        1: 4,
        4: 25,
        5: 36,
    }
    assert ended[2] == Failure("RuntimeError: three")
    assert ended[3] == Failure("[Errno 28] No space left on device", disk=True)
    assert sorted(said.value for _, said in heard if isinstance(said, Told)) == [1, 2, 3, 4, 5, 6]


def test_tasks_that_come_of_others_are_done():
    tasks = [(0, 1)]
    with Threads(2) as executor:
        executor.begin(Job("", {}, lambda: lambda value, tell: value))
        done = []
        for said in executor.run(lambda worker: tasks.pop() if tasks else None):
            if said is not None:
                done.append(said[1].value)
                tasks.extend((said[0] * 2 + i, said[1].value + 1) for i in (1, 2) if said[1].value < 4)
    assert sorted(done) == sorted([1] + [2] * 2 + [3] * 4 + [4] * 8)


def test_work_that_goes_on_after_its_run_ends_when_it_says_something():
    going_on, ended = threading.Event(), threading.Event()

    def work(value, tell):
        going_on.wait(60)
        try:
            tell("more")
        finally:
            ended.set()

    tasks = [(0, 0)]
    with Threads(1) as executor:
        executor.begin(Job("", {}, lambda: work))
        for said in executor.run(lambda worker: tasks.pop() if tasks else None):
            assert said is None
            executor.closed = True
            going_on.set()
            break
    assert ended.is_set()
