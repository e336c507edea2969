"""Write the networks as a model folder that diffusers and transformers load: float16, nothing of this machine."""

import json
import shutil

import torch
from assemble import BUNDLED, LICENCES, OF_THIS_MACHINE
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

from .config import SCHEDULER
from .vae import FOLDER as AUTOENCODER

FOLDER = "model"
PREFIX = "text_model."  # of CLIPTextModel's weights in the files of Stable Diffusion; newer transformers do without


def halves(module):
    """State of a module in float16, contiguous and on the CPU."""
    state = module.state_dict()
    return {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in state.items()}


def save_text_encoder(encoder, folder):
    """As Stable Diffusion's: weights whose names begin with `text_model.`."""
    folder.mkdir(parents=True)
    state = {k if k.startswith(PREFIX) else PREFIX + k: v for k, v in halves(encoder).items()}
    state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    encoder.config.architectures = ["CLIPTextModel"]
    encoder.config.save_pretrained(folder)


def save_diffusers(module, folder):
    """A network of diffusers'."""
    folder.mkdir(parents=True)
    save_file(halves(module), folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    module.save_config(folder)


def clean(folder):
    """Take out of the configurations what the libraries note of this machine."""
    for path in folder.rglob("*config.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in settings.items() if name not in OF_THIS_MACHINE}
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def assemble(options, tokenizer, encoder, unet):
    """Write OUT/model; a model that is there already is replaced when the new one is whole."""
    folder = options.out / FOLDER
    partial = folder.with_name(FOLDER + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    save_diffusers(unet, partial / "unet")
    save_text_encoder(encoder, partial / "text_encoder")
    tokenizer.save_pretrained(partial / "tokenizer")
    for name in ("vocab.json", "merges.txt"):  # for older versions of transformers, and for ComfyUI
        shutil.copy(options.work / "text" / "tokenizer" / name, partial / "tokenizer" / name)
    FlowMatchEulerDiscreteScheduler(**SCHEDULER).save_pretrained(partial / "scheduler")
    shutil.copytree(options.work / AUTOENCODER / "model", partial / "vae")
    shrink(partial / "vae" / "diffusion_pytorch_model.safetensors")
    for name in LICENCES:
        shutil.copy(BUNDLED / name, partial / name)
    text = (partial / "LICENSES.md").read_text(encoding="utf-8").replace("emoji-kandinsky", "emoji-scenes")
    (partial / "LICENSES.md").write_text(text, encoding="utf-8")
    (partial / "model_index.json").write_text(json.dumps(index(), indent=2) + "\n", encoding="utf-8")
    clean(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def index():
    """What the folder's parts are."""
    return {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }


def shrink(path):
    """A file of weights in float16."""
    from safetensors.torch import load_file

    weights = {name: value.half().contiguous() for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
