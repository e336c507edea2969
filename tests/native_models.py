"""Small models of the host's own classes, with random weights, for tests that run its samplers in this process."""

import comfy.cldm.cldm
import comfy.conds
import comfy.controlnet
import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch

WIDTH, TOKENS, POOLED = 16, 5, 24
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "num_heads": 2,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
    "dtype": torch.float32,
}
# A quarter of the work, for what asks of a network only to be a function of rows, times and texts: not for patches of
# blocks, nor for what is barely heard, such as a pooled text.
SHALLOW = {
    **UNET,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [0],
    "transformer_depth_output": [0, 0],
}
CPU = torch.device("cpu")


class PooledModel(comfy.model_base.BaseModel):
    """Conditioned as SDXL is: by the pooled output and by sizes."""

    def encode_adm(self, **kwargs):
        pooled = kwargs["pooled_output"]
        size = torch.full((pooled.shape[0], 8), kwargs.get("width", 768) / 1000)
        return torch.cat([pooled.to(size), size], dim=1)


class GuidedModel(comfy.model_base.BaseModel):
    """Conditioned as Flux and Qwen-Image are: by a guidance number and a mask of the tokens."""

    def extra_conds(self, **kwargs):
        conds = super().extra_conds(**kwargs)
        conds["guidance"] = comfy.conds.CONDRegular(torch.FloatTensor([kwargs.get("guidance", 3.5)]))
        conds["attention_mask"] = comfy.conds.CONDRegular(kwargs["attention_mask"])
        return conds

    def _apply_model(self, x, t, c_concat, c_crossattn, *args, guidance, attention_mask, **kwargs):
        assert guidance.shape[0] == attention_mask.shape[0] == x.shape[0]
        masked = c_crossattn * attention_mask[..., None] * guidance[:, None, None]
        return super()._apply_model(x, t, c_concat, masked, *args, **kwargs)


class KnownNetwork(torch.nn.Module):
    """Predicts, whatever it is asked to predict, the picture that its text is; of an empty text what it is given.

    A text has as many numbers as a latent. What a network must say for the host to make a certain picture of it is
    found from the host's own arithmetic, which is linear.
    """

    def __init__(self, sampling):
        super().__init__()
        self.sampling, self.dtype = [sampling], torch.float32  # a list: it is the model's part, not the network's
        self.weight = torch.nn.Parameter(torch.ones(1))  # trained, for all that anybody knows
        self.rows = []  # of each call

    def forward(self, x, t, context=None, control=None, transformer_options=None, **kwargs):
        sampling, sigma = self.sampling[0], transformer_options["sigmas"][:1]
        zero, one = torch.zeros_like(x[:1]), torch.ones_like(x[:1])
        self.rows.append(len(x))
        latents = x / sampling.calculate_input(sigma, one)
        empty = (context == 0).flatten(1).all(dim=1).view(-1, *[1] * (x.ndim - 1))
        picture_in_x = sampling.noise_scaling(sigma, zero, one, False)
        wanted = torch.where(empty, latents / picture_in_x, context.reshape(x.shape))
        without = sampling.calculate_denoised(sigma, torch.zeros_like(x), latents)
        return self.weight * (wanted - without) / sampling.calculate_denoised(sigma, one, zero)


def known_model(kind, latent_format=None):
    """ModelPatcher of a `KnownNetwork` that predicts one of the host's ModelTypes, by name."""
    config = comfy.supported_models.SD15({**UNET, "disable_unet_model_creation": True})
    config.manual_cast_dtype = None
    config.latent_format = latent_format or config.latent_format
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType[kind], device=CPU)
    model.diffusion_model = KnownNetwork(model.model_sampling)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def fill(module, seed=0):
    """Random weights that keep activations finite (the host leaves weights unset until a file is loaded)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.6 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(1)
    return module.requires_grad_(False)


def unet_model(kind=comfy.model_base.BaseModel, in_channels=4, shape=UNET):
    """ModelPatcher of a tiny UNet; `kind` is one of the classes above, or the host's plain model."""
    pooled = {"adm_in_channels": POOLED + 8, "num_classes": "sequential"} if kind is PooledModel else {}
    settings = {**shape, **pooled, "in_channels": in_channels}
    config = comfy.supported_models.SD15(settings)
    config.unet_config = settings
    config.manual_cast_dtype = None
    model = kind(config, device=CPU)
    fill(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def control_net(hint_channels=3, shape=UNET):
    """A tiny ControlNet for `unet_model(shape=shape)`, with a hint of 8 pixels per latent pixel."""
    settings = {key: value for key, value in shape.items() if key not in ("out_channels", "transformer_depth_output")}
    settings["operations"] = comfy.ops.disable_weight_init
    network = fill(comfy.cldm.cldm.ControlNet(hint_channels=hint_channels, device=CPU, **settings), seed=1)
    return comfy.controlnet.ControlNet(network, load_device=CPU)
