"""The host's folders, and whether it writes a workflow into files."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args

WILDCARDS = "wildcards"


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


def wildcard_folders() -> list[Path]:
    """Folders in which users have wildcard files, those of their own first; some may not exist.

    The host's folders "wildcards" (extra_model_paths.yaml, and what packs add), models/wildcards, input/wildcards,
    user/default/wildcards, wildcards beside models, then those of other packs: custom_wildcards, which Impact Pack's
    impact-pack.ini may move, and wildcards.
    """
    added = [Path(path) for path in folder_paths.folder_names_and_paths.get(WILDCARDS, ([],))[0]]
    homes = [folder_paths.models_dir, folder_paths.get_input_directory(), default_user(), folder_paths.base_path]
    packs = [pack for place in folder_paths.get_folder_paths("custom_nodes") for pack in sorted(Path(place).glob("*"))]
    moved = [path for pack in packs for path in moved_wildcards(pack / "impact-pack.ini")]
    own = [pack / name for name in ("custom_wildcards", WILDCARDS) for pack in packs]
    return [*added, *(Path(home) / WILDCARDS for home in homes), *moved, *own]


def default_user() -> str:
    """The folder of the host's user, where it has a single one."""
    return os.path.join(folder_paths.get_user_directory(), "default")


def moved_wildcards(settings: Path) -> list[Path]:
    """Where Impact Pack's settings say that the user's wildcards are."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(settings, encoding="utf-8")
        place = parser.get("default", "custom_wildcards", fallback="").strip()
    except (configparser.Error, OSError, UnicodeDecodeError):
        return []
    return [settings.parent / place] if place else []


def next_output(name: str, ending: str) -> Path:
    """Path of the file with the next number in the output folder; `name` may begin with folders."""
    folder, file, counter, _, _ = folder_paths.get_save_image_path(name, folder_paths.get_output_directory())
    return Path(folder) / f"{file}_{counter:05}_{ending}"


def writes_metadata() -> bool:
    """Whether the user lets workflows be written into files."""
    return not args.disable_metadata
