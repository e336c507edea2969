"""Estimates of the UNet's calls against what their tensors take, counted without a card: at full size, on meta."""

import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hierdiff_core.kandinsky import fused_unet
from hierdiff_core.kandinsky.acceleration import GRAPH_ROWS, call, graph_rows, graph_sizes, way_on
from hierdiff_core.kandinsky.call_memory import graphed_branches, unet_bytes, unet_bytes_per_row
from hierdiff_core.kandinsky.fused_kernels import TorchKernels
from hierdiff_core.kandinsky.fused_unet import FusedUNet

CARD = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def unet():
    """Kandinsky 2.2's UNet at its published size, without numbers."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    try:
        from full_size import UNET
    finally:
        sys.path.pop()
    with torch.device("meta"):
        return UNet2DConditionModel(**UNET).half().eval()


class Peak(TorchDispatchMode):
    """Within the block: the most bytes that tensors made in it take at once."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.most = 0

    def gone(self, key, size):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
                self.most = max(self.most, self.now)
        return made


def in_place(x):
    """(N, C, h, w) as if it had been made channels last."""
    _, c, h, w = x.shape
    return x.as_strided(x.shape, (c * h * w, 1, w * c, c))


class EmptyKernels(TorchKernels):
    """Takes the memory that `FusedKernels` does, and makes nothing."""

    def group_norm(self, norm, x, other=None, bias=None, modulation=None, silu=True, resize=0):
        n, channels, h, w = x.shape
        size = (2 * h, 2 * w) if resize > 0 else (h // 2, w // 2) if resize else (h, w)
        whole = n, channels + (0 if other is None else other.shape[1]), *size
        return in_place(torch.empty(whole, dtype=x.dtype, device="meta"))

    def add_bias(self, x, bias, other=None, resize=0):
        return x


@torch.no_grad()
@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("way", ["none", "auto"])
def test_estimates_are_a_little_above_what_a_call_holds(unet, monkeypatch, way, side):
    """The rest is for what libraries take beside it: 1.5 to 2.5 such activations on an H100."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: torch.empty_like(q))  # in one kernel
    monkeypatch.setattr(fused_unet, "last", in_place)  # a convolution on a card keeps the layout
    given = torch.empty(2, 4, side, side), torch.empty(()), torch.empty(2, 1280)
    given = [tensor.to("meta", torch.float16) for tensor in given]
    with Peak([*unet.parameters(), *given]) as peak:
        call(FusedUNet(unet, EmptyKernels()) if way == "auto" else unet, *given)
    estimate = unet_bytes_per_row(unet, side, side, way)
    assert 0.7 * estimate < peak.most < 0.9 * estimate


def test_calls_are_fused_where_the_card_can_and_take_less_then(unet, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert way_on(unet, "auto", CARD) == "auto"
    assert way_on(unet, "auto") == way_on(unet, "torch.compile") == "none"  # it is not on the card yet
    assert way_on(unet, "torch.compile", CARD) == "torch.compile"
    assert unet_bytes_per_row(unet, 64, 64, "auto") == 0.6 * unet_bytes_per_row(unet, 64, 64) == 72 * 2**20
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert way_on(unet, "auto", CARD) == "none"
    with pytest.raises(ValueError, match="acceleration must be one of"):
        way_on(unet, "fast", CARD)


def test_graphs_are_of_calls_that_leave_the_device_waiting():
    assert graph_sizes(64 * 64) == list(GRAPH_ROWS) == graph_sizes(16 * 16)
    assert [graph_rows(rows, 96 * 96) for rows in (1, 5, 6, 7)] == [2, 6, 6, None]
    assert graph_sizes(128 * 128) == [2, 4]
    assert graph_sizes(512 * 512) == []


def test_a_run_takes_its_largest_call_and_what_graphs_keep(unet):
    row = unet_bytes_per_row(unet, 64, 64, "auto")
    assert [unet_bytes(unet, rows, 64, 64, "auto") / row for rows in (1, 8, 32)] == [3, 24, 48]
    assert graphed_branches(96, 96, "auto") == 3
    assert unet_bytes(unet, 32, 64, 64) == 32 * unet_bytes_per_row(unet, 64, 64)
