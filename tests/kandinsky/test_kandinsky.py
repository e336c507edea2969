"""The bundled model end to end: against diffusers' own pipelines, and against itself where nothing is shared."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hierdiff_core import (
    PromptEmbeddings,
    build_plan,
    decode,
    embed_prompts,
    linear_thresholds,
    load_decoder,
    load_prior,
    sample,
    ward_linkage,
)
from hierdiff_core.kandinsky.acceleration import ACCELERATIONS, PlainCalls
from hierdiff_core.kandinsky.decoder import size_multiple
from hierdiff_core.kandinsky.decoder_step import DecoderStep
from hierdiff_core.kandinsky.decoding import BackgroundDecoder
from hierdiff_core.kandinsky.guidance import step_guidance
from hierdiff_core.kandinsky.prior import prior_batch_size, prior_calls
from hierdiff_core.kandinsky.schedulers import SCHEDULERS, make_scheduler
from hierdiff_core.plan.keys import text_key
from hierdiff_core.sampling.loop import ORDERS, denoise_plan
from hierdiff_core.sampling.microbatch import MicroBatches
from hierdiff_core.sampling.noise import FIRST_LATENT, BranchNoise, keyed_generator, keyed_noise
from hierdiff_core.sampling.observer import Observer

SMALL = {"width": 64, "height": 64}
SHARED_TAU = 1.2  # between the heights of the six prompts: clusters split at several steps


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The model is so small that more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def prior():
    return load_prior()


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


@pytest.fixture(scope="module")
def embeddings():
    reference = np.load(Path(__file__).parent.parent / "data" / "reference_images.npz")
    return PromptEmbeddings(*torch.from_numpy(reference["E"]), prompts=reference["prompts"].tolist())


@pytest.fixture
def unet_forbidden(decoder, monkeypatch):
    def forward(*args, **kwargs):
        pytest.fail("the UNet was called")

    monkeypatch.setattr(decoder.unet, "forward", forward)


def make_plan(embeddings, num_steps, tau=SHARED_TAU):
    return build_plan(ward_linkage(embeddings.positive), linear_thresholds(num_steps, tau))


def select(embeddings, rows):
    prompts = [embeddings.prompts[i] for i in rows]
    return PromptEmbeddings(embeddings.positive[rows], embeddings.negative[rows], prompts)


# --- one prompt: the pipeline itself ---


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_prompt_equals_the_diffusers_pipeline_to_the_bit(decoder, embeddings, guidance):
    one = select(embeddings, [1])
    generator = torch.Generator().manual_seed(3)
    options = {"guidance": guidance, "width": 128, "height": 128}
    latents = sample(decoder, one, make_plan(one, 4, tau=0), noise=lambda k, branches: generator, **options)
    expected = decoder(
        one.positive,
        one.negative,
        num_inference_steps=4,
        guidance_scale=guidance,
        width=128,
        height=128,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    assert torch.equal(latents, expected)


def test_pictures_equal_the_diffusers_pipeline_to_the_bit(decoder, embeddings):
    one = select(embeddings, [0])
    generator = torch.Generator().manual_seed(5)
    latents = sample(decoder, one, make_plan(one, 2, tau=0), noise=lambda k, branches: generator, width=128, height=64)
    expected = decoder(
        one.positive,
        one.negative,
        num_inference_steps=2,
        width=128,
        height=64,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    pictures = decode(decoder, latents)
    assert pictures.shape == (1, 64, 128, 3)
    assert np.array_equal(pictures.numpy(), expected)


def test_decoding_many_equals_decoding_each(decoder):
    latents = 3 * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = decode(decoder, latents, micro_batch=2)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    for latent, picture in zip(latents, pictures, strict=True):
        assert torch.equal(decode(decoder, latent[None])[0], picture)


@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (4, 8, 8), (1, 1, 4, 8, 8), ()])
def test_latents_of_no_picture_are_not_decoded(decoder, shape):
    with pytest.raises(
        ValueError, match=rf"latents must have shape \(N, C, h, w\) .* got \({', '.join(map(str, shape))}"
    ):
        decode(decoder, torch.zeros(shape))


@pytest.mark.parametrize(("size", "message"), [(1.5, "a whole number; got 1.5"), (-1, "at least 0; got -1")])
def test_pictures_are_decoded_in_whole_numbers(decoder, size, message):
    with pytest.raises(ValueError, match=f"micro_batch must be {message}"):
        decode(decoder, torch.zeros(1, 4, 8, 8), micro_batch=size)


# --- sets ---


def test_without_sharing_each_picture_equals_its_own_run_to_the_bit(decoder, embeddings):
    together = sample(decoder, embeddings, make_plan(embeddings, 3, tau=0), seed=8, **SMALL)
    for i in range(len(embeddings)):
        one = select(embeddings, [i])
        alone = sample(decoder, one, make_plan(one, 3, tau=0), seed=8, **SMALL)
        assert torch.equal(alone[0], together[i])


def test_order_of_the_prompts_does_not_change_their_latents_by_a_bit(decoder, embeddings):
    order = [3, 5, 0, 4, 2, 1]
    latents = sample(decoder, embeddings, make_plan(embeddings, 5), seed=8, **SMALL)
    permuted = select(embeddings, order)
    plan = make_plan(permuted, 5)
    assert 1 < plan.steps[2].num_clusters < 6
    assert torch.equal(sample(decoder, permuted, plan, seed=8, **SMALL), latents[order])


def test_equal_prompts_share_their_latents_to_the_end(decoder, embeddings):
    doubled = select(embeddings, [0, 4, 0])
    plan = make_plan(doubled, 3)
    latents = sample(decoder, doubled, plan, **SMALL)
    assert plan.steps[-1].num_clusters == 2
    assert torch.equal(latents[0], latents[2])
    assert not torch.equal(latents[0], latents[1])


def test_rescaled_means_change_shared_pictures_and_no_others(decoder, embeddings):
    shared, alone = make_plan(embeddings, 3), make_plan(embeddings, 3, tau=0)
    plain, rescaled = (sample(decoder, embeddings, shared, rescale_means=flag, **SMALL) for flag in (False, True))
    assert (plain - rescaled).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    plain, rescaled = (sample(decoder, embeddings, alone, rescale_means=flag, **SMALL) for flag in (False, True))
    assert torch.equal(plain, rescaled)


def test_micro_batch_does_not_change_a_bit_on_a_cpu(decoder, embeddings):
    plan = make_plan(embeddings, 3)
    one, three, chosen = (sample(decoder, embeddings, plan, micro_batch=size, **SMALL) for size in (1, 3, 0))
    assert torch.equal(one, three)
    assert torch.equal(one, chosen)


def test_branches_evaluated_in_batches_agree_with_one_at_a_time(decoder, embeddings):
    plan = make_plan(embeddings, 4)

    def run(limit):
        scheduler = make_scheduler("DDPM", decoder.scheduler.config, plan.num_steps)
        noise = BranchNoise(keyed_noise(1), plan, embeddings.keys)
        step = DecoderStep(PlainCalls(decoder.unet), scheduler, [4.0] * 4, noise, MicroBatches(limit))
        first = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return denoise_plan(plan, first, step.first, step, embeddings.stacked())

    one, five = run(1), run(5)
    assert plan.steps[-1].num_clusters > 5
    torch.testing.assert_close(one, five, rtol=0, atol=1e-3)


def test_unet_evaluates_exactly_the_rows_that_the_plan_counts(decoder, embeddings, monkeypatch):
    rows = []
    forward = decoder.unet.forward
    monkeypatch.setattr(decoder.unet, "forward", lambda x, *a, **kw: rows.append(len(x)) or forward(x, *a, **kw))
    plan, calls = make_plan(embeddings, 4), []
    sample(decoder, embeddings, plan, guidance=4.0, before_call=lambda: calls.append(1), **SMALL)
    assert sum(rows) == 2 * plan.nfe  # a guidance pair is two rows of a batch, counted once
    assert len(calls) == len(rows)
    rows.clear()
    sample(decoder, embeddings, plan, guidance=1.0, **SMALL)
    assert sum(rows) == plan.nfe < 6 * 4


@pytest.mark.parametrize("order", ORDERS)
def test_steps_outside_the_guidance_interval_take_the_conditional_pass_alone(decoder, embeddings, monkeypatch, order):
    calls = []
    forward = decoder.unet.forward

    def counted(x, t, *args, **kwargs):
        calls.append((int(t), len(x)))
        return forward(x, t, *args, **kwargs)

    monkeypatch.setattr(decoder.unet, "forward", counted)
    plan = make_plan(embeddings, 5)
    sample(decoder, embeddings, plan, guidance=3.0, guidance_interval=(0.2, 0.8), order=order, **SMALL)
    times = sorted({t for t, _ in calls}, reverse=True)
    rows = [sum(n for t, n in calls if t == time) for time in times]
    passes = [1, 2, 2, 2, 1]
    assert rows == [n * count for n, count in zip(passes, plan.clusters_per_step.tolist(), strict=True)]


def test_guidance_interval_of_the_whole_run_or_of_no_step(decoder, embeddings):
    plan = make_plan(embeddings, 3)

    def run(**options):
        return sample(decoder, embeddings, plan, **options, **SMALL)

    assert torch.equal(run(guidance=3.0, guidance_interval=(0.0, 1.0)), run(guidance=3.0))
    assert torch.equal(run(guidance=3.0, guidance_interval=(0.5, 0.5)), run(guidance=1.0))
    assert step_guidance(10, 4.0, (0.25, 0.8)).tolist() == [1.0] * 2 + [4.0] * 6 + [1.0] * 2


def test_before_call_may_stop_the_run(decoder, embeddings, unet_forbidden):
    class Cancelled(Exception):
        pass

    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        sample(decoder, embeddings, make_plan(embeddings, 3), before_call=cancel, **SMALL)


@pytest.mark.parametrize("scheduler", ["DDPM", "Euler ancestral", "DPM++ 2M"])
def test_seed_decides_the_latents_and_the_global_generator_is_left_alone(decoder, embeddings, scheduler):
    two = select(embeddings, [0, 2])
    plan = make_plan(two, 3)
    state = torch.random.get_rng_state()
    first, again, other = (sample(decoder, two, plan, seed=s, scheduler=scheduler, **SMALL) for s in (1, 1, 2**63))
    assert torch.equal(first, again)
    assert (first - other).abs().amax(dim=(1, 2, 3)).min() > 0.1
    assert torch.equal(torch.random.get_rng_state(), state)


# --- schedulers ---


@torch.no_grad()
def carry_each_prompt(decoder, scheduler, embeddings, plan, *, seed, guidance):
    """Algorithm 1 without branching: N rows all the way, each given its cluster's mean embeddings and noise.

    Returns the final latents and the list of each step's clean latents, both (N, C, h, w).
    """
    scheduler = make_scheduler(scheduler, decoder.scheduler.config, plan.num_steps)
    first = torch.randn(1, 4, 8, 8, generator=keyed_generator(seed, 0, FIRST_LATENT))
    x, clean = first.repeat(plan.num_prompts, 1, 1, 1) * scheduler.init_noise_sigma, []
    for k, (step, t) in enumerate(zip(plan.steps, scheduler.timesteps, strict=True)):
        members = [np.flatnonzero(step.labels == c) for c in step.labels]  # of each prompt's cluster
        positive, negative = (
            torch.stack([side[rows].double().mean(dim=0).float() for rows in members])
            for side in (embeddings.positive, embeddings.negative)
        )
        keys = [min(embeddings.keys[i] for i in rows) for rows in members]
        scaled = scheduler.scale_model_input(x, t)
        pairs = [
            decoder.unet(row.repeat(2, 1, 1, 1), t, None, added_cond_kwargs={"image_embeds": torch.stack(pair)}).sample
            for row, *pair in zip(scaled, negative, positive, strict=True)
        ]
        unconditional, conditional = torch.stack(pairs)[:, :, :4].unbind(dim=1)
        variance = torch.stack(pairs)[:, 1, 4:]
        noise = unconditional + guidance * (conditional - unconditional)
        signal = scheduler.alphas_cumprod[int(t)]
        clean.append((scaled - (1 - signal) ** 0.5 * noise) / signal**0.5)
        deterministic = type(scheduler).__name__ == "UniPCMultistepScheduler"  # its step takes no generator
        options = {} if deterministic else {"generator": [keyed_generator(seed, key, k) for key in keys]}
        output = torch.cat([noise, variance], dim=1) if type(scheduler).__name__ == "DDPMScheduler" else noise
        x = scheduler.step(output, t, x, **options).prev_sample
    return x, clean


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_branching_equals_carrying_every_prompt_in_a_row_of_its_own(decoder, embeddings, scheduler):
    plan = make_plan(embeddings, 7)
    sizes = plan.clusters_per_step
    assert (np.diff(sizes) > 0).sum() >= 3  # so that histories branch in mid-run, at more than one step
    clean = []
    latents = sample(
        decoder, embeddings, plan, seed=4, scheduler=scheduler, on_step=lambda k, x0: clean.append(x0), **SMALL
    )
    expected, expected_clean = carry_each_prompt(decoder, scheduler, embeddings, plan, seed=4, guidance=4.0)
    for step, x0, rows in zip(plan.steps, clean, expected_clean, strict=True):
        assert len(x0) == step.num_clusters
        torch.testing.assert_close(x0[step.labels], rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_depth_first_draws_bit_identical_pictures(decoder, embeddings, scheduler, monkeypatch):
    monkeypatch.setattr("hierdiff_core.kandinsky.decoder.LEAST_PART", 1)  # parts of two branches
    plan = make_plan(embeddings, 7)
    finished, rows = {}, []
    options = {"seed": 4, "scheduler": scheduler, **SMALL}
    deep = sample(
        decoder,
        embeddings,
        plan,
        order="depth first",
        on_branches=lambda k, clusters, x0: rows.append((k, clusters.tolist(), len(x0))),
        on_finished=lambda prompts, latents: finished.update(zip(prompts.tolist(), latents, strict=True)),
        **options,
    )
    assert torch.equal(deep, sample(decoder, embeddings, plan, **options))
    assert sorted(finished) == list(range(6))
    assert all(torch.equal(finished[i], deep[i]) for i in finished)
    assert max(count for *_, count in rows) == 2
    assert all(len(clusters) == count for _, clusters, count in rows)
    denoised = sorted((k, c) for k, clusters, _ in rows for c in clusters)
    assert denoised == [(k, c) for k, step in enumerate(plan.steps) for c in range(step.num_clusters)]


def test_breadth_first_finishes_all_prompts_at_once(decoder, embeddings):
    finished, seen = [], []
    plan = make_plan(embeddings, 3)
    latents = sample(
        decoder,
        embeddings,
        plan,
        on_finished=lambda *done: finished.append(done),
        on_step=lambda k, x0: seen.append((k, len(x0))),
        on_branches=lambda k, clusters, x0: seen.append((k, clusters.tolist())),
        **SMALL,
    )
    ((prompts, rows),) = finished
    assert prompts.tolist() == list(range(6))
    assert torch.equal(rows, latents)
    expected = [((k, step.num_clusters), (k, list(range(step.num_clusters)))) for k, step in enumerate(plan.steps)]
    assert seen == [event for pair in expected for event in pair]


@pytest.mark.parametrize("order", ORDERS)
def test_an_observer_hears_what_the_callbacks_hear(decoder, embeddings, order):
    heard, older = [], []

    class Diary(Observer):
        def before_call(self):
            heard.append("call")

        def on_rows(self, k, clusters, x0):
            heard.append((k, clusters.tolist(), x0.tolist()))

        def on_finished(self, prompts, latents):
            heard.append((prompts.tolist(), latents.tolist()))

    plan = make_plan(embeddings, 3)
    latents = sample(decoder, embeddings, plan, order=order, observer=Diary(), **SMALL)
    again = sample(
        decoder,
        embeddings,
        plan,
        order=order,
        before_call=lambda: older.append("call"),
        on_branches=lambda k, clusters, x0: older.append((k, clusters.tolist(), x0.tolist())),
        on_finished=lambda prompts, rows: older.append((prompts.tolist(), rows.tolist())),
        **SMALL,
    )
    assert torch.equal(latents, again)
    assert heard == older
    assert heard.count("call") == plan.nfe


@pytest.mark.parametrize("acceleration", ACCELERATIONS[1:])
def test_acceleration_changes_nothing_on_a_cpu(decoder, embeddings, acceleration):
    plan = make_plan(embeddings, 3)
    made = sample(decoder, embeddings, plan, acceleration=acceleration, **SMALL)
    assert torch.equal(made, sample(decoder, embeddings, plan, **SMALL))


def test_pictures_come_with_their_prompts_while_others_are_sampled(decoder, embeddings):
    plan, made = make_plan(embeddings, 3), {}

    def on_pictures(prompts, images):
        made.update(zip(prompts.tolist(), images, strict=True))

    with BackgroundDecoder(decoder, on_pictures) as on_finished:
        latents = sample(decoder, embeddings, plan, order="depth first", on_finished=on_finished, **SMALL)
    assert torch.equal(torch.stack([made[i] for i in range(6)]), decode(decoder, latents))


@pytest.mark.parametrize("scheduler", ["DDIM", "Euler", "DPM++ 2M", "UniPC"])
def test_clean_latents_of_the_last_step_are_the_result(decoder, embeddings, scheduler):
    clean = {}
    plan = make_plan(embeddings, 3)
    latents = sample(decoder, embeddings, plan, scheduler=scheduler, on_step=clean.__setitem__, **SMALL)
    expected = clean[2][plan.steps[-1].labels]
    if scheduler == "DDIM":  # the only one of these that clips
        limit = decoder.scheduler.config.clip_sample_range
        expected = expected.clamp(-limit, limit)
    assert list(clean) == [0, 1, 2]
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


# --- inputs that do not fit ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 100}, "width must be a multiple of 64 pixels; got 100, use 64 or 128"),
        ({"height": 0}, "height must be a multiple of 64 pixels; got 0, use 64 or 128"),
        ({"height": -64}, "height must be a multiple"),
        ({"micro_batch": -1}, "micro_batch must be 0 .* got -1"),
        ({"micro_batch": 1.5}, "micro_batch must be a whole number; got 1.5"),
        ({"width": 64.0}, "width must be a whole number; got 64.0"),
        ({"height": "64"}, "height must be a whole number; got '64'"),
        ({"seed": -1}, "seed must be from 0 to 2"),
        ({"seed": 1.0}, "seed must be a whole number; got 1.0"),
        ({"scheduler": "Heun"}, "scheduler must be one of DDPM, .* got 'Heun'"),
        ({"guidance": float("nan")}, "guidance must be a finite number; got nan"),
        ({"guidance_interval": (0.5, 0.4)}, "guidance must start and end between 0 and 1 .* got 0.5 and 0.4"),
        ({"guidance_interval": (0.0, 1.2)}, "guidance must start and end between 0 and 1 .* got 0.0 and 1.2"),
        ({"order": "upwards"}, "order must be one of breadth first, depth first; got 'upwards'"),
        ({"order": "depth first", "on_step": print}, "on_step sees all branches of a step at once; depth first, use"),
        ({"acceleration": "fast"}, "acceleration must be one of auto, none, CUDA graphs, torch.compile; got 'fast'"),
        ({"latents": torch.zeros(6, 4, 8, 8)}, r"latents must have shape \(1, 4, 8, 8\) .* got \(6, 4, 8, 8\)"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, r"latents must have shape \(1, 4, 8, 8\)"),
    ],
)
def test_bad_settings_are_refused_before_the_unet_runs(decoder, embeddings, unet_forbidden, change, message):
    with pytest.raises(ValueError, match=message):
        sample(decoder, embeddings, make_plan(embeddings, 3), **{**SMALL, **change})


def test_embeddings_of_another_width_are_refused_before_the_unet_runs(decoder, unet_forbidden):
    wide = PromptEmbeddings(torch.eye(3, 1280), torch.eye(3, 1280))
    with pytest.raises(ValueError, match="embeddings are 1280 wide, but this decoder takes 128"):
        sample(decoder, wide, make_plan(wide, 3), **SMALL)


def test_plan_of_another_set_is_refused_before_the_unet_runs(decoder, embeddings, unet_forbidden):
    plan = make_plan(select(embeddings, [0, 1, 2]), 3)
    with pytest.raises(ValueError, match="the plan is for 3 prompts, but there are 6 embeddings"):
        sample(decoder, embeddings, plan, **SMALL)


def test_more_steps_than_the_decoder_knows_are_refused_before_the_unet_runs(decoder, embeddings, unet_forbidden):
    one = select(embeddings, [0])
    with pytest.raises(ValueError, match="1001 steps are more than the 1000"):
        sample(decoder, one, make_plan(one, 1001, tau=0), **SMALL)


def test_size_multiple_is_what_the_bundled_decoder_needs(decoder):
    assert size_multiple(decoder) == 64


# --- the prior ---


PROMPTS = ["tiger face, noto style", "tiger face, flat style", "red apple, 3d style"]
FAST = {"num_steps": 4, "guidance": 1.0}


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_embeddings_equal_the_diffusers_pipeline_to_the_bit(prior, guidance):
    text = PROMPTS[0]
    embeddings = embed_prompts(prior, [text], num_steps=4, guidance=guidance, seed=6)
    generator = keyed_generator(6, text_key(text), FIRST_LATENT)
    expected = prior(text, num_inference_steps=4, guidance_scale=guidance, generator=generator)
    assert torch.equal(embeddings.positive, expected.image_embeds)
    assert torch.equal(embeddings.negative, expected.negative_image_embeds)


def test_negative_prompt_equals_the_diffusers_pipeline_to_the_bit(prior):
    text, negative = PROMPTS[0], "blurry"
    embeddings = embed_prompts(prior, [text], negative_prompt=negative, seed=6, num_steps=4, guidance=2.0)
    generators = [keyed_generator(6, text_key(part), FIRST_LATENT) for part in (text, negative)]
    expected = prior([text], [negative], num_inference_steps=4, guidance_scale=2.0, generator=generators)
    assert torch.equal(embeddings.positive, expected.image_embeds)
    assert torch.equal(embeddings.negative, expected.negative_image_embeds)


def test_each_prompt_may_have_a_negative_of_its_own(prior):
    prompts, negatives = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]], ["blurry", "", "text", "blurry"]
    steps, together = [], {"num_steps": 3, "guidance": 4.0, "seed": 2}
    found = embed_prompts(
        prior, prompts, negative_prompt=negatives, batch_size=1, on_step=lambda: steps.append(1), **together
    )
    for i, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = embed_prompts(prior, [prompt], negative_prompt=negative, **together)
        assert torch.equal(found.positive[i], alone.positive[0])
        assert torch.equal(found.negative[i], alone.negative[0])
    assert not torch.equal(found.positive[0], found.positive[2])  # equal prompts with different negatives
    assert len(steps) == 9  # three pairs are different
    assert prior_calls(prior, prompts, negatives) == 3
    same = embed_prompts(prior, prompts, negative_prompt=["blurry"] * 4, **together)
    one = embed_prompts(prior, prompts, negative_prompt="blurry", **together)
    assert torch.equal(same.stacked(), one.stacked())


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        (["a", "b"], "negative_prompt must be a single text, or one per prompt; got 2 for 3 prompts"),
        ([], "negative_prompt must be a single text, or one per prompt; got 0 for 3 prompts"),
        (["a", 2, "b"], "negative_prompt 1 must be text; got int 2"),
    ],
)
def test_negatives_that_are_no_texts_or_not_as_many_as_prompts_are_refused(prior, negatives, message):
    with pytest.raises(ValueError, match=message):
        embed_prompts(prior, PROMPTS, negative_prompt=negatives, **FAST)


def test_half_a_character_in_a_negative_is_the_replacement_character(prior):
    found = [
        embed_prompts(prior, PROMPTS[:1], negative_prompt=negative, num_steps=2, guidance=4.0)
        for negative in ("dark \ud83d", "dark \ufffd", ["dark \ude00"])
    ]
    assert torch.equal(found[0].stacked(), found[1].stacked())
    assert torch.equal(found[0].stacked(), found[2].stacked())


def test_spellings_of_a_prompt_are_embedded_once_and_alike(prior):
    spellings = [
        "café, noto style",
        "cafe\u0301,  noto\nstyle",
        "café, noto style \ud83d",
        "cafe\u0301, noto style \ufffd",
    ]
    steps = []
    found = embed_prompts(prior, spellings, batch_size=1, on_step=lambda: steps.append(1), **FAST)
    assert len(steps) == 2 * FAST["num_steps"]
    assert torch.equal(found.stacked()[:, 0], found.stacked()[:, 1])
    assert torch.equal(found.stacked()[:, 2], found.stacked()[:, 3])
    assert torch.equal(found.positive[0], embed_prompts(prior, spellings[1:2], **FAST).positive[0])
    assert found.keys[0] == found.keys[1]
    assert found.prompts == (*spellings[:2], "café, noto style \ufffd", spellings[3])


def test_negative_prompt_changes_the_negatives_alone(prior):
    plain = embed_prompts(prior, PROMPTS, **FAST)
    steered = embed_prompts(prior, PROMPTS, negative_prompt="blurry", **FAST)
    torch.testing.assert_close(steered.positive, plain.positive, rtol=1e-4, atol=1e-4)
    assert (steered.negative - plain.negative).abs().max() > 0.1
    assert torch.equal(plain.negative[0], plain.negative[2])


def test_embedding_depends_on_no_other_prompt_to_the_bit(prior):
    forward = embed_prompts(prior, PROMPTS, **FAST)
    backward = embed_prompts(prior, PROMPTS[::-1], **FAST)
    alone = embed_prompts(prior, PROMPTS[1], **FAST)
    assert prior_batch_size(prior) == 1
    assert torch.equal(forward.positive, backward.positive.flip(0))
    assert torch.equal(forward.positive[1], alone.positive[0])
    assert forward.prompts == tuple(PROMPTS)


def test_equal_texts_have_equal_embeddings_and_are_embedded_once(prior):
    steps = []
    texts = [PROMPTS[0], PROMPTS[2], PROMPTS[0]]
    embeddings = embed_prompts(prior, texts, on_step=lambda: steps.append(1), **FAST)
    assert torch.equal(embeddings.positive[0], embeddings.positive[2])
    assert not torch.equal(embeddings.positive[0], embeddings.positive[1])
    assert len(steps) == 2 * FAST["num_steps"]
    assert embeddings.prompts == tuple(texts)


def test_embeddings_in_batches_agree_with_one_at_a_time(prior):
    one, three = (embed_prompts(prior, PROMPTS, batch_size=size, **FAST) for size in (1, 3))
    torch.testing.assert_close(three.positive, one.positive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("noise", "same"), [("shared", True), ("per prompt", False)])
def test_prompts_start_from_one_noise_only_where_it_is_shared(prior, monkeypatch, noise, same):
    starts = []
    forward = prior.prior.forward
    monkeypatch.setattr(prior.prior, "forward", lambda x, *a, **kw: starts.append(x) or forward(x, *a, **kw))
    embed_prompts(prior, PROMPTS[:2], noise=noise, num_steps=3, guidance=1.0)
    first, second = starts[0], starts[3]
    assert torch.equal(first, second) == same


def test_shared_noise_brings_prompts_closer(prior, monkeypatch):
    # the bundled prior hardly heeds its noise, so the comparison is made on a prior that returns it
    monkeypatch.setattr(prior.prior, "forward", echo_with_a_trace_of_the_text)
    apart, close = (embed_prompts(prior, PROMPTS, noise=noise, **FAST) for noise in ("per prompt", "shared"))
    assert (ward_linkage(close.positive)[:, 2] < ward_linkage(apart.positive)[:, 2]).all()
    assert (ward_linkage(close.positive)[:, 2] > 0).all()


def echo_with_a_trace_of_the_text(latents, timestep, proj_embedding, **kwargs):
    return SimpleNamespace(predicted_image_embedding=latents + 0.01 * proj_embedding)


def test_seed_of_the_prior_decides_the_embeddings(prior):
    first, again, other = (embed_prompts(prior, PROMPTS[0], seed=seed, **FAST) for seed in (1, 1, 2))
    assert torch.equal(first.positive, again.positive)
    assert (first.positive - other.positive).abs().max() > 1e-3  # the bundled prior hardly heeds its noise


def test_memory_that_runs_out_in_the_prior_is_not_put_down_to_the_size_of_pictures(prior, monkeypatch):
    def forward(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(prior.prior, "forward", forward)
    with pytest.raises(
        torch.OutOfMemoryError, match="a single prompt does not fit in memory beside the prior"
    ) as caught:
        embed_prompts(prior, PROMPTS, batch_size=2, **FAST)
    assert "width" not in str(caught.value)


def test_prior_takes_two_steps(prior):
    assert embed_prompts(prior, PROMPTS[0], num_steps=2).positive.isfinite().all()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "there are no prompts"),
        (["a", "  "], {}, "prompt 1 must not be empty; got '  '"),
        (["a", None], {}, "prompt 1 must be text"),
        (["a"], {"noise": "none"}, "noise must be one of per prompt, shared; got 'none'"),
        (["a"], {"guidance": float("nan")}, "guidance must be a finite number; got nan"),
        (["a"], {"seed": -1}, "seed must be from 0 to 2"),
        (["a"], {"seed": 1.0}, "seed must be a whole number; got 1.0"),
        (["a"], {"num_steps": 4.0}, "num_steps must be a whole number; got 4.0"),
        (["a"], {"batch_size": 1.5}, "batch_size must be a whole number; got 1.5"),
        (["a"], {"batch_size": -1}, "batch_size must be at least 0; got -1"),
        (["a"], {"num_steps": 0}, "num_steps of the prior must be 2 to 1000; got 0"),
        (["a"], {"num_steps": 1}, "num_steps of the prior must be 2 to 1000; got 1"),
        (["a"], {"num_steps": 1001}, "num_steps of the prior must be 2 to 1000; got 1001"),
    ],
)
def test_bad_prompts_are_refused_before_the_prior_runs(prior, monkeypatch, prompts, options, message):
    monkeypatch.setattr(prior.prior, "forward", lambda *a, **kw: pytest.fail("the prior was called"))
    with pytest.raises(ValueError, match=message):
        embed_prompts(prior, prompts, **options)
