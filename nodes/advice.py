"""Load Advice, and where advice lies and is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hierdiff_core.measure.advice import read_advice, write_advice
from ..hierdiff_core.pictures.advice import draw_advice
from . import types
from .host.decoration import Decorations
from .host.folders import add_category, files_of, output_folder
from .host.search import search_words
from .saved_files import content_of, file_of, place_for

if TYPE_CHECKING:
    from ..hierdiff_core.measure.advice import Advice, Workbench
    from ..hierdiff_core.plan.plan import Plan
    from ..hierdiff_core.plan.tree import PromptTree

# Advice lies in models/hierdiff_advice; what is measured goes to the output folder, as the host's saved models do.
CATEGORY = "hierdiff_advice"
TRIALS = "hierdiff_trials"  # in the output folder: what was drawn so far, of measurements that may go on
NOTHING = "(none yet)"
KEY_DIGITS = 12

add_category(CATEGORY, ".json")


def outputs() -> list[Any]:
    """What all nodes with advice hand on."""
    return [
        types.Plan.Output(display_name="plan", tooltip="The advised plan, for the samplers and Share Steps."),
        types.Advice.Output(display_name="advice", tooltip="All that was measured."),
        io.String.Output(display_name="report", tooltip="What pays on this model, and what it costs."),
    ]


class LoadAdvice(io.ComfyNode):
    """Advice of a model for another set of prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffLoadAdvice",
            display_name="Load Advice",
            category="HierDiff",
            **search_words("what pays", "advisor", "save compute"),
            description="Plans a set by what What Pays Here? has measured for a model; nothing is measured again.",
            inputs=[
                io.Combo.Input(
                    "advice",
                    options=choices(),
                    tooltip=f"A file in models/{CATEGORY} or output/{CATEGORY}. It must be of the model and the "
                    "sampler that you draw with: their reports say so.",
                ),
                types.Linkage.Input("linkage", tooltip="From Ward Linkage: the tree of the prompts to be drawn."),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, advice: str) -> bool | str:
        """Whether there is such a file, and it holds advice."""
        try:
            if advice is not None:  # linked: not known yet
                load_advice(advice)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, advice: str, **others: Any) -> Any:
        """Other for another content of the file."""
        # text: the host keeps it in the prompt, which it saves as JSON
        return hashlib.sha256(advice_file(advice).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, advice: str, linkage: PromptTree) -> io.NodeOutput:
        """Plan the set."""
        plan, found, report, _, ui = shown(cls, load_advice(advice), linkage)
        return io.NodeOutput(plan, found, report, ui=ui)


def choices() -> list[str]:
    """Choices of Load Advice: the host refuses a combo without any."""
    return files_of(CATEGORY) or [NOTHING]


def advice_file(name: str) -> Path:
    """Path of a choice of Load Advice.

    Raises
    ------
    ValueError
        If there is none; it says how to make one.
    """
    return file_of(CATEGORY, name, "advice", "What Pays Here?")


def load_advice(name: str) -> Advice:
    """The `Advice` of a choice; errors name the choice, not where it lies on the disk."""
    return content_of(advice_file(name), name, read_advice)


# --- saved, and found again


def key_of(workbench: Workbench, goal: str, value: float, measure: str) -> str:
    """What tells advice from other advice: model, settings, and what was asked."""
    settings = sorted((name, str(own)) for name, own in workbench.settings.items())
    asked = [workbench.fingerprint, settings, goal, float(value), measure, *workbench.caches]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:KEY_DIGITS]


def new_file(name: str, key: str) -> Path | None:
    """Path that advice is to be saved under, or None for an empty name.

    Raises
    ------
    ValueError
        Before compute is spent: if the name is no plain one, or the disk does not take such a file.
    """

    def path_for(name: str) -> Path:
        path = Path(output_folder()) / CATEGORY / f"{name}_{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    return place_for(CATEGORY, name, path_for)


def found_again(workbench: Workbench, goal: str, value: float, measure: str) -> tuple[str, Advice] | None:
    """Name and content of saved advice for this model, its settings and what is asked, of as many prompts at least."""
    ending = f"_{key_of(workbench, goal, value, measure)}.json"
    for name, advice in readable(name for name in files_of(CATEGORY) if name.endswith(ending)):
        same = (advice.goal, advice.value, advice.measure) == (goal, float(value), measure)
        known = advice.model == workbench.fingerprint and dict(advice.settings) == dict(workbench.settings)
        if same and known and advice.samples >= workbench.tree.num_distinct:
            return name, advice
    return None


def readable(names: Iterator[str]) -> Iterator[tuple[str, Advice]]:
    """Files that hold advice; damaged ones are passed over: it is measured again then."""
    for name in names:
        try:
            yield name, load_advice(name)
        except ValueError:
            continue


def trials_folder() -> Path:
    """Where each drawing of a measurement is kept."""
    return Path(output_folder()) / TRIALS


def saved(advice: Advice, path: Path) -> str:
    """Save, and say so; what was measured at such a cost is handed on even if it cannot be saved after all."""
    try:
        write_advice(advice, path)
        return f"saved as {path.name}; press R to see it in Load Advice"
    except OSError as error:
        return f"⚠ not saved ({error.strerror or error}): only connected nodes get the result, while ComfyUI runs"


# --- shown


def plan_of(advice: Advice, tree: PromptTree) -> Plan:
    """The advised plan for a set; it knows the step cache that it counts on."""
    plan = advice.plan_for(tree)
    if plan.advised is None or not advice.chosen.way.cache:
        return plan
    settings = {**plan.advised.settings, "cache": advice.chosen.way.cache}
    return replace(plan, advised=replace(plan.advised, settings=settings))


def settings_line(advice: Advice) -> str:
    """What it was measured with."""
    known = ", ".join(f"{name} {value}" for name, value in advice.settings.items() if value != "")
    return f"measured with: {known}"


def shown(cls: Any, advice: Advice, linkage: PromptTree, *lines: str) -> tuple[Plan, Advice, str, Any, dict]:
    """Plan, advice, report, plot and what the page shows, of any node with advice; `lines` end the report."""
    plan, decorations = plan_of(advice, linkage), Decorations()
    cache = advice.chosen.way.cache
    needs = [f"⚠ the plan counts on {cache}: put that node, as it is, on the model that draws"] if cache else []
    visible = ["⚠ what is advised loses something that can be seen"] if advice.verdict == "visible" else []
    report = "\n".join([*advice.sentences, *visible, *needs, settings_line(advice), *lines])
    picture = decorations.picture("the plot", lambda: draw_advice(**advice.chart()))
    return plan, advice, decorations.noted(report), picture, decorations.show(cls, report, picture)
