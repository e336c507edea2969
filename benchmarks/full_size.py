"""Kandinsky 2.2's decoder at full size, with random weights: enough to measure time and memory without a download."""

import torch
from diffusers import DDPMScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel

UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 8,
    "block_out_channels": (384, 768, 1152, 1536),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    "attention_head_dim": 64,
    "cross_attention_dim": 768,
    "encoder_hid_dim": 1280,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "resnet_time_scale_shift": "scale_shift",
}
MOVQ = {
    "block_out_channels": (128, 256, 256, 512),
    "layers_per_block": 2,
    "down_block_types": (*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3),
    "latent_channels": 4,
    "norm_type": "spatial",
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 4,
}
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "variance_type": "learned_range", "clip_sample_range": 2.0}


def random_decoder(device, dtype=torch.float16):
    """A `KandinskyV22Pipeline` of the published configuration (UNet 1.25 billion parameters, MoVQ 67 million)."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**UNET).to(dtype).eval()
        movq = VQModel(**MOVQ).to(dtype).eval()
    return KandinskyV22Pipeline(unet=unet, movq=movq, scheduler=DDPMScheduler(**SCHEDULER))
