"""The host's folders, and whether it writes a workflow into files."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args


def output_folder() -> str:
    """The host's output folder."""
    return folder_paths.get_output_directory()


def temporary_folder() -> str:
    """The host's folder for what a page shows; it is emptied when the host starts."""
    return folder_paths.get_temp_directory()


def add_category(category: str, ending: str) -> None:
    """Tell the host of files in models/<category> and output/<category>; extra_model_paths.yaml may add places."""
    for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(category, os.path.join(root, category))
    folder_paths.folder_names_and_paths[category][1].add(ending)


def files_of(category: str) -> list[str]:
    """Names of the files of a category."""
    return folder_paths.get_filename_list(category)


def path_of(category: str, name: str) -> str | None:
    """Path of a file of a category, or None if there is none of this name."""
    return folder_paths.get_full_path(category, name)


def next_output(name: str, ending: str) -> Path:
    """Path of the file with the next number in the output folder; `name` may begin with folders."""
    folder, file, counter, _, _ = folder_paths.get_save_image_path(name, folder_paths.get_output_directory())
    return Path(folder) / f"{file}_{counter:05}_{ending}"


def writes_metadata() -> bool:
    """Whether the user lets workflows be written into files."""
    return not args.disable_metadata
