"""Prompt Set: lines of text -> a set of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..hierdiff_core.prompts.alternatives import shorten
from ..hierdiff_core.prompts.prompt_set import KEEP, LINKED_LINES, PromptReader, check_prompts, flat_texts
from . import types
from .host.search import search_words
from .host.ui import numbered, show

LONGEST_LINE = 300  # characters of a prompt in the node


class PromptSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffPromptSet",
            display_name="Prompt Set",
            category="HierDiff",
            **search_words("batch prompts", "prompt list", "multiple prompts", "prompt combinations", "wildcards"),
            description="A set of prompts: one per line, {a|b} for all combinations, or a list from another node.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,  # the front end must not draw one alternative at random
                    default="",
                    placeholder="a red {apple|pear}, {photo|drawing}\n# one prompt per line; {a|b}: all combinations",
                    tooltip="One prompt per line, at most 10,000. {a|b} expands to all combinations; write \\{ \\| \\} "
                    "for the characters themselves. Blank lines and comments are skipped: lines that start with # or "
                    "//, and whole lines from /* to */.",
                ),
                io.String.Input(
                    "prompts",
                    optional=True,
                    force_input=True,
                    tooltip="More prompts, from any node that outputs text or a list of texts. Used as they are, after "
                    "the lines above.",
                ),
                io.Combo.Input(
                    "linked_lines",
                    options=list(LINKED_LINES),
                    default=KEEP,
                    optional=True,
                    tooltip="What to do with connected texts that have several lines. keep: one prompt, including its "
                    "line breaks. split: one prompt per line.",
                ),
            ],
            outputs=[
                types.Prompts.Output(display_name="prompts", tooltip="The set, for embedding and saving."),
                io.String.Output(
                    display_name="texts",
                    is_output_list=True,
                    tooltip="The prompts as a list of texts, for other nodes.",
                ),
                io.Int.Output(display_name="count", tooltip="Number of prompts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, text: list[str | None]) -> bool | str:
        """`text` is a list; [None] stands for a link, whose value is not known yet."""
        try:
            reader = PromptReader()
            for place, written in flat_texts(text, "text"):
                reader.count_text(written or "", place if len(text) > 1 else "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, text: list[str | None], prompts: list[Any] | None = None, linked_lines: Sequence[str] = (KEEP,)
    ) -> io.NodeOutput:
        reader, lines = PromptReader(), check_linked_lines(linked_lines)
        for place, written in flat_texts(text, "text"):
            reader.add_text(written or "", place if len(text) > 1 else "")
            if written is None:
                reader.remarks.empty(place)
        for place, linked in flat_texts(prompts or [], "prompts"):
            reader.add_verbatim(linked, place, lines)
        found = check_prompts(reader.prompts)
        said = [f"{len(found)} prompt{'s' if len(found) > 1 else ''}", *reader.remarks.notes()]
        said += [f"⚠ {line}" for line in reader.remarks.warnings(found)]
        said.append(numbered([shorten(prompt.replace("\n", " ↵ "), LONGEST_LINE) for prompt in found]))
        return io.NodeOutput(found, list(found), len(found), ui=show(cls, "\n".join(said), prompts=list(found)))


def check_linked_lines(values: Sequence[str]) -> str:
    """The one value of the input linked_lines."""
    different = list(dict.fromkeys(map(str, values)))
    if len(different) != 1 or different[0] not in LINKED_LINES:
        got = shorten(", ".join(map(repr, different)))
        raise ValueError(f"linked_lines must be one of {', '.join(LINKED_LINES)}; got {got}")
    return different[0]
