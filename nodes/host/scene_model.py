"""What Load Scene Model loads: the bundled scene model, or one of the user's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths

from ...hierdiff_core.kandinsky.model_folder import short
from ...hierdiff_core.previews import colour_patches, fit_latent_rgb
from .scene_clip import scene_clip
from .scene_folder import BUNDLED_SCENES, naming_the_fix, read_scene_folder
from .scene_unet import scene_model
from .scene_vae import scene_vae

SCENES_NAME = "emoji-scenes (bundled)"


def scene_names() -> list[str]:
    """Choices of the loader: the bundled model, then the user's checkpoints."""
    return [SCENES_NAME, *folder_paths.get_filename_list("checkpoints")]


def validate_scene_name(name: str) -> bool | str:
    """True, or the reason why the model cannot be loaded."""
    if name != SCENES_NAME:
        if folder_paths.get_full_path("checkpoints", name) is None:
            return (
                f"there is no checkpoint '{short(name)}' in models/checkpoints: put the file there and press R, or "
                f"choose {SCENES_NAME}"
            )
        return True
    try:
        with naming_the_fix(BUNDLED_SCENES):
            read_scene_folder(BUNDLED_SCENES)
    except ValueError as error:
        return str(error)
    return True


def load_scenes(name: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a choice.

    A checkpoint is loaded by the host's own loader, as Load Checkpoint does it: CLIP is None where it holds none.
    """
    if name == SCENES_NAME:
        return load_scene_folder(BUNDLED_SCENES)
    embeddings = folder_paths.get_folder_paths("embeddings")
    path = folder_paths.get_full_path_or_raise("checkpoints", name)
    loaded = comfy.sd.load_checkpoint_guess_config(
        path, output_vae=True, output_clip=True, embedding_directory=embeddings
    )
    return loaded[0], loaded[1], loaded[2]


def load_scene_folder(path: Path) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a folder in diffusers' format.

    Raises
    ------
    ValueError
        If a file is missing, broken or describes another kind of model; names the file and what to do.
    """
    with naming_the_fix(path):
        folder = read_scene_folder(path)
        model, clip, vae = scene_model(folder), scene_clip(folder), scene_vae(folder)
    latents, patches = model.model.latent_format, colour_patches()
    latents.show_colours(fit_latent_rgb(patches, latents.process_in(vae.encode(patches))))
    return model, clip, vae
