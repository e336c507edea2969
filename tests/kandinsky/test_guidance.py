"""Guidance by the plan: in an interval, and more after a split, against a loop that spells it out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hierdiff_core import (
    GuidanceCourse,
    PromptEmbeddings,
    build_plan,
    linear_thresholds,
    load_decoder,
    sample,
    ward_linkage,
)
from hierdiff_core.kandinsky.acceleration import PlainCalls
from hierdiff_core.kandinsky.decoder import first_latent
from hierdiff_core.kandinsky.decoder_step import DecoderStep
from hierdiff_core.kandinsky.guidance import strengths
from hierdiff_core.kandinsky.schedulers import SCHEDULERS, make_scheduler, noise_levels
from hierdiff_core.sampling.loop import ORDERS, denoise_plan
from hierdiff_core.sampling.microbatch import MicroBatches
from hierdiff_core.sampling.noise import BranchNoise, keyed_noise

SMALL = {"width": 64, "height": 64}
STEPS = 6
BOOST = GuidanceCourse(boost=2.0, boost_steps=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The model is so small that more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


@pytest.fixture(scope="module")
def embeddings():
    reference = np.load(Path(__file__).parent.parent / "data" / "reference_images.npz")
    return PromptEmbeddings(*torch.from_numpy(reference["E"]), prompts=reference["prompts"].tolist())


@pytest.fixture(scope="module")
def plan(embeddings):
    """Clusters split at several steps."""
    plan = build_plan(ward_linkage(embeddings.positive), linear_thresholds(STEPS, 1.2))
    assert len(set(plan.clusters_per_step.tolist())) > 2
    return plan


def guided(plan, **values):
    return replace(plan, guidance=GuidanceCourse(**values))


@pytest.fixture
def rows(decoder, monkeypatch):
    """(timestep, rows) of the UNet's calls."""
    calls, forward = [], decoder.unet.forward

    def counted(x, t, *args, **kwargs):
        calls.append((int(t), len(x)))
        return forward(x, t, *args, **kwargs)

    monkeypatch.setattr(decoder.unet, "forward", counted)
    return calls


@torch.no_grad()
def spelled_out(decoder, embeddings, plan, guidance, course):
    """DDIM, one prompt after the other by its own path: its cluster's mean, guided by what its last split says."""
    scheduler = make_scheduler("DDIM", decoder.scheduler.config, plan.num_steps)
    signal = scheduler.alphas_cumprod[[int(t) for t in scheduler.timesteps]].numpy()
    sigmas = np.sqrt((1 - signal) / signal)
    levels, pictures = sigmas / (1 + sigmas), []
    for i in range(plan.num_prompts):
        x, split, size = first_latent((1, 4, 8, 8), keyed_noise(0)), None, None
        for k, t in enumerate(scheduler.timesteps):
            together = torch.from_numpy(plan.steps[k].labels == plan.steps[k].labels[i])
            if size is not None and together.sum() < size:
                split = k
            size = together.sum()
            strength = guidance
            if split is not None and k - split < course.boost_steps and levels[k] > course.boost_above:
                strength = guidance * course.boost
            if not course.start * plan.num_steps <= k < course.end * plan.num_steps:
                strength = 0
            positive, negative = (each[together].mean(dim=0, keepdim=True) for each in embeddings.stacked())

            def noise_of(side, x=x, t=t):
                return decoder.unet(x, t, None, added_cond_kwargs={"image_embeds": side}).sample[:, :4]

            noise = noise_of(positive)
            if strength:
                unconditional = noise_of(negative)
                noise = unconditional + strength * (noise - unconditional)
            x = scheduler.step(noise, t, x).prev_sample
        pictures.append(x)
    return torch.cat(pictures)


@pytest.mark.parametrize(
    "course",
    [
        BOOST,
        GuidanceCourse(boost=1.5, boost_steps=3, boost_above=0.6),
        GuidanceCourse(boost=0.6, boost_steps=2),
        GuidanceCourse(end=0.5, boost=2, boost_steps=4),
        GuidanceCourse(start=0.5),
    ],
)
def test_each_picture_is_guided_as_its_own_path_says(decoder, embeddings, plan, course):
    options = {"guidance": 3.0, "scheduler": "DDIM", **SMALL}
    latents = sample(decoder, embeddings, replace(plan, guidance=course), **options)
    torch.testing.assert_close(latents, spelled_out(decoder, embeddings, plan, 3.0, course), rtol=0, atol=2e-4)
    assert (latents - sample(decoder, embeddings, plan, **options)).abs().max() > 1e-2


@pytest.mark.parametrize("order", ORDERS)
def test_passes_are_what_the_course_says(decoder, embeddings, plan, rows, order):
    course = GuidanceCourse(0.2, 0.6, 2, 2)
    sample(decoder, embeddings, replace(plan, guidance=course), guidance=3.0, order=order, **SMALL)
    assert sum(count for _, count in rows) == course.passes(plan) < 2 * plan.nfe


def test_boost_costs_no_pass(decoder, embeddings, plan, rows):
    sample(decoder, embeddings, replace(plan, guidance=BOOST), guidance=3.0, **SMALL)
    assert sum(count for _, count in rows) == 2 * plan.nfe


