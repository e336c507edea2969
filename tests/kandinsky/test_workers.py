"""Kandinsky on workers, which are threads here: whoever draws what, the pictures stay; what fails is found."""

import dataclasses
import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_decoders import STEPS, embeddings_of, planned, toy_decoder

from hierdiff_core import GuidanceCourse, Observer, PromptEmbeddings, sample
from hierdiff_core.kandinsky.schedulers import SCHEDULERS
from hierdiff_core.kandinsky.workers import sample_on
from hierdiff_core.kandinsky.workers_process import check_shared
from hierdiff_core.kandinsky.workers_run import make_ready, part_to_draw, run_of, run_on, task_of
from hierdiff_core.plan.algebra import attach, removed, rerolled
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.prompts.rows import PromptRow, PromptRows
from hierdiff_core.sampling.executor import Here, Threads, Workers
from hierdiff_core.sampling.executor_cut import Pieces
from hierdiff_core.sampling.executor_plain import Begin
from hierdiff_core.sampling.progress import RunProgress

NAMES = [a + b for a in "cdefg" for b in ("at", "ow", "ub", "ox")]
EMBEDDINGS = embeddings_of(NAMES)
PLAN = planned(EMBEDDINGS)
SMALL = {"width": 64, "height": 64, "seed": 3}


@pytest.fixture
def threads():
    with Threads(3) as executor:
        yield executor


def drawn_alike(executor, plan=PLAN, embeddings=EMBEDDINGS, **options):
    """Whether workers draw what one device does; the UNet's rows are counted, a guidance pair as one."""
    one, many = toy_decoder(), toy_decoder()
    expected = sample(one, embeddings, plan, **SMALL, **options)
    latents = sample_on(executor, many, embeddings, plan, **SMALL, **options)
    assert many.unet.rows == one.unet.rows
    return torch.equal(latents, expected)


def test_plan_is_cut():
    assert 2 < PLAN.steps[0].num_clusters < PLAN.steps[3].num_clusters < len(NAMES)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_pictures_are_those_of_one_device(threads, scheduler):
    assert drawn_alike(Here(), scheduler=scheduler)
    assert drawn_alike(threads, scheduler=scheduler)


@pytest.mark.parametrize("saving", [0.0, 0.7])
def test_nothing_shared_and_much_shared(threads, saving):
    assert drawn_alike(threads, planned(EMBEDDINGS, saving))


@pytest.mark.parametrize(
    "options",
    [{"guidance": 1.0}, {"guidance_interval": (0.2, 0.6)}, {"rescale_means": True}, {"micro_batch": 3}],
    ids=lambda options: next(iter(options)),
)
def test_settings_count(threads, options):
    assert drawn_alike(threads, **options)


def test_guidance_of_single_clusters_counts(threads):
    assert drawn_alike(threads, replace(PLAN, guidance=GuidanceCourse(boost=1.5, boost_steps=2)))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_rerolls_and_seeds_of_prompts(threads, scheduler):
    rows = PromptRows(PromptRow(name, seed=7 if i % 2 else None) for i, name in enumerate(NAMES))
    own = PromptEmbeddings(EMBEDDINGS.positive, EMBEDDINGS.negative, rows)
    plan = planned(own, 0.2)
    again = rerolled(plan, [Reroll(5, 0, 1), Reroll(2, 5, 1), Reroll(9, STEPS - 1, 2)])
    assert drawn_alike(threads, plan, own, scheduler=scheduler)
    assert drawn_alike(threads, again, own, scheduler=scheduler)


@pytest.mark.parametrize("change", ["attached", "removed"])
def test_plans_with_a_history(threads, change):
    embeddings = EMBEDDINGS
    if change == "removed":
        plan = removed(PLAN, 3)
    else:
        new = embeddings_of(["cog"])
        plan = attach(PLAN, EMBEDDINGS.positive, new.positive, new.keys, ["cog"], metric="chord")
        both = [torch.cat([getattr(own, side) for own in (EMBEDDINGS, new)]) for side in ("positive", "negative")]
        embeddings = PromptEmbeddings(*both, [*NAMES, "cog"])
    assert drawn_alike(threads, plan, embeddings)


