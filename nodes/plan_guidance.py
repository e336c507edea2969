"""Plan Guidance: where the runs of a plan are guided, and how much more after a split."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..hierdiff_core.plan.guidance import LARGEST_BOOST, GuidanceCourse
from . import types
from .host.plan_texts import course_lines, passes_line
from .host.search import search_words
from .host.ui import show

if TYPE_CHECKING:
    from ..hierdiff_core.plan.plan import Plan

AGAIN = "⚠ the plan had guidance of its own already: only these settings count; remove one of the two Plan Guidance"
COMPARE = "raised guidance helps some models and harms others: compare a few images with and without it"


class PlanGuidance(io.ComfyNode):
    """The node of `GuidanceCourse`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        share = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="HierDiffPlanGuidance",
            display_name="Plan Guidance",
            category="HierDiff",
            **search_words("cfg", "guidance interval", "save passes", "negative", "cfg boost"),
            description="Lets the runs of a plan take guidance (CFG) in a part of their steps only, and more of it "
            "after prompts part. All samplers of a plan obey.",
            inputs=[
                types.Plan.Input("plan", tooltip="From Threshold Schedule."),
                io.Float.Input(
                    "start",
                    display_name="guide from",
                    default=0.0,
                    tooltip="Share of the steps after which guidance starts. Steps without it have no negative pass, "
                    "and cost half as much.",
                    **share,
                ),
                io.Float.Input(
                    "end",
                    display_name="guide until",
                    default=1.0,
                    tooltip="Share of the steps after which guidance ends. The last steps have the most clusters, so "
                    "0.6 saves much. How far a model bears it, What Pays Here? measures.",
                    **share,
                ),
                io.Float.Input(
                    "boost",
                    default=1.0,
                    min=0.01,
                    max=LARGEST_BOOST,
                    step=0.05,
                    tooltip="Strength of guidance is multiplied by this after a split. 1: no change. It may mend "
                    "images of models that lay them out early, and harms others.",
                ),
                io.Int.Input(
                    "boost_steps",
                    display_name="boost steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="For how many steps, from the one in which a cluster splits. 0: never.",
                ),
                io.Float.Input(
                    "boost_above",
                    display_name="boost above",
                    default=0.0,
                    tooltip="Only while there is more noise than this: a noise level from 0 to 1. 0: no limit.",
                    **share,
                ),
            ],
            outputs=[
                types.Plan.Output(
                    display_name="plan", tooltip="For the samplers, Share Steps, Hierarchical Guider and Shared Noise."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, plan: Plan, start: float, end: float, boost: float, boost_steps: int, boost_above: float
    ) -> io.NodeOutput:
        """The plan with this guidance."""
        course = GuidanceCourse(start, end, boost, boost_steps, boost_above)
        text = "\n".join(described(plan, course))
        return io.NodeOutput(replace(plan, guidance=course, advised=None), ui=show(cls, text))


def described(plan: Plan, course: GuidanceCourse) -> list[str]:
    """What the guidance does to the runs of a plan, and what it costs, in lines."""
    lines = [
        passes_line(course.passes(plan), 2 * plan.nfe_standard),
        f"without this node: {2 * plan.nfe}; a pass is one latent evaluated once, with the prompt or the negative",
        *(course_lines(course, plan.num_steps) or ["guidance in all steps, as without this node"]),
        *raised_rows(plan, course),
    ]
    if (course.boost != 1) != (course.boost_steps > 0):
        lines.append("⚠ boost changes nothing: it needs a factor other than 1, and boost steps above 0")
    if plan.guidance is not None:
        lines.append(AGAIN)
    return lines


def raised_rows(plan: Plan, course: GuidanceCourse) -> list[str]:
    """Lines on how much a boost applies to."""
    if not course.boosts:
        return []
    factors = replace(course, boost_above=0.0).factors(plan)
    raised = sum(int((own == course.boost).sum()) for own in factors)
    most = "at most " if course.boost_above else ""
    return [f"{most}{raised} of {plan.nfe} rows have the raised strength", COMPARE]
