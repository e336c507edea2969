"""Kandinsky 2.2 at full size, with random weights: enough to measure time and memory without a download."""

import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

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

PRIOR = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 1280,
    "num_embeddings": 77,
    "additional_embeddings": 4,
}
PRIOR_SCHEDULER = {"clip_sample_range": 10.0, "prediction_type": "sample", "variance_type": "fixed_small_log"}
# the text and image encoders of OpenCLIP's ViT-bigG/14, which Kandinsky 2.2's prior takes
TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
IMAGE_ENCODER = {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


def random_decoder(device, dtype=torch.float16):
    """A `KandinskyV22Pipeline` of the published configuration (UNet 1.25 billion parameters, MoVQ 67 million)."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**UNET).to(dtype).eval()
        movq = VQModel(**MOVQ).to(dtype).eval()
    return KandinskyV22Pipeline(unet=unet, movq=movq, scheduler=DDPMScheduler(**SCHEDULER))


def random_unet(device, dtype=torch.float16):
    """A pipeline as `random_decoder` makes it, whose MoVQ is a small one: for sampling alone."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**UNET).to(dtype).eval()
        movq = VQModel(**MOVQ | {"block_out_channels": (32, 32, 32, 32), "num_vq_embeddings": 16}).to(dtype).eval()
    return KandinskyV22Pipeline(unet=unet, movq=movq, scheduler=DDPMScheduler(**SCHEDULER))


def random_prior(device, dtype=torch.float16, tokenizer=None, image_processor=None):
    """A `KandinskyV22PriorPipeline` of the published configuration (prior 1.0, text encoder 0.7, image encoder 1.8
    billion parameters). `tokenizer` and `image_processor` are another prior's: their words do not matter to the time.
    """
    torch.manual_seed(0)
    with torch.device(device):
        prior = PriorTransformer(**PRIOR).to(dtype).eval()
        torch.nn.init.ones_(prior.clip_std)  # zeros before training, which would make every embedding zero
        text_encoder = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_ENCODER)).to(dtype).eval()
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_ENCODER)).to(dtype).eval()
    if tokenizer is not None:
        tokenizer.model_max_length = TEXT_ENCODER["max_position_embeddings"]
    return KandinskyV22PriorPipeline(
        prior=prior,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        tokenizer=tokenizer,
        image_processor=image_processor,
        scheduler=UnCLIPScheduler(**PRIOR_SCHEDULER),
    )
