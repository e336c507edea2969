"""Adherence on a denoiser that is known; what a loss of it says, and how sure it is."""

import numpy as np
import pytest
import torch

from hierdiff_core.measure.adherence import LEVELS, adherence, adherence_passes
from hierdiff_core.measure.losses import mean_and_error, relative_loss

WIDTH = 64


def noised(latents, noise, level):
    return (1 - level) * latents + level * noise


class Gaussian:
    """The ideal denoiser of pictures that scatter around what their prompts say, and these around nothing.

    Parameters
    ----------
    texts : (N, D) tensor
    own, between, noise : float    deviation of a prompt's pictures, of what prompts say, and of the noise
    """

    def __init__(self, texts, own, between, noise=1.0):
        self.texts, self.own, self.between, self.noise = texts, own, between, noise
        self.calls = 0

    def denoised(self, noised, level):
        self.calls += 1
        deviation = (self.own**2 + self.between**2) ** 0.5
        return self.expected(noised, level, self.texts, self.own), self.expected(noised, level, 0, deviation)

    def expected(self, noised, level, mean, deviation):
        signal, variance = (1 - level) ** 2 * deviation**2, (self.noise * level) ** 2
        return mean + signal / (signal + variance) * (noised / (1 - level) - mean)


@pytest.fixture(scope="module")
def known():
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(200, WIDTH, generator=generator)
    return Gaussian(texts, 0.3, 1.0), texts + 0.3 * torch.randn(200, WIDTH, generator=generator)


def remaining(level, deviation):
    """Mean squared error of the ideal denoiser."""
    ratio = (level / (1 - level)) ** 2
    return deviation**2 * ratio / (deviation**2 + ratio)


def test_the_ideal_denoiser_of_known_data_gives_the_known_number(known):
    model, pictures = known
    shares = [1 - remaining(level, 0.3) / remaining(level, (0.3**2 + 1) ** 0.5) for level in LEVELS]
    assert adherence(pictures, noised, model.denoised).mean() == pytest.approx(np.mean(shares), abs=0.01)


def test_pictures_of_other_prompts_are_below_nothing_and_half_wrong_ones_between(known):
    model, pictures = known
    right, wrong = (adherence(rows, noised, model.denoised) for rows in (pictures, pictures.roll(1, 0)))
    half = adherence(torch.cat([pictures[:100], pictures.roll(1, 0)[100:]]), noised, model.denoised)
    assert right.mean() > 0.7
    assert wrong.mean() < -0.2
    assert wrong.min() >= -1
    assert half.mean() == pytest.approx((right.mean() + wrong.mean()) / 2, abs=0.05)


def test_one_picture_gone_wrong_counts_as_one(known):
    """However large its error is: of a ratio of errors it would be all that the mean says."""
    model, pictures = known
    spoilt = pictures.clone()
    spoilt[0] = 40 * pictures[1]
    loss = relative_loss(*(adherence(rows, noised, model.denoised) for rows in (spoilt, pictures)))
    assert 0 < loss.mean() < 2.5 / len(pictures)


def test_the_noise_is_the_same_for_all_pictures_and_another_at_each_level_and_seed():
    seen = []

    def keep(latents, noise, level):
        seen.append(noise)
        return latents

    adherence(torch.ones(3, 5), keep, lambda rows, level: (rows, 0 * rows), [0.5, 0.5])
    adherence(torch.ones(3, 5), keep, lambda rows, level: (rows, 0 * rows), [0.5], seed=1)
    assert all(torch.equal(noise, noise[:1].expand(3, -1)) for noise in seen)
    assert len({tuple(noise[0].tolist()) for noise in seen}) == 3


def test_it_is_the_same_for_any_order_and_any_scale(known):
    model, pictures = known
    whole = adherence(pictures, noised, model.denoised, seed=3)
    part = Gaussian(model.texts[[7, 3]], 0.3, 1.0)
    np.testing.assert_allclose(adherence(pictures[[7, 3]], noised, part.denoised, seed=3), whole[[7, 3]], rtol=1e-5)
    tiny = Gaussian(model.texts * 1e-3, 3e-4, 1e-3, 1e-3)
    scaled = adherence(pictures * 1e-3, lambda x, n, level: noised(x, n * 1e-3, level), tiny.denoised, seed=3)
    np.testing.assert_allclose(scaled, whole, atol=1e-3)


def test_errors_that_are_nothing_but_rounding_have_no_share():
    pictures = torch.ones(2, 4)
    assert adherence(pictures, noised, lambda rows, level: (pictures + 1e-7, pictures)).tolist() == [0, 0]


def test_its_cost_is_what_it_says(known):
    model, pictures = known
    model.calls = 0
    adherence(pictures[:1].expand(200, -1), noised, model.denoised)
    assert adherence_passes(200) == 2 * 200 * model.calls
    assert adherence_passes(3, [0.5]) == 6


@pytest.mark.parametrize("levels", [[], [0.0], [1.0], [0.5, 1.5], [float("nan")]])
def test_levels_are_between_nothing_and_noise(levels):
    with pytest.raises(ValueError, match="levels must be shares of noise between 0 and 1"):
        adherence(torch.ones(2, 4), noised, lambda rows, level: (rows, rows), levels)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="final latents hold NaN"):
        adherence(torch.full((2, 4), float("nan")), noised, lambda rows, level: (rows, rows))
    with pytest.raises(ValueError, match="predicts NaN"):
        adherence(torch.ones(2, 4), noised, lambda rows, level: (rows, rows * float("inf")))


# --- losses ----------------------------------------------------------------------------------------------------------


def test_a_loss_is_a_share_of_full_samplings_mean():
    full = np.array([0.5, 0.3, 0.4])
    assert relative_loss(full, full).tolist() == [0, 0, 0]
    assert relative_loss(0 * full, full).mean() == pytest.approx(1)
    assert relative_loss(0.97 * full, full).mean() == pytest.approx(0.03)
    assert relative_loss(full + 0.04, full).mean() == pytest.approx(-0.1)


def test_a_picture_near_nothing_outweighs_no_other():
    full = np.array([1e-6, 0.4, 0.4, 0.4])
    assert abs(relative_loss(full - 0.01, full) - 0.01 / full.mean()).max() < 1e-9


@pytest.mark.parametrize("full", [[0.0, 0.0, 0.0], [-0.1, -0.2, -0.1], [0.5, -0.6, 0.2, -0.1]])
def test_where_prompts_hardly_show_in_full_sampling_nothing_can_be_lost(full):
    with pytest.raises(ValueError, match="hardly show"):
        relative_loss(full, full)


def test_losses_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match=r"same pictures; got shapes \(2,\) and \(3,\)"):
        relative_loss([0.1, 0.1], [0.1, 0.1, 0.1])


def test_the_error_is_that_of_a_mean_over_prompts():
    generator = np.random.default_rng(0)
    means, errors = zip(*(mean_and_error(generator.normal(0.03, 0.1, 25)) for _ in range(2000)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)
    inside = [abs(mean - 0.03) < 2.06 * error for mean, error in zip(means, errors, strict=True)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_seeds_of_one_prompt_are_no_further_prompts():
    prompts = np.random.default_rng(0).normal(size=12)
    assert mean_and_error(np.tile(prompts, (5, 1))) == pytest.approx(mean_and_error(prompts))


def test_one_prompt_says_nothing_of_how_sure_it_is():
    assert mean_and_error([0.2]) == (0.2, np.inf)
    with pytest.raises(ValueError, match="no picture"):
        mean_and_error([])
