"""Prompt Table: rows with a negative, a seed, pictures and a caption of their own -> a set of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from comfy_api.latest import io

from ..hierdiff_core.prompts.alternatives import shorten
from ..hierdiff_core.prompts.prompt_set import PromptReader, check_prompts
from ..hierdiff_core.prompts.rows import PromptRows, as_rows, with_texts
from ..hierdiff_core.prompts.table import add_cells, read_cells
from ..hierdiff_core.prompts.wildcards import Wildcards
from . import types
from .host.folders import wildcard_folders
from .host.search import search_words
from .host.ui import numbered, show
from .prompts import LONGEST_LINE, texts_output, wildcards_stamp

if TYPE_CHECKING:
    from ..hierdiff_core.prompts.cells import Cells
    from ..hierdiff_core.prompts.rows import PromptRow
    from ..hierdiff_core.prompts.table import Problem

MOST_TOLD = 5  # problems in one message


class PromptTable(io.ComfyNode):
    """The node of `hierdiff_core.prompts.table`; web/prompt_table.js shows its text as a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffPromptTable",
            display_name="Prompt Table",
            category="HierDiff",
            **search_words("spreadsheet", "csv", "batch prompts", "prompt list", "seed per prompt"),
            description="A set of prompts as a table: each may have a negative, a seed, several pictures and a caption "
            "of its own. Paste from a spreadsheet, or open a txt, csv or jsonl file.",
            inputs=[
                io.String.Input(
                    "table",
                    multiline=True,
                    dynamic_prompts=False,  # the front end must not draw one alternative at random
                    default="",
                    placeholder="prompt, negative, seed, pictures, caption\na red {apple|pear}, blurry, 7, 2, ohwx",
                    tooltip="A table as text: the first line names the columns on, prompt, negative, seed, pictures "
                    "and caption, with tabs or commas between them. JSON and one prompt per line work too. At most "
                    "10,000 prompts.",
                ),
            ],
            outputs=[
                types.Prompts.Output(
                    display_name="prompts", tooltip="The set, for embedding and saving, with all that is in the rows."
                ),
                texts_output(),
                io.String.Output(
                    display_name="negatives",
                    is_output_list=True,
                    tooltip="The negative of each prompt; empty for those without one.",
                ),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The caption of each prompt; the prompt for those without one.",
                ),
                io.Int.Output(display_name="count", tooltip="Number of images that the set asks for."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, table: str | None) -> bool | str:
        """None stands for a link, whose value is not known yet."""
        try:
            if table is not None:
                read_table(table)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, table: str | None) -> str:
        """Another text when wildcard files have changed, for a table that may have any."""
        return wildcards_stamp([table])

    @classmethod
    def execute(cls, table: str) -> io.NodeOutput:
        """The prompts of the rows that are on."""
        found, reader = read_table(table)
        said = [counted(found), *reader.remarks.notes()]
        said += [f"⚠ {line}" for line in reader.remarks.warnings(found)]
        said.append(numbered([described(row) for row in found.rows]))
        captions = [row.caption or row.text for row in found.rows]
        negatives = [row.negative or "" for row in found.rows]
        ui = show(cls, "\n".join(said), prompts=list(found))
        return io.NodeOutput(found, list(found), negatives, captions, len(found), ui=ui)


class Checked(NamedTuple):
    """A table that was read: its rows, the set that they make, and what is wrong."""

    cells: list[Cells]
    reader: PromptReader
    problems: list[Problem]


def new_reader() -> PromptReader:
    """What reads the prompts of a table."""
    return PromptReader(Wildcards(wildcard_folders()))


def check_table(text: str) -> Checked:
    """Read a table; `ValueError` for what is none, or has too many characters of prompts."""
    cells, reader = read_cells(text), new_reader()
    return Checked(cells, reader, add_cells(reader, cells))


def read_table(text: str) -> tuple[PromptRows, PromptReader]:
    """The prompts of a table, and who has read them.

    Raises
    ------
    ValueError
        If it has none, or some cells cannot be read; it names their rows and values.
    """
    _, reader, problems = check_table(text)
    if problems:
        more = len(problems) - MOST_TOLD
        told = "; ".join(problem.text for problem in problems[:MOST_TOLD])
        raise ValueError(told + (f"; and {more} more" if more > 0 else ""))
    if not reader.rows:
        raise ValueError("the table has no prompts; write one in a row that is on")
    found = PromptRows(reader.rows)
    return as_rows(with_texts(found, check_prompts(found))), reader


def counted(prompts: PromptRows) -> str:
    """How many prompts and pictures a set has, in words."""
    different = len({(row.text, row.negative) for row in prompts.rows})
    prompt = f"{different} prompt{'s' * (different > 1)}"
    return f"{prompt}, {len(prompts)} pictures" if len(prompts) > different else prompt


def described(row: PromptRow) -> str:
    """A prompt and what is its own, as a line."""
    own = [
        *([] if row.seed is None else [f"seed {row.seed}"]),
        *([f"negative: {row.negative}"] if row.negative else []),
        *([f"caption: {row.caption}"] if row.caption else []),
    ]
    return shorten(row.text + (f"  [{'; '.join(own)}]" if own else ""), LONGEST_LINE)
