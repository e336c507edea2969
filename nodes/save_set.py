"""Save Image Set: a file per prompt, with names and captions from the prompts."""

from __future__ import annotations

import io as bytes_io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from comfy_api.latest import io
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..hierdiff_core.files.image_set import CAPTIONS, FORMATS, SetWriter, check_pattern, check_subfolder, file_stem
from . import types
from .host.decoration import Decorations
from .host.folders import output_folder, writes_metadata
from .host.lists import batches, runs_of
from .host.search import search_words
from .host.ui import Progress

if TYPE_CHECKING:
    import torch

PICTURES_SHOWN = 16
SIZES_SHOWN = 4
DECODED_AT_ONCE = 8  # on a GPU; one at a time on a CPU
QUALITY = 95  # of webp and jpg
EXIF_MODEL, EXIF_MAKE = 0x0110, 0x010F  # where the host's own nodes keep the prompt, and the workflow and below


class SaveSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffSaveSet",
            display_name="Save Image Set",
            category="HierDiff",
            **search_words("captions", "training set", "dataset", "lora", "save images"),
            description="Saves one file per prompt, with names and captions from the prompts. Never overwrites a file.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                types.Prompts.Input("prompts", tooltip="From Prompt Set: one per image, in the same order."),
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
                io.String.Input(
                    "name",
                    default="{index:04d}_{prompt}",
                    tooltip="Name of each file. {index} counts from 0 ({index:04d}: four digits); {prompt} is "
                    "shortened, and characters that file systems may not allow become _.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="One image per prompt, as a batch or a list. Alternatively, connect latent and vae.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="One latent per prompt, decoded and saved a few at a time. For large sets.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Decodes the latent."),
            ],
            outputs=[
                io.String.Output(display_name="folder", tooltip="Full path of the folder."),
                io.Int.Output(display_name="count", tooltip="Number of images saved."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, folder: str, name: str) -> bool | str:
        try:
            for value in folder or ():
                if value is not None:  # linked: not known yet
                    check_subfolder(value)
            for value in name or ():
                if value is not None:
                    check_pattern(value)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        prompts: list[tuple[str, ...]],
        folder: list[str],
        format: list[str],
        captions: list[str],
        name: list[str],
        images: list[Any] | None = None,
        latent: list[dict[str, Any]] | None = None,
        vae: list[Any] | None = None,
    ) -> io.NodeOutput:
        inputs = {
            "prompts": prompts,
            "folder": folder,
            "format": format,
            "captions": captions,
            "name": name,
            "images": images and batches(images),
            "latent": latent and [part["samples"] for part in latent],
            "vae": vae,
        }
        runs = runs_of(inputs, len, ("images", "latent"))
        for run in runs:
            check_pattern(run["name"])
            check_subfolder(run["folder"])
            check_sources(len(run["prompts"]), run["images"], run["latent"], run["vae"])
        sets = [save_set(cls, **run) for run in runs]
        path = sets[-1].path
        shown = [picture for each in sets for picture in each.shown][:PICTURES_SHOWN]
        count = sum(each.count for each in sets)
        return io.NodeOutput(
            path, count, ui=Decorations().show(cls, "\n".join(each.text for each in sets), images=shown)
        )


@dataclass(frozen=True)
class Saved:
    """What was written into one folder."""

    path: str
    count: int
    text: str
    shown: list


