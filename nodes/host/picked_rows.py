"""The rows of some prompts, out of whatever has a row for each prompt of a set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ...hierdiff_core.files.whole_files import replace as replace_file
from ...hierdiff_core.plan.algebra import only
from ...hierdiff_core.prompts.rows import PromptRows, as_rows
from .device import stop_if_cancelled
from .folders import temporary_folder

if TYPE_CHECKING:
    from ...hierdiff_core.embeddings import PromptEmbeddings
    from ...hierdiff_core.plan.plan import Plan

FOLDER = "hierdiff"
SIDE, QUALITY = 512, 88  # pixels and JPEG's quality of what the page shows


def picked_latent(latent: dict, which: Sequence[int], count: int) -> dict:
    """The host's LATENT with the rows of some prompts; what does not have a row for each stays."""
    rows = {key: value[list(which)] for key, value in latent.items() if has_rows(value, count)}
    numbers = latent.get("batch_index")
    if isinstance(numbers, (list, tuple)) and len(numbers) == count:
        rows["batch_index"] = [numbers[i] for i in which]
    return {**latent, **rows}


def has_rows(value: Any, count: int) -> bool:
    """Whether something is a tensor with a row for each prompt."""
    return torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == count


def picked_prompts(prompts: Sequence[str], which: Sequence[int]) -> tuple[str, ...]:
    """Some prompts, with all that is their own."""
    if not hasattr(prompts, "rows"):
        return tuple(prompts[i] for i in which)
    rows = as_rows(prompts).rows
    return PromptRows(rows[i] for i in which)


def picked_embeddings(embeddings: PromptEmbeddings, which: Sequence[int]) -> PromptEmbeddings:
    """The embeddings of some prompts."""
    rows, prompts = list(which), picked_prompts(embeddings.prompts, which)
    return replace(embeddings, positive=embeddings.positive[rows], negative=embeddings.negative[rows], prompts=prompts)


def picked_plan(plan: Plan, which: Sequence[int]) -> Plan:
    """The plan of some prompts: their branches stay what they are, with the prompts that their means are made of.

    Raises
    ------
    ValueError
        If prompts cannot be taken out of the plan, see `algebra.removed`.
    """
    if len(which) == plan.num_prompts:
        return plan
    return only(plan, which)


def shown_files(images: torch.Tensor, name: str) -> list[dict[str, str]]:
    """Small files of pictures, in the host's temporary folder, as its pages know files.

    Parameters
    ----------
    images : (N, H, W, C) tensor
        The host's IMAGE.
    name : str
        What the files' names begin with; nobody else's may.
    """
    folder = Path(temporary_folder()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, image in enumerate(images):
        stop_if_cancelled()
        file, picture = io.BytesIO(), Image.fromarray((255 * image[..., :3]).clamp(0, 255).byte().cpu().numpy())
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(file, "JPEG", quality=QUALITY)
        replace_file(folder / f"{name}-{i}.jpg", file.getvalue())
        files.append({"filename": f"{name}-{i}.jpg", "subfolder": FOLDER, "type": "temp"})
    return files
