"""What a model's folder says it holds, read without trust: folders are shared, and their files may be anything.

A folder is one of two kinds, each with a fixed table of parts and classes: no name in a file decides what is imported.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

_CORE = Path(__file__).parents[1]
# An installed library has the bundled model inside it, the repository beside it.
BUNDLED = (_CORE if (_CORE / "models").is_dir() else _CORE.parent) / "models" / "emoji-kandinsky"

PRIOR_CLASS = "KandinskyV22PriorPipeline"
DECODER_CLASS = "KandinskyV22Pipeline"

INDEX_FILE = "model_index.json"
# A model may carry a file of this name beside its model_index.json: {"guidance": [lowest, recommended, highest], ...}.
SETTINGS_FILE = "suitable_settings.json"

NETWORKS = {PRIOR_CLASS: ("prior", "image_encoder", "text_encoder"), DECODER_CLASS: ("unet", "movq")}

# Library and classes of each part, the class that is loaded first. A scheduler only lends its noise schedule, so a
# decoder may name any of the usual ones; the other alternatives are names of one class in several versions.
PARTS = {
    PRIOR_CLASS: {
        "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
        "image_processor": (
            "transformers",
            ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"),
        ),
        "scheduler": ("diffusers", ("UnCLIPScheduler",)),
        "text_encoder": ("transformers", ("CLIPTextModelWithProjection",)),
        "image_encoder": ("transformers", ("CLIPVisionModelWithProjection",)),
        "prior": ("diffusers", ("PriorTransformer",)),
    },
    DECODER_CLASS: {
        "scheduler": (
            "diffusers",
            (
                "DDPMScheduler",
                "DDIMScheduler",
                "EulerDiscreteScheduler",
                "EulerAncestralDiscreteScheduler",
                "DPMSolverMultistepScheduler",
                "UniPCMultistepScheduler",
                "DPMSolverSinglestepScheduler",
                "DEISMultistepScheduler",
                "HeunDiscreteScheduler",
                "LMSDiscreteScheduler",
                "PNDMScheduler",
            ),
        ),
        "unet": ("diffusers", ("UNet2DConditionModel",)),
        "movq": ("diffusers", ("VQModel",)),
    },
}

# Bytes of the largest file of each kind that is read: some hundred times those of Kandinsky 2.2.
MOST_SETTINGS = 2**16
MOST_CONFIG = 2**20
MOST_VOCABULARY = 2**26
PICKLES = (".bin", ".pt", ".ckpt", ".pth")


def pipeline_class(folder: str | Path) -> str | None:
    """Name of the pipeline class in a folder's model_index.json, or None; never raises."""
    try:
        name = read_object(folder, INDEX_FILE, MOST_CONFIG).get("_class_name")
    except ValueError:
        return None
    return name if isinstance(name, str) else None


def suitable_settings(folder: str | Path) -> dict[str, list[float]]:
    """Settings that suit a model, each [lowest, recommended, highest]; empty if its folder says nothing.

    Raises
    ------
    ValueError
        If the folder has a settings file that is broken.
    """
    if not os.path.exists(Path(folder) / SETTINGS_FILE):
        return {}
    settings = read_object(folder, SETTINGS_FILE, MOST_SETTINGS)
    for name, values in settings.items():
        if not is_range(values):
            raise ValueError(
                f"{title(folder)}/{SETTINGS_FILE}: {short(name)} must be three finite numbers, [lowest, recommended, "
                f"highest]; got {short(json.dumps(values))}; correct or delete the file"
            )
    return settings


def is_range(values: Any) -> bool:
    """Whether `values` is a list of three finite numbers that do not fall."""
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        and all(abs(value) < 2**63 and math.isfinite(value) for value in values)
        and values == sorted(values)
    )


