"""Prompt Set: lines of text -> a set of prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..hierdiff_core.prompts.alternatives import MOST_PROMPTS, shorten
from ..hierdiff_core.prompts.draws import Draw
from ..hierdiff_core.prompts.prompt_set import KEEP, LINKED_LINES, PromptReader, check_prompts, flat_texts
from ..hierdiff_core.prompts.rows import PromptRows
from ..hierdiff_core.prompts.wildcards import Wildcards
from . import types
from .host.folders import wildcard_folders
from .host.search import search_words
from .host.ui import numbered, show

LONGEST_LINE = 300  # characters of a prompt in the node
ALL, RANDOM = "all combinations", "random"
COUNT = 4  # of random prompts


def wildcards_stamp(texts: Sequence[str | None]) -> str:
    """What changes with the wildcard files, for texts that may have any: None stands for one that is not known yet."""
    may_have = any(not isinstance(part, str) or "__" in part for part in texts)
    stamp = Wildcards(wildcard_folders()).stamp() if may_have else ""
    return hashlib.sha256(stamp.encode(errors="replace")).hexdigest()


def texts_output() -> io.String.Output:
    """The output of the nodes that make sets for nodes that know none."""
    return io.String.Output(
        display_name="texts",
        is_output_list=True,
        tooltip="The prompts as a list of texts, for other nodes.",
    )


class PromptSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffPromptSet",
            display_name="Prompt Set",
            category="HierDiff",
            **search_words("batch prompts", "prompt list", "multiple prompts", "prompt combinations", "wildcards"),
            description="A set of prompts: one per line, {a|b} for all combinations, __name__ for wildcard files, or a "
            "list from another node.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,  # the front end must not draw one alternative at random
                    default="",
                    placeholder="a red {apple|pear}, {photo|drawing}\n# one prompt per line; {a|b}: all combinations",
                    tooltip="One prompt per line, at most 10,000. {a|b} expands to all combinations, {2$$a|b|c} "
                    "chooses two, __name__ stands for the lines of a wildcard file; write \\{ \\| \\} "
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
                io.Combo.Input(
                    "draw",
                    options=[ALL, RANDOM],
                    default=ALL,
                    optional=True,
                    tooltip="What a line with alternatives or wildcards gives. all combinations: each of them once, "
                    "whatever the weights. random: as many different prompts as count says, by the weights.",
                ),
                io.Int.Input(
                    "count",
                    default=COUNT,
                    min=1,
                    max=MOST_PROMPTS,
                    optional=True,
                    tooltip="Random prompts for each line. A larger number keeps those that were there.",
                ),
                io.Int.Input(
                    "draw_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    tooltip="Another number draws other random prompts. It does not change by itself: other prompts "
                    "are another set, which has to be sampled again.",
                ),
            ],
            outputs=[
                types.Prompts.Output(display_name="prompts", tooltip="The set, for embedding and saving."),
                texts_output(),
                io.Int.Output(display_name="count", tooltip="Number of prompts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        text: list[str | None],
        draw: Sequence[str | None] = (ALL,),
        count: Sequence[int | None] = (COUNT,),
        draw_seed: Sequence[int | None] = (0,),
    ) -> bool | str:
        """Each is a list; [None] stands for a link, whose value is not known yet."""
        try:
            drawn = draw_of(*map(known, (draw, count, draw_seed), (ALL, COUNT, 0)))
            reader = PromptReader(Wildcards(wildcard_folders()), drawn)
            for place, written in flat_texts(text, "text"):
                reader.count_text(written or "", place if len(text) > 1 else "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, text: Sequence[str | None], **others: Any) -> str:
        """Another text when wildcard files have changed, for a set that may have any."""
        return wildcards_stamp(text or [None])

    @classmethod
    def execute(
        cls,
        text: list[str | None],
        prompts: list[Any] | None = None,
        linked_lines: Sequence[str] = (KEEP,),
        draw: Sequence[str] = (ALL,),
        count: Sequence[int] = (COUNT,),
        draw_seed: Sequence[int] = (0,),
    ) -> io.NodeOutput:
        drawn, lines = draw_of(draw, count, draw_seed), check_linked_lines(linked_lines)
        reader = PromptReader(Wildcards(wildcard_folders()), drawn)
        for place, written in flat_texts(text, "text"):
            reader.add_text(written or "", place if len(text) > 1 else "")
            if written is None:
                reader.remarks.empty(place)
        for place, linked in flat_texts(prompts or [], "prompts"):
            reader.add_verbatim(linked, place, lines)
        check_prompts(reader.prompts)
        found = PromptRows(reader.rows)
        chance = f", drawn with seed {drawn.seed}, at most {drawn.count} of each line" if drawn else ""
        said = [f"{len(found)} prompt{'s' if len(found) > 1 else ''}{chance}", *reader.remarks.notes()]
        said += [f"⚠ {line}" for line in reader.remarks.warnings(found)]
        said.append(numbered([shorten(prompt.replace("\n", " ↵ "), LONGEST_LINE) for prompt in found]))
        return io.NodeOutput(found, list(found), len(found), ui=show(cls, "\n".join(said), prompts=list(found)))


def draw_of(draw: Sequence[str], count: Sequence[int], seed: Sequence[int]) -> Draw | None:
    """What is drawn at random, or None for all combinations."""
    for name, values in {"draw": draw, "count": count, "draw_seed": seed}.items():
        if len(set(values)) != 1:
            raise ValueError(f"{name} must be a single value; got a list of {len(values)}")
    if draw[0] not in (ALL, RANDOM):
        raise ValueError(f"draw must be one of {ALL}, {RANDOM}; got {shorten(repr(draw[0]))}")
    return Draw(count[0], seed[0]) if draw[0] == RANDOM else None


def known(values: Sequence[Any], default: Any) -> Sequence[Any]:
    """The values of an input, or the default for one that is linked, or that there is not."""
    return [default] if values is None or None in values else values


def check_linked_lines(values: Sequence[str]) -> str:
    """The one value of the input linked_lines."""
    different = list(dict.fromkeys(map(str, values)))
    if len(different) != 1 or different[0] not in LINKED_LINES:
        got = shorten(", ".join(map(repr, different)))
        raise ValueError(f"linked_lines must be one of {', '.join(LINKED_LINES)}; got {got}")
    return different[0]