def save_set(
    cls: Any,
    prompts: Sequence[str],
    folder: str,
    format: str,
    captions: str,
    name: str,
    images: Sequence[torch.Tensor] | None,
    latent: Sequence[torch.Tensor] | None,
    vae: Any,
) -> Saved:
    """Write one set; `images` and `latent` are lists of batches."""
    parts = check_subfolder(folder)
    progress = Progress(len(prompts))
    path = Path(os.path.abspath(output_folder()), *parts)
    writer = SetWriter(path, captions, len(prompts))
    metadata = png_metadata(cls) if format == "png" else exif_metadata(cls) if format == "webp" else None
    pictures = split(images) if images is not None else decoded(latent, vae, progress)
    sizes = {}
    for index, (prompt, pixels) in enumerate(zip(prompts, pictures, strict=True)):
        progress.check_cancelled()
        picture = to_picture(pixels)
        sizes[f"{picture.width} × {picture.height}"] = None
        writer.add(file_stem(name, index, prompt), format, encode(picture, format, metadata), prompt)
        progress.advance(1)
    shown = [
        {"filename": file, "subfolder": "/".join(parts), "type": "output"} for file in writer.files[:PICTURES_SHOWN]
    ]
    count = len(writer.files)
    size = "".join(f"{each}, " for each in sizes) if len(sizes) <= SIZES_SHOWN else f"{len(sizes)} sizes, "
    text = f"output/{'/'.join(parts)}\n{count} image{'s' * (count != 1)}, {size}{megabytes(writer.size)}"
    return Saved(str(path), count, text, shown)


def check_sources(
    count: int, images: Sequence[torch.Tensor] | None, latent: Sequence[torch.Tensor] | None, vae: Any
) -> None:
    """Refuse anything but as many images, or latents with a VAE, as prompts."""
    if images is not None and latent is not None:
        raise ValueError("connect images, or latent and vae, not both")
    if images is None and latent is None:
        raise ValueError("there is nothing to save: connect images, or latent and vae")
    if images is None and vae is None:
        raise ValueError("latent needs a vae to decode it: connect vae")
    source, what = (images, "images") if images is not None else (latent or (), "latents")
    found = sum(map(len, source))
    if found != count:
        raise ValueError(
            f"there must be as many {what} as prompts; got {found} {what} and {count} prompts. "
            "Connect the prompts that they were made from, all of them and in the same order"
        )


def split(images: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    for batch in images:
        yield from batch


def decoded(latent: Any, vae: Any, progress: Progress) -> Iterator[torch.Tensor]:
    """Yield the image of each latent, a few decoded at a time; on a CPU one, whatever the others are."""
    step = 1 if vae.device.type == "cpu" else DECODED_AT_ONCE
    for latents in latent:
        for start in range(0, len(latents), step):
            progress.check_cancelled()
            chunk = latents[start : start + step]
            images = vae.decode(chunk)
            images = images.reshape(-1, *images.shape[-3:])  # video models give frames
            if len(images) != len(chunk):
                raise ValueError(f"each latent must be one image; {len(chunk)} gave {len(images)}, as a video does")
            yield from images


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """(H, W, C) float tensor -> PIL picture, rounded down as the host's Save Image does."""
    values = np.clip(255.0 * pixels.cpu().numpy(), 0, 255).astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def encode(picture: Image.Image, format: str, metadata: Any) -> bytes:
    """Bytes of a picture file."""
    buffer = bytes_io.BytesIO()
    if format == "png":
        picture.save(buffer, "PNG", pnginfo=metadata, compress_level=4)
    elif format == "webp":
        picture.save(buffer, "WEBP", quality=QUALITY, **({"exif": metadata} if metadata else {}))
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def texts(cls: Any) -> list[tuple[str, str]]:
    """(key, JSON) of the prompt, and of what the front end sends along: the workflow."""
    if not writes_metadata() or not cls.hidden:
        return []
    values = [("prompt", cls.hidden.prompt)] if cls.hidden.prompt is not None else []
    return [(key, json.dumps(value)) for key, value in [*values, *(cls.hidden.extra_pnginfo or {}).items()]]


def png_metadata(cls: Any) -> PngInfo:
    metadata = PngInfo()
    for key, text in texts(cls):
        metadata.add_text(key, text)
    return metadata


def exif_metadata(cls: Any) -> bytes | None:
    """EXIF as the host's nodes write it into webp, or None if there is nothing to write."""
    exif, tag = Image.Exif(), EXIF_MAKE
    for key, text in texts(cls):
        if key == "prompt":
            exif[EXIF_MODEL] = f"{key}:{text}"
        else:
            exif[tag] = f"{key}:{text}"
            tag -= 1
    return exif.tobytes() if len(exif) else None


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
