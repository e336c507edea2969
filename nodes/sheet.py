"""Contact Sheet: all pictures of a set, each with its prompt."""

from comfy_api.latest import io

from ..hierdiff_core.figures import contact_sheet
from ..hierdiff_core.previews import to_pictures
from . import types
from .search import found_as
from .show import image_tensor, show


class ContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffContactSheet",
            display_name="Contact Sheet",
            category="HierDiff",
            **found_as("image grid", "grid", "labels"),
            description="One picture of the whole set, each image with its prompt below it.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="A batch with one image per prompt, in the order of the prompts."),
                types.Prompts.Input("prompts", tooltip="From Prompt Set."),
                io.Int.Input("columns", default=0, min=0, max=1000, tooltip="Images per row. 0 chooses."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The sheet, for Save Image.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images, prompts, columns):
        sheet = image_tensor(contact_sheet(to_pictures(images), prompts, columns))
        return io.NodeOutput(sheet, ui=show(cls, f"{len(prompts)} images", sheet))
