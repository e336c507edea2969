"""What the UNet's calls take of a card's memory, by the way they are made, and so how many branches a call gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..devices import weight_bytes
from ..sampling.microbatch import auto_micro_batch
from .acceleration import LARGEST_COMPILED, graph_sizes

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

# Activations of the UNet's first level, of which a call holds so many at once, and as much as cuDNN takes beside them:
# a little above what benchmarks/memory.py measures at several sizes. Plainly 15 are alive at once, fused 10.
HELD, HELD_FUSED = 20, 12
# What the graphs of a run keep, in calls of the largest of them: they share their memory, which is in pieces.
KEPT_BY_GRAPHS = 2


def unet_bytes_per_row(unet: Any, height: int, width: int, way: str = "none") -> int:
    """Bytes that one branch's guidance pair takes in the UNet, beside its weights.

    Parameters
    ----------
    unet : UNet2DConditionModel
    height, width : int
        Latent pixels.
    way : str
        In which it is called, see `way_on`.

    Returns
    -------
    int
    """
    held = HELD_FUSED if way == "auto" else HELD
    return 2 * height * width * unet.config.block_out_channels[0] * unet.dtype.itemsize * held


def unet_bytes(unet: Any, rows: int, height: int, width: int, way: str = "none") -> int:
    """Bytes that a run takes in the UNet whose calls have up to `rows` branches: its largest call, and its graphs.

    Parameters
    ----------
    unet : UNet2DConditionModel
    rows : int
        Branches of a call.
    height, width, way : any
        As for `unet_bytes_per_row`.

    Returns
    -------
    int
    """
    graphed = min(rows, graphed_branches(height, width, way))
    return unet_bytes_per_row(unet, height, width, way) * (rows + KEPT_BY_GRAPHS * graphed)


def graphed_branches(height: int, width: int, way: str) -> int:
    """Guidance pairs of the largest call that is kept as a graph; 0 where there are no graphs."""
    return 0 if way == "none" else max(graph_sizes(height * width), default=0) // 2


def rows_per_call(decoder: KandinskyV22Pipeline, first: torch.Tensor, micro_batch: int, way: str) -> int:
    """Branches per UNet call: as many as are asked for, or as free memory allows; one on a CPU.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    first : (G, C, h, w) tensor
        On the device that the UNet runs on.
    micro_batch : int
        As for `sample`.
    way : str
        In which the UNet is called, see `way_on`.

    Returns
    -------
    int
    """
    if first.device.type == "cpu":
        return 1
    if not micro_batch:
        (height, width), weights = first.shape[2:], weight_bytes(decoder.unet, decoder.movq)
        row = unet_bytes_per_row(decoder.unet, height, width, way)
        kept = graphed_branches(height, width, way), KEPT_BY_GRAPHS
        micro_batch = auto_micro_batch(first.device, row, weights=weights, kept=kept)
    return min(micro_batch, LARGEST_COMPILED) if way == "torch.compile" else micro_batch
