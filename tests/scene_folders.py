"""A scene model's folder in diffusers' own format: tiny networks with random weights, made by diffusers' classes."""

import json
import types

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

WORDS = ["a", "red", "green", "apple", "cat", "face", "rocket", "left", "of", "to", "the", "flat", "noto", "style"]
LENGTH = 24
UNET = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 48,
    "attention_head_dim": 4,
}
VAE = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 8,
    "sample_size": 128,
    "scaling_factor": 0.6,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "hidden_act": "gelu",
}


def write_scene_folder(path, unet=None, vae=None, text=None, scheduler=None, length=LENGTH):
    """Write a folder; the dicts change arguments of the classes. Weights are in half precision, as the bundled ones."""
    torch.manual_seed(0)
    vocabulary = write_tokenizer(path / "tokenizer", length)
    ids = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1, "pad_token_id": 0}
    parts = {
        "unet": UNet2DConditionModel(**{**UNET, **(unet or {})}),
        "vae": AutoencoderKL(**{**VAE, **(vae or {})}),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=len(vocabulary), **ids, **{**TEXT, **(text or {})})),
    }
    for name, network in parts.items():
        livelier(network).half().save_pretrained(path / name)
    FlowMatchEulerDiscreteScheduler(**(scheduler or {})).save_pretrained(path / "scheduler")
    return path


def livelier(network):
    """Biases and scales that are not all 0 and 1, so that no two of them can be mistaken for each other."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return network


def write_tokenizer(path, length):
    """A CLIP tokenizer of bytes and a few words; its vocabulary."""
    path.mkdir(parents=True)
    letters = list(bytes_as_letters())
    merges, tokens = [], [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces[:2] = ["".join(pieces[:2])]
            tokens.append(pieces[0])
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n", encoding="utf-8")
    settings = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return vocabulary


def bytes_as_letters():
    """The printable letter that stands for each byte in the vocabularies of byte-level tokenizers."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def tokenizer_of(path):
    """transformers' own tokenizer of a folder."""
    return CLIPTokenizer.from_pretrained(path / "tokenizer")


def diffusers_parts(path):
    """The networks of a folder in diffusers' and transformers' own classes, in full precision, and its scheduler."""
    full = {"torch_dtype": torch.float32}
    return types.SimpleNamespace(
        unet=UNet2DConditionModel.from_pretrained(path / "unet", **full).requires_grad_(False),
        vae=AutoencoderKL.from_pretrained(path / "vae", **full).requires_grad_(False),
        text_encoder=CLIPTextModel.from_pretrained(path / "text_encoder", dtype=torch.float32).requires_grad_(False),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(path / "scheduler"),
    )


def pack_with_scenes(folder, repo_root):
    """This pack with a tiny scene model in place of the bundled one; for a server's `pack_dir`."""
    (folder / "models").mkdir(parents=True)
    for name in ("__init__.py", "nodes", "hierdiff_core", "web", "locales", "workflows", "models/emoji-kandinsky"):
        (folder / name).symlink_to(repo_root / name)
    write_scene_folder(folder / "models" / "emoji-scenes")
    return folder
