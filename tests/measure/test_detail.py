"""Losses of detail and of likeness: what they notice, and what they must not."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from hierdiff_core.measure.detail import detail_loss, fidelity_loss
from hierdiff_core.measure.losses import mean_and_error

SIDE, COUNT = 128, 16
LARGE = 0.05  # of a loss that users see


def scene(seed, moved=(0, 0), hatched=True):
    """A picture with surfaces, edges and fine hatching, drawn at twice its size."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE), tuple(rng.integers(180, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = (rng.integers(40, 160, 2) + np.array(moved)).tolist()
        w, h = rng.integers(30, 90, 2).tolist()
        draw.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 200, 3).tolist()), outline="black", width=3)
        colour = tuple(rng.integers(0, 255, 3).tolist())
        for line in range(0, h if hatched else 0, 6):
            draw.line((x, y + line, x + w, y + line), fill=colour, width=1)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float32) / 255


def scenes(first=0, **options):
    return torch.from_numpy(np.stack([scene(seed, **options) for seed in range(first, first + COUNT)]))


@pytest.fixture(scope="module")
def full():
    return scenes()


def blurred(pictures, radius):
    images = [Image.fromarray((row.numpy() * 255).round().astype(np.uint8)) for row in pictures]
    soft = [np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255 for image in images]
    return torch.from_numpy(np.stack(soft))


def noisy(pictures, strength):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    return (pictures + strength * noise).clamp(0, 1)


# --- what is noticed


def test_blur_is_noticed_the_more_the_stronger(full):
    losses = [detail_loss(blurred(full, radius), full).mean() for radius in (0.4, 0.7, 1.5, 4.0)]
    assert losses[0] > LARGE / 2
    assert losses[1] > LARGE
    assert losses == sorted(losses)
    assert losses[-1] < 1


def test_missing_fine_detail_is_noticed(full):
    assert detail_loss(scenes(hatched=False), full).mean() > LARGE


def test_noise_that_was_left_is_noticed_before_it_is_as_strong_as_edges(full):
    losses = [detail_loss(noisy(full, strength), full).mean() for strength in (0.005, 0.01, 0.02, 0.05)]
    assert losses[1] > LARGE
    assert losses == sorted(losses)


def test_blur_with_noise_does_not_pass_for_detail(full):
    assert detail_loss(noisy(blurred(full, 1.0), 0.03), full).mean() > LARGE


def test_too_much_contrast_is_noticed_too(full):
    harder = ((full - 0.5) * 1.2 + 0.5).clamp(0, 1)
    assert detail_loss(harder, full).mean() > LARGE


def spectrum(pictures):
    """(N, 3) power in the three finest octaves, whatever the direction: what detail was first to be measured by."""
    window, places = torch.hann_window(SIDE), torch.arange(SIDE) - SIDE / 2
    grey = pictures.mean(dim=3) - pictures.mean(dim=(1, 2, 3))[:, None, None]
    power = torch.fft.fftshift(torch.fft.fft2(grey * window[:, None] * window).abs().square(), dim=(1, 2))
    radius = (places[:, None].square() + places.square()).sqrt()
    bands = [(SIDE / 16, SIDE / 8), (SIDE / 8, SIDE / 4), (SIDE / 4, SIDE / 2)]
    return torch.stack([power[:, (radius >= low) & (radius < high)].sum(dim=1) for low, high in bands], dim=1)


def test_a_power_spectrum_would_notice_noise_less_than_another_layout(full):
    """Edges rule it; sorted contrasts tell the two apart, and by far."""

    def changed(pictures):
        return float((spectrum(pictures) / spectrum(full)).log().mean(dim=0).abs().mean())

    noise, layout = noisy(full, 0.02), scenes(moved=(23, -14))
    assert changed(noise) < 0.2 * changed(layout)
    assert detail_loss(noise, full).mean() > 10 * detail_loss(layout, full).mean()


# --- what is not


def test_the_same_pictures_have_lost_nothing(full):
    assert (detail_loss(full, full) == 0).all()


@pytest.mark.parametrize("axis", [1, 2])
def test_mirrored_pictures_have_lost_nothing(full, axis):
    assert detail_loss(full.flip(axis), full).mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("places", [(1, 0), (0, 3), (5, 2), (10, -7)])
def test_shifted_pictures_have_lost_nothing(full, places):
    assert detail_loss(full.roll(places, dims=(1, 2)), full).mean() < 0.01


def test_another_layout_of_the_same_objects_has_lost_nothing(full):
    assert detail_loss(scenes(moved=(23, -14)), full).mean() < 0.02


def test_other_pictures_of_the_same_kind_are_within_chance(full):
    mean, error = mean_and_error(detail_loss(scenes(first=100), full))
    assert mean < 2.5 * error


def test_one_of_many_that_differs_counts_as_one(full):
    one = full.clone()
    one[0] = blurred(full, 1.5)[0]
    assert detail_loss(one, full).mean() == pytest.approx(detail_loss(blurred(full, 1.5), full).mean() / COUNT, rel=0.7)


# --- sizes, and what cannot be compared


def test_large_pictures_are_sampled_and_small_ones_have_fewer_scales(full):
    large = full.permute(0, 3, 1, 2).repeat(1, 1, 4, 4).permute(0, 2, 3, 1)
    half = detail_loss(large * 0.5, large)
    assert half.mean() == pytest.approx(0.5, abs=1e-3)
    small = full[:, 56:72, 56:72]
    assert detail_loss(small * 0.5, small).mean() == pytest.approx(0.5, abs=1e-3)


def test_plain_surfaces_have_nothing_to_lose_and_noise_on_them_is_noticed(full):
    plain = torch.full_like(full, 0.5)
    assert (detail_loss(plain + 1e-5, plain) == 0).all()
    assert detail_loss(noisy(plain, 0.01), plain).mean() > 1


def test_what_cannot_be_compared_is_refused(full):
    with pytest.raises(ValueError, match="as many and of the same size"):
        detail_loss(full[:3], full)
    with pytest.raises(ValueError, match="at least 10 pixels"):
        detail_loss(full[:, :8, :8], full[:, :8, :8])
    with pytest.raises(ValueError, match="NaN"):
        detail_loss(full * float("nan"), full)


def test_pictures_with_a_graph_are_compared_without_it(full):
    drawn = full.clone().requires_grad_(True)
    assert (detail_loss(drawn, full) == 0).all()
    assert (fidelity_loss(drawn, full) == 0).all()


# --- likeness


def test_likeness_is_0_for_the_same_and_1_for_pictures_of_other_prompts():
    latents = torch.randn(50, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert fidelity_loss(latents, latents).tolist() == [0] * 50
    assert fidelity_loss(latents.roll(1, 0), latents).mean() == pytest.approx(1, abs=0.05)


def test_likeness_knows_no_scale_and_no_shift():
    generator = torch.Generator().manual_seed(0)
    latents, others = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    expected = fidelity_loss(others, latents)
    np.testing.assert_allclose(fidelity_loss(others * 7 + 3, latents * 7 + 3), expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_without_two_different_pictures_there_is_no_likeness(count):
    with pytest.raises(ValueError, match="same picture for all prompts"):
        fidelity_loss(torch.zeros(count, 4), torch.ones(count, 4))
