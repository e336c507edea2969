"""Prompt Set: lines of text -> a set of prompts."""

from comfy_api.latest import io

from ..hierdiff_core.kandinsky import check_prompts
from ..hierdiff_core.prompts import parse_prompts
from . import types
from .search import found_as
from .show import numbered, show


class PromptSet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffPromptSet",
            display_name="Prompt Set",
            category="HierDiff",
            **found_as("batch prompts", "prompt list", "multiple prompts", "prompt combinations", "wildcards"),
            description="A set of prompts: one a line, {a|b} for all combinations, or a list from another node.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,  # the front end must not draw one alternative at random
                    default="",
                    placeholder="a red {apple|pear}, {photo|drawing}\n# one prompt a line; {a|b}: all combinations",
                    tooltip="One prompt per line. Blank lines and lines that begin with # are skipped. "
                    "{a|b} expands to all combinations; \\{ \\| \\} are the characters themselves.",
                ),
                io.String.Input(
                    "prompts",
                    optional=True,
                    force_input=True,
                    tooltip="More prompts, from any node that gives text or a list of texts. Taken as they are, "
                    "after the lines above.",
                ),
            ],
            outputs=[
                types.Prompts.Output(display_name="prompts", tooltip="The set, for embedding and Contact Sheet."),
                io.String.Output(
                    display_name="texts",
                    is_output_list=True,
                    tooltip="The prompts as a list, for other nodes.",
                ),
                io.Int.Output(display_name="count", tooltip="How many prompts there are."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, text, prompts=None):
        linked = [prompt.strip() for prompt in prompts or [] if prompt and prompt.strip()]
        found = check_prompts(parse_prompts(text[0]) + linked)
        shown = f"{len(found)} prompt{'s' if len(found) > 1 else ''}\n{numbered(found)}"
        return io.NodeOutput(found, list(found), len(found), ui=show(cls, shown, prompts=list(found)))
