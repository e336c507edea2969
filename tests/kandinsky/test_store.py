"""Kandinsky on a store, with a UNet of a few lines: what is drawn, and what is evaluated for it."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoders import STEPS, WIDTH, embeddings_of, planned, toy_decoder

from hierdiff_core import GuidanceCourse, Observer, PromptEmbeddings, Store
from hierdiff_core import sample as sample_with
from hierdiff_core.files import whole_files
from hierdiff_core.kandinsky.price import missing_rows
from hierdiff_core.kandinsky.schedulers import SCHEDULERS
from hierdiff_core.plan.algebra import attach, edited, removed, rerolled
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.prompts.rows import PromptRow, PromptRows
from hierdiff_core.sampling.loop import ORDERS
from hierdiff_core.sampling.progress import RunProgress
from hierdiff_core.sampling.trunk_files import TrunkFolder

settings.register_profile("core", deadline=None, max_examples=25)
settings.load_profile("core")

MANY = 2**24
DRAWING = ("DDPM", "Euler ancestral")


NAMES = ["cat", "cow", "cub", "dog", "doe", "emu"]
EMBEDDINGS = embeddings_of(NAMES)
PLAN = planned(EMBEDDINGS)


OTHER = PromptEmbeddings(-EMBEDDINGS.positive, EMBEDDINGS.negative, NAMES)  # of another prior


def draw(plan=PLAN, embeddings=EMBEDDINGS, decoder=None, **options):
    """Latents, and the rows that the UNet evaluated for them; guidance takes two passes for each."""
    decoder = decoder or toy_decoder()
    before = decoder.unet.rows
    latents = sample_with(decoder, embeddings, plan, **{"width": 64, "height": 64, **options})
    return latents, (decoder.unet.rows - before) // 2


def test_plan_shares():
    assert PLAN.steps[0].num_clusters < PLAN.steps[3].num_clusters < 6


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_pictures_are_bit_identical_with_a_store_and_without(scheduler, order):
    store, settings = Store(MANY), {"scheduler": scheduler, "order": order}
    expected, rows = draw(**settings)
    assert rows == PLAN.nfe
    for evaluated in (PLAN.nfe, 0):
        latents, rows = draw(store=store, **settings)
        assert torch.equal(latents, expected)
        assert rows == evaluated
    assert store.rows == PLAN.nfe
    channels = 8 if scheduler == "DDPM" else 4
    assert store.get(next(iter(store._of_row))).shape == (channels, 8, 8)


def test_orders_share_a_store():
    store = Store(MANY)
    draw(store=store, order=ORDERS[0])
    assert draw(store=store, order=ORDERS[1])[1] == 0


class Told(Observer):
    def __init__(self, plan):
        self.progress, self.stored, self.calls, self.heard = (
            RunProgress(plan, clock=iter(range(10**6)).__next__),
            None,
            0,
            0,
        )

    def before_call(self):
        self.calls += 1

    def on_stored(self, rows):
        self.stored = rows.tolist()
        self.progress.on_stored(rows)

    def on_reused(self, rows):
        self.progress.on_reused(rows)

    def on_rows(self, k, clusters, x0):
        self.heard += len(clusters)
        self.progress.on_rows(k, clusters, x0)


@pytest.mark.parametrize("order", ORDERS)
def test_progress_counts_what_is_evaluated_and_tells_what_is_not(order):
    store, told = Store(MANY), Told(PLAN)
    draw(store=store, observer=told, order=order)
    assert (told.progress.rows, told.progress.reused, told.stored) == (PLAN.nfe, 0, [0] * STEPS)
    new = embeddings_of([*NAMES, "cob"])
    grown = attach(PLAN, EMBEDDINGS.positive, new.positive[6:], new.keys[6:], ["cob"])
    told = Told(grown)
    draw(grown, new, store=store, observer=told, order=order)
    progress = told.progress
    assert progress.reused == sum(told.stored) == PLAN.nfe
    assert progress.rows == told.calls == grown.nfe - PLAN.nfe
    assert told.heard == grown.nfe == progress.total
    assert progress.standard_rows == grown.nfe_standard
    assert progress.work == (progress.rows, progress.rows)


# --- sets that change


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_attached_prompt_costs_its_own_rows_alone(scheduler):
    store = Store(MANY)
    before, _ = draw(scheduler=scheduler, store=store)
    new = embeddings_of([*NAMES, "cob"])
    grown = attach(PLAN, EMBEDDINGS.positive, new.positive[6:], new.keys[6:], ["cob"])
    latents, rows = draw(grown, new, scheduler=scheduler, store=store)
    assert 0 < rows == grown.nfe - PLAN.nfe < STEPS
    assert torch.equal(latents[:6], before)
    assert torch.equal(latents, draw(grown, new, scheduler=scheduler)[0])


def test_a_removed_prompt_costs_nothing_and_leaves_the_others_alone():
    store = Store(MANY)
    before, _ = draw(store=store)
    for i in range(6):
        smaller = removed(PLAN, i)
        left = embeddings_of([name for j, name in enumerate(NAMES) if j != i])
        latents, rows = draw(smaller, left, store=store)
        assert rows == 0
        assert torch.equal(latents, before[[j for j in range(6) if j != i]])
        assert store.notes == []


def test_an_edited_prompt_costs_its_own_rows_and_editing_it_back_nothing():
    store = Store(MANY)
    before, _ = draw(store=store)
    names = ["cob", *NAMES[1:]]
    new = embeddings_of(names)
    other = edited(PLAN, 0, EMBEDDINGS.positive, new.positive[0], new.keys[0], "cob")
    latents, rows = draw(other, new, store=store)
    assert 0 < rows < STEPS
    assert torch.equal(latents[1:], before[1:])
    back = edited(
        other, 0, [embeddings_of([text]).positive[0].tolist() for text in other.frozen.tree.prompts],
        EMBEDDINGS.positive[0], EMBEDDINGS.keys[0], "cat",
    )  # fmt: skip
    latents, rows = draw(back, store=store)
    assert rows == 0
    assert torch.equal(latents, before)


def test_prompts_of_a_part_of_a_set_are_found_among_all_embeddings():
    store = Store(MANY)
    before, _ = draw(store=store)
    chosen = removed(removed(PLAN, 4), 1)
    latents, rows = draw(chosen, store=store)
    assert rows == 0
    assert torch.equal(latents, before[[0, 2, 3, 5]])
    assert torch.equal(draw(chosen)[0], latents)


def test_a_plan_of_a_part_without_a_history_is_found_too():
    some = planned(embeddings_of(NAMES[2:5]))
    assert torch.equal(draw(some)[0], draw(some, embeddings_of(NAMES[2:5]))[0])


def test_prompts_that_are_not_among_the_embeddings_are_refused():
    with pytest.raises(ValueError, match=r'prompt 4 of the plan \("emu"\) is not among the embeddings'):
        draw(removed(PLAN, 0), embeddings_of(NAMES[:5]))
    with pytest.raises(ValueError, match="the plan is for 6 prompts, but there are 7 embeddings"):
        draw(PLAN, embeddings_of([*NAMES[:5], "ewe", "elk"]))


def test_one_text_with_two_negatives_is_refused_where_nothing_tells_which():
    rows = PromptRows([PromptRow("cat"), PromptRow("cat", negative="dark"), *map(PromptRow, NAMES[1:])])
    plain = embeddings_of(["cat", *NAMES])
    negative = plain.negative.clone()
    negative[1] += 1
    with pytest.raises(ValueError, match=r'prompt 0 of the plan \("cat"\) is among the embeddings 2 times'):
        draw(PLAN, PromptEmbeddings(plain.positive, negative, rows))
    equal = PromptEmbeddings(plain.positive, plain.negative, rows)
    assert torch.equal(draw(PLAN, equal)[0], draw()[0])


def test_embeddings_of_prompts_that_are_gone_may_be_given():
    before, _ = draw()
    smaller, left, gone = removed(PLAN, 0), embeddings_of(NAMES[1:]), embeddings_of(["cat"])
    assert EMBEDDINGS.keys[0] in smaller.leaf_keys
    pair = {gone.keys[0]: gone.stacked()[:, 0]}
    for leaves in (gone, pair):
        assert torch.equal(draw(smaller, left, leaves=leaves)[0], before[1:])
    store = Store(MANY)
    store.leaves.put(gone.keys[0], gone.digests[0], gone.stacked()[:, 0])
    assert torch.equal(draw(smaller, left, store=store, leaves={gone.keys[0]: gone.digests[0]})[0], before[1:])
    assert torch.equal(draw(smaller, left, store=store)[0], before[1:])


@pytest.mark.parametrize("leaves", [None, {}, {1: torch.zeros(2, WIDTH)}], ids=["none", "nothing", "another"])
def test_means_without_those_that_are_lost_are_of_the_others_and_that_is_told(leaves):
    smaller, left, store = removed(PLAN, 0), embeddings_of(NAMES[1:]), Store(MANY)
    latents, rows = draw(smaller, left, store=store, leaves=leaves)
    assert rows == smaller.nfe
    before, _ = draw()
    shared = np.flatnonzero(PLAN.steps[0].labels == PLAN.steps[0].labels[0])[1:] - 1
    for i in range(5):
        assert torch.equal(latents[i], before[i + 1]) == (i not in shared)
    (note,) = store.notes
    assert note.startswith('the embeddings of "cat", which is gone, are not kept')
    assert f"{len(shared)} pictures may change" in note


def test_a_plan_with_lost_prompts_warns_without_a_store_too(caplog):
    draw(removed(PLAN, 0), embeddings_of(NAMES[1:]))
    assert 'the embeddings of "cat", which is gone, are not kept' in caplog.text


# --- rerolls


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_reroll_leaves_the_others_alone_and_costs_the_rows_after_it(scheduler, order):
    store = Store(MANY)
    before, _ = draw(scheduler=scheduler, store=store)
    step = 5
    assert PLAN.steps[step - 1].counts[2] == 1  # the last prompt is alone
    twice = [rerolled(PLAN, [Reroll(5, step, number)]) for number in (1, 2)]
    drawn = []
    for plan in twice:
        latents, rows = draw(plan, scheduler=scheduler, store=store, order=order)
        assert rows == STEPS - step - (scheduler in DRAWING)
        assert torch.equal(latents, draw(plan, scheduler=scheduler)[0])
        assert [torch.equal(*pair) for pair in zip(latents, before, strict=True)] == [True] * 5 + [False]
        drawn.append(latents[5])
    assert not torch.equal(*drawn)
    assert draw(twice[0], scheduler=scheduler, store=store)[1] == 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_reroll_from_the_first_step_begins_with_other_noise(scheduler):
    before, _ = draw(scheduler=scheduler)
    latents, _ = draw(rerolled(PLAN, [Reroll(5, 0, 1)]), scheduler=scheduler)
    assert [torch.equal(*pair) for pair in zip(latents, before, strict=True)] == [True] * 5 + [False]
    assert 0.5 < float(latents[5].std() / before[5].std()) < 2


def test_a_reroll_of_the_last_step_is_of_no_use_to_samplers_that_draw():
    plan = rerolled(PLAN, [Reroll(2, STEPS - 1, 1)])
    assert torch.equal(draw(plan)[0], draw()[0])
    assert not torch.equal(draw(plan, scheduler="UniPC")[0], draw(scheduler="UniPC")[0])


# --- what is reused, and what is not


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"guidance": 3.0}, "the guidance"),
        ({"seed": 1}, "the seed"),
        ({"height": 128}, "the size"),
        ({"scheduler": "DDIM"}, "the scheduler"),
        ({"rescale_means": True}, "the rescaling of means"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, "the first latent"),
        ({"decoder": toy_decoder(0.9)}, "the model"),
        ({"plan": planned(EMBEDDINGS, steps=6)}, "the steps"),
        ({"seed": 1, "height": 128}, "the size and the seed"),
        ({"embeddings": OTHER}, "the prompts"),
    ],
)
def test_other_settings_reuse_nothing_and_say_why(change, told):
    store = Store(MANY)
    expected, _ = draw(store=store)
    _, rows = draw(store=store, **change)
    assert rows == change.get("plan", PLAN).nfe
    assert store.notes == [f"{told} changed: nothing could be reused"]
    latents, rows = draw(store=store)
    assert (rows, store.notes) == (0, [])
    assert torch.equal(latents, expected)


def test_steps_before_a_change_of_the_guidance_are_reused():
    store = Store(MANY)
    draw(store=store, guidance_interval=(0.5, 1.0))
    latents, _ = draw(store=store, guidance_interval=(0.5, 0.75))
    assert missing_rows(toy_decoder(), EMBEDDINGS, PLAN, store, width=64, height=64).sum() == PLAN.nfe
    assert store.notes == []
    assert store.rows == PLAN.nfe + PLAN.clusters_per_step[6:].sum()
    assert torch.equal(latents, draw(guidance_interval=(0.5, 0.75))[0])


def test_prompts_with_seeds_of_their_own_are_reused_when_the_others_change():
    rows = PromptRows(PromptRow(name, seed=7 if i % 2 else None) for i, name in enumerate(NAMES))
    own = PromptEmbeddings(EMBEDDINGS.positive, EMBEDDINGS.negative, rows)
    plan, store = planned(own, 0.2), Store(MANY)
    before, _ = draw(plan, own, store=store)
    latents, count = draw(plan, own, store=store, seed=1)
    mine = sum(seed is None for k in range(STEPS) for seed in plan.branch_seeds(k))
    assert count == mine < plan.nfe
    assert torch.equal(latents[1::2], before[1::2])
    assert torch.equal(latents, draw(plan, own, seed=1)[0])


def test_guidance_of_the_plan_counts():
    store = Store(MANY)
    plan = replace(PLAN, guidance=GuidanceCourse(boost=1.5, boost_steps=2))
    expected, _ = draw(plan)
    draw(store=store)
    for _ in range(2):
        assert torch.equal(draw(plan, store=store)[0], expected)
    assert draw(plan, store=store)[1] == 0


def test_a_run_that_stops_gives_what_its_branches_are_heading_for_and_the_rest_goes_on_from_there():
    class Last(Observer):
        def on_rows(self, k, clusters, x0):
            self.x0 = x0[np.argsort(clusters)]

        def on_finished(self, prompts, latents):
            self.finished = latents

    store, last = Store(MANY), Last()
    latents, rows = draw(store=store, stop_after=0.5, observer=last)
    assert rows == PLAN.clusters_per_step[:4].sum()
    assert torch.equal(latents, last.x0[PLAN.steps[3].labels])
    assert torch.equal(last.finished, latents)
    assert torch.equal(draw(stop_after=0.5, order=ORDERS[1])[0], latents)
    whole, rows = draw(store=store)
    assert rows == PLAN.clusters_per_step[4:].sum()
    assert torch.equal(whole, draw()[0])


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), "half"])
def test_a_share_of_the_steps_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="stop_after must be a share of the steps above 0 and up to 1; got "):
        draw(stop_after=share)


def test_a_noise_source_of_ones_own_has_no_store():
    with pytest.raises(ValueError, match="a store knows rows by the seed of their noise"):
        draw(store=Store(MANY), noise=lambda k, branches: None)


def test_a_run_that_is_cancelled_goes_on_from_what_it_has(tmp_path):
    class Cancel(Observer):
        calls = 0

        def before_call(self):
            self.calls += 1
            if self.calls > 10:
                raise KeyboardInterrupt

    store = Store(MANY, TrunkFolder(tmp_path, MANY))
    with pytest.raises(KeyboardInterrupt):
        draw(store=store, observer=Cancel())
    kept = sum(PLAN.clusters_per_step[: np.searchsorted(np.cumsum(PLAN.clusters_per_step), 10, "right")])
    again = Store(MANY, TrunkFolder(tmp_path, MANY))
    latents, rows = draw(store=again)
    assert rows == PLAN.nfe - kept < PLAN.nfe
    assert torch.equal(latents, draw()[0])


def test_prices_are_known_before_the_run():
    decoder, store, size = toy_decoder(), Store(MANY), {"width": 64, "height": 64}
    assert missing_rows(decoder, EMBEDDINGS, PLAN, store, **size).tolist() == PLAN.clusters_per_step.tolist()
    half = missing_rows(decoder, EMBEDDINGS, PLAN, store, stop_after=0.5, **size)
    assert half.tolist() == [*PLAN.clusters_per_step[:4], 0, 0, 0, 0]
    draw(store=store)
    assert not missing_rows(decoder, EMBEDDINGS, PLAN, store, **size).any()
    plan = rerolled(PLAN, [Reroll(5, 5, 1)])
    price = missing_rows(decoder, EMBEDDINGS, plan, store, **size).sum()
    assert decoder.unet.calls == 0
    assert price == draw(plan, store=store)[1] == 2


# --- stores that fail


def test_a_store_too_small_goes_on_and_says_so():
    store, expected = Store(20_000), draw()[0]
    for _ in range(2):
        latents, rows = draw(store=store)
        assert torch.equal(latents, expected)
        assert "is too small for all rows of this run" in store.notes[0]
    assert 0 < rows < PLAN.nfe  # what it has is of use all the same
    tiny = Store(100)
    assert torch.equal(draw(store=tiny)[0], expected)
    assert "is too small for a single row" in tiny.notes[0]


def test_a_full_disk_and_damaged_files_change_no_picture(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    expected, _ = draw()
    store = Store(MANY, TrunkFolder(tmp_path, MANY))
    with monkeypatch.context() as patched:
        patched.setattr(whole_files.os, "fsync", full)
        assert torch.equal(draw(store=store)[0], expected)
    assert "the run goes on" in store.notes[0]
    draw(store=Store(MANY, TrunkFolder(tmp_path, MANY)))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    store = Store(MANY, TrunkFolder(tmp_path, MANY))
    latents, rows = draw(store=store)
    assert (rows, torch.equal(latents, expected)) == (PLAN.nfe, True)
    assert path.name in store.notes[0]


# --- any course of changes


ANIMALS = [first + rest for first in "cde" for rest in ("at", "ow", "ub", "og", "oe")]


@given(st.data())
def test_any_course_of_changes_ends_where_one_run_without_a_store_does(data):
    """Attach, edit, remove, reroll, run a part: all rows that are reused are bit-identical to those evaluated anew."""
    choose = data.draw
    scheduler, store = choose(st.sampled_from(list(SCHEDULERS))), Store(MANY)
    names = choose(st.lists(st.sampled_from(ANIMALS), min_size=2, max_size=4, unique=True))
    plan = planned(embeddings_of(names), choose(st.floats(0, 0.5)), steps=5)
    draw(plan, embeddings_of(names), store=store, scheduler=scheduler)
    for _ in range(choose(st.integers(1, 4))):
        kind = choose(st.sampled_from(["attach", "edit", "remove", "reroll", "part", "run"]))
        left = [name for name in ANIMALS if name not in names]
        leaves = embeddings_of(plan.frozen.tree.prompts if plan.frozen else plan.prompts).positive
        if kind in ("attach", "edit"):
            new = embeddings_of([choose(st.sampled_from(left))])
            if kind == "attach":
                plan = attach(plan, leaves, new.positive, new.keys, list(new.prompts))
            else:
                i = choose(st.integers(0, len(names) - 1))
                plan = edited(plan, i, leaves, new.positive[0], new.keys[0], new.prompts[0])
        elif kind == "remove" and len(names) > 1:
            plan = removed(plan, choose(st.integers(0, len(names) - 1)))
        elif kind == "reroll":
            leaf = choose(st.integers(0, plan.num_leaves - 1))
            plan = rerolled(plan, [Reroll(leaf, choose(st.integers(0, 4)), choose(st.integers(1, 2)))])
        names = list(plan.prompts)
        settings = {"scheduler": scheduler, "order": choose(st.sampled_from(ORDERS))}
        share = 0.5 if kind == "part" else 1.0
        latents, _ = draw(plan, embeddings_of(names), store=store, stop_after=share, **settings)
        assert store.notes == []
        expected, _ = draw(plan, embeddings_of(names), leaves=embeddings_of(ANIMALS), stop_after=share, **settings)
        assert torch.equal(latents, expected)
