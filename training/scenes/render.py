"""Scenes as pictures, composed on the device: jittered size and place, no two the same."""

import torch
import torch.nn.functional as F

from .captions import ABOVE, FRONT, LARGER, SMALLER
from .config import PICTURE

SUPERSAMPLING = 2
# the colours of `captions.COLOURS`, light enough for black lines
GROUNDS = (
    (250, 250, 250),
    (235, 90, 80),
    (245, 165, 70),
    (245, 225, 95),
    (120, 200, 110),
    (110, 180, 235),
    (185, 140, 225),
    (160, 160, 168),
)
# width of an object as a share of the picture's, from and to
NORMAL, SMALL, LARGE = (0.43, 0.48), (0.33, 0.37), (0.55, 0.61)
BEHIND, BEFORE = (0.74, 0.82), (0.34, 0.40)
SIDEWAYS = 0.35  # how far an object is off the other's line at most, as half widths of the picture


class Renderer:
    """Draws scenes.

    Parameters
    ----------
    icons : (N, 5, 4, S, S) uint8 tensor   RGBA
    device : torch.device
    generator : torch.Generator            on the device
    """

    def __init__(self, icons, device, generator):
        self.icons = icons.to(device)
        self.grounds = torch.tensor(GROUNDS, device=device) / 127.5 - 1
        self.generator = generator

    def uniform(self, low, high):
        """Random numbers between two tensors (B,)."""
        values = torch.rand(low.shape, generator=self.generator, device=low.device)
        return low + (high - low) * values

    @torch.no_grad()
    def __call__(self, scenes):
        """(B, 6) int64 scenes -> (B, 3, 128, 128) float32 pictures in -1 ... 1."""
        style, first, second, _, _, colour = scenes.T
        side = SUPERSAMPLING * PICTURE
        picture = self.grounds[colour][:, :, None, None].expand(-1, -1, side, side)
        (first_size, first_place), (second_size, second_place) = self.arranged(scenes)
        for emoji, size, place in ((second, second_size, second_place), (first, first_size, first_place)):
            drawn = self.placed(self.icons[emoji, style], size, place, side)
            picture = picture * (1 - drawn[:, 3:]) + drawn[:, :3]
        return F.avg_pool2d(picture, SUPERSAMPLING).clamp(-1, 1)

    def placed(self, icons, size, place, side):
        """(B, 4, side, side): colours times their opacity, and the opacity, of icons at a size and place."""
        icons = icons.float()
        opacity = icons[:, 3:] / 255
        layers = torch.cat([(icons[:, :3] / 127.5 - 1) * opacity, opacity], dim=1)
        matrix = torch.zeros(len(icons), 2, 3, device=icons.device)
        matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / size
        matrix[:, :, 2] = -place / size[:, None]
        grid = F.affine_grid(matrix, (len(icons), 4, side, side), align_corners=False)
        return F.grid_sample(layers, grid, align_corners=False, padding_mode="zeros")

    def arranged(self, scenes):
        """Size (B,) and centre (B, 2; x and y in -1 ... 1) of the first and of the second object."""
        relation, size = scenes[:, 3], scenes[:, 4]
        sizes = self.sizes(relation, size)
        free = 2 - 2 * sizes.sum(1)
        before, between = self.uniform(0 * free, 0.5 * free), self.uniform(0.1 * free, 0.5 * free)
        along = torch.stack([before - 1 + sizes[:, 0], before + between - 1 + 2 * sizes[:, 0] + sizes[:, 1]], dim=1)
        reach = (1 - sizes).clamp(max=SIDEWAYS)
        across = self.uniform(-reach, reach)
        is_above, is_front = (relation == ABOVE)[:, None], (relation == FRONT)[:, None]
        x, y = torch.where(is_above, across, along), torch.where(is_above, along, across)
        front_x, front_y = self.in_front(sizes)
        x, y = torch.where(is_front, front_x, x), torch.where(is_front, front_y, y)
        return [(sizes[:, i], torch.stack([x[:, i], y[:, i]], dim=1)) for i in range(2)]

    def in_front(self, sizes):
        """Places of a small object before a large one: at the bottom, to the left or right of its middle."""
        (front, back), zero = (1 - sizes).T, torch.zeros(len(sizes), device=sizes.device)
        side = torch.where(self.uniform(zero - 1, zero + 1) < 0, -1.0, 1.0)
        x = torch.stack([side * self.uniform(0.6 * front, front), -side * self.uniform(zero, back)], dim=1)
        y = torch.stack([self.uniform(0.8 * front, front), -self.uniform(zero, back)], dim=1)
        return x, y

    def sizes(self, relation, size):
        """(B, 2) widths of both objects as shares of the picture's."""
        ranges = torch.tensor([NORMAL, SMALL, LARGE, BEFORE, BEHIND], device=size.device)
        front = relation == FRONT
        kinds = torch.stack(
            [
                torch.where(front, 3, torch.where(size == SMALLER, 1, torch.where(size == LARGER, 2, 0))),
                torch.where(front, 4, torch.where(size == SMALLER, 2, torch.where(size == LARGER, 1, 0))),
            ],
            dim=1,
        )
        low, high = ranges[kinds].unbind(-1)
        return self.uniform(low, high)
