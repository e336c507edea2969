"""Load Scene Model: a small model that decides early, or the user's own checkpoint, as MODEL, CLIP and VAE."""

from __future__ import annotations

from comfy_api.latest import io

from .host.scene_model import SCENES_NAME, load_scenes, scene_names, validate_scene_name
from .host.search import search_words
from .host.ui import telling


class SceneLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffSceneLoader",
            display_name="Load Scene Model (bundled)",
            category="HierDiff",
            **search_words("load checkpoint", "bundled model", "small model", "scenes"),
            description="Loads the small bundled model of scenes with two emoji, which any sampler of ComfyUI can use; "
            "or one of your checkpoints in its place.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=scene_names(),
                    default=SCENES_NAME,
                    tooltip="The small bundled model, which wants 128×128 pixels; or a checkpoint in "
                    "models/checkpoints, as Load Checkpoint loads it.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For LoRAs, patches and any sampler node."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Embedding and CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="For VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str) -> bool | str:
        return validate_scene_name(model_name)

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        with telling(cls, f"Loading {model_name} …"):
            return io.NodeOutput(*load_scenes(model_name))
