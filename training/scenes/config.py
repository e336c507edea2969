"""Every figure of the scenes' training: the networks' shapes, and what each stage does for how long.

The shapes are keyword arguments of the diffusers and transformers classes. `FULL` is the recipe of the bundled model,
`SMOKE` the same networks for a few steps on a few icons.
"""

from dataclasses import dataclass, field, replace

from config import Features, Optimisation

PICTURE = 128  # pixels, width and height
LATENT_CHANNELS = 16
LATENT = 16  # the VAE halves the width three times
TOKENS = 77
VOCABULARY = 960  # at most, with begin and end
WIDTH = 256  # of the text encoder's hidden states

TEXT_ENCODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": TOKENS,
    "projection_dim": WIDTH,
}
VAE = {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": LATENT_CHANNELS,
    "sample_size": PICTURE,
    "scaling_factor": 1.0,  # the latents' statistics are folded into the convolutions beside them
    "shift_factor": 0.0,
}
UNET = {
    "sample_size": LATENT,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (128, 128, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,  # heads, in diffusers' way of saying it
    "cross_attention_dim": WIDTH,
}
SCHEDULER = {"num_train_timesteps": 1000, "shift": 1.0}


@dataclass(frozen=True)
class VAEStage:
    """Picture <-> latents: L1 + L2 + `edges` x L1 of the gradients + `perceptual` x features."""

    optimisation: Optimisation = field(
        default=Optimisation(batch=64, learning_rate=1.5e-3, warm_up=100, weight_decay=0.0, ema=0.998, compile=False)
    )
    features: Features = field(default=Features())
    edges: float = 1.0
    perceptual: float = 0.5
    noise: float = 0.15  # deviations of the noise in the latents, at most
    sample: int = 1024  # scenes that the latents' statistics are taken of


@dataclass(frozen=True)
class TextStage:
    """The text encoder alone, first: it learns to say what a caption tells."""

    optimisation: Optimisation = field(
        default=Optimisation(batch=1024, learning_rate=1e-3, warm_up=100, weight_decay=0.05, compile=False)
    )


@dataclass(frozen=True)
class DenoiserStage:
    """Text encoder and UNet together: squared error of the flow."""

    optimisation: Optimisation = field(default=Optimisation(batch=768, learning_rate=1e-3, warm_up=300, ema=0.999))
    captions: int = 4  # of each scene
    scenes: int = 400_000  # with captions; their pictures are drawn anew each time
    kept: int = 98_304  # latents at a time
    fresh: int = 96  # latents that a step replaces
    empty: float = 0.1  # share without a caption
    spread: float = 1.2  # deviation of the logit of the time


@dataclass(frozen=True)
class JudgeStage:
    """Judges: the half of their pictures went through the VAE."""

    optimisation: Optimisation = field(
        default=Optimisation(batch=384, learning_rate=2e-3, warm_up=100, weight_decay=0.05, ema=0.998, compile=False)
    )
    minutes: float = 2.0  # after everything else
    widths: tuple[int, ...] = (48, 96, 160, 256)
    noise: float = 0.25  # deviations of the noise in the latents of decoded pictures, at most
    seeds: tuple[int, ...] = (101, 202)


@dataclass(frozen=True)
class SceneConfig:
    """A whole training.

    Attributes
    ----------
    minutes : float         for everything
    names : int             emoji
    phases : tuple of dict  stages that start at the same time -> their share of the minutes. The UNet's process starts
        with the first, compiles, writes captions, and waits for the VAE and the text encoder; its share begins then
    """

    minutes: float = 11.9
    names: int = 128
    phases: tuple[dict[str, float], ...] = field(default=({"vae": 0.22, "text": 0.05, "denoiser": 0.775},), hash=False)
    vae: VAEStage = VAEStage()
    text: TextStage = TextStage()
    denoiser: DenoiserStage = DenoiserStage()
    judge: JudgeStage = JudgeStage()


def smoke(config):
    """The same recipe for two steps of four samples a stage."""

    def short(stage, **changes):
        return replace(stage, optimisation=replace(stage.optimisation, batch=4, max_steps=2, warm_up=1), **changes)

    return replace(
        config,
        minutes=1.0,
        names=6,
        vae=short(config.vae, features=short(config.vae.features), sample=8),
        text=short(config.text),
        denoiser=short(config.denoiser, scenes=40, kept=16, fresh=2),
        judge=short(config.judge),
    )


FULL = SceneConfig()
SMOKE = smoke(FULL)
