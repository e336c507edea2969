"""Inputs of the nodes that save a set: where, in which format, and what stands in captions."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ..hierdiff_core.files.image_set import CAPTIONS, FORMATS
from ..hierdiff_core.files.names import DEFAULT_CAPTION, check_caption, check_name, check_subfolder

QUALITY = 95  # of webp and jpg


def folder_inputs() -> list[io.Input]:
    """The folder, the format of the files, and where captions go."""
    return [
        io.String.Input(
            "folder",
            default="HierDiff set",
            tooltip="Folder inside ComfyUI's output folder, created if it does not exist; a/b for subfolders.",
        ),
        io.Combo.Input(
            "format",
            options=list(FORMATS),
            default="png",
            tooltip=f"png is lossless; webp and jpg have quality {QUALITY}. png and webp contain the workflow.",
        ),
        io.Combo.Input(
            "captions",
            options=list(CAPTIONS),
            default="none",
            tooltip="txt: the prompt in a .txt file beside each image, for LoRA training. metadata.jsonl: one "
            "file with a line per image, for the datasets library.",
        ),
    ]


def caption_inputs() -> list[io.Input]:
    """What captions say, and where the numbers in names begin."""
    return [
        io.String.Input(
            "caption",
            default=DEFAULT_CAPTION,
            optional=True,
            tooltip="Text of each caption, such as: ohwx, {prompt}. {prompt} is the prompt, or the caption "
            "that a row of a table has; the other fields are those of name.",
        ),
        io.Boolean.Input(
            "strip_tags",
            default=False,
            optional=True,
            tooltip="Leaves weights such as (red:1.2) and tags such as <lora:name:1> out of captions and names.",
        ),
        io.Int.Input(
            "start",
            default=0,
            min=0,
            max=1_000_000_000,
            optional=True,
            tooltip="Number of the first image, where names count.",
        ),
    ]


def names_hold(
    folders: Sequence[str | None] | None, names: Sequence[str | None] | None, captions: Sequence[str | None] | None
) -> bool | str:
    """True, or what is wrong with folders, names or captions: what a host asks for before anything runs."""
    try:
        for check, values in ((check_subfolder, folders), (check_name, names), (check_caption, captions)):
            for value in values or ():
                if value is not None:  # linked: not known yet
                    check(value)
    except ValueError as error:
        return str(error)
    return True
