"""Group normalisation and what comes beside it, each in as few passes over memory as it takes.

Activations are (N, C, h, w) and channels last. Two sets of kernels do the same: those of `fused.cu`, and torch's own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from .nvrtc import kernels

SOURCE = Path(__file__).with_name("fused.cu")
SIGNATURES = {"group_moments": "PPPPiiiii", "group_apply": "PPPPPPPPPiiiiiifi", "add_bias": "PPPqi"}
DTYPES = (torch.float16, torch.bfloat16)
WIDTHS = (4, 2, 1)  # channels that a thread reads at once
MOST_THREADS = 1024
THREADS = 768  # of a block, about
# Positions are summed up in chunks. Their number depends on the picture's size alone, not on the number of rows: a row's
# sums are the same whatever rows are beside it.
MOST_CHUNKS, LEAST_CHUNK = 64, 16
FLOAT = 4  # bytes
BLOCKS_TO_ADD = 2048


class TorchKernels:
    """The same by torch's operations: for devices without the kernels, and to compare with."""

    def group_norm(
        self,
        norm: torch.nn.GroupNorm,
        x: torch.Tensor,
        other: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        modulation: torch.Tensor | None = None,
        silu: bool = True,
    ) -> torch.Tensor:
        """``silu(group_norm(cat([x, other]) + bias) * (1 + scale) + shift)``.

        Parameters
        ----------
        norm : torch.nn.GroupNorm
        x : (N, C, h, w) tensor
            Channels last.
        other : (N, C', h, w) tensor, optional
            More channels.
        bias : (C + C') tensor, optional
            Of each channel.
        modulation : (N, 2 (C + C')) tensor, optional
            Scales, then shifts, of each row.
        silu : bool
            Whether SiLU follows.

        Returns
        -------
        (N, C + C', h, w) tensor
            Channels last.
        """
        whole = x if other is None else torch.cat([x, other], dim=1)
        if bias is not None:
            whole = whole + bias.view(-1, 1, 1)
        y = F.group_norm(whole, norm.num_groups, norm.weight, norm.bias, norm.eps)
        if modulation is not None:
            scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return (F.silu(y) if silu else y).contiguous(memory_format=torch.channels_last)

    def add_bias(self, x: torch.Tensor, bias: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """``x + bias + other``, for (N, C, h, w) and (C,) tensors; `x` may be overwritten."""
        return (x + bias.view(-1, 1, 1) + other).contiguous(memory_format=torch.channels_last)


class FusedKernels(TorchKernels):
    """The kernels of `fused.cu`, for a CUDA device and a data type of 16 bits.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        One of `DTYPES`.
    width : int
        One of `WIDTHS`: it divides the channels of each group, and of each input.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, width: int) -> None:
        self.width = width
        made = loaded(device.index or 0, dtype, width)
        self.moments, self.apply, self.add = (made[name] for name in SIGNATURES)

    def group_norm(
        self,
        norm: torch.nn.GroupNorm,
        x: torch.Tensor,
        other: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        modulation: torch.Tensor | None = None,
        silu: bool = True,
    ) -> torch.Tensor:
        n, first, h, w = x.shape
        second = 0 if other is None else other.shape[1]
        channels, positions, groups = first + second, h * w, norm.num_groups
        chunk = -(-positions // min(MOST_CHUNKS, max(1, positions // LEAST_CHUNK)))
        chunks = -(-positions // chunk)
        wide = channels // self.width
        threads = wide * max(1, min(THREADS // wide, chunk))
        out = torch.empty((n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        sums = torch.empty((n, chunks, groups, 2), dtype=torch.float32, device=x.device)
        inputs = x.data_ptr(), address(other), address(bias)
        sizes = first, second, positions, chunk, groups
        self.moments((chunks, n), threads, 2 * threads * FLOAT, *inputs, sums.data_ptr(), *sizes)
        scale = address(modulation)
        shift = scale + channels * x.element_size() if scale else 0
        own = address(norm.weight), address(norm.bias), scale, shift, out.data_ptr()
        shared = 2 * groups * (1 + min(threads // groups, 32)) * FLOAT
        row = 2 * channels  # numbers from one row of the modulation to the next
        self.apply((chunks, n), threads, shared, *inputs, sums.data_ptr(), *own, *sizes, row, norm.eps, int(silu))
        return out

    def add_bias(self, x: torch.Tensor, bias: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        count = x.numel() // self.width
        blocks = min(-(-count // 256), BLOCKS_TO_ADD)
        self.add((blocks, 1), 256, 0, x.data_ptr(), bias.data_ptr(), other.data_ptr(), count, x.shape[1])
        return x


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@cache
def loaded(index: int, dtype: torch.dtype, width: int) -> dict:
    """The kernels, compiled once for each device, data type and width: about half a second."""
    defines = {"WIDTH": width, "BFLOAT16": int(dtype == torch.bfloat16)}
    return kernels(SOURCE.read_text(encoding="utf-8"), SIGNATURES, defines, torch.device("cuda", index))


def width_for(norms: list[torch.nn.GroupNorm], parts: list[int]) -> int | None:
    """The most channels that a thread can read at once, given all norms and the channels of all inputs; None: none."""
    for width in WIDTHS:
        fits = all(
            norm.num_channels // norm.num_groups % width == 0 and norm.num_channels // width <= MOST_THREADS
            for norm in norms
        )
        if fits and all(channels % width == 0 for channels in parts):
            return width
    return None
