"""Calls of few rows that are recorded and replayed, with a stand-in for the device that records."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from shared_runs import N, ksampler, one_noise, shared_model

from hierdiff_core.plan.guidance import GuidanceCourse

pytestmark = pytest.mark.host


class Recorder:
    """Replays by calling again, into the same result; all calls take `plain` seconds, and replays `graphed`."""

    pack = ""

    def __init__(self):
        self.plain, self.graphed = 2.0, 1.0
        self.sizes, self.replays, self.marks, self.error, self.off_by = [], 0, [], None, 0.0
        self.late = set()  # replays that had to wait for the CPU
        self.looked_at = 0

    def obstacle(self, call):
        self.looked_at += 1
        return importlib.import_module(f"{type(self).pack}.nodes.host.recordable").obstacle_of(call)

    def recorded(self, call, output):
        if self.error:
            raise self.error
        output.copy_(call())
        self.sizes.append(len(output))

        def replay():
            self.replays += 1
            output.copy_(call() + self.off_by)

        return replay

    def mark(self):
        self.marks.append(self.replays)
        return len(self.marks) - 1

    def seconds(self, began, ended):
        if self.marks[ended] == self.marks[began]:
            return self.plain
        return 10 * self.plain if self.marks[ended] in self.late else self.graphed


@pytest.fixture
def graphed_calls(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.graphed_calls")


@pytest.fixture
def recorder(pack, graphed_calls, all_at_once, monkeypatch):
    """As on a GPU: all rows in a call, and few of them recorded by this."""
    monkeypatch.setattr(Recorder, "pack", pack.__name__)
    recorder = Recorder()
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: True)
    monkeypatch.setattr(graphed_calls, "CudaDevice", lambda: recorder)
    monkeypatch.setattr(graphed_calls, "LEAST_CALLS", 2)
    graphed_calls._KEPT.clear()
    return recorder


@pytest.fixture
def run(host, sides, plans):
    """``run(model)``: latents and report of a run with shared steps, of 1, 1, 1, 1, 2, 3, 3 and 6 clusters."""

    def run(model, plan=plans.shared, **options):
        shared, reports = shared_model(host, model, plan)
        return ksampler(host, shared, *sides, rows=N, noise=one_noise(host), **options), reports[0].splitlines()

    return run


def test_replayed_calls_make_the_same_pictures(run, model, recorder, graphed_calls, monkeypatch):
    latents, report = run(model)
    assert (recorder.sizes, recorder.replays) == ([2], 3)  # both sides of one cluster: to compare, and 2 of 4 calls
    assert "calls replayed as CUDA graphs: 2" in report
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
    expected, report = run(model)
    assert recorder.replays == 3
    assert torch.equal(latents, expected)
    assert not any("CUDA graphs" in line for line in report)


def test_several_calls_of_a_sampler_step_are_replayed_with_their_own_values(run, model, recorder, graphed_calls):
    latents, _ = run(model, sampler="heun")
    assert recorder.sizes == [2, 6]
    assert recorder.replays == 6 + 3  # 5 of 7 calls, and 2 of 4: a step's second call is at the next step's sigma
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
        assert torch.equal(latents, run(model, sampler="heun")[0])


def test_calls_are_counted_to_the_end_of_guidance(run, model, recorder, plans):
    """Of four steps of one cluster the first two are guided: neither size has as many calls as recording needs."""
    run(model, replace(plans.shared, guidance=GuidanceCourse(0, 0.25)))
    assert recorder.sizes == []
    run(model, replace(plans.shared, guidance=GuidanceCourse(0.125, 1)))
    assert recorder.sizes == [2]


def test_what_does_not_gain_is_forgotten_and_no_larger_call_recorded(run, model, recorder, plans):
    recorder.graphed = 1.99
    run(model, plans.none)
    assert recorder.sizes == []  # 12 latents are more than a call may have
    _, report = run(model, sampler="heun")
    assert recorder.sizes == [2]
    assert recorder.replays == 4
    assert "calls replayed as CUDA graphs: 3" in report


def test_a_replay_that_had_to_wait_is_no_reason_to_forget(run, model, recorder):
    recorder.late = {2, 3}
    _, report = run(model, sampler="heun")
    assert "calls replayed as CUDA graphs: 7" in report


def test_a_replay_that_differs_is_not_used(run, host, recorder, graphed_calls, monkeypatch):
    model = host.native_models.unet_model()
    recorder.off_by = 1e-3
    latents, report = run(model)
    assert recorder.replays == 1
    assert any(line.endswith("(RuntimeError: a replay gave another result than the call)") for line in report)
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
    assert torch.equal(latents, run(model)[0])


def test_after_a_failure_nothing_is_recorded(run, host, recorder, graphed_calls, monkeypatch):
    model = host.native_models.unet_model()
    recorder.error = RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")
    latents, report = run(model, sampler="heun")
    lines = [line for line in report if "CUDA graphs" in line]
    assert lines == [
        "⚠ the model's calls cannot be recorded as CUDA graphs and were launched as ever (RuntimeError: operation not "
        "permitted when stream is capturing)"
    ]
    recorder.error = None
    assert not any("CUDA graphs" in line for line in run(model, sampler="heun")[1])
    assert recorder.sizes == []
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
    assert torch.equal(latents, run(model, sampler="heun")[0])


def test_what_waits_for_the_device_is_found_before_anything_is_recorded(run, host, recorder, graphed_calls):
    """Under cudaMallocAsync a recording that fails ends the process."""
    model = host.native_models.unet_model()
    layer = model.model.diffusion_model.time_embed[0]
    waiting = layer.register_forward_pre_hook(lambda module, args: args[0].sum().item() and None)
    latents, report = run(model)
    assert (recorder.sizes, recorder.looked_at) == ([], 1)
    assert any(line.endswith("waits for the device)") for line in report if "cannot be recorded" in line)
    assert run(model)[1] != report
    assert recorder.looked_at == 1  # no later run looks again
    waiting.remove()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
        assert torch.equal(latents, run(model)[0])


def test_a_kind_of_call_is_looked_at_once_whatever_its_size(run, host, recorder, graphed_calls):
    model = host.native_models.unet_model()
    run(model, sampler="heun")
    graphed_calls._KEPT.clear()
    run(model)
    assert recorder.sizes == [2, 6, 2]
    assert recorder.looked_at == 1


def test_the_next_run_replays_what_the_last_one_has_recorded(run, host, recorder, graphed_calls, monkeypatch):
    model = host.native_models.unet_model()
    first, _ = run(model)
    assert (recorder.sizes, recorder.replays) == ([2], 3)
    second, report = run(model, seed=3)
    assert (recorder.sizes, recorder.replays) == ([2], 3 + 4)  # to compare with the first call, and for all others
    assert "calls replayed as CUDA graphs: 3" in report
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
    assert torch.equal(first, run(model)[0])
    assert torch.equal(second, run(model, seed=3)[0])


def test_what_does_not_give_the_same_any_more_is_recorded_anew(run, host, recorder, graphed_calls, monkeypatch):
    """As where somebody has changed the network's code: what was recorded are the old one's kernels."""
    model, plain = host.native_models.unet_model(), recorder.recorded
    run(model)
    recorder.off_by = 1e-3

    def recorded(call, output):
        recorder.off_by = 0.0
        return plain(call, output)

    monkeypatch.setattr(recorder, "recorded", recorded)
    latents, report = run(model)
    assert recorder.sizes == [2, 2]
    assert "calls replayed as CUDA graphs: 2" in report
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
    assert torch.equal(latents, run(model)[0])


def test_what_is_kept_is_bounded_in_all(graphed_calls):
    graphs = {
        (name,): SimpleNamespace(needed=needed, kept_with=5) for name, needed in (("old", 2), ("large", 6), ("new", 3))
    }
    assert [*graphed_calls.those_that_stay(graphs)] == [("old",), ("new",)]
    graphs["newest",] = SimpleNamespace(needed=1, kept_with=5)
    assert [*graphed_calls.those_that_stay(graphs)] == [("new",), ("newest",)]


@pytest.mark.parametrize("how", ["too large", "moved", "another network"])
def test_what_cannot_be_kept_is_not(run, host, recorder, graphed_calls, monkeypatch, how):
    model = host.native_models.unet_model()
    if how == "too large":
        monkeypatch.setattr(graphed_calls, "KEPT_SHARE", 0)
    run(model)
    if how == "moved":
        weight = model.model.diffusion_model.out[2].weight
        weight.data = weight.data.clone()
    if how == "another network":
        run(host.native_models.unet_model())
        assert len(graphed_calls._KEPT) == 1
        recorder.sizes.pop()
    run(model)
    assert recorder.sizes == [2, 2]


def test_operations_that_cannot_be_recorded_are_named(pack):
    recordable = importlib.import_module(f"{pack.__name__}.nodes.host.recordable")
    x, there = torch.randn(3, 4), torch.empty(3, 4, device="meta")
    for call in (lambda: x @ x.T, lambda: there * 2.0, lambda: there * torch.tensor(2.0), lambda: torch.zeros_like(x)):
        assert recordable.obstacle_of(call) == ""
    for call in (lambda: float(x.sum()), lambda: x[x > 0], lambda: torch.equal(x, x), lambda: x.nonzero()):
        assert recordable.obstacle_of(call).endswith("waits for the device")
    for call in (lambda: x.to("meta"), lambda: there.copy_(x), lambda: there + x.to("meta")):
        assert recordable.obstacle_of(call).endswith("goes from one device to another")
    assert recordable.obstacle_of(lambda: x.reshape(5)).startswith("RuntimeError: shape '[5]' is invalid")


def test_weights_that_move_are_not_read_where_they_were(run, host, recorder, graphed_calls, monkeypatch):
    def moving():
        model = host.native_models.unet_model()
        weight = model.model.diffusion_model.out[2].weight

        def move(step, *_):
            if step == 2:
                weight.data = weight.data + 0.1

        return run(model, callback=move)[0]

    latents = moving()
    assert recorder.replays == 2
    monkeypatch.setattr(graphed_calls, "may_be_recorded", lambda device: False)
    assert torch.equal(latents, moving())


def test_nothing_is_recorded_where_somebody_takes_part(run, model, recorder, host):
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra_options: (q, k, v))
    run(patched)
    other = model.clone()
    other.model_options["transformer_options"] = {"optimized_attention_override": lambda f, *args, **kwargs: f(*args)}
    run(other)
    assert recorder.sizes == []


@pytest.mark.parametrize(
    ("name", "value"), [("comfy_cast_weights", True), ("weight_function", [abs]), ("bias_function", [abs])]
)
def test_weights_that_are_changed_for_each_call_are_not_recorded(graphed_calls, name, value):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert graphed_calls.weights_stay(network, torch.device("cpu"))
    setattr(network[1], name, value)
    assert not graphed_calls.weights_stay(network, torch.device("cpu"))
    assert not graphed_calls.weights_stay(torch.nn.Linear(2, 2), torch.device("meta"))


def test_calls_are_alike_that_differ_in_the_values_of_tensors_alone(graphed_calls):
    cpu, x = torch.device("cpu"), torch.randn(2, 4, 8, 8)

    def kind(*values):
        return graphed_calls.kind_of(list(values), cpu)

    assert kind(x, {"a": [x[0]], "uuids": [object()]}, 3) == kind(x + 1, {"a": [x[1]], "uuids": []}, 3)
    for other in (x[:1], x.double(), x.to(memory_format=torch.channels_last)):
        assert kind(x) != kind(other)
    assert kind(3) != kind(3.0)
    for unknown in (x.expand(3, 2, 4, 8, 8), x[..., :4], torch.randn(2, device="meta"), len, {"a": object()}, {1}):
        with pytest.raises(graphed_calls.Unknown):
            kind(unknown)


def test_memory_that_runs_out_takes_what_was_recorded(run, model, recorder, plans, graphed_calls):
    calls = graphed_calls.GraphedCalls()
    calls._sizes = {(): graphed_calls.Size()}
    with pytest.raises(torch.OutOfMemoryError):
        calls.call(lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")), None)
    assert calls._sizes == {}
