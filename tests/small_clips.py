"""Text encoders of the host's own classes, with few layers and random weights."""

import torch

SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}


def random_clip(model_class, tokenizer_class, **options):
    """A CLIP of the host's own classes, with few layers and random weights."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    options = {"dtype": torch.float32, "clip_l_model_config": SMALL, "clip_g_model_config": SMALL, **options}
    clip = comfy.sd.CLIP(ClipTarget(tokenizer_class, model_class), model_options=options)
    generator = torch.Generator().manual_seed(0)
    for parameter in clip.cond_stage_model.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return clip
