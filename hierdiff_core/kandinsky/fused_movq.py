"""MoVQ's decoder with its normalisations fused, in channels last: the same network, from the same weights.

Each of its norms multiplies and adds what a convolution of one pixel makes of the latent, enlarged to the picture. Such
a convolution of an enlarged latent is the enlarged convolution of the latent: up to a 64th of the work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .fused_checks import odd_layer
from .fused_kernels import TorchKernels, enlarged, last, positions

LAYERS = (
    "Decoder",
    "UNetMidBlock2D",
    "AttnUpDecoderBlock2D",
    "UpDecoderBlock2D",
    "ResnetBlockCondNorm2D",
    "SpatialNorm",
    "Attention",
    "Upsample2D",
)


class FusedMovq:
    """``decode(z)`` as `VQModel` decodes latents that are not to be quantised.

    Parameters
    ----------
    movq : VQModel
        One that `why_not_fused_movq` has nothing against.
    kernels : TorchKernels
        Or a subclass.
    """

    def __init__(self, movq: Any, kernels: TorchKernels) -> None:
        self.movq = movq
        self.kernels = kernels

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        decoder, z = self.movq.decoder, last(z)
        x = last(decoder.conv_in(last(self.movq.post_quant_conv(z))))
        x = self.resnet(decoder.mid_block.resnets[0], x, z)
        for attention, resnet in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            x = self.resnet(resnet, self.attended(attention, x, z), z)
        for block in decoder.up_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                x = self.attended(attention, self.resnet(resnet, x, z), z)
            for upsampler in block.upsamplers or ():
                x = last(F.conv2d(enlarged(x, 2), upsampler.conv.weight, None, padding=1))
                x = self.kernels.add_bias(x, upsampler.conv.bias)
        return decoder.conv_out(self.norm(decoder.conv_norm_out, x, z))

    def norm(
        self, norm: Any, x: torch.Tensor, z: torch.Tensor, bias: torch.Tensor | None = None, silu: bool = True
    ) -> torch.Tensor:
        """`SpatialNorm` of ``x + bias``, then SiLU."""
        factors, summands = (by_pixel(conv, z) for conv in (norm.conv_y, norm.conv_b))
        return self.kernels.spatial_norm(norm.norm_layer, x, factors, summands, bias, silu)

    def resnet(self, block: Any, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """`ResnetBlockCondNorm2D`."""
        y = last(F.conv2d(self.norm(block.norm1, x, z), block.conv1.weight, None, padding=1))
        y = last(F.conv2d(self.norm(block.norm2, y, z, block.conv1.bias), block.conv2.weight, None, padding=1))
        other = x if block.conv_shortcut is None else by_pixel(block.conv_shortcut, x)
        return self.kernels.add_bias(y, block.conv2.bias, other)

    def attended(self, attention: Any, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """`Attention` with `AttnProcessor2_0`: positions attend to each other."""
        if attention is None:
            return x
        rows, y = positions(x), positions(self.norm(attention.spatial_norm, x, z, silu=False))
        heads = [
            part(y).view(*y.shape[:2], attention.heads, -1).transpose(1, 2)
            for part in (attention.to_q, attention.to_k, attention.to_v)
        ]
        y = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(rows.shape)
        y = attention.to_out[0](y).add_(rows)  # (N, h w, C)
        return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def by_pixel(conv: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution of one pixel, channels last, as the matrix product that it is."""
    y = F.linear(positions(x), conv.weight.flatten(1), conv.bias)
    return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def why_not_fused_movq(movq: Any) -> str | None:
    """Why `FusedMovq` is not for this network, or None.

    Parameters
    ----------
    movq : torch.nn.Module

    Returns
    -------
    str or None
    """
    odd = odd_layer(movq.decoder, LAYERS, "AttnProcessor2_0")
    if odd is None and (movq.config.norm_type != "spatial" or movq.config.lookup_from_codebook):
        return "it decodes in another way"
    return odd
