"""The guard: what other nodes attach to a model is shared only where rows of equal inputs get equal results."""

import functools
import importlib
import random
import re

import pytest
import torch
from attached_nodes import (
    PAIRED,
    PAIRS,
    SIDES,
    alone,
    pictures,
    plan_of_pairs,
    rows_by_contract,
    rows_by_place,
    rows_by_window,
    shared,
    together,
    with_pictures,
    with_unet_function,
)
from shared_runs import K, N, ksampler, shared_model

pytestmark = pytest.mark.host
HERE = re.escape(__name__)


def counted(host, model, monkeypatch):
    """The rows of all calls of the network from now on."""
    called = []
    forward = model.model.diffusion_model.forward

    @functools.wraps(forward)
    def counting(x, *args, **kwargs):
        called.append(len(x))
        return forward(x, *args, **kwargs)

    counting.__module__ = "torch.counting"  # no node of another pack
    monkeypatch.setattr(model.model.diffusion_model, "forward", counting)
    return called


# --- Data that are picked by a row's place ---------------------------------------------------------------------------


@pytest.mark.parametrize("attach", [with_pictures, with_unet_function])
@pytest.mark.parametrize("plan", ["shared", "none"])
def test_what_picks_by_place_is_refused_by_name(host, model, plans, monkeypatch, attach, plan):
    """At tau = 0 too: on a CPU each row is a call. In pairs, so that two equal rows would not tell."""
    by_place = attach(model, pictures(), rows_by_place)
    called = counted(host, model, monkeypatch)
    with pytest.raises(ValueError, match=r"\(.*\) of attached_nodes gives rows with equal inputs different"):
        shared(host, by_place, getattr(plans, plan))
    assert sum(called) <= 6 * N  # of 8 steps with two sides


def test_one_picture_for_all_is_shared(host, model, plans):
    one = with_pictures(model, pictures([0]), rows_by_place)
    samples, _ = shared(host, one, plans.none)
    for i in (0, N - 1):
        assert torch.equal(samples[i : i + 1], alone(host, one, i))
    assert not torch.equal(samples, shared(host, model, plans.none)[0])
    samples, report = shared(host, one, plans.shared)
    assert f"model rows: {plans.shared.nfe} instead of {N * K}" in report


@pytest.mark.parametrize(("begins", "ends"), [(3.0, 0.3), (0.2, 0.0)])
def test_what_begins_later_in_the_run_is_refused_before_it(host, model, plans, monkeypatch, begins, ends):
    by_place = with_pictures(model, pictures(), rows_by_place, begins, ends)
    called = counted(host, model, monkeypatch)
    with pytest.raises(ValueError, match="different results by their place in the batch"):
        shared(host, by_place, plans.shared)
    assert sum(called) < 2 * 5 * N


