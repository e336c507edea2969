"""Unconditional rows that branches share: the same pictures, and the passes that the plan says. With networks whose
rows do not know of each other, not even by rounding: on a CPU the UNet's rows do, and nothing is shared."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hierdiff_core import (
    GuidanceCourse,
    PromptEmbeddings,
    Store,
    build_plan,
    linear_thresholds,
    load_decoder,
    sample,
    ward_linkage,
)
from hierdiff_core.kandinsky import decoder as decoders
from hierdiff_core.kandinsky import shared, workers_process
from hierdiff_core.kandinsky.guidance import passes_per_row
from hierdiff_core.kandinsky.plan_embeddings import embeddings_for
from hierdiff_core.kandinsky.schedulers import SCHEDULERS
from hierdiff_core.kandinsky.workers import sample_on
from hierdiff_core.plan.algebra import rerolled
from hierdiff_core.plan.part import below, whole
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.plan.unconditional import families_of_part, rows_of_families, unconditional_families
from hierdiff_core.sampling.executor import Threads
from hierdiff_core.sampling.loop import ORDERS
from hierdiff_core.sampling.microbatch import MicroBatches

STEPS, PROMPTS, WIDTH = 6, 7, 128
SMALL = {"width": 64, "height": 64}


class Rows:
    """A network of single rows, which counts them."""

    dtype, device = torch.float32, torch.device("cpu")

    acceleration = "none"

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, embeds):
        self.calls.append(len(x))
        rows = (0.3 * row + side.mean() + 0.001 * t for row, side in zip(x, embeds, strict=True))
        return torch.stack([torch.cat([row, 0.1 * row.tanh()]) for row in rows])

    @property
    def passes(self):
        return sum(self.calls)

    def close(self):
        """Nothing is kept for a run."""


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


def embedded(negatives=1):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(PROMPTS, WIDTH, generator=generator)
    kinds = torch.randn(negatives, WIDTH, generator=generator)
    return PromptEmbeddings(rows, kinds[torch.arange(PROMPTS) % negatives], [f"prompt {i}" for i in range(PROMPTS)])


EMBEDDINGS = embedded()
PLAN = replace(
    build_plan(ward_linkage(EMBEDDINGS.positive), linear_thresholds(STEPS, 1.3)), prompt_keys=tuple(EMBEDDINGS.keys)
)
REROLLED = rerolled(PLAN, [Reroll(0, 0, 1), Reroll(3, 3, 1)])
SEEDED = replace(PLAN, guidance=GuidanceCourse(0.2, 0.7, 2.0, 2))


@pytest.fixture
def draw(decoder, monkeypatch):
    """Draws with shared rows or without: latents, and the calls of the network."""

    def drawn(plan, embeddings=EMBEDDINGS, share=True, limit=3, sizes=(), **options):
        network = Rows()
        monkeypatch.setattr(decoders, "few_call_sizes", lambda counts: sizes)
        monkeypatch.setattr(shared, "shares_rows", lambda device: share)
        monkeypatch.setattr(decoders, "unet_calls", lambda unet, acceleration: network)
        monkeypatch.setattr(decoders, "rows_per_call", lambda *args: limit)
        latents = sample(decoder, embeddings, plan, guidance=3.0, **SMALL, **options)
        return latents, network

    return drawn


@pytest.mark.parametrize("plan", [PLAN, REROLLED, SEEDED], ids=["plain", "rerolled", "guided in part"])
def test_workers_share_rows_within_a_piece_and_make_calls_of_few_sizes(draw, decoder, monkeypatch, plan):
    expected, _ = draw(plan, share=False)
    networks = [Rows(), Rows()]
    network = iter(networks)
    monkeypatch.setattr(shared, "shares_rows", lambda device: True)
    monkeypatch.setattr(workers_process, "shares_rows", lambda device: True)
    monkeypatch.setattr(workers_process, "unet_calls", lambda unet, acceleration: next(network))
    monkeypatch.setattr(workers_process, "rows_per_call", lambda *args: 5)
    with Threads(2) as executor:
        latents = sample_on(executor, decoder, EMBEDDINGS, plan, guidance=3.0, **SMALL)
    assert torch.equal(latents, expected)
    assert {size for each in networks for size in each.calls} <= {2, 4, 6, 8, 10}
    course = plan.guidance or GuidanceCourse()
    assert sum(each.passes for each in networks) >= course.passes(plan, unconditional(plan))


def test_families_of_a_part_are_of_its_own_clusters():
    families = unconditional_families(PLAN)
    k = next(
        k for k, own in enumerate(families) if len(set(own.tolist())) < len(own) and PLAN.steps[k].num_clusters > 2
    )
    everyone, part = np.arange(len(families[k])), whole(PLAN)
    gone = np.flatnonzero(np.bincount(families[k], minlength=len(everyone)) > 1)[:1]  # the first of several siblings
    own = families_of_part(families, below(part, k, np.setdiff1d(everyone, gone)))
    assert all(np.array_equal(one, other) for one, other in zip(own[:k], families[:k], strict=True))
    siblings = np.setdiff1d(np.flatnonzero(families[k] == families[k][gone]), gone)
    assert (own[k][siblings] == siblings[0]).all()  # nobody waits for a row of another part's
    assert own[k][gone] == gone
    others = np.setdiff1d(everyone, [*siblings, *gone])
    assert np.array_equal(own[k][others], families[k][others])
    assert rows_of_families(families_of_part(families, part)).tolist() == rows_of_families(families).tolist()


def unconditional(plan, embeddings=EMBEDDINGS):
    found = embeddings_for(plan, embeddings)
    return rows_of_families(unconditional_families(plan, shared.equal_negatives(found), found.known))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("plan", [PLAN, REROLLED, SEEDED], ids=["plain", "rerolled", "guided in part"])
def test_pictures_are_the_same_and_passes_are_the_plans(draw, plan, scheduler):
    expected, apart = draw(plan, share=False, scheduler=scheduler)
    course, rows = plan.guidance or GuidanceCourse(), unconditional(plan)
    assert apart.passes == course.passes(plan)
    for limit in (1, 2, 3, 32):
        latents, network = draw(plan, limit=limit, scheduler=scheduler)
        assert torch.equal(latents, expected)
        assert network.passes == course.passes(plan, rows) < apart.passes
        assert max(network.calls) <= 2 * limit
    assert passes_per_row(plan, 3.0, (0.0, 1.0), rows) @ plan.clusters_per_step == pytest.approx(network.passes)


def test_as_many_are_saved_as_prompts_less_one(draw):
    assert draw(PLAN, share=False)[1].passes - draw(PLAN)[1].passes == PROMPTS - 1


def test_calls_that_are_padded_draw_the_same(draw):
    expected, _ = draw(PLAN, share=False, limit=4)
    latents, network = draw(PLAN, limit=4, sizes=(5, 8))
    assert torch.equal(latents, expected)
    assert 7 not in network.calls
    assert 8 in network.calls


def test_no_more_calls_than_without(draw):
    for limit in (1, 2, 3, 4, 32):
        assert len(draw(PLAN, limit=limit)[1].calls) <= len(draw(PLAN, share=False, limit=limit)[1].calls)


@pytest.mark.parametrize("negatives", [2, PROMPTS])
def test_other_negatives_have_their_own(draw, negatives):
    embeddings = embedded(negatives)
    expected, apart = draw(PLAN, embeddings, share=False)
    latents, network = draw(PLAN, embeddings)
    assert torch.equal(latents, expected)
    assert network.passes == GuidanceCourse().passes(PLAN, unconditional(PLAN, embeddings)) <= apart.passes


@pytest.mark.parametrize("plan", [PLAN, SEEDED], ids=["plain", "guided in part"])
@pytest.mark.parametrize("limit", [1, 2])
def test_depth_first_later_siblings_take_the_row_of_the_first(draw, monkeypatch, plan, limit):
    monkeypatch.setattr(decoders, "LEAST_PART", 1)
    expected, _ = draw(plan, share=False, order=ORDERS[1], limit=limit)
    latents, network = draw(plan, order=ORDERS[1], limit=limit)
    assert torch.equal(latents, expected)
    assert network.passes == (plan.guidance or GuidanceCourse()).passes(plan, unconditional(plan))


def test_rows_are_kept_no_longer_than_siblings_are_to_come():
    rows = shared.SharedRows([np.array([0, 0, 0, 3])])
    made = []
    for cluster in (0, 3, 2, 1):
        rows.ask(0, np.array([cluster]))
        entries = rows.entries(0, np.array([cluster]), np.array([True]))
        made.append(None if entries is None else (entries.spared, len(entries.rows)))
        if entries is not None:
            together = rows.with_known(0, entries, torch.full((len(entries.rows), 1), float(cluster)))
            assert together[entries.unconditional].item() == 0
    assert made == [(0, 2), None, (1, 1), (1, 1)]
    assert not rows._rows


def test_a_store_gets_the_same_rows(draw):
    expected, _ = draw(PLAN, share=False)
    store = Store(2**24)
    draw(PLAN, store=store, stop_after=0.5)
    latents, network = draw(PLAN, store=store)
    assert torch.equal(latents, expected)
    again, nothing = draw(PLAN, share=False, store=store)
    assert torch.equal(again, expected)
    assert network.passes
    assert not nothing.passes


def test_on_a_cpu_nothing_is_shared(decoder):
    assert not shared.shares_rows("cpu")
    assert shared.shares_rows("cuda")
    assert shared.shared_rows(PLAN, embeddings_for(PLAN, EMBEDDINGS), "cpu") is None


@pytest.mark.parametrize(
    ("limit", "entries", "calls"), [(4, 9, [6, 3]), (4, 8, [8]), (1, 3, [2, 1]), (16, 33, [18, 15])]
)
def test_calls_are_of_nearly_the_same_size(limit, entries, calls):
    sizes = []

    def evaluate(part):
        sizes.append(part.stop - part.start)
        return torch.arange(part.start, part.stop)

    made = shared.in_few_calls(MicroBatches(limit), evaluate, entries)
    assert made.tolist() == list(range(entries))
    assert sizes == calls


def test_where_memory_runs_out_calls_are_halved():
    sizes = []

    def evaluate(part):
        if part.stop - part.start > 2:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(part.stop - part.start)
        return torch.arange(part.start, part.stop)

    made = shared.in_few_calls(MicroBatches(8), evaluate, 11)
    assert made.tolist() == list(range(11))
    assert max(sizes) == 2


def test_entries_are_counted():
    entries = shared.Entries(np.array([0, 0, 2, 0]), np.array([True, True, True, False]))
    assert entries.rows.tolist() == [0, 1, 2, 3, 0, 2]
    assert entries.sides.tolist() == [0, 0, 0, 0, 1, 1]
    assert entries.unconditional.tolist() == [4, 4, 5]
    assert entries.spared == 1
