"""Adherence of a Kandinsky decoder: the right network is asked about the right latents, and it ranks what it drew."""

import numpy as np
import pytest
import torch

from hierdiff_core import PromptEmbeddings, decode, embed_prompts, load_decoder, load_prior, sample
from hierdiff_core.kandinsky.adherence import DecoderDenoiser
from hierdiff_core.kandinsky.schedulers import make_scheduler
from hierdiff_core.measure.adherence import LEVELS, adherence, adherence_passes
from hierdiff_core.measure.detail import detail_loss, fidelity_loss
from hierdiff_core.measure.losses import mean_and_error, relative_loss
from hierdiff_core.plan.algebra import alone
from hierdiff_core.sampling.noise import common_noise

PROMPTS = ["bus, noto style", "red apple, 3d style", "cat face, flat style"]


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


@pytest.fixture(scope="module")
def embeddings():
    return embed_prompts(load_prior(), PROMPTS, num_steps=5, guidance=4.0, seed=1)


@pytest.fixture(scope="module")
def draw(decoder, embeddings):
    def drawn(steps):
        settings = {"guidance": 3.0, "width": 128, "height": 128, "noise": common_noise(0)}
        return sample(decoder, embeddings, alone(len(embeddings), steps), **settings)

    return drawn


@pytest.fixture(scope="module")
def full(draw):
    return draw(20)


@pytest.fixture(scope="module")
def denoiser(decoder, embeddings):
    return DecoderDenoiser(decoder, embeddings)


def measured(denoiser, latents, **options):
    return adherence(latents, denoiser.noised, denoiser.denoised, **options)


def test_pictures_of_a_decoder_adhere_to_their_own_prompts(denoiser, decoder, embeddings, full):
    own = measured(denoiser, full)
    turned = PromptEmbeddings(embeddings.positive.roll(1, 0), embeddings.negative, PROMPTS)
    others = measured(DecoderDenoiser(decoder, turned), full)
    assert (own > 0.8).all()
    assert (others < 0).all()


def test_all_three_measures_fall_with_the_steps(denoiser, decoder, draw, full):
    adhered, pictures = measured(denoiser, full), decode(decoder, full)
    rows = []
    for steps in (12, 6, 4):
        latents = draw(steps)
        losses = (
            relative_loss(measured(denoiser, latents), adhered),
            detail_loss(decode(decoder, latents), pictures),
            fidelity_loss(latents, full),
        )
        rows.append([mean_and_error(loss)[0] for loss in losses])
    assert (np.array(rows) > 0).all()
    assert (np.diff(np.array(rows), axis=0) > 0).all()


def test_a_level_is_the_share_of_noise_of_the_nearest_timestep(denoiser, full):
    noise = torch.ones_like(full)
    for level in LEVELS:
        noised = denoiser.noised(torch.zeros_like(full), noise, level)
        kept = denoiser.noised(noise, torch.zeros_like(full), level)
        assert float((noised / (noised + kept)).mean()) == pytest.approx(level, abs=2e-3)


def test_a_network_that_knows_noise_or_picture_leaves_no_error(decoder, embeddings, full):
    """With the prompt it says the very noise; without, none: the picture is then taken for larger than it is."""
    denoiser = DecoderDenoiser(decoder, embeddings)
    noise, level = torch.randn(full.shape, generator=torch.Generator().manual_seed(0)), 0.7
    calls, row = [], iter(range(3))

    def network(latents, t, image_embeds):
        i = next(row)
        calls.append((len(latents), int(t), image_embeds))
        return torch.cat([noise[i : i + 1], torch.zeros_like(noise[:1])]).repeat(1, 2, 1, 1)  # and the variances

    network.device, network.dtype = full.device, torch.float32
    denoiser.network = network
    with_prompt, without = denoiser.denoised(denoiser.noised(full, noise, level), level)
    torch.testing.assert_close(with_prompt, full, atol=1e-3, rtol=1e-3)
    signal = make_scheduler("DDPM", decoder.scheduler.config, 1).alphas_cumprod[calls[0][1]]
    torch.testing.assert_close(without, full + ((1 - signal) / signal).sqrt() * noise, atol=1e-3, rtol=1e-3)
    for i, (rows, _, embeds) in enumerate(calls):
        assert rows == 2
        assert torch.equal(embeds, embeddings.stacked()[:, i])


def test_its_cost_in_rows_is_what_it_says_and_it_can_be_stopped(decoder, embeddings, full, monkeypatch):
    rows, forward = [], decoder.unet.forward
    monkeypatch.setattr(
        decoder.unet, "forward", lambda x, *args, **kw: (rows.append(len(x)), forward(x, *args, **kw))[1]
    )
    measured(DecoderDenoiser(decoder, embeddings), full)
    assert sum(rows) == adherence_passes(3)

    def stop():
        raise KeyboardInterrupt

    rows.clear()
    with pytest.raises(KeyboardInterrupt):
        measured(DecoderDenoiser(decoder, embeddings, before_call=stop), full)
    assert rows == []


def test_latents_of_other_prompts_and_embeddings_of_other_models_are_refused(denoiser, decoder, full):
    with pytest.raises(ValueError, match="there are 2 latents, but 3 prompts"):
        measured(denoiser, full[:2])
    with pytest.raises(ValueError, match="embeddings are 5 wide"):
        DecoderDenoiser(decoder, PromptEmbeddings(torch.eye(2, 5), torch.zeros(2, 5)))