@pytest.mark.parametrize("scheduler", ["DDPM", "DPM++ 2M"])
def test_neither_micro_batch_nor_order_changes_a_bit(decoder, embeddings, plan, scheduler):
    raised = replace(plan, guidance=GuidanceCourse(end=0.8, boost=2, boost_steps=2))

    def run(**options):
        return sample(decoder, embeddings, raised, guidance=3.0, scheduler=scheduler, **options, **SMALL)

    one = run(micro_batch=1)
    assert torch.equal(one, run(micro_batch=4))
    assert torch.equal(one, run(order="depth first"))


@pytest.mark.parametrize("guidance", [3.0, 1.5])
def test_strengths_that_differ_in_one_call_are_those_of_each_row_alone(decoder, embeddings, plan, guidance):
    """Several rows of a call, as on a GPU; the second is lowered so far that some rows have no guidance."""
    raised = guided(plan, boost=2.0 if guidance == 3.0 else 0.5, boost_steps=2)

    def run(limit):
        scheduler = make_scheduler("DDPM", decoder.scheduler.config, STEPS)
        own = strengths(raised, guidance, (0.0, 1.0), scheduler)
        assert any(len(set(row.tolist())) > 1 for row in own)
        noise = BranchNoise(keyed_noise(1), plan, embeddings.keys)
        step = DecoderStep(PlainCalls(decoder.unet), scheduler, own, noise, MicroBatches(limit))
        first = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return denoise_plan(plan, first, step.first, step, embeddings.stacked())

    torch.testing.assert_close(run(1), run(5), rtol=0, atol=1e-3)


class Line:
    """A network whose rows do not know of each other, not even by rounding."""

    dtype, device = torch.float32, torch.device("cpu")

    def __call__(self, x, t, embeds):
        rows = embeds.mean(dim=1).view(-1, 1, 1, 1)
        return x * 0.3 + rows + 0.001 * t


def test_strengths_of_a_call_change_no_bit(decoder, embeddings, plan):
    """Each row as the same strength makes it, given as a single number to all."""
    scheduler = make_scheduler("DDIM", decoder.scheduler.config, STEPS)
    noise = BranchNoise(keyed_noise(1), plan, embeddings.keys)
    generator = torch.Generator().manual_seed(3)
    x, sides = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(2, 4, 16, generator=generator)
    own = np.array([7.3, 14.6, 7.3, 0.7])
    for limit in (1, 3, 4):
        step = DecoderStep(Line(), scheduler, [own] * STEPS, noise, MicroBatches(limit))
        mixed = step.predictions(x, torch.tensor(10), sides, step.strengths(0, np.arange(4)))
        for i, strength in enumerate(own.tolist()):
            assert torch.equal(mixed[i], step.predict(x, torch.tensor(10), sides, strength)[i])


def test_where_no_boost_is_asked_for_nothing_changes(decoder, embeddings, plan):
    def run(plan, **options):
        return sample(decoder, embeddings, plan, guidance=3.0, **options, **SMALL)

    plain = run(plan)
    for same in ({}, {"boost": 2.0}, {"boost_steps": 3}, {"boost": 2.0, "boost_steps": 3, "boost_above": 1.0}):
        assert torch.equal(run(guided(plan, **same)), plain), same
    cut = run(plan, guidance_interval=(0.2, 0.8))
    assert torch.equal(run(guided(plan, start=0.2, end=0.8)), cut)
    assert not torch.equal(cut, plain)
    assert torch.equal(run(guided(plan, start=0.5), guidance_interval=(0.2, 0.8)), cut)  # the sampler's goes first


def test_boost_of_what_is_no_guidance_is_refused(decoder, embeddings, plan, monkeypatch):
    monkeypatch.setattr(decoder.unet, "forward", lambda *_, **__: pytest.fail("the UNet was called"))
    with pytest.raises(ValueError, match="the plan raises guidance after each split, but guidance is 1, which is none"):
        sample(decoder, embeddings, replace(plan, guidance=BOOST), guidance=1.0, **SMALL)


def test_an_interval_without_guidance_has_nothing_to_cut(decoder, embeddings, plan):
    cut = sample(decoder, embeddings, guided(plan, end=0.5), guidance=1.0, **SMALL)
    assert torch.equal(cut, sample(decoder, embeddings, plan, guidance=1.0, **SMALL))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_levels_are_those_of_the_signal_to_noise_ratio(decoder, name):
    """Of latents that are made of a picture of ones and of noise of ones, by the schedulers' own `add_noise`."""
    scheduler = make_scheduler(name, decoder.scheduler.config, 10)
    levels = noise_levels(scheduler)
    assert levels.shape == (10,)
    assert (np.diff(levels) < 0).all()
    assert 0 < levels[-1] < 0.3
    assert 0.8 < levels[0] < 1
    picture, nothing = torch.ones(1, 1), torch.zeros(1, 1)
    for k in range(10):
        t = scheduler.timesteps[k : k + 1]
        s, n = (float(scheduler.add_noise(*pair, t)) for pair in ((picture, nothing), (nothing, picture)))
        assert levels[k] == pytest.approx(n / (s + n), rel=1e-3), k
