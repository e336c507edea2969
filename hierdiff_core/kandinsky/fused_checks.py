"""Where fused kernels are used: on which cards, and for networks that are what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .fused_kernels import DTYPES, MOST_THREADS, WIDTHS

PLAIN_LAYERS = ("Linear", "Conv2d", "GroupNorm", "LayerNorm", "SiLU", "Dropout", "ModuleList", "AvgPool2d")


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `fused.cu` is for a device: an NVIDIA card, in a half precision that its matrix units have.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        Of the weights.

    Returns
    -------
    bool
    """
    if device.type != "cuda" or torch.version.hip is not None or dtype not in DTYPES:
        return False
    return torch.cuda.get_device_capability(device) >= ((8, 0) if dtype == torch.bfloat16 else (7, 0))


def odd_layer(network: torch.nn.Module, layers: Sequence[str], processor: str) -> str | None:
    """What is in a network that was not there when it was written down: a LoRA, a hook, other attention.

    Parameters
    ----------
    network : torch.nn.Module
    layers : sequence of str
        Classes of diffusers that it is made of, beside `PLAIN_LAYERS` of torch.
    processor : str
        Class of its attention's processors.

    Returns
    -------
    str or None
        For a message: "it ...".
    """
    for module in network.modules():
        kind, of = type(module).__name__, type(module).__module__
        if kind not in (layers if of.startswith("diffusers.") else PLAIN_LAYERS if of.startswith("torch.") else ()):
            return f"it has a {kind}"
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            return "a hook is on one of its layers"
        if kind == "Attention" and type(module.processor).__name__ != processor:
            return f"its attention is {type(module.processor).__name__}"
    if len({(p.dtype, p.device) for p in network.parameters()}) != 1:
        return "its weights are not all on one device in one precision"
    return None if width_of(network) else "its numbers of channels do not fit"


def width_of(network: torch.nn.Module) -> int | None:
    """The most channels that a thread of the kernels can read at once; None where there are too many channels."""
    modules: list[Any] = list(network.modules())
    norms = [(module.num_channels, module.num_groups) for module in modules if isinstance(module, torch.nn.GroupNorm)]
    inputs = [module.out_channels for module in modules if type(module).__name__.startswith("ResnetBlock")]
    for width in WIDTHS:
        if all(
            channels // groups % width == 0 and channels // width <= MOST_THREADS for channels, groups in norms
        ) and all(channels % width == 0 for channels in inputs):
            return width
    return None
