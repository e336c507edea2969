"""Saving Plan: one slider -> a plan, by what was measured for the model at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hierdiff_core.measure.marks import LAST, MARKS, advice_at, name_of, safe_way
from . import types
from .advice import CATEGORY, plan_of, readable
from .guider import cfg_input
from .host.decoration import Decorations
from .host.fingerprint import model_fingerprint
from .host.folders import files_of, path_of
from .host.measured import WORDS, about, said, size_of
from .host.noise_levels import levels_of_steps
from .host.results import headline
from .host.samplers import latents_for
from .host.samplers_by_name import sampler_names, scheduler_names
from .host.search import search_words
from .host.step_caches import host_cache

if TYPE_CHECKING:
    from ..hierdiff_core.measure.advice import Advice
    from ..hierdiff_core.plan.plan import Plan
    from ..hierdiff_core.plan.tree import PromptTree

MEASURED_BY = ("sampler", "scheduler", "steps", "cfg", "latent", "cache")  # of the settings of advice
NOT_MEASURED = "not measured for this model: run What Pays Here? (about {passes:,} passes)"


def saving_input() -> Any:
    """The slider."""
    return io.Float.Input(
        "saving",
        default=1.0,
        min=0.0,
        max=LAST,
        step=0.1,
        round=0.01,
        display_mode=io.NumberDisplay.slider,
        optional=True,
        tooltip="0: nothing is saved. 1, safe: no visible loss. 2, balanced: a slight loss. 3, draft: visible, but "
        "recognisable. By what was measured for this model; where nothing was, only the first steps are shared.",
    )


class SavingPlan(io.ComfyNode):
    """The slider for a graph of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffSavingPlan",
            display_name="Saving Plan",
            category="HierDiff",
            **search_words("one slider", "save compute", "speed up", "draft", "budget"),
            description="Plans a set by one slider: safe, balanced or draft, as it was measured for this model.",
            inputs=[
                io.Model.Input("model", tooltip="The model that draws, with its LoRAs and patches."),
                types.Linkage.Input("linkage", tooltip="From Ward Linkage: the tree of your prompts."),
                io.Latent.Input("latent_image", tooltip="The latent that the sampler gets."),
                io.Combo.Input("sampler_name", options=sampler_names(), tooltip="As you draw."),
                io.Combo.Input("scheduler", options=scheduler_names(), tooltip="As you draw."),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Steps of full sampling. The plan may need fewer."
                ),
                cfg_input(),
                saving_input(),
                types.Advice.Input(
                    "advice",
                    optional=True,
                    tooltip="From What Pays Here?. Without it, a saved result for this model and these settings is "
                    "looked for.",
                ),
            ],
            outputs=[
                types.Plan.Output(display_name="plan", tooltip="For Hierarchical KSampler and Share Steps."),
                io.String.Output(display_name="report", tooltip="What the position of the slider means here."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        """Other when advice has been saved or removed."""
        return saved_files()

    @classmethod
    def execute(
        cls,
        model: Any,
        linkage: PromptTree,
        latent_image: dict[str, Any],
        sampler_name: str,
        scheduler: str,
        steps: int,
        cfg: float,
        saving: float = 1.0,
        advice: Advice | None = None,
    ) -> io.NodeOutput:
        """Plan by what was measured, or by what is safe."""
        run = settings_of(model, latent_image, sampler_name, scheduler, steps, cfg)
        levels = levels_of_steps(model, steps, sampler_name, scheduler)
        known = found_for(model, run) if saving > 0 else []
        if advice is not None:
            advice.check_for(model_fingerprint(model), run)
            known = [advice, *known]
        if known:
            plan, lines = measured_plan(known, linkage, saving)
        else:
            plan, lines = safe_plan(linkage, levels.tolist(), saving, cfg != 1)
        headline(lines[0])
        decorations = Decorations()
        ui = decorations.show(cls, "\n".join(lines))
        return io.NodeOutput(plan, decorations.noted(lines[0]), ui=ui)  # the sampler says what is measured


def settings_of(
    model: Any, latent_image: Mapping[str, Any], sampler_name: str, scheduler: str, steps: int, cfg: float
) -> dict[str, Any]:
    """What advice must have been measured with to hold for a run."""
    latents = latents_for(model, latent_image["samples"][:1])
    carried = host_cache(model.model_options.get("transformer_options", {})) or ""
    values = (sampler_name, scheduler, steps, float(cfg), size_of(latents.shape), carried)
    return dict(zip(MEASURED_BY, values, strict=True))


def found_for(model: Any, settings: Mapping[str, Any]) -> list[Advice]:
    """Saved advice for a model and its settings: for other goals other ways were drawn. Of the most prompts alone."""
    fitting = [
        advice
        for _, advice in readable(iter(files_of(CATEGORY)))
        if all(said(advice.settings.get(key, "")) == said(value) for key, value in settings.items())
    ]
    if not fitting:
        return []
    fingerprint = model_fingerprint(model)
    own = [advice for advice in fitting if advice.model == fingerprint]
    return [advice for advice in own if advice.samples == max(other.samples for other in own)]


def measured_plan(known: list[Advice], tree: PromptTree, saving: float) -> tuple[Plan, list[str]]:
    """The plan of a position by what was measured, and what to say of it."""
    own = advice_at(known, saving, tree)
    if not own.met:
        unshared = f"all {own.full.way.steps} steps, unshared"
        why = "" if saving == 0 else "; nothing that was measured saves, and loses as little as this allows"
        return plan_of(own, tree), [f"{position(saving)}: {unshared}{why}"]
    first = own.sentences[0]
    measured = f"measured with {own.samples} prompts on this model: {WORDS[own.verdict]}"
    return plan_of(own, tree), [f"{position(saving)}: {first[:1].lower()}{first[1:]}", measured]


def safe_plan(tree: PromptTree, levels: list[float], saving: float, guided: bool) -> tuple[Plan, list[str]]:
    """The plan of a position where nothing was measured, and what to say of it."""
    way, steps = safe_way(levels, saving), len(levels)
    plan = replace(way.plan(tree), guidance=None)  # the sampler's own, throughout
    shared = sum(step.num_clusters < plan.num_distinct for step in plan.steps)
    if saving == 0:
        return plan, [f"{position(saving)}: all {steps} steps, unshared"]
    count = f"the first {shared} of {steps} steps are shared" if shared else f"none of {steps} steps is shared"
    lines = [f"{position(saving)}: {count}, down to noise level {way.trunk:.2g}"]
    if saving > 1:
        lines[0] += f"; more than {MARKS[0]} takes a measurement"
    return plan, [*lines, NOT_MEASURED.format(passes=about(steps, guided))]


def position(saving: float) -> str:
    """A position of the slider in words."""
    return f"saving {saving:g} ({name_of(saving)})"


# --- Saved advice


def saved_files() -> str:
    """Other whenever a file of advice is new, gone or changed."""
    known = [(name, changed(name)) for name in files_of(CATEGORY)]
    return hashlib.sha256(repr(sorted(known)).encode()).hexdigest()


def changed(name: str) -> int:
    """When a file of advice was last written; 0 for one that is gone."""
    path = path_of(CATEGORY, name)
    try:
        return Path(path).stat().st_mtime_ns if path else 0
    except OSError:
        return 0
