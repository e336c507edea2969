"""Every figure of the training in one place: the networks' shapes, and what each stage does for how long.

The shapes are keyword arguments of the diffusers and transformers classes; `FULL` is the recipe that the bundled model
was made with, `SMOKE` the same networks for a few steps on a few pictures, to see that everything fits together.
"""

from dataclasses import dataclass, field, replace

PICTURE = 128  # pixels, width and height
EMBEDDING = 128  # numbers in an image embedding
TOKENS = 24  # tokens that the text encoder reads; also the number of text positions of the prior
VOCABULARY = 2304  # at most, with begin and end
LATENT_CHANNELS = 4
LATENT = 16  # MoVQ halves the width three times

TRANSFORMER = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
TEXT_ENCODER = {
    **TRANSFORMER,
    "num_hidden_layers": 3,
    "projection_dim": EMBEDDING,
    "max_position_embeddings": TOKENS,
}
IMAGE_ENCODER = {
    **TRANSFORMER,
    "num_hidden_layers": 4,
    "projection_dim": EMBEDDING,
    "image_size": PICTURE,
    "patch_size": 16,
}
IMAGE_PROCESSOR = {
    "size": {"shortest_edge": PICTURE},
    "crop_size": {"height": PICTURE, "width": PICTURE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
PRIOR = {
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "num_layers": 4,
    "embedding_dim": EMBEDDING,
    "num_embeddings": TOKENS,
    "additional_embeddings": 4,
}
PRIOR_SCHEDULER = {
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "variance_type": "fixed_small_log",
    "clip_sample": True,
    "clip_sample_range": 5.0,
}
MOVQ = {
    "block_out_channels": (32, 64, 64, 64),  # the decoder's must be multiples of 32 for its spatial norms
    "down_block_types": ("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
    "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
    "latent_channels": LATENT_CHANNELS,
    "vq_embed_dim": LATENT_CHANNELS,
    "num_vq_embeddings": 256,
    "norm_type": "spatial",
    "sample_size": PICTURE,
}
UNET = {
    "sample_size": LATENT,
    "in_channels": LATENT_CHANNELS,
    "out_channels": 2 * LATENT_CHANNELS,  # noise and variance
    "block_out_channels": (96, 160),
    "layers_per_block": 1,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "encoder_hid_dim": EMBEDDING,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "resnet_time_scale_shift": "scale_shift",
}
UNET_SCHEDULER = {  # Kandinsky 2.2's; the clipping range follows from the latents
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "clip_sample": True,
}
SUITABLE_PRIOR = {"guidance": [1.0, 4.0, 4.0], "steps": [10, 25, 100]}
SUITABLE_DECODER = {
    "guidance": [2.0, 3.0, 4.0],
    "steps": [20, 40, 1000],
    "width": [PICTURE] * 3,
    "height": [PICTURE] * 3,
}


@dataclass(frozen=True)
class Optimisation:
    """How a loop takes its steps; see `loop.Run`.

    Attributes
    ----------
    batch : int              samples per step
    learning_rate : float    peak
    warm_up : int            steps of linear warm-up; from there a cosine over the stage's time goes to zero
    weight_decay : float     of weight matrices; biases and norms have none
    betas : 2 floats         of AdamW
    clip_norm : float        largest norm of a gradient
    ema : float              decay of the averaged weights, once warmed up
    compile : bool           torch.compile on a CUDA device; goes on without it where it fails
    max_steps : int or None  ends a stage before its time
    """

    batch: int
    learning_rate: float
    warm_up: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema: float = 0.999
    compile: bool = True
    max_steps: int | None = None


@dataclass(frozen=True)
class ClipPair:
    """Text and image encoder: soft InfoNCE + `rebuild` x MSE + `classify` x cross-entropies."""

    # without torch.compile, which would take a good part of the stage's time
    optimisation: Optimisation = Optimisation(batch=2048, learning_rate=1e-3, weight_decay=0.05, compile=False)
    noise: float = 0.25  # deviations of the noise in image embeddings
    rebuild: float = 8.0
    rebuilt_size: int = 24  # pixels
    classify: float = 0.2
    shift: int = 2  # pixels that a picture is moved by, at most
    canonical: float = 0.45  # share of canonical captions


@dataclass(frozen=True)
class Features:
    """The small classifier whose features the MoVQ's perceptual loss compares."""

    optimisation: Optimisation = Optimisation(
        batch=256, learning_rate=2e-3, warm_up=50, weight_decay=0.05, compile=False
    )
    share: float = 0.06  # of the MoVQ's time
    channels: tuple[int, ...] = (16, 32, 64, 128)


@dataclass(frozen=True)
class MoVQ:
    """Picture <-> latents: L1 + L2 + `edges` x L1 of the gradients + `perceptual` x features."""

    # without torch.compile too: it took 107 s on an H100, half of the stage's time
    optimisation: Optimisation = Optimisation(batch=64, learning_rate=1e-3, weight_decay=0.0, compile=False)
    features: Features = Features()
    edges: float = 1.0
    perceptual: float = 0.5
    noise: float = 0.15  # deviations of the noise in the latents, at most


@dataclass(frozen=True)
class Prior:
    """Caption -> image embedding: squared error of the guided embedding + `unconditional` x that without a caption."""

    optimisation: Optimisation = Optimisation(batch=2048, learning_rate=1e-3, warm_up=300, ema=0.9995)
    canonical: float = 0.45
    largest_guidance: float = 4.2
    unconditional: float = 0.5
    rollout_every: int = 40  # steps
    rollout_rows: int = 2048
    rollout_share: float = 0.5  # of a batch
    evaluated: int = 512  # prompts of an evaluation during training


@dataclass(frozen=True)
class UNet:
    """Image embedding and noise -> latents: min-SNR epsilon loss + `variance` x KL."""

    optimisation: Optimisation = Optimisation(batch=1024, learning_rate=1e-3, warm_up=500, ema=0.9995)
    gamma: float = 5.0
    variance: float = 0.5
    variance_stride: int = 25  # timesteps from one step to the next when 40 steps are sampled
    empty: float = 0.1  # share with the embedding of no picture
    embedding_noise: float = 0.2  # deviations, at most


@dataclass(frozen=True)
class Config:
    """A whole training.

    Attributes
    ----------
    minutes : float         for everything
    limit : int or None     takes so many names only
    phases : tuple of dict  stages that train at the same time -> their share of the minutes; what is left over is for
        starting processes, saving and assembling
    """

    minutes: float = 14.5
    limit: int | None = None
    phases: tuple[dict[str, float], ...] = field(
        default=({"clip_pair": 0.15, "movq": 0.27}, {"prior": 0.25, "unet": 0.68}), hash=False
    )
    clip_pair: ClipPair = ClipPair()
    movq: MoVQ = MoVQ()
    prior: Prior = Prior()
    unet: UNet = UNet()


def shortened(config, batch, max_steps):
    """The same recipe with at most `batch` samples a step and `max_steps` steps a stage."""

    def short(stage):
        optimisation = stage.optimisation
        return replace(
            stage,
            optimisation=replace(optimisation, batch=min(batch, optimisation.batch), max_steps=max_steps, warm_up=1),
        )

    stages = {name: short(getattr(config, name)) for name in ("clip_pair", "movq", "prior", "unet")}
    stages["movq"] = replace(stages["movq"], features=short(config.movq.features))
    stages["prior"] = replace(stages["prior"], rollout_every=2, rollout_rows=batch, evaluated=batch)
    return replace(config, **stages)


FULL = Config()
SMOKE = shortened(replace(FULL, limit=6, minutes=1.0), batch=4, max_steps=2)
