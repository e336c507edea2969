"""The bundled scene model's folder: what its files say, checked before any network is made.

The folder is in diffusers' own format. The host's classes can be what its configs describe within limits: where a
config asks for what they cannot do, its file and its value are named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import torch

from ...hierdiff_core.kandinsky.model_folder import (
    MOST_CONFIG,
    MOST_VOCABULARY,
    check_file,
    read_object,
    short,
    title,
    weights_variant,
)
from ...hierdiff_core.kandinsky.weights import read_headers, weight_files

BUNDLED_SCENES = Path(__file__).parents[2] / "models" / "emoji-scenes"
FIX = (
    "The bundled scene model in {folder} is incomplete or damaged: install HierDiff again (in a clone: git checkout -- "
    "{folder}), or choose a checkpoint of your own"
)

# What the host's classes do and cannot be told to do otherwise, by the names of the configs.
FIXED = {
    "unet": {
        "act_fn": "silu",
        "addition_embed_type": None,
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_time_scale_shift": "default",
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
    },
    "vae": {
        "act_fn": "silu",
        "in_channels": 3,
        "latents_mean": None,
        "latents_std": None,
        "layers_per_block": 2,
        "mid_block_add_attention": True,
        "norm_num_groups": 32,
        "out_channels": 3,
    },
    "text_encoder": {"layer_norm_eps": 1e-5},
    "scheduler": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "invert_sigmas": False,
        "use_beta_sigmas": False,
        "use_dynamic_shifting": False,
        "use_exponential_sigmas": False,
        "use_karras_sigmas": False,
    },
}
CONFIGS = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
    "tokenizer": "tokenizer/tokenizer_config.json",
}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@dataclass(frozen=True)
class SceneFolder:
    """A model's folder and its configs.

    Attributes
    ----------
    path : Path
    configs : dict of str to dict
        The JSON of `CONFIGS`, by part.
    vocabulary : dict of str to int
        Id of each token.
    """

    path: Path
    configs: Mapping[str, Mapping[str, Any]]
    vocabulary: Mapping[str, int]

    def setting(self, part: str, name: str, default: Any = None) -> Any:
        """What a config says; `ValueError` if it says nothing and there is no default."""
        value = self.configs[part].get(name)
        if value is None and default is None:
            raise ValueError(f"{title(self.path)}/{CONFIGS[part]} has no {name}")
        return default if value is None else value

    def refuse(self, part: str, name: str, needed: str) -> ValueError:
        """The error for a value of a config that the host's classes cannot take."""
        got = short(repr(self.configs[part].get(name)))
        return ValueError(f"{title(self.path)}/{CONFIGS[part]}: {name} must be {needed}; got {got}")

    def weights(self, part: str) -> dict[str, torch.Tensor]:
        """The tensors of a network, by name."""
        where = f"{title(self.path)}/{part}"
        files = weight_files(self.path, part, WEIGHTS[part], weights_variant(self.path, part), shards_first=False)
        read_headers(files, where)
        return {name: value for file in files for name, value in comfy.utils.load_torch_file(str(file)).items()}

    def token(self, name: str) -> int:
        """Id of a special token, such as "eos_token"."""
        text = self.setting("tokenizer", name)
        text = text.get("content") if isinstance(text, dict) else text
        if not isinstance(text, str) or text not in self.vocabulary:
            raise ValueError(f"{title(self.path)}/tokenizer/vocab.json does not have the {name}, {short(repr(text))}")
        return self.vocabulary[text]


def read_scene_folder(path: Path) -> SceneFolder:
    """The configs of a folder, each compared with what the host's classes can do.

    Raises
    ------
    ValueError
        If a file is missing or broken, or a config asks for what cannot be done; names the file.
    """
    configs = {part: read_object(path, name, MOST_CONFIG) for part, name in CONFIGS.items()}
    vocabulary = read_object(path, "tokenizer/vocab.json", MOST_VOCABULARY)
    check_file(path, "tokenizer/merges.txt", MOST_VOCABULARY)
    folder = SceneFolder(path, configs, vocabulary)
    for part, settings in FIXED.items():
        for name, value in settings.items():
            if configs[part].get(name, value) != value:
                raise folder.refuse(part, name, repr(value))
    return folder


def widths(folder: SceneFolder, part: str) -> tuple[int, list[int]]:
    """The first of a network's block_out_channels, and all of them as multiples of it."""
    channels = folder.setting(part, "block_out_channels")
    whole = isinstance(channels, list) and channels and all(isinstance(n, int) and n > 0 for n in channels)
    if not whole or any(n % channels[0] for n in channels) or channels[0] % 32:
        raise folder.refuse(part, "block_out_channels", "whole multiples of the first, which is a multiple of 32")
    return channels[0], [n // channels[0] for n in channels]


@contextlib.contextmanager
def naming_the_fix(path: Path) -> Iterator[None]:
    """Say what to do with every error that a folder's files cause."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{short(error, 300)}. {FIX.format(folder=f'models/{path.name}')}") from error


@contextlib.contextmanager
def filling(where: str) -> Iterator[None]:
    """Name the network for which the host's classes refuse the weights."""
    try:
        yield
    except RuntimeError as error:  # of torch: lists every tensor that does not fit
        raise ValueError(f"the weights of {where} do not fit its config.json ({short(error, 200)})") from error


def check_names(expected: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """`ValueError` unless a network's tensors and those of its weights have the same names and shapes."""
    for problem, names in (
        ("lack", expected.keys() - given.keys()),
        ("have too many:", given.keys() - expected.keys()),
        ("have other shapes:", {n for n in expected.keys() & given.keys() if expected[n].shape != given[n].shape}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"the weights of {where} {problem} {short(min(names))}{more}")