def check_folder(folder: str | Path, class_name: str) -> str | None:
    """Weight variant of a folder ("fp16" or None); `ValueError` when `class_name` cannot be loaded from it."""
    found = pipeline_class(folder)
    if found is None:
        raise ValueError(f"{folder} is not a model in diffusers format: it has no readable {INDEX_FILE}")
    if found != class_name:
        raise ValueError(
            f"{title(folder)} holds a {short(found)}, not a {class_name} (Kandinsky 2.2); choose another folder"
        )
    named_classes(folder, class_name)
    suitable_settings(folder)
    variants = [weights_variant(folder, network) for network in NETWORKS[class_name]]
    return "fp16" if "fp16" in variants else None


def named_classes(folder: str | Path, class_name: str) -> dict[str, str]:
    """Name of the class of each part: those of model_index.json where it names them, after a look at each.

    Raises
    ------
    ValueError
        If the file names a part or a class that this kind of model does not have: some versions of diffusers would
        import and run what stands there.
    """
    parts = PARTS[class_name]
    names = {part: classes[0] for part, (_, classes) in parts.items()}
    for part, value in read_object(folder, INDEX_FILE, MOST_CONFIG).items():
        if part.startswith("_"):
            continue
        if part not in parts:
            raise ValueError(
                f"{title(folder)}/{INDEX_FILE} names a part that a {class_name} does not have: {short(part)}; "
                "use the model's original file"
            )
        library, classes = parts[part]
        if not (isinstance(value, list) and len(value) == 2 and value[0] == library and value[1] in classes):
            raise ValueError(
                f"{title(folder)}/{INDEX_FILE} names {short(json.dumps(value))} as {part}; only "
                f'["{library}", "{classes[0]}"] is loaded there: use the model\'s original file'
            )
        names[part] = value[1]
    return names


def weights_variant(folder: str | Path, network: str) -> str | None:
    """What to load: "fp16" if a network has only weights of that variant, None otherwise.

    Raises
    ------
    ValueError
        If there are no safetensors.
    """
    folder = Path(folder)
    files = [path.name for path in (folder / network).glob("*.safetensors")]
    if not files:
        pickles = [path.name for path in (folder / network).glob("*") if path.suffix in PICKLES]
        reason = f"only pickle files ({', '.join(pickles)}), which can run code" if pickles else "no weights"
        raise ValueError(
            f"{title(folder)}/{network} has {reason}; HierDiff loads safetensors only: download the .safetensors files"
        )
    return "fp16" if all(".fp16" in name for name in files) else None


def read_object(folder: str | Path, name: str, most_bytes: int) -> dict[str, Any]:
    """The JSON object in a file of a model's folder.

    Parameters
    ----------
    folder : str or Path
    name : str
        Path in the folder.
    most_bytes : int
        Larger files are refused unread.

    Returns
    -------
    found : dict

    Raises
    ------
    ValueError
        If it is missing, no plain file, too large, no JSON, nested too deeply or no object; names the file.
    """
    path = check_file(folder, name, most_bytes)
    where = f"{title(folder)}/{name}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply; download it again") from None
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{where} is not JSON in UTF-8 ({short(error)}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} must be an object, {{...}}; it is a {type(found).__name__}; download it again")
    return found


def check_file(folder: str | Path, name: str, most_bytes: int | None = None) -> Path:
    """Path of a file in a folder; `ValueError` unless it is plain (or a link to a plain one) and not too large."""
    path, where = Path(folder) / name, f"{title(folder)}/{name}"
    if not os.path.isfile(path):  # reading a pipe or a device would never end
        raise ValueError(f"{where} is {'not a plain file' if os.path.lexists(path) else 'missing; download it again'}")
    size = os.path.getsize(path)
    if most_bytes is not None and size > most_bytes:
        raise ValueError(f"{where} has {size} bytes; a file of this kind has at most {most_bytes}")
    return path


def title(folder: str | Path) -> str:
    """A folder's name, as messages show it."""
    return Path(folder).absolute().name


def short(value: object, longest: int = 80) -> str:
    """A text from a file, or about one, on one line and cut for a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else text[:longest] + "…"
