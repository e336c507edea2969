"""Kandinsky 2.2's UNet with its normalisations fused, in channels last: the same network, from the same weights.

What convolutions and matrix products leave to do is bound by memory. In `UNet2DConditionModel` each of group norm,
scale and shift, SiLU, bias, sum and concatenation goes through memory on its own, and norms convert the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .fused_checks import odd_layer
from .fused_kernels import TorchKernels, last, positions

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

LAYERS = (
    "UNet2DConditionModel",
    "Timesteps",
    "TimestepEmbedding",
    "ImageProjection",
    "ImageTimeEmbedding",
    "ResnetDownsampleBlock2D",
    "SimpleCrossAttnDownBlock2D",
    "UNetMidBlock2DSimpleCrossAttn",
    "SimpleCrossAttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "ResnetBlock2D",
    "Attention",
    "Downsample2D",
    "Upsample2D",
)
CONFIG = {
    "addition_embed_type": "image",
    "encoder_hid_dim_type": "image_proj",
    "resnet_time_scale_shift": "scale_shift",
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "act_fn": "silu",
    "center_input_sample": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "time_embedding_act_fn": None,
    "cross_attention_norm": None,
    "only_cross_attention": False,
    "mid_block_only_cross_attention": None,
    "dual_cross_attention": False,
}


class FusedUNet:
    """The UNet as a callable of the same arguments, see `acceleration.call`.

    Parameters
    ----------
    unet : UNet2DConditionModel
        One that `why_not_fused` has nothing against.
    kernels : TorchKernels
        Or a subclass.
    """

    def __init__(self, unet: UNet2DConditionModel, kernels: TorchKernels) -> None:
        self.unet: Any = unet  # whose parts pyright takes for tensors
        self.kernels = kernels

    def __call__(
        self, latents: torch.Tensor, t: torch.Tensor, *, added_cond_kwargs: dict[str, torch.Tensor], **_: Any
    ) -> tuple[torch.Tensor]:
        unet = self.unet
        embedded = unet.time_embedding(unet.get_time_embed(latents, t))
        embedded = F.silu(embedded + unet.add_embedding(added_cond_kwargs["image_embeds"]))
        tokens = unet.encoder_hid_proj(added_cond_kwargs["image_embeds"])
        x = last(F.conv2d(last(latents), unet.conv_in.weight, None, padding=unet.conv_in.padding))
        x = self.kernels.add_bias(x, unet.conv_in.bias)
        kept = [x]
        for block in unet.down_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                x = self.attended(attention, self.resnet(resnet, x, embedded), tokens)
                kept.append(x)
            for resnet in block.downsamplers or ():
                x = self.resnet(resnet, x, embedded)
                kept.append(x)
        x = self.resnet(unet.mid_block.resnets[0], x, embedded)
        for attention, resnet in zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True):
            x = self.resnet(resnet, self.attended(attention, x, tokens), embedded)
        for block in unet.up_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                x = self.attended(attention, self.resnet(resnet, x, embedded, kept.pop()), tokens)
            for resnet in block.upsamplers or ():
                x = self.resnet(resnet, x, embedded)
        return (unet.conv_out(self.kernels.group_norm(unet.conv_norm_out, x)),)

    def resnet(
        self, block: Any, x: torch.Tensor, embedded: torch.Tensor, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`ResnetBlock2D` for `x` with the channels of `skip` behind its own; `embedded` has been through SiLU."""
        resize = (block.upsample is not None) - (block.downsample is not None)
        y = self.kernels.group_norm(block.norm1, x, skip, resize=resize)
        y = last(F.conv2d(y, block.conv1.weight, None, padding=1))
        y = self.kernels.group_norm(block.norm2, y, None, block.conv1.bias, block.time_emb_proj(embedded))
        y = last(F.conv2d(y, block.conv2.weight, None, padding=1))
        return self.kernels.add_bias(y, block.conv2.bias, shortcut(block, x, skip), resize)

    def attended(self, attention: Any, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`Attention` with `AttnAddedKVProcessor2_0`: positions attend to the picture's tokens and to each other."""
        if attention is None:
            return x
        rows, y = positions(x), positions(self.kernels.group_norm(attention.group_norm, x, silu=False))
        queries = heads(attention, attention.to_q(y))
        keys = heads(attention, torch.cat([attention.add_k_proj(tokens), attention.to_k(y)], dim=1))
        values = heads(attention, torch.cat([attention.add_v_proj(tokens), attention.to_v(y)], dim=1))
        y = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(rows.shape)
        y = attention.to_out[0](y).add_(rows)  # (N, h w, C)
        return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def shortcut(block: Any, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
    """What a block adds to its output: its input, through a convolution of one pixel where channels differ."""
    if block.conv_shortcut is None:
        return x
    weight, bias = block.conv_shortcut.weight.flatten(1), block.conv_shortcut.bias
    rows = positions(x).flatten(0, 1)
    y = F.linear(rows, weight[:, : x.shape[1]], bias)
    if skip is not None:
        y = torch.addmm(y, positions(skip).flatten(0, 1), weight[:, x.shape[1] :].t())
    return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def heads(attention: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, T, C) -> (N, heads, T, C / heads), in the same memory."""
    return x.view(*x.shape[:2], attention.heads, -1).transpose(1, 2)


def why_not_fused(unet: Any) -> str | None:
    """Why `FusedUNet` is not for this network, or None.

    Parameters
    ----------
    unet : torch.nn.Module

    Returns
    -------
    str or None
    """
    odd = odd_layer(unet, LAYERS, "AttnAddedKVProcessor2_0")
    if odd is not None:
        return odd
    config = unet.config
    return next(
        (f"its {name} is {config[name]!r}" for name, value in CONFIG.items() if config.get(name, value) != value), None
    )
