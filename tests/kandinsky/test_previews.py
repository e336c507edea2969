"""Small pictures of branches: the colour fit, and which latent is kept for each branch."""

import numpy as np
import pytest
import torch

from hierdiff_core import build_plan, linear_thresholds, load_decoder, ward_linkage
from hierdiff_core.previews import (
    LARGEST_KEPT,
    BranchLatents,
    colour_patches,
    fit_latent_rgb,
    latents_to_rgb,
    preview_grid,
    shrunk,
    tile_sheet,
    to_pictures,
)


def test_fit_recovers_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand((5, 3), generator=generator) * 0.2
    latents = torch.rand((2, 4, 8, 8), generator=generator)
    colours = latents.permute(0, 2, 3, 1) @ factors[:-1] + factors[-1]
    pictures = colours.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    torch.testing.assert_close(fit_latent_rgb(pictures, latents), factors, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_preview_of_a_picture_has_its_colours():
    movq = load_decoder().movq
    patches = colour_patches(seed=0)
    factors = fit_latent_rgb(patches, movq.encode(patches.permute(0, 3, 1, 2) * 2 - 1).latents)
    for colour in ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.9, 0.2, 0.1]):
        picture = torch.tensor(colour).expand(1, 128, 128, 3)
        rgb = latents_to_rgb(movq.encode(picture.permute(0, 3, 1, 2) * 2 - 1).latents, factors)
        assert rgb.shape == (1, 16, 16, 3)
        wanted = torch.tensor(colour) * 255
        assert (rgb.float().mean(dim=(0, 1, 2)) - wanted).abs().max() < 50


def test_each_branch_keeps_the_latent_of_its_last_step():
    x = np.random.default_rng(0).normal(size=(9, 5))
    plan = build_plan(ward_linkage(x), linear_thresholds(12, 1.2))
    kept = BranchLatents(plan)
    for k, step in enumerate(plan.steps):
        x0 = torch.stack([torch.full((4, 8, 8), 100.0 * k + c) for c in range(step.num_clusters)])
        for part in np.array_split(np.arange(step.num_clusters), 2):  # in parts, as they come depth first
            kept.on_rows(k, part, x0[part])
    assert len(kept.latents) == len(plan.branches) > 9
    for branch, latent in zip(plan.branches, kept.latents, strict=True):
        assert latent.shape == (4, 8, 8)
        assert latent.unique().item() == 100 * (branch.stop - 1) + branch.cluster
    assert kept.stacked([0, 3]).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("size", [(96, 96), (40, 128)])
def test_large_latents_are_kept_small(size):
    plan = build_plan(np.empty((0, 4)), [0.0])
    kept = BranchLatents(plan)
    kept.on_rows(0, np.array([0]), torch.ones(1, 4, *size))
    assert max(kept.latents[0].shape[1:]) == LARGEST_KEPT


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((8, 8), 4, (4, 4)),
        ((8, 16), 4, (2, 4)),
        ((64, 100), 64, (41, 64)),  # sides that do not divide
        ((1, 100), 10, (1, 10)),  # never to nothing
        ((8, 6), 8, (8, 6)),
        ((8, 6), 12, (8, 6)),  # never enlarged
    ],
)
def test_shrunk_latents_keep_their_form_and_their_mean(size, longest, expected):
    latents = torch.rand((3, 4, *size), generator=torch.Generator().manual_seed(0))
    small = shrunk(latents, longest)
    assert small.shape == (3, 4, *expected)
    if size == expected:
        assert torch.equal(small, latents)
    torch.testing.assert_close(small.mean(dim=(2, 3)), latents.mean(dim=(2, 3)), atol=0.03, rtol=0)


def test_shrunk_latents_are_means_of_blocks():
    blocks = torch.arange(6.0).reshape(1, 1, 2, 3)
    latents = blocks.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    latents[..., ::2] += 1
    latents[..., 1::2] -= 1
    torch.testing.assert_close(shrunk(latents, 3), blocks)


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (4, 2, 2), (5, 2, 3), (12, 3, 4)]
)
def test_sheet_of_tiles_has_them_row_by_row_without_gaps(count, rows, columns):
    tiles = torch.randint(1, 256, (count, 5, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sheet = tile_sheet(tiles).numpy()
    assert sheet.shape == (rows * 5, columns * 7, 3)
    for i in range(rows * columns):
        top, left = i // columns * 5, i % columns * 7
        cell = sheet[top : top + 5, left : left + 7]
        assert np.array_equal(cell, tiles[i].numpy() if i < count else np.zeros_like(cell))


@pytest.mark.parametrize(
    ("count", "side", "size"), [(1, 64, 512), (2, 64, 512), (7, 600, 256), (64, 8, 512), (3000, 32, 512), (9, 4, 8)]
)
def test_preview_fits_and_shows_an_even_choice(count, side, size):
    levels = [[i % 200, 50 + i // 200, 99] for i in range(count)]
    tiles = torch.tensor(levels, dtype=torch.uint8)[:, None, None].expand(-1, side, side, -1)
    preview = preview_grid(tiles, size)
    assert max(preview.shape[:2]) <= size
    seen = {tuple(rgb) for rgb in preview.flatten(0, 1).tolist()} - {(255, 255, 255)}
    assert seen <= {tuple(rgb) for rgb in levels}
    if size == 512:
        assert len(seen) == min(count, 64)
    assert tuple(levels[0]) in seen
    assert count < 64 or tuple(levels[count * 63 // 64]) in seen  # not just the first


def test_preview_has_white_between_its_pictures():
    preview = preview_grid(torch.zeros(3, 10, 10, 3, dtype=torch.uint8), 100).numpy()
    assert preview.shape == (81, 81, 3)  # two of 40 pixels and a gap
    white = np.zeros((81, 81), dtype=bool)
    white[40], white[:, 40], white[41:, 41:] = True, True, True
    assert np.array_equal(preview, np.where(white, 255, 0)[..., None].repeat(3, 2))


def test_preview_enlarges_without_blur():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    preview = preview_grid(torch.from_numpy(pixels[None]), 100)
    np.testing.assert_array_equal(preview.numpy(), pixels.repeat(3, 0).repeat(3, 1))


def test_preview_shrinks_to_means_of_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    means = pixels.reshape(20, 2, 10, 2, 3).mean((1, 3))
    preview = preview_grid(torch.from_numpy(pixels[None]), 20)
    np.testing.assert_allclose(preview.numpy(), means, atol=0.5)


def test_preview_errors():
    tiles = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at least one picture"):
        preview_grid(tiles[:0])
    with pytest.raises(ValueError, match="at least 8 pixels; got 5"):
        preview_grid(tiles, 5)


def test_pictures_round_to_the_nearest_level():
    (picture,) = to_pictures(torch.tensor([[[[0.0, 0.5, 1.0]]]]))
    assert picture.getpixel((0, 0)) == (0, 128, 255)
