"""Group normalisation and what comes beside it, each in as few passes over memory as it takes.

Activations are (N, C, h, w) and channels last. Two sets of kernels do the same: those of `fused.cu`, and torch's own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .nvrtc import Kernel, kernels

SOURCE = Path(__file__).with_name("fused.cu")
SIGNATURES = {
    "group_moments": "PPPPiiiii",
    "group_apply": "PPPPPPPPPiiiiiiiifi",
    "spatial_apply": "PPPPPPPPiiiiiifi",
    "add_bias": "PPPiiii",
}
DTYPES = (torch.float16, torch.bfloat16)
WIDTHS = (4, 2, 1)  # channels that a thread reads at once
MOST_THREADS = 1024
THREADS = 768  # of a block, about
# Positions are summed up in chunks. Their number depends on the picture's size alone, so that a row's sums do not
# depend on the number of rows: up to 64, and up to 256 where each has as many positions.
LEAST_CHUNK = 16
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
        resize: int = 0,
    ) -> torch.Tensor:
        """``resized(silu(group_norm(cat([x, other]) + bias) * (1 + scale) + shift), resize)``.

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
        resize : int
            See `resized`.

        Returns
        -------
        (N, C + C', h, w) tensor
            Channels last; of the size that it is resized to.
        """
        whole = x if other is None else torch.cat([x, other], dim=1)
        if bias is not None:
            whole = whole + bias.view(-1, 1, 1)
        y = F.group_norm(whole, norm.num_groups, norm.weight, norm.bias, norm.eps)
        if modulation is not None:
            scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return last(resized(F.silu(y) if silu else y, resize))

    def spatial_norm(
        self,
        norm: torch.nn.GroupNorm,
        x: torch.Tensor,
        factors: torch.Tensor,
        summands: torch.Tensor,
        bias: torch.Tensor | None = None,
        silu: bool = True,
    ) -> torch.Tensor:
        """``silu(group_norm(x + bias) * enlarged(factors) + enlarged(summands))``.

        Parameters
        ----------
        norm : torch.nn.GroupNorm
        x : (N, C, h, w) tensor
            Channels last.
        factors, summands : (N, C, h / f, w / f) tensor
            Channels last.
        bias : (C,) tensor, optional
        silu : bool

        Returns
        -------
        (N, C, h, w) tensor
            Channels last.
        """
        times = x.shape[2] // factors.shape[2]
        y = self.group_norm(norm, x, None, bias, silu=False)
        y = y * enlarged(factors, times) + enlarged(summands, times)
        return last(F.silu(y) if silu else y)

    def add_bias(
        self, x: torch.Tensor, bias: torch.Tensor, other: torch.Tensor | None = None, resize: int = 0
    ) -> torch.Tensor:
        """``x + bias + resized(other, resize)``, for (N, C, h, w) and (C,) tensors; `x` may be overwritten."""
        summed = x + bias.view(-1, 1, 1)
        return last(summed if other is None else summed + resized(other, resize))


class FusedKernels(TorchKernels):
    """The kernels of `fused.cu`, for tensors on CUDA devices in a data type of `DTYPES`.

    Parameters
    ----------
    width : int
        One of `WIDTHS`: it divides the channels of each group, and of each input.

    Notes
    -----
    They are compiled at the first call, which may raise what `nvrtc.kernels` does.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    def launch(self, name: str, x: torch.Tensor, *arguments: Any) -> None:
        loaded(x.device.index, x.dtype, self.width)[name](*arguments)

    def group_norm(
        self,
        norm: torch.nn.GroupNorm,
        x: torch.Tensor,
        other: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        modulation: torch.Tensor | None = None,
        silu: bool = True,
        resize: int = 0,
    ) -> torch.Tensor:
        n, first, h, w = x.shape
        second = 0 if other is None else other.shape[1]
        channels = first + second
        size = n, channels, *((2 * h, 2 * w) if resize > 0 else (h // 2, w // 2) if resize else (h, w))
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        inputs = x.data_ptr(), address(other), address(bias)
        grid, threads, chunk, sums = self.moments(norm, x, inputs, first, second)
        scale = address(modulation)
        shift = scale + channels * x.element_size() if scale else 0
        own = address(norm.weight), address(norm.bias), scale, shift, out.data_ptr()
        between = 2 * channels  # numbers from one row's scales to the next's
        sizes = first, second, h * w, chunk, norm.num_groups, between, w, resize
        shared = shared_to_apply(norm, threads)
        self.launch(
            "group_apply", x, grid, threads, shared, *inputs, sums.data_ptr(), *own, *sizes, norm.eps, int(silu)
        )
        return out

    def moments(
        self, norm: torch.nn.GroupNorm, x: torch.Tensor, inputs: tuple[int, int, int], first: int, second: int
    ) -> tuple[tuple[int, int], int, int, torch.Tensor]:
        """Sums for each group; returns grid, threads and chunk for the kernel that applies them, and them."""
        n, positions, wide = len(x), x.shape[2] * x.shape[3], (first + second) // self.width
        chunk = chunk_of(positions)
        grid = -(-positions // chunk), n
        threads = wide * max(1, min(THREADS // wide, chunk))
        sums = torch.empty((n, grid[0], norm.num_groups, 2), dtype=torch.float32, device=x.device)
        sizes = first, second, positions, chunk, norm.num_groups
        self.launch("group_moments", x, grid, threads, 2 * threads * FLOAT, *inputs, sums.data_ptr(), *sizes)
        return grid, threads, chunk, sums

    def spatial_norm(
        self,
        norm: torch.nn.GroupNorm,
        x: torch.Tensor,
        factors: torch.Tensor,
        summands: torch.Tensor,
        bias: torch.Tensor | None = None,
        silu: bool = True,
    ) -> torch.Tensor:
        channels, h, w = x.shape[1:]
        out = torch.empty_like(x)
        grid, threads, chunk, sums = self.moments(norm, x, (x.data_ptr(), 0, address(bias)), channels, 0)
        inputs = x.data_ptr(), address(bias), sums.data_ptr(), address(norm.weight), address(norm.bias)
        sizes = channels, h * w, chunk, norm.num_groups, w, w // factors.shape[3]
        places = factors.data_ptr(), summands.data_ptr(), out.data_ptr()
        shared = shared_to_apply(norm, threads)
        self.launch("spatial_apply", x, grid, threads, shared, *inputs, *places, *sizes, norm.eps, int(silu))
        return out

    def add_bias(
        self, x: torch.Tensor, bias: torch.Tensor, other: torch.Tensor | None = None, resize: int = 0
    ) -> torch.Tensor:
        count = x.numel() // self.width
        grid = min(-(-count // 256), BLOCKS_TO_ADD), 1
        sizes = count, x.shape[1], x.shape[3], resize
        self.launch("add_bias", x, grid, 256, 0, address(x), address(bias), address(other), *sizes)
        return x


def chunk_of(positions: int) -> int:
    """Positions that one block sums up."""
    chunks = min(max(64, min(256, positions // 256)), max(1, positions // LEAST_CHUNK))
    return -(-positions // chunks)


def shared_to_apply(norm: torch.nn.GroupNorm, threads: int) -> int:
    """Bytes of shared memory that `group_apply` and `spatial_apply` take."""
    return 2 * norm.num_groups * (1 + min(threads // norm.num_groups, 32)) * FLOAT


def last(x: torch.Tensor) -> torch.Tensor:
    """The tensor, channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def positions(x: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w), channels last -> (N, h w, C), in the same memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def enlarged(x: torch.Tensor, times: int) -> torch.Tensor:
    """(N, C, h, w) -> (N, C, times h, times w), channels last, each number repeated.

    Notes
    -----
    torch's `interpolate` fails for more than 2**31 numbers in this layout.
    """
    n, c, h, w = x.shape
    repeated = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, h, times, w, times, c)
    return repeated.reshape(n, times * h, times * w, c).permute(0, 3, 1, 2)


def resized(x: torch.Tensor, resize: int) -> torch.Tensor:
    """(N, C, h, w) at twice the width and height (1), at half of them (-1), or as it is (0)."""
    return enlarged(x, 2) if resize > 0 else F.avg_pool2d(x, 2) if resize else x


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@cache
def loaded(index: int, dtype: torch.dtype, width: int) -> dict[str, Kernel]:
    """The kernels, compiled once for each device, data type and width: about half a second."""
    defines = {"WIDTH": width, "BFLOAT16": int(dtype == torch.bfloat16)}
    return kernels(SOURCE.read_text(encoding="utf-8"), SIGNATURES, defines, torch.device("cuda", index))
