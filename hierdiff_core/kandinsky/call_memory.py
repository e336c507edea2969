"""What the UNet's calls take of a card's memory, by the way they are made, and so how many branches a call gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..devices import weight_bytes
from ..sampling.microbatch import auto_micro_batch
from .acceleration import LARGEST_COMPILED, graph_sizes, way_on

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

# Activations of the UNet's first level, of which a call holds so many at once, and as much as cuDNN takes beside them:
# a little above what benchmarks/memory.py measures at several sizes. Plainly 15 are alive at once, fused 10.
HELD, HELD_FUSED = 20, 12


def unet_bytes_per_row(
    unet: Any, height: int, width: int, acceleration: str = "none", device: torch.device | None = None
) -> int:
    """Bytes that one branch's guidance pair takes in the UNet, beside its weights.

    Parameters
    ----------
    unet : UNet2DConditionModel
    height, width : int
        Latent pixels.
    acceleration : str
        One of `ACCELERATIONS`.
    device : torch.device, optional
        That the UNet runs on, where it is not there yet.

    Returns
    -------
    int
    """
    held = HELD_FUSED if acceleration == "auto" and way_on(unet, acceleration, device) == "auto" else HELD
    return 2 * height * width * unet.config.block_out_channels[0] * unet.dtype.itemsize * held


def unet_bytes(
    unet: Any, rows: int, height: int, width: int, acceleration: str = "none", device: torch.device | None = None
) -> int:
    """Bytes that a run takes in the UNet whose calls have up to `rows` branches: its largest call, and its graphs.

    Parameters
    ----------
    unet, height, width, acceleration, device : any
        As for `unet_bytes_per_row`.
    rows : int
        Branches of a call.

    Returns
    -------
    int
    """
    row = unet_bytes_per_row(unet, height, width, acceleration, device)
    return row * (rows + min(rows, graphed_branches(unet, height, width, acceleration, device)))


def graphed_branches(unet: Any, height: int, width: int, acceleration: str, device: torch.device | None = None) -> int:
    """Guidance pairs of the largest call that is kept as a graph, in memory that no other call gets; 0: of none."""
    if way_on(unet, acceleration, device) == "none":
        return 0
    return max(graph_sizes(height * width), default=0) // 2


def rows_per_call(decoder: KandinskyV22Pipeline, first: torch.Tensor, micro_batch: int, acceleration: str) -> int:
    """Branches per UNet call: as many as are asked for, or as free memory allows; one on a CPU.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
    first : (G, C, h, w) tensor
        On the device that the UNet runs on.
    micro_batch : int
        As for `sample`.
    acceleration : str
        One of `ACCELERATIONS`.

    Returns
    -------
    int
    """
    if first.device.type == "cpu":
        return 1
    if not micro_batch:
        given = decoder.unet, *first.shape[2:], acceleration, first.device
        weights = weight_bytes(decoder.unet, decoder.movq)
        graphed = graphed_branches(*given)
        micro_batch = auto_micro_batch(first.device, unet_bytes_per_row(*given), weights=weights, kept=graphed)
    return min(micro_batch, LARGEST_COMPILED) if acceleration == "torch.compile" else micro_batch
