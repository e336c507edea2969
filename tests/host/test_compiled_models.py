"""A MODEL that torch.compile makes anew for some sizes: how often that is while a plan runs, and padded calls."""

import importlib
import types

import pytest
import torch
from shared_runs import N, ksampler, one_noise, shared_model

pytestmark = pytest.mark.host


class Network(torch.nn.Module):
    """Two convolutions with something between that no compiler follows; options go all the way, as in the host's."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1)

    def forward(self, x, t, context=None, control=None, transformer_options=None, **kwargs):
        text = context.mean(dim=(1, 2))[:, None, None, None]
        return self.last(unfollowed(self.first(x + text), transformer_options))


@torch.compiler.disable
def unfollowed(x, options):
    return x.tanh()


@pytest.fixture(scope="module")
def padded_rows(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.padded_rows")


@pytest.fixture
def gpu(all_at_once, padded_rows, monkeypatch):
    """As on a GPU: all rows in a call, and padded."""
    monkeypatch.setattr(padded_rows, "pads_on", lambda device: True)


@pytest.fixture
def made(host, monkeypatch):
    """``made(dynamic, **how)``: a model that was compiled, the same as it was, and what became of their calls."""
    import comfy.model_base
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    told = types.SimpleNamespace(graphs=0, sizes=[], heard=[])
    apply_model = comfy.model_base.BaseModel._apply_model

    def noted(self, x, *args, **kwargs):
        told.sizes.append(len(x))
        told.heard.append("hierdiff" in kwargs.get("transformer_options", args[-1]))
        return apply_model(self, x, *args, **kwargs)

    monkeypatch.setattr(comfy.model_base.BaseModel, "_apply_model", noted)

    def backend(graph, _):
        told.graphs += 1
        return graph.forward

    def make(dynamic=None, by_object_patch=False):
        torch._dynamo.reset()
        torch.manual_seed(0)
        plain = host.native_models.known_model("EPS")
        network = plain.model.diffusion_model = Network().requires_grad_(False)
        model = plain.clone()
        if by_object_patch:
            model.add_object_patch("diffusion_model", torch.compile(network, backend=backend, dynamic=dynamic))
        else:
            set_torch_compile_wrapper(model, backend=backend, dynamic=dynamic)
        return model, plain, told

    yield make
    torch._dynamo.reset()


@pytest.fixture
def run(host, sides, plans):
    """``run(model)``: latents and report of a run with shared steps, cluster sizes 1, 2, 3 and 6."""

    def run(model, plan=plans.shared, **options):
        shared, reports = shared_model(host, model, plan, **options)
        return ksampler(host, shared, *sides, rows=N, noise=one_noise(host)), reports[0]

    return run


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_two_recompilations_at_most_and_none_in_the_next_run(made, run, gpu, plans, dynamic):
    """Code for any size gets the plan's own."""
    model, _, told = made(dynamic)
    run(model)
    assert 2 <= told.graphs <= 3 * 2  # the network has two halves
    assert dynamic is False or told.sizes == [2 * count for count in plans.shared.clusters_per_step.tolist()]
    told.graphs = 0
    run(model)
    assert told.graphs == 0


def test_code_that_is_compiled_in_parts_is_not_told_of_the_rows(made, run, all_at_once):
    """Its guards would be on the lengths of these lists: what torch made for all sizes would hold for one step."""
    model, _, told = made(None)
    run(model)
    assert told.graphs == 2 * 2
    assert not any(told.heard)


def test_patches_of_a_compiled_model_are_told_of_the_rows(made, run, gpu):
    model, _, told = made(None)
    heard = []

    def patch(apply_model, args):
        heard.append(args["c"]["transformer_options"]["hierdiff"]["rows"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    patch.heeds_hierdiff = True
    model.set_model_unet_function_wrapper(patch)
    _, report = run(model)
    assert [len(rows) * 2 for rows in heard] == told.sizes
    assert "calls padded" not in report


@pytest.mark.parametrize("by_object_patch", [False, True], ids=["host's node", "object patch"])
def test_calls_are_padded_where_each_size_is_compiled(made, run, gpu, plans, by_object_patch):
    model, plain, told = made(False, by_object_patch)
    latents, report = run(model)
    counts = plans.shared.clusters_per_step.tolist()
    assert counts == [1, 1, 1, 1, 2, 3, 3, 6]
    assert told.sizes == [2, 2, 2, 2, 6, 6, 6, 12]
    assert "calls padded to 1, 3, 6 rows for the compiled model: 1 rows more" in report.splitlines()
    told.sizes.clear()
    expected, report = run(plain)
    assert told.sizes == [2 * count for count in counts]
    assert "calls padded" not in report
    assert torch.allclose(latents, expected, atol=1e-4)


def test_other_plans_use_the_sizes_that_are_compiled(made, run, gpu, plans):
    model, _, told = made(False)
    run(model, plans.none)
    told.graphs = 0
    run(model, plans.none, micro_batch=5)
    assert set(told.sizes) == {2 * N}


def test_calls_hold_no_more_rows_than_the_user_says(made, run, gpu, plans, host, monkeypatch):
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    model, _, told = made(False)
    run(model, plans.none)
    told.sizes.clear()
    run(model, plans.none, micro_batch=4)
    assert told.sizes == [8, 4] * len(plans.none.steps)


def test_calls_that_had_to_be_halved_are_padded_to_less(made, run, gpu, plans):
    model, plain, told = made(False)
    noted = type(plain.model)._apply_model

    def limited(self, x, *args, **kwargs):
        if len(x) > 2 * 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return noted(self, x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(plain.model), "_apply_model", limited)
        run(model)
    assert max(told.sizes) <= 8
    assert told.sizes[-2:] == [6, 6]


def test_on_a_cpu_a_call_holds_one_cluster(made, run, plans):
    model, plain, told = made(False)
    latents, report = run(model)
    assert set(told.sizes) == {2}
    assert "calls padded" not in report
    assert torch.allclose(latents, run(plain)[0], atol=1e-5)


def test_sides_that_are_joined_are_padded_together(padded_rows):
    padded = padded_rows.PaddedRows(None)
    assert padded.of_latents(5) == 5
    padded.sizes, padded._pads = (4, 12), True
    assert [padded.of_latents(count) for count in (3, 5, 13)] == [4, 12, 13]
    assert padded.padding == 8


def test_few_sizes_are_new_and_little_is_padded(padded_rows):
    counts = [9] * 14 + [10, 16, 24, 32, 32, 32]
    assert padded_rows.sizes_of(counts, (), 3) == (10, 32)
    assert padded_rows.sizes_of(counts, {10, 36}, 3) == (10, 36)
    assert padded_rows.sizes_of(counts, {64}, 3) == (10, 32)
    assert padded_rows.sizes_of([3, 3], {2}, 1) == (3,)


def test_the_limit_of_torch_leaves_one_new_size(pack, monkeypatch):
    compiled_models = importlib.import_module(f"{pack.__name__}.nodes.host.compiled_models")
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    assert [compiled_models.new_sizes(known, 3) for known in (0, 5, 6, 9)] == [3, 3, 2, 1]
