"""The text encoder and tokenizer of a folder in transformers' format as the host's own CLIP."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import folder_paths
import torch
from comfy.supported_models_base import ClipTarget

from ...hierdiff_core.kandinsky.model_folder import title
from .scene_folder import SceneFolder, check_names, filling

PREFIX = "clip_l.transformer."
READ = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")


class SceneTextModel(comfy.clip_model.CLIPTextModel):
    """The host's CLIP text model with a vocabulary of its own: the host's has always that of OpenAI's CLIP."""

    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        size = config_dict["vocab_size"], config_dict["hidden_size"]
        self.set_input_embeddings(operations.Embedding(*size, dtype=dtype, device=device))


def scene_clip(folder: SceneFolder) -> Any:
    """The host's CLIP of a folder, as its loaders make that of SD 1.5."""
    weights = encoder_weights(folder)
    options: dict[str, Any] = {
        "embedding_directory": folder_paths.get_folder_paths("embeddings"),
        "parameters": comfy.utils.calculate_parameters(weights),
    }
    # newer hosts fill the network before it goes to the device
    filled = "state_dict" in inspect.signature(comfy.sd.CLIP.__init__).parameters
    where = f"{title(folder.path)}/text_encoder"
    with filling(where):
        clip = comfy.sd.CLIP(target(folder), **options, **({"state_dict": dict(weights)} if filled else {}))
    expected = clip.cond_stage_model.state_dict()
    expected.pop("clip_l.logit_scale", None)  # no part of a text encoder, and never used
    check_names(expected, weights, where)
    if not filled:
        clip.load_sd(weights, full_model=True)
    return clip


def target(folder: SceneFolder) -> ClipTarget:
    """The classes that the host's CLIP makes: those of SD 1.5, in the folder's sizes."""
    config = text_config(folder)
    length = min(folder.setting("tokenizer", "model_max_length"), config["max_position_embeddings"])
    tokenizer = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=str(folder.path / "tokenizer"),
        max_length=length,
        embedding_size=config["hidden_size"],
        pad_token=folder.token("pad_token"),
    )
    encoder = partial(
        comfy.sd1_clip.SDClipModel,
        max_length=length,
        textmodel_json_config=config,
        model_class=SceneTextModel,
        special_tokens={
            name: folder.token(token)
            for name, token in (("start", "bos_token"), ("end", "eos_token"), ("pad", "pad_token"))
        },
        return_projected_pooled=False,  # as SD 1.5's
    )
    return ClipTarget(
        partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=tokenizer),
        partial(comfy.sd1_clip.SD1ClipModel, clip_model=encoder),
    )


def text_config(folder: SceneFolder) -> dict[str, Any]:
    """The config of the host's CLIPTextModel."""
    config = {name: folder.setting("text_encoder", name) for name in (*READ, "vocab_size")}
    config["hidden_act"] = folder.setting("text_encoder", "hidden_act", "quick_gelu")
    config["eos_token_id"] = folder.token("eos_token")
    if config["hidden_act"] not in comfy.clip_model.ACTIVATIONS:
        raise folder.refuse("text_encoder", "hidden_act", f"one of {', '.join(comfy.clip_model.ACTIVATIONS)}")
    if config["vocab_size"] < len(folder.vocabulary):
        raise folder.refuse("text_encoder", "vocab_size", f"at least the {len(folder.vocabulary)} tokens of vocab.json")
    return config


def encoder_weights(folder: SceneFolder) -> dict[str, torch.Tensor]:
    """The encoder's tensors under the host's names, with the projection that SD 1.5's has not: it changes nothing."""
    weights = {}
    for name, value in folder.weights("text_encoder").items():
        if not name.endswith("position_ids"):  # counted numbers, of older versions of transformers
            whole = name if name.startswith("text_model.") else f"text_model.{name}"  # as of transformers 5
            weights[PREFIX + whole] = value
    width = folder.setting("text_encoder", "hidden_size")
    weights[f"{PREFIX}text_projection.weight"] = torch.eye(width, dtype=next(iter(weights.values())).dtype)
    return weights
