"""Unconditional rows that clusters share in the call in which they part, on the host: the same pictures, fewer passes.

With a network whose rows do not know of each other, not even by rounding, and as on a GPU: there rows are shared."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from shared_runs import K, N, ksampler, one_noise, rows_of, shared_model

from hierdiff_core import GuidanceCourse, Store
from hierdiff_core.plan.algebra import rerolled
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.unconditional import rows_of_families, unconditional_families

pytestmark = pytest.mark.host

SAMPLERS = ["euler", "heun", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_3m_sde", "uni_pc", "lcm"]


class Rows:
    """A UNet of single rows, which notes how many each call has."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, timesteps=None, context=None, **_):
        self.calls.append(len(x))
        rows = zip(x, timesteps, context, strict=True)
        return torch.stack([0.3 * row.clamp(-2, 2) + side.mean() + 0.001 * t for row, t, side in rows])

    @property
    def passes(self):
        return sum(self.calls)


@pytest.fixture
def shared(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.shared_unconditional")


@pytest.fixture
def draw(host, model, sides, shared, all_at_once, monkeypatch):
    """Draws with rows shared or not: pictures, the report, the network."""

    def drawn(plan, share=True, sides=sides, sampler="euler", model=model, sharing=(), **options):
        network = Rows()
        monkeypatch.setattr(shared, "shares_rows", lambda device: share)
        # of the class: what is put into a model itself is asked about by the guard
        forward = lambda unet, *args, **kwargs: network(*args, **kwargs)  # noqa: E731
        monkeypatch.setattr(type(model.model.diffusion_model), "forward", forward)
        reports, own = [], {"show_tree": False, **dict(sharing)}
        own["tell"] = lambda text, **data: reports.append(text)
        patched = host.sharing.share_steps(model, host.sharing.Sharing(plan, **own))
        return ksampler(host, patched, *sides, sampler, **options), reports[0], network

    return drawn


def passes_of(plan):
    """Passes of a run of one call a step, with shared rows."""
    course = plan.guidance or GuidanceCourse()
    return course.passes(plan, rows_of_families(unconditional_families(plan)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_picture_is_the_same(draw, plans, sampler):
    for plan in (plans.shared, plans.none):
        expected, _, apart = draw(plan, share=False, sampler=sampler)
        samples, _, network = draw(plan, sampler=sampler)
        assert torch.equal(samples, expected)
        assert network.passes == apart.passes - (N - 1)
        assert len(network.calls) == len(apart.calls)


def test_passes_are_the_plans_and_the_report_says_so(draw, plans):
    _, report, network = draw(plans.shared)
    assert network.passes == passes_of(plans.shared)
    assert f"passes: {network.passes} instead of {2 * N * K}" in report
    assert f"{N - 1} unconditional passes fewer" in report
    assert rows_of(report) == plans.shared.nfe


def test_nothing_is_claimed_where_nothing_is_shared(draw, plans):
    _, report, network = draw(plans.shared, share=False)
    assert network.passes == 2 * plans.shared.nfe
    assert "passes: " not in report
    assert "fewer" not in report


def test_on_a_cpu_nothing_is_shared(shared):
    assert not shared.shares_rows("cpu")
    assert shared.shares_rows("cuda")


@pytest.mark.parametrize("course", [GuidanceCourse(end=0.75), GuidanceCourse(0.25, 1.0, 2.0, 2)])
def test_with_guidance_in_a_part_of_the_steps(draw, plans, course):
    plan = replace(plans.shared, guidance=course)
    expected, before, apart = draw(plan, share=False)
    samples, report, network = draw(plan)
    assert torch.equal(samples, expected)
    assert network.passes == passes_of(plan) < apart.passes
    assert f"passes: {apart.passes} instead of {2 * N * K}" in before
    assert f"passes: {network.passes} instead of {2 * N * K}" in report


def test_micro_batches_evaluate_a_shared_row_once(host, draw, plans, monkeypatch):
    expected, _, apart = draw(plans.shared, share=False)
    for limit in (1, 2, 4):
        monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch, limit=limit: limit)
        samples, _, network = draw(plans.shared)
        assert torch.equal(samples, expected)
        assert network.passes == apart.passes - (N - 1)
        assert max(network.calls) <= 2 * limit


def test_a_call_is_padded_where_somebody_asks_for_few_sizes(draw, plans, shared, monkeypatch):
    expected, _, _ = draw(plans.shared, share=False)
    init = shared.SharedUnconditional.__init__

    def padding(self, current):
        init(self, current)
        self.padded = lambda rows: max(rows, 9)

    monkeypatch.setattr(shared.SharedUnconditional, "__init__", padding)
    samples, _, network = draw(plans.shared)
    assert torch.equal(samples, expected)
    assert 9 in network.calls


def test_where_memory_runs_out_calls_are_halved(draw, plans, monkeypatch):
    expected, _, _ = draw(plans.shared, share=False)

    def failing(self, x, *args, **kwargs):
        if len(x) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return Rows.plain(self, x, *args, **kwargs)

    monkeypatch.setattr(Rows, "plain", Rows.__call__, raising=False)
    monkeypatch.setattr(Rows, "__call__", failing)
    assert torch.equal(draw(plans.shared)[0], expected)


def test_where_all_sides_do_not_fit_the_host_divides_them(draw, plans, shared, monkeypatch):
    monkeypatch.setattr(shared, "fits", lambda *_: False)
    assert draw(plans.shared)[2].passes == 2 * plans.shared.nfe


def test_equal_rows_are_found_among_the_first_kinds(shared):
    rows = torch.tensor([[1.0], [2.0], [1.0], [3.0], [4.0], [5.0], [6.0], [6.0]])
    assert shared.groups_of_equal(rows).tolist() == [0, 1, 0, 3, 4, 5, 6, 7]
    assert shared.groups_of_equal(rows, 9).tolist() == [0, 1, 0, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("kinds", [1, 2, N])
def test_negatives_with_a_row_for_each_prompt(draw, plans, sides, kinds):
    rows = torch.randn(kinds, 5, 16, generator=torch.Generator().manual_seed(5))[torch.arange(N) % kinds]
    own = [sides[0], [[rows, {}]]]
    expected, _, apart = draw(plans.shared, share=False, sides=own)
    samples, _, network = draw(plans.shared, sides=own)
    assert torch.equal(samples, expected)
    families = unconditional_families(plans.shared, np.arange(N) % kinds)
    assert network.passes == GuidanceCourse().passes(plans.shared, rows_of_families(families)) <= apart.passes


def test_negatives_with_another_number_of_tokens(draw, plans, sides):
    own = [sides[0], [[torch.ones(1, 10, 16), {}]]]
    expected, _, apart = draw(plans.shared, share=False, sides=own)
    samples, _, network = draw(plans.shared, sides=own)
    torch.testing.assert_close(samples, expected)  # means of a text that is repeated to the length of the other
    assert network.passes == apart.passes - (N - 1)


def test_rerolled_prompts_and_seeds_of_their_own(draw, plans):
    seeded = replace(plans.none, seeds=tuple([5, None][i % 2] for i in range(N)))
    anew = rerolled(plans.shared, [Reroll(2, 3, 1), Reroll(0, 0, 1)])
    for plan, fewer in ((seeded, N - 2), (anew, N - 3)):
        expected, _, apart = draw(plan, share=False)
        samples, _, network = draw(plan)
        assert torch.equal(samples, expected)
        assert apart.passes - network.passes == fewer


def test_start_latents_of_their_own_are_not_taken_for_equal(draw, plans, host):
    latents = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"latents": latents, "noise": one_noise(host), "sharing": {"per_prompt": "first prompt's while shared"}}
    expected, _, apart = draw(plans.shared, share=False, **options)
    samples, _, network = draw(plans.shared, **options)
    assert torch.equal(samples, expected)
    assert network.passes < apart.passes


@pytest.mark.parametrize("what", ["patch", "told", "function", "area", "wrapper"])
def test_where_something_looks_at_the_rows_each_has_its_own(draw, plans, sides, model, what):
    looked, own = model.clone(), sides
    if what in ("patch", "told"):
        patch = lambda q, k, v, options: (q, k, v)  # noqa: E731
        patch.heeds_hierdiff = what == "told"  # it picks its rows by what it is told of them
        looked.set_model_attn2_patch(patch)
    elif what == "function":
        looked.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
    elif what == "area":
        own = [sides[0], [[sides[1][0][0], {"area": (8, 8, 0, 0), "strength": 1.0}]]]
    else:
        looked.add_wrapper("calc_cond_batch", lambda executor, *args: executor(*args))
    _, _, apart = draw(plans.shared, share=False, sides=own, model=looked)
    _, report, network = draw(plans.shared, sides=own, model=looked)
    assert network.calls == apart.calls
    assert "fewer" not in report


def test_latents_are_compared_only_where_something_may_have_parted_them(draw, plans, shared, monkeypatch):
    compared, compare = [], shared.equal_rows
    monkeypatch.setattr(shared, "equal_rows", lambda rows: compared.append(len(rows)) or compare(rows))
    draw(plans.shared)
    assert len(compared) <= 1  # in the first call of the run
    draw(rerolled(plans.shared, [Reroll(2, 3, 1)]))
    assert len(compared) > 2


def test_rows_of_a_store_are_the_same(draw, plans, host, pack):
    keeping = importlib.import_module(f"{pack.__name__}.nodes.host.keeping").Keeping
    store = Store(2**24)
    expected, _, _ = draw(plans.shared, share=False)
    for share, passes in ((True, passes_of(plans.shared)), (False, 0)):
        own = {"keeping": keeping(store, fresh=plans.shared)}
        samples, _, network = draw(plans.shared, share=share, sharing=own)
        assert torch.equal(samples, expected)
        assert network.passes == passes


def test_pictures_of_a_real_unet_differ_by_rounding_alone(host, model, plans, sides, shared, all_at_once, monkeypatch):
    pictures = []
    for share in (False, True):
        monkeypatch.setattr(shared, "shares_rows", lambda device, share=share: share)
        patched, reports = shared_model(host, model, plans.shared)
        pictures.append(ksampler(host, patched, *sides))
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-3)
    assert f"{N - 1} unconditional passes fewer" in reports[0]
