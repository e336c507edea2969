"""Save Image Set: a file per prompt, with names and captions from the prompts."""

from __future__ import annotations

import io as bytes_io
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from comfy_api.latest import io
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..hierdiff_core.files.image_set import SetTree
from ..hierdiff_core.files.names import (
    DEFAULT_CAPTION,
    DEFAULT_NAME,
    Picture,
    caption_of,
    check_caption,
    check_name,
    check_subfolder,
    file_parts,
)
from ..hierdiff_core.files.plain_words import plain_words
from ..hierdiff_core.files.png import png_bytes
from ..hierdiff_core.prompts.rows import PromptRow, as_rows
from . import types
from .host.decoration import Decorations
from .host.folders import output_folder, writes_metadata
from .host.lists import batches, runs_of
from .host.search import search_words
from .host.ui import Progress
from .host.upstream import negative_before, seed_before
from .set_inputs import QUALITY, caption_inputs, folder_inputs, names_hold

if TYPE_CHECKING:
    import torch

PICTURES_SHOWN = 256  # in the node, to page through: the page loads them all
SIZES_SHOWN = 4
SOURCES = ("images", "latent")
DECODED_AT_ONCE = 8  # on a GPU; one at a time on a CPU
EXIF_MODEL, EXIF_MAKE = 0x0110, 0x010F  # where the host's own nodes keep the prompt, and the workflow and below
OWN = "hierdiff"  # key of what is a picture's own in its file
PNG_LEVEL = 4  # of compression, as the host's Save Image has it
LARGEST_EXIF = 60_000  # bytes, of jpg


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
                *folder_inputs(),
                io.String.Input(
                    "name",
                    default=DEFAULT_NAME,
                    tooltip="Name of each file. {index} counts from start ({index:04d}: four digits); {prompt} is "
                    "shortened; {seed}, {date}, {time}, {count}; a/b for subfolders. Characters that file systems may "
                    "not allow become _.",
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
                *caption_inputs(),
            ],
            outputs=[
                io.String.Output(display_name="folder", tooltip="Full path of the folder."),
                io.Int.Output(display_name="count", tooltip="Number of images saved."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, folder: str, name: str, caption: str) -> bool | str:
        return names_hold(folder, name, caption)

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
        caption: Sequence[str] = (DEFAULT_CAPTION,),
        strip_tags: Sequence[bool] = (False,),
        start: Sequence[int] = (0,),
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
            "caption": caption,
            "strip_tags": strip_tags,
            "start": start,
        }
        runs = runs_of(inputs, len, SOURCES)
        for run in runs:
            check_name(run["name"])
            check_caption(run["caption"])
            check_subfolder(run["folder"])
            check_sources(len(run["prompts"]), run["images"], run["latent"], run["vae"])
        sets = [save_set(cls, **run) for run in runs]
        path = sets[-1].path
        shown = [picture for each in sets for picture in each.shown]
        count = sum(each.count for each in sets)
        lines = [each.text for each in sets]
        if count > PICTURES_SHOWN:
            lines.append(f"the node shows the first {PICTURES_SHOWN}; all are in the folder")
        said = {"images": shown[:PICTURES_SHOWN], "hierdiff_folder": [sets[-1].folder]}
        return io.NodeOutput(path, count, ui=Decorations().show(cls, "\n".join(lines), **said))


@dataclass(frozen=True)
class Saved:
    """What was written into one folder."""

    path: str
    folder: str
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
    caption: str,
    strip_tags: bool,
    start: int,
) -> Saved:
    """Write one set; `images` and `latent` are lists of batches."""
    parts = check_subfolder(folder)
    progress = Progress(len(prompts))
    path = Path(os.path.abspath(output_folder()), *parts)
    writer = SetTree(path, captions, len(prompts))
    about, workflow = Told.of(cls, prompts, start), texts(cls)
    sizes = {}
    pictures = split(images) if images is not None else decoded(latent, vae, progress)
    for i, pixels in zip(range(len(prompts)), pictures, strict=True):
        progress.check_cancelled()
        picture = to_picture(pixels)
        sizes[f"{picture.width} × {picture.height}"] = None
        named, captioned = about.picture(i, strip_tags)
        data = encode(picture, format, [*workflow, *about.own(i)])
        writer.add(file_parts(name, named), format, data, caption_of(caption, captioned))
        progress.advance(1)
    below = "/".join(parts)
    count = len(writer.files)
    size = "".join(f"{each}, " for each in sizes) if len(sizes) <= SIZES_SHOWN else f"{len(sizes)} sizes, "
    text = f"output/{below}\n{count} image{'s' * (count != 1)}, {size}{megabytes(writer.size)}"
    return Saved(str(path), below, count, text, [shown(below, file) for file in writer.files[:PICTURES_SHOWN]])


