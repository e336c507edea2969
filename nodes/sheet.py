"""Contact Sheet: all pictures of a set, each with its prompt, or in a grid with headings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from PIL import Image

from ..hierdiff_core.pictures.contact_sheet import contact_sheet
from ..hierdiff_core.pictures.grid_sheet import Factor, Grid, grid_of, grid_sheet
from ..hierdiff_core.previews import to_pictures
from ..hierdiff_core.prompts.rows import as_rows
from . import types
from .host.lists import batches, runs_of
from .host.search import search_words
from .host.ui import image_tensor, show

if TYPE_CHECKING:
    from PIL import Image

AUTOMATIC, OFF = "automatic", "off"
VALUES_SHOWN = 4


class ContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffContactSheet",
            display_name="Contact Sheet",
            category="HierDiff",
            **search_words("image grid", "grid", "labels", "XY plot"),
            description="One picture of the whole set: a grid with headings for a set of combinations, else the prompt "
            "below each image.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="One image per prompt, in the order of the prompts, as a batch or a list.",
                ),
                types.Prompts.Input("prompts", tooltip="From Prompt Set."),
                io.Int.Input("columns", default=0, min=0, max=1000, tooltip="Images per row. 0: automatic."),
                io.Combo.Input(
                    "axes",
                    options=[AUTOMATIC, OFF],
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="automatic: a set that one line with two or more groups in braces has made, such as a red "
                    "or green apple or pear, gets rows and columns with headings, if columns is 0. off: the prompt "
                    "below each image.",
                ),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The contact sheet, for Save Image.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, images: list[Any], prompts: list[tuple[str, ...]], columns: list[int], axes: Sequence[str] = (OFF,)
    ) -> io.NodeOutput:
        """Without a value for `axes` a workflow was made before there were any: its sheet stays what it was."""
        inputs = {"images": batches(images), "prompts": prompts, "columns": columns, "axes": axes}
        sheets, lines = [], []
        for run in runs_of(inputs, len, ["images"]):
            sheet, line = sheet_of(run["images"], run["prompts"], run["columns"], run["axes"] == AUTOMATIC)
            sheets.append(sheet)
            lines.append(line)
        batch = torch.cat([image_tensor(sheet) for sheet in same_size(sheets)])
        return io.NodeOutput(batch, ui=show(cls, "\n".join(lines), batch))


def sheet_of(
    images: Sequence[torch.Tensor], prompts: Sequence[str], columns: int, axes: bool
) -> tuple[Image.Image, str]:
    """One sheet, and what there is to say of it."""
    pictures = (picture for batch in images for picture in to_pictures(batch))
    first = next(pictures, None)
    every = itertools.chain([] if first is None else [first], pictures)
    count = f"{len(prompts)} image{'s' * (len(prompts) != 1)}"
    rows = as_rows(prompts).rows
    grid = None
    if axes and columns == 0 and first is not None:
        grid = grid_of([row.factors for row in rows], [row.seed for row in rows], first.size)
    if grid is None:
        return contact_sheet(every, prompts, columns), count
    return grid_sheet(every, grid), f"{count}, {described(grid)}"


def described(grid: Grid) -> str:
    """The axes of a grid in words."""
    (rows, columns), axes = grid.shape, (grid.rows, grid.columns)
    of_rows, of_columns = (" × ".join(map(listed, factors)) for factors in axes)
    return f"{rows} × {columns}\nrows: {of_rows}\ncolumns: {of_columns}"


def listed(factor: Factor) -> str:
    shown = ", ".join(value or "(none)" for value in factor.values[:VALUES_SHOWN])
    return shown + (f" and {len(factor.values) - VALUES_SHOWN} more" if len(factor.values) > VALUES_SHOWN else "")


def same_size(sheets: Sequence[Image.Image]) -> Iterator[Image.Image]:
    """Sheets on white as large as the largest, as a batch must be."""
    size = max(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)
    for sheet in sheets:
        whole = Image.new("RGB", size, "white")
        whole.paste(sheet)
        yield whole