def test_a_unet_function_that_begins_later_is_refused_then(host, model, plans):
    """Until then it only hands on: nothing tells it from one that listens."""

    def late(apply_model, args):
        out = apply_model(args["input"], args["timestep"], **args["c"])
        if float(args["timestep"][0]) > 1.0:
            return out
        return out + pictures()[: len(out) // 2].repeat(2, 1, 1, 1)

    patched = model.clone()
    patched.set_model_unet_function_wrapper(late)
    with pytest.raises(ValueError, match=rf"late\) of {HERE} gives rows with equal inputs"):
        shared(host, patched, plans.shared)


def by_wrapper(model, kind):
    def add_by_place(executor, x, *args, **kwargs):
        out = executor(x, *args, **kwargs)
        return out + pictures()[: len(out) // 2].repeat(2, 1, 1, 1)

    patched = model.clone()
    patched.add_wrapper_with_key(kind, "another pack", add_by_place)
    return patched


def by_attention(model):
    def attention(q, k, v, options):
        weights = torch.linspace(1, 2, N).repeat_interleave(1)[: len(q) // 2].repeat(2)
        return v * weights[: len(v), None, None]

    patched = model.clone()
    patched.set_model_attn1_replace(attention, "middle", 0, 0)
    return patched


def by_object(model):
    patched = model.clone()
    forward = model.model.diffusion_model.out[0].forward

    def forward_by_place(x):
        return forward(x) * torch.linspace(1, 2, N)[: len(x) // 2].repeat(2)[: len(x), None, None, None]

    patched.add_object_patch("diffusion_model.out.0.forward", forward_by_place)
    return patched


@pytest.mark.parametrize(
    "attach",
    [
        functools.partial(by_wrapper, kind="apply_model"),
        functools.partial(by_wrapper, kind="diffusion_model"),
        by_attention,
        by_object,
    ],
)
def test_wherever_it_is_attached(host, model, plans, attach):
    with pytest.raises(ValueError, match=rf"of {HERE} gives rows with equal inputs different"):
        shared(host, attach(model), plans.shared)


def test_a_patch_that_a_function_after_the_guidance_adds(host, model, plans):
    def by_place(q, k, v, options):
        return v * torch.linspace(1, 2, N)[: len(v), None, None]

    def after(args):
        options = args["model_options"].copy()
        options = host.model_patcher.set_model_options_patch_replace(options, by_place, "attn1", "middle", 0)
        (other,) = host.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + 0.5 * (args["cond_denoised"] - other)

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(after)
    with pytest.raises(ValueError, match=rf"by_place\) of {HERE} gives rows with equal inputs"):
        shared(host, patched, plans.shared)


# --- Data that follow the rows that they are told ---------------------------------------------------------------------


@pytest.mark.parametrize("pick", [rows_by_window, rows_by_contract])
@pytest.mark.parametrize("attach", [with_pictures, with_unet_function])
def test_a_picture_for_each_prompt(host, model, plans, pick, attach):
    """Bit-identical to each prompt alone with its picture; equal pairs are shared without loss, others part."""
    every = list(range(N))
    per_prompt = attach(model, pictures(every), pick)
    samples, _ = shared(host, per_prompt, plans.none)
    for i in (0, 1, N - 1):
        assert torch.equal(samples[i : i + 1], alone(host, attach(model, pictures(every)[i : i + 1], pick), i))
    in_pairs = attach(model, pictures(), pick)
    samples, report = shared(host, in_pairs, plan_of_pairs(), PAIRED)
    for i in (1, 4):
        own = attach(model, pictures()[i : i + 1], pick)
        assert torch.equal(samples[i : i + 1], alone(host, own, i, PAIRED))
    assert f"model rows: {3 * K} instead of {3 * K}" in report
    _, report = shared(host, per_prompt, plans.shared)
    assert f"model rows: {N * K} instead of {N * K}" in report
    assert "of attached_nodes: prompts with different data shared no step" in report


def test_equal_pictures_share_and_others_never(host, model):
    """Prompts of all pairs together for a while: the pictures part them from the first step on."""
    plan = plan_of_pairs(1.5)
    assert plan.clusters_per_step[0] < 3
    in_pairs = with_pictures(model, pictures(), rows_by_window)
    samples, report = shared(host, in_pairs, plan, PAIRED)
    flat, _ = shared(host, in_pairs, plan_of_pairs(), PAIRED)
    assert torch.equal(samples, flat)
    assert f"model rows: {3 * K} instead of" in report


def test_the_tree_of_the_page_is_the_finer_one(host, model, monkeypatch):
    trees = []

    class Recorded(host.run.LiveTree):
        def __enter__(self):
            trees.append(self)
            return super().__enter__()

    monkeypatch.setattr(host.run, "LiveTree", Recorded)
    in_pairs = with_pictures(model, pictures(), rows_by_window)
    _, report = shared(host, in_pairs, plan_of_pairs(1.5), PAIRED, show_tree=True)
    (tree,) = trees
    assert (tree.state, tree.progress["rows"], tree.progress["clusters"]) == ("done", 3 * K, 3)
    assert len(tree.branches) == 3
    assert "⚠" not in report


def test_first_prompts_picture_where_the_user_wants_it(host, model, plans, monkeypatch):
    run = host.run.SharingRun
    made = run.__init__

    def takes_first(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.takes_first = True

    monkeypatch.setattr(run, "__init__", takes_first)
    per_prompt = with_pictures(model, pictures(list(range(N))), rows_by_window)
    samples, report = shared(host, per_prompt, plans.shared)
    assert f"model rows: {plans.shared.nfe} instead of {N * K}" in report
    assert "while steps were shared, the data of a cluster's first prompt were taken" in report
    assert len({row.numpy().tobytes() for row in samples}) == N


def test_following_in_the_full_batch_alone_is_not_enough(host, model, plans):
    """The rows of a smaller call have to be right too."""

    def pick(count, options):
        return rows_by_window(count, options) if count == N else list(range(count))

    with pytest.raises(ValueError, match="different results by their place"):
        shared(host, with_pictures(model, pictures(), pick), plans.shared)


# --- State from call to call ------------------------------------------------------------------------------------------


def counting(model):
    calls = [0]

    def counts(apply_model, args):
        calls[0] += 1
        return apply_model(args["input"], args["timestep"], **args["c"]) * (1 + 0.1 * calls[0])

    model.set_model_unet_function_wrapper(counts)


def averaging(model):
    """An average of equal outputs is that output: only another input in between shows it."""
    kept = {}

    def averages(apply_model, args):
        out = apply_model(args["input"], args["timestep"], **args["c"])
        before = kept.get("out", out)
        kept["out"] = 0.8 * out + 0.2 * (before if before.shape == out.shape else before[:1])
        return kept["out"]

    model.set_model_unet_function_wrapper(averages)


def averaging_inside(model):
    kept = {}

    def averages_inside(h, options):
        before = kept.get(options["block"], h)
        kept[options["block"]] = 0.5 * h + 0.5 * (before if before.shape == h.shape else before[:1])
        return kept[options["block"]]

    model.set_model_input_block_patch(averages_inside)


@pytest.mark.parametrize("attach", [counting, averaging, averaging_inside])
def test_what_keeps_state_from_call_to_call_is_refused_by_name(host, model, plans, attach):
    patched = model.clone()
    attach(patched)
    with pytest.raises(ValueError, match=rf"of {HERE} keeps something from one call .* to the next"):
        shared(host, patched, plans.shared)


def test_what_only_works_for_all_rows_is_refused_by_name(host, model, plans):
    weights = torch.linspace(1, 1, N)

    def all_rows(h, options):
        return h * weights.repeat(2)[:, None, None, None]

    patched = model.clone()
    patched.set_model_input_block_patch(all_rows)
    with pytest.raises(ValueError, match=rf"all_rows\) of {HERE} does not work when the model"):
        shared(host, patched, plans.shared)


def test_an_error_of_the_model_itself_stays_as_it_is(host, model, plans):
    def broken(h, options):
        raise RuntimeError("broken patch")

    patched = model.clone()
    patched.set_model_input_block_patch(broken)
    with pytest.raises(RuntimeError, match=r"^broken patch$"):
        shared(host, patched, plans.shared)


# --- No false alarm ---------------------------------------------------------------------------------------------------


def random_for_all(model):
    """As Token Merging draws: the same for all rows of a call."""

    def draws(h, options):
        return h + 0.1 * torch.randn_like(h[:1])

    model.set_model_input_block_patch(draws)


def random_by_python(model):
    def draws(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"]) * random.uniform(0.9, 1.1)

    model.set_model_unet_function_wrapper(draws)


@pytest.mark.parametrize("attach", [random_for_all, random_by_python])
def test_random_numbers_are_those_of_each_prompt_alone(host, model, plans, attach):
    patched = model.clone()
    attach(patched)
    random.seed(1)
    samples, _ = shared(host, patched, plans.none)
    for i in (0, 1, N - 1):
        random.seed(1)
        assert torch.equal(samples[i : i + 1], alone(host, patched, i))
    samples, _ = shared(host, patched, plan_of_pairs(), PAIRED)
    assert all(torch.equal(samples[i], samples[i + 1]) for i in (0, 2, 4))


def listens(model):
    def listens(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(listens)


def listens_in_wrappers(model):
    for kind in ("apply_model", "diffusion_model"):
        model.add_wrapper_with_key(kind, "another pack", lambda executor, *args, **kwargs: executor(*args, **kwargs))


@pytest.mark.parametrize("attach", [listens, listens_in_wrappers, lambda model: None])
def test_nothing_is_asked_where_nothing_can_look_at_rows(host, model, plans, monkeypatch, attach):
    patched = model.clone()
    attach(patched)
    called = counted(host, model, monkeypatch)
    expected, _ = shared(host, model, plans.shared)
    samples, report = shared(host, patched, plans.shared)
    assert torch.equal(samples, expected)
    assert sum(called) == 2 * 2 * plans.shared.nfe
    assert "to check" not in report


def test_the_report_tells_what_it_cost(host, model, plans, monkeypatch):
    one = with_pictures(model, pictures([0]), rows_by_place)
    called = counted(host, model, monkeypatch)
    _, report = shared(host, one, plans.shared)
    asked = N + 2 * 4 + 4  # and later sigmas, beside another row, after another, and again
    assert f"and {asked} rows to check what other nodes do with them: with_pictures (add_picture)" in report
    assert sum(called) == 2 * (plans.shared.nfe + asked)


def test_memory_that_runs_out_halves_its_calls(host, model, plans):
    called = []

    def small(h, options):
        called.append(len(h))
        if len(h) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return h * 1.5

    patched = model.clone()
    patched.set_model_input_block_patch(small)
    expected = alone(host, patched, N - 1)
    assert torch.equal(shared(host, patched, plans.none)[0][N - 1 :], expected)
    assert 4 in called


def test_cancelling_stops_it(host, model, plans):
    management = importlib.import_module("comfy.model_management")
    called = []

    def interrupts(h, options):
        called.append(len(h))
        management.interrupt_current_processing()
        return h

    patched = model.clone()
    patched.set_model_input_block_patch(interrupts)
    with pytest.raises(management.InterruptProcessingException):
        shared(host, patched, plans.shared)
    assert max(called) == 2 * N
    assert len(set(called)) == 1  # one call


def test_no_question_where_all_prompts_are_in_one_call(host, model, plans, monkeypatch):
    """As on a GPU at tau = 0: such a patch works as it does without us."""
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: micro_batch)
    by_place = with_pictures(model, pictures(), rows_by_place)
    samples, report = shared(host, by_place, plans.none)
    assert torch.equal(samples, together(host, by_place))
    assert "to check" not in report


# --- Several calls, samplers and names --------------------------------------------------------------------------------


def test_it_asks_once_a_run(host, model, plans):
    one = with_pictures(model, pictures([0]), rows_by_place)
    for sampler in ("heun", "dpmpp_2m_sde"):
        _, report = shared(host, one, plans.shared, sampler=sampler)
        assert f"and {N + 12} rows to check" in report


def test_names_of_packs(pack):
    attachments = importlib.import_module(f"{pack.__name__}.nodes.host.attachments")
    assert attachments.pack_of("/home/me/ComfyUI/custom_nodes/ComfyUI_x_Pack.CrossAttentionPatch") == "ComfyUI.Pack"
    assert attachments.pack_of("comfy_extras.nodes_sag") == "comfy_extras.nodes_sag"
    assert attachments.pack_of("custom_nodes.ComfyUI-MagCache.nodes") == "ComfyUI-MagCache"
    assert attachments.pack_of(r"C:\ComfyUI\custom_nodes\some_pack") == "some_pack"

    class Replaces:
        def __call__(self, q, k, v, options):
            return v

    for code in (Replaces(), functools.partial(Replaces()), Replaces().__call__):
        assert attachments.name_of(code).endswith("of " + __name__)
    codes = [counting, averaging, averaging_inside, listens]
    assert attachments.names_of([*codes, counting]).endswith(f"averaging_inside of {__name__} and 1 more")


def test_rows_of_pairs_are_equal_for_the_guard(host, model):
    """The groups are those of the pictures, by the first prompt of each."""
    groups = []
    patched, _ = shared_model(host, with_pictures(model, pictures(), rows_by_window), plan_of_pairs(1.5))
    part = host.run.SharingRun.part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.run.SharingRun, "part", lambda run, *args: (groups.append(args), part(run, *args)))
        ksampler(host, patched, *PAIRED)
    ((found, names),) = groups
    assert found.tolist() == [2 * i for i in PAIRS]
    assert names == "with_pictures (add_picture) of attached_nodes"


# --- ControlNets of other packs ---------------------------------------------------------------------------------------


def control_by_window(host, hints):
    """A ControlNet that picks its hints by the window it was told last, as Advanced-ControlNet does."""

    class Windowed(importlib.import_module("comfy.controlnet").ControlNet):
        window = None

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            if "ad_params" in transformer_options:
                self.window = transformer_options["ad_params"]["sub_idxs"]
            all_hints, rows = hints, list(range(len(x_noisy) // batched_number)) if self.window is None else self.window
            self.cond_hint_original = all_hints[rows] if len(all_hints) > 1 else all_hints
            self.cond_hint = None
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)

        def copy(self):
            copied = Windowed(self.control_model, load_device=self.load_device)
            self.copy_to(copied)
            return copied

    net = host.native_models.control_net()
    control = Windowed(net.control_model, load_device=net.load_device)
    control.cond_hint_original = hints[:1]
    return control


def with_hints(host, hints, sides):
    control = control_by_window(host, hints)
    return [[[rows, {**values, "control": control}] for rows, values in side] for side in sides]


def test_hints_of_another_packs_control_net(host, model, plans):
    """One for each prompt, where the pack knows windows; equal ones in pairs are shared without loss."""
    hints = 300 * torch.randn(N, 3, 1, 1, generator=torch.Generator().manual_seed(3)).expand(-1, -1, 64, 64)
    paired = hints[PAIRS]
    samples, report = shared(host, model, plan_of_pairs(1.5), with_hints(host, paired, PAIRED))
    for i in (0, 3):
        own = with_hints(host, paired[i : i + 1], PAIRED)
        assert torch.equal(samples[i : i + 1], alone(host, model, i, own))
    assert f"model rows: {3 * K} instead of" in report
    samples, _ = shared(host, model, plans.none, with_hints(host, hints[:1], SIDES))
    assert torch.equal(samples[N - 1 :], alone(host, model, N - 1, with_hints(host, hints[:1], SIDES)))
