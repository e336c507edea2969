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
        for part in np.array_split(np.arange(step.num_clusters), 2):  # in pieces, as they come depth first
            kept(k, part, x0[part])
    assert len(kept.latents) == len(plan.branches) > 9
    for branch, latent in zip(plan.branches, kept.latents, strict=True):
        assert latent.shape == (4, 8, 8)
        assert latent.unique().item() == 100 * (branch.stop - 1) + branch.cluster
    assert kept.stacked([0, 3]).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("size", [(96, 96), (40, 128)])
def test_large_latents_are_kept_small(size):
    plan = build_plan(np.empty((0, 4)), [0.0])
    kept = BranchLatents(plan)
    kept(0, np.array([0]), torch.ones(1, 4, *size))
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
    sheet = np.asarray(tile_sheet(tiles))
    assert sheet.shape == (rows * 5, columns * 7, 3)
    for i in range(rows * columns):
        top, left = i // columns * 5, i % columns * 7
        cell = sheet[top : top + 5, left : left + 7]
        assert np.array_equal(cell, tiles[i].numpy() if i < count else np.zeros_like(cell))


def test_pictures_round_to_the_nearest_level():
    (picture,) = to_pictures(torch.tensor([[[[0.0, 0.5, 1.0]]]]))
    assert picture.getpixel((0, 0)) == (0, 128, 255)