def test_equal_prompts_are_drawn_once(threads):
    embeddings = embeddings_of(["cat", "cow", "cat", "dog", "cow"])
    assert drawn_alike(threads, planned(embeddings), embeddings)


class Heard(Observer):
    def __init__(self):
        self.rows, self.finished, self.asked = [], [], 0

    def before_call(self):
        self.asked += 1

    def on_rows(self, k, clusters, x0):
        assert x0.shape == (len(clusters), 4, 8, 8)
        self.rows += [(k, cluster) for cluster in clusters.tolist()]

    def on_finished(self, prompts, latents):
        assert len(prompts) == len(latents)
        self.finished += prompts.tolist()


def test_observers_hear_of_each_row_and_prompt_once(threads):
    heard, progress = Heard(), RunProgress(PLAN)
    sample_on(threads, toy_decoder(), EMBEDDINGS, PLAN, **SMALL, observer=heard)
    assert sorted(heard.rows) == [(k, c) for k, step in enumerate(PLAN.steps) for c in range(step.num_clusters)]
    assert sorted(heard.finished) == list(range(len(NAMES)))
    assert heard.asked > 0
    sample_on(threads, toy_decoder(), EMBEDDINGS, PLAN, **SMALL, observer=progress)
    assert progress.work == (PLAN.nfe, PLAN.nfe)


def test_an_observer_that_raises_stops_the_run(threads):
    class Stopping(Heard):
        def on_rows(self, k, clusters, x0):
            if k == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_on(threads, toy_decoder(), EMBEDDINGS, PLAN, **SMALL, observer=Stopping())


def test_a_run_that_hangs_can_be_stopped(threads):
    """Where no worker says anything, the observer is asked all the same."""
    going_on, decoder = threading.Event(), toy_decoder()
    decoder.unet.forward = lambda *args, **kwargs: going_on.wait(60) and None

    class Stopping(Observer):
        def before_call(self):
            going_on.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_on(threads, decoder, EMBEDDINGS, PLAN, **SMALL, observer=Stopping())


def failing(decoder, wrong, error):
    """A decoder whose UNet raises an error where `wrong` says so of its calls' mean embeddings."""
    forward = decoder.unet.forward

    def call(latents, t, encoder_hidden_states, added_cond_kwargs, return_dict):
        if wrong(added_cond_kwargs["image_embeds"]):
            raise error
        return forward(latents, t, encoder_hidden_states, added_cond_kwargs, return_dict)

    decoder.unet.forward = call
    return decoder


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("the card is gone")])
def test_calls_that_fail_cost_time_alone(threads, error):
    """Some calls fail, whatever they are for."""
    calls = itertools.count()
    decoder = failing(toy_decoder(), lambda means: next(calls) in (0, 5, 30, 31, 32, 90), error)
    expected = sample(toy_decoder(), EMBEDDINGS, PLAN, **SMALL)
    heard = Heard()
    assert torch.equal(sample_on(threads, decoder, EMBEDDINGS, PLAN, **SMALL, observer=heard), expected)
    assert sorted(heard.finished) == list(range(len(NAMES)))
    assert len(heard.rows) == PLAN.nfe


def test_a_prompt_that_always_fails_is_named_and_the_rest_is_drawn(threads, caplog):
    poison = EMBEDDINGS.positive[[6]]
    decoder = failing(toy_decoder(), lambda means: (means == poison).all(dim=1).any(), RuntimeError("poisoned"))
    expected = sample(toy_decoder(), EMBEDDINGS, PLAN, **SMALL)
    lost = []
    latents = sample_on(threads, decoder, EMBEDDINGS, PLAN, **SMALL, on_lost=lost.append)
    others = [i for i in range(len(NAMES)) if i != 6]
    assert torch.equal(latents[others], expected[others])
    assert torch.isnan(latents[6]).all()
    assert f'prompt 6 ("{NAMES[6]}") could not be drawn: RuntimeError: poisoned' in lost[0]
    assert lost[0] in caplog.text


def test_a_run_of_which_nothing_can_be_drawn_is_an_error(threads):
    decoder = failing(toy_decoder(), lambda means: True, RuntimeError("no card"))
    with pytest.raises(ValueError, match=r"prompts 0 \(\"cat\"\).* and 15 more could not be drawn: RuntimeError: no"):
        sample_on(threads, decoder, EMBEDDINGS, PLAN, **SMALL)


