"""Kandinsky folders, and models under the host's memory management."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch

from ...hierdiff_core.kandinsky.model_folder import BUNDLED, PRIOR_CLASS, check_folder, pipeline_class

BUNDLED_NAME = "emoji-kandinsky (bundled)"
PRECISIONS = ["auto", "fp32", "fp16", "bf16"]
MOST_FOLDERS = 10_000  # that are looked into for models: not a whole disk that a link leads to
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A diffusers pipeline whose networks the host moves to the device and may evict.

    Attributes
    ----------
    pipeline : KandinskyV22PriorPipeline or KandinskyV22Pipeline
    patcher : ModelPatcher of the networks that the stage runs
    name : str
        As the user chose it.
    suitable : dict
        Name -> [lowest, recommended, highest] setting that suits the model.
    vae : VAE or None
        MoVQ, for a decoder.
    latent_rgb : tensor or None
        Factors for previews, for a decoder.
    image_patcher : ModelPatcher or None
        Of the image encoder, for a prior: it is seldom called, and larger than all else.
    """

    pipeline: Any
    patcher: Any
    name: str
    suitable: dict = field(default_factory=dict)
    vae: Any = None
    latent_rgb: torch.Tensor | None = None
    image_patcher: Any = None

    def load(self, memory_required: float = 0) -> None:
        """Bring the networks to the device, whole, with room for `memory_required` bytes beside them."""
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory_required, force_full_load=True)

    def load_image_encoder(self) -> None:
        """Bring a prior's image encoder to the device, whole."""
        comfy.model_management.load_models_gpu([self.image_patcher], force_full_load=True)


def model_names(class_name: str) -> list[str]:
    """Choices of a loader: the bundled model, then the fitting folders under models/diffusers."""
    names = [name for name, path in _diffusers_folders().items() if pipeline_class(path) == class_name]
    return [BUNDLED_NAME, *sorted(names)]


def model_folder(name: str, class_name: str) -> Path:
    """Folder of a choice.

    Raises
    ------
    ValueError
        If it is missing (with the command that puts it there) or is no Kandinsky 2.2 model.
    """
    part = "prior" if class_name == PRIOR_CLASS else "decoder"
    if name == BUNDLED_NAME:
        return BUNDLED / part
    path = _diffusers_folders().get(name)
    if path is None:
        raise ValueError(
            f"there is no folder '{name}' with a model_index.json under models/diffusers. "
            f"To download the Kandinsky 2.2 {part}, run this in the ComfyUI folder: "
            f"hf download kandinsky-community/kandinsky-2-2-{part} "
            f"--local-dir models/diffusers/kandinsky-2-2-{part} (then press R to refresh the list)"
        )
    check_folder(path, class_name)
    return path


def validate_model(name: str, class_name: str) -> bool | str:
    """True, or the reason why the model cannot be loaded: for a loader's `validate_inputs`."""
    try:
        model_folder(name, class_name)
    except ValueError as error:
        return str(error)
    return True


def size_on_disk(folder: Path) -> str:
    """Size of a model's weights, in words."""
    size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def choose_dtype(precision: str) -> torch.dtype:
    """Weight precision: the user's, or what the host would take for a diffusion model on its device."""
    if precision != "auto":
        return DTYPES[precision]
    device = comfy.model_management.get_torch_device()
    return comfy.model_management.unet_dtype(device, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32])


class WholeModelPatcher(comfy.model_patcher.ModelPatcher):
    """Loads and unloads a model as one piece.

    When memory is short the host's samplers load a part of the layers and rely on the host's own layer classes to
    fetch the rest when they run. diffusers' layers cannot do that: they would fail on two devices. The base is the
    plain patcher, as for the host's own models that cannot be split, and never the dynamic one of newer hosts, which
    takes no full load.
    """

    def load(self, device_to: Any = None, **options: Any) -> None:
        return super().load(device_to, **{**options, "full_load": True})

    def partially_unload(self, *args: Any, **kwargs: Any) -> int:
        return 0  # bytes freed: the host then unloads all of it


def make_patcher(*networks: torch.nn.Module) -> Any:
    """Put networks under the host's memory management; they start on its offload device."""
    # the host writes attributes such as `device`, which diffusers models do not let it write
    container = torch.nn.ModuleList(networks).eval().requires_grad_(False)
    return whole_patcher(container)


def whole_patcher(model: Any) -> Any:
    """The patcher of a model that loads as one piece, on the host's devices for diffusion models."""
    return WholeModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _diffusers_folders():
    """dict of relative name -> Path of every folder with a model_index.json under models/diffusers."""
    folders = {}
    for root in folder_paths.get_folder_paths("diffusers"):
        for path in _folders_with_an_index(Path(root)):
            folders.setdefault(path.relative_to(root).as_posix(), path)
    return folders


def _folders_with_an_index(root):
    """Yield the folders under `root`, links followed, that have a model_index.json; nothing below them.

    The nodes are defined with these names, so no folder may take them away: links that run in circles, or to a whole
    disk, end.
    """
    waiting: deque[tuple[Path, tuple[str, ...]]] = deque([(root, ())])  # the upper folders first
    for _ in range(MOST_FOLDERS):
        if not waiting:
            return
        path, above = waiting.popleft()
        place = os.path.realpath(path)
        try:
            names = sorted(os.listdir(path))
        except OSError:  # no longer there, or not for us to read
            continue
        if "model_index.json" in names:
            yield path
        elif place not in above:
            waiting.extend((path / name, (*above, place)) for name in names if os.path.isdir(path / name))
    logging.warning("HierDiff has looked for models in %d folders under %s, and stops there", MOST_FOLDERS, root)
