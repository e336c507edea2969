"""Workers that are started while it is not known yet what they draw; stand-ins for Ray and for the network."""

import threading

import pytest
import torch

import hierdiff_core.kandinsky.workers_process as workers_process
import hierdiff_core.sampling.ray_executor as ray_executor
from hierdiff_core import load_decoder
from hierdiff_core.__main__ import main
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.kandinsky.workers_early import EarlyWorkers
from hierdiff_core.sampling.executor import Threads, Workers

SET = ["{tiger|lion} face", "--width", "64", "--height", "64", "--steps", "2", "--prior-steps", "2", "--workers", "2"]


class Executor(Threads):
    """Says what happens to it; begins when it may."""

    def __init__(self, *_):
        super().__init__(2)
        self.said, self.may_begin = [], threading.Event()

    def __enter__(self):
        assert self.may_begin.wait(60)
        self.said.append("entered")
        return super().__enter__()

    def __exit__(self, *_):
        self.said.append("ended")
        super().__exit__()

    def early(self, entry, setup):
        self.said.append("early")
        self.given = entry, setup

    def begin(self, job):
        self.said.append("begun")
        super().begin(job)


@pytest.fixture
def executor(monkeypatch):
    executor = Executor()
    monkeypatch.setattr(ray_executor, "RayExecutor", lambda *_: executor)
    return executor


def early(**settings):
    return EarlyWorkers(Workers(2), BUNDLED / "decoder", "cpu", **settings)


def test_they_start_while_others_do_what_they_do(executor):
    with early(width=64, height=32) as workers:
        workers.start()
        assert executor.said == []
        executor.may_begin.set()
        assert workers.ready() is executor
        assert executor.said == ["entered", "early"]
    assert executor.said == ["entered", "early", "ended"]
    entry, setup = executor.given
    assert entry.partition(":")[2] == workers_process.make_ready_early.__name__
    assert (setup["device"], setup["dtype"], setup["width"], setup["height"]) == ("cpu", "float32", 64, 32)
    workers.close()
    assert executor.said[-2:] == ["early", "ended"]


def test_where_they_are_not_wanted_any_more_nothing_stays(executor):
    with early() as workers:
        workers.start()
        threading.Timer(0.2, executor.may_begin.set).start()
    assert executor.said == ["entered", "ended"]
    with early():
        pass
    assert executor.said == ["entered", "ended"]


def test_what_goes_wrong_is_said_where_they_are_wanted(monkeypatch):
    def refused(*_):
        raise ValueError("Ray here does not answer")

    monkeypatch.setattr(ray_executor, "RayExecutor", refused)
    with early() as workers:
        workers.start()
        with pytest.raises(ValueError, match="Ray here does not answer"):
            workers.ready()


def test_the_command_starts_them_before_it_embeds_and_ends_them_as_soon_as_all_is_drawn(
    executor, monkeypatch, tmp_path
):
    def embedding(*arguments, **options):
        executor.may_begin.set()
        executor.said.append("embeds")
        return embed_prompts(*arguments, **options)

    def figures(*arguments):
        executor.said.append("figures")
        return draw_figures(*arguments)

    module = "hierdiff_core.__main__"
    embed_prompts, draw_figures = (
        vars(__import__(module, fromlist=["x"]))[name] for name in ("embed_prompts", "draw_figures")
    )
    monkeypatch.setattr(f"{module}.embed_prompts", embedding)
    monkeypatch.setattr(f"{module}.draw_figures", figures)
    assert main([*SET, "--out", str(tmp_path / "set")]) == 0
    assert executor.said.index("early") < executor.said.index("begun") < executor.said.index("ended")
    assert executor.said.index("ended") < executor.said.index("figures")
    assert executor.said.count("ended") == 1


@pytest.mark.parametrize("error", [ValueError("no such words"), KeyboardInterrupt()], ids=["fails", "cancelled"])
def test_an_embedding_that_fails_leaves_nothing_running(executor, monkeypatch, tmp_path, error):
    def embedding(*_, **__):
        executor.may_begin.set()
        raise error

    monkeypatch.setattr("hierdiff_core.__main__.embed_prompts", embedding)
    assert main([*SET, "--out", str(tmp_path / "set")]) in (1, 130)
    assert executor.said[0] == "entered"
    assert executor.said[-1] == "ended"
    assert "begun" not in executor.said


class Network:
    acceleration, device, dtype = "none", torch.device("cpu"), torch.float32

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, embeds):
        assert len(x) == len(embeds)
        assert x.shape[1:] == (4, 4, 8)
        self.calls.append(len(x))
        return torch.cat([x, x], dim=1)


def test_calls_of_all_sizes_are_prepared_the_largest_first_until_something_is_to_be_drawn(monkeypatch):
    network = Network()
    monkeypatch.setattr(workers_process, "unet_calls", lambda unet, acceleration: network)
    monkeypatch.setattr(workers_process, "rows_per_call", lambda *_: 12)
    decoder, setup = load_decoder(), early(width=64, height=32).setup
    workers_process.prepare_calls(decoder, setup, lambda: False)
    assert network.calls == [24, *(size for size in (16, 12, 8, 6, 4, 2) for _ in range(workers_process.CALLS))]
    network.calls.clear()
    workers_process.prepare_calls(decoder, setup, lambda: len(network.calls) == 3)
    assert network.calls == [24, 16, 16]


def test_a_worker_loads_its_decoder_once(monkeypatch):
    loaded = []

    def load(folder, dtype):
        loaded.append(folder)
        return load_decoder(folder, dtype)

    monkeypatch.setattr(workers_process, "load_decoder", load)
    monkeypatch.setattr(workers_process, "_loaded", {})
    monkeypatch.setattr(workers_process, "_wanted", threading.Event())
    setup = early().setup
    workers_process.make_ready_early(setup)
    workers_process.loaded(setup)
    assert loaded == [str(BUNDLED / "decoder")]
    workers_process._wanted.set()
    monkeypatch.setattr(workers_process, "_loaded", {})
    workers_process.make_ready_early(setup)  # too late to be early: whoever wants it loads it
    assert len(loaded) == 1
