"""Load Sensitivity, and where sensitivities lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hierdiff_core.files.whole_files import write_new
from ..hierdiff_core.kandinsky.model_folder import BUNDLED
from ..hierdiff_core.pictures.sensitivity import draw_sensitivity
from ..hierdiff_core.plan.sensitivity import read_sensitivity, sensitivity_json
from . import types
from .host.folders import add_category, files_of, next_output
from .host.models import BUNDLED_NAME
from .host.search import search_words
from .host.ui import image_tensor, show
from .saved_files import content_of, file_of, place_for

if TYPE_CHECKING:
    from ..hierdiff_core.plan.sensitivity import Sensitivity

# Files lie in models/hierdiff_sensitivity; what is measured goes to the output folder, as the host's saved models do.
CATEGORY = "hierdiff_sensitivity"
BUNDLED_FILE = BUNDLED / "decoder" / "sensitivity.json"


add_category(CATEGORY, ".json")


def outputs() -> list[Any]:
    return [
        types.Sensitivity.Output(display_name="sensitivity", tooltip="For Threshold Schedule with shape calibrated."),
        io.Image.Output(display_name="plot", tooltip="At which steps sharing shows in the images."),
    ]


class SensitivityLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HierDiffSensitivityLoader",
            display_name="Load Sensitivity",
            category="HierDiff",
            **search_words("calibration", "calibrated"),
            description="Loads what Calibrate Schedule measured for a model.",
            inputs=[
                io.Combo.Input(
                    "sensitivity",
                    options=[BUNDLED_NAME, *files_of(CATEGORY)],
                    tooltip="The bundled model's, or a file in "
                    f"models/{CATEGORY} or output/{CATEGORY}. It must match the model and the scheduler.",
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, sensitivity: str) -> bool | str:
        try:
            if sensitivity is not None:  # linked: not known yet
                load_sensitivity(sensitivity)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, sensitivity: str) -> Any:
        # text: the host keeps it in the prompt, which it saves as JSON
        return hashlib.sha256(sensitivity_file(sensitivity).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, sensitivity: str) -> io.NodeOutput:
        found = load_sensitivity(sensitivity)
        picture = image_tensor(draw_sensitivity(found))
        return io.NodeOutput(found, picture, ui=show(cls, describe(found), picture))


def sensitivity_file(name: str) -> Path:
    """Path of a choice of Load Sensitivity.

    Raises
    ------
    ValueError
        If there is none; it says how to make one.
    """
    if name == BUNDLED_NAME:
        return BUNDLED_FILE
    return file_of(CATEGORY, name, "sensitivity", "Calibrate Schedule")


def load_sensitivity(name: str) -> Sensitivity:
    """The `Sensitivity` of a choice; errors name the choice, not where it lies on the disk."""
    return content_of(sensitivity_file(name), name, read_sensitivity)


def new_file(name: str) -> Path | None:
    """Path of a file that does not exist and can be written, or None for an empty name.

    Raises
    ------
    ValueError
        Before compute is spent: if the name is no plain one, or the disk does not take such a file.
    """
    return place_for(CATEGORY, name, next_file)


def next_file(name: str) -> Path:
    """Path of the file with the next number."""
    return next_output(f"{CATEGORY}/{name}", ".json")


def save_new(sensitivity: Sensitivity, path: Path) -> Any:
    """Save under a path of `new_file`, or under the next number if somebody has taken it meanwhile; the path."""
    data = sensitivity_json(sensitivity)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_new(path, data)
            return path
        except FileExistsError:
            stem, number = path.name.removesuffix("_.json").rsplit("_", 1)
            path = path.with_name(f"{stem}_{int(number) + 1:05}_.json")


def describe(sensitivity: Sensitivity) -> str:
    """What a sensitivity says, in words."""
    weights = sensitivity.weights(sensitivity.num_steps)
    share = weights[::-1].cumsum() / weights.sum()
    most = int((share < 0.9).sum()) + 1
    settings = ", ".join(" ".join(f"{name} {value}".split()) for name, value in sensitivity.settings.items())
    return f"{sensitivity.num_steps} steps; 90 % of the sensitivity lies in the last {most}\nmeasured with: {settings}"