def shown(folder: str, file: str) -> dict[str, str]:
    """A picture as the page asks for it."""
    below, _, name = f"{folder}/{file}".rpartition("/")
    return {"filename": name, "subfolder": below, "type": "output"}


@dataclass(frozen=True)
class Told:
    """What there is to say of the pictures of a set.

    Attributes
    ----------
    rows : tuple of PromptRow
        With the seed and the negative of the whole set where a prompt has none.
    start : int
        Number of the first.
    date, time : str
        Of saving.
    """

    rows: tuple[PromptRow, ...]
    start: int
    date: str
    time: str

    @classmethod
    def of(cls, node: Any, prompts: Sequence[str], start: int) -> Told:
        """Of the prompts of a running `node`, and of what its workflow says."""
        workflow, place = (node.hidden.prompt, node.hidden.unique_id) if node.hidden else (None, "")
        seed = seed_before(workflow, place, SOURCES)
        negative = negative_before(workflow, place, SOURCES)
        rows = (
            replace(
                row,
                seed=seed if row.seed is None else row.seed,
                negative=negative if row.negative is None else row.negative,
            )
            for row in as_rows(prompts).rows
        )
        date, _, clock = time.strftime("%Y-%m-%d %H-%M-%S").partition(" ")
        return cls(tuple(rows), start, date, clock)

    def picture(self, i: int, strip_tags: bool) -> tuple[Picture, Picture]:
        """What names and captions say of a picture."""
        row, clean = self.rows[i], plain_words if strip_tags else str
        number, count = row.place or (i, len(self.rows))
        named = Picture(self.start + number, clean(row.text), row.seed, count, self.date, self.time)
        return named, replace(named, prompt=clean(row.text if row.caption is None else row.caption))

    def own(self, i: int) -> list[tuple[str, str]]:
        """(key, JSON) of what is a picture's own, beside the workflow; none if the user wants none."""
        row = self.rows[i]
        number = i if row.place is None else row.place[0]
        own = {"prompt": row.text, "negative": row.negative, "seed": row.seed, "index": self.start + number}
        return [(OWN, json.dumps(own))] if writes_metadata() else []


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


def encode(picture: Image.Image, format: str, metadata: Sequence[tuple[str, str]]) -> bytes:
    """Bytes of a picture file, with (key, text) of what is said in it; jpg has room for what is its own alone."""
    buffer = bytes_io.BytesIO()
    if format == "png":
        info = png_metadata(metadata)
        if picture.mode == "RGB":  # several at a time, if need be: Pillow holds Python's lock while it compresses
            return png_bytes(np.asarray(picture), [(kind, data) for kind, data, *_ in info.chunks], PNG_LEVEL)
        picture.save(buffer, "PNG", pnginfo=info, compress_level=PNG_LEVEL)
        return buffer.getvalue()
    own = metadata if format == "webp" else [(key, text) for key, text in metadata if key == OWN]
    exif = exif_metadata(own)
    if format == "webp":
        picture.save(buffer, "WEBP", quality=QUALITY, **({"exif": exif} if exif else {}))
    else:
        fits = exif and len(exif) < LARGEST_EXIF
        picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY, **({"exif": exif} if fits else {}))
    return buffer.getvalue()


def texts(cls: Any) -> list[tuple[str, str]]:
    """(key, JSON) of the prompt, and of what the front end sends along: the workflow."""
    if not writes_metadata() or not cls.hidden:
        return []
    values = [("prompt", cls.hidden.prompt)] if cls.hidden.prompt is not None else []
    return [(key, json.dumps(value)) for key, value in [*values, *(cls.hidden.extra_pnginfo or {}).items()]]


def png_metadata(metadata: Sequence[tuple[str, str]]) -> PngInfo:
    info = PngInfo()
    for key, text in metadata:
        info.add_text(key, text)
    return info


def exif_metadata(metadata: Sequence[tuple[str, str]]) -> bytes | None:
    """EXIF as the host's nodes write it into webp, or None if there is nothing to write."""
    exif, tag = Image.Exif(), EXIF_MAKE
    for key, text in metadata:
        if key == "prompt":
            exif[EXIF_MODEL] = f"{key}:{text}"
        else:
            exif[tag] = f"{key}:{text}"
            tag -= 1
    return exif.tobytes() if len(exif) else None


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
