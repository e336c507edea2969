"""Load Kandinsky 2.2 pipelines from folders in diffusers layout: offline, safetensors only."""

import json
from pathlib import Path

import torch

BUNDLED = Path(__file__).parent.parent / "models" / "emoji-kandinsky"

PRIOR_CLASS = "KandinskyV22PriorPipeline"
DECODER_CLASS = "KandinskyV22Pipeline"

# A model may carry a file of this name beside its model_index.json: {"guidance": [lowest, recommended, highest], ...}.
SETTINGS_FILE = "suitable_settings.json"

NETWORKS = {PRIOR_CLASS: ("prior", "image_encoder", "text_encoder"), DECODER_CLASS: ("unet", "movq")}


def load_prior(folder=BUNDLED / "prior", dtype=None, device="cpu"):
    """Load a Kandinsky 2.2 prior.

    Parameters
    ----------
    folder : path          diffusers layout, safetensors; the bundled emoji model's by default
    dtype : torch.dtype    float32 on a CPU and float16 elsewhere when None
    device : str or torch.device

    Returns
    -------
    prior : diffusers.KandinskyV22PriorPipeline

    Raises
    ------
    ValueError  if the folder is missing, holds another model, or has no safetensors.
    """
    return _load(folder, PRIOR_CLASS, dtype, device)


def load_decoder(folder=BUNDLED / "decoder", dtype=None, device="cpu"):
    """Load a Kandinsky 2.2 decoder (UNet, MoVQ, scheduler): a `diffusers.KandinskyV22Pipeline`.

    Parameters and errors as in `load_prior`.
    """
    return _load(folder, DECODER_CLASS, dtype, device)


def check_folder(folder, class_name):
    """Weight variant of a folder ("fp16" or None); `ValueError` when `class_name` cannot be loaded from it."""
    folder = Path(folder)
    found = pipeline_class(folder)
    if found is None:
        raise ValueError(f"{folder.name} is not a model in diffusers layout: it has no readable model_index.json")
    if found != class_name:
        raise ValueError(f"{folder.name} holds a {found}, not a {class_name} (Kandinsky 2.2); choose another folder")
    variants = [_weights_variant(folder, network) for network in NETWORKS[class_name]]
    return "fp16" if "fp16" in variants else None


def pipeline_class(folder):
    """Name of the pipeline class in a folder's model_index.json, or None."""
    try:
        return json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None


def suitable_settings(folder):
    """Settings that suit a model: dict of name -> [lowest, recommended, highest]; empty if its folder says nothing."""
    path = Path(folder) / SETTINGS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _weights_variant(folder, network):
    files = [path.name for path in (folder / network).glob("*.safetensors")]
    if not files:
        pickles = [
            path.name for path in (folder / network).glob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pth")
        ]
        reason = f"only pickle files ({', '.join(pickles)}), which can run code" if pickles else "no weights"
        raise ValueError(
            f"{folder.name}/{network} has {reason}; HierDiff loads safetensors only: download the .safetensors files"
        )
    return "fp16" if all(".fp16" in name for name in files) else None


def _load(folder, class_name, dtype, device):
    variant = check_folder(folder, class_name)
    # here, since they take seconds to import and ComfyUI should start without them
    import diffusers
    from packaging.version import Version

    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    dtype_name = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"
    pipeline = getattr(diffusers, class_name).from_pretrained(
        str(folder), variant=variant, use_safetensors=True, local_files_only=True, **{dtype_name: dtype}
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