def settings_of_run(**options):
    settings = {
        **{"guidance": 4.0, "scheduler": "DDPM", "micro_batch": 0, "rescale_means": False, "acceleration": "none"},
        **{"guidance_interval": (0.0, 1.0), **SMALL},
    }
    return {**settings, **options}


def test_a_disk_that_takes_nothing_ends_the_run(threads):
    decoder = failing(toy_decoder(), lambda means: True, OSError(28, "No space left on device"))
    run = run_of(decoder, EMBEDDINGS, PLAN, **settings_of_run())
    make_ready(threads, run)
    with pytest.raises(OSError, match="No space left"):
        run_on(threads, run, lambda done: None)


def test_prompts_that_are_there_are_not_drawn(threads):
    decoder, there = toy_decoder(), np.arange(len(NAMES)) % 3 > 0
    expected, done = sample(toy_decoder(), EMBEDDINGS, PLAN, **SMALL), {}
    run = run_of(decoder, EMBEDDINGS, PLAN, **settings_of_run())
    make_ready(threads, run)

    def on_done(new):
        done.update(zip(new["prompts"], new["latents"], strict=True))

    assert not run_on(threads, run, on_done, drawn=there)
    assert sorted(done) == np.flatnonzero(~there).tolist()
    assert all(torch.equal(torch.from_numpy(latent), expected[i]) for i, latent in done.items())
    assert decoder.unet.rows < 2 * PLAN.nfe


PLAIN = (dict, list, tuple, str, int, float, bool, bytes, np.ndarray, type(None))


def check_plain(value):
    """That a process which knows nothing of this package can read it."""
    assert isinstance(value, PLAIN), type(value)
    assert not dataclasses.is_dataclass(value)
    if isinstance(value, np.ndarray):
        assert value.dtype != object
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    for item in items:
        check_plain(item)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_is_sent_is_plain_data(scheduler):
    plan = replace(rerolled(PLAN, [Reroll(2, 5, 1)]), guidance=GuidanceCourse(boost=1.5, boost_steps=2))
    run = run_of(toy_decoder(), EMBEDDINGS, plan, **settings_of_run(scheduler=scheduler))
    told = [run.setup]

    class Sent(Here):
        def begin(self, job):
            worker = job.here()
            self.work = lambda task, tell: told.append(worker(task, told.append)) or told.append(task) or told[-2]

    executor = Sent()
    make_ready(executor, run)
    executor.count = 2
    run_on(executor, run, lambda done: None)
    assert any(value.get("state") for value in told if "head" in value)
    for value in told:
        check_plain(value)


def test_embeddings_are_sent_to_those_who_need_them():
    run = run_of(toy_decoder(), EMBEDDINGS, planned(EMBEDDINGS, 0.0), **settings_of_run())
    pieces, sent = Pieces(part_to_draw(run), Begin(run.first), 4), 0
    while (piece := pieces.take()) is not None:
        sent += len(task_of(piece, run)["embeddings"])
        pieces.done(piece.number)
    assert sent == len(NAMES)


def test_a_folder_that_is_another_is_found(tmp_path):
    pictures = {"folder": str(tmp_path), "token_file": "token", "token": "this"}
    with pytest.raises(ValueError, match="is not seen from here"):
        check_shared(pictures)
    (tmp_path / "token").write_text("that")
    with pytest.raises(ValueError, match="is not seen from here"):
        check_shared(pictures)
    (tmp_path / "token").write_text("this")
    check_shared(pictures)


def test_a_decoder_of_no_folder_is_refused_for_other_processes():
    with pytest.raises(ValueError, match="does not say from which folder"):
        sample_on(Workers(2), toy_decoder(), EMBEDDINGS, PLAN, **SMALL)


def test_inputs_are_checked_before_anybody_is_asked():
    class Nobody(Here):
        def begin(self, job):
            pytest.fail("a worker was made")

    with pytest.raises(ValueError, match="width must be a multiple"):
        sample_on(Nobody(), toy_decoder(), EMBEDDINGS, PLAN, width=63, height=64)
